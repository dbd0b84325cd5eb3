//! What can go wrong with a port.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::watch;

use crate::ports::StoreError;

/// Counts a port's calls and makes them wait, fail or panic.
#[derive(Debug)]
pub struct Faults {
    calls: AtomicUsize,
    down: AtomicBool,
    defects: AtomicUsize,
    open: watch::Sender<bool>,
}

impl Default for Faults {
    fn default() -> Self {
        let (calls, down, defects) = Default::default();
        Self { calls, down, defects, open: watch::Sender::new(true) }
    }
}

impl Faults {
    /// Returns how many calls there were.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Makes every call fail, or none.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// Makes calls wait until [`Faults::release`].
    pub fn hold(&self) {
        self.open.send_replace(false);
    }

    /// Lets waiting calls go on.
    pub fn release(&self) {
        self.open.send_replace(true);
    }

    /// Makes the next call panic.
    pub fn break_next(&self) {
        self.defects.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until `calls` calls have come. For tests that must know that a call is under way.
    pub async fn reached(&self, calls: usize) {
        while self.calls() < calls {
            tokio::task::yield_now().await;
        }
    }

    /// Stands at the beginning of each of the port's calls.
    ///
    /// # Errors
    /// The port was set down.
    #[expect(clippy::panic, reason = "a defect on purpose")]
    pub(super) async fn pass(&self) -> Result<(), StoreError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let broken = self.defects.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if broken {
            panic!("a defect on purpose");
        }
        // The sender can't be gone: it is ours.
        drop(self.open.subscribe().wait_for(|open| *open).await);
        if self.down.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("set down by the test".to_owned()));
        }
        Ok(())
    }
}
