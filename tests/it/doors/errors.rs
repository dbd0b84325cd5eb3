//! Every row of the table of errors, from outside.

use hne_load::{client::Request, clock::unix_nanos};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    BAD_JSON, CHAT, EXPIRED, NO_MODEL, NO_TOKEN, NOT_ALLOWED, QUOTA, RATE, Refused, Row, about, assert_untouched,
    holding, ops::samples, post, refused, row, settle, turned_away, until, valid,
};
use crate::harness::{
    app::{Database, PROVIDER_KEY, SECRET, TestApp, chat, complete, now, run, token},
    servers::Postgres,
};

const ADMIN: Row = row(403, "permission_error", "admin_required");
const NO_PATH: Row = row(404, "invalid_request_error", "not_found");
const KEY_IN_USE: Row = row(422, "invalid_request_error", "idempotency_mismatch");
const PROVIDER: Row = row(502, "provider_error", "provider_error");
const PROVIDER_BUSY: Row = row(503, "provider_error", "provider_overloaded");
const OVERLOADED: Row = row(503, "server_error", "overloaded");
const DRAINING: Row = row(503, "server_error", "draining");
const NO_QUOTA: Row = row(503, "server_error", "quota_unavailable");
const NO_LEDGER: Row = row(503, "server_error", "ledger_unavailable");
const PROVIDER_SLOW: Row = row(504, "server_error", "provider_timeout");

#[test]
fn who_may_not_call_is_told_so() {
    let app = TestApp::start();
    app.user("ann", "default");
    app.cli(&["model", "add", "dear/model", "--class", "premium", "--provider", "openrouter"]);
    let revoked = token(&json!({"sub": "ann", "jti": "1", "exp": now() + 3_600}));
    app.cli(&["token", "revoke", &revoked]);
    app.user("gone", "default");
    app.cli(&["user", "disable", "gone"]);
    let chat_as = |token: &str| post(&valid()).bearer(token);
    let get_as = |token: &str, path: &str| Request::get(path).bearer(token);
    let expired = token(&json!({"sub": "ann", "exp": now() - 31}));
    let (ann, gone) = (holding("ann"), holding("gone"));
    let table = [
        ("no token", post(&valid()), NO_TOKEN),
        ("an empty token", chat_as(""), NO_TOKEN),
        ("a bad token", chat_as("nonsense"), NO_TOKEN),
        ("a key that was never made", chat_as("hne_00000000"), NO_TOKEN),
        ("another scheme", post(&valid()).header("authorization", &format!("Basic {ann}")), NO_TOKEN),
        ("a token of 20 KiB", chat_as(&"a".repeat(20 << 10)), NO_TOKEN),
        ("an expired token", chat_as(&expired), EXPIRED),
        ("a revoked token", chat_as(&revoked), NO_TOKEN),
        ("a disabled user", chat_as(&gone), NO_TOKEN),
        ("no token for the models", Request::get("/v1/models"), NO_TOKEN),
        ("no token for a model", Request::get("/v1/models/a/b"), NO_TOKEN),
        ("no token for the usage", Request::get("/api/usage"), NO_TOKEN),
        ("no token for the report", Request::get("/api/admin/performance"), NO_TOKEN),
        ("no admin", get_as(&ann, "/api/admin/performance"), ADMIN),
        ("a class that the plan has not", post(&chat("dear/model", "a")).bearer(&ann), NOT_ALLOWED),
        ("an unknown model", post(&chat("nonsense", "a")).bearer(&ann), NO_MODEL),
        ("an unknown model, asked for", get_as(&ann, "/v1/models/nonsense"), NO_MODEL),
        ("another class's model, asked for", get_as(&ann, "/v1/models/dear/model"), NO_MODEL),
        ("a path of OpenAI's", Request::post("/v1/embeddings").json("{}"), NO_PATH),
        ("no path of anybody's", get_as(&ann, "/api/nothing"), NO_PATH),
        ("the root", Request::get("/"), NO_PATH),
    ];
    run(async {
        // A revocation holds within a second; before that the service would be right to serve.
        until(&app, &Request::get("/v1/models").bearer(&revoked), 401).await;
        for (what, request, row) in table {
            let told = turned_away(&app.anonymous(), &request, row, what).await;
            let text = told.error.to_string();
            let leaks =
                [SECRET, PROVIDER_KEY, &ann, &revoked, "SELECT", "postgres"].iter().any(|word| text.contains(word));
            assert!(!leaks, "{what}: {text}");
        }
    });
    assert_untouched(&app);
}

