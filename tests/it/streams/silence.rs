//! Silence: keep-alives, deadlines, and the drain's grace.

use std::time::Duration;

use super::{Charge, caller, charges, last_error};
use crate::harness::app::{DEADLINE, Database, TestApp, chat, complete, post, run, stream};

#[test]
fn comments_are_sent_while_the_provider_is_silent() {
    let app = TestApp::on(Database::Sqlite)
        .env("HNE__STREAM__KEEPALIVE", "100ms")
        .env("HNE__STREAM__COMMIT_AFTER", "10ms")
        .start();
    run(async {
        let between = "mock/chat+hold-after-2";
        let mut response = stream(&caller(&app, "reader"), &chat(between, "between")).await;
        let mut content = 0;
        while content < 2 {
            content += usize::from(response.frame().await.unwrap().unwrap().content().is_some());
        }
        for _ in 0..3 {
            let frame = response.frame().await.unwrap().unwrap();
            assert_eq!(&frame.raw[..], b": keepalive\n\n");
        }
        app.mock.release(between);
        assert!(response.frames().await.unwrap().last().unwrap().is_done());

        let before = "mock/chat+hold-head";
        for path in ["/api/hasNotEngine-optimized", "/v1/chat/completions"] {
            let mut body = chat(before, path);
            body["stream"] = true.into();
            let mut response = caller(&app, "reader").send(&post(path, &body)).await.unwrap();
            assert_eq!(response.status, 200);
            for _ in 0..3 {
                assert!(response.frame().await.unwrap().unwrap().is_comment());
            }
            response.close();
        }
    });
    let rows = app.wait_for_postings(3);
    assert_eq!(charges(&rows, "reader").iter().filter(|charge| charge.outcome == "client_gone").count(), 2);
}

#[test]
fn a_provider_that_is_silent_before_its_first_frame_is_too_slow() {
    let app = TestApp::on(Database::Sqlite).env("HNE__PROVIDERS__OPENROUTER__FIRST_BYTE_TIMEOUT", "200ms").start();
    run(async {
        // The head is no frame; the last one's first frame takes a second to become whole.
        for options in ["hold-head", "hold-after-0", "hold-after-0+comments", "first-150ms+head-150ms", "drip-5ms"] {
            let mut body = chat(&format!("mock/chat+{options}"), options);
            body["stream"] = true.into();
            assert_eq!(complete(&caller(&app, "reader"), &body).await.status, 504, "{options}");
            app.mock.wait_for_end(options, Duration::from_secs(5)).await.unwrap();
        }
    });
    assert_eq!(charges(&app.wait_for_postings(5), "reader"), [Charge::nothing("provider_error"); 5]);
}

#[test]
fn a_deadline_over_all_cuts_what_has_begun_and_refuses_what_has_not() {
    let app = TestApp::on(Database::Sqlite).env("HNE__PROVIDERS__OPENROUTER__TOTAL_TIMEOUT", "500ms").start();
    let begun = chat("mock/chat+frames-9+hold-after-4", "begun");
    run(async {
        let frames = stream(&caller(&app, "begun"), &begun).await.frames().await.unwrap();
        assert_eq!(last_error(&frames), "provider_timeout");
        let mut body = chat("mock/chat+hold-head", "silent");
        for streamed in [true, false] {
            body["stream"] = streamed.into();
            assert_eq!(complete(&caller(&app, "silent"), &body).await.status, 504);
        }
    });
    let rows = app.wait_for_postings(3);
    assert_eq!(charges(&rows, "begun"), [Charge::estimated("deadline", &begun, 8)]);
    assert_eq!(charges(&rows, "silent"), [Charge::nothing("provider_error"); 2]);
}

#[test]
fn when_the_grace_is_over_streams_end_with_an_error() {
    let mut app = TestApp::on(Database::Sqlite).env("HNE__SHUTDOWN__GRACE", "100ms").start();
    let (begun, silent) = (chat("mock/chat+frames-9+hold-after-2", "begun"), chat("mock/chat+hold-head", "silent"));
    let mut app = run(async move {
        let mut response = stream(&caller(&app, "begun"), &begun).await;
        response.frame().await.unwrap();
        let mut waiting = stream(&caller(&app, "silent"), &silent).await;
        assert!(waiting.frame().await.unwrap().unwrap().is_comment());
        let app = tokio::task::spawn_blocking(move || {
            assert_eq!(app.stop(), 0);
            app
        });
        for response in [&mut response, &mut waiting] {
            assert_eq!(last_error(&response.frames().await.unwrap()), "draining");
        }
        let app = app.await.unwrap();
        let rows = app.postings();
        assert_eq!(charges(&rows, "begun"), [Charge::estimated("shutdown", &begun, 4)]);
        assert_eq!(charges(&rows, "silent"), [Charge::estimated("shutdown", &silent, 0)]);
        app
    });
    assert_eq!(app.stop(), 0);
}

#[test]
fn a_slow_reader_gets_whole_frames_and_the_error_when_the_grace_is_over() {
    let mut app = TestApp::on(Database::Sqlite).env("HNE__SHUTDOWN__GRACE", "100ms").start();
    let body = chat("mock/chat+frames-6000+bytes-10000", "slow");
    run(async move {
        let mut response = stream(&caller(&app, "slow").receive_buffer(4_096), &body).await;
        app.mock.wait_for(|books| books.iter().any(|entry| entry.frames > 100), DEADLINE).await.unwrap();
        let app = tokio::task::spawn_blocking(move || {
            assert_eq!(app.stop(), 0);
            app
        });
        let frames = response.frames().await.unwrap();
        assert_eq!(last_error(&frames), "draining");
        let content: Vec<_> = frames.iter().filter_map(hne_load::client::Frame::content).collect();
        for (index, content) in content.iter().enumerate() {
            assert!(content.len() == 10_000 && content.starts_with(&format!(" w{index:06}")), "frame {index}");
        }
        let app = app.await.unwrap();
        assert_eq!(charges(&app.postings(), "slow")[0].outcome, "shutdown");
    });
}
