//! A provider that does as it is told: OpenAI-compatible, cheap, faulty on demand, with books of its own.
//!
//! It answers `POST …/chat/completions` and `GET …/models` under any prefix, on raw TCP, so that faults are possible at
//! the level of bytes. What it does with a request is decided by the request's model name: a name, then options, each
//! after a `+` (an unknown one is refused with 400) or a `:` (an unknown one is ignored, as in `vendor/model:free`).
//! Later options win. Durations: `20ms`, `1s`, `500us`, a bare number is milliseconds. A `frame` below is a frame with
//! content. Example: `mock/chat+frames-20+gap-20ms+first-50ms+usage-apart`.
//!
//! | option | default | what it does |
//! | --- | --- | --- |
//! | `frames-N` · `bytes-N` | 5 · 8 | frames of an answer · bytes of content in each; frames are numbered |
//! | `first-D` · `head-D` · `gap-D` | 0 | delay before the head · from the head to the first frame · between frames, on a fixed schedule |
//! | `hold-head` · `hold-after-N` | | before the head · after N frames (0: after the head), waits for [`MockProvider::release`] |
//! | `unicode` · `tool-calls` · `reasoning` | plain text | multi-byte characters · `tool_calls` deltas · `reasoning` deltas |
//! | `echo` · `stamp` | | content is the marker and a number · the time of sending in Unix nanoseconds, 19 digits |
//! | `prompt-N` · `completion-N` | a third of the bytes of `messages` · frames | usage figures |
//! | `cost-X` | none | `usage.cost` in dollars, as in `cost-0.00012` |
//! | `usage-last` · `usage-apart` · `usage-openrouter` | `usage-last` | usage stands beside `finish_reason` · in a frame with `choices: []` · in a frame with an empty delta |
//! | `usage-running` · `usage-twice` | | growing, in every frame · half the completion first, then the truth apart |
//! | `usage-none` · `usage-null` · `usage-negative` · `usage-huge` · `usage-string` | | absent or unusable |
//! | `usage-unasked` | off | streams send usage without `include_usage` too |
//! | `no-done` · `no-finish` · `neither` | both are sent | leaves out `[DONE]` · `finish_reason` · both, with a clean end of the body |
//! | `crlf` · `cr` · `lf` | `lf` | line ends |
//! | `comments` · `bom` · `tight` · `multiline` | off | `: OPENROUTER PROCESSING` with the head and before each frame · byte-order mark · no space after the colon · two `data:` lines for each frame |
//! | `split-N` · `drip-D` · `coalesced` | a write for each frame | writes of N bytes · D after each write (of 1 byte without `split`) · one write in all |
//! | `until-close` · `chunked` | streams chunked, bodies sized | streams without framing · bodies in one chunk |
//! | `status-NNN` · `retry-after-S` | | refuses with a JSON error · with this header |
//! | `html` · `redirect` · `gzip` · `garbage` | | 200 `text/html` · 302 · `content-encoding: gzip`, gzipped · no HTTP |
//! | `hang` · `reset` · `close` | | reads the request and stays silent · resets · closes, without an answer |
//! | `error-first` · `error-after-N` | | 200 and an error object in place of the first frame · after N frames, as OpenRouter sends it; no `[DONE]` |
//! | `reset-after-N` · `close-after-N` · `stall-after-N` | | after N frames resets · sends half a frame and closes · is silent for ever |
//! | `truncate-at-B` | | closes after B bytes of the body |
//! | `flood-N` | | a line of N bytes without an end |
//! | `invalid-json` | | half the JSON · a first frame that is no JSON, then the rest |
//! | `fail-first-K` | | the fault given beside it (`status-500` if none) befalls the first K requests for this exact model name only |
//!
//! Without a stream, `…-after-N` faults happen in the middle of the body; `error-after-N` is a whole answer whose choice
//! ends in `error`.
//!
//! Limits: 100,000 frames and 64 MiB of content in an answer, 64 MiB of request body, [`Options::max_entries`] in the
//! books, 4,096 model names that are remembered. A peer that closes, half-closes or resets is noticed at once, whatever
//! the mock is waiting for.

mod books;
mod connection;
mod money;
mod play;
mod request;
mod scenario;
mod script;
mod whole;
mod wire;

pub use books::{Entry, Totals};

use crate::host::{self, Host};
use books::Books;
use connection::Shared;
use scenario::Scenario;
use serde::Serialize;
use std::{
    collections::HashSet,
    fmt,
    future::pending,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It has not.
    Open,
    /// All was written, as the scenario had it; the peer may still lose it.
    Finished,
    /// The peer closed before all was written.
    ClientGone,
    /// It went wrong as the scenario asked.
    Faulted,
    /// The request itself was wrong: key, body or option.
    Refused,
    /// The mock was stopped first.
    Stopped,
}

/// What a mock is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The bearer key that it insists on.
    pub api_key: Option<String>,
    /// Options that hold for every model name, before its own: `frames-20+gap-20ms`.
    pub defaults: String,
    /// Threads, each with a listening socket and a runtime of its own.
    pub threads: usize,
    /// How many requests the books hold; later ones count in the totals only.
    pub max_entries: usize,
    /// How many bytes of a request's body the books hold.
    pub keep_body: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            api_key: None,
            defaults: String::new(),
            threads: 1,
            max_entries: 100_000,
            keep_body: 64 << 10,
        }
    }
}

