//! Providers that go on failing: breakers and retry budgets. One worker, since each has its own.

use std::time::Duration;

use hne_load::{client::Client, clock, mock::Entry};
use serde_json::Value;

use super::{Charge, caller, charges, failures::add_models, last_error};
use crate::harness::app::{AppBuilder, DEADLINE, Database, TestApp, chat, complete, run};

/// So many attempts are enough to tell.
const ENOUGH: usize = 4;

fn app(variables: &[(&str, &str)]) -> AppBuilder {
    let app = TestApp::on(Database::Sqlite)
        .env("HNE__SERVER__WORKERS", "1")
        .env("HNE__PROVIDERS__OPENROUTER__RETRIES", "0")
        .env("HNE__PROVIDERS__OPENROUTER__FIRST_BYTE_TIMEOUT", "150ms")
        .env("HNE__PROVIDERS__OPENROUTER__BREAKER_MIN_ATTEMPTS", ENOUGH.to_string())
        .env("HNE__PROVIDERS__OPENROUTER__BREAKER_OPEN", "10m");
    variables.iter().fold(app, |app, (name, value)| app.env(&format!("HNE__PROVIDERS__OPENROUTER__{name}"), *value))
}

/// What the caller of a model is told: the status, `retry-after` and the error.
async fn told(client: &Client, model: &str, streamed: bool) -> (u16, Option<u64>, Value) {
    let mut body = chat(model, "hello");
    body["stream"] = streamed.into();
    let mut response = complete(client, &body).await;
    let retry_after = response.header("retry-after").map(|seconds| seconds.parse().unwrap());
    let text = response.text().await.unwrap();
    let error = if response.status == 200 { Value::Null } else { serde_json::from_str(&text).unwrap() };
    (response.status, retry_after, error)
}

/// The attempts that the mock has seen at a model.
fn asked(app: &TestApp, model: &str) -> Vec<Entry> {
    app.mock.books().into_iter().filter(|entry| entry.model == model).collect()
}