/// Bodies and the field that each is refused for; none: it is no JSON.
fn bad_bodies() -> Vec<(String, Row)> {
    let with = |key: &str, value: Value| {
        let mut body = valid();
        body[key] = value;
        body.to_string()
    };
    let doubled = |pair: &str| valid().to_string().replacen('{', &format!("{{{pair},"), 1);
    let mut table = vec![
        (String::new(), BAD_JSON),
        ("{".into(), BAD_JSON),
        ("null".into(), BAD_JSON),
        ("[]".into(), BAD_JSON),
        ("{}{}".into(), BAD_JSON),
        (format!("\u{feff}{}", valid()), BAD_JSON),
        ("{\"\\ud800\":1}".into(), BAD_JSON),
        ("{}".into(), about("model")),
        (json!({"model": "a/b"}).to_string(), about("messages")),
        (json!({"messages": [1]}).to_string(), about("model")),
        (doubled("\"model\":\"a/b\""), about("model")),
        (doubled("\"m\\u006fdel\":\"a/b\""), about("model")),
        (doubled("\"messages\":[1]"), about("messages")),
        (
            with("stream_options", json!({})).replacen('{', "{\"stream_\\u006fptions\":null,", 1),
            about("stream_options"),
        ),
    ];
    for model in [json!(null), json!(7), json!(""), json!("a b"), json!("a\n"), json!("ü"), json!("a".repeat(129))] {
        table.push((with("model", model), about("model")));
    }
    for messages in [json!(null), json!([]), json!({}), json!("hello"), json!(1)] {
        table.push((with("messages", messages), about("messages")));
    }
    for stream in [json!("true"), json!(1), json!([])] {
        table.push((with("stream", stream), about("stream")));
    }
    for number in [json!(0), json!(-1), json!(1.5), json!("7"), json!(1_i64 << 40), json!(true)] {
        for key in ["max_tokens", "max_completion_tokens", "n"] {
            table.push((with(key, number.clone()), about(key)));
        }
    }
    for options in [json!(true), json!([]), json!({"include_usage": "yes"}), json!({"include_usage": 1})] {
        table.push((with("stream_options", options), about("stream_options")));
    }
    for forbidden in ["models", "route", "fallbacks", "plugins"] {
        table.push((with(forbidden, json!([])), about(forbidden)));
        table.push((with(forbidden, json!(null)), about(forbidden)));
    }
    table.push((doubled("\"pl\\u0075gins\":[]"), about("plugins")));
    table
}

#[test]
fn bad_bodies_are_refused_by_the_field_on_one_connection() {
    let app = TestApp::start();
    let client = app.client("ann");
    run(async {
        for path in [CHAT, "/api/hasNotEngine", "/api/hasNotEngine-optimized"] {
            let mut connection = client.connect().await.unwrap();
            for (body, row) in bad_bodies() {
                let response = connection.exchange(&Request::post(path).json(&body)).await.unwrap();
                connection = refused(response, row, &body).await.response.into_connection().unwrap();
            }
        }
    });
    assert_untouched(&app);
}

#[test]
fn a_rate_and_a_concurrency_limit_say_when_to_come_back() {
    let app = TestApp::start();
    for (plan, rate) in [("slow", ["--requests-per-minute", "1"]), ("narrow", ["--concurrent-streams", "1"])] {
        app.cli(&["plan", "set", plan, "basic", "--unlimited"]);
        app.cli(&[&["plan", "rate", plan][..], &rate].concat());
        app.user(plan, plan);
    }
    settle(&app);
    let client = |user: &str| app.anonymous().bearer(&holding(user));
    run(async {
        assert_eq!(complete(&client("slow"), &chat("mock/chat+frames-2", "first")).await.status, 200);
        let told = turned_away(&client("slow"), &post(&valid()), RATE, "the rate").await;
        assert!(told.response.header("retry-after").unwrap().parse::<u32>().unwrap() <= 60);
        let mut held = chat("mock/chat+hold-after-1+frames-2", "held");
        held["stream"] = json!(true);
        let mut stream = complete(&client("narrow"), &held).await;
        assert!(stream.frame().await.unwrap().is_some());
        turned_away(&client("narrow"), &post(&valid()), RATE, "the concurrency").await;
        app.mock.release("");
        let rest = stream.text().await.unwrap();
        assert!(rest.ends_with("data: [DONE]\n\n"), "{rest:?}");
        let text = app.anonymous().get("/metrics").await.unwrap().text().await.unwrap();
        let counted = |reason| samples(&text)[&format!("hne_quota_refusals_total{{reason=\"{reason}\"}}")];
        assert_eq!(["rate", "concurrency"].map(|reason| format!("{}", counted(reason))), ["1", "1"]);
    });
    assert_eq!(app.wait_for_postings(2).len(), 2);
    assert_eq!(app.mock.totals().requests, 2);
}

