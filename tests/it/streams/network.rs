//! The network between the service and its provider, and the one to its client, made to misbehave.
//!
//! Whatever happens: no hang beyond the deadline and a second, whole frames and then the error frame, the right outcome.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use hne_load::{
    chaos::{ChaosProxy, Cut, Direction},
    client::{Client, Frame},
    clock,
    mock::{Ending, MockProvider, Options},
};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::{Charge, caller, charges, last_error};
use crate::harness::app::{AppBuilder, DEADLINE, Database, PROVIDER_KEY, TestApp, chat, complete, post, run, stream};

/// How much later than its deadline something may be noticed.
const GRACE: Duration = Duration::from_secs(1);

/// Makes the network go bad.
type Bad = fn(&ChaosProxy);

/// A provider behind a proxy.
struct Far {
    provider: MockProvider,
    proxy: ChaosProxy,
}

impl Far {
    fn start() -> Self {
        let options = Options { api_key: Some(PROVIDER_KEY.to_owned()), ..Options::default() };
        let provider = MockProvider::start(options).unwrap();
        let proxy = ChaosProxy::start(provider.addr()).unwrap();
        Self { provider, proxy }
    }

    /// An app that reaches this provider, doesn't ask it twice, and never gives it up.
    fn app(&self) -> AppBuilder {
        let url = self.provider.base_url().replace(&self.provider.addr().to_string(), &self.proxy.addr().to_string());
        TestApp::on(Database::Sqlite)
            .env("OPENROUTER_BASE_URL", url)
            .env("HNE__PROVIDERS__OPENROUTER__RETRIES", "0")
            .env("HNE__PROVIDERS__OPENROUTER__BREAKER_FAILURE_PERCENT", "0")
    }
}

/// What the client of a cut stream got.
struct Seen {
    status: u16,
    frames: Vec<Frame>,
}

async fn ask(client: &Client, body: &Value) -> Seen {
    let mut response = stream(client, body).await;
    let status = response.status;
    if status != 200 {
        response.bytes().await.unwrap();
        return Seen { status, frames: Vec::new() };
    }
    Seen { status, frames: response.frames().await.unwrap() }
}

/// Asks the provider itself, as the service does. Returns its frames, and the bytes of head and body on the wire.
async fn reference(far: &Far, body: &Value) -> (Vec<Frame>, u64) {
    let mut body = body.clone();
    (body["stream"], body["stream_options"]) = (true.into(), json!({"include_usage": true}));
    let client = Client::new(far.provider.addr()).bearer(PROVIDER_KEY);
    let frames = complete(&client, &body).await.frames().await.unwrap();
    let mut connection = client.connect().await.unwrap();
    connection.send(&post("/v1/chat/completions", &body)).await.unwrap();
    let mut wire = Vec::new();
    while !wire.ends_with(b"\r\n0\r\n\r\n") {
        wire.extend_from_slice(&connection.read_raw().await.unwrap());
    }
    (frames, wire.len() as u64)
}

/// Cuts the provider's answer after one byte, after two, and so on to its last.
fn cut_everywhere(cut: Cut) {
    const MODEL: &str = "mock/chat+frames-2+bytes-3+prompt-3+completion-2";
    let far = Far::start();
    let mut app = far.app().start();
    // The mock has written what the proxy has swallowed.
    app.unbalanced();
    let body = chat(MODEL, "cut");
    let mut outcomes = Vec::new();
    let (reference, bytes) = run(reference(&far, &body));
    let client = app.client("ann");
    run(async {
        for bytes in 1..=bytes {
            far.proxy.cut_after(Direction::Down, bytes, cut);
            let asked = clock::now();
            let seen = ask(&client, &body).await;
            assert!(asked.elapsed() < GRACE, "{bytes}: {:?}", asked.elapsed());
            outcomes.push(check(&seen, &reference));
        }
    });
    let rows = charges(&app.wait_for_postings(outcomes.len()), "ann");
    let mut charged: Vec<_> = rows.iter().map(|charge| (charge.outcome, charge.requests)).collect();
    outcomes.sort_unstable();
    charged.sort_unstable();
    assert_eq!(charged, outcomes);
    let of = |told| outcomes.iter().filter(|outcome| **outcome == told).count();
    let counted = [("completed", 1), ("provider_error", 1), ("provider_error", 0)].map(of);
    println!("{cut:?}: {counted:?} completed, broken off, without a frame");
    assert!(counted.iter().all(|count| *count > 10), "{counted:?}");
}

