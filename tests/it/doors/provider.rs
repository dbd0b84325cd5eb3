//! What goes on to the provider: nothing of the caller's but the body, and that unchanged.

use hne_load::client::Request;
use serde_json::{Value, json};

use super::{CHAT, about, holding, post, turned_away, valid};
use crate::harness::app::{Database, PROVIDER_KEY, TestApp, chat, run};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// What callers and proxies send that is none of the provider's business.
const PRIVATE: [(&str, &str); 14] = [
    ("cookie", "session=secret"),
    ("x-forwarded-for", "203.0.113.7"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "inner.example.com"),
    ("forwarded", "for=203.0.113.7"),
    ("x-real-ip", "203.0.113.7"),
    ("x-api-key", "caller's"),
    ("api-key", "caller's"),
    ("openai-organization", "caller's"),
    ("proxy-authorization", "Basic abc"),
    ("accept-encoding", "gzip, br"),
    ("user-agent", "caller/1.0"),
    ("origin", "https://app.example.com"),
    ("tracestate", "a=1"),
];

#[test]
fn the_provider_is_sent_these_headers_and_no_others() {
    let app = TestApp::on(Database::Postgres).env("HNE__PROVIDERS__OPENROUTER__HEADERS__X_TITLE", "Ours").start();
    let client = app.client("ann");
    run(async {
        for (marker, stream) in [("whole", false), ("streamed", true)] {
            let mut body = chat("mock/chat+frames-2", marker);
            body["stream"] = json!(stream);
            let request = PRIVATE.iter().fold(post(&body), |request, (name, value)| request.header(name, value));
            let request = request.header("x-request-id", "label-7").header("traceparent", TRACE);
            let mut response = client.send(&request).await.unwrap();
            response.bytes().await.unwrap();
            let entry = app.mock.entry(marker).unwrap();
            // The codec adds the date to whatever it sends.
            let headers = entry.headers.iter().filter(|(name, _)| name != "date");
            let mut sent: Vec<_> = headers.map(|(name, value)| (name.as_str(), value.as_str())).collect();
            sent.sort_unstable();
            let (key, host) = (format!("Bearer {PROVIDER_KEY}"), app.mock.addr().to_string());
            let length = entry.body_bytes.to_string();
            let mut expected = vec![
                ("accept", if stream { "text/event-stream" } else { "application/json" }),
                ("accept-encoding", "identity"),
                ("authorization", &key),
                ("content-length", &length),
                ("content-type", "application/json"),
                ("host", &host),
                ("traceparent", TRACE),
                ("user-agent", concat!("hasnot-engine/", env!("CARGO_PKG_VERSION"))),
                ("x-request-id", "label-7"),
                ("x-title", "Ours"),
            ];
            expected.sort_unstable();
            assert_eq!(sent, expected);
        }
    });
}

#[test]
fn a_trace_goes_on_only_if_it_is_one() {
    let app = TestApp::start();
    let client = app.client("ann");
    let zeros = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
    let bad =
        ["nonsense", zeros, &TRACE.to_uppercase(), &TRACE.replace("00-", "ff-"), &"-".repeat(55), &"a".repeat(55)];
    run(async {
        for trace in bad {
            assert_eq!(client.send(&post(&valid()).header("traceparent", trace)).await.unwrap().status, 200);
            let entry = app.mock.books().pop().unwrap();
            assert_eq!(entry.header("traceparent"), None, "{trace}");
            // The label that the response has is the provider's too.
            assert!(uuid::Uuid::parse_str(entry.header("x-request-id").unwrap()).is_ok());
        }
    });
}

/// Odd but valid: spaces, escapes, numbers that no float holds, keys that occur twice and are not looked at.
const ODD: &str = concat!(
    " {\n\t\"x\" : 1e400, \"x\":[1,  2 ],\"temperature\": 0.70,\"model\" :\"mock/chat+frames-2\" ,\r\n",
    r#""messages":[ {"role":"user","content":"\u00e9\ud83d\ude00 é\/"} ],"big":123456789012345678901234567890,"#,
    "\"tools\":[{\"model\":\"inner\",\"stream\":false}] , \"n\": 1 } \n"
);

