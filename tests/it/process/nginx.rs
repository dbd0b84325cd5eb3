//! The shipped nginx configuration in front of real instances. Skipped, with a line that says so, without nginx.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver},
    thread::{self, JoinHandle},
    time::Duration,
};

use hne_load::{
    client::{Client, Request},
    mock::{Ending, MockProvider, Options},
};

use super::world::{Process, Serving, World, free_port};
use crate::{
    doors::CHAT,
    harness::{
        app::{DEADLINE, Database, SECRET, chat, complete, run, stream},
        tls::Certificate,
    },
};

const NGINX: &str = "/usr/sbin/nginx";
const SHIPPED: &str = include_str!("../../../config/nginx.conf");

fn is_here() -> bool {
    let here = Path::new(NGINX).exists();
    if !here {
        println!("skipped: there is no {NGINX}");
    }
    here
}

/// A running nginx.
struct Proxy {
    /// Speaks to its one listener without TLS, which the shipped configuration doesn't have.
    client: Client,
    /// Where it speaks TLS and HTTP/2.
    tls: u16,
    /// Where it only says where to go.
    plain: u16,
    certificate: Certificate,
    process: Process,
    access_log: PathBuf,
}

/// Says what it saw, where a test fails.
impl Drop for Proxy {
    fn drop(&mut self) {
        if thread::panicking() {
            let seen = std::fs::read_to_string(&self.access_log).unwrap_or_default();
            let odd = seen.lines().filter(|line| !line.contains("\" 200 ") || line.contains(" : "));
            println!("{}\n{}", odd.collect::<Vec<_>>().join("\n"), self.process.stderr.so_far());
        }
    }
}

/// Starts nginx with the shipped configuration, but for addresses and paths, and one listener more.
fn proxy(world: &World, instances: &[u16]) -> Proxy {
    let (port, tls, plain) = (free_port(), free_port(), free_port());
    let folder = world.path("nginx");
    std::fs::create_dir_all(folder.join("tls")).unwrap();
    // Beside the configuration, as its comment has it.
    let certificate = Certificate::new();
    std::fs::copy(certificate.file(), folder.join("tls/fullchain.pem")).unwrap();
    std::fs::copy(certificate.key(), folder.join("tls/privkey.pem")).unwrap();
    let shipped = [
        "server 127.0.0.1:3000 max_fails=1 fail_timeout=2s;",
        "server 127.0.0.1:3000 max_fails=0;",
        "server 127.0.0.1:3000 max_fails=1 fail_timeout=1s;",
    ];
    let of = |line: &str| instances.iter().map(|port| line.replace("3000", &port.to_string())).collect::<String>();
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {kind};"));
    let mut config = SHIPPED.to_owned();
    for (from, to) in [
        (shipped[0], of(shipped[0])),
        (shipped[1], of(shipped[1])),
        (shipped[2], of(shipped[2])),
        ("listen 443 ssl http2;", format!("listen 127.0.0.1:{tls} ssl http2;")),
        ("listen [::]:443 ssl http2;", format!("listen 127.0.0.1:{port};")),
        ("listen 80;", format!("listen 127.0.0.1:{plain};")),
        ("listen [::]:80;", String::new()),
        ("pid /run/nginx.pid;", "pid nginx.pid;".to_owned()),
        ("error_log /var/log/nginx/error.log warn;", "error_log stderr notice;".to_owned()),
        (
            "access_log /var/log/nginx/access.log timed buffer=64k flush=1s;",
            format!("access_log access.log timed; {}", temp.join(" ")),
        ),
    ] {
        assert!(config.contains(from), "the shipped configuration has no {from:?}");
        config = config.replacen(from, &to, 1);
    }
    // Alone, so that killing it leaves nobody behind; as whoever runs the tests, so that it may use their folder.
    config.insert_str(0, "daemon off; master_process off; user root;\n");
    std::fs::write(folder.join("nginx.conf"), config).unwrap();
    let arguments = ["-p", folder.to_str().unwrap(), "-c", "nginx.conf", "-e", "stderr"];
    let mut process = Process::spawn(Path::new(NGINX), &arguments, &BTreeMap::new(), &folder);
    process.stderr.wait_for("OS: ");
    let address = ([127, 0, 0, 1], port).into();
    let started = hne_load::clock::now();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(started.elapsed() < DEADLINE, "{}", process.stderr.text);
    }
    Proxy { client: Client::new(address), tls, plain, certificate, process, access_log: folder.join("access.log") }
}

