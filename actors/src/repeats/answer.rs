//! One answer and its readers: what was answered so far, and how far each has read.
//!
//! A reader that is behind what is kept can't be helped: it is told so when it reads on, and counts for nothing until
//! then.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::stream::FusedStream;

use super::{Beginning, Fingerprint, Room};
use crate::{
    domain::{ErrorCode, Timings},
    lock::lock,
    stream::{Failure, Head},
};

/// Whole frames, or the error that ends them.
pub(super) type Item = Result<Bytes, Failure>;

/// The most readers of one answer: a repeat passes no limit of its own, so this is one.
pub(super) const MAX_READERS: usize = 8;

/// One answer, of all its readers.
#[derive(Debug)]
pub(super) struct Answer {
    request: Fingerprint,
    room: Arc<Room>,
    state: Mutex<State>,
}

/// What trying to join has come to.
#[derive(Debug)]
pub(super) enum Joined {
    /// A reader of the whole answer.
    Reading(u64),
    /// It answers another request.
    Mismatch,
    /// What was answered first isn't kept any more.
    TooLate,
    /// It has as many readers as it may have.
    TooMany,
    /// It is over, or was given up.
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its request isn't admitted yet.
    Admitting,
    /// Somebody answers.
    Served,
    /// Nothing more comes.
    Over,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    beginning: Option<Beginning>,
    /// What is kept of the answer, how many bytes that is, and how many items came before it that are not kept.
    kept: VecDeque<Item>,
    bytes: usize,
    dropped: usize,
    readers: BTreeMap<u64, At>,
    next_reader: u64,
    /// Whether the source was asked for the next item: then what comes is taken, wanted or not.
    asked: bool,
    /// Who answers, while it waits for readers.
    server: Option<Waker>,
}

/// Where a reader is.
#[derive(Debug, Default)]
struct At {
    /// How many items it has taken.
    taken: usize,
    waker: Option<Waker>,
}

/// Returns how much memory an item takes.
pub(super) fn size(item: &Item) -> usize {
    size_of::<Item>() + item.as_ref().map_or(0, Bytes::len)
}

impl State {
    fn add_reader(&mut self) -> u64 {
        let reader = self.next_reader;
        self.next_reader += 1;
        self.readers.insert(reader, At::default());
        reader
    }

    fn remove_reader(&mut self, reader: u64) {
        self.readers.remove(&reader);
        if self.stage == Stage::Served && self.following().next().is_none() {
            // Whoever comes from now on is too late to join what is about to be cancelled.
            self.stage = Stage::Over;
            self.wake_readers();
        }
        self.wake_server();
    }

    /// Returns how far those have read who can read on.
    fn following(&self) -> impl Iterator<Item = usize> {
        self.readers.values().map(|at| at.taken).filter(|taken| *taken >= self.dropped)
    }

    /// Takes out so many items. Returns how many bytes that frees.
    fn forget(&mut self, items: usize) -> usize {
        let freed = self.kept.drain(..items.min(self.kept.len())).map(|item| size(&item)).sum();
        self.dropped += items;
        self.bytes -= freed;
        freed
    }

    /// Takes out what everybody has read who can read on.
    fn forget_read(&mut self) -> usize {
        let read = self.following().min().unwrap_or(self.dropped + self.kept.len());
        self.forget(read - self.dropped)
    }

    fn wake_readers(&mut self) {
        self.readers.values_mut().filter_map(|at| at.waker.take()).for_each(Waker::wake);
    }

    fn wake_server(&mut self) {
        if let Some(server) = self.server.take() {
            server.wake();
        }
    }

    /// Says whether some reader has taken all there is.
    fn is_wanted(&self) -> bool {
        let all = self.dropped + self.kept.len();
        self.readers.values().any(|at| at.taken == all)
    }

    fn end(&mut self) {
        self.stage = Stage::Over;
        self.wake_readers();
    }
}

impl Answer {
    pub(super) fn new(request: Fingerprint, room: Arc<Room>) -> Arc<Self> {
        let state = State {
            stage: Stage::Admitting,
            beginning: None,
            kept: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            readers: BTreeMap::new(),
            next_reader: 0,
            asked: false,
            server: None,
        };
        Arc::new(Self { request, room, state: Mutex::new(state) })
    }

