//! The clients of the proofs: they know of each request what they saw of its end.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hne_load::{
    client::{Client, Connection, Request, Response},
    clock,
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use super::instance::token_of;
use crate::harness::app::DEADLINE;

/// After a refusal, and while nobody listens, a client waits so long.
pub(super) const BACK_OFF: Duration = Duration::from_millis(10);
/// How many ways there are to report completion tokens: so many model names for each kind.
const COMPLETIONS: usize = 32;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A stream of three frames, without a gap.
    Short,
    /// A stream of twenty frames with gaps.
    Long,
    /// An answer in one piece.
    Whole,
    /// A stream that the client leaves after two frames.
    Left,
    /// A stream that stops after two frames, until the provider is told to release it.
    Held,
}

impl Kind {
    /// Mixes them: half of the requests are short.
    pub(super) fn of(number: usize) -> Self {
        match number % 8 {
            1 | 5 => Self::Long,
            3 => Self::Whole,
            7 => Self::Left,
            _ => Self::Short,
        }
    }

    fn model(self) -> &'static str {
        match self {
            Self::Short => "mock/short+frames-3",
            Self::Long | Self::Left => "mock/long+frames-20+gap-4ms",
            Self::Whole => "mock/whole+frames-2+gap-10ms",
            Self::Held => "mock/held+frames-5+hold-after-2",
        }
    }
}

/// A request that the books can be searched for: for one user, no two numbers have the same tokens.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) user: String,
    /// What the message begins with: the user and the number.
    pub(super) marker: String,
    kind: Kind,
    body: String,
}

impl Order {
    /// Writes request `number` of a user.
    pub(super) fn new(user: &str, number: usize, kind: Kind) -> Self {
        let marker = format!("{user}/{number:06}");
        // The mock counts a token for each three bytes of the prompt.
        let padding = "   ".repeat(number / COMPLETIONS);
        let model = format!("{}+completion-{}", kind.model(), 100 + number % COMPLETIONS);
        let content = format!("{marker} {padding}");
        let messages = json!([{"role": "user", "content": content}]);
        let body = json!({"model": model, "messages": messages, "stream": kind != Kind::Whole}).to_string();
        Self { user: user.to_owned(), marker, kind, body }
    }
}

/// How a request ended, as the client saw it.
#[derive(Debug, Clone)]
pub(super) enum Seen {
    /// `[DONE]`, or the last byte of the body, was there.
    Finished,
    /// The client left.
    Left,
    /// The connection broke, or an error frame came.
    Broken(String),
    /// It was refused with this status and error.
    Refused(u16, Value),
    /// Nobody listened: it was not sent.
    Absent,
}

/// A request and its end.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) marker: String,
    pub(super) seen: Seen,
    /// What the quota took, as `server-timing` says.
    pub(super) quota: Option<Duration>,
    pub(super) sent: Instant,
    pub(super) ended: Instant,
}

impl Answer {
    /// Whether the client has it all.
    pub(super) fn is_finished(&self) -> bool {
        matches!(self.seen, Seen::Finished)
    }

    /// Returns the code with which it was refused, else nothing.
    pub(super) fn refusal(&self) -> &str {
        match &self.seen {
            Seen::Refused(_, error) => error["code"].as_str().unwrap_or_default(),
            _ => "",
        }
    }
}

/// A client that keeps its connection for as long as it lasts.
#[derive(Debug)]
pub(super) struct Caller {
    client: Client,
    kept: Option<Connection>,
    token: (String, String),
}

impl Caller {
    /// Makes a client of this instance.
    pub(super) fn new(instance: SocketAddr) -> Self {
        Self { client: Client::new(instance), kept: None, token: Default::default() }
    }

    /// Sends a request and sees how it ends. None may hang.
    pub(super) async fn ask(&mut self, order: &Order) -> Answer {
        let sent = clock::now();
        let (seen, quota) = tokio::time::timeout(DEADLINE * 3, self.see(order)).await.expect("no request hangs");
        Answer { marker: order.marker.clone(), seen, quota, sent, ended: clock::now() }
    }

