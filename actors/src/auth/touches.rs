//! When API keys were last used: collected here, brought to the store now and then, never on a request's way.

use std::{
    cell::Cell,
    collections::{HashMap, hash_map::Entry},
    time::Duration,
};

use crate::domain::{Timestamp, TokenHash};

/// How long uses are collected before they are brought to the store.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// The most keys in one round; others are noted at their first use in the next.
const MAX_KEYS: usize = 4_096;

/// The keys used since the last round. What a crash loses is at most one round of times of last use.
#[derive(Default)]
pub(super) struct Touches {
    round: u32,
    used: HashMap<TokenHash, Timestamp>,
    scheduled: bool,
}

/// The round in which a key's use was last noted, so that a key costs one comparison for each use and no more.
#[derive(Default)]
pub(super) struct Noted(Cell<Option<u32>>);

impl Touches {
    /// Says whether a key's use was noted in this round.
    pub(super) fn has(&self, noted: &Noted) -> bool {
        noted.0.get() == Some(self.round)
    }

    /// Notes that a key was used now. Returns whether a round has to be scheduled.
    pub(super) fn note(&mut self, key: TokenHash, noted: &Noted, now: Timestamp) -> bool {
        if self.has(noted) {
            return false;
        }
        if self.add(key, now) {
            noted.0.set(Some(self.round));
        }
        !std::mem::replace(&mut self.scheduled, true)
    }

    /// Takes what was collected; a new round begins.
    pub(super) fn take(&mut self) -> Vec<(TokenHash, Timestamp)> {
        self.round = self.round.wrapping_add(1);
        self.scheduled = false;
        self.used.drain().collect()
    }

    /// Takes back what could not be brought to the store. Returns whether a round has to be scheduled.
    pub(super) fn give_back(&mut self, used: Vec<(TokenHash, Timestamp)>) -> bool {
        for (key, at) in used {
            self.add(key, at);
        }
        !self.used.is_empty() && !std::mem::replace(&mut self.scheduled, true)
    }

    fn add(&mut self, key: TokenHash, at: Timestamp) -> bool {
        let full = self.used.len() >= MAX_KEYS;
        match self.used.entry(key) {
            Entry::Occupied(mut last) => {
                let latest = at.max(*last.get());
                last.insert(latest);
                true
            }
            Entry::Vacant(_) if full => false,
            Entry::Vacant(place) => {
                place.insert(at);
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_noted_once_in_each_round() {
        let (mut touches, noted, key) = (Touches::default(), Noted::default(), TokenHash([1; 32]));
        assert!(touches.note(key, &noted, Timestamp(1)));
        assert!(!touches.note(key, &noted, Timestamp(2)));
        assert_eq!(touches.take(), [(key, Timestamp(1))]);
        assert!(touches.note(key, &noted, Timestamp(3)));
        assert!(!touches.give_back(vec![(key, Timestamp(1))]), "a round is scheduled already");
        assert_eq!(touches.take(), [(key, Timestamp(3))]);
    }

    #[test]
    fn a_round_is_bounded() {
        let mut touches = Touches::default();
        for number in 0..5_000_u16 {
            let mut hash = [0; 32];
            hash[..2].copy_from_slice(&number.to_le_bytes());
            touches.note(TokenHash(hash), &Noted::default(), Timestamp(0));
        }
        assert_eq!(touches.take().len(), MAX_KEYS);
    }
}
