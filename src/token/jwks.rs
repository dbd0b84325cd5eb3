//! The signer's published keys (RFC 7517), by key id.
//!
//! An id that isn't known is asked for: by one flight in the process, at most each [`REFRESH_INTERVAL`]. A set older
//! than [`MAX_AGE`] is renewed by whoever comes next, so that a key the signer has withdrawn is not believed for ever;
//! while the signer can't be reached, the set there is goes on. A set without a usable key is taken for a mistake of the
//! signer's, but not for longer than [`MAX_AGE`]. The first set is asked for until it is here.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use actors::{
    metrics::{Metrics, Reload},
    ports::{Clock, TokenError},
};
use arc_swap::{ArcSwap, ArcSwapOption};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{Algorithm, Fetch, Published, SetupError};

/// The shortest time between two fetches.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// After this time a set is fetched again, also where nothing is missing from it.
const MAX_AGE: Duration = Duration::from_secs(600);
/// The most keys of a set; the rest is not looked at.
const MAX_KEYS: usize = 100;
/// RSA keys have 2,048 bits at least.
const MIN_MODULUS_BYTES: usize = 256;

/// The signer's keys and the way to them.
pub(super) struct Jwks {
    algorithm: Algorithm,
    url: Box<str>,
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    set: ArcSwap<KeySet>,
    /// Whether a set with a usable key has been here.
    served: AtomicBool,
    /// What was wrong at the last fetch.
    trouble: ArcSwapOption<String>,
    /// Held by the flight. A flight that is dropped counts as a failed one.
    last: Mutex<Option<Try>>,
}

struct Try {
    at: Instant,
    succeeded: bool,
}

/// The keys that can be used with the pinned algorithm.
#[derive(Default)]
struct KeySet {
    by_id: HashMap<String, Arc<DecodingKey>>,
    /// The only key, for tokens that name none.
    only: Option<Arc<DecodingKey>>,
    fetched_at: Option<Instant>,
}

