//! Answers that go well: shapes, figures, timing, books.

use crate::harness::{SOON, chat, ended, frames, start, stream, text, whole};
use hne_load::{
    client::Frame,
    mock::{Ending, MockProvider, Options},
};
use serde_json::json;

const FIVE: &str = " w000000 w000001 w000002 w000003 w000004";

#[tokio::test]
async fn a_stream_has_content_a_finish_reason_usage_and_done() {
    let (mock, client) = start();
    let frames = frames(&client, "mock/chat+cost-0.00012").await;
    assert_eq!(text(&frames), FIVE);
    let finish = frames.get(5).unwrap().json().unwrap();
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        finish["usage"],
        json!({"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16, "cost": 0.00012})
    );
    assert!(frames.last().unwrap().is_done());
    assert_eq!(frames.len(), 7);

    let entry = ended(&mock).await;
    assert_eq!((entry.ending, entry.frames, entry.status), (Ending::Finished, 5, 200));
    assert!(entry.stream && entry.include_usage && entry.usage_sent && entry.done_sent);
    assert_eq!((entry.prompt_tokens, entry.completion_tokens), (11, 5));
    assert_eq!(entry.cost_nanodollars, Some(120_000));
    assert_eq!((entry.marker.as_str(), entry.path.as_str()), ("m", "/api/v1/chat/completions"));
    assert_eq!(entry.header("content-type"), Some("application/json"));
    assert!(entry.body.starts_with(b"{\"model\":"));
    assert!(entry.peer_closed_at.is_none());
}

#[tokio::test]
async fn every_shape_says_the_same() {
    let (_mock, client) = start();
    for shape in [
        "crlf",
        "cr",
        "comments",
        "bom",
        "tight",
        "multiline",
        "split-1",
        "split-7",
        "coalesced",
        "until-close",
        "drip-1us+split-90",
        "gap-1ms",
        "head-1ms+first-1ms",
        "bom+cr+comments+multiline+tight+split-3",
        "usage-apart",
        "usage-openrouter",
        "usage-twice",
        "usage-running",
    ] {
        let frames = frames(&client, &format!("m+prompt-7+{shape}")).await;
        assert_eq!(text(&frames), FIVE, "{shape}");
        assert!(frames.last().unwrap().is_done(), "{shape}");
        let usage = frames.iter().filter_map(|frame| frame.json()?.get("usage").cloned()).next_back();
        assert_eq!(usage.unwrap()["total_tokens"], 12, "{shape}");
    }
}

#[tokio::test]
async fn usage_comes_where_it_was_asked_to() {
    let (_mock, client) = start();
    let usages = async |model: &str| -> Vec<_> {
        frames(&client, model).await.iter().filter_map(|frame| frame.json()?.get("usage").cloned()).collect()
    };
    assert_eq!(usages("m+usage-none").await, Vec::<serde_json::Value>::new());
    assert_eq!(usages("m+usage-null").await, [json!(null)]);
    assert_eq!(usages("m+usage-negative").await.first().unwrap()["prompt_tokens"], -5);
    assert_eq!(usages("m+usage-huge").await.first().unwrap()["prompt_tokens"], 9_000_000_000_000_u64);
    assert_eq!(usages("m+usage-string+prompt-3").await.first().unwrap()["prompt_tokens"], "3");
    assert_eq!(
        usages("m+usage-twice+completion-9").await.iter().map(|u| u["completion_tokens"].clone()).collect::<Vec<_>>(),
        [4, 9]
    );
    assert_eq!(usages("m+usage-running").await.len(), 6);
    let apart = frames(&client, "m+usage-apart").await;
    assert_eq!(apart.get(6).unwrap().json().unwrap()["choices"], json!([]));
}

#[tokio::test]
async fn usage_is_not_sent_unasked() {
    let (mock, client) = start();
    let ask = |model: &str| format!(r#"{{"model":"{model}","messages":[],"stream":true}}"#);
    let mut response = client.post_json("/v1/chat/completions", &ask("m")).await.unwrap();
    assert!(
        response
            .frames()
            .await
            .unwrap()
            .iter()
            .all(|frame| frame.json().is_none_or(|json| json.get("usage").is_none()))
    );
    assert!(!ended(&mock).await.usage_sent);
    let mut response = client.post_json("/v1/chat/completions", &ask("m+usage-unasked")).await.unwrap();
    assert!(response.text().await.unwrap().contains("usage"));
}

#[tokio::test]
async fn endings_can_be_left_out() {
    let (_mock, client) = start();
    let end = async |model: &str| {
        let frames = frames(&client, model).await;
        let finished = |frame: &Frame| frame.json().is_some_and(|json| json["choices"][0]["finish_reason"] == "stop");
        (frames.iter().any(finished), frames.last().unwrap().is_done())
    };
    assert_eq!(end("m").await, (true, true));
    assert_eq!(end("m+no-done").await, (true, false));
    assert_eq!(end("m+no-finish").await, (false, true));
    assert_eq!(end("m+neither").await, (false, false));
}

#[tokio::test]
async fn content_of_every_kind() {
    let (_mock, client) = start();
    let unicode = text(&frames(&client, "m+unicode+bytes-12+split-1").await);
    assert!(unicode.contains('漢') && unicode.contains('🦀'), "{unicode}");
    let tools = frames(&client, "m+tool-calls").await;
    let call = &tools.first().unwrap().json().unwrap()["choices"][0]["delta"]["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "look_up", "arguments": " w000000"}));
    let thoughts = frames(&client, "m+reasoning").await;
    assert_eq!(thoughts.get(1).unwrap().json().unwrap()["choices"][0]["delta"]["reasoning"], " w000001");
    let mut echo = client.send(&chat("m+echo+frames-2", "who-am-i")).await.unwrap();
    assert_eq!(text(&echo.frames().await.unwrap()), "who-am-i#0 who-am-i#1 ");
    let stamps = text(&frames(&client, "m+stamp+frames-1").await);
    assert!(stamps.parse::<u64>().unwrap() > 1_700_000_000_000_000_000, "{stamps}");
    let stamps = text(&frames(&client, "m+stamp+frames-2+coalesced").await);
    assert!(!stamps.contains("000000000000"), "{stamps}");
    assert_eq!(text(&frames(&client, "m+bytes-20+frames-1").await), " w000000xxxxxxxxxxxx");
    assert_eq!(text(&frames(&client, "m+bytes-70000+frames-1").await).len(), 70_000);
}

#[tokio::test]
async fn a_whole_answer_has_the_same_figures() {
    let (mock, client) = start();
    for model in ["m+prompt-7", "m+prompt-7+chunked", "m+prompt-7+chunked+split-5"] {
        let json = client.send(&whole(model)).await.unwrap().json().await.unwrap();
        assert_eq!(json["choices"][0]["message"]["content"], FIVE);
        assert_eq!(json["usage"]["total_tokens"], 12);
    }
    assert_eq!(ended(&mock).await.ending, Ending::Finished);
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let (mock, client) = start();
    let mut connection = client.connect().await.unwrap();
    for _ in 0..3 {
        let mut response = connection.exchange(&chat("m", "again")).await.unwrap();
        assert_eq!(text(&response.frames().await.unwrap()), FIVE);
        connection = response.into_connection().unwrap();
    }
    assert_eq!(mock.totals().connections, 1);
    connection.close();
    mock.wait_for_totals(|totals| totals.open_connections == 0, SOON).await.unwrap();
    let totals = mock.totals();
    assert_eq!((totals.requests, totals.finished, totals.frames, totals.usage_sent), (3, 3, 15, 3));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_turn() {
    let (_mock, client) = start();
    let mut connection = client.connect().await.unwrap();
    connection.send(&chat("m+frames-1", "one")).await.unwrap();
    connection.send(&whole("m+frames-2")).await.unwrap();
    let mut first = connection.response().await.unwrap();
    assert_eq!(text(&first.frames().await.unwrap()), " w000000");
    let mut second = first.into_connection().unwrap().response().await.unwrap();
    assert_eq!(second.json().await.unwrap()["choices"][0]["message"]["content"], " w000000 w000001");
}

#[tokio::test]
async fn a_held_stream_goes_on_when_it_is_released() {
    let (mock, client) = start();
    let mut response = stream(&client, "m+hold-after-2").await;
    for _ in 0..2 {
        response.frame().await.unwrap().unwrap();
    }
    mock.wait_for(|books| books.first().unwrap().frames == 2, SOON).await.unwrap();
    assert_eq!(mock.open_streams(), 1);
    mock.release("m+hold-after-2");
    assert_eq!(text(&response.frames().await.unwrap()), " w000002 w000003 w000004");

    let held = tokio::spawn({
        let client = client.clone();
        async move { frames(&client, "m+hold-head").await.len() }
    });
    mock.wait_for_totals(|totals| totals.requests == 2, SOON).await.unwrap();
    mock.release("");
    assert_eq!(held.await.unwrap(), 7);
}

#[tokio::test]
async fn the_key_is_checked_and_misspelt_options_are_refused() {
    let mock = MockProvider::start(Options { api_key: Some("sk-1".into()), ..Options::default() }).unwrap();
    let client = hne_load::client::Client::new(mock.addr());
    assert_eq!(stream(&client, "m").await.status, 401);
    let client = client.bearer("sk-1");
    assert_eq!(stream(&client, "m").await.status, 200);
    let mut refused = stream(&client, "m+frame-5").await;
    assert_eq!(refused.status, 400);
    assert!(refused.text().await.unwrap().contains("`frame-5`"));
    assert_eq!(client.get("/v1/models").await.unwrap().json().await.unwrap()["object"], "list");
    assert_eq!(client.get("/nowhere").await.unwrap().status, 404);
    mock.wait_for_totals(|totals| totals.refused == 2, SOON).await.unwrap();
}

#[tokio::test]
async fn books_can_be_read_by_other_processes() {
    let (mock, client) = start();
    frames(&client, "m").await;
    ended(&mock).await;
    let books = client.get("/__books?from=0&limit=10").await.unwrap().json().await.unwrap();
    assert_eq!(books["totals"]["finished"], 1);
    let entry = &books["entries"][0];
    assert_eq!((entry["ending"].as_str(), entry["frames"].as_u64()), (Some("finished"), Some(5)));
    assert!(entry["ended_ns"].as_u64() >= entry["received_ns"].as_u64() && entry["peer_closed_ns"].is_null());
    let totals = client.get("/__books/totals").await.unwrap().json().await.unwrap();
    assert_eq!(totals["frames"], 5);
}

#[tokio::test]
async fn what_the_books_cannot_hold_is_counted() {
    let options =
        Options { max_entries: 1, keep_body: 4, threads: 2, defaults: "frames-2".into(), ..Options::default() };
    let mock = MockProvider::start(options).unwrap();
    let client = hne_load::client::Client::new(mock.addr());
    for _ in 0..3 {
        assert_eq!(text(&frames(&client, "m").await), " w000000 w000001");
    }
    mock.wait_for_totals(|totals| totals.finished == 3, SOON).await.unwrap();
    assert_eq!(mock.books().len(), 1);
    assert_eq!(&mock.books().first().unwrap().body[..], b"{\"mo");
}

#[tokio::test]
async fn a_dropped_mock_closes_everything() {
    let (mock, client) = start();
    let mut response = stream(&client, "m+stall-after-1").await;
    response.frame().await.unwrap().unwrap();
    let addr = mock.addr();
    drop(mock);
    assert!(response.frame().await.is_err());
    assert!(hne_load::client::Client::new(addr).connect().await.is_err());
}
