//! Shutting down: nobody is cut off without need, nothing is lost.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use hne_load::{
    client::{Client, Response},
    mock::{Entry, MockProvider, Options},
};
use serde_json::Value;

use super::world::World;
use crate::harness::app::{DEADLINE, Database, chat, complete, post, run, stream};

/// A model that stops after two frames until it is told to go on.
const HELD: &str = "mock/held+frames-5+prompt-3+completion-5+hold-after-2";

/// What it says when nobody is let in any more.
const CLOSED: &str = "connections are refused";

fn world(database: Database, mock: &MockProvider) -> World {
    World::on(database).asking(mock)
}

fn mock() -> MockProvider {
    MockProvider::start(Options::default()).unwrap()
}

/// Starts streams of a model that is held, and reads the first two frames of each.
async fn begin(client: &Client, model: &str, count: usize) -> Vec<Response> {
    let mut streams = Vec::new();
    for number in 0..count {
        let mut response = stream(client, &chat(model, &format!("held-{number}"))).await;
        assert_eq!(response.status, 200);
        for _ in 0..2 {
            while response.frame().await.unwrap().unwrap().is_comment() {}
        }
        streams.push(response);
    }
    streams
}

async fn code(mut response: Response) -> Value {
    let answer: Value = response.json().await.unwrap();
    answer["error"]["code"].clone()
}

async fn new_requests_are_refused(client: &Client) {
    let mut ready = client.get("/readyz").await.unwrap();
    assert_eq!(ready.status, 503);
    let ready: Value = ready.json().await.unwrap();
    assert_eq!(ready["status"], "draining");
    for path in ["/v1/models", "/api/usage"] {
        let refused = client.get(path).await.unwrap();
        assert_eq!((refused.status, refused.header("connection")), (503, Some("close")));
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(code(refused).await, "draining");
    }
    let refused = stream(client, &chat(HELD, "late")).await;
    assert_eq!((refused.status, refused.header("connection")), (503, Some("close")));
}

fn running_streams_finish(database: Database) {
    let mock = mock();
    let world = world(database, &mock).env("HNE__SHUTDOWN__DELAY", "1s");
    let mut service = world.serve();
    let client = service.client(&world, "ann");
    run(async {
        let streams = begin(&client, HELD, 3).await;
        service.process.signal("TERM");
        service.process.stderr.wait_for("draining");
        new_requests_are_refused(&client).await;
        service.process.stderr.wait_for(CLOSED);
        assert!(client.get("/readyz").await.is_err(), "nobody listens any more");

        mock.release(HELD);
        for mut response in streams {
            let rest = response.frames().await.unwrap();
            assert!(rest.last().unwrap().is_done(), "a running stream is finished");
        }
    });
    let done = service.process.finish();
    assert_eq!(done.code, 0, "{done:?}");
    let usage = world.json(&["usage", "show", "ann"]);
    assert_eq!(usage["classes"][0]["requests"]["used"], 3, "{usage}");
    assert_eq!(world.json(&["ledger", "verify"])["postings"], 3);
}

#[test]
fn running_streams_finish_on_sqlite() {
    running_streams_finish(Database::Sqlite);
}

#[test]
fn running_streams_finish_on_postgres() {
    running_streams_finish(Database::Postgres);
}

#[test]
fn after_the_grace_a_stream_ends_with_an_error_frame_and_is_booked() {
    let mock = mock();
    let world = world(Database::Sqlite, &mock).env("HNE__SHUTDOWN__GRACE", "50ms");
    let service = world.serve();
    let client = service.client(&world, "ann");
    run(async {
        let streams = begin(&client, HELD, 2).await;
        service.process.signal("TERM");
        for mut response in streams {
            let rest = response.frames().await.unwrap();
            let last = rest.last().unwrap();
            assert!(!last.is_done());
            assert_eq!(last.error().unwrap()["code"], "draining", "{last:?}");
        }
    });
    let done = service.process.finish();
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(world.json(&["ledger", "verify"])["postings"], 2);
    assert_eq!(world.json(&["usage", "show", "ann"])["classes"][0]["requests"]["used"], 2);
}

