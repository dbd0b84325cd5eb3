//! A verifier that believes what it was told.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;

use super::{Faults, ManualClock};
use crate::{
    domain::Claims,
    ports::{TokenError, TokenVerifier},
};

/// Knows the claims of some tokens; all others are invalid. Without a clock: what expires is said by the test.
#[derive(Debug, Default)]
pub struct FakeVerifier {
    /// For verifications. Down means: the keys can't be fetched.
    pub checks: Faults,
    tokens: Mutex<HashMap<String, Result<Claims, TokenError>>>,
}

impl FakeVerifier {
    /// Returns the claims of an ordinary token, valid for an hour from [`ManualClock::START`].
    ///
    /// # Panics
    /// `user` is no user id.
    #[must_use]
    #[expect(clippy::unwrap_used, reason = "a test's own literal")]
    pub fn claims(user: &str) -> Claims {
        let expires_at = ManualClock::START.plus(Duration::from_secs(3_600));
        Claims { user: user.parse().unwrap(), expires_at, role: None, plan: None }
    }

    /// Says what a token is.
    pub fn set(&self, token: &str, claims: Result<Claims, TokenError>) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(token.to_owned(), claims);
    }
}

impl TokenVerifier for FakeVerifier {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Claims, TokenError>> {
        Box::pin(async move {
            if self.checks.pass().await.is_err() {
                return Err(TokenError::KeysUnavailable);
            }
            let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            tokens.get(token).cloned().unwrap_or(Err(TokenError::Invalid))
        })
    }
}
