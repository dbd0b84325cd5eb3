//! Tokens: what is believed, what is not, and why.

mod jwks;
pub(crate) mod signer;

use std::{sync::Arc, time::Duration};

use actors::{
    domain::{Claims, Role, Timestamp, TokenHash},
    metrics::Metrics,
    ports::{Clock, TokenError, TokenVerifier},
    testing::ManualClock,
};
use futures_util::FutureExt;
use hasnot_engine::token::{Algorithm, ApiKey, Config, Issuer, Verifier, revocation_hash};
use proptest::prelude::*;
use serde_json::{Value, json};
use signer::{FakeFetch, Signer, plain};

const ALL: [Algorithm; 4] = [Algorithm::Hs256, Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

fn verifier(config: &Config, clock: &Arc<ManualClock>) -> Verifier {
    Verifier::new(config, Arc::new(FakeFetch::default()), clock.clone(), &metrics()).unwrap()
}

fn metrics() -> Metrics {
    Metrics::new("test", Timestamp(0)).unwrap()
}

/// The verdict of a verifier that needs to fetch nothing.
fn verdict(verifier: &Verifier, token: &str) -> Result<Claims, TokenError> {
    verifier.verify(token).now_or_never().unwrap()
}

fn start() -> i64 {
    ManualClock::START.seconds()
}

fn in_an_hour() -> i64 {
    start() + 3_600
}

#[test]
fn each_algorithm_believes_its_own_signer_and_nobody_else() {
    let clock = Arc::new(ManualClock::new());
    let signers = ALL.map(Signer::new);
    for signer in &signers {
        let verifier = verifier(&signer.config(), &clock);
        for other in &signers {
            let claims = verdict(&verifier, &other.sign(&json!({"sub": "alice", "exp": in_an_hour()})));
            if other.algorithm == signer.algorithm {
                assert_eq!(claims.unwrap().user.as_str(), "alice");
            } else {
                assert_eq!(claims, Err(TokenError::Invalid));
            }
        }
        let stranger = Signer::new(signer.algorithm);
        let token = stranger.sign(&json!({"sub": "alice", "exp": in_an_hour()}));
        assert_eq!(verdict(&verifier, &token), Err(TokenError::Invalid));
    }
}

#[test]
fn a_public_key_is_no_secret() {
    let clock = Arc::new(ManualClock::new());
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
        let signer = Signer::new(algorithm);
        let verifier = verifier(&signer.config(), &clock);
        for secret in [signer.public_pem().into_bytes(), signer.public_der()] {
            for header in [json!({"alg": "HS256"}), json!({"alg": algorithm.as_str()})] {
                let token = signer::sign_hs256(&header, &json!({"sub": "alice", "exp": in_an_hour()}), &secret);
                assert_eq!(verdict(&verifier, &token), Err(TokenError::Invalid), "{header}");
            }
        }
    }
}

#[test]
fn headers_can_only_agree() {
    let clock = Arc::new(ManualClock::new());
    let signer = Signer::new(Algorithm::Hs256);
    let verifier = verifier(&signer.config(), &clock);
    let claims = json!({"sub": "alice", "exp": in_an_hour()});
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "None"}),
        json!({"alg": "HS512"}),
        json!({"alg": "hs256"}),
        json!({"alg": ["HS256"]}),
        json!({}),
        json!({"alg": "HS256", "crit": ["exp"]}),
        json!({"alg": "HS256", "crit": []}),
    ] {
        let token = signer::sign_hs256(&header, &claims, signer.secret());
        assert_eq!(verdict(&verifier, &token), Err(TokenError::Invalid), "{header}");
    }
    for header in [
        json!({"alg": "HS256"}),
        json!({"alg": "HS256", "typ": "at+jwt", "kid": "x"}),
        json!({"alg": "HS256", "jku": "https://evil.example/keys"}),
    ] {
        let token = signer::sign_hs256(&header, &claims, signer.secret());
        assert!(verdict(&verifier, &token).is_ok(), "{header}");
        let (signed, _) = token.rsplit_once('.').unwrap();
        for unsigned in [format!("{signed}."), signed.to_owned(), format!("{token}."), format!("{token}=")] {
            assert_eq!(verdict(&verifier, &unsigned), Err(TokenError::Invalid));
        }
    }
}

/// Checks claims with HS256; `configure` may ask for more.
fn judge(claims: &Value, configure: impl FnOnce(&mut Config)) -> Result<Claims, TokenError> {
    let clock = Arc::new(ManualClock::new());
    let signer = Signer::new(Algorithm::Hs256);
    let mut config = signer.config();
    configure(&mut config);
    verdict(&verifier(&config, &clock), &signer.sign(claims))
}