    async fn see(&mut self, order: &Order) -> (Seen, Option<Duration>) {
        let connection = match self.kept.take() {
            Some(connection) => connection,
            None => match self.client.connect().await {
                Ok(connection) => connection,
                Err(_) => return (Seen::Absent, None),
            },
        };
        if self.token.0 != order.user {
            self.token = (order.user.clone(), token_of(&order.user));
        }
        let request = Request::post("/v1/chat/completions").bearer(&self.token.1).json(&order.body);
        let mut response = match connection.exchange(&request).await {
            Ok(response) => response,
            Err(error) => return (Seen::Broken(error.to_string()), None),
        };
        let quota = quota_time(&response);
        let seen = read(&mut response, order.kind).await.unwrap_or_else(|error| Seen::Broken(error.to_string()));
        self.kept = response.into_connection().ok();
        (seen, quota)
    }
}

async fn read(response: &mut Response, kind: Kind) -> io::Result<Seen> {
    if response.status != 200 {
        let status = response.status;
        return Ok(Seen::Refused(status, response.json().await?["error"].take()));
    }
    if kind == Kind::Whole {
        response.bytes().await?;
        return Ok(Seen::Finished);
    }
    let (mut done, mut contents) = (false, 0);
    loop {
        match response.frame().await {
            Ok(Some(frame)) if frame.is_done() => done = true,
            Ok(Some(frame)) => {
                if let Some(error) = frame.error() {
                    return Ok(Seen::Broken(error.to_string()));
                }
                contents += usize::from(frame.content().is_some());
            }
            // What comes after `[DONE]` is no news.
            Ok(None) | Err(_) if done => return Ok(Seen::Finished),
            Ok(None) => return Ok(Seen::Broken("it ended without [DONE]".to_owned())),
            Err(error) => return Err(error),
        }
        if kind == Kind::Left && contents == 2 {
            return Ok(Seen::Left);
        }
    }
}

fn quota_time(response: &Response) -> Option<Duration> {
    let timing = response.header("server-timing")?;
    let stage = timing.split(',').find_map(|stage| stage.trim().strip_prefix("quota;dur="))?;
    Some(Duration::from_secs_f64(stage.parse::<f64>().ok()? / 1_000.0))
}

/// Tells clients when it is enough.
pub(super) type Stop = watch::Receiver<bool>;

/// Clients at work, on a thread of their own.
pub(super) struct Crowd {
    stop: watch::Sender<bool>,
    thread: JoinHandle<Vec<Answer>>,
}

impl Crowd {
    /// Starts so many clients, each as the function says.
    pub(super) fn start<C, F>(count: usize, client: C) -> Self
    where
        C: Fn(usize, Stop) -> F + Send + 'static,
        F: Future<Output = Vec<Answer>> + Send + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        let conversation = async move {
            let mut clients = JoinSet::new();
            for number in 0..count {
                clients.spawn(client(number, stopped.clone()));
            }
            clients.join_all().await.concat()
        };
        let thread = std::thread::spawn(move || hne_load::block_on(conversation).unwrap());
        Self { stop, thread }
    }

    /// Starts clients that always have a request running, each for a user of its own, until they are told to stop.
    pub(super) fn busy(instance: SocketAddr, users: Vec<String>) -> Self {
        Self::start(users.len(), move |slot, stop| keep_asking(instance, users[slot].clone(), slot, stop))
    }

    /// Tells the clients to stop after their running requests, and returns what they saw.
    pub(super) fn finish(self) -> Vec<Answer> {
        self.stop.send_replace(true);
        self.wait()
    }

    /// Waits until the clients end by themselves, and returns what they saw.
    pub(super) fn wait(self) -> Vec<Answer> {
        self.thread.join().unwrap()
    }
}

async fn keep_asking(instance: SocketAddr, user: String, slot: usize, stop: Stop) -> Vec<Answer> {
    let mut caller = Caller::new(instance);
    let mut answers = Vec::new();
    let mut number = 0;
    while !*stop.borrow() {
        let order = Order::new(&user, number, Kind::of(slot + number));
        let answer = caller.ask(&order).await;
        if matches!(answer.seen, Seen::Absent | Seen::Refused(..)) {
            tokio::time::sleep(BACK_OFF).await;
        }
        // Only what was not sent has left its number free: the provider may have seen what is refused in the end.
        if !matches!(answer.seen, Seen::Absent) {
            number += 1;
            answers.push(answer);
        }
    }
    answers
}
