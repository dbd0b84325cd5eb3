//! What is looked at, what is changed, and what is refused.

use std::sync::Arc;

use actors::domain::{Class, ClassId, ModelKey, Price};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn model(upstream: &str) -> Model {
    Model {
        key: ModelKey(1),
        id: "m".parse().unwrap(),
        class: Class { id: ClassId(1), name: "basic".into() },
        provider: "p".into(),
        upstream_model: Arc::from(upstream),
        price: Price::default(),
        context: None,
        max_output: None,
        fallbacks: Vec::new(),
    }
}

fn parse(body: &str, stream: bool) -> Result<ChatBody, ApiError> {
    ChatBody::parse(Bytes::copy_from_slice(body.as_bytes()), stream)
}

fn spliced(body: &str, stream: bool) -> String {
    let body = parse(body, stream).unwrap().for_model(&model("up/m"));
    String::from_utf8(body.to_vec()).unwrap()
}

#[test]
fn only_what_must_change_is_changed() {
    for (given, sent) in [
        (
            r#"{"model":"m","messages":[1], "x" : 1.0e0}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true},"model":"up/m","messages":[1], "x" : 1.0e0}"#,
        ),
        (
            r#" { "stream":null,"messages":[{}],"model":"m"}"#,
            r#" {"stream_options":{"include_usage":true}, "stream":true,"messages":[{}],"model":"up/m"}"#,
        ),
        (
            r#"{"stream_options":{ "a":1 },"stream":true,"messages":[{}],"model":"m"}"#,
            r#"{"stream_options":{"include_usage":true, "a":1 },"stream":true,"messages":[{}],"model":"up/m"}"#,
        ),
        (
            r#"{"stream_options":{"include_usage": false },"stream":true,"messages":[{}],"model":"m"}"#,
            r#"{"stream_options":{"include_usage": true },"stream":true,"messages":[{}],"model":"up/m"}"#,
        ),
        (
            r#"{"stream_options":{"include_usage":null},"stream":true,"messages":[{}],"model":"m"}"#,
            r#"{"stream_options":{"include_usage":true},"stream":true,"messages":[{}],"model":"up/m"}"#,
        ),
        (
            r#"{"stream_options":{ },"messages":[{}],"model":"m"}"#,
            r#"{"stream":true,"stream_options":{"include_usage":true },"messages":[{}],"model":"up/m"}"#,
        ),
        (
            r#"{"stream_options":null,"stream":true,"messages":[{}],"model":"m"}"#,
            r#"{"stream_options":{"include_usage":true},"stream":true,"messages":[{}],"model":"up/m"}"#,
        ),
    ] {
        assert_eq!(spliced(given, true), sent);
    }
    let whole = r#"{"stream":false,"messages":[{}],"model":"up/m"}"#;
    assert_eq!(spliced(whole, true), whole);
    let body = parse(whole, true).unwrap();
    assert_eq!(body.for_model(&model("up/m")).as_ptr(), body.raw.as_ptr(), "an unchanged body is not copied");
}

