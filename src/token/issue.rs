//! Making tokens and API keys: for the command line and the first start.

use std::{sync::Arc, time::Duration};

use actors::{
    domain::{Role, Timestamp, TokenHash, UserId},
    ports::Clock,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header};
use secrecy::ExposeSecret;
use serde::Serialize;
use uuid::Uuid;

use super::{Algorithm, Config, LATEST_END, SetupError};

/// Signs tokens with the secret that this service itself checks them with.
pub struct Issuer {
    key: EncodingKey,
    issuer: Option<String>,
    audience: Option<String>,
    clock: Arc<dyn Clock>,
}

/// A fresh token.
pub struct Issued {
    /// The token.
    pub token: String,
    /// Its `exp`.
    pub expires_at: Timestamp,
}

/// Why there is no token, or no end for a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// A correct library never says so.
    #[error("the token can't be signed: {0}")]
    Unsigned(String),
    /// It would end after [`LATEST_END`].
    #[error("its end would be after the year 9999: give a shorter time (--ttl)")]
    TooLong,
}

/// Returns the end of what holds for `ttl` from now on.
///
/// # Errors
/// [`IssueError::TooLong`].
pub fn end_of(ttl: Duration, now: Timestamp) -> Result<Timestamp, IssueError> {
    Some(now.plus(ttl)).filter(|end| *end <= LATEST_END).ok_or(IssueError::TooLong)
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    exp: i64,
    iat: i64,
    jti: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

impl Issuer {
    /// Makes an issuer whose tokens the verifier of the same configuration accepts.
    ///
    /// # Errors
    /// The configuration has no secret: with a public key, tokens are issued by whoever holds the private one.
    pub fn new(config: &Config, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let secret = config.secret.as_ref().filter(|secret| !secret.expose_secret().is_empty());
        let Some(secret) = secret.filter(|_| config.algorithm == Algorithm::Hs256) else {
            let sentence = "tokens can only be issued here with HS256 and a secret (JWT_SECRET)";
            return Err(SetupError(sentence.to_owned()));
        };
        let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
        Ok(Self { key, issuer: config.issuer.clone(), audience: config.audience.clone(), clock })
    }

    /// Issues a token that ends after `ttl`.
    ///
    /// # Errors
    /// [`IssueError`].
    pub fn issue(&self, user: &UserId, role: Role, plan: Option<&str>, ttl: Duration) -> Result<Issued, IssueError> {
        let now = self.clock.wall();
        let expires_at = Timestamp::from_seconds(end_of(ttl, now)?.seconds());
        let claims = Claims {
            sub: user.as_str(),
            exp: expires_at.seconds(),
            iat: now.seconds(),
            jti: Uuid::new_v4().to_string(),
            role: (role != Role::User).then(|| role.as_str()),
            plan,
            iss: self.issuer.as_deref(),
            aud: self.audience.as_deref(),
        };
        let token = jsonwebtoken::encode(&Header::default(), &claims, &self.key);
        Ok(Issued { token: token.map_err(|error| IssueError::Unsigned(error.to_string()))?, expires_at })
    }
}

/// A fresh API key: shown once, kept as its hash.
pub struct ApiKey {
    /// `hne_` and 32 random bytes in base64url: 47 characters.
    pub text: String,
    /// What the store keeps.
    pub hash: TokenHash,
}

impl ApiKey {
    /// Makes one with a cryptographic generator that the operating system has seeded.
    #[must_use]
    pub fn generate() -> Self {
        let text = format!("hne_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
        Self { hash: TokenHash::of(&text), text }
    }
}