#[test]
fn an_idempotency_key_in_use_is_of_one_body() {
    let app = TestApp::start();
    let client = app.client("ann");
    let keyed = |body: &Value, key: &str| post(body).header("idempotency-key", key);
    run(async {
        let mut held = chat("mock/chat+hold-after-1+frames-2", "held");
        held["stream"] = json!(true);
        let mut stream = client.send(&keyed(&held, "key")).await.unwrap();
        assert!(stream.frame().await.unwrap().is_some());
        turned_away(&client, &keyed(&valid(), "key"), KEY_IN_USE, "another body").await;
        turned_away(&client, &keyed(&valid(), "no key"), about("idempotency-key"), "a key that is none").await;
        app.mock.release("");
        assert!(stream.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    });
    assert_eq!(app.wait_for_postings(1).len(), 1);
    assert_eq!(app.mock.totals().requests, 1);
}

/// What the headers of a refusal say of a ceiling: the limit, and what remains; there must be a time until it resets.
fn limit_headers<'a>(told: &'a Refused, metric: &str) -> Option<(&'a str, &'a str)> {
    let of = |what: &str| told.response.header(&format!("x-ratelimit-{what}-{metric}"));
    assert_eq!(of("reset").map(|time| time.ends_with('s')), of("limit").map(|_| true), "{metric}");
    of("limit").zip(of("remaining"))
}

#[test]
fn a_quota_that_is_used_up_is_told_in_figures() {
    let app = TestApp::start();
    app.cli(&["plan", "set", "tiny", "basic", "--window", "month", "--requests", "1"]);
    app.user("ann", "tiny");
    settle(&app);
    let client = app.anonymous().bearer(&holding("ann"));
    run(async {
        let response = complete(&client, &chat("mock/chat+frames-2", "first")).await;
        assert_eq!(response.header("x-ratelimit-remaining-requests"), Some("0"));
        let told = turned_away(&client, &post(&valid()), QUOTA, "the quota").await;
        assert_eq!(told.response.header("x-should-retry"), Some("false"));
        assert_eq!(limit_headers(&told, "requests"), Some(("1", "0")));
        assert_eq!(limit_headers(&told, "tokens"), None, "unlimited");
        let error = &told.error;
        assert_eq!([&error["limit"], &error["remaining"]], [&json!(1), &json!(0)]);
        assert_eq!(error["used"].as_i64().unwrap() + error["reserved"].as_i64().unwrap(), 1);
        assert_eq!([&error["class"], &error["window"]], [&json!("basic"), &json!("month")]);
        let resets_at = error["resets_at"].as_str().unwrap();
        assert!(resets_at.ends_with("-01T00:00:00Z"), "{error}");
        // Whoever waits for so long doesn't come too early, but for how far the clocks are apart.
        let end = OffsetDateTime::parse(resets_at, &Rfc3339).unwrap().unix_timestamp_nanos();
        let left = end - i128::from(unix_nanos()) - 100_000_000;
        let reset = humantime::parse_duration(told.response.header("x-ratelimit-reset-requests").unwrap()).unwrap();
        assert!(i128::try_from(reset.as_nanos()).unwrap() >= left, "{reset:?} of {left} ns");
        assert!(error["message"].as_str().unwrap().contains("is used up"), "{error}");
    });
    assert_eq!(app.wait_for_postings(1).len(), 1);
    assert_eq!(app.mock.totals().requests, 1);
}

#[test]
fn a_prompt_above_what_remains_is_told_to_be_shorter() {
    let app = TestApp::start();
    app.cli(&["plan", "set", "short", "basic", "--window", "day", "--tokens", "1000"]);
    app.user("ann", "short");
    settle(&app);
    let client = app.anonymous().bearer(&holding("ann"));
    run(async {
        let told = turned_away(&client, &post(&chat("mock/chat", &"a".repeat(10_000))), QUOTA, "a long prompt").await;
        assert_eq!([&told.error["limit"], &told.error["remaining"]], [&json!(1_000), &json!(1_000)]);
        let message = told.error["message"].as_str().unwrap();
        assert!(message.contains("more than what remains") && message.contains("shorten"), "{message}");
        assert_eq!(limit_headers(&told, "tokens"), Some(("1000", "1000")));
        assert_eq!(limit_headers(&told, "requests"), None, "unlimited");
    });
    assert_untouched(&app);
}

