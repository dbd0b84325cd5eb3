//! Tokens: checking JWTs, issuing them, reading those that are to be revoked, making API keys.
//!
//! # Invariants
//! - The algorithm is pinned by configuration. A header's `alg` can only agree with it; `none`, another algorithm, and
//!   keys that come in the token (`jwk`, `jku`, `x5c`, `x5u`) are never used, `crit` is refused (RFC 7515, 4.1.11; RFC
//!   8725, 3.1).
//! - A key serves one family of algorithms: a public key can't be used as an HMAC secret.
//! - `exp` is required; `nbf` counts; `iss` and `aud` are required where configured. Leeway: [`LEEWAY`].
//! - No token, key or secret appears in an error or a log line.
//!
//! # Limits
//! A token has at most 16 KiB; a key set 1 MiB and 100 keys, fetched within 5 s by one flight and at most each 10 s.

mod claims;
mod fetch;
mod issue;
mod jwks;
mod keys;
mod revoke;

use std::{path::PathBuf, sync::Arc, time::Duration};

use actors::{
    auth::MAX_TOKEN_BYTES,
    domain::{Claims, Timestamp, TokenHash},
    metrics::Metrics,
    ports::{Clock, TokenError, TokenVerifier},
};
use futures_util::future::BoxFuture;
use jsonwebtoken::Validation;
use secrecy::SecretString;
use serde::Deserialize;

use crate::values;

pub use fetch::{AwcFetch, FETCH_TIMEOUT, Fetch, FetchError, MAX_FETCH_BYTES};
pub use issue::{ApiKey, IssueError, Issued, Issuer, end_of};
use jwks::Jwks;
use keys::Keys;
pub use revoke::Revocable;

/// By how much clocks may differ.
pub const LEEWAY: Duration = Duration::from_secs(30);
/// The last second of the year 9999, the last that RFC 3339 can tell. Later ends are milliseconds by mistake, or an
/// attempt at «for ever».
pub const LATEST_END: Timestamp = Timestamp(253_402_300_799_000_000);

/// Which tokens are believed: `[auth]`, as far as signatures and claims are concerned.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The only algorithm that tokens may be signed with.
    #[serde(rename = "jwt_algorithm")]
    pub algorithm: Algorithm,
    /// The secret of HS256. In development there is none until one was made.
    #[serde(rename = "jwt_secret", deserialize_with = "values::secret")]
    pub secret: Option<SecretString>,
    /// A PEM file with the signer's public key, for the other algorithms.
    #[serde(rename = "jwt_public_key_file", deserialize_with = "values::path")]
    pub public_key_file: Option<PathBuf>,
    /// Where the signer publishes its public keys, instead of a file. Its query is shown to nobody.
    #[serde(rename = "jwt_jwks_url", deserialize_with = "values::secret")]
    pub jwks_url: Option<SecretString>,
    /// What `iss` must be.
    #[serde(rename = "jwt_issuer", deserialize_with = "values::text")]
    pub issuer: Option<String>,
    /// What `aud` must be or contain.
    #[serde(rename = "jwt_audience", deserialize_with = "values::text")]
    pub audience: Option<String>,
    /// Whether `role` counts also where the signer holds no secret of ours.
    pub trust_role_claim: bool,
}

/// What tokens are signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Algorithm {
    /// HMAC with SHA-256 and a shared secret.
    #[default]
    #[serde(rename = "HS256")]
    Hs256,
    /// RSA PKCS #1 v1.5 with SHA-256, 2,048 bits at least.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Algorithm {
    /// Returns the name, as headers and configuration spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    fn of_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

/// Why tokens can't be checked or issued with this configuration: a sentence for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SetupError(pub(crate) String);

/// How the signer's published keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// How many can be used now.
    pub usable: usize,
    /// Whether none that can be used has been here yet: until then nobody's token can be checked.
    pub awaited: bool,
    /// What was wrong at the last fetch, if anything.
    pub trouble: Option<String>,
}

/// Checks JWTs. One in the process.
pub struct Verifier {
    keys: Keys,
    validation: Validation,
    trust_role: bool,
    clock: Arc<dyn Clock>,
}

impl Verifier {
    /// Makes a verifier; reads the PEM file, fetches nothing yet.
    ///
    /// # Errors
    /// [`SetupError`] where the algorithm and the keys don't fit together.
    pub fn new(
        config: &Config,
        fetch: Arc<dyn Fetch>,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Self, SetupError> {
        Ok(Self {
            keys: Keys::new(config, fetch, Arc::clone(&clock), metrics)?,
            validation: validation(config),
            trust_role: config.trust_role_claim || config.algorithm == Algorithm::Hs256,
            clock,
        })
    }

    /// Fetches the key set, where there is one, so that the first caller needn't wait for it. A failure is logged; the
    /// keys are then fetched when they are needed.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub async fn warm_up(&self) {
        if let Keys::Set(set) = &self.keys {
            set.warm_up().await;
        }
    }

    /// Fetches the key set each 10 s until a key that can be used has been here; returns at once where there is no set to
    /// fetch.
    ///
    /// # Cancel safety
    /// May be dropped at any point.
    pub async fn first_keys(&self) {
        if let Keys::Set(set) = &self.keys {
            set.first().await;
        }
    }

    /// Says how the published keys are; `None` where the key is a configured one.
    #[must_use]
    pub fn published(&self) -> Option<Published> {
        match &self.keys {
            Keys::Set(set) => Some(set.published()),
            Keys::Fixed(_) => None,
        }
    }

    async fn check(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid);
        }
        let key = match &self.keys {
            Keys::Fixed(key) => Arc::clone(key),
            Keys::Set(set) => self.key_of(set, token).await?,
        };
        let token = jsonwebtoken::decode::<claims::Raw>(token, &key, &self.validation);
        // What exactly was wrong with a token is of use only to whoever made it up.
        let token = token.or(Err(TokenError::Invalid))?;
        if token.header.crit.is_some() {
            return Err(TokenError::Invalid);
        }
        token.claims.check(self.clock.wall(), self.trust_role)
    }

    async fn key_of(&self, set: &Jwks, token: &str) -> Result<Arc<jsonwebtoken::DecodingKey>, TokenError> {
        let header = jsonwebtoken::decode_header(token).or(Err(TokenError::Invalid))?;
        // Refused before anything is fetched for it.
        if !self.validation.algorithms.contains(&header.alg) || header.crit.is_some() {
            return Err(TokenError::Invalid);
        }
        set.key(header.kid.as_deref()).await
    }
}

/// Says what the library is to check. Times are checked here, by the service's clock.
fn validation(config: &Config) -> Validation {
    let mut validation = Validation::new(config.algorithm.of_library());
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = config.audience.is_some();
    let mut required = vec!["sub"];
    if let Some(issuer) = &config.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    if let Some(audience) = &config.audience {
        validation.set_audience(&[audience]);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    validation
}

impl TokenVerifier for Verifier {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Claims, TokenError>> {
        Box::pin(self.check(token))
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("algorithms", &self.validation.algorithms).finish_non_exhaustive()
    }
}

/// Returns the hash by which a JWT is revoked: that of its header and claims, without the signature.
///
/// From one ECDSA signature anybody can make a second valid one, and so a token with another hash but the same claims.
/// A revocation by this hash holds for both; one by the whole token's hash only for the token as it was written.
#[must_use]
pub fn revocation_hash(token: &str) -> TokenHash {
    TokenHash::of(token.rsplit_once('.').map_or(token, |(signed, _)| signed))
}
