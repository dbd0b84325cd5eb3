//! What a running request owes: its reservation, its place, its record, and the rule by which it is charged.
//!
//! The rule is [`charge`]; the README's table of faults tells it from outside.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    sse::Watched,
    usage::{estimate_completion, estimate_prompt},
};
use crate::{
    domain::{Amounts, ErrorCode, Model, Outcome, Timestamp},
    ledger::{Receipt, Unwritten},
    outcome::RequestOutcome,
    quota::{Cover, Lack, Permit, Reservation, Settlement, Wish},
};

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    /// Why.
    pub(super) outcome: Outcome,
    /// What its client is told, if it isn't complete.
    pub(super) code: Option<ErrorCode>,
    /// Whether its client has the head of an answer. Otherwise it is told by a status, and may ask again.
    pub(super) committed: bool,
}

/// A running request's debts. Settled once, by the one exit of its stream.
pub struct Ticket {
    reservation: Reservation,
    _permit: Permit,
    outcome: RequestOutcome,
    model: Arc<Model>,
    message_bytes: u64,
    contacted_at: Option<Instant>,
    /// What providers took that were asked in vain.
    in_vain: Duration,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("outcome", &self.outcome).finish_non_exhaustive()
    }
}

impl Ticket {
    /// Makes a ticket of an admitted request; `message_bytes` is the size of its `messages`.
    #[must_use]
    pub fn new(
        outcome: RequestOutcome,
        (permit, reservation): (Permit, Reservation),
        model: Arc<Model>,
        message_bytes: u64,
    ) -> Self {
        Self {
            reservation,
            _permit: permit,
            outcome,
            model,
            message_bytes,
            contacted_at: None,
            in_vain: Duration::ZERO,
        }
    }

    /// Returns the record of the request.
    pub fn outcome(&mut self) -> &mut RequestOutcome {
        &mut self.outcome
    }

    /// Returns its reservation.
    pub fn reservation(&self) -> &Reservation {
        &self.reservation
    }

    /// Goes on with a fallback; what was reserved for the model before is released.
    pub(super) fn fall_back(&mut self, model: Arc<Model>, reservation: Reservation) {
        self.outcome.model = Some(model.id.clone());
        self.reservation = reservation;
        self.model = model;
    }

    /// Goes on with a fallback of the same class, within what is reserved; `None` where it has to be asked for anew.
    pub(super) fn exchange(&mut self, model: &Arc<Model>, wish: &Wish) -> Option<bool> {
        let fits = self.reservation.exchange(wish)?;
        if fits {
            self.outcome.model = Some(model.id.clone());
            self.model = Arc::clone(model);
        }
        Some(fits)
    }

    /// Notes that a provider is asked now.
    pub(super) fn contact(&mut self, now: Instant) {
        self.contacted_at = Some(now);
    }

    /// Notes that the provider was asked in vain.
    pub(super) fn contacted_in_vain(&mut self, now: Instant) {
        self.in_vain += self.since_contact(now);
    }

    fn since_contact(&self, now: Instant) -> Duration {
        self.contacted_at.map(|asked| now.saturating_duration_since(asked)).unwrap_or_default()
    }

    /// Notes how long it took to have a connection to the provider.
    pub(super) fn connected(&mut self, took: Duration) {
        self.outcome.timings.connect = Some(took);
    }

    /// Notes that the first frame, or the whole answer, is here.
    pub(super) fn first_frame(&mut self, now: Instant) {
        let ttft = now.saturating_duration_since(self.outcome.arrived_at());
        let providers = self.in_vain + self.since_contact(now);
        self.outcome.timings.ttft = Some(ttft);
        self.outcome.timings.overhead = Some(ttft.saturating_sub(providers));
    }

    /// Makes sure that what was seen so far is reserved, as far as there is room. Of a whole answer whose usage is known
    /// nothing is left to be cut off: it is charged as its provider says.
    pub(super) fn cover(&mut self, seen: &Watched) -> Cover {
        let cover = self.reservation.cover(completion(seen));
        if seen.is_complete() && seen.usage.is_some() { Cover::Yes } else { cover }
    }

    /// Returns what is lacking to go on.
    pub(super) fn lack(&self, seen: &Watched) -> Lack {
        self.reservation.lack(completion(seen))
    }

    /// Charges the request and finishes its record. The receipt, where there is one, is to be waited for before the end
    /// of the answer is handed over.
    pub(super) fn settle(self, end: End, seen: &Watched, at: Timestamp) -> Result<Option<Receipt>, Unwritten> {
        let End { outcome, code, .. } = end;
        let Some(_contacted) = self.contacted_at else {
            // No provider was asked: dropping the reservation releases it, and there is no row.
            self.outcome.finish(None, code, false);
            return Ok(None);
        };
        let Charge { amounts, estimated } = charge(end, seen, &self.model, self.message_bytes, &self.reservation);
        let settled = self.reservation.settle(Settlement { outcome, estimated, amounts, at });
        match settled {
            Ok(_) => self.outcome.finish(Some(outcome), code, estimated),
            Err(Unwritten) => {
                self.outcome.finish(Some(Outcome::Interrupted), Some(ErrorCode::LedgerUnavailable), false);
            }
        }
        settled
    }
}

/// Returns the completion so far: the provider's figure where it is the last word, else our estimate.
fn completion(seen: &Watched) -> i64 {
    let said = seen.usage.filter(|_| seen.is_complete());
    said.map_or_else(|| estimate_completion(seen.content_frames, seen.content_bytes), |said| said.completion_tokens)
        .into()
}

struct Charge {
    amounts: Amounts,
    estimated: bool,
}

fn charge(end: End, seen: &Watched, model: &Model, message_bytes: u64, reservation: &Reservation) -> Charge {
    let End { outcome, committed, .. } = end;
    let begun = seen.data_frames > 0;
    let free = match outcome {
        Outcome::Interrupted => true,
        Outcome::ProviderError => !begun,
        // It is answered 503, and a proxy asks another instance.
        Outcome::Shutdown => !committed,
        _ => false,
    };
    if free {
        return Charge { amounts: Amounts::ZERO, estimated: false };
    }
    let price = reservation.price();
    if let Some(usage) = seen.usage.filter(|_| outcome != Outcome::CutOff) {
        let (prompt, completion) = (i64::from(usage.prompt_tokens), i64::from(usage.completion_tokens));
        let cost = usage.cost.unwrap_or_else(|| price.of(prompt, completion));
        let amounts = Amounts { requests: 1, prompt_tokens: prompt, completion_tokens: completion, cost };
        return Charge { amounts, estimated: false };
    }
    let prompt = i64::from(estimate_prompt(message_bytes, model.context));
    let completion = if begun { completion(seen) } else { 0 };
    let amounts = match outcome {
        Outcome::CutOff => reservation.capped(prompt, completion),
        _ => Amounts {
            requests: 1,
            prompt_tokens: prompt,
            completion_tokens: completion,
            cost: price.of(prompt, completion),
        },
    };
    Charge { amounts, estimated: true }
}