impl Jwks {
    pub(super) fn new(
        algorithm: Algorithm,
        url: &str,
        fetch: Arc<dyn Fetch>,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Self, SetupError> {
        if !(url.starts_with("https://") || is_loopback(url)) {
            return Err(SetupError("the JWKS URL must be https: who can change the answer can sign tokens".to_owned()));
        }
        Ok(Self {
            algorithm,
            url: url.into(),
            fetch,
            clock,
            metrics: metrics.clone(),
            set: ArcSwap::default(),
            served: AtomicBool::new(false),
            trouble: ArcSwapOption::empty(),
            last: Mutex::new(None),
        })
    }

    /// Finds the key that a token names, or the only one where it names none.
    pub(super) async fn key(&self, id: Option<&str>) -> Result<Arc<DecodingKey>, TokenError> {
        if let Some(key) = self.known(id) {
            if !self.is_old() {
                return Ok(key);
            }
            // One renews; the others go on with what there is.
            if let Ok(mut last) = self.last.try_lock() {
                self.refresh(&mut last).await;
            }
            return self.known(id).ok_or(TokenError::Invalid);
        }
        let mut last = self.last.lock().await;
        if let Some(key) = self.known(id) {
            return Ok(key);
        }
        let asked = self.refresh(&mut last).await;
        self.known(id).ok_or(if asked { TokenError::Invalid } else { TokenError::KeysUnavailable })
    }

    pub(super) async fn warm_up(&self) {
        let mut last = self.last.lock().await;
        self.refresh(&mut last).await;
    }

    /// Fetches, at its pace, until a set with a usable key has been here.
    pub(super) async fn first(&self) {
        while !self.served.load(Ordering::Acquire) {
            tokio::time::sleep(REFRESH_INTERVAL).await;
            self.warm_up().await;
        }
    }

    pub(super) fn published(&self) -> Published {
        Published {
            usable: self.set.load().usable(),
            awaited: !self.served.load(Ordering::Acquire),
            trouble: self.trouble.load().as_deref().cloned(),
        }
    }

    fn known(&self, id: Option<&str>) -> Option<Arc<DecodingKey>> {
        let set = self.set.load();
        match id {
            Some(id) => set.by_id.get(id).cloned(),
            None => set.only.clone(),
        }
    }

    fn is_old(&self) -> bool {
        let fetched_at = self.set.load().fetched_at;
        fetched_at.is_none_or(|at| self.clock.now().saturating_duration_since(at) >= MAX_AGE)
    }

    /// Says whether the set there is will not be old before the next fetch may be.
    fn holds_until_next(&self, now: Instant) -> bool {
        let fetched_at = self.set.load().fetched_at;
        fetched_at.is_some_and(|at| now.saturating_duration_since(at) + REFRESH_INTERVAL <= MAX_AGE)
    }

    /// Fetches the set, unless that was tried just now. Returns whether the last try succeeded.
    async fn refresh(&self, last: &mut Option<Try>) -> bool {
        let now = self.clock.now();
        if let Some(last) = last.as_ref().filter(|last| now.saturating_duration_since(last.at) < REFRESH_INTERVAL) {
            return last.succeeded;
        }
        *last = Some(Try { at: now, succeeded: false });
        let fetched = self.fetch(now).await;
        let succeeded = fetched.is_ok();
        self.metrics.reloaded(Reload::Keys, succeeded);
        let trouble = match fetched {
            Ok(set) => {
                let usable = set.usable() > 0;
                if usable || !self.holds_until_next(now) {
                    self.set.store(Arc::new(set));
                }
                self.served.fetch_or(usable, Ordering::AcqRel);
                (!usable).then(|| format!("none of the published keys is for {}", self.algorithm.as_str()))
            }
            Err(trouble) => Some(trouble),
        };
        if let Some(trouble) = &trouble {
            tracing::warn!(trouble, "the signing keys can't be renewed");
        }
        self.trouble.store(trouble.map(Arc::new));
        *last = Some(Try { at: now, succeeded });
        succeeded
    }

    /// Fetches the set.
    async fn fetch(&self, now: Instant) -> Result<KeySet, String> {
        let document = self.fetch.fetch(&self.url).await.map_err(|error| error.to_string())?;
        KeySet::read(&document, self.algorithm, now).ok_or_else(|| "the answer is no key set".to_owned())
    }
}

impl KeySet {
    /// Reads a document; keys that are strange or for something else are left out.
    fn read(document: &[u8], algorithm: Algorithm, now: Instant) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<serde_json::Value>,
        }
        let document: Document = serde_json::from_slice(document).ok()?;
        let mut set = Self { fetched_at: Some(now), ..Self::default() };
        let mut usable = 0;
        for key in document.keys.into_iter().take(MAX_KEYS) {
            let Some(jwk) = serde_json::from_value::<Jwk>(key).ok() else { continue };
            let Some(key) = key_for(&jwk, algorithm) else { continue };
            let key = Arc::new(key);
            usable += 1;
            set.only = (usable == 1).then(|| Arc::clone(&key));
            if let Some(id) = jwk.common.key_id {
                set.by_id.entry(id).or_insert(key);
            }
        }
        Some(set)
    }

    /// Returns how many keys a token can be checked with.
    fn usable(&self) -> usize {
        if self.only.is_some() { 1 } else { self.by_id.len() }
    }
}

/// Makes a key of a JWK, if it is one for checking signatures of this algorithm.
fn key_for(jwk: &Jwk, algorithm: Algorithm) -> Option<DecodingKey> {
    let common = &jwk.common;
    let for_signatures = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
    let for_checking = common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    let named = common.key_algorithm.map(|named| named.to_string());
    if !for_signatures || !for_checking || named.is_some_and(|named| named != algorithm.as_str()) {
        return None;
    }
    match (&jwk.algorithm, algorithm) {
        (AlgorithmParameters::RSA(rsa), Algorithm::Rs256) if length(&rsa.n)? >= MIN_MODULUS_BYTES => {
            DecodingKey::from_rsa_components(&rsa.n, &rsa.e).ok()
        }
        (AlgorithmParameters::EllipticCurve(ec), Algorithm::Es256)
            if ec.curve == EllipticCurve::P256 && (length(&ec.x)?, length(&ec.y)?) == (32, 32) =>
        {
            DecodingKey::from_ec_components(&ec.x, &ec.y).ok()
        }
        (AlgorithmParameters::OctetKeyPair(ed), Algorithm::EdDsa)
            if ed.curve == EllipticCurve::Ed25519 && length(&ed.x)? == 32 =>
        {
            DecodingKey::from_ed_components(&ed.x).ok()
        }
        _ => None,
    }
}

fn length(base64: &str) -> Option<usize> {
    URL_SAFE_NO_PAD.decode(base64).ok().map(|bytes| bytes.len())
}

fn is_loopback(url: &str) -> bool {
    let host = url.strip_prefix("http://").and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    ["127.0.0.1", "localhost", "[::1]"].contains(&name)
}
