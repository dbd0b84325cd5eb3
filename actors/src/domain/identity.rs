//! Who and what: ids, roles, the verified caller.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Timestamp;

/// The most characters that an id may have.
const MAX_ID_LEN: usize = 128;

/// A user, model or plan id outside the alphabet or the length that ids may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id has 1 to 128 characters of A-Z a-z 0-9 . _ : / @ + | -")]
pub struct InvalidId;

fn check(id: &str) -> Result<Arc<str>, InvalidId> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:/@+|-".contains(&b);
    if (1..=MAX_ID_LEN).contains(&id.len()) && id.bytes().all(allowed) { Ok(Arc::from(id)) } else { Err(InvalidId) }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Returns the id as text: 1 to 128 characters of `A-Z a-z 0-9 . _ : / @ + | -`.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(id: &str) -> Result<Self, InvalidId> {
                check(id).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(id: String) -> Result<Self, InvalidId> {
                id.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// A user's id as tokens (`sub`) and admins name it.
    UserId
}
text_id! {
    /// A model's id as clients name it.
    ModelId
}

impl ModelId {
    /// Says whether it is like `vendor/model`, as are those of models that are passed through.
    #[must_use]
    pub fn names_vendor(&self) -> bool {
        self.as_str().split_once('/').is_some_and(|(vendor, name)| !vendor.is_empty() && !name.is_empty())
    }
}

macro_rules! store_id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);
    };
}

store_id! {
    /// The store's integer id of a user: what postings and accounts are keyed by.
    UserKey(i64)
}
store_id! {
    /// The store's integer id of a model; 0 stands for any model that is passed through without a catalog entry.
    ModelKey(i64)
}
store_id! {
    /// The store's integer id of a model class.
    ClassId(i32)
}
store_id! {
    /// The store's integer id of a plan.
    PlanId(i32)
}

impl ModelKey {
    /// Stands in postings for every model that has no catalog entry of its own.
    pub const PASSED_THROUGH: Self = Self(0);
}

/// What a caller may do beside calling models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Calls models.
    #[default]
    User,
    /// Also reads the performance report.
    Admin,
}

impl Role {
    /// Returns the role of that name; an unknown one is `User`, which can do least.
    #[must_use]
    pub fn named(name: &str) -> Self {
        if name == "admin" { Self::Admin } else { Self::User }
    }

    /// Returns the role's name, as tokens, the store and reports spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }
}

/// SHA-256 of a whole bearer token or API key: the only form in which one is kept, cached or compared.
///
/// The whole token, never a prefix: a cache keyed by a prefix hands out other people's identity (CVE-2026-35030).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// Hashes a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Returns the hash in lower-case hexadecimal, 64 characters.
    #[must_use]
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// The claims of a token whose signature, times, issuer and audience were verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `sub`: the user.
    pub user: UserId,
    /// `exp`: from here on the token is worth nothing.
    pub expires_at: Timestamp,
    /// `role`, only where the signer is trusted to give roles.
    pub role: Option<Role>,
    /// `plan`: counts only when the user is first provisioned.
    pub plan: Option<String>,
}

/// What the store knows of a user; kept as JSON in `user:auth:{userId}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerRecord {
    /// The store's id.
    pub key: UserKey,
    /// The user's id.
    pub id: UserId,
    /// The role that the store gives.
    pub role: Role,
    /// The user's plan.
    pub plan: PlanId,
    /// A disabled user is refused, whatever the token says.
    pub disabled: bool,
    /// The change sequence number of the user's last change.
    pub version: i64,
    /// What the record was read with: a copy of it is worth nothing to whoever can't tell what has changed since.
    pub as_of: Position,
}

/// A state of the store: the one right after this change, before the next.
///
/// The number alone doesn't tell. In a database that was put back the numbers are given out again, but not the times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The change's number.
    pub seq: i64,
    /// When it was made, in µs by the store's clock; 0 where that isn't known.
    pub at: i64,
}

/// The verified identity behind a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The store's id: accounts and postings are keyed by it.
    pub key: UserKey,
    /// The user's id.
    pub id: UserId,
    /// The stronger of the store's role and a trusted token's.
    pub role: Role,
    /// The user's plan.
    pub plan: PlanId,
}

/// A request's label for logs and the `x-request-id` header. Nothing is ever keyed by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Takes a client's own label if it is sane: 1 to 128 visible ASCII characters.
    #[must_use]
    pub fn from_client(label: &[u8]) -> Option<Self> {
        let sane = (1..=128).contains(&label.len()) && label.iter().all(u8::is_ascii_graphic);
        if !sane {
            return None;
        }
        std::str::from_utf8(label).ok().map(|label| Self(Arc::from(label)))
    }

    /// Makes a fresh one, a `UUIDv7`.
    #[must_use]
    pub fn generate() -> Self {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        Self(Arc::from(&*uuid::Uuid::now_v7().hyphenated().encode_lower(&mut text)))
    }

    /// Returns the label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_bounded_and_of_the_alphabet() {
        assert!("auth0|42".parse::<UserId>().is_ok());
        assert!("vendor/model:free".parse::<ModelId>().is_ok());
        assert!("a".repeat(128).parse::<UserId>().is_ok());
        for bad in ["", "a b", "a\n", "ü", "a\"", &"a".repeat(129)] {
            assert_eq!(bad.parse::<UserId>(), Err(InvalidId), "{bad:?}");
        }
    }

    #[test]
    fn an_unknown_role_can_do_least() {
        assert_eq!(Role::named("root"), Role::User);
        assert_eq!(Role::named("Admin"), Role::User);
        assert_eq!(Role::named("admin"), Role::Admin);
    }

    #[test]
    fn a_hash_never_shows_itself_in_debug_output() {
        assert_eq!(format!("{:?}", TokenHash::of("secret")), "TokenHash(…)");
        assert!(TokenHash::of("").to_hex().starts_with("e3b0c442"));
    }

    #[test]
    fn request_labels_are_echoed_only_when_sane() {
        assert_eq!(RequestId::from_client(b"abc-1").as_ref().map(RequestId::as_str), Some("abc-1"));
        for bad in [&b""[..], b"a b", b"a\r\nx: y", &[b'a'; 129], "ü".as_bytes()] {
            assert!(RequestId::from_client(bad).is_none());
        }
        assert_ne!(RequestId::generate(), RequestId::generate());
    }
}
