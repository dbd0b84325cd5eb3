//! Reading a token that is to be revoked: from whoever may revoke any, and so may have copied more than the token.

use std::collections::HashMap;

use actors::domain::{Timestamp, TokenHash};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{
    Config, SetupError, claims,
    keys::{self, Configured},
    revocation_hash,
};

/// What stands before a token in a header, in any case.
const SCHEME: &str = "bearer ";

/// A token that was read as the verifier reads it, but for its signature and its times.
pub struct Revocable<'a> {
    token: &'a str,
    signature: &'a str,
    /// From here on the token is worth nothing.
    pub expires_at: Timestamp,
}

impl<'a> Revocable<'a> {
    /// Reads a token as it stands in a header, after `Bearer ` or alone. Returns `None` for what can't be one that the
    /// verifier takes: three parts in base64url, of which two are JSON, with a user and an end.
    #[must_use]
    pub fn read(given: &'a str) -> Option<Self> {
        let given = given.trim();
        let scheme = given.get(..SCHEME.len()).filter(|scheme| scheme.eq_ignore_ascii_case(SCHEME));
        let token = scheme.and_then(|scheme| given.get(scheme.len()..)).unwrap_or(given).trim();
        let mut parts = token.split('.');
        let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
        let _header: HashMap<String, IgnoredAny> = json(header)?;
        let claims: claims::Raw = json(claims)?;
        let well_formed = parts.next().is_none() && URL_SAFE_NO_PAD.decode(signature).is_ok();
        well_formed.then_some(())?;
        Some(Self { token, signature, expires_at: claims.expires_at()? })
    }

    /// Says whether the configured key signed it; `None` where the signer publishes its keys: they may be away when a
    /// token has to be revoked.
    ///
    /// # Errors
    /// [`SetupError`] where the algorithm and the keys don't fit together.
    pub fn is_signed(&self, config: &Config) -> Result<Option<bool>, SetupError> {
        let Configured::Key(key) = keys::configured(config)? else { return Ok(None) };
        let signed = self.token.rsplit_once('.').map_or("", |(signed, _)| signed).as_bytes();
        let verified = jsonwebtoken::crypto::verify(self.signature, signed, &key, config.algorithm.of_library());
        Ok(Some(verified.is_ok_and(|verified| verified)))
    }

    /// Returns the hash by which it is revoked.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        revocation_hash(self.token)
    }
}

fn json<T: DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
