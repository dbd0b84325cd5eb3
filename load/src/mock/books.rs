//! The provider's own books: what it was asked, what it served and how each request ended.
//!
//! Bounded: after `max_entries` requests, later ones count in the totals only. A record is closed exactly once, when
//! its [`Record`] is dropped, whatever became of the task that held it.

use super::Ending;
use crate::clock;
use bytes::Bytes;
use serde::Serialize;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};
use tokio::sync::Notify;

/// One request, as the provider saw it.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Counts chat requests from 0.
    pub sequence: u64,
    /// Counts connections from 0; requests of one kept-alive connection share it.
    pub connection: u64,
    /// The path that was asked for.
    pub path: String,
    /// The model, with its options.
    pub model: String,
    /// The first 64 characters of the last message's `content`, empty if that is no string.
    pub marker: String,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// Whether `stream_options.include_usage` was true.
    pub include_usage: bool,
    /// What the mock reports, or would have reported, as `usage.prompt_tokens`.
    pub prompt_tokens: u64,
    /// What the mock reports, or would have reported, as `usage.completion_tokens`.
    pub completion_tokens: u64,
    /// What the mock reports, or would have reported, as `usage.cost`.
    pub cost_nanodollars: Option<u64>,
    /// The status that was written; 0 if none was.
    pub status: u16,
    /// Content frames written so far, in whole.
    pub frames: u64,
    /// Whether the valid usage figures above were written; known when the request has ended.
    pub usage_sent: bool,
    /// Whether `[DONE]` was written; known when the request has ended.
    pub done_sent: bool,
    /// How it ended.
    pub ending: Ending,
    /// The request's headers, names in lower case, in the order in which they came.
    pub headers: Arc<[(String, String)]>,
    /// Size of the request's body.
    pub body_bytes: usize,
    /// The request's body, cut at [`super::Options::keep_body`] bytes.
    #[serde(skip)]
    pub body: Bytes,
    /// When the request had been read.
    #[serde(skip)]
    pub received_at: Instant,
    /// When it ended.
    #[serde(skip)]
    pub ended_at: Option<Instant>,
    /// When the mock noticed that the peer had gone, if that ended it.
    #[serde(skip)]
    pub peer_closed_at: Option<Instant>,
}

impl Entry {
    /// The first header of this name, which is given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Sums over all requests, those that were not kept as entries included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Connections accepted.
    pub connections: u64,
    /// Chat requests received.
    pub requests: u64,
    /// Requests that ended as [`Ending::Finished`].
    pub finished: u64,
    /// Requests that ended as [`Ending::ClientGone`].
    pub client_gone: u64,
    /// Requests that ended as [`Ending::Faulted`].
    pub faulted: u64,
    /// Requests that ended as [`Ending::Refused`].
    pub refused: u64,
    /// Content frames written by requests that have ended.
    pub frames: u64,
    /// Requests for which valid usage was sent.
    pub usage_sent: u64,
    /// Prompt tokens in usage that was sent.
    pub prompt_tokens: u64,
    /// Completion tokens in usage that was sent.
    pub completion_tokens: u64,
    /// Cost in usage that was sent.
    pub cost_nanodollars: u64,
    /// Chat requests that are being answered now.
    pub open_streams: usize,
    /// Connections that are open now.
    pub open_connections: usize,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<(Entry, Arc<AtomicU64>)>,
    totals: Totals,
}

/// The books of one mock, shared by its connections.
#[derive(Debug)]
pub(super) struct Books {
    state: Mutex<State>,
    max_entries: usize,
    changed: Notify,
    open_streams: AtomicUsize,
    open_connections: AtomicUsize,
    /// The same moment on both clocks, to print moments that other processes can compare.
    epoch: (Instant, u64),
}

impl Books {
    pub(super) fn new(max_entries: usize) -> Self {
        Self {
            state: Mutex::default(),
            max_entries,
            changed: Notify::new(),
            open_streams: AtomicUsize::new(0),
            open_connections: AtomicUsize::new(0),
            epoch: (clock::now(), clock::unix_nanos()),
        }
    }

    /// Woken whenever anything in the books changes, a frame included.
    pub(super) const fn changed(&self) -> &Notify {
        &self.changed
    }

    pub(super) fn open_streams(&self) -> usize {
        self.open_streams.load(Ordering::Acquire)
    }

    pub(super) fn open_connections(&self) -> usize {
        self.open_connections.load(Ordering::Acquire)
    }

    pub(super) fn totals(&self) -> Totals {
        let totals = self.lock().totals;
        Totals { open_streams: self.open_streams(), open_connections: self.open_connections(), ..totals }
    }