    pub(super) fn join(&self, request: Fingerprint) -> Joined {
        let mut state = lock(&self.state);
        match state.stage {
            Stage::Over => Joined::Over,
            _ if request != self.request => Joined::Mismatch,
            _ if state.dropped > 0 => Joined::TooLate,
            _ if state.readers.len() >= MAX_READERS => Joined::TooMany,
            _ => Joined::Reading(state.add_reader()),
        }
    }

    /// Says that it is answered from now on. Returns the first reader.
    pub(super) fn serve(&self) -> u64 {
        let mut state = lock(&self.state);
        state.stage = Stage::Served;
        state.add_reader()
    }

    /// Says that whoever was to answer is gone. What was to be admitted may be by another; what was served is broken off,
    /// since it may be charged already.
    pub(super) fn give_up(&self) {
        let mut state = lock(&self.state);
        if state.stage == Stage::Served {
            let failure = Failure::new(ErrorCode::InternalError);
            let head = Head::Failed(failure);
            match state.beginning {
                Some(_) => {
                    state.kept.push_back(Err(failure));
                    state.bytes += size(&Err(failure));
                    self.room.take_anyway(size(&Err(failure)));
                }
                None => state.beginning = Some(Beginning { head, timings: Timings::default(), standing: None }),
            }
        }
        state.end();
    }

    pub(super) fn begin(&self, beginning: Beginning) {
        let mut state = lock(&self.state);
        if !matches!(beginning.head, Head::Stream) {
            state.stage = Stage::Over;
        }
        state.beginning = Some(beginning);
        state.wake_readers();
    }

    pub(super) fn leave(&self, reader: u64) {
        let mut state = lock(&self.state);
        state.remove_reader(reader);
        self.tidy(&mut state);
    }

    /// Waits until nobody reads any more.
    pub(super) fn poll_left(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.stage == Stage::Over {
            return Poll::Ready(());
        }
        state.server = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Passes on what comes, as long as a reader wants more. Ready when it is over, or nobody reads any more.
    pub(super) fn poll_pass(
        &self,
        source: &mut (impl FusedStream<Item = Item> + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            if !source.is_terminated() {
                std::task::ready!(self.poll_wanted(cx));
            }
            if lock(&self.state).stage == Stage::Over {
                return Poll::Ready(());
            }
            match std::task::ready!(Pin::new(&mut *source).poll_next(cx)) {
                Some(item) => self.push(item),
                None => lock(&self.state).end(),
            }
        }
    }

    /// Waits until a reader has taken all there is, or it is over. What the source was asked for before is waited for: it
    /// goes by when it was asked, and would take us for a reader that waits.
    fn poll_wanted(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        state.server = Some(cx.waker().clone());
        state.asked |= state.is_wanted();
        if state.asked || state.stage == Stage::Over { Poll::Ready(()) } else { Poll::Pending }
    }

    fn push(&self, item: Item) {
        let mut state = lock(&self.state);
        state.asked = false;
        self.tidy(&mut state);
        let size = size(&item);
        if state.bytes + size > self.room.share() || !self.room.take(size) {
            let all = state.kept.len();
            self.room.give_back(state.forget(all));
            self.room.take_anyway(size);
        }
        state.bytes += size;
        state.kept.push_back(item);
        state.wake_readers();
    }

    /// Forgets what everybody has read, once nobody can join any more.
    fn tidy(&self, state: &mut State) {
        if state.dropped > 0 || state.stage == Stage::Over {
            self.room.give_back(state.forget_read());
        }
    }

    pub(super) fn poll_beginning(&self, reader: u64, cx: &Context<'_>) -> Poll<Option<Beginning>> {
        let mut state = lock(&self.state);
        if state.beginning.is_some() || state.stage == Stage::Over {
            return Poll::Ready(state.beginning.clone());
        }
        if let Some(at) = state.readers.get_mut(&reader) {
            at.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(super) fn poll_read(&self, reader: u64, cx: &Context<'_>) -> Poll<Option<Item>> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let Some(at) = state.readers.get_mut(&reader) else { return Poll::Ready(None) };
        let Some(next) = at.taken.checked_sub(state.dropped) else {
            state.remove_reader(reader);
            return Poll::Ready(Some(Err(Failure::new(ErrorCode::Overloaded))));
        };
        if let Some(item) = state.kept.get(next).cloned() {
            at.taken += 1;
            self.tidy(state);
            return Poll::Ready(Some(item));
        }
        if state.stage == Stage::Over {
            return Poll::Ready(None);
        }
        at.waker = Some(cx.waker().clone());
        state.wake_server();
        Poll::Pending
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.room.give_back(lock(&self.state).bytes);
    }
}
