//! «What is charged», row by row.

use hne_load::client::Request;
use serde_json::Value;

use super::{Charge, caller, charges, last_error, text};
use crate::harness::app::{DEADLINE, Database, TestApp, chat, complete, run, stream};

/// Plays a stream to its end for each (user, options of the model).
fn play(app: &TestApp, cases: &[(&str, &str)]) -> Vec<Value> {
    let bodies: Vec<_> = cases.iter().map(|(user, options)| chat(&format!("mock/chat+{options}"), user)).collect();
    run(async {
        for ((user, _), body) in cases.iter().zip(&bodies) {
            let frames = stream(&caller(app, user), body).await.frames().await.unwrap();
            assert!(frames.last().unwrap().is_done(), "{user}: {frames:?}");
            assert_eq!(frames.iter().filter(|frame| frame.is_done()).count(), 1, "{user}");
        }
    });
    bodies
}

#[test]
fn a_finished_stream_is_charged_as_the_provider_says() {
    let app = TestApp::on(Database::Sqlite).start();
    let cases = [
        ("last", "usage-last+prompt-11+completion-7"),
        ("apart", "usage-apart+prompt-11+completion-7"),
        ("openrouter", "usage-openrouter+prompt-11+completion-7"),
        ("twice", "usage-twice+prompt-11+completion-7"),
        ("running", "usage-running+prompt-11+frames-7"),
        ("unfinished", "no-finish+prompt-11+completion-7"),
        ("unterminated", "no-done+prompt-11+completion-7"),
    ];
    play(&app, &cases);
    let rows = app.wait_for_postings(cases.len());
    for (user, _) in cases {
        assert_eq!(charges(&rows, user), [Charge::reported("completed", 11, 7)], "{user}");
    }
}

#[test]
fn the_cost_is_the_providers_or_tokens_times_price() {
    let app = TestApp::on(Database::Sqlite).start();
    let prices = ["--input-price", "2", "--output-price", "10"];
    let models = [
        ("priced", "prompt-100+completion-7"),
        ("told", "prompt-100+completion-7+cost-0.00012"),
        ("absurd", "prompt-100+completion-7+cost-9000000000"),
    ];
    for (id, options) in models {
        let upstream = format!("mock/{id}+{options}");
        let model = ["model", "add", id, "--class", "basic", "--provider", "openrouter", "--upstream-model", &upstream];
        app.cli(&[&model[..], &prices].concat());
    }
    run(async {
        for (id, _) in models {
            let frames = stream(&caller(&app, id), &chat(id, id)).await.frames().await.unwrap();
            assert!(frames.last().unwrap().is_done());
        }
    });
    let rows = app.wait_for_postings(3);
    let charge = Charge::reported("completed", 100, 7);
    for id in ["priced", "absurd"] {
        assert_eq!(charges(&rows, id), [charge.costing(100 * 2_000 + 7 * 10_000)], "{id}");
    }
    assert_eq!(charges(&rows, "told"), [charge.costing(120_000)]);
}

#[test]
fn a_finished_stream_without_valid_usage_is_estimated() {
    let app = TestApp::on(Database::Sqlite).start();
    let cases = [
        ("none", "usage-none"),
        ("null", "usage-null"),
        ("negative", "usage-negative"),
        ("huge", "usage-huge"),
        ("string", "usage-string"),
        ("apart", "usage-none+no-done"),
    ];
    let bodies = play(&app, &cases);
    let rows = app.wait_for_postings(cases.len());
    for ((user, _), body) in cases.iter().zip(&bodies) {
        // Five frames of eight bytes.
        assert_eq!(charges(&rows, user), [Charge::estimated("completed", body, 10)], "{user}");
    }
}

#[test]
fn many_small_frames_are_estimated_by_their_number() {
    let app = TestApp::on(Database::Sqlite).start();
    let bodies = play(&app, &[("small", "usage-none+frames-9+bytes-1"), ("large", "usage-none+frames-2+bytes-41")]);
    let rows = app.wait_for_postings(2);
    assert_eq!(charges(&rows, "small"), [Charge::estimated("completed", &bodies[0], 9)]);
    assert_eq!(charges(&rows, "large"), [Charge::estimated("completed", &bodies[1], 21)]);
}