#[test]
fn what_goes_wrong_at_the_provider_is_told_without_its_words() {
    let app = TestApp::on(Database::Postgres)
        .env("HNE__PROVIDERS__OPENROUTER__RETRIES", "0")
        .env("HNE__PROVIDERS__OPENROUTER__FIRST_BYTE_TIMEOUT", "150ms")
        .start();
    let client = app.client("ann");
    let table = [
        ("status-400", PROVIDER, Some(400)),
        ("status-401", PROVIDER, Some(401)),
        ("status-402", PROVIDER, Some(402)),
        ("status-403", PROVIDER, Some(403)),
        ("status-500", PROVIDER, Some(500)),
        ("html", PROVIDER, None),
        ("redirect", PROVIDER, Some(302)),
        ("gzip", PROVIDER, None),
        ("garbage", PROVIDER, None),
        ("reset", PROVIDER, None),
        ("close", PROVIDER, None),
        ("status-429+retry-after-7", PROVIDER_BUSY, Some(429)),
        ("hang", PROVIDER_SLOW, None),
    ];
    run(async {
        for (fault, row, status) in table {
            let told = turned_away(&client, &post(&chat(&format!("mock/chat+{fault}"), fault)), row, fault).await;
            let known = told.error.get("provider_status").and_then(Value::as_u64);
            assert!(status.is_none() || known == status, "{fault}: {}", told.error);
            assert!(!told.error.to_string().contains("mock"), "{fault}: {}", told.error);
            let wait = told.response.header("retry-after");
            assert_eq!(wait, (row.code == PROVIDER_BUSY.code).then_some("7"), "{fault}");
        }
    });
    let rows = app.wait_for_postings(table.len());
    assert!(rows.iter().all(|row| row.requests == 0 && row.prompt_tokens == 0 && row.completion_tokens == 0));
}

#[test]
fn a_full_house_says_so() {
    // As many as may run, and as many as the smallest journal can carry over into its next file.
    let full =
        [("HNE__SERVER__MAX_STREAMS", "1", 1, OVERLOADED), ("HNE__JOURNAL__SEGMENT_BYTES", "65536", 255, NO_LEDGER)];
    for (limit, value, most, row) in full {
        let app = TestApp::on(Database::Postgres).env(limit, value).env("HNE__SERVER__WORKERS", "1").start();
        let client = app.client("ann");
        run(async {
            let mut held = chat("mock/chat+hold-after-1+frames-2", "held");
            held["stream"] = json!(true);
            let mut streams = Vec::new();
            for _ in 0..most {
                let mut stream = complete(&client, &held).await;
                assert!(stream.frame().await.unwrap().is_some());
                streams.push(stream);
            }
            turned_away(&client, &post(&valid()), row, limit).await;
            app.mock.release("");
            for mut stream in streams {
                stream.frames().await.unwrap();
            }
        });
        assert_eq!(app.wait_for_postings(most).len(), most);
        assert_eq!(app.mock.totals().requests, most as u64);
    }
}

#[test]
fn a_quota_that_nobody_can_verify_is_no_quota() {
    let postgres = Postgres::start();
    let app = TestApp::on(Database::Postgres)
        .env("DATABASE_URL", postgres.fresh_database())
        .env("HNE__QUOTA__LOAD_TIMEOUT", "200ms")
        .start();
    let client = app.client("ann");
    run(async {
        // The caller is known from here on, the counts are not.
        assert_eq!(client.get("/v1/models").await.unwrap().status, 200);
        assert_eq!(client.get("/v1/models").await.unwrap().status, 200);
        postgres.freeze();
        turned_away(&client, &post(&valid()), NO_QUOTA, "a frozen database").await;
        let ready = app.anonymous().get("/readyz").await.unwrap();
        postgres.thaw();
        assert_eq!(ready.status, 200, "a database that is away doesn't fail it");
    });
    assert_untouched(&app);
}

#[test]
fn a_drain_turns_away_in_json_with_cors_and_closes() {
    let mut app = TestApp::on(Database::Postgres).env("HNE__SHUTDOWN__DELAY", "2s").start();
    let client = app.client("ann").header("origin", "https://app.example.com");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            run(async {
                while client.get("/healthz").await.unwrap().status == 200 {
                    let ready = client.get("/readyz").await.unwrap();
                    if ready.status == 503 {
                        break;
                    }
                }
                let told = turned_away(&client, &post(&valid()), DRAINING, "draining").await;
                assert_eq!(told.response.header("connection"), Some("close"));
                assert_eq!(told.response.header("access-control-allow-origin"), Some("*"));
                let mut ready = client.get("/readyz").await.unwrap();
                assert_eq!(ready.json().await.unwrap()["status"], "draining");
                let metrics = client.get("/metrics").await.unwrap().text().await.unwrap();
                assert!(metrics.contains("hne_errors_total{code=\"draining\"} 1\n"), "{metrics}");
            });
        });
        app.stop();
    });
    assert_untouched(&app);
}