#[test]
fn a_second_signal_ends_the_grace() {
    let mock = mock();
    let world = world(Database::Sqlite, &mock).env("HNE__SHUTDOWN__GRACE", "5m").env("HNE__SHUTDOWN__DELAY", "1m");
    let mut service = world.serve();
    let client = service.client(&world, "ann");
    run(async {
        let mut held = begin(&client, HELD, 1).await.remove(0);
        service.process.signal("TERM");
        service.process.stderr.wait_for("draining");
        service.process.signal("INT");
        assert_eq!(held.frames().await.unwrap().last().unwrap().error().unwrap()["code"], "draining");
    });
    let done = service.process.finish();
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(world.json(&["ledger", "verify"])["postings"], 1);
}

/// A proxy repeats elsewhere what was answered 503.
#[test]
fn after_the_grace_what_has_no_head_yet_is_told_by_its_status_and_is_not_charged() {
    const SILENT: &str = "mock/silent+hold-head";
    const BEGUN: &str = "mock/begun+hold-after-0";
    let mock = mock();
    let world = world(Database::Sqlite, &mock).env("HNE__SHUTDOWN__GRACE", "500ms");
    let service = world.serve();
    let client = service.client(&world, "ann");
    run(async {
        // This one has its 200 from when the provider took too long.
        let mut begun = stream(&client, &chat(BEGUN, "begun")).await;
        assert_eq!(begun.status, 200);
        let whole = chat(SILENT, "whole");
        let mut late = chat(SILENT, "late");
        late["stream"] = true.into();
        let term = async {
            mock.wait_for_totals(|totals| totals.open_streams == 3, DEADLINE).await.unwrap();
            service.process.signal("TERM");
        };
        let (whole, late, ()) = tokio::join!(complete(&client, &whole), complete(&client, &late), term);
        for refused in [whole, late] {
            assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
            assert_eq!(code(refused).await, "draining");
        }
        assert_eq!(begun.frames().await.unwrap().last().unwrap().error().unwrap()["code"], "draining");
    });
    assert_eq!(service.process.finish().code, 0);
    assert_eq!(world.json(&["ledger", "verify"])["postings"], 3);
    assert_eq!(world.json(&["usage", "show", "ann"])["classes"][0]["requests"]["used"], 1);
}

#[test]
fn of_200_streams_those_finish_that_can_and_the_others_are_told() {
    const SLOW: &str = "mock/slow+frames-5+prompt-3+completion-5+hold-after-2";
    const STREAMS: usize = 200;
    let mock = mock();
    let world = world(Database::Postgres, &mock).env("HNE__SHUTDOWN__GRACE", "3s");
    let mut service = world.serve();
    let client = service.client(&world, "ann");
    let (done, told) = run(async {
        let mut finishing = begin(&client, HELD, STREAMS * 3 / 4).await;
        let stuck = begin(&client, SLOW, STREAMS / 4).await;
        service.process.signal("TERM");
        service.process.stderr.wait_for(CLOSED);
        mock.release(HELD);
        let mut done = 0;
        for response in &mut finishing {
            done += usize::from(response.frames().await.unwrap().last().unwrap().is_done());
        }
        let mut told = 0;
        for mut response in stuck {
            let rest = response.frames().await.unwrap();
            told += usize::from(rest.last().unwrap().error().unwrap()["code"] == "draining");
        }
        (done, told)
    });
    assert_eq!((done, told), (STREAMS * 3 / 4, STREAMS / 4));
    let drained = service.process.finish();
    assert_eq!(drained.code, 0, "{drained:?}");
    let books = world.json(&["ledger", "verify"]);
    assert_eq!((&books["postings"], &books["drift"]), (&STREAMS.into(), &0.into()));
    let usage = world.json(&["usage", "show", "ann"]);
    let requests = &usage["classes"][0]["requests"];
    assert_eq!((&requests["used"], &requests["reserved"]), (&STREAMS.into(), &0.into()));
    println!("{done} of {STREAMS} streams finished within the grace, {told} were told; {books}");
}

