//! Which AuthCaches there are: they are asked across threads once, when the process ends.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use actix::{Addr, Recipient};
use futures_util::future::join_all;

use super::cache::{AuthCache, BringTouches};
use crate::lock::lock;

/// The AuthCaches of all workers.
#[derive(Clone, Default)]
pub struct Roll(Arc<Mutex<Vec<Recipient<BringTouches>>>>);

impl Roll {
    /// Adds a cache; those that are dead go.
    pub(super) fn enter(&self, cache: &Addr<AuthCache>) {
        let mut caches = lock(&self.0);
        caches.retain(Recipient::connected);
        caches.push(cache.clone().recipient());
    }

    /// Brings to the store at once when API keys were last used; gives up after `timeout`. To be called when nobody is
    /// let in any more, and before the workers stop.
    ///
    /// # Cancel safety
    /// May be dropped; what was not brought by then may be lost.
    pub async fn ask_touch(&self, timeout: Duration) {
        let caches = lock(&self.0).clone();
        let brought = join_all(caches.iter().map(|cache| cache.send(BringTouches)));
        if tokio::time::timeout(timeout, brought).await.is_err() {
            tracing::warn!("when API keys were last used could not be brought into the database");
        }
    }
}