/// What was seen must be a beginning of the reference, and how it ends must be said. Returns outcome and requests.
fn check(seen: &Seen, reference: &[Frame]) -> (&'static str, i64) {
    if seen.frames.is_empty() {
        assert_eq!(seen.status, 502);
        return ("provider_error", 0);
    }
    let (last, begun) = seen.frames.split_last().unwrap();
    let begun: Vec<&Frame> = begun.iter().filter(|frame| !frame.is_comment()).collect();
    let whole = begun.iter().zip(reference).all(|(frame, sent)| frame.raw == sent.raw);
    assert!(whole && begun.len() < reference.len(), "{:?}", seen.frames);
    if last.is_done() {
        return ("completed", 1);
    }
    assert_eq!(last_error(&seen.frames), "provider_error");
    ("provider_error", i64::from(!begun.is_empty()))
}

#[test]
fn an_answer_that_is_reset_at_any_byte_ends_as_it_should() {
    cut_everywhere(Cut::Reset);
}

#[test]
fn an_answer_that_is_closed_at_any_byte_ends_as_it_should() {
    cut_everywhere(Cut::Close);
}

#[test]
fn connections_that_were_all_closed_while_they_rested_are_not_used() {
    // A task reads 128 times before tokio has it yield.
    const RESTING: usize = 160;
    let far = Far::start();
    let mut app =
        far.app().env("HNE__SERVER__WORKERS", "1").env("HNE__PROVIDERS__OPENROUTER__IDLE_TIMEOUT", "1h").start();
    app.unbalanced();
    run(async {
        let client = caller(&app, "ann");
        let mut running = Vec::new();
        for _ in 0..RESTING {
            let mut response = stream(&client, &chat("mock/chat+hold-after-1", "resting")).await;
            response.frame().await.unwrap();
            running.push(response);
        }
        far.provider.release("");
        for mut response in running {
            assert!(response.text().await.unwrap().ends_with("data: [DONE]\n\n"));
        }
        assert_eq!(far.proxy.open_connections(), RESTING);
        far.proxy.close_all();
        assert!(far.proxy.wait_for_cuts(RESTING as u64, DEADLINE).await);
        assert_eq!(complete(&client, &chat("mock/chat", "after")).await.status, 200);
    });
    app.wait_for_postings(RESTING + 1);
}

#[test]
fn a_slow_network_delays_and_changes_nothing() {
    let far = Far::start();
    let mut app = far.app().start();
    app.unbalanced();
    far.proxy.set_latency(Duration::from_millis(150));
    run(async {
        let body = chat("mock/chat+prompt-3+completion-5+gap-20ms", "late");
        let seen = ask(&caller(&app, "late"), &body).await;
        assert!(seen.frames.first().unwrap().is_comment(), "the answer begins before the provider's does");
        assert!(seen.frames.last().unwrap().is_done());
    });
    assert_eq!(charges(&app.wait_for_postings(1), "late"), [Charge::reported("completed", 3, 5)]);
}