#[test]
fn a_stream_that_the_provider_breaks_off_is_estimated() {
    let app = TestApp::on(Database::Sqlite).env("HNE__PROVIDERS__OPENROUTER__GAP_TIMEOUT", "200ms").start();
    let cases = [
        ("reset", "reset-after-3", "provider_error", "provider_error", 3),
        ("half", "close-after-3", "provider_error", "provider_error", 3),
        ("clean", "neither+usage-none", "provider_error", "provider_error", 5),
        ("truncated", "truncate-at-500", "provider_error", "provider_error", 2),
        ("told", "error-after-3", "502", "provider_error", 3),
        ("stalled", "stall-after-3", "provider_timeout", "deadline", 3),
    ];
    let bodies: Vec<_> = cases.iter().map(|case| chat(&format!("mock/chat+{}", case.1), case.0)).collect();
    run(async {
        for ((user, _, code, _, frames), body) in cases.iter().zip(&bodies) {
            let answer = stream(&caller(&app, user), body).await.frames().await;
            let answer = answer.unwrap_or_else(|error| panic!("{user}: {error}"));
            assert_eq!(text(&answer).len(), frames * 8, "{user}: {answer:?}");
            assert_eq!(last_error(&answer), *code, "{user}");
        }
    });
    let rows = app.wait_for_postings(cases.len());
    for ((user, _, _, outcome, frames), body) in cases.iter().zip(&bodies) {
        let completion = i64::try_from(frames * 2).unwrap();
        assert_eq!(charges(&rows, user), [Charge::estimated(outcome, body, completion)], "{user}");
    }
    assert_eq!(app.mock.totals().requests, cases.len() as u64, "nothing is tried again after the first frame");
}

#[test]
fn usage_that_came_before_the_break_counts() {
    let mut app = TestApp::on(Database::Sqlite).start();
    app.unbalanced();
    run(async {
        let body = chat("mock/chat+neither+prompt-11+completion-7", "reported");
        let frames = stream(&caller(&app, "reported"), &body).await.frames().await.unwrap();
        assert_eq!(last_error(&frames), "provider_error");
    });
    assert_eq!(charges(&app.wait_for_postings(1), "reported"), [Charge::reported("provider_error", 11, 7)]);
}

#[test]
fn a_client_that_leaves_before_the_first_frame_is_charged_its_prompt() {
    let app = TestApp::on(Database::Sqlite).start();
    let (streamed, whole) = (chat("mock/chat+hold-head", "streamed"), chat("mock/chat+hold-head", "whole"));
    run(async {
        for (body, path) in [(&streamed, "/api/hasNotEngine-optimized"), (&whole, "/v1/chat/completions")] {
            let marker = body["messages"][0]["content"].as_str().unwrap();
            let mut connection = caller(&app, marker).connect().await.unwrap();
            connection.send(&Request::post(path).json(&body.to_string())).await.unwrap();
            app.mock.wait_for(|books| books.iter().any(|entry| entry.marker == marker), DEADLINE).await.unwrap();
            connection.close();
            app.mock.wait_for_end(marker, DEADLINE).await.unwrap();
        }
    });
    let rows = app.wait_for_postings(2);
    assert_eq!(charges(&rows, "streamed"), [Charge::estimated("client_gone", &streamed, 0)]);
    assert_eq!(charges(&rows, "whole"), [Charge::estimated("client_gone", &whole, 0)]);
}

#[test]
fn a_client_that_leaves_in_mid_stream_is_charged_what_was_sent() {
    let app = TestApp::on(Database::Sqlite).start();
    let body = chat("mock/chat+frames-9+hold-after-3", "gone");
    run(async {
        let mut response = stream(&caller(&app, "gone"), &body).await;
        for _ in 0..3 {
            assert!(response.frame().await.unwrap().unwrap().content().is_some());
        }
        response.close();
        let entry = app.mock.wait_for_end("gone", DEADLINE).await.unwrap();
        assert_eq!(entry.ending, hne_load::mock::Ending::ClientGone);
    });
    assert_eq!(charges(&app.wait_for_postings(1), "gone"), [Charge::estimated("client_gone", &body, 6)]);
}

#[test]
fn refusals_leave_no_row() {
    let app = TestApp::on(Database::Sqlite).start();
    let client = caller(&app, "refused");
    run(async {
        assert_eq!(complete(&client, &chat("unknown", "x")).await.status, 404);
        assert_eq!(client.post_json("/v1/chat/completions", "{").await.unwrap().status, 400);
        assert_eq!(app.anonymous().post_json("/v1/chat/completions", "{}").await.unwrap().status, 401);
        assert_eq!(complete(&client, &chat("mock/chat", "counted")).await.status, 200);
    });
    assert_eq!(app.wait_for_postings(1).len(), 1);
    assert_eq!(app.mock.totals().requests, 1);
}
