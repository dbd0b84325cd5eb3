//! The callers' tokens: JWT, HS256, signed with the secret that the service was given (RFC 7519, RFC 7515).

use crate::clock;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;
use std::io;

/// How long a token holds, in seconds: longer than any run.
const HOLDS: u64 = 24 * 3600;

/// The time now, as tokens have it: seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    clock::unix_nanos() / 1_000_000_000
}

/// Issues a token for a user, as of some time: the same one for the same time.
///
/// # Errors
/// The secret is of no usable length.
pub fn issue(secret: &str, user: &str, at: u64) -> io::Result<String> {
    sign(secret, &json!({"sub": user, "iat": at, "exp": at + HOLDS, "jti": user}).to_string())
}

fn sign(secret: &str, claims: &str) -> io::Result<String> {
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!("{}.{}", text(br#"{"alg":"HS256","typ":"JWT"}"#), text(claims.as_bytes()));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(io::Error::other)?;
    mac.update(signed.as_bytes());
    Ok(format!("{signed}.{}", text(&mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_others_make() {
        // The token that jwt.io shows first, all its life.
        let claims = r#"{"sub":"1234567890","name":"John Doe","iat":1516239022}"#;
        assert_eq!(
            sign("your-256-bit-secret", claims).unwrap(),
            "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c"
        );
    }
}