/// Begins a stream, lets the network go bad after its first frame, and tells how long it took until the end.
async fn go_bad(app: &TestApp, far: &Far, marker: &str, bad: impl FnOnce(&ChaosProxy)) -> (Duration, Vec<Frame>) {
    let model = format!("mock/{marker}+frames-9+hold-after-2");
    let mut response = stream(&caller(app, marker), &chat(&model, marker)).await;
    let mut begun = Vec::new();
    while begun.iter().filter(|frame: &&Frame| frame.content().is_some()).count() < 2 {
        begun.push(response.frame().await.unwrap().unwrap());
    }
    bad(&far.proxy);
    let went_bad = clock::now();
    far.provider.release(&model);
    let frames = response.frames().await.unwrap();
    (went_bad.elapsed(), frames)
}

#[test]
fn a_network_that_falls_silent_or_crawls_meets_the_deadline_between_frames() {
    let gap = Duration::from_millis(500);
    let far = Far::start();
    let mut app = far.app().env("HNE__PROVIDERS__OPENROUTER__GAP_TIMEOUT", "500ms").start();
    app.unbalanced();
    run(async {
        let bad: [(&str, Bad); 2] = [
            ("silent", |proxy| proxy.set_black_hole(true)),
            // A frame has more than a hundred bytes: at this rate no frame comes whole within the deadline.
            ("crawls", |proxy| proxy.set_throttle(Some(50))),
        ];
        for (marker, bad) in bad {
            let (took, frames) = go_bad(&app, &far, marker, bad).await;
            assert_eq!(last_error(&frames), "provider_timeout", "{marker}");
            // Its silence began with the last frame, a little earlier.
            assert!(took > gap / 2 && took < gap + GRACE, "{marker}: {took:?}");
            far.proxy.heal();
        }
    });
    let rows = app.wait_for_postings(2);
    for marker in ["silent", "crawls"] {
        assert_eq!(charges(&rows, marker), [Charge::estimated("deadline", &chat("", marker), 4)], "{marker}");
    }
}

#[test]
fn a_network_that_is_bad_from_the_start_meets_the_deadlines_before_the_first_frame() {
    let far = Far::start();
    let mut app = far
        .app()
        .env("HNE__PROVIDERS__OPENROUTER__FIRST_BYTE_TIMEOUT", "500ms")
        .env("HNE__PROVIDERS__OPENROUTER__GAP_TIMEOUT", "500ms")
        .start();
    app.unbalanced();
    run(async {
        let bad: [(&str, Bad); 3] = [
            ("silent", |proxy| proxy.set_black_hole(true)),
            ("crawls", |proxy| proxy.set_throttle(Some(1))),
            ("down", |proxy| proxy.set_down(true)),
        ];
        for (marker, bad) in bad {
            bad(&far.proxy);
            for streamed in [true, false] {
                let mut body = chat("mock/chat", marker);
                body["stream"] = streamed.into();
                let asked = clock::now();
                let status = complete(&caller(&app, marker), &body).await.status;
                let took = asked.elapsed();
                assert_eq!(status, if marker == "down" { 502 } else { 504 }, "{marker}");
                assert!(took < Duration::from_millis(500) + GRACE, "{marker}: {took:?}");
            }
            far.proxy.heal();
        }
    });
    let rows = app.wait_for_postings(6);
    for marker in ["silent", "crawls", "down"] {
        assert_eq!(charges(&rows, marker), [Charge::nothing("provider_error"); 2], "{marker}");
    }
}

/// A listener whose queue of connections is full: the kernel answers nobody any more.
fn full_queue() -> (Socket, Vec<Socket>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if socket.connect_timeout(&address, Duration::from_millis(200)).is_err() {
            return (listener, waiting);
        }
        waiting.push(socket);
    }
}

#[test]
fn a_provider_that_takes_no_connection_meets_the_deadline_for_connecting() {
    let (listener, _waiting) = full_queue();
    let address = TcpListener::from(listener.try_clone().unwrap()).local_addr().unwrap();
    let app = TestApp::on(Database::Sqlite)
        .env("OPENROUTER_BASE_URL", format!("http://{address}/v1"))
        .env("HNE__PROVIDERS__OPENROUTER__CONNECT_TIMEOUT", "300ms")
        .start();
    let asked: Instant = clock::now();
    run(async {
        let mut body = chat("mock/chat", "unconnected");
        body["stream"] = true.into();
        assert_eq!(complete(&caller(&app, "ann"), &body).await.status, 504);
    });
    assert!(asked.elapsed() < Duration::from_millis(300) + GRACE, "{:?}", asked.elapsed());
    assert_eq!(charges(&app.wait_for_postings(1), "ann"), [Charge::nothing("provider_error")]);
}

