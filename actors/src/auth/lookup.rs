//! The flights: asking the verifier, the shared cache and the store. Pure questions; the actor draws the conclusions.

use std::{fmt, future::Future, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;

use super::{AuthError, Ports};
use crate::{
    domain::{CallerRecord, Role, Timestamp, TokenHash, UserId},
    metrics::AuthLevel,
    ports::{KeyRecord, TokenError},
};

/// What API keys begin with.
const KEY_PREFIX: &str = "hne_";
/// How long a flight may take: a little longer than the 5 s that fetching signing keys or asking the store may take.
const DEADLINE: Duration = Duration::from_secs(6);
/// A key that ends sooner isn't put into the shared cache. Former versions, which may run beside this one, don't read the
/// end that is in a copy: for them it could outlive the key there (600 s) and in their memory (600 s).
const SHARED_KEY_LIFE: Duration = Duration::from_secs(1_200);

/// Whose token it is, before anything is known of the user.
pub(super) struct Identity {
    pub(super) user: UserId,
    pub(super) source: Source,
    /// The token's end.
    pub(super) expires_at: Option<Timestamp>,
    /// The feed's edition when the store was asked.
    pub(super) edition: u64,
}

/// What kind of token it is.
pub(super) enum Source {
    Key,
    Jwt {
        role: Option<Role>,
        plan: Option<String>,
        /// The hash of what was signed. In ECDSA a second valid signature can be made from the first, and with it a
        /// token of another hash: a revocation may name either.
        signed: TokenHash,
    },
}

/// What to do when the store doesn't know the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unknown {
    Leave,
    /// Add the user with this plan, or the default one.
    Add(Option<String>),
}

/// Answers by the deadline, also where the flight crashes.
pub(super) async fn guarded<T>(
    ports: &Ports,
    flight: impl Future<Output = Result<T, AuthError>>,
) -> Result<T, AuthError> {
    match tokio::time::timeout(DEADLINE, AssertUnwindSafe(flight).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_panic)) => {
            tracing::error!("looking up a caller panicked");
            Err(AuthError::Unavailable)
        }
        Err(_elapsed) => Err(unavailable(ports, &format_args!("no answer within {DEADLINE:?}"))),
    }
}

/// Says whether a token is an API key rather than a JWT.
pub(super) fn is_key(token: &str) -> bool {
    token.starts_with(KEY_PREFIX)
}

/// Verifies a JWT.
pub(super) async fn identify_jwt(ports: &Ports, token: &str) -> Result<Identity, AuthError> {
    let edition = ports.feed.edition();
    let claims = ports.verifier.verify(token).await.map_err(|error| match error {
        TokenError::Invalid => AuthError::Invalid,
        TokenError::Expired => AuthError::Expired,
        TokenError::KeysUnavailable => AuthError::Unavailable,
    })?;
    let signed = TokenHash::of(token.rsplit_once('.').map_or(token, |(signed, _)| signed));
    let source = Source::Jwt { role: claims.role, plan: claims.plan, signed };
    Ok(Identity { user: claims.user, source, expires_at: Some(claims.expires_at), edition })
}

/// Finds out whose API key this is.
pub(super) async fn identify_key(ports: &Ports, key: &TokenHash) -> Result<Identity, AuthError> {
    let edition = ports.feed.edition();
    if ports.feed.is_fresh(ports.clock.now())
        && let Some(copy) = ports.cache.key(key).await
        // As with users: no copy is a reason to refuse.
        && !copy.revoked && ports.feed.trusts_key(key, &copy)
    {
        return of_key(copy, edition, ports.clock.wall());
    }
    let edition = ports.feed.edition();
    let record =
        ports.directory.key(key).await.map_err(|error| unavailable(ports, &error))?.ok_or(AuthError::Invalid)?;
    if record.revoked {
        return Err(AuthError::Revoked);
    }
    let now = ports.clock.wall();
    if record.expires_at.is_none_or(|end| end.since(now) > SHARED_KEY_LIFE) {
        ports.cache.post_key(key, &record);
    }
    of_key(record, edition, now)
}

/// Identifies by a key that wasn't revoked, wherever that was read.
fn of_key(KeyRecord { user, expires_at, .. }: KeyRecord, edition: u64, now: Timestamp) -> Result<Identity, AuthError> {
    if expires_at.is_some_and(|end| end <= now) {
        return Err(AuthError::Expired);
    }
    Ok(Identity { user, source: Source::Key, expires_at, edition })
}

/// Finds a user: in the shared cache if its copy can be trusted, else in the store.
pub(super) async fn find_user(
    ports: &Ports,
    user: &UserId,
    unknown: Unknown,
) -> Result<Option<CallerRecord>, AuthError> {
    if ports.feed.is_fresh(ports.clock.now())
        && let Some(copy) = ports.cache.caller(user).await
        // A copy that says «disabled» is no reason to refuse: the store is asked first.
        && copy.id == *user && !copy.disabled && ports.feed.trusts_copy(&copy)
    {
        ports.metrics.auth_looked_up(AuthLevel::Shared);
        return Ok(Some(copy));
    }
    ports.metrics.auth_looked_up(AuthLevel::Store);
    let mut record = ports.directory.caller(user).await.map_err(|error| unavailable(ports, &error))?;
    if record.is_none()
        && let Unknown::Add(plan) = unknown
    {
        let added =
            ports.directory.provision(user, plan.as_deref()).await.map_err(|error| unavailable(ports, &error))?;
        record = Some(added);
    }
    if let Some(record) = record.as_ref().filter(|record| !record.disabled) {
        ports.cache.post_caller(record);
    }
    Ok(record)
}

/// Brings the times of last use to the store. Returns them if that failed.
pub(super) async fn touch_keys(
    ports: &Ports,
    used: Vec<(TokenHash, Timestamp)>,
) -> Result<(), Vec<(TokenHash, Timestamp)>> {
    let written =
        guarded(ports, async { ports.directory.touch_keys(&used).await.map_err(|error| unavailable(ports, &error)) })
            .await;
    if written.is_ok() { Ok(()) } else { Err(used) }
}

/// Says it, unless the same was said lately.
fn unavailable(ports: &Ports, error: &dyn fmt::Display) -> AuthError {
    if let Some(unsaid) = ports.complaints.take(ports.clock.now()) {
        tracing::warn!(%error, unsaid, "a caller can't be looked up");
    }
    AuthError::Unavailable
}
