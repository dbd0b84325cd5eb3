//! The cache's keys and values.

use std::{borrow::Cow, io, path::Path, sync::Arc, time::Duration};

use actors::{
    domain::{CallerRecord, TokenHash, UserId},
    metrics::{CacheCall, Metrics},
    ports::{Clock, KeyRecord, SharedCache, UsageSnapshot},
};
use futures_util::future::BoxFuture;
use redis::TlsCertificates;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{sync::mpsc, task::AbortHandle};
use uuid::Uuid;

use super::{Config, SetupError, link::Link};

/// How long `user:auth` and, at most, `key:auth` are kept.
const AUTH_LIFE: Duration = Duration::from_secs(600);
/// How long `user:usage` is kept.
const USAGE_LIFE: Duration = Duration::from_secs(300);
/// The most writes in one round trip.
const MAX_PIPELINE: usize = 64;

/// A shared cache in Redis.
pub struct RedisCache {
    link: Arc<Link>,
    writes: mpsc::Sender<Write>,
    metrics: Metrics,
    prefix: Box<str>,
    store: Box<str>,
    clock: Arc<dyn Clock>,
    tasks: [AbortHandle; 2],
}

/// Reads the URL and the file of certificates; connects nowhere.
pub(super) fn client(config: &Config, url: &SecretString) -> Result<redis::Client, SetupError> {
    // The library's own sentence could repeat the URL.
    let client = redis::Client::open(url.expose_secret()).map_err(|_may_repeat| unusable(url.expose_secret()))?;
    let tls = matches!(client.get_connection_info().addr(), redis::ConnectionAddr::TcpTls { .. });
    let client = match &config.ca_file {
        None => client,
        Some(_) if !tls => return Err(SetupError::NoUseForCaFile),
        Some(file) => {
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(certificates(file)?) };
            let trusting = redis::Client::build_with_tls(url.expose_secret(), certificates);
            trusting.map_err(|error| SetupError::CaFile(io::Error::other(error)))?
        }
    };
    if tls && rustls::crypto::CryptoProvider::get_default().is_none() {
        return Err(SetupError::NoTls);
    }
    Ok(client)
}

/// Says what is wrong with a URL that the library doesn't take.
fn unusable(url: &str) -> SetupError {
    let Some(url) = redis::parse_redis_url(url).filter(url::Url::has_host) else { return SetupError::Url };
    let path = url.path().trim_matches('/');
    if path.is_empty() || path.parse::<i64>().is_ok() { SetupError::Url } else { SetupError::DatabaseNumber }
}

/// Returns names of keys that nobody else has, of each kind that there is: what a server lets be read and written may
/// depend on how keys begin. No user's id has a space in it.
pub(super) fn probes(prefix: &str) -> [String; 3] {
    ["user:auth", "key:auth", "user:usage"].map(|kind| format!("{prefix}{kind}:probe {}", Uuid::new_v4()))
}

/// Reads a file of certificates. The library takes one without any for one that trusts nobody.
fn certificates(file: &Path) -> Result<Vec<u8>, SetupError> {
    let pem = std::fs::read(file).map_err(SetupError::CaFile)?;
    match CertificateDer::pem_slice_iter(&pem).next() {
        Some(Ok(_)) => Ok(pem),
        _ => Err(SetupError::CaFile(io::Error::other("there is no certificate in it"))),
    }
}

/// A value for a key, until its end.
struct Write {
    key: String,
    value: String,
    life: Duration,
}

/// The value of `user:auth`: the record, and the store that it is from.
#[derive(Serialize, Deserialize)]
struct CachedCaller<'a> {
    store: Cow<'a, str>,
    #[serde(flatten)]
    caller: Cow<'a, CallerRecord>,
}

/// The value of `key:auth`: the same of a key.
#[derive(Serialize, Deserialize)]
struct CachedKey<'a> {
    store: Cow<'a, str>,
    #[serde(flatten)]
    key: Cow<'a, KeyRecord>,
}