#[test]
fn times_count_with_thirty_seconds_of_leeway() {
    let at = |claims: Value| judge(&claims, |_| {}).map(|claims| claims.expires_at);
    assert_eq!(at(json!({"sub": "a", "exp": start() - 29})), Ok(Timestamp::from_seconds(start() + 1)));
    assert_eq!(at(json!({"sub": "a", "exp": start() - 30})), Err(TokenError::Expired));
    assert_eq!(at(json!({"sub": "a", "exp": 0})), Err(TokenError::Expired));
    assert!(at(json!({"sub": "a", "exp": in_an_hour() as f64 + 0.5})).is_ok());
    assert!(at(json!({"sub": "a", "exp": 253_402_300_799_u64})).is_ok());
    for absurd in
        [json!(253_402_300_800_u64), json!(u64::MAX), json!(1e300), json!(-1), json!(-1e300), json!("1"), json!(null)]
    {
        assert_eq!(at(json!({"sub": "a", "exp": absurd})), Err(TokenError::Invalid), "{absurd}");
    }
    assert_eq!(at(json!({"sub": "a"})), Err(TokenError::Invalid), "without an end it would be valid for ever");
    assert!(at(json!({"sub": "a", "exp": in_an_hour(), "nbf": start() + 30})).is_ok());
    for nbf in [json!(start() + 31), json!("soon"), json!(1e300)] {
        assert_eq!(at(json!({"sub": "a", "exp": in_an_hour(), "nbf": nbf})), Err(TokenError::Invalid));
    }
}

#[test]
fn the_subject_is_a_user_id() {
    for bad in [json!(""), json!("a b"), json!("a".repeat(129)), json!(7), json!(null), json!("a\u{0}")] {
        assert_eq!(judge(&json!({"sub": bad, "exp": in_an_hour()}), |_| {}), Err(TokenError::Invalid), "{bad}");
    }
    assert!(judge(&json!({"sub": "auth0|42", "exp": in_an_hour()}), |_| {}).is_ok());
}

#[test]
fn issuer_and_audience_count_where_they_are_configured() {
    let with = |iss: Option<&str>, aud: Value| {
        let mut claims = json!({"sub": "a", "exp": in_an_hour()});
        if let Some(iss) = iss {
            claims["iss"] = iss.into();
        }
        if !aud.is_null() {
            claims["aud"] = aud;
        }
        let both = |config: &mut Config| (config.issuer, config.audience) = (Some("us".into()), Some("chat".into()));
        (judge(&claims, |_| {}).is_ok(), judge(&claims, both).is_ok())
    };
    assert_eq!(with(Some("us"), json!("chat")), (true, true));
    assert_eq!(with(Some("us"), json!(["other", "chat"])), (true, true));
    assert_eq!(with(Some("them"), json!("chat")), (true, false));
    assert_eq!(with(Some("us"), json!("other")), (true, false));
    assert_eq!(with(Some("us"), json!([])), (true, false));
    assert_eq!(with(None, json!("chat")), (true, false));
    assert_eq!(with(Some("us"), Value::Null), (true, false));
}

#[test]
fn roles_count_only_from_signers_that_are_trusted_with_them() {
    let claims = json!({"sub": "a", "exp": in_an_hour(), "role": "admin", "plan": "team"});
    let ours = judge(&claims, |_| {}).unwrap();
    assert_eq!((ours.role, ours.plan.as_deref()), (Some(Role::Admin), Some("team")));
    let unknown = json!({"sub": "a", "exp": in_an_hour(), "role": "root", "plan": 7});
    let ours = judge(&unknown, |_| {}).unwrap();
    assert_eq!((ours.role, ours.plan), (Some(Role::User), None));

    let clock = Arc::new(ManualClock::new());
    let signer = Signer::new(Algorithm::EdDsa);
    for (trusted, role) in [(false, None), (true, Some(Role::Admin))] {
        let config = Config { trust_role_claim: trusted, ..signer.config() };
        assert_eq!(verdict(&verifier(&config, &clock), &signer.sign(&claims)).unwrap().role, role);
    }
}

#[test]
fn tokens_are_bounded() {
    let long = json!({"sub": "a", "exp": in_an_hour(), "x": "x".repeat(13_000)});
    assert_eq!(judge(&long, |_| {}), Err(TokenError::Invalid));
    let fits = json!({"sub": "a", "exp": in_an_hour(), "x": "x".repeat(11_000)});
    assert!(judge(&fits, |_| {}).is_ok());
}

