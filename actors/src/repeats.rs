//! Repeats: answers that a repeated request joins while they run.
//!
//! A client that sends an `Idempotency-Key` may send its request again, because it has heard nothing for too long. While
//! the first one runs, the repeat joins it, on whatever worker it arrives: each gets the whole answer, the provider is
//! asked once and the user is charged once. A finished answer is not kept: the same request is a new one then. So is one
//! whose only client has closed its connection before it asks again, since that cancels the first.
//!
//! Invariants:
//! - For a caller and a key at most one request is answered to anybody.
//! - The answer goes on while anybody reads it, at the pace of the fastest; when the last reader leaves, the client has
//!   left, and the provider's connection is closed.
//! - Whoever holds a [`Place`] answers or gives it up. What waits for a place that was given up before anything was
//!   admitted enters again.
//! - An answer is made on the worker of the first. So a drain lets no worker go before [`Repeats::idle`].
//!
//! Limits: an entry for each request that runs; eight readers of an answer, since a repeat passes no limit of its caller's;
//! `[stream] replay_bytes` of frames in all, an eighth of it for one answer, and one item of each above it. What doesn't
//! fit is not kept: who needed it is told that the service is overloaded.

mod answer;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, hash_map::Entry},
    future::poll_fn,
    pin::Pin,
    str::FromStr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, WrapFuture};
use bytes::Bytes;
use futures_util::Stream;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::{
    domain::{Timings, UserKey},
    lock::lock,
    quota::{AccountView, Standing},
    stream::{Failure, Head, Relay},
};
use answer::{Answer, Joined};

/// The most characters of a key.
const MAX_KEY_LEN: usize = 255;

/// A client's name for one request: 1 to 255 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

/// An idempotency key that is empty, too long or not visible ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an Idempotency-Key has 1 to 255 visible ASCII characters")]
pub struct InvalidKey;

impl FromStr for IdempotencyKey {
    type Err = InvalidKey;

    fn from_str(key: &str) -> Result<Self, InvalidKey> {
        let valid = (1..=MAX_KEY_LEN).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        valid.then(|| Self(key.into())).ok_or(InvalidKey)
    }
}

/// What a repeat must have in common with the first request: a SHA-256 of the body and of the manner of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Takes it of a body, and of what else decides how it is answered.
    #[must_use]
    pub fn of(body: &[u8], manner: &[u8]) -> Self {
        Self(Sha256::new().chain_update(Sha256::digest(manner)).chain_update(body).finalize().into())
    }
}

/// How an answer begins, and what the headers say of it.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// How it begins.
    pub head: Head,
    /// Where the first request's time has gone until then.
    pub timings: Timings,
    /// Where the caller's account stood then.
    pub standing: Option<Standing>,
}

type Key = (UserKey, IdempotencyKey);

/// The answers that run under a key, of all workers.
#[derive(Debug)]
pub struct Repeats {
    running: Mutex<HashMap<Key, Arc<Answer>>>,
    /// Told when the last one is over.
    idle: Notify,
    room: Arc<Room>,
}

/// How many bytes of frames are kept.
#[derive(Debug)]
struct Room {
    most: usize,
    taken: AtomicUsize,
}

impl Room {
    /// Returns how much of it one answer may take.
    fn share(&self) -> usize {
        self.most / 8
    }

    /// Takes room for so many bytes, if there is as much.
    fn take(&self, bytes: usize) -> bool {
        let fits = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= self.most);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).is_ok()
    }

    /// Takes it whether or not there is as much.
    fn take_anyway(&self, bytes: usize) {
        self.taken.fetch_add(bytes, Ordering::AcqRel);
    }

    fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// What a request with a key is.
#[derive(Debug)]
pub enum Entered {
    /// The first: it is to be answered under the key.
    First(Place),
    /// A repeat of one that runs.
    Repeat(Reader),
    /// Another request under the key of one that runs.
    Mismatch,
    /// A repeat of one of which too much was answered to keep it.
    TooLate,
    /// A repeat of one that has been repeated too often.
    TooMany,
}

