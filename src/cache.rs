//! SharedCache over Redis: what instances tell each other about callers. Never the authority.
//!
//! | key | value (JSON) | kept |
//! | --- | --- | --- |
//! | `user:auth:{userId}` | what the store knows of a user | 600 s |
//! | `key:auth:{sha256}` | what it knows of an API key | to the key's end, 600 s at most |
//! | `user:usage:{userId}` | a snapshot of usage, for readers elsewhere | 300 s |
//!
//! # Invariants
//! - No failure is anybody's but the cache's: each is a miss. What can't be read, or was written for another store, too.
//! - Who reads a user's or a key's copy has to judge it by the state of the store (`as_of`) that is part of it. A value
//!   without one, as former versions wrote it, can't be read. Nobody relies on the lifetimes: a server that stood still
//!   counts them from when it goes on.
//! - A call takes at most `timeout`. While there is no connection, or the breaker is open, it takes no time at all.
//! - The connection is made, watched and made again by a task on the I/O runtime, so that it outlives the workers and no
//!   request ever waits for it. The breaker opens after three failures in a row; that task looks after
//!   one second whether the server answers again: no request is the guinea pig.
//! - Writes go through a queue of `queue` entries. What doesn't fit is dropped and counted.
//! - No log line carries the URL: it holds the password.

mod entries;
mod link;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use actors::{
    domain::{CallerRecord, TokenHash, UserId},
    metrics::Metrics,
    ports::{Clock, KeyRecord, SharedCache, UsageSnapshot},
};
use futures_util::future::{BoxFuture, ready};
use secrecy::SecretString;
use serde::Deserialize;

use crate::values;

pub use entries::RedisCache;

/// Whether and how Redis is used: `[redis]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `redis://`, `rediss://` (TLS) or `unix://`; without one there is no shared cache.
    #[serde(deserialize_with = "values::secret")]
    pub url: Option<SecretString>,
    /// The certificate authorities to trust with `rediss://`, a PEM file; `None` = the public ones.
    #[serde(deserialize_with = "values::path")]
    pub ca_file: Option<PathBuf>,
    /// How long a call may take: 1 ms to 10 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The most writes that wait: 1 to 1,000,000. What doesn't fit is dropped.
    pub queue: usize,
    /// What every key begins with: nothing, unless several deployments, or tests, share a server.
    pub key_prefix: String,
}

/// Why the cache can't be opened: a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The URL is none of Redis.
    #[error("the Redis URL must begin with redis://, rediss:// or unix:// and name a server")]
    Url,
    /// The URL's path is no number.
    #[error("what follows the server in the Redis URL must be the number of a database, such as /0, or nothing")]
    DatabaseNumber,
    /// The file of certificates is none.
    #[error("the certificate authorities for Redis can't be read: {0}")]
    CaFile(io::Error),
    /// A file of certificates is of no use without TLS.
    #[error("certificate authorities are for URLs that begin with rediss://")]
    NoUseForCaFile,
    /// `main` must install rustls's crypto provider before anything speaks TLS.
    #[error("rediss:// needs a TLS provider, and none is installed")]
    NoTls,
}

/// Opens the configured cache; returns at once, whatever the server does.
///
/// `store` is the id of the store that the cached records are from: what was written for another is a miss. The
/// connection lives on `io`. For `rediss://`, rustls's crypto provider must have been installed.
///
/// # Errors
/// [`SetupError`].
pub fn open(
    config: &Config,
    store: &str,
    io: &tokio::runtime::Handle,
    clock: Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Arc<dyn SharedCache>, SetupError> {
    match &config.url {
        Some(url) => Ok(Arc::new(RedisCache::open(config, url, store, io, clock, metrics)?)),
        None => Ok(Arc::new(NoCache)),
    }
}

/// Checks everything that can be checked without connecting.
///
/// # Errors
/// [`SetupError`], but for [`SetupError::NoTls`]: the program installs TLS before it connects.
pub fn check(config: &Config) -> Result<(), SetupError> {
    let Some(url) = &config.url else { return Ok(()) };
    match entries::client(config, url) {
        Ok(_) | Err(SetupError::NoTls) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Asks the server for an answer, on a connection of its own. Where none is configured, there is nothing to ask.
///
/// # Errors
/// A sentence without the URL, which holds the password.
///
/// # Cancel safety
/// May be dropped at any point.
pub async fn ping(config: &Config) -> Result<(), String> {
    let Some(url) = &config.url else { return Ok(()) };
    let client = entries::client(config, url).map_err(|error| error.to_string())?;
    link::ping(&client).await.map_err(|error| complaint(&error))
}

/// Finds out whether the server lets the service do what it does: write and read keys of its kinds. They are deleted
/// again. Where no server is configured, there is nothing to find out.
///
/// # Errors
/// As [`ping`].
///
/// # Cancel safety
/// May be dropped at any point; a key may then live for 10 s.
pub async fn try_out(config: &Config) -> Result<(), String> {
    let Some(url) = &config.url else { return Ok(()) };
    let client = entries::client(config, url).map_err(|error| error.to_string())?;
    link::ping(&client).await.map_err(|error| complaint(&error))?;
    match link::try_out(&client, &entries::probes(&config.key_prefix)).await {
        Ok(true) => Ok(()),
        Ok(false) => Err("Redis doesn't give back what is written".to_owned()),
        Err(error) => Err(format!("Redis refuses what the service does ({})", link::said(&error))),
    }
}

/// Says why there was no answer, and what helps where the server's certificate is not trusted.
fn complaint(error: &redis::RedisError) -> String {
    let said = link::said(error);
    let hint = if said.contains("certificate") { "; redis.ca_file names the authorities to trust" } else { "" };
    format!("Redis gave no answer ({said}){hint}")
}

/// What there is without Redis: every look-up is a miss.
#[derive(Debug, Clone, Copy)]
pub struct NoCache;

impl SharedCache for NoCache {
    fn caller<'a>(&'a self, _: &'a UserId) -> BoxFuture<'a, Option<CallerRecord>> {
        Box::pin(ready(None))
    }

    fn post_caller(&self, _: &CallerRecord) {}

    fn key<'a>(&'a self, _: &'a TokenHash) -> BoxFuture<'a, Option<KeyRecord>> {
        Box::pin(ready(None))
    }

    fn post_key(&self, _: &TokenHash, _: &KeyRecord) {}

    fn post_usage(&self, _: &UserId, _: &UsageSnapshot<'_>) {}

    fn healthy(&self) -> Option<bool> {
        None
    }
}
