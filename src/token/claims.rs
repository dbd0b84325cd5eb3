//! What a token says, as far as it counts here. Pure: the time is an argument.

use std::time::Duration;

use actors::{
    domain::{Claims, Role, Timestamp},
    ports::TokenError,
};
use serde::Deserialize;
use serde_json::{Number, Value};

use super::{LATEST_END, LEEWAY};

/// The longest plan name.
const MAX_PLAN_BYTES: usize = 128;

/// The claims as they are written. Claims that are missing here, and `iss` and `aud`, are the library's.
#[derive(Deserialize)]
pub(super) struct Raw {
    sub: String,
    exp: Number,
    #[serde(default)]
    nbf: Option<Number>,
    #[serde(default)]
    role: Option<Value>,
    #[serde(default)]
    plan: Option<Value>,
}

impl Raw {
    /// Checks the times and parses the rest.
    pub(super) fn check(self, now: Timestamp, trust_role: bool) -> Result<Claims, TokenError> {
        let expires_at = self.expires_at().ok_or(TokenError::Invalid)?;
        if now >= expires_at {
            return Err(TokenError::Expired);
        }
        if let Some(nbf) = self.nbf {
            let from = seconds(&nbf).ok_or(TokenError::Invalid)?;
            if now.plus(LEEWAY) < from {
                return Err(TokenError::Invalid);
            }
        }
        let user = self.sub.parse().or(Err(TokenError::Invalid))?;
        let role = self.role.as_ref().and_then(Value::as_str).filter(|_| trust_role).map(Role::named);
        let plan = self.plan.as_ref().and_then(Value::as_str).filter(|plan| (1..=MAX_PLAN_BYTES).contains(&plan.len()));
        Ok(Claims { user, expires_at, role, plan: plan.map(str::to_owned) })
    }

    /// Returns from when on the token is worth nothing: its `exp` and the leeway. `None` where that is no time.
    pub(super) fn expires_at(&self) -> Option<Timestamp> {
        seconds(&self.exp).map(|exp| exp.plus(LEEWAY))
    }
}

/// Reads a `NumericDate` (RFC 7519, 2): seconds since 1970, perhaps with a fraction.
fn seconds(date: &Number) -> Option<Timestamp> {
    let whole = date.as_u64().or_else(|| {
        let date = Duration::try_from_secs_f64(date.as_f64()?).ok()?;
        Some(date.as_secs())
    })?;
    i64::try_from(whole).ok().map(Timestamp::from_seconds).filter(|date| *date <= LATEST_END)
}
