//! AuthCache: who is calling.
//!
//! One actor on each worker thread, asked by that thread's handlers through [`AuthHandle`]. A bearer token is an API key
//! (`hne_…`) or a JWT. What is known of it comes from the first of three places that knows: this worker's memory, the
//! shared cache (Redis), the store. The memory is the actor's, but its thread's handle looks into it before it asks: a
//! message would have the connection's task leave and come back for what is known already.
//!
//! # Invariants
//! - Tokens are known by the SHA-256 of the whole token, never by a prefix (CVE-2026-35030).
//! - An entry lives no longer than its token and at most 600 s, by the monotonic and by the wall clock.
//! - A change in the store holds for every request that comes after the poll that brought it: each question first
//!   compares one number with the [`Feed`] and catches up. Time-outs of caches never decide a revocation.
//! - The shared cache is believed only while the feed is fresh, and only where the feed knows of no later change. When the
//!   store is away, what this worker remembers goes on being served; the rest is [`AuthError::Unavailable`].
//! - What is unknown is looked up in the store before it is refused; a refusal is remembered for 500 ms.
//! - Questions about one token share one flight, and flights for one user one look-up. A flight belongs to the actor: a
//!   handler that goes away takes nothing from those who still wait, and a flight that panics answers `Unavailable`.
//!
//! # Limits
//! `cache_entries` tokens and as many users; 4,096 refusals; 4,096 flights; 4,096 waiters for each; 4,096 keys whose
//! use is to be noted; tokens of 16 KiB. Beyond: second-chance eviction for the caches, `Unavailable` for flights and
//! waiters, a later note for keys, `Invalid` for longer tokens.

mod cache;
mod lookup;
mod memory;
mod roll;
mod table;
mod touches;

use std::{cell::RefCell, rc::Rc, sync::Arc};

use actix::{Actor, Addr, MailboxError};
use serde::Deserialize;

pub use crate::complaints::Complaints;
use crate::{
    domain::{Caller, ErrorCode, TokenHash},
    metrics::{AuthLevel, Metrics},
    mutants::{self, Mutant},
    ports::{Clock, Directory, SharedCache, TokenVerifier},
    registry::Feed,
};
use cache::{AuthCache, Resolve};
use memory::Memory;
pub use roll::Roll;

/// The longest token that is looked at: twice what common servers take for all headers together.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// How callers are verified and cached: `[auth]`, as far as the actor is concerned.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What happens to a valid token whose user is unknown.
    pub provision: Provision,
    /// The most tokens, and the most users, that each worker remembers.
    pub cache_entries: usize,
}

/// What happens to a valid token whose user is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provision {
    /// The user is added, with the token's plan or else the default one.
    DefaultPlan,
    /// The token is refused.
    Reject,
}

/// Why a caller is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No token or key of ours, or of an unknown user.
    #[error("the token is not valid")]
    Invalid,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It was revoked.
    #[error("the token was revoked")]
    Revoked,
    /// Its user is disabled.
    #[error("the user is disabled")]
    Disabled,
    /// Nobody who would know can be asked now.
    #[error("the token can't be verified now")]
    Unavailable,
}

impl AuthError {
    /// Returns the code that the caller is told.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Invalid | Self::Revoked | Self::Disabled => ErrorCode::InvalidApiKey,
            Self::Expired => ErrorCode::TokenExpired,
            Self::Unavailable => ErrorCode::QuotaUnavailable,
        }
    }
}

/// The answer to the question who is calling.
pub type Answer = Result<Arc<Caller>, AuthError>;

/// What the actor asks.
#[derive(Clone)]
pub struct Ports {
    /// Checks JWTs.
    pub verifier: Arc<dyn TokenVerifier>,
    /// Redis, or nothing.
    pub cache: Arc<dyn SharedCache>,
    /// The store.
    pub directory: Arc<dyn Directory>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What was changed: the registry's.
    pub feed: Arc<Feed>,
    /// What is counted.
    pub metrics: Metrics,
    /// Where each AuthCache enters itself, to be found at the end.
    pub roll: Roll,
    /// What the log was told of look-ups that failed.
    pub complaints: Complaints,
}

/// Asks this thread's AuthCache. Not `Send`: a question to another thread costs milliseconds at p99.9.
#[derive(Clone)]
pub struct AuthHandle(Rc<Seat>);

/// Where the actor sits, and what its successor needs if a defect kills it.
struct Seat {
    config: Config,
    ports: Ports,
    addr: RefCell<Addr<AuthCache>>,
    memory: RefCell<Rc<RefCell<Memory>>>,
}

/// Starts an actor that knows nothing yet.
fn start(config: &Config, ports: &Ports) -> (Addr<AuthCache>, Rc<RefCell<Memory>>) {
    let memory = Rc::new(RefCell::new(Memory::new(config.cache_entries, ports.feed.reader())));
    let addr = AuthCache::new(config, ports.clone(), Rc::clone(&memory)).start();
    ports.roll.enter(&addr);
    (addr, memory)
}

impl AuthHandle {
    /// Starts the actor on the current thread's arbiter.
    #[must_use]
    pub fn start(config: Config, ports: Ports) -> Self {
        let (addr, memory) = start(&config, &ports);
        Self(Rc::new(Seat { config, ports, addr: RefCell::new(addr), memory: RefCell::new(memory) }))
    }

    /// Says whose token this is: the text after `Bearer `.
    ///
    /// About 0.5 µs where the token is remembered; else a signature check, and for an unknown user one look-up.
    ///
    /// # Errors
    /// [`AuthError`].
    ///
    /// # Cancel safety
    /// May be dropped at any point; what it had started goes on for the others who wait for it.
    pub async fn ask_caller(&self, token: &str) -> Answer {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid);
        }
        if mutants::is(Mutant::NoAuth)
            && let Some(caller) = self.0.memory.borrow().borrow().anybody()
        {
            return Ok(caller);
        }
        let hash = TokenHash::of(token);
        if let Some(caller) = self.recall(&hash) {
            return Ok(caller);
        }
        // If a defect has killed the actor, its successor is asked once.
        for _ in 0..2 {
            let request = self.0.addr.borrow().send(Resolve { hash, token: Box::from(token) });
            match request.await {
                Ok(answer) => return answer,
                Err(MailboxError::Closed | MailboxError::Timeout) => self.replace_if_dead(),
            }
        }
        Err(AuthError::Unavailable)
    }

    /// Finds a caller that is remembered, without asking.
    fn recall(&self, hash: &TokenHash) -> Option<Arc<Caller>> {
        let Ports { clock, metrics, .. } = &self.0.ports;
        let (now, wall) = clock.both();
        let memory = self.0.memory.borrow();
        let caller = memory.borrow_mut().recall(hash, now, wall)?;
        metrics.auth_looked_up(AuthLevel::Memory);
        Some(caller)
    }

    fn replace_if_dead(&self) {
        let dead = !self.0.addr.borrow().connected();
        if dead {
            tracing::error!("the auth cache died of a defect and is replaced by an empty one");
            let (addr, memory) = start(&self.0.config, &self.0.ports);
            self.0.addr.replace(addr);
            self.0.memory.replace(memory);
        }
    }
}

#[cfg(test)]
mod tests;
