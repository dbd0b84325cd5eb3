//! What is applied again to a store that was put back, and what accounts are told of it.
//!
//! Invariant: accounts lose their footing before it is looked how far the journals go, and have it again only when all
//! up to there is applied: what was settled from leases that are forgotten has then left the store's leases.
//!
//! A journal that can't be read holds up this, too: what it owes isn't known.

use super::Flusher;
use crate::quota::Accounts;

/// How far that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replay {
    /// Nothing is to be applied again.
    None,
    /// The store seems to be put back.
    Noticed,
    /// Each journal is applied up to its `owed`.
    UnderWay,
}

impl Flusher {
    /// Tells accounts what was noticed, or notices what they have found. To be called after each flush.
    pub(crate) fn follow(&mut self, accounts: &Accounts) {
        match self.replay {
            // What has become of a batch is found out first.
            Replay::None if accounts.has_lost_footing() && self.flight.is_none() => {
                (self.replay, self.is_lost) = (Replay::Noticed, true);
            }
            Replay::Noticed => {
                accounts.lose_footing();
                self.owe();
            }
            Replay::UnderWay if self.has_replayed() => {
                self.replay = Replay::None;
                accounts.regain_footing();
            }
            Replay::None | Replay::UnderWay => {}
        }
    }

    /// Notes how far the journals go.
    fn owe(&mut self) {
        self.take_fresh();
        for tail in &mut self.tails {
            tail.owed = tail.live.as_ref().map_or(u64::MAX, |live| live.end());
        }
        self.replay = Replay::UnderWay;
    }

    /// Says whether they are applied so far. Those that nobody writes any more are gone then.
    fn has_replayed(&self) -> bool {
        !self.is_lost && self.flight.is_none() && self.tails.iter().all(|tail| tail.read >= tail.owed)
    }
}