#[test]
fn an_answer_that_was_begun_on_another_worker_is_finished() {
    const PACED: &str = "mock/paced+frames-60+gap-50ms+prompt-3+completion-60";
    let mock = mock();
    let world = world(Database::Sqlite, &mock).env("HNE__SERVER__WORKERS", "2");
    let service = world.serve();
    let client = service.client(&world, "ann");
    let keyed = |key: usize| {
        let body = chat(PACED, &format!("keyed-{key}"));
        post("/api/hasNotEngine-optimized", &body).header("idempotency-key", &key.to_string())
    };
    run(async {
        let mut repeats = Vec::new();
        // Connections go to the workers in turn.
        for key in 0..4 {
            let mut first = client.send(&keyed(key)).await.unwrap();
            first.frame().await.unwrap();
            repeats.push(client.send(&keyed(key)).await.unwrap());
            first.reset().unwrap();
        }
        service.process.signal("TERM");
        for mut repeat in repeats {
            let frames = repeat.frames().await.unwrap();
            assert!(frames.last().unwrap().is_done(), "{:?}", frames.last());
        }
    });
    let done = service.process.finish();
    assert_eq!(done.code, 0, "{done:?}");
    assert_eq!(mock.totals().requests, 4);
    assert_eq!(world.json(&["ledger", "verify"])["postings"], 4);
    assert_eq!(world.json(&["usage", "show", "ann"])["classes"][0]["tokens"]["completion_tokens"], 240);
}

#[test]
fn clients_that_do_not_read_are_cut_off_after_the_grace_and_booked() {
    const ENDLESS: &str = "mock/endless+frames-20000+bytes-1000";
    let mock = mock();
    let world = world(Database::Sqlite, &mock)
        .env("HNE__SHUTDOWN__GRACE", "50ms")
        .env("HNE__SERVER__WRITE_TIMEOUT", "5m")
        .env("HNE__LEDGER__FLUSH_INTERVAL", "1m");
    let service = world.serve();
    let client = service.client(&world, "ann").receive_buffer(4_096);
    let stuck = run(async {
        let keyed = post("/api/hasNotEngine-optimized", &chat(ENDLESS, "keyed")).header("idempotency-key", "one");
        let stuck = [client.send(&keyed).await.unwrap(), stream(&client, &chat(ENDLESS, "plain")).await];
        // What the kernel holds is sent by then.
        let sent = |books: &[Entry]| books.iter().filter(|entry| entry.frames > 100).count() == stuck.len();
        mock.wait_for(sent, DEADLINE).await.unwrap();
        stuck
    });
    let (done, took) = service.stop("TERM");
    drop(stuck);
    assert_eq!(done.code, 0, "{done:?}");
    // Ten seconds after the grace.
    assert!(took < Duration::from_secs(15), "{took:?}");
    let books = world.json(&["ledger", "verify"]);
    assert_eq!((&books["postings"], &books["drift"]), (&2.into(), &0.into()));
}

#[test]
fn an_idle_service_stops_at_once_also_with_kept_connections() {
    let world = World::on(Database::Sqlite);
    let service = world.serve();
    let (done, idle) = service.stop("TERM");
    assert_eq!(done.code, 0);
    let service = world.serve();
    let (kept, fresh) = run(async {
        let mut response = service.anonymous().get("/healthz").await.unwrap();
        response.text().await.unwrap();
        (response.into_connection().unwrap(), service.anonymous().connect().await.unwrap())
    });
    let (done, connected) = service.stop("TERM");
    assert_eq!(done.code, 0);
    drop((kept, fresh));
    println!("drained in {idle:?} when idle, in {connected:?} with two idle connections");
    // Neither the grace (30 s) nor the time that connections are kept (75 s).
    let limit = Duration::from_secs(3);
    assert!(idle < limit && connected < limit, "{idle:?}, {connected:?}");
}