fn token(world: &World) -> String {
    let issued = world.json(&["token", "issue", "--user", "ann", "--plan", "unlimited"]);
    issued["token"].as_str().unwrap().to_owned()
}

fn bearer(world: &World, client: Client) -> Client {
    client.bearer(&token(world))
}

#[test]
fn a_stream_goes_through_frame_by_frame_and_nothing_else_is_let_out() {
    if !is_here() {
        return;
    }
    let mock = MockProvider::start(Options::default()).unwrap();
    let world = World::on(Database::Sqlite).asking(&mock);
    let service = world.serve();
    let nginx = proxy(&world, &[service.address.port()]);
    let client = bearer(&world, nginx.client.clone());
    run(async {
        let model = "mock/held+frames-4+gap-100ms+hold-after-2";
        let mut response = stream(&client, &chat(model, "held")).await;
        assert_eq!(response.status, 200);
        for _ in 0..2 {
            // They are here although the provider has more to say.
            while response.frame().await.unwrap().unwrap().is_comment() {}
        }
        mock.release(model);
        assert!(response.frames().await.unwrap().last().unwrap().is_done());
        assert_eq!(client.get("/v1/models").await.unwrap().status, 200);
        for path in ["/metrics", "/healthz", "/readyz", "/"] {
            let mut response = client.get(path).await.unwrap();
            assert_eq!((response.status, response.header("access-control-allow-origin")), (404, Some("*")), "{path}");
            assert!(response.header("x-request-id").is_some(), "{path}");
            assert_eq!(response.json().await.unwrap()["error"]["code"], "not_found");
        }
        // The service says so of the first, nginx of the second.
        for bytes in [(8 << 20) + 1, 10 << 20] {
            let mut large = client.send(&Request::post(CHAT).json(&"a".repeat(bytes))).await.unwrap();
            assert_eq!((large.status, large.header("access-control-allow-origin")), (413, Some("*")), "{bytes}");
            assert!(large.header("x-request-id").is_some(), "{bytes}");
            assert_eq!(large.json().await.unwrap()["error"]["code"], "request_too_large", "{bytes}");
        }
    });
}

#[test]
fn a_stream_goes_through_tls_and_http_2_frame_by_frame() {
    if !is_here() {
        return;
    }
    let mock = MockProvider::start(Options::default()).unwrap();
    let world = World::on(Database::Sqlite).asking(&mock);
    let service = world.serve();
    let nginx = proxy(&world, &[service.address.port()]);
    let (model, frames) = ("mock/held+frames-6+gap-100ms+hold-after-3", 6);
    let url = format!("https://localhost:{}/api/hasNotEngine-optimized", nginx.tls);
    let (bearer, certificate) = (format!("authorization: Bearer {}", token(&world)), nginx.certificate.file());
    let body = chat(model, "held").to_string();
    let mut arguments = vec!["--silent", "--show-error", "--no-buffer", "--http2", "--cacert"];
    arguments.extend([
        certificate.to_str().unwrap(),
        "--header",
        &bearer,
        "--header",
        "content-type: application/json",
    ]);
    arguments.extend(["--data", &body, "--write-out", "HTTP/%{http_version} %{http_code}\\n", &url]);
    let mut curl = Process::spawn(Path::new("/usr/bin/curl"), &arguments, &BTreeMap::new(), &world.path("."));
    for _ in 0..3 {
        // They are here although the provider has more to say.
        curl.stdout.wait_for("data: {");
    }
    assert_eq!(mock.entry("held").unwrap().ending, Ending::Open);
    mock.release(model);
    let done = curl.finish();
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.stdout.ends_with("data: [DONE]\n\nHTTP/2 200\n"), "{}", done.stdout);
    assert!(done.stdout.matches("data: {").count() >= frames, "{}", done.stdout);

    run(async {
        let mut plain = Client::new(([127, 0, 0, 1], nginx.plain).into()).get("/v1/models").await.unwrap();
        plain.bytes().await.unwrap();
        assert_eq!((plain.status, plain.header("location")), (308, Some("https://127.0.0.1/v1/models")));
    });
}