impl RedisCache {
    /// Opens a cache; see [`super::open`].
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn open(
        config: &Config,
        url: &SecretString,
        store: &str,
        io: &tokio::runtime::Handle,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Self, SetupError> {
        let client = client(config, url)?;
        let link = Arc::new(Link::new(config.timeout, metrics.clone()));
        let (writes, queue) = mpsc::channel(config.queue.max(1));
        // Both end with the cache, by its drop.
        let keeper = io.spawn(Arc::clone(&link).keep(client)).abort_handle();
        let writer = io.spawn(write(Arc::clone(&link), queue)).abort_handle();
        let (prefix, store) = (config.key_prefix.as_str().into(), store.into());
        Ok(Self { link, writes, metrics: metrics.clone(), prefix, store, clock, tasks: [keeper, writer] })
    }

    async fn get<T: DeserializeOwned>(&self, kind: &str, id: &str) -> Option<T> {
        let found = self.link.call(redis::cmd("GET").arg(self.name(kind, id))).await;
        let found = match found? {
            redis::Value::BulkString(json) => serde_json::from_slice(&json).ok(),
            _ => None,
        };
        self.metrics.cache_called(if found.is_some() { CacheCall::Ok } else { CacheCall::Miss });
        found
    }

    fn post(&self, kind: &str, id: &str, value: &impl Serialize, life: Duration) {
        let key = self.name(kind, id);
        let posted = serde_json::to_string(value).ok().map(|value| self.writes.try_send(Write { key, value, life }));
        if !matches!(posted, Some(Ok(()))) {
            self.metrics.cache_called(CacheCall::Full);
        }
    }

    fn name(&self, kind: &str, id: &str) -> String {
        format!("{}{kind}:{id}", self.prefix)
    }
}

impl SharedCache for RedisCache {
    fn caller<'a>(&'a self, user: &'a UserId) -> BoxFuture<'a, Option<CallerRecord>> {
        Box::pin(async move {
            let found: CachedCaller<'_> = self.get("user:auth", user.as_str()).await?;
            (found.store == *self.store && found.caller.id == *user).then(|| found.caller.into_owned())
        })
    }

    fn post_caller(&self, caller: &CallerRecord) {
        let value = CachedCaller { store: Cow::Borrowed(&self.store), caller: Cow::Borrowed(caller) };
        self.post("user:auth", caller.id.as_str(), &value, AUTH_LIFE);
    }

    fn key<'a>(&'a self, key: &'a TokenHash) -> BoxFuture<'a, Option<KeyRecord>> {
        Box::pin(async move {
            let found: CachedKey<'_> = self.get("key:auth", &key.to_hex()).await?;
            (found.store == *self.store).then(|| found.key.into_owned())
        })
    }

    fn post_key(&self, key: &TokenHash, record: &KeyRecord) {
        let life = record.expires_at.map_or(AUTH_LIFE, |end| end.since(self.clock.wall()).min(AUTH_LIFE));
        let value = CachedKey { store: Cow::Borrowed(&self.store), key: Cow::Borrowed(record) };
        // Redis takes whole seconds, and none that are zero.
        if life.as_secs() > 0 {
            self.post("key:auth", &key.to_hex(), &value, life);
        }
    }

    fn post_usage(&self, user: &UserId, snapshot: &UsageSnapshot<'_>) {
        self.post("user:usage", user.as_str(), snapshot, USAGE_LIFE);
    }

    fn healthy(&self) -> Option<bool> {
        Some(self.link.is_up())
    }
}

impl Drop for RedisCache {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Brings what was posted to the server, in as few round trips as there may be.
async fn write(link: Arc<Link>, mut queue: mpsc::Receiver<Write>) {
    let mut batch = Vec::with_capacity(MAX_PIPELINE);
    while queue.recv_many(&mut batch, MAX_PIPELINE).await > 0 {
        let mut pipeline = redis::pipe();
        for Write { key, value, life } in batch.drain(..) {
            pipeline.cmd("SET").arg(key).arg(value).arg("EX").arg(life.as_secs()).ignore();
        }
        link.call_all(&pipeline).await;
    }
}