#[test]
fn a_key_s_last_use_is_not_lost() {
    for database in [Database::Sqlite, Database::Postgres] {
        let world = World::on(database);
        let service = world.serve();
        world.json(&["user", "add", "ann"]);
        let made = world.json(&["key", "create", "ann"]);
        let client = service.anonymous().bearer(made["key"].as_str().unwrap());
        assert_eq!(run(async { client.get("/v1/models").await.unwrap().status }), 200);
        let (done, _) = service.stop("TERM");
        assert_eq!(done.code, 0, "{done:?}");
        let listed = world.json(&["key", "list", "ann"]);
        assert!(listed["keys"][0]["last_used_at"].is_string(), "{listed}");
    }
}

/// The next request of a caller comes right after an answer, and may meet the connection's end halfway.
#[test]
fn a_connection_is_answered_once_more_after_a_stream_that_the_drain_waited_for() {
    let mock = mock();
    let world = world(Database::Sqlite, &mock);
    let mut service = world.serve();
    let client = service.client(&world, "ann");
    run(async {
        let mut held = begin(&client, HELD, 1).await.remove(0);
        service.process.signal("TERM");
        service.process.stderr.wait_for(CLOSED);
        mock.release(HELD);
        assert!(held.frames().await.unwrap().last().unwrap().is_done());
        let kept = held.into_connection().unwrap();
        let next = kept.exchange(&post("/api/hasNotEngine-optimized", &chat(HELD, "next"))).await.unwrap();
        assert_eq!((next.status, next.header("connection")), (503, Some("close")));
        assert_eq!(code(next).await, "draining");
    });
    assert_eq!(service.process.finish().code, 0);
    assert_eq!(world.json(&["ledger", "verify"])["postings"], 1);
}

/// A supervisor's reload, a rotation of logs, a terminal that is closed.
#[test]
fn whatever_would_kill_it_drains_or_means_nothing() {
    let mock = mock();
    let world = world(Database::Sqlite, &mock).hung_up();
    for (round, signal) in (1..).zip(["HUP", "QUIT"]) {
        let mut service = world.serve();
        let client = service.client(&world, "ann");
        run(async {
            let mut held = begin(&client, HELD, 1).await.remove(0);
            for other in ["USR1", "USR2"] {
                service.process.signal(other);
                service.process.stderr.wait_for(&format!("SIG{other} means nothing here"));
            }
            assert_eq!(client.get("/readyz").await.unwrap().status, 200);
            service.process.signal(signal);
            service.process.stderr.wait_for(CLOSED);
            mock.release(HELD);
            assert!(held.frames().await.unwrap().last().unwrap().is_done(), "{signal}");
        });
        let done = service.process.finish();
        assert_eq!(done.code, 0, "{signal}: {done:?}");
        assert_eq!(world.json(&["ledger", "verify"])["postings"], round);
    }
}

/// Sends requests, each on a connection of its own, until one is refused. Returns how many were answered.
fn until_refused(address: std::net::SocketAddr) -> u64 {
    let mut answered = 0;
    loop {
        let mut socket = match TcpStream::connect(address) {
            Ok(socket) => socket,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return answered,
            Err(error) => panic!("after {answered} requests: {error}"),
        };
        let mut answer = String::new();
        let request = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let whole = socket.write_all(request).and_then(|()| socket.read_to_string(&mut answer));
        assert!(whole.is_ok() && answer.starts_with("HTTP/1.1 "), "after {answered} requests: {whole:?} {answer}");
        answered += 1;
    }
}

/// As a proxy doesn't repeat what it has sent, a connection must be refused or answered, never taken and then dropped.
#[test]
fn whoever_is_let_in_while_the_listener_closes_is_answered() {
    let world = World::on(Database::Sqlite).env("HNE__SHUTDOWN__DELAY", "50ms");
    let mut answered = 0;
    for _ in 0..5 {
        let mut service = world.serve();
        let address = service.address;
        let callers: Vec<_> = (0..16).map(|_| thread::spawn(move || until_refused(address))).collect();
        service.process.signal("TERM");
        service.process.stderr.wait_for(CLOSED);
        answered += callers.into_iter().map(|caller| caller.join().unwrap()).sum::<u64>();
        assert_eq!(service.process.finish().code, 0);
    }
    println!("{answered} requests were answered while five listeners closed, and none was lost");
}