/// A running provider; dropping it closes everything.
#[derive(Debug)]
pub struct MockProvider {
    addr: SocketAddr,
    shared: Arc<Shared>,
    // Last: its threads use what stands above.
    _host: Host,
}

impl MockProvider {
    /// Starts a mock; it listens when this returns.
    ///
    /// # Errors
    /// When the address is taken, or `options.defaults` has an unknown option.
    pub fn start(options: Options) -> io::Result<Self> {
        let defaults = Scenario::from_options(&options.defaults).map_err(io::Error::other)?;
        let many = options.threads > 1;
        let first = host::listen(options.listen, many)?;
        let addr = first.local_addr()?;
        let mut listeners = vec![first];
        for _ in 1..options.threads {
            listeners.push(host::listen(addr, many)?);
        }
        let shared = Arc::new(Shared {
            books: Arc::new(Books::new(options.max_entries)),
            options,
            defaults,
            scripts: std::sync::Mutex::default(),
            released: watch::Sender::new(Released::default()),
        });
        let mut host = Host::new();
        for listener in listeners {
            let shared = Arc::clone(&shared);
            host.spawn("mock-provider", move || accept(listener, shared))?;
        }
        Ok(Self { addr, shared, _host: host })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL in the form that providers are configured with: `http://127.0.0.1:PORT/v1`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// A copy of the books.
    #[must_use]
    pub fn books(&self) -> Vec<Entry> {
        self.shared.books.entries(0, usize::MAX)
    }

    /// The entry of the request with this marker, the latest if there are several.
    #[must_use]
    pub fn entry(&self, marker: &str) -> Option<Entry> {
        self.books().into_iter().rev().find(|entry| entry.marker == marker)
    }

    /// Sums over all requests.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.shared.books.totals()
    }

    /// Chat requests that are being answered.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.shared.books.open_streams()
    }

    /// Connections that are open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.books.open_connections()
    }

    /// Lets requests for this exact model name go on past their `hold-…`, now and from now on; `""` for all models.
    pub fn release(&self, model: &str) {
        self.shared.released.send_modify(|released| released.add(model));
    }

    /// Waits until the request with this marker has come and ended.
    ///
    /// # Errors
    /// [`TimedOut`] with the books as they stood at the deadline.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn wait_for_end(&self, marker: &str, deadline: Duration) -> Result<Entry, TimedOut> {
        let ended = |entry: &&Entry| entry.marker == marker && entry.ending != Ending::Open;
        let books = self.wait_for(|books| books.iter().rev().any(|entry| ended(&entry)), deadline).await?;
        books.iter().rev().find(ended).cloned().ok_or(TimedOut { deadline, books })
    }

    /// Waits until the books satisfy `condition`, and returns them.
    ///
    /// It copies the books at each change, a frame included; for thousands of requests there is
    /// [`MockProvider::wait_for_totals`].
    ///
    /// # Errors
    /// [`TimedOut`] with the books as they stood at the deadline.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn wait_for(
        &self,
        mut condition: impl FnMut(&[Entry]) -> bool,
        deadline: Duration,
    ) -> Result<Vec<Entry>, TimedOut> {
        let mut books = Vec::new();
        let met = |books: &mut Vec<Entry>| {
            *books = self.books();
            condition(books)
        };
        if self.wait(met, &mut books, deadline).await { Ok(books) } else { Err(TimedOut { deadline, books }) }
    }

    /// Waits until the totals, with the numbers of open streams and connections, satisfy `condition`.
    ///
    /// # Errors
    /// [`TimedOut`] with the books as they stood at the deadline.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn wait_for_totals(
        &self,
        mut condition: impl FnMut(&Totals) -> bool,
        deadline: Duration,
    ) -> Result<Totals, TimedOut> {
        let mut totals = Totals::default();
        let met = |totals: &mut Totals| {
            *totals = self.totals();
            condition(totals)
        };
        let met = self.wait(met, &mut totals, deadline).await;
        if met { Ok(totals) } else { Err(TimedOut { deadline, books: self.books() }) }
    }

    async fn wait<T>(&self, mut met: impl FnMut(&mut T) -> bool, state: &mut T, deadline: Duration) -> bool {
        let changes = async {
            loop {
                let mut changed = pin!(self.shared.books.changed().notified());
                // Before the look, so that no change is missed between the two.
                changed.as_mut().enable();
                if met(state) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(deadline, changes).await.is_ok()
    }
}

/// What was awaited did not happen.
#[derive(Debug)]
pub struct TimedOut {
    /// How long it was awaited.
    pub deadline: Duration,
    /// The books at the deadline.
    pub books: Vec<Entry>,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not within {:?}; the books: {:#?}", self.deadline, self.books)
    }
}

impl std::error::Error for TimedOut {}

/// The models whose holds are open.
#[derive(Debug, Default)]
struct Released {
    all: bool,
    models: HashSet<String>,
}

impl Released {
    fn add(&mut self, model: &str) {
        if model.is_empty() {
            self.all = true;
        } else {
            self.models.insert(model.to_owned());
        }
    }
}

/// One request's view of [`Released`].
#[derive(Debug)]
struct Gate {
    released: watch::Receiver<Released>,
    model: String,
}

impl Gate {
    async fn open(&mut self) {
        let model = &self.model;
        let open = self.released.wait_for(|released| released.all || released.models.contains(model)).await.is_ok();
        if !open {
            // The mock is being stopped.
            pending::<()>().await;
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => drop(connections.spawn(connection::serve(socket, Arc::clone(&shared)))),
                // Out of descriptors: what is there goes on, the next one may fit again.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