#[test]
fn what_limits_need_is_read() {
    let body = parse(
        r#"{"model":"a/b","messages":[ 12 ],"max_tokens":5,"n":3,"stream_options":{"include_usage":true}}"#,
        false,
    )
    .unwrap();
    assert_eq!((body.model().as_str(), body.message_bytes(), body.stream()), ("a/b", 6, false));
    assert_eq!((body.max_completion_tokens(), body.choices(), body.wants_usage()), (Some(5), 3, true));
    for both in [r#""max_tokens":5,"max_completion_tokens":7"#, r#""max_tokens":7,"max_completion_tokens":5"#] {
        let body = parse(&format!(r#"{{"model":"m","messages":[1],"n":null,{both}}}"#), true).unwrap();
        assert_eq!((body.max_completion_tokens(), body.choices(), body.stream()), (Some(7), 1, true), "{both}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (body, param) in [
        (r#"{"messages":[1]}"#, "model"),
        (r#"{"model":null,"messages":[1]}"#, "model"),
        (r#"{"model":"","messages":[1]}"#, "model"),
        (r#"{"model":"a b","messages":[1]}"#, "model"),
        (r#"{"model":1,"messages":[1]}"#, "model"),
        (r#"{"model":"m","m\u006fdel":"n","messages":[1]}"#, "model"),
        (r#"{"model":"m"}"#, "messages"),
        (r#"{"model":"m","messages":[]}"#, "messages"),
        (r#"{"model":"m","messages":{}}"#, "messages"),
        (r#"{"model":"m","messages":"x"}"#, "messages"),
        (r#"{"model":"m","messages":[1],"messages":[2]}"#, "messages"),
        (r#"{"model":"m","messages":[1],"stream":1}"#, "stream"),
        (r#"{"model":"m","messages":[1],"stream":true,"stream":false}"#, "stream"),
        (r#"{"model":"m","messages":[1],"max_tokens":0}"#, "max_tokens"),
        (r#"{"model":"m","messages":[1],"max_tokens":1.5}"#, "max_tokens"),
        (r#"{"model":"m","messages":[1],"max_tokens":99999999999999999999}"#, "max_tokens"),
        (r#"{"model":"m","messages":[1],"max_completion_tokens":"9"}"#, "max_completion_tokens"),
        (r#"{"model":"m","messages":[1],"n":129}"#, "n"),
        (r#"{"model":"m","messages":[1],"Model":"n"}"#, "model"),
        (r#"{"model":"m","messages":[1],"stream_options":{"Include_Usage":false}}"#, "stream_options"),
        (r#"{"model":"m","messages":[1],"stream_options":{"include_u\u017fage":false,"a":[{}]}}"#, "stream_options"),
        (r#"{"model":"m","messages":[1],"max_tokens":5,"MAX_TO\u212aENS":9}"#, "max_tokens"),
        ("{\"model\":\"m\",\"messages\":[1],\"plugin\u{17f}\":[]}", "plugins"),
        (r#"{"model":"m","messages":[1],"N":2}"#, "n"),
        (r#"{"model":"m","messages":[1],"stream_options":[]}"#, "stream_options"),
        (r#"{"model":"m","messages":[1],"stream_options":{"include_usage":1}}"#, "stream_options"),
        (
            r#"{"model":"m","messages":[1],"stream_options":{"include_usage":true,"include_usag\u0065":false}}"#,
            "stream_options",
        ),
    ] {
        let frame = parse(body, true).unwrap_err().frame();
        let error: Value = serde_json::from_slice(&frame[6..]).unwrap();
        assert_eq!(error["error"]["code"], "invalid_value", "{body}");
        assert_eq!(error["error"]["param"], param, "{body}");
    }
    for body in ["", "null", "[]", "1", "{", r#"{"model":"m","messages":[1]} x"#, "{'model':1}", r#"{"model":"m",}"#] {
        assert_eq!(parse(body, true).unwrap_err().code(), ErrorCode::InvalidJson, "{body}");
    }
    assert_eq!(
        ChatBody::parse(Bytes::from_static(b"{\"a\":\"\xff\"}"), true).unwrap_err().code(),
        ErrorCode::InvalidJson
    );
}

#[test]
fn forbidden_fields_are_named_unless_allowed() {
    let body = parse(r#"{"model":"m","messages":[1],"rout\u0065":1,"plugins":[]}"#, true).unwrap();
    assert_eq!(body.forbidden(&[]), Some("route"));
    assert_eq!(body.forbidden(&["route".into()]), Some("plugins"));
    assert_eq!(body.forbidden(&["route".into(), "plugins".into()]), None);
}

#[test]
fn deep_nesting_does_not_overflow() {
    let deep = format!(r#"{{"model":"m","messages":[1],"x":{}{}}}"#, "[".repeat(1 << 20), "]".repeat(1 << 20));
    assert!(parse(&deep, true).is_ok());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map("\\PC{0,6}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn a_spliced_body_means_the_same(extra in proptest::collection::hash_map("[a-l]{1,5}", any_json(), 0..6), stream: bool, options in proptest::option::of(any::<bool>())) {
        let mut given = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
        for (key, value) in extra {
            given[key] = value;
        }
        if let Some(include) = options {
            given["stream_options"] = json!({"include_usage": include, "other": 1});
        }
        let mut meant = given.clone();
        meant["model"] = "up/m".into();
        if stream {
            meant["stream"] = true.into();
            meant["stream_options"]["include_usage"] = true.into();
        }
        let sent: Value = serde_json::from_str(&spliced(&given.to_string(), stream)).unwrap();
        prop_assert_eq!(sent, meant);
    }

    #[test]
    fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(ChatBody::parse(bytes.into(), true).is_err());
    }
}