    /// Copies the entries from sequence number `from` on.
    pub(super) fn entries(&self, from: usize, limit: usize) -> Vec<Entry> {
        let state = self.lock();
        let held = state.entries.iter().skip(from).take(limit);
        held.map(|(entry, frames)| Entry { frames: frames.load(Ordering::Acquire), ..entry.clone() }).collect()
    }

    /// An entry for other processes: moments become nanoseconds since 1970, the body text.
    pub(super) fn to_json(&self, entry: &Entry) -> serde_json::Value {
        let nanos = |at: Instant| {
            let since = at.saturating_duration_since(self.epoch.0).as_nanos();
            self.epoch.1 + u64::try_from(since).unwrap_or_default()
        };
        let mut value = serde_json::to_value(entry).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.insert("received_ns".into(), nanos(entry.received_at).into());
            object.insert("ended_ns".into(), entry.ended_at.map(nanos).into());
            object.insert("peer_closed_ns".into(), entry.peer_closed_at.map(nanos).into());
            object.insert("body".into(), String::from_utf8_lossy(&entry.body).into());
        }
        value
    }

    pub(super) fn open_connection(self: &Arc<Self>) -> OpenConnection {
        let id = {
            let mut state = self.lock();
            state.totals.connections += 1;
            state.totals.connections - 1
        };
        self.open_connections.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
        OpenConnection { books: Arc::clone(self), id }
    }

    /// Opens a record; `make` is given its sequence number.
    pub(super) fn open(self: &Arc<Self>, make: impl FnOnce(u64) -> Entry) -> Record {
        let frames = Arc::new(AtomicU64::new(0));
        let mut state = self.lock();
        let sequence = state.totals.requests;
        state.totals.requests += 1;
        let entry = make(sequence);
        let figures = (entry.prompt_tokens, entry.completion_tokens, entry.cost_nanodollars);
        let index = state.entries.len();
        let kept = index < self.max_entries;
        if kept {
            state.entries.push((entry, Arc::clone(&frames)));
        }
        drop(state);
        self.open_streams.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
        Record {
            books: Arc::clone(self),
            index: kept.then_some(index),
            frames,
            figures,
            status: 0,
            usage_sent: false,
            done_sent: false,
            ending: Ending::Stopped,
            peer_closed_at: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a connection for as long as it lives.
#[derive(Debug)]
pub(super) struct OpenConnection {
    books: Arc<Books>,
    pub(super) id: u64,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.books.open_connections.fetch_sub(1, Ordering::AcqRel);
        self.books.changed.notify_waiters();
    }
}

/// An open record; dropping it writes the ending.
#[derive(Debug)]
pub(super) struct Record {
    books: Arc<Books>,
    index: Option<usize>,
    frames: Arc<AtomicU64>,
    figures: (u64, u64, Option<u64>),
    pub(super) status: u16,
    pub(super) usage_sent: bool,
    pub(super) done_sent: bool,
    pub(super) ending: Ending,
    pub(super) peer_closed_at: Option<Instant>,
}

impl Record {
    pub(super) fn frames_written(&self, count: usize) {
        self.frames.fetch_add(count as u64, Ordering::AcqRel);
        self.books.changed.notify_waiters();
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let (prompt, completion, cost) = self.figures;
        let mut state = self.books.lock();
        if let Some((entry, _)) = self.index.and_then(|index| state.entries.get_mut(index)) {
            entry.status = self.status;
            entry.usage_sent = self.usage_sent;
            entry.done_sent = self.done_sent;
            entry.ending = self.ending;
            entry.ended_at = Some(clock::now());
            entry.peer_closed_at = self.peer_closed_at;
        }
        let totals = &mut state.totals;
        match self.ending {
            Ending::Finished => totals.finished += 1,
            Ending::ClientGone => totals.client_gone += 1,
            Ending::Faulted => totals.faulted += 1,
            Ending::Refused => totals.refused += 1,
            Ending::Open | Ending::Stopped => {}
        }
        totals.frames += self.frames.load(Ordering::Acquire);
        if self.usage_sent {
            totals.usage_sent += 1;
            totals.prompt_tokens = totals.prompt_tokens.saturating_add(prompt);
            totals.completion_tokens = totals.completion_tokens.saturating_add(completion);
            totals.cost_nanodollars = totals.cost_nanodollars.saturating_add(cost.unwrap_or(0));
        }
        drop(state);
        self.books.open_streams.fetch_sub(1, Ordering::AcqRel);
        self.books.changed.notify_waiters();
    }
}
