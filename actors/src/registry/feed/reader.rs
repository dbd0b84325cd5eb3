//! Those who follow the feed.

use std::sync::Arc;

use super::Feed;
use crate::ports::Change;

/// What a reader has missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    Nothing,
    /// These, oldest first.
    Changes(Vec<Change>),
    /// More than is remembered: whatever was cached is worth nothing.
    Everything,
}

/// One cache's place in the feed.
#[derive(Debug)]
pub struct Reader {
    pub(super) feed: Arc<Feed>,
    pub(super) seen: u64,
}

impl Reader {
    /// Returns what was written since the last call. One atomic load where that is nothing.
    #[inline]
    pub fn news(&mut self) -> News {
        if self.feed.edition() == self.seen { News::Nothing } else { self.catch_up() }
    }

    #[cold]
    fn catch_up(&mut self) -> News {
        let recent = self.feed.read();
        let seen = std::mem::replace(&mut self.seen, recent.next);
        let Some(known) = seen.checked_sub(recent.first).and_then(|known| usize::try_from(known).ok()) else {
            return News::Everything;
        };
        News::Changes(recent.log.iter().skip(known).map(|logged| logged.change.clone()).collect())
    }
}
