//! `[auth]`: by which keys callers' tokens are verified.

use std::fs::File;

use secrecy::{ExposeSecret, SecretString};
use toml::{Table, Value};

use super::{Profile, error::Problems, layers::Layers, secret};
use crate::{
    token::{self, Algorithm},
    values::{is_http_url, without_query},
};

/// Who is a caller: `[auth]`.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    /// How tokens are verified.
    pub jwt: token::Config,
    /// The actor's own: provisioning and the cache.
    pub cache: actors::auth::Config,
    /// Whether the secret is the one that was made here: only then may a token be printed at start.
    pub secret_made_here: bool,
}

/// The keys of `[auth]` that are [`token::Config`]'s; all others are the actor's.
const JWT_KEYS: [&str; 7] = [
    "jwt_algorithm",
    "jwt_secret",
    "jwt_public_key_file",
    "jwt_jwks_url",
    "jwt_issuer",
    "jwt_audience",
    "trust_role_claim",
];

/// Reads `[auth]`.
pub(super) fn read(layers: &mut Layers) -> Option<AuthConfig> {
    let all = layers.at(&["auth"]).and_then(Value::as_table).cloned().unwrap_or_default();
    let (jwt, cache): (Table, Table) = all.into_iter().partition(|(key, _)| JWT_KEYS.contains(&key.as_str()));
    let jwt = layers.typed(&["auth"], Value::Table(jwt));
    let cache = layers.typed(&["auth"], Value::Table(cache));
    Some(AuthConfig { jwt: jwt?, cache: cache?, secret_made_here: false })
}

impl AuthConfig {
    pub(super) fn check(&self, profile: Profile, problems: &mut Problems) {
        problems.within("auth.cache_entries", self.cache.cache_entries, 1..=10_000_000);
        check_keys(&self.jwt, profile, problems);
        let url = self.jwt.jwks_url.as_ref().map(ExposeSecret::expose_secret);
        if let Some(url) = url.filter(|url| !is_http_url(url)) {
            let found =
                if url.contains('@') { "not such a URL".to_owned() } else { format!("{:?}", without_query(url)) };
            let allowed = "an http or https URL with a host, without credentials and fragment";
            problems.refuse("auth.jwt_jwks_url", found, allowed);
        }
        if let Some(file) = &self.jwt.public_key_file
            && let Err(error) = File::open(file)
        {
            let allowed = format_args!("a PEM file that can be read, but: {error}");
            problems.refuse("auth.jwt_public_key_file", format_args!("{file:?}"), allowed);
        }
    }
}

/// Checks that the algorithm has the one key that it takes.
fn check_keys(jwt: &token::Config, profile: Profile, problems: &mut Problems) {
    let (algorithm, key) = (jwt.algorithm, "auth.jwt_algorithm");
    let public = jwt.public_key_file.is_some() || jwt.jwks_url.is_some();
    if algorithm == Algorithm::Hs256 {
        if public {
            let allowed = "RS256, ES256 or EdDSA where `auth.jwt_public_key_file` or `auth.jwt_jwks_url` is given";
            return problems.refuse(key, "HS256", allowed);
        }
        return check_secret(jwt.secret.as_ref(), profile, problems);
    }
    let name = problems.name("auth.jwt_secret");
    if jwt.secret.is_some() {
        problems.say(format!(
            "{name} is given, but `{key}` is {}; it must be HS256, or the secret must be left out.",
            algorithm.as_str()
        ));
    }
    match (&jwt.public_key_file, &jwt.jwks_url) {
        (None, None) => problems.say(format!(
            "`{key}` is {}, but there is no key; give `auth.jwt_public_key_file` (JWT_PUBLIC_KEY_FILE) or `auth.jwt_jwks_url` (JWT_JWKS_URL).",
            algorithm.as_str()
        )),
        (Some(_), Some(_)) => problems.say(
            "`auth.jwt_public_key_file` and `auth.jwt_jwks_url` are both given; only one of them is allowed."
                .to_owned(),
        ),
        _ => {}
    }
}

fn check_secret(secret: Option<&SecretString>, profile: Profile, problems: &mut Problems) {
    let strength = secret.map(|given| secret::weakness(given.expose_secret()));
    match (profile, strength) {
        (Profile::Production, None) => problems.refuse(
            "auth.jwt_secret",
            "missing or empty",
            "given in the profile production (JWT_SECRET), such as `openssl rand -hex 32` prints",
        ),
        (Profile::Production, Some(Some(weakness))) => problems.refuse(
            "auth.jwt_secret",
            weakness,
            "at least 32 random bytes in the profile production, such as `openssl rand -hex 32` prints",
        ),
        _ => {}
    }
}