#[test]
fn the_body_goes_on_byte_for_byte() {
    let app = TestApp::start();
    let client = app.client("ann");
    let name = "mock/chat+frames-2";
    app.cli(&["model", "add", "mine", "--class", "basic", "--provider", "openrouter", "--upstream-model", name]);
    let sent = |body: &str, path: &str| {
        run(async {
            let mut response = client.send(&Request::post(path).json(body)).await.unwrap();
            let answer = response.text().await.unwrap();
            assert_eq!(response.status, 200, "{answer}");
        });
        String::from_utf8(app.mock.books().pop().unwrap().body.to_vec()).unwrap()
    };
    assert_eq!(sent(ODD, CHAT), ODD);
    let streamed = r#""stream":true,"stream_options":{"include_usage":true},"#;
    assert_eq!(sent(ODD, "/api/hasNotEngine"), ODD.replacen('{', &format!("{{{streamed}"), 1));
    // Only the outer name is changed, and only to the provider's.
    let mine = ODD.replace("mock/chat+frames-2", "mine");
    assert_eq!(sent(&mine, CHAT), ODD);
    let escaped = ODD.replace("\"mock/chat+frames-2\"", "\"m\\u0069ne\"").replace("\"model\" :", "\"mod\\u0065l\" :");
    assert_eq!(sent(&escaped, CHAT), ODD.replace("\"model\" :", "\"mod\\u0065l\" :"));
    for (options, forced) in [
        (r#"{}"#, r#"{"include_usage":true}"#),
        (r#"{ "include_usage" : false , "x" : 1 }"#, r#"{ "include_usage" : true , "x" : 1 }"#),
        (r#"{"x":1}"#, r#"{"include_usage":true,"x":1}"#),
        (r#"null"#, r#"{"include_usage":true}"#),
    ] {
        let with =
            |options: &str| ODD.replace("\"big\":", &format!("\"stream_options\":{options},\"stream\":true,\"big\":"));
        assert_eq!(sent(&with(options), CHAT), with(forced), "{options}");
    }
    let whole = ODD.replace("\"big\":", "\"stream\":false,\"big\":");
    assert_eq!(sent(&whole, "/api/hasNotEngine"), whole);
}

#[test]
fn fields_that_choose_models_go_on_where_configuration_allows_them() {
    let app = TestApp::on(Database::Postgres).env("HNE__PROVIDERS__OPENROUTER__ALLOW_FIELDS", "models,plugins").start();
    let client = app.client("ann");
    let with = |key: &str, model: &str| {
        let mut body = chat(model, "hello");
        body[key] = json!(["a"]);
        body
    };
    run(async {
        for key in ["models", "plugins"] {
            let body = with(key, "mock/chat+frames-2");
            assert_eq!(client.send(&post(&body)).await.unwrap().status, 200, "{key}");
            let sent: Value = serde_json::from_slice(&app.mock.books().pop().unwrap().body).unwrap();
            assert_eq!(sent, body);
        }
        for key in ["route", "fallbacks"] {
            turned_away(&client, &post(&with(key, "mock/chat+frames-2")), about(key), key).await;
        }
    });
    app.cli(&[
        "model",
        "add",
        "fresh",
        "--class",
        "basic",
        "--provider",
        "openrouter",
        "--upstream-model",
        "mock/chat+frames-2",
    ]);
    // A model that this instance has not heard of is looked up before its fields are refused.
    run(async {
        let request = post(&with("plugins", "fresh")).bearer(&holding("ann"));
        assert_eq!(app.anonymous().send(&request).await.unwrap().status, 200);
    });
}