impl Repeats {
    /// Keeps at most so many bytes of frames.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        let room = Arc::new(Room { most, taken: AtomicUsize::new(0) });
        Arc::new(Self { running: Mutex::default(), idle: Notify::new(), room })
    }

    /// Says what a caller's request is, and makes it the first where none runs.
    #[must_use]
    pub fn enter(self: &Arc<Self>, caller: UserKey, key: IdempotencyKey, request: Fingerprint) -> Entered {
        let mut running = lock(&self.running);
        let entry = running.entry((caller, key));
        if let Entry::Occupied(entry) = &entry {
            match entry.get().join(request) {
                Joined::Reading(reader) => return Entered::Repeat(Reader { answer: Arc::clone(entry.get()), reader }),
                Joined::Mismatch => return Entered::Mismatch,
                Joined::TooLate => return Entered::TooLate,
                Joined::TooMany => return Entered::TooMany,
                Joined::Over => {}
            }
        }
        let answer = Answer::new(request, Arc::clone(&self.room));
        let key = entry.key().clone();
        entry.insert_entry(Arc::clone(&answer));
        Entered::First(Place { repeats: Arc::clone(self), key, answer })
    }

    /// Returns how many requests run under a key.
    #[must_use]
    pub fn running(&self) -> usize {
        lock(&self.running).len()
    }

    /// Waits until none runs.
    ///
    /// # Cancel safety
    /// May be dropped.
    pub async fn idle(&self) {
        loop {
            let told = self.idle.notified();
            if self.running() == 0 {
                return;
            }
            told.await;
        }
    }

    /// Returns how many bytes of memory the frames that are kept take.
    #[cfg(test)]
    fn kept_bytes(&self) -> usize {
        self.room.taken.load(Ordering::Acquire)
    }
}

/// The right to answer under a key, and the duty to. Dropping it gives it up, or says that the answer is over.
#[derive(Debug)]
pub struct Place {
    repeats: Arc<Repeats>,
    key: Key,
    answer: Arc<Answer>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.answer.give_up();
        let mut running = lock(&self.repeats.running);
        if running.get(&self.key).is_some_and(|answer| Arc::ptr_eq(answer, &self.answer)) {
            running.remove(&self.key);
        }
        if running.is_empty() {
            self.repeats.idle.notify_waiters();
        }
    }
}

impl Place {
    /// Answers with what the relay has to say, and returns the first reader of it. `timings` is where the time has gone
    /// until then; `commit_after` is the relay's.
    #[must_use]
    pub fn serve(self, relay: Relay, commit_after: Option<Duration>, timings: Timings, account: AccountView) -> Reader {
        let reader = Reader { reader: self.answer.serve(), answer: Arc::clone(&self.answer) };
        Broadcast { serving: Some(Serving { place: self, relay, commit_after, timings, account }) }.start();
        reader
    }
}

/// An answer that is read by any number.
struct Serving {
    place: Place,
    relay: Relay,
    commit_after: Option<Duration>,
    timings: Timings,
    account: AccountView,
}

/// The actor that reads one answer for all its readers, on the worker of the first.
struct Broadcast {
    serving: Option<Serving>,
}

impl Actor for Broadcast {
    type Context = actix::Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(serving) = self.serving.take() {
            ctx.spawn(serving.run().into_actor(self).map(|(), _, ctx| ctx.stop()));
        }
    }
}

impl Serving {
    /// Ends with the answer, or when nobody reads it any more; then the relay is dropped, which is the client's leaving.
    async fn run(self) {
        let Self { place, mut relay, commit_after, mut timings, account } = self;
        let answer = &place.answer;
        let head = tokio::select! {
            head = relay.head(commit_after, &mut timings) => head,
            () = poll_fn(|cx| answer.poll_left(cx)) => return,
        };
        answer.begin(Beginning { head, timings, standing: account.standing() });
        poll_fn(|cx| answer.poll_pass(&mut relay, cx)).await;
    }
}

/// One reader of an answer. Dropping it is leaving.
#[derive(Debug)]
pub struct Reader {
    answer: Arc<Answer>,
    reader: u64,
}

impl Reader {
    /// Waits until it is known how the answer begins; `None`: whoever was to answer gave it up, so enter again.
    ///
    /// # Cancel safety
    /// May be dropped and asked again.
    pub async fn beginning(&mut self) -> Option<Beginning> {
        poll_fn(|cx| self.answer.poll_beginning(self.reader, cx)).await
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, Failure>;

    /// Yields whole frames, from the answer's first; an error is the last item.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.answer.poll_read(self.reader, cx)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.answer.leave(self.reader);
    }
}