/// Callers, each of which sends one chat after the other for as long as somebody listens to how they went; every other
/// one streams.
fn light_load(client: &Client) -> (Receiver<Answered>, Vec<JoinHandle<u64>>) {
    let (sender, answers) = mpsc::sync_channel(0);
    let call = |streamed: bool| {
        let (client, sender) = (client.clone(), sender.clone());
        let mut body = chat("sim/basic", "hello");
        body["stream"] = streamed.into();
        thread::spawn(move || {
            run(async {
                let mut answered = 0;
                loop {
                    let mut response = complete(&client, &body).await;
                    let text = response.text().await.unwrap();
                    let whole = text.ends_with(if streamed { "data: [DONE]\n\n" } else { "}" });
                    let well = response.status == 200 && whole;
                    answered += 1;
                    if sender.send(if well { Ok(()) } else { Err((response.status, text)) }).is_err() {
                        return answered;
                    }
                }
            })
        })
    };
    let callers = [false, true, false, true].map(call).into();
    (answers, callers)
}

/// Whether an answer came whole; if it did not, its status and what came.
type Answered = Result<(), (u16, String)>;

fn all_well(answers: &Receiver<Answered>, count: usize) {
    for _ in 0..count {
        assert_eq!(answers.recv_timeout(DEADLINE).unwrap(), Ok(()));
    }
}

/// Waits until nginx has found out that an instance is back: it leaves one alone for `fail_timeout` (2 s).
fn wait_until_used(serving: &Serving, answers: &Receiver<Answered>) {
    let used = || {
        let metrics = run(async { serving.anonymous().get("/metrics").await.unwrap().text().await.unwrap() });
        !metrics.contains("hne_requests_total{outcome=\"completed\"} 0\n")
    };
    while !used() {
        all_well(answers, 4);
    }
}

#[test]
fn a_restart_of_two_instances_in_turn_fails_no_request() {
    if !is_here() {
        return;
    }
    // A stream takes longer than the delay, so that it needs the grace.
    let quick = |world: World| {
        let port = free_port();
        let world = world.env("JWT_SECRET", SECRET).env("LISTEN", format!("127.0.0.1:{port}"));
        let world = world.env("HNE__SHUTDOWN__DELAY", "300ms").env("HNE__PROVIDERS__SIMULATOR__FRAME_GAP", "20ms");
        (world, port)
    };
    let (one, first) = quick(World::on(Database::Postgres));
    let (other, second) = quick(World::on(Database::Sqlite).env("DATABASE_URL", one.database_url()));
    let mut running: Vec<Serving> = vec![one.serve(), other.serve()];
    let nginx = proxy(&one, &[first, second]);
    let (answers, callers) = light_load(&bearer(&one, nginx.client.clone()));
    all_well(&answers, 20);
    for world in [&one, &other, &one] {
        let goes = running.remove(0);
        goes.process.signal("TERM");
        all_well(&answers, 40);
        assert_eq!(goes.process.finish().code, 0);
        all_well(&answers, 10);
        running.push(world.serve());
        wait_until_used(running.last().unwrap(), &answers);
    }
    drop(answers);
    let answered: u64 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    for serving in running {
        assert_eq!(serving.stop("TERM").0.code, 0);
    }
    let books = one.json(&["ledger", "verify"]);
    println!("{answered} requests over three restarts, all answered whole; {books}");
    assert_eq!((&books["postings"], &books["drift"]), (&answered.into(), &0.into()));
}

