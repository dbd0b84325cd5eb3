//! Malformed bodies and tokens, generated: never a crash, never an error of ours, never the provider's business.

use std::sync::Arc;

use actors::{
    domain::{Catalog, CatalogRows, Class, ClassId, ErrorCode, PassThrough, Timestamp},
    metrics::Metrics,
    ports::TokenVerifier,
    stream::RequestBody,
    testing::ManualClock,
};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use hasnot_engine::{
    http::ChatBody,
    token::{Algorithm, Config, Fetch, FetchError, Verifier},
};
use hne_load::client::Request;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Value, json};

use super::{CHAT, assert_untouched, valid};
use crate::harness::app::{SECRET, TestApp, run, token};

const CASES: u32 = 50_000;

/// JSON as a spiteful client would write it: looked-at keys, escapes, wrong types, broken ends.
fn spiteful() -> impl Strategy<Value = Vec<u8>> {
    let keys = prop::sample::select(vec![
        "\"model\"",
        "\"m\\u006fdel\"",
        "\"messages\"",
        "\"stream\"",
        "\"stream_options\"",
        "\"max_tokens\"",
        "\"n\"",
        "\"models\"",
        "\"x\"",
        "\"\\ud800\"",
        "\"",
        "model",
        "\"\\u0000\"",
        "{}",
    ]);
    let values = prop::sample::select(vec![
        "\"mock/chat\"",
        "[{\"role\":\"user\",\"content\":\"a\"}]",
        "true",
        "null",
        "1",
        "-1",
        "1e999",
        "[]",
        "{}",
        "{\"include_usage\":true}",
        "{\"include_usage\":1,\"include_usage\":2}",
        "\"\\",
        "[[[[",
        "nul",
        "\"ü\"",
        "00",
        "18446744073709551616",
        "\"a\\u0062c\"",
        "",
    ]);
    let ends = prop::sample::select(vec!["}", "", "]", "},", "}{", "}\u{0}", "} \n"]);
    (prop::collection::vec((keys, values), 0..6), ends).prop_map(|(pairs, end)| {
        let pairs: Vec<_> = pairs.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
        format!("{{{}{end}", pairs.join(",")).into_bytes()
    })
}

/// A valid body with some bytes replaced, dropped or added.
fn bent() -> impl Strategy<Value = Vec<u8>> {
    let bends = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..6);
    bends.prop_map(|bends| {
        let mut body = valid().to_string().into_bytes();
        for (at, byte, kind) in bends {
            let at = at.index(body.len());
            match kind {
                0 => body[at] = byte,
                1 => body.insert(at, byte),
                _ => drop(body.remove(at)),
            }
        }
        body
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![spiteful(), bent(), prop::collection::vec(any::<u8>(), 0..64)]
}

/// A token of nobody's: parts of true ones, bent ones, noise.
fn bad_token() -> impl Strategy<Value = String> {
    let fine = token(&json!({"sub": "ann", "exp": 4_102_444_800_i64}));
    let bent =
        (any::<prop::sample::Index>(), prop::char::range('!', '~')).prop_filter_map("unchanged", move |(at, to)| {
            let mut bytes = fine.clone().into_bytes();
            let at = at.index(bytes.len());
            let changed = bytes[at] != to as u8;
            bytes[at] = to as u8;
            changed.then(|| String::from_utf8(bytes).unwrap())
        });
    prop_oneof![
        bent,
        "[ -~]{0,80}",
        "eyJ[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,40}\\.[A-Za-z0-9_-]{0,43}",
        "\\.{0,5}",
        "eyJhbGciOiJub25lIn0\\.eyJzdWIiOiJhbm4iLCJleHAiOjQxMDI0NDQ4MDB9\\.[A-Za-z0-9_-]{0,4}",
    ]
}

/// There is nothing to fetch for a secret.
struct Nowhere;

impl Fetch for Nowhere {
    fn fetch<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Bytes, FetchError>> {
        Box::pin(async move { Err(FetchError::Failed(url.to_owned())) })
    }
}

/// Whatever is sent on is JSON, with one model and everything else as it was.
fn check_sent(body: &ChatBody, raw: &[u8], catalog: &Catalog) {
    let model = catalog.model(&"vendor/real".parse().unwrap()).unwrap();
    let sent: Value = serde_json::from_slice(&body.for_model(&model)).unwrap();
    let given: Value = serde_json::from_slice(raw).unwrap();
    let (mut sent, mut given) = (sent.as_object().unwrap().clone(), given.as_object().unwrap().clone());
    assert_eq!(sent["model"], "vendor/real");
    if body.stream() {
        assert_eq!((&sent["stream"], &sent["stream_options"]["include_usage"]), (&json!(true), &json!(true)));
    }
    for key in ["model", "stream", "stream_options"] {
        sent.remove(key);
        given.remove(key);
    }
    assert_eq!(sent, given);
}

#[test]
fn no_body_crashes_the_parser_or_changes_on_its_way() {
    let class = Class { id: ClassId(1), name: "basic".into() };
    let catalog = Catalog::new(CatalogRows::default(), |_| true, Some(PassThrough { provider: "p".into(), class }));
    proptest!(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() },
    |(raw in body(), stream in any::<bool>())| {
        match ChatBody::parse(Bytes::from(raw.clone()), stream) {
            Ok(body) => check_sent(&body, &raw, &catalog),
            Err(error) => prop_assert!(matches!(error.code(), ErrorCode::InvalidJson | ErrorCode::InvalidValue)),
        }
    });
}

#[test]
fn no_token_that_nobody_signed_is_believed() {
    let config = Config {
        algorithm: Algorithm::Hs256,
        secret: Some(SECRET.to_owned().into()),
        public_key_file: None,
        jwks_url: None,
        issuer: None,
        audience: None,
        trust_role_claim: false,
    };
    let metrics = Metrics::new("test", Timestamp(0)).unwrap();
    let verifier = Verifier::new(&config, Arc::new(Nowhere), Arc::new(ManualClock::new()), &metrics).unwrap();
    let fine = token(&json!({"sub": "ann", "exp": 4_102_444_800_i64}));
    assert!(verifier.verify(&fine).now_or_never().unwrap().is_ok());
    proptest!(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() },
    |(token in bad_token())| {
        prop_assert!(verifier.verify(&token).now_or_never().unwrap().is_err());
    });
}

#[test]
fn hundreds_of_malformed_requests_on_one_connection_are_all_refused() {
    let app = TestApp::start();
    let client = app.client("ann");
    let mut runner = TestRunner::deterministic();
    let (bodies, tokens) = (body(), bad_token());
    run(async {
        let mut connection = client.connect().await.unwrap();
        let mut strangers = app.anonymous().connect().await.unwrap();
        for _ in 0..300 {
            let raw = bodies.new_tree(&mut runner).unwrap().current();
            let bad = ChatBody::parse(Bytes::from(raw.clone()), false).is_err();
            if bad {
                let request = Request::post(CHAT).header("content-type", "application/json").body(raw);
                let mut response = connection.exchange(&request).await.unwrap();
                let error = response.json().await.unwrap();
                assert_eq!((response.status, &error["error"]["type"]), (400, &json!("invalid_request_error")));
                connection = response.into_connection().unwrap();
            }
            let token = tokens.new_tree(&mut runner).unwrap().current();
            let request = Request::post(CHAT).bearer(&token).json(&valid().to_string());
            let mut response = strangers.exchange(&request).await.unwrap();
            response.bytes().await.unwrap();
            assert_eq!(response.status, 401, "{token}");
            strangers = response.into_connection().unwrap();
        }
    });
    assert_untouched(&app);
}
