//! One answer and its readers: what was answered so far, and how far each has read.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::Stream;

use super::{Beginning, Fingerprint, Room};
use crate::{
    domain::ErrorCode,
    lock::lock,
    stream::{Failure, Head},
};

/// Whole frames, or the error that ends them.
type Item = Result<Bytes, Failure>;

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
    /// What is kept of the answer, and how many items came before it that are not.
    kept: VecDeque<Item>,
    dropped: usize,
    readers: BTreeMap<u64, At>,
    next_reader: u64,
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

impl State {
    fn add_reader(&mut self) -> u64 {
        let reader = self.next_reader;
        self.next_reader += 1;
        self.readers.insert(reader, At::default());
        reader
    }

    fn wake_readers(&mut self) {
        self.readers.values_mut().filter_map(|at| at.waker.take()).for_each(Waker::wake);
    }

    fn wake_server(&mut self) {
        if let Some(server) = self.server.take() {
            server.wake();
        }
    }

    fn remove_reader(&mut self, reader: u64) {
        self.readers.remove(&reader);
        if self.stage == Stage::Served && self.readers.is_empty() {
            // Whoever comes from now on is too late to join what is about to be cancelled.
            self.stage = Stage::Over;
        }
        self.wake_server();
    }

    /// Takes out what is of no use: everything once there is no room for it, from then on what every reader has taken.
    fn forget(&mut self, all: bool) -> usize {
        let least = self.readers.values().map(|at| at.taken).min().unwrap_or(usize::MAX);
        let useless = if all { self.kept.len() } else { least.saturating_sub(self.dropped).min(self.kept.len()) };
        self.dropped += useless;
        self.kept.drain(..useless).map(|item| bytes_of(&item)).sum()
    }

    /// Says whether some reader has taken all there is.
    fn is_wanted(&self) -> bool {
        let all = self.dropped + self.kept.len();
        self.readers.values().any(|at| at.taken == all)
    }
}

fn bytes_of(item: &Item) -> usize {
    item.as_ref().map_or(0, Bytes::len)
}

impl Answer {
    pub(super) fn new(request: Fingerprint, room: Arc<Room>) -> Arc<Self> {
        let state = State {
            stage: Stage::Admitting,
            beginning: None,
            kept: VecDeque::new(),
            dropped: 0,
            readers: BTreeMap::new(),
            next_reader: 0,
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
            _ => Joined::Reading(state.add_reader()),
        }
    }

    /// Says that it is answered from now on. Returns the first reader.
    pub(super) fn serve(&self) -> u64 {
        let mut state = lock(&self.state);
        state.stage = Stage::Served;
        state.add_reader()
    }

    /// Says that nothing more comes. An answer that had begun and isn't over by then is broken off.
    pub(super) fn give_up(&self) {
        let mut state = lock(&self.state);
        if state.stage == Stage::Served && state.beginning.is_some() {
            state.kept.push_back(Err(Failure::new(ErrorCode::InternalError)));
        }
        state.stage = Stage::Over;
        state.wake_readers();
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
        lock(&self.state).remove_reader(reader);
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
    pub(super) fn poll_pass(&self, source: &mut (impl Stream<Item = Item> + Unpin), cx: &mut Context<'_>) -> Poll<()> {
        loop {
            std::task::ready!(self.poll_wanted(cx));
            if lock(&self.state).stage == Stage::Over {
                return Poll::Ready(());
            }
            match std::task::ready!(Pin::new(&mut *source).poll_next(cx)) {
                Some(item) => self.push(item),
                None => self.finish(),
            }
        }
    }

    /// Waits until a reader has taken all there is, or it is over.
    fn poll_wanted(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        state.server = Some(cx.waker().clone());
        if state.is_wanted() || state.stage == Stage::Over { Poll::Ready(()) } else { Poll::Pending }
    }

    fn push(&self, item: Item) {
        let mut state = lock(&self.state);
        if state.dropped > 0 {
            self.room.give_back(state.forget(false));
        }
        if !self.room.take(bytes_of(&item)) {
            self.room.give_back(state.forget(true));
            self.room.take_anyway(bytes_of(&item));
        }
        state.kept.push_back(item);
        state.wake_readers();
    }

    fn finish(&self) {
        let mut state = lock(&self.state);
        state.stage = Stage::Over;
        state.wake_readers();
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
        let mut state = lock(&self.state);
        let state = &mut *state;
        let Some(at) = state.readers.get_mut(&reader) else { return Poll::Ready(None) };
        let Some(next) = at.taken.checked_sub(state.dropped) else {
            state.remove_reader(reader);
            return Poll::Ready(Some(Err(Failure::new(ErrorCode::Overloaded))));
        };
        if let Some(item) = state.kept.get(next) {
            at.taken += 1;
            return Poll::Ready(Some(item.clone()));
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
        let kept = lock(&self.state).kept.iter().map(bytes_of).sum();
        self.room.give_back(kept);
    }
}