#[test]
fn one_instance_serves_beside_one_that_drains_and_one_that_is_gone() {
    if !is_here() {
        return;
    }
    let quick =
        || World::on(Database::Sqlite).env("JWT_SECRET", SECRET).env("HNE__PROVIDERS__SIMULATOR__FRAME_GAP", "1ms");
    let (one, other) = (quick(), quick().env("HNE__SHUTDOWN__DELAY", "1m"));
    let (serves, mut drains, gone) = (one.serve(), other.serve(), free_port());
    let nginx = proxy(&one, &[drains.address.port(), gone, serves.address.port()]);
    drains.process.signal("TERM");
    drains.process.stderr.wait_for("draining");
    let (answers, callers) = light_load(&bearer(&one, nginx.client.clone()));
    // For longer than an instance is passed over.
    let started = hne_load::clock::now();
    while started.elapsed() < Duration::from_secs(5) {
        all_well(&answers, 10);
    }
    drop(answers);
    let answered: u64 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
    assert_eq!(serves.stop("TERM").0.code, 0);
    assert_eq!(one.json(&["ledger", "verify"])["postings"], answered);
    println!("{answered} requests went past one that drained and one that was gone");
}

/// What an instance that stops does with the second request that comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It takes no connection any more.
    Refuses,
    /// It takes it, and breaks.
    Breaks,
}

/// A chat of [`chat`]'s, with its head.
fn read_request(mut socket: &TcpStream) {
    let (mut request, mut buffer) = (Vec::new(), [0; 4_096]);
    while !request.ends_with(b"}") {
        let read = socket.read(&mut buffer).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&request));
        request.extend_from_slice(&buffer[..read]);
    }
}

/// An instance that stops: it answers 503, and by then its listener is as that of the real one after `shutdown.delay`.
fn stopping(then: Then) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = move || {
        let (mut socket, _) = listener.accept().unwrap();
        let listener = Some(listener).filter(|_| then == Then::Breaks);
        read_request(&socket);
        let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        socket.write_all(answer.as_bytes()).unwrap();
        if let Some(listener) = listener {
            read_request(&listener.accept().unwrap().0);
        }
    };
    (port, thread::spawn(script))
}

/// Sends a request that is answered 503 by an instance that stops, which nginx asks once more before the other one: each
/// pass begins with the first. Returns the status that the client sees, and how many requests the other one's provider.
fn asked_twice(then: Then) -> (u16, u64) {
    let mock = MockProvider::start(Options::default()).unwrap();
    let world = World::on(Database::Sqlite).asking(&mock);
    let service = world.serve();
    let (stops, script) = stopping(then);
    let nginx = proxy(&world, &[stops, service.address.port()]);
    let client = bearer(&world, nginx.client.clone());
    let status = run(async {
        let mut answer = complete(&client, &chat("mock/chat+frames-2", "moves on")).await;
        if answer.status == 502 {
            assert_eq!(answer.json().await.unwrap()["error"]["code"], "internal_error");
        }
        answer.status
    });
    script.join().unwrap();
    (status, mock.totals().requests)
}

#[test]
fn a_request_moves_on_from_an_instance_that_closes_its_listener_meanwhile() {
    if is_here() {
        assert_eq!(asked_twice(Then::Refuses), (200, 1));
    }
}

#[test]
fn a_request_that_broke_after_it_was_sent_is_not_repeated() {
    if is_here() {
        assert_eq!(asked_twice(Then::Breaks), (502, 0));
    }
}

#[test]
fn what_is_refused_everywhere_takes_no_instance_away_from_others() {
    if !is_here() {
        return;
    }
    let mock = MockProvider::start(Options::default()).unwrap();
    let one = World::on(Database::Sqlite).asking(&mock).env("JWT_SECRET", SECRET);
    let other = World::on(Database::Sqlite).asking(&mock).env("JWT_SECRET", SECRET);
    let (first, second) = (one.serve(), other.serve());
    let nginx = proxy(&one, &[first.address.port(), second.address.port()]);
    let client = bearer(&one, nginx.client.clone());
    run(async {
        for round in 0..4 {
            let mut refused = complete(&client, &chat("mock/chat+status-429+retry-after-7", "busy")).await;
            assert_eq!((refused.status, refused.header("retry-after")), (503, Some("7")), "{round}");
            assert_eq!(refused.json().await.unwrap()["error"]["code"], "provider_overloaded");
            assert_eq!(complete(&client, &chat("mock/chat+frames-2", "served")).await.status, 200, "{round}");
        }
    });
}