#[test]
fn a_revocation_hits_both_forms_of_an_ecdsa_signature() {
    let clock = Arc::new(ManualClock::new());
    let signer = Signer::new(Algorithm::Es256);
    let verifier = verifier(&signer.config(), &clock);
    let token = signer.sign(&json!({"sub": "alice", "exp": in_an_hour()}));
    let twin = signer::other_form(&token);
    assert_ne!(TokenHash::of(&token), TokenHash::of(&twin));
    assert!(verdict(&verifier, &token).is_ok() && verdict(&verifier, &twin).is_ok());
    assert_eq!(revocation_hash(&token), revocation_hash(&twin));
}

#[test]
fn what_is_issued_is_believed() {
    let clock = Arc::new(ManualClock::new());
    let config =
        Config { issuer: Some("us".into()), audience: Some("chat".into()), ..Signer::new(Algorithm::Hs256).config() };
    let issuer = Issuer::new(&config, clock.clone()).unwrap();
    let user = "alice".parse().unwrap();
    let issued = issuer.issue(&user, Role::Admin, Some("team"), Duration::from_secs(60)).unwrap();
    assert_eq!(issued.expires_at, clock.wall().plus(Duration::from_secs(60)));
    let claims = verdict(&verifier(&config, &clock), &issued.token).unwrap();
    assert_eq!((claims.user, claims.role, claims.plan.as_deref()), (user.clone(), Some(Role::Admin), Some("team")));
    let second = issuer.issue(&user, Role::Admin, Some("team"), Duration::from_secs(60)).unwrap();
    assert_ne!(issued.token, second.token, "each has an id of its own, so that one can be revoked");
    clock.advance(Duration::from_secs(90));
    assert_eq!(verdict(&verifier(&config, &clock), &issued.token), Err(TokenError::Expired));
}

#[test]
fn api_keys_are_long_and_different() {
    let (one, two) = (ApiKey::generate(), ApiKey::generate());
    assert_eq!((one.text.len(), one.hash), (47, TokenHash::of(&one.text)));
    assert!(one.text.starts_with("hne_") && one.text != two.text);
}

#[test]
fn a_configuration_that_cannot_work_is_refused_with_a_sentence() {
    let clock = Arc::new(ManualClock::new());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let rsa = Signer::new(Algorithm::Rs256);
    for (config, word) in [
        (plain(Algorithm::Hs256), "JWT_SECRET"),
        (Config { secret: Some("".into()), ..plain(Algorithm::Hs256) }, "empty"),
        (Config { jwks_url: Some("https://a".into()), ..Signer::new(Algorithm::Hs256).config() }, "neither"),
        (plain(Algorithm::Rs256), "JWT_JWKS_URL"),
        (Config { jwks_url: Some("https://a".into()), ..rsa.config() }, "either"),
        (Config { jwks_url: Some("http://keys.example/".into()), ..plain(Algorithm::Rs256) }, "https"),
        (Config { jwks_url: Some("http://127.0.0.1.evil.example/".into()), ..plain(Algorithm::Rs256) }, "https"),
        (Config { public_key_file: Some("/nowhere.pem".into()), ..plain(Algorithm::Es256) }, "/nowhere.pem"),
        (Config { public_key_file: file("a", "no key"), ..plain(Algorithm::EdDsa) }, "EdDSA"),
        (Config { public_key_file: file("b", &rsa.private_pem()), ..plain(Algorithm::Rs256) }, "private"),
        (Config { public_key_file: file("c", &rsa.public_pem()), ..plain(Algorithm::Es256) }, "ES256"),
    ] {
        let error = Verifier::new(&config, Arc::new(FakeFetch::default()), clock.clone(), &metrics()).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(Issuer::new(&rsa.config(), clock).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever comes is refused, and nothing panics.
    #[test]
    fn garbage_is_refused(garbage in "\\PC{0,200}|[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}") {
        let clock = Arc::new(ManualClock::new());
        for algorithm in [Algorithm::Hs256, Algorithm::EdDsa] {
            let verifier = verifier(&Signer::cached(algorithm).config(), &clock);
            prop_assert_eq!(verdict(&verifier, &garbage), Err(TokenError::Invalid));
        }
    }

    /// A token of which one byte was changed is another token.
    #[test]
    fn a_changed_byte_is_noticed(at in 0_usize..10_000, to in prop::sample::select(&b"AZaz09-_."[..])) {
        let clock = Arc::new(ManualClock::new());
        let signer = Signer::cached(Algorithm::Hs256);
        let mut token = signer.sign(&json!({"sub": "alice", "exp": in_an_hour()})).into_bytes();
        let at = at % token.len();
        prop_assume!(token[at] != to);
        token[at] = to;
        let token = String::from_utf8(token).unwrap();
        prop_assert_eq!(verdict(&verifier(&signer.config(), &clock), &token), Err(TokenError::Invalid));
    }
}
