//! Footing: whether the store still has all that this process has brought into it.
//!
//! A store that is put back to an earlier state knows neither what was used since nor what was lent. The ledger applies
//! its journals again; until then there seems to be more left of a limit than there is.
//!
//! Invariants:
//! - What the store has lent counts only if, after that, it had all that this process has ever brought into it.
//! - Where it hadn't, all leases are forgotten, and nothing is exchanged until all that was settled before is applied.
//!
//! Limits: of the journals that this process has closed, the last [`CLOSED`] are looked after. What others have to apply
//! again isn't known here. Each looks after an exchange, with a batch and at a heartbeat (5 s); until they are done, what
//! they had used may be lent once more, as may what was promised to requests that ran when it was put back.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use uuid::Uuid;

use super::accounts::Accounts;
use crate::{
    lock::lock,
    ports::{CursorMove, LeaseAnswer, LeaseAsk, StoreError},
};

/// How many closed journals are looked after: those of a process that a crash has left, and of disks that failed since.
const CLOSED: usize = 256;

/// What is known of the store.
#[derive(Debug, Default)]
pub(super) struct Footing {
    brought: Mutex<Brought>,
    /// Counts how often it was lost and regained: odd while it is lost.
    turns: AtomicU64,
}

/// How far the store was brought.
#[derive(Debug, Default)]
struct Brought {
    /// In each journal that isn't closed.
    open: BTreeMap<Uuid, u64>,
    /// In those that were closed last: an earlier state of the store has them open.
    closed: VecDeque<(Uuid, u64)>,
}

impl Footing {
    /// Returns how often it has changed; an error while it is lost.
    fn turn(&self) -> Result<u64, StoreError> {
        let turn = self.turns.load(Ordering::Acquire);
        let firm = turn.is_multiple_of(2);
        firm.then_some(turn).ok_or_else(|| StoreError::Unavailable("it was put back to an earlier state".into()))
    }
}

impl Accounts {
    /// Notes how far the store was brought.
    pub(crate) fn post_brought(&self, steps: &[CursorMove]) {
        let Brought { open, closed } = &mut *lock(&self.footing.brought);
        for step in steps {
            if step.closes {
                open.remove(&step.journal);
                closed.push_back((step.journal, step.to));
                closed.drain(..closed.len().saturating_sub(CLOSED));
            } else {
                let end = open.entry(step.journal).or_default();
                *end = step.to.max(*end);
            }
        }
    }

    /// Takes back and lends, where the store has its footing before and after.
    pub(super) async fn exchange(&self, asks: &[LeaseAsk]) -> Result<Vec<LeaseAnswer>, StoreError> {
        let turn = self.footing.turn()?;
        let answers = self.store.exchange(self.instance, asks).await?;
        self.look_back().await?;
        // It may have been lost and regained meanwhile.
        if self.footing.turn()? == turn { Ok(answers) } else { Err(StoreError::Unavailable("it was put back".into())) }
    }

    /// Looks whether the store has all that was brought into it; else the footing is lost.
    ///
    /// # Errors
    /// It hasn't, or can't say.
    pub(crate) async fn look_back(&self) -> Result<(), StoreError> {
        self.footing.turn()?;
        let (journals, ends): (Vec<_>, Vec<_>) = {
            let Brought { open, closed } = &*lock(&self.footing.brought);
            open.iter().map(|(journal, end)| (*journal, *end)).chain(closed.iter().copied()).unzip()
        };
        if journals.is_empty() {
            return Ok(());
        }
        let cursors = self.store.cursors(&journals).await?;
        if cursors.iter().zip(ends).any(|(cursor, end)| cursor.applied < end && !cursor.closed) {
            self.lose_footing();
        }
        self.footing.turn().map(drop)
    }

    /// Says whether the store has to be brought again what it had.
    pub(crate) fn has_lost_footing(&self) -> bool {
        self.footing.turn().is_err()
    }

    /// Exchanges nothing from now on, and forgets all that was lent. A closed journal that is still there is brought anew.
    pub(crate) fn lose_footing(&self) {
        self.footing.turns.fetch_or(1, Ordering::AcqRel);
        lock(&self.footing.brought).closed.clear();
        self.forget_leases();
    }

    /// Exchanges again. Forgets what may have been lent in an exchange that was under way when the footing was lost.
    pub(crate) fn regain_footing(&self) {
        self.forget_leases();
        let lost = self.has_lost_footing();
        self.footing.turns.fetch_add(u64::from(lost), Ordering::AcqRel);
    }
}
