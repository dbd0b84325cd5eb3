//! What operators and admins read: `/metrics`, `/healthz`, `/readyz`, the performance report.

use std::{collections::BTreeMap, time::Duration};

use hne_load::client::Request;
use serde_json::{Value, json};

use super::{CHAT, post, valid};
use crate::harness::{
    app::{Database, TestApp, chat, complete, run},
    servers::Postgres,
};

/// Reads the text format; panics at a line that is none.
pub(super) fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let bare = name.split('{').next().unwrap();
            assert!(bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{line}");
            assert!(name.len() == bare.len() || name.ends_with('}'), "{line}");
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

pub(super) fn sum(samples: &BTreeMap<String, f64>, family: &str) -> f64 {
    samples.iter().filter(|(name, _)| name.split('{').next() == Some(family)).map(|(_, value)| value).sum()
}

#[test]
fn metrics_are_prometheus_s_move_and_name_nobody() {
    let app = TestApp::start();
    let client = app.client("ann-the-user");
    let read = async || {
        let mut response = app.anonymous().get("/metrics").await.unwrap();
        assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        response.text().await.unwrap()
    };
    run(async {
        let before = samples(&read().await);
        assert!(before.keys().any(|name| name.starts_with("hne_")));
        for _ in 0..3 {
            assert_eq!(client.send(&post(&valid())).await.unwrap().status, 200);
        }
        assert_eq!(app.anonymous().send(&post(&valid())).await.unwrap().status, 401);
        let text = read().await;
        let after = samples(&text);
        let grown = |family: &str| sum(&after, family) - sum(&before, family);
        for (family, by) in [("hne_requests_total", 4.0), ("hne_errors_total", 1.0)] {
            assert!((grown(family) - by).abs() < 0.5, "{family}: {text}");
        }
        let moving =
            ["hne_connections_total", "hne_auth_lookups_total", "hne_upstream_attempts_total", "hne_store_calls_total"];
        for family in moving {
            assert!(grown(family) > 0.5, "{family}: {text}");
        }
        for family in ["hne_open_connections", "hne_reloads_total"] {
            assert!(sum(&after, family) > 0.5, "{family}: {text}");
        }
        for secret in ["ann-the-user", "127.0.0.1", "mock/chat"] {
            assert!(!text.contains(secret), "{secret}");
        }
    });
}

#[test]
fn health_and_readiness_name_every_dependency_and_outlive_the_database() {
    let postgres = Postgres::start();
    let app = TestApp::on(Database::Postgres).env("DATABASE_URL", postgres.fresh_database()).redis().start();
    let client = app.client("ann");
    run(async {
        assert_eq!(client.send(&post(&valid())).await.unwrap().status, 200);
        let mut health = app.anonymous().get("/healthz").await.unwrap();
        assert_eq!((health.status, health.json().await.unwrap()), (200, json!({"status": "ok"})));
        let database = async || {
            let mut ready = app.anonymous().get("/readyz").await.unwrap();
            assert_eq!(ready.header("cache-control"), Some("no-store"));
            let body: Value = ready.json().await.unwrap();
            assert_eq!((ready.status, &body["status"]), (200, &json!("ready")), "{body}");
            let all = body["dependencies"].as_array().unwrap().clone();
            for name in ["database", "redis", "ledger", "provider"] {
                assert!(all.iter().any(|entry| entry["name"] == name), "{name}: {body}");
            }
            assert!(all.iter().all(|entry| entry["message"].as_str().is_some_and(|text| !text.is_empty())));
            all.iter().find(|entry| entry["name"] == "database").unwrap()["ok"].clone()
        };
        assert_eq!(database().await, true);
        postgres.freeze();
        let started = hne_load::clock::now();
        let frozen = database().await;
        let took = started.elapsed();
        let served = client.send(&post(&valid())).await.unwrap().status;
        postgres.thaw();
        assert_eq!((frozen, served), (json!(false), 200), "a warm account is served");
        assert!(took < Duration::from_secs(2), "{took:?}");
    });
}

#[test]
fn the_report_has_the_promised_shape_and_moves() {
    let app = TestApp::start();
    let client = app.client("ann");
    let report = async || {
        let mut response = app.admin().get("/api/admin/performance").await.unwrap();
        assert_eq!((response.status, response.header("cache-control")), (200, Some("no-store")));
        response.json().await.unwrap()
    };
    run(async {
        let before = report().await;
        for path in [
            "/performance/totalRequests",
            "/performance/averageResponseTime",
            "/performance/slowRequests",
            "/database/totalConnections",
            "/database/activeConnections",
            "/memory/heapUsed",
            "/memory/heapTotal",
            "/errors/total/rate",
            "/errors/timeouts/rate",
            "/errors/database/rate",
            "/resources/cpu/share",
            "/resources/memory/share",
            "/resources/pool/share",
            "/resources/openStreams",
            "/resources/ledger/rows",
            "/resources/estimatedShare",
            "/uptimeSeconds",
        ] {
            assert!(before.pointer(path).is_some_and(Value::is_number), "{path}: {before}");
        }
        for window in ["1m", "5m", "1h", "start"] {
            for stage in ["auth", "quota", "database", "connect", "ttft", "overhead", "total"] {
                let path = format!("/windows/{window}/{stage}");
                let figures = before.pointer(&path).unwrap_or_else(|| panic!("{path}: {before}"));
                for key in ["count", "mean", "p50", "p95", "p99", "max", "target", "ok"] {
                    assert!(figures.get(key).is_some(), "{path}/{key}: {figures}");
                }
            }
        }
        assert_eq!(before["alerts"].as_array().unwrap().len(), 4);
        for alert in before["alerts"].as_array().unwrap() {
            assert!(["name", "state", "since", "value", "threshold"].iter().all(|key| alert.get(key).is_some()));
        }
        for _ in 0..3 {
            assert_eq!(client.send(&post(&valid())).await.unwrap().status, 200);
        }
        let slow = chat("mock/chat+frames-1+first-600ms", "slow");
        assert_eq!(client.send(&post(&slow)).await.unwrap().status, 200);
        let total = |report: &Value| report["performance"]["totalRequests"].as_i64().unwrap();
        let after = report().await;
        assert_eq!(total(&after), total(&before) + 4, "{after}");
        assert_eq!(after["performance"]["slowRequests"], 1);
        assert!(after["performance"]["averageResponseTime"].as_f64().unwrap() > 100.0, "{after}");
        assert!(after["windows"]["1m"]["ttft"]["count"].as_i64().unwrap() >= 4, "{after}");
        assert!(after["database"]["totalConnections"].as_i64().unwrap() >= 1, "{after}");
        assert!(after["memory"]["heapTotal"].as_f64().unwrap() > 1.0, "{after}");
    });
}

#[test]
fn connecting_is_no_part_of_what_a_provider_takes() {
    let app = TestApp::on(Database::Sqlite).start();
    let client = app.client("ann");
    let report: Value = run(async {
        for _ in 0..4 {
            assert_eq!(complete(&client, &chat("mock/chat+first-300ms", "slow")).await.status, 200);
        }
        app.admin().get("/api/admin/performance").await.unwrap().json().await.unwrap()
    });
    let [connect, ttft] = ["connect", "ttft"].map(|stage| &report["windows"]["start"][stage]);
    assert_eq!((&connect["count"], &ttft["count"]), (&json!(4), &json!(4)), "{report}");
    assert!(connect["p50"].as_f64().unwrap() < 100.0 && ttft["p50"].as_f64().unwrap() > 250.0, "{report}");
}

#[test]
fn what_providers_took_in_vain_is_no_overhead_of_ours() {
    let app = TestApp::on(Database::Sqlite).env("HNE__PROVIDERS__OPENROUTER__FIRST_BYTE_TIMEOUT", "500ms").start();
    let add = |id, upstream| {
        ["model", "add", id, "--class", "basic", "--provider", "openrouter", "--upstream-model", upstream]
    };
    app.cli(&add("stands", "mock/chat"));
    app.cli(&[&add("falls", "mock/chat+hang")[..], &["--fallback", "stands"]].concat());
    super::settle(&app);
    let report: Value = run(async {
        assert_eq!(complete(&app.client("ann"), &chat("falls", "hello")).await.status, 200);
        app.admin().get("/api/admin/performance").await.unwrap().json().await.unwrap()
    });
    let [ttft, overhead] = ["ttft", "overhead"].map(|stage| report["windows"]["start"][stage]["max"].as_f64().unwrap());
    assert!(ttft >= 500.0 && overhead < 400.0, "{report}");
}

#[test]
fn the_memory_limit_is_reported_as_it_is_configured() {
    let app = TestApp::on(Database::Sqlite).env("HNE__SERVER__MEMORY_LIMIT_MB", "512").start();
    let report: Value = run(async { app.admin().get("/api/admin/performance").await.unwrap().json().await.unwrap() });
    assert_eq!(report["resources"]["memory"]["limit"], 512.0, "{report}");
}

#[test]
fn every_error_is_counted_once_whoever_answers() {
    let app = TestApp::on(Database::Sqlite).start();
    let (ann, stranger) = (app.client("ann"), app.anonymous());
    let report = "/api/admin/performance";
    let preflight = Request::new("OPTIONS", CHAT).header("origin", "https://a.example");
    let table = [
        ("not_found", &stranger, Request::get("/nowhere")),
        ("method_not_allowed", &stranger, Request::new("DELETE", "/v1/models")),
        ("invalid_api_key", &stranger, Request::new("HEAD", report).header("connection", "close")),
        ("admin_required", &ann, Request::get(report)),
        ("model_not_found", &ann, Request::get("/v1/models/none")),
        ("invalid_value", &stranger, preflight.header("access-control-request-method", "DELETE")),
        ("invalid_api_key", &stranger, post(&valid())),
        ("invalid_json", &ann, post(&valid()).body("{")),
        ("provider_error", &ann, post(&chat("mock/chat+status-400", "fails"))),
    ];
    let counted = async || {
        let text = app.anonymous().get("/metrics").await.unwrap().text().await.unwrap();
        let samples = samples(&text).into_iter();
        let of = |name: &str| name.starts_with("hne_errors_total{") || name.starts_with("hne_requests_total{");
        samples.filter(|(name, value)| of(name) && *value > 0.5).map(|(name, value)| (name, value.round())).collect()
    };
    run(async {
        let mut expected: BTreeMap<String, f64> = counted().await;
        assert_eq!(expected, BTreeMap::new());
        for (code, client, request) in &table {
            client.send(request).await.unwrap().bytes().await.unwrap();
            let outcome = if *code == "provider_error" { "provider_error" } else { "refused" };
            *expected.entry(format!("hne_errors_total{{code=\"{code}\"}}")).or_default() += 1.0;
            *expected.entry(format!("hne_requests_total{{outcome=\"{outcome}\"}}")).or_default() += 1.0;
            assert_eq!(counted().await, expected, "{request:?}");
        }
        let seen: Value = app.admin().get(report).await.unwrap().json().await.unwrap();
        assert_eq!(seen["errors"]["byCode"].as_object().unwrap().values().filter_map(Value::as_u64).sum::<u64>(), 9);
        assert_eq!(
            (&seen["performance"]["totalRequests"], &seen["errors"]["byCode"]["invalid_api_key"]),
            (&json!(9), &json!(2))
        );
        // Of these only the provider's failure is no client's fault.
        assert_eq!((&seen["errors"]["total"]["count"], &seen["errors"]["total"]["rate"]), (&json!(1), &json!(1.0)));
    });
}
