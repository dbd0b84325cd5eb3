//! A flight: the exchanges of one batch after the other, until nothing is queued.

use super::Exchange;
use crate::{lock::lock, quota::accounts::Accounts};

/// Who makes exchanges. Where it is given up, whoever waits is told so, what it was about can be asked again, and the next
/// request flies.
pub(super) struct Flight<'a> {
    accounts: &'a Accounts,
    pub(super) batch: Vec<Exchange>,
    landed: bool,
}

impl<'a> Flight<'a> {
    pub(super) fn of(accounts: &'a Accounts) -> Self {
        Self { accounts, batch: Vec::new(), landed: false }
    }

    /// Ends it: whatever is queued by now belongs to the next one.
    pub(super) fn land(mut self) {
        self.landed = true;
        self.accounts.landed.notify_waiters();
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if self.landed {
            return;
        }
        let mut queue = lock(&self.accounts.queue);
        queue.flying = false;
        let needs = std::mem::take(&mut queue.needs);
        drop(queue);
        let asked = self.batch.drain(..).map(|exchange| (exchange.ask.key, exchange.user));
        for (key, user) in asked.chain(needs.into_iter().map(|(key, need)| (key, need.user))) {
            if let Some(user) = user
                && let Some(held) = lock(&user.counts).held(key.account.class, key.window)
            {
                held.unanswered();
            }
        }
        self.accounts.landed.notify_waiters();
    }
}
