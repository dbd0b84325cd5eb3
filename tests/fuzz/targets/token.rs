//! No token is believed that nobody signed, and of one that was signed nothing but what it says.
#![no_main]

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use actors::{
    domain::{Claims, Role, Timestamp},
    metrics::Metrics,
    ports::{Clock, TokenError, TokenVerifier},
    testing::ManualClock,
};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use hasnot_engine::token::{Algorithm, Config, Fetch, FetchError, LEEWAY, Verifier};
use jsonwebtoken::{EncodingKey, Header};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json, value::RawValue};

const SECRET: &str = "a secret of the fuzzer's, 32 bytes or more";

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let config = Config {
        algorithm: Algorithm::Hs256,
        secret: Some(SECRET.to_owned().into()),
        public_key_file: None,
        jwks_url: None,
        issuer: None,
        audience: None,
        trust_role_claim: false,
    };
    let metrics = Metrics::new("fuzz", Timestamp(0)).unwrap();
    Verifier::new(&config, Arc::new(Nowhere), Arc::new(ManualClock::new()), &metrics).unwrap()
});

/// A token that is fine.
static FINE: LazyLock<String> = LazyLock::new(|| sign(&json!({"sub": "ann", "exp": 4_102_444_800_i64})));

/// There is nothing to fetch for a secret.
struct Nowhere;

impl Fetch for Nowhere {
    fn fetch<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Bytes, FetchError>> {
        Box::pin(async move { Err(FetchError::Failed(url.to_owned())) })
    }
}

fn sign(claims: &impl serde::Serialize) -> String {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

fn verify(token: &str) -> Result<Claims, TokenError> {
    VERIFIER.verify(token).now_or_never().expect("nothing is fetched")
}

/// A fine token with some of its bytes changed, dropped or added.
fn bend(changes: &[u8]) -> Option<String> {
    let mut token = FINE.clone().into_bytes();
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1] & 0x3f])) % token.len();
        match change[1] >> 6 {
            0 => token.insert(at, change[2]),
            1 if token.len() > 1 => drop(token.remove(at)),
            _ => token[at] = change[2],
        }
    }
    String::from_utf8(token).ok()
}

/// Checks what is believed of claims that the right secret has signed.
fn check_signed(claims: &RawValue) {
    let Ok(told) = verify(&sign(&claims)) else { return };
    // Claims that nobody looks at may say what they like, a number that no float holds too.
    let claims: HashMap<String, &RawValue> = serde_json::from_str(claims.get()).expect("what was believed is JSON");
    let claim = |name: &str| {
        claims.get(name).map_or(Value::Null, |raw| serde_json::from_str(raw.get()).expect("what is looked at was read"))
    };
    let exp = claim("exp");
    let seconds = exp.as_u64().or_else(|| exp.as_f64().map(|exp| exp as u64)).expect("a number");
    assert_eq!(told.expires_at, Timestamp::from_seconds(seconds.try_into().unwrap()).plus(LEEWAY));
    assert!(told.expires_at > ManualClock::new().wall());
    assert_eq!(Some(told.user.as_str()), claim("sub").as_str());
    assert_eq!(told.role == Some(Role::Admin), claim("role") == "admin");
    assert!(told.plan.is_none() || told.plan.as_deref() == claim("plan").as_str());
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, input)) = input.split_first() else { return };
    let text = std::str::from_utf8(input);
    match (kind, text) {
        (b'b', _) => {
            assert!(verify(&FINE).is_ok());
            if let Some(bent) = bend(input).filter(|bent| *bent != *FINE) {
                assert_eq!(verify(&bent), Err(TokenError::Invalid), "{bent}");
            }
        }
        (b's', Ok(text)) => {
            if let Ok(claims) = serde_json::from_str::<&RawValue>(text) {
                check_signed(claims);
            }
        }
        (_, Ok(text)) => assert_eq!(verify(text), Err(TokenError::Invalid)),
        (_, Err(_)) => {}
    }
});
