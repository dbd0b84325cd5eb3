//! The states that the store has passed through, as far back as it is known what came after each.

use std::collections::VecDeque;

use super::MAX_LOG;
use crate::domain::Position;

/// The most states that are remembered: 1.6 MB. More than changes in the log, because recalls count as well.
const MAX: usize = 10 * MAX_LOG;

/// In ascending order, without a gap between the first and the last.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Position>);

impl History {
    /// Adds the next state.
    pub(super) fn add(&mut self, position: Position) {
        if self.0.len() >= MAX {
            self.0.pop_front();
        }
        self.0.push_back(position);
    }

    /// Forgets the states before this number's.
    pub(super) fn forget_before(&mut self, seq: i64) {
        let old = self.0.partition_point(|known| known.seq < seq);
        self.0.drain(..old);
    }

    /// Says whether the store was in this state. One whose time isn't known could be any.
    pub(super) fn has(&self, position: Position) -> bool {
        let place = self.0.binary_search_by_key(&position.seq, |known| known.seq).ok();
        position.at != 0 && place.and_then(|place| self.0.get(place)) == Some(&position)
    }
}