/// The value of a series of the provider.
async fn counted(app: &TestApp, family: &str, labels: &str) -> u64 {
    let text = app.anonymous().get("/metrics").await.unwrap().text().await.unwrap();
    let series = format!("{family}{{provider=\"openrouter\"{labels}}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&series));
    value.unwrap_or_else(|| panic!("{series}")).parse().unwrap()
}

#[test]
fn a_model_that_fails_is_spared_and_its_callers_are_told_the_same() {
    let mut app = app(&[]).start();
    let cases = [
        // As long as no connection is kept: a request over one that ends goes over another.
        ("mock/chat+reset", 502, "provider_error"),
        ("mock/chat+status-500", 502, "provider_error"),
        ("mock/chat+error-first", 502, "provider_error"),
        ("mock/chat+html", 502, "provider_error"),
        ("mock/chat+hang", 504, "provider_timeout"),
        ("mock/chat+status-429+retry-after-70", 503, "provider_overloaded"),
    ];
    run(async {
        let client = caller(&app, "unlucky");
        for (model, status, code) in cases {
            let (first, first_wait, error) = told(&client, model, true).await;
            assert_eq!((first, error["error"]["code"].as_str()), (status, Some(code)), "{model}");
            for round in 1..20 {
                let (again, wait, same) = told(&client, model, round % 2 == 0).await;
                assert_eq!((again, &same), (status, &error), "{model}, round {round}");
                let still = |wait: u64| first_wait.is_some_and(|first| wait > 0 && wait <= first);
                assert!(wait.map_or(first_wait.is_none(), still), "{model}: {wait:?}");
            }
            assert_eq!(asked(&app, model).len(), ENOUGH, "{model}");
        }
        let fine = told(&client, "mock/other+prompt-11+completion-7", false).await;
        assert_eq!(fine, (200, None, Value::Null), "other models of the provider are asked");
        let opened = u64::try_from(cases.len()).unwrap();
        assert_eq!(counted(&app, "hne_breaker_openings_total", "").await, opened);
        assert_eq!(counted(&app, "hne_open_breakers", "").await, opened);
        let spared = counted(&app, "hne_upstream_failures_total", ",reason=\"breaker_open\"").await;
        assert_eq!(spared, opened * 16);
    });
    assert_eq!(app.stop(), 0);
    let mut expected = vec![Charge::nothing("provider_error"); cases.len() * ENOUGH];
    expected.push(Charge::reported("completed", 11, 7));
    assert_eq!(charges(&app.postings(), "unlucky"), expected, "where nobody was asked there is no row");
}

#[test]
fn the_fallback_takes_over() {
    let mut app = app(&[]).start();
    add_models(&app, &[("one", "basic", "1", "status-500"), ("two", "basic", "2", "prompt-5+completion-7")]);
    run(async {
        let client = caller(&app, "ann");
        for round in 0..20 {
            assert_eq!(told(&client, "one", round % 2 == 0).await.0, 200, "round {round}");
        }
    });
    assert_eq!(asked(&app, "mock/one+status-500").len(), ENOUGH);
    assert_eq!(app.stop(), 0);
    assert_eq!(charges(&app.postings(), "ann"), [Charge::reported("completed", 5, 7).costing(14_000); 20]);
}

#[test]
fn a_fallback_that_is_not_asked_has_no_row() {
    let mut app = app(&[]).start();
    add_models(&app, &[("one", "basic", "1", "status-500"), ("two", "premium", "2", "status-503")]);
    run(async {
        let client = app.client("ann");
        for _ in 0..ENOUGH {
            assert_eq!(told(&client, "two", false).await.0, 502);
        }
        let (status, _, error) = told(&client, "one", false).await;
        assert_eq!((status, &error["error"]["provider_status"]), (502, &503.into()), "as the fallback would answer");
    });
    assert_eq!(asked(&app, "mock/two+status-503").len(), ENOUGH);
    assert_eq!(app.stop(), 0);
    let mut expected = vec!["premium"; ENOUGH];
    expected.push("basic");
    let rows = app.postings();
    assert_eq!(rows.iter().map(|row| &*row.class).collect::<Vec<_>>(), expected);
}

/// Asks until there is an answer; whoever isn't answered is told the same. Returns how many were not.
async fn until_answered(client: &Client, model: &str) -> usize {
    let started = clock::now();
    for refused in 0.. {
        let (status, _, error) = told(client, model, true).await;
        if status == 200 {
            return refused;
        }
        assert_eq!((status, error["error"]["provider_status"].as_u64()), (502, Some(500)), "{error}");
        assert!(started.elapsed() < DEADLINE, "never answered");
    }
    unreachable!()
}

#[test]
fn a_probe_closes_the_breaker_and_one_that_fails_doubles_the_wait() {
    let app = app(&[("BREAKER_OPEN", "150ms")]).start();
    let model = "mock/chat+prompt-11+completion-7+fail-first-5";
    run(async {
        let client = caller(&app, "patient");
        let refused = until_answered(&client, model).await;
        assert!(refused > ENOUGH + 1, "{refused}");
        for _ in 0..10 {
            assert_eq!(told(&client, model, true).await.0, 200);
        }
        assert_eq!(counted(&app, "hne_breaker_openings_total", "").await, 2);
        assert_eq!(counted(&app, "hne_open_breakers", "").await, 0);
    });
    let asked = asked(&app, model);
    assert_eq!(asked.len(), 5 + 11, "four that failed, a probe that failed, one that was answered");
    let apart = |index: usize| asked[index].received_at - asked[index - 1].received_at;
    assert!(apart(ENOUGH) >= Duration::from_millis(150), "{:?}", apart(ENOUGH));
    assert!(apart(ENOUGH + 1) >= Duration::from_millis(300), "{:?}", apart(ENOUGH + 1));
}

#[test]
fn a_single_failure_never_opens_the_breaker() {
    let app = app(&[("BREAKER_MIN_ATTEMPTS", "2"), ("BREAKER_FAILURE_PERCENT", "1")]).start();
    let model = "mock/chat+prompt-11+completion-7+fail-first-1";
    run(async {
        let client = caller(&app, "ann");
        assert_eq!(told(&client, model, true).await.0, 502);
        for _ in 0..30 {
            assert_eq!(told(&client, model, true).await.0, 200);
        }
    });
}

#[test]
fn what_is_no_fault_of_the_provider_s_never_opens_it() {
    let app = app(&[]).start();
    run(async {
        let client = caller(&app, "ann");
        for status in [400, 401, 403, 404, 413, 422] {
            let model = format!("mock/chat+status-{status}");
            for _ in 0..10 {
                assert_eq!(told(&client, &model, true).await.0, 502, "{status}");
            }
            assert_eq!(asked(&app, &model).len(), 10, "{status}");
        }
        assert_eq!(counted(&app, "hne_breaker_openings_total", "").await, 0);
    });
}

#[test]
fn answers_that_break_off_open_it_too() {
    let app = app(&[("GAP_TIMEOUT", "150ms")]).start();
    run(async {
        let client = caller(&app, "unlucky");
        for (fault, code) in [
            ("close-after-1", "provider_error"),
            ("error-after-1", "mock_error"),
            ("stall-after-1", "provider_timeout"),
        ] {
            let model = format!("mock/chat+{fault}");
            let mut body = chat(&model, fault);
            body["stream"] = true.into();
            for _ in 0..ENOUGH {
                let mut response = complete(&client, &body).await;
                assert_eq!(response.status, 200, "{fault}");
                let code_told = last_error(&response.frames().await.unwrap());
                assert!(code_told == code || fault.starts_with("error"), "{fault}: {code_told}");
            }
            for _ in 0..ENOUGH {
                let (status, _, error) = told(&client, &model, true).await;
                let same = if code == "provider_timeout" { (504, code) } else { (502, "provider_error") };
                assert_eq!((status, error["error"]["code"].as_str()), (same.0, Some(same.1)), "{fault}");
            }
            assert_eq!(asked(&app, &model).len(), ENOUGH, "{fault}");
        }
    });
}

#[test]
fn retries_are_a_tenth_of_the_requests_and_a_few() {
    let app = app(&[("RETRIES", "1"), ("BREAKER_FAILURE_PERCENT", "0")]).start();
    let model = "mock/chat+status-500";
    let took = run(async {
        let (client, started) = (caller(&app, "unlucky"), clock::now());
        for _ in 0..100 {
            assert_eq!(told(&client, model, true).await.0, 502);
        }
        started.elapsed()
    });
    // Ten for each time that the window is over, and a tenth.
    let windows = usize::try_from(took.as_secs() / 9 + 1).unwrap();
    let retries = asked(&app, model).len() - 100;
    assert!((11..=10 * windows + 10).contains(&retries), "{retries} in {took:?}");
    run(async {
        assert_eq!(counted(&app, "hne_upstream_retries_total", "").await, u64::try_from(retries).unwrap());
        assert_eq!(counted(&app, "hne_refused_retries_total", "").await, u64::try_from(100 - retries).unwrap());
    });
}
