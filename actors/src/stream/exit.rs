//! The one exit of a stream, and what it owes until then.
//!
//! Invariants:
//! - [`State::end`] settles the reservation and finishes the outcome, once; whatever comes later finds no ticket.
//! - What can't be settled isn't told to be complete: the client gets an error in place of the end.
//! - Where records are synced one by one, the end is handed over when its record is on the disk.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;

use super::{
    Failure,
    relay::{DONE, Phase, State},
    ticket::End,
};
use crate::{
    domain::{ErrorCode, Outcome},
    mutants::{self, Mutant},
    quota::{Cover, Lack},
};

/// How long after the client a mutant's journal knows of the end.
const A_MOMENT: Duration = Duration::from_millis(5);

/// Waits until a settlement is on the disk.
pub(super) type Syncing = Pin<Box<dyn Future<Output = bool>>>;

/// Whether the store was asked for more quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum More {
    /// It was not.
    Unasked,
    /// It hasn't answered yet.
    Asked,
    /// It has answered, or has not; `known` says whether this is all there is.
    Answered { known: bool },
}

impl State {
    /// The one exit: settles and finishes, once. `false`: it couldn't be settled.
    pub(super) fn end(&mut self, outcome: Outcome, code: Option<ErrorCode>) -> bool {
        let Some(ticket) = self.ticket.take() else { return true };
        let seen = self.answer.as_ref().unwrap_or(self.scanner.watched());
        self.metrics.stream_closed(seen.frames, self.sent_bytes);
        if let Some(answering) = self.answering.take()
            && matches!(outcome, Outcome::ProviderError | Outcome::Deadline)
        {
            answering.broke_off(Failure::new(code.unwrap_or(ErrorCode::ProviderError)), self.clock.now());
        }
        match ticket.settle(End { outcome, code, committed: self.committed }, seen, self.clock.wall()) {
            Ok(receipt) => {
                self.syncing = receipt.map(|receipt| Box::pin(receipt.synced()) as Syncing);
                true
            }
            Err(_unwritten) => false,
        }
    }

    /// A mutant: settles when the client has been told.
    fn end_later(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let end = End { outcome: Outcome::Completed, code: None, committed: self.committed };
        let (seen, at) = (*self.answer.as_ref().unwrap_or(self.scanner.watched()), self.clock.wall());
        // Never awaited: it is what must not be done.
        drop(actix_rt::spawn(async move {
            tokio::time::sleep(A_MOMENT).await;
            drop(ticket.settle(end, &seen, at));
        }));
    }

    /// Waits until the settlement is where it has to be; `false`: it never will be.
    pub(super) fn poll_synced(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(syncing) = &mut self.syncing else { return Poll::Ready(true) };
        let synced = std::task::ready!(syncing.as_mut().poll(cx));
        self.syncing = None;
        Poll::Ready(synced)
    }

    /// Ends the stream with a failure that the reader will see.
    pub(super) fn fail(&mut self, outcome: Outcome, failure: Failure) {
        if self.ticket.is_some() {
            self.end(outcome, Some(failure.code));
            self.phase = Phase::Failed(failure);
            self.wake();
        }
    }

    /// Ends a stream that is complete, with these last frames; the reader sees a failure where that can't be settled.
    pub(super) fn complete(&mut self, last: Bytes, after: Phase) {
        if mutants::is(Mutant::SettleAfterDone) {
            self.end_later();
        }
        if self.end(Outcome::Completed, None) {
            self.ready.push_back(last);
            self.phase = after;
        } else {
            self.phase = Phase::Failed(Failure::new(ErrorCode::LedgerUnavailable));
        }
    }

    /// Ends the stream because of its age, or because the process stops. A stream that has seen its `finish_reason` is
    /// complete.
    pub(super) fn expire(&mut self, outcome: Outcome, code: ErrorCode) {
        let seen = *self.scanner.watched();
        let begun = seen.data_frames > 0;
        if self.ticket.is_none() || matches!(self.phase, Phase::Answered(_)) {
            return;
        }
        self.release_pieces();
        if seen.is_complete() {
            self.complete(DONE, Phase::Over);
            return self.wake();
        } else if seen.failed && begun {
            self.end(Outcome::ProviderError, Some(ErrorCode::ProviderError));
        } else {
            let unanswered = outcome == Outcome::Deadline && !begun;
            return self.fail(if unanswered { Outcome::ProviderError } else { outcome }, Failure::new(code));
        }
        self.phase = Phase::Over;
        self.wake();
    }

    /// Makes sure that what was seen is promised; `false` where that is still being asked for.
    ///
    /// # Errors
    /// It is not: the quota is used up, or whether it is can't be found out.
    pub(super) fn cover(&mut self) -> Result<bool, Failure> {
        let seen = *self.scanner.watched();
        let cover = self.ticket.as_mut().map_or(Cover::Yes, |ticket| ticket.cover(&seen));
        match (cover, self.more) {
            (Cover::Yes, _) => self.more = More::Unasked,
            (Cover::Ask, More::Unasked) => {
                self.more = More::Asked;
                (self.short)();
            }
            (Cover::Ask, More::Asked) => {}
            (Cover::Ask, More::Answered { known: false }) => return Err(Failure::new(ErrorCode::QuotaUnavailable)),
            (Cover::Ask, More::Answered { known: true }) | (Cover::No, _) => {
                let shortage = self.ticket.as_ref().and_then(|ticket| ticket.reservation().shortage());
                return Err(Failure { shortage, ..Failure::new(ErrorCode::InsufficientQuota) });
            }
        }
        Ok(cover == Cover::Yes)
    }

    /// Returns what has to be asked for. To be followed by [`State::take_more`].
    pub(super) fn lack(&self) -> Option<Lack> {
        self.ticket.as_ref().map(|ticket| ticket.lack(self.scanner.watched()))
    }

    /// Goes on with what the store has lent; `known`: that is all there is.
    pub(super) fn take_more(&mut self, known: bool) {
        self.more = More::Answered { known };
        self.wake();
    }

    pub(super) fn break_off(&mut self, outcome: Outcome, failure: Failure) -> Poll<Option<Result<Bytes, Failure>>> {
        self.end(outcome, Some(failure.code));
        Poll::Ready(Some(Err(failure)))
    }
}
