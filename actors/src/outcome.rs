//! RequestOutcome: the one record of a request, finished exactly once.
//!
//! Made when a request arrives; whoever ends the request finishes it, and then reports, metrics and the log have it. One
//! that is dropped (the client left before it was admitted) is finished as such.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    domain::{ErrorCode, Finished, ModelId, Outcome, RequestId, Timings, UserId},
    ports::Clock,
};

/// Who is told of every finished request: reports and metrics. Must not block.
pub type Audience = Arc<dyn Fn(&Finished) + Send + Sync>;

/// The record of a request that runs.
pub struct RequestOutcome {
    arrived: Instant,
    clock: Arc<dyn Clock>,
    audience: Audience,
    finished: bool,
    /// The label that the client sees.
    pub id: RequestId,
    /// The caller, once verified.
    pub user: Option<UserId>,
    /// Whether it is a repeat that has joined a running answer.
    pub joined: bool,
    /// The model that answers, or was asked for.
    pub model: Option<ModelId>,
    /// Where its time has gone so far.
    pub timings: Timings,
}

impl std::fmt::Debug for RequestOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestOutcome").field("id", &self.id).field("timings", &self.timings).finish_non_exhaustive()
    }
}

impl RequestOutcome {
    /// Starts the record of a request that arrives now.
    #[must_use]
    pub fn arrived(id: RequestId, clock: Arc<dyn Clock>, audience: Audience) -> Self {
        let timings = Timings::default();
        Self {
            arrived: clock.now(),
            clock,
            audience,
            finished: false,
            id,
            user: None,
            joined: false,
            model: None,
            timings,
        }
    }

    /// Returns how long ago the request arrived.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.arrived)
    }

    /// Returns when it arrived.
    #[must_use]
    pub fn arrived_at(&self) -> Instant {
        self.arrived
    }

    /// Ends a request that was refused: nothing is charged, no row is written.
    pub fn refuse(self, code: ErrorCode) {
        self.finish(None, Some(code), false);
    }

    /// Ends the request.
    pub fn finish(mut self, outcome: Option<Outcome>, code: Option<ErrorCode>, estimated: bool) {
        self.report(outcome, code, estimated);
    }

    fn report(&mut self, outcome: Option<Outcome>, code: Option<ErrorCode>, estimated: bool) {
        self.finished = true;
        self.timings.total = self.age();
        let finished = Finished { outcome, code, joined: self.joined, estimated, timings: self.timings };
        (self.audience)(&finished);
        let ms = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1_000.0);
        tracing::info!(
            target: "request",
            request_id = %self.id,
            user = self.user.as_ref().map(UserId::as_str),
            model = self.model.as_ref().map(ModelId::as_str),
            outcome = outcome.map(Outcome::as_str),
            joined = self.joined.then_some(true),
            code = code.map(ErrorCode::as_str),
            auth_ms = ms(self.timings.auth),
            quota_ms = ms(self.timings.quota),
            connect_ms = ms(self.timings.connect),
            ttft_ms = ms(self.timings.ttft),
            total_ms = ms(Some(self.timings.total)),
        );
    }
}

impl Drop for RequestOutcome {
    fn drop(&mut self) {
        if !self.finished {
            self.report(None, None, false);
        }
    }
}