/// Two clients vanish, one from a provider that is silent, one from one that sends. Tells how long their streams lived.
fn vanish(app: AppBuilder, deadline: Duration) {
    let app = app.start();
    let models = [("silent", "mock/chat+hold-after-1"), ("sending", "mock/chat+frames-9000+gap-10ms")];
    run(async {
        let mut vanished = Vec::new();
        for (marker, model) in models {
            let mut response = stream(&caller(&app, marker), &chat(model, marker)).await;
            response.frame().await.unwrap();
            response.vanish().unwrap();
            vanished.push((response, clock::now()));
        }
        for ((marker, _), (_response, at)) in models.iter().zip(&vanished) {
            let entry = app.mock.wait_for_end(marker, deadline).await.unwrap();
            assert_eq!(entry.ending, Ending::ClientGone);
            let took = entry.peer_closed_at.unwrap().saturating_duration_since(*at);
            println!("{marker}: the provider was left {took:?} after the client had vanished");
            assert!(took < deadline, "{marker}: {took:?}");
        }
    });
    let rows = app.wait_for_postings(2);
    assert!(rows.iter().all(|row| row.outcome() == "client_gone"), "{rows:?}");
}

#[test]
fn a_client_that_vanishes_is_left_within_45_seconds() {
    vanish(TestApp::on(Database::Sqlite), Duration::from_secs(45));
}

#[test]
fn how_soon_a_vanished_client_is_left_can_be_configured() {
    let app =
        TestApp::on(Database::Sqlite).env("HNE__SERVER__WRITE_TIMEOUT", "1s").env("HNE__STREAM__KEEPALIVE", "500ms");
    vanish(app, DEADLINE.min(Duration::from_secs(5)));
}

/// Clients that ask for more than the kernel holds and don't read it are cut off after the write deadline, and nobody
/// else notices.
#[test]
fn clients_that_never_read_are_left_and_cost_others_nothing() {
    const STUCK: usize = 20;
    let deadline = Duration::from_secs(2);
    let app = TestApp::on(Database::Sqlite).env("HNE__SERVER__WRITE_TIMEOUT", "2s").start();
    let (pace, calm) = ("mock/chat+frames-40+gap-20ms", Duration::from_millis(20 * 39));
    run(async {
        let mut stuck = Vec::new();
        let began = clock::now();
        for number in 0..STUCK {
            let client = caller(&app, "stuck").receive_buffer(4_096);
            let body = chat("mock/chat+frames-20000+bytes-1000", &format!("stuck-{number}"));
            stuck.push(stream(&client, &body).await);
        }
        let asked = clock::now();
        let seen = ask(&caller(&app, "calm"), &chat(pace, "calm")).await;
        let took = asked.elapsed();
        assert!(seen.frames.last().unwrap().is_done());
        assert!(took < calm + Duration::from_millis(500), "{took:?} beside {STUCK} clients that don't read");
        for number in 0..STUCK {
            let entry = app.mock.wait_for_end(&format!("stuck-{number}"), DEADLINE).await.unwrap();
            assert_eq!(entry.ending, Ending::ClientGone);
        }
        let all = began.elapsed();
        println!("{STUCK} clients that never read were left within {all:?}; beside them 780 ms took {took:?}");
        assert!(all < deadline * 3, "{all:?}");
        drop(stuck);
    });
    let rows = app.wait_for_postings(STUCK + 1);
    assert_eq!(rows.iter().filter(|row| row.outcome() == "client_gone").count(), STUCK);
}
