//! The relay: what the stream's actor and the response's body share on their thread.
//!
//! The body pulls: it polls the provider's body itself, so that a chunk costs no extra wake-up and a slow client slows
//! the provider. The actor opens the provider, watches the deadlines, and is told when the reader leaves.
//!
//! Invariants:
//! - [`State::end`] is the one exit (`exit`).
//! - The settlement is in the books before `[DONE]`, the last bytes of an answer or the last error are handed over.
//! - What is handed over is whole frames. Nothing follows an error frame.
//! - The provider is polled only when everything read before was handed over: at most one chunk is held.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::{
    Failure, Job, Kit,
    exit::{More, Syncing},
    provider::Answering,
    sse::{Piece, PieceKind, Rest, Scanner, Watched},
    ticket::Ticket,
};
use crate::{
    domain::{ErrorCode, Outcome},
    metrics::Metrics,
    ports::{Clock, Patience, UpstreamBody},
};

/// A comment that keeps proxies and clients from giving up on a silent stream.
pub(super) const KEEPALIVE: Bytes = Bytes::from_static(b": keepalive\n\n");
/// The end of a stream, where the provider forgot it.
pub(super) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// Where a stream stands.
pub(super) enum Phase {
    /// The actor connects and waits for the first frame, or for the whole answer.
    Opening,
    /// The reader pulls.
    Relaying(UpstreamBody),
    /// The whole answer is here, to be settled when it is taken.
    Answered(Bytes),
    /// It ended with a failure that the reader hasn't seen yet.
    Failed(Failure),
    /// The last frame was handed over; the provider's connection can be kept if its body ends soon.
    Finishing(UpstreamBody),
    /// Nothing follows.
    Over,
}

/// The shared state of one stream.
pub(super) struct State {
    pub(super) phase: Phase,
    /// Whole frames to be handed over before anything else.
    pub(super) ready: VecDeque<Bytes>,
    pub(super) scanner: Scanner,
    /// Pieces of the chunk that was read last, not handed over yet.
    pieces: VecDeque<Piece>,
    /// Whether that chunk had a frame that is too long.
    too_long: bool,
    /// What was seen in an answer that isn't streamed.
    pub(super) answer: Option<Watched>,
    /// How patient to be with the provider that answers.
    pub(super) patience: Option<Patience>,
    /// Whom to blame if the answer that has begun breaks off.
    pub(super) answering: Option<Answering>,
    stream: bool,
    wants_usage: bool,
    /// Whether the client has the head of its answer.
    pub(super) committed: bool,
    pub(super) ticket: Option<Ticket>,
    pub(super) syncing: Option<Syncing>,
    pub(super) more: More,
    /// Tells the actor that more quota is needed.
    pub(super) short: Box<dyn Fn()>,
    reader: Option<Waker>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
    pub(super) sent_bytes: u64,
    /// Since when the reader has been waiting for a frame; `None` while it is busy with what came.
    silent_since: Option<Instant>,
    last_sent: Instant,
    opened: Instant,
}

pub(super) type Shared = Rc<RefCell<State>>;

impl State {
    pub(super) fn new(ticket: Ticket, scanner: Scanner, job: &Job, kit: &Kit) -> Self {
        let opened = kit.clock.now();
        kit.metrics.stream_opened();
        Self {
            phase: Phase::Opening,
            ready: VecDeque::new(),
            scanner,
            pieces: VecDeque::new(),
            too_long: false,
            answer: None,
            patience: None,
            answering: None,
            stream: job.stream,
            wants_usage: job.wants_usage,
            committed: false,
            ticket: Some(ticket),
            syncing: None,
            more: More::Unasked,
            short: Box::new(|| {}),
            reader: None,
            clock: Arc::clone(&kit.clock),
            metrics: kit.metrics.clone(),
            sent_bytes: 0,
            silent_since: None,
            last_sent: opened,
            opened,
        }
    }

    pub(super) fn ticket(&mut self) -> Option<&mut Ticket> {
        self.ticket.as_mut()
    }

    /// Hands over what a slow reader hasn't taken of the last chunk, but for `[DONE]`: it belongs before the end.
    pub(super) fn release_pieces(&mut self) {
        let wants_usage = self.wants_usage;
        let wanted = |piece: &Piece| match piece.kind {
            PieceKind::Frames | PieceKind::Error => true,
            PieceKind::Usage => wants_usage,
            PieceKind::Done => false,
        };
        self.ready.extend(self.pieces.drain(..).filter(wanted).map(|piece| piece.bytes));
    }

    pub(super) fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Starts anew, with the provider that is asked next.
    pub(super) fn restart(&mut self, scanner: Scanner, patience: Patience) {
        self.scanner = scanner;
        self.patience = Some(patience);
        self.pieces.clear();
        self.too_long = false;
    }

    /// Reads a chunk, or the end of the body. Returns what was seen so far.
    pub(super) fn read(&mut self, chunk: Option<Bytes>) -> Watched {
        match chunk {
            Some(chunk) => {
                for piece in self.scanner.scan(chunk) {
                    match piece {
                        Ok(piece) => self.pieces.push_back(piece),
                        Err(_too_long) => self.too_long = true,
                    }
                }
            }
            None => {
                if let Rest::Frame(piece) = self.scanner.finish() {
                    self.pieces.push_back(piece);
                }
            }
        }
        *self.scanner.watched()
    }

    /// Takes out the bytes of what came and wasn't handed over.
    pub(super) fn take_pieces(&mut self) -> Vec<u8> {
        self.pieces.drain(..).flat_map(|piece| piece.bytes).collect()
    }

    /// Says whether a frame was too long.
    pub(super) fn is_too_long(&self) -> bool {
        self.too_long
    }

    /// Hands the answer over to the reader; a stream's first frame is among the pieces. Not where it ended meanwhile.
    pub(super) fn hand_over_to_reader(&mut self, phase: Phase) {
        if self.ticket.is_some() {
            self.phase = phase;
            self.wake();
        }
    }

    /// Hands over the comments that came before the first frame, where the answer has begun. Until it has, at most so
    /// many bytes of them are kept.
    pub(super) fn pass_comments(&mut self, most: usize) {
        if self.committed {
            self.release_pieces();
            self.wake();
        } else if self.pieces.iter().map(|piece| piece.bytes.len()).sum::<usize>() > most {
            self.pieces.clear();
        }
    }

    /// Looks after deadlines and keep-alives. Returns when to look again; `None` where the stream has ended.
    pub(super) fn tick(&mut self, now: Instant, keepalive: Duration) -> Option<Instant> {
        self.ticket.as_ref()?;
        let patience = self.patience;
        let gap = patience.and_then(|patience| Some(self.silent_since? + patience.gap));
        let total = patience.and_then(|patience| Some(self.opened + patience.total?));
        let silent = gap.is_some_and(|gap| gap <= now);
        if silent || total.is_some_and(|total| total <= now) {
            // An answer that only takes long is no fault.
            self.answering = self.answering.take().filter(|_| silent);
            self.expire(Outcome::Deadline, ErrorCode::ProviderTimeout);
            return None;
        }
        let mut next = now + patience.map_or(keepalive, |patience| patience.gap.min(keepalive));
        // A reader that hasn't taken what is ready is busy, and needs no comment.
        if self.stream && self.committed && self.ready.is_empty() {
            if now.saturating_duration_since(self.last_sent) >= keepalive {
                self.ready.push_back(KEEPALIVE);
                self.last_sent = now;
                self.wake();
            }
            next = next.min(self.last_sent + keepalive);
        }
        Some([gap, total].into_iter().flatten().fold(next, Instant::min))
    }

    /// Says whether all was handed over.
    pub(super) fn is_over(&self) -> bool {
        self.ticket.is_none() && self.ready.is_empty() && matches!(self.phase, Phase::Finishing(_) | Phase::Over)
    }

    /// Takes a body that only lacks its end.
    pub(super) fn take_finishing(&mut self) -> Option<UpstreamBody> {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Finishing(body) => Some(body),
            _ => None,
        }
    }

    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
    }

    pub(super) fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        if !std::task::ready!(self.poll_synced(cx)) {
            self.ready.clear();
            self.phase = Phase::Failed(Failure::new(ErrorCode::LedgerUnavailable));
        }
        if let Some(frames) = self.ready.pop_front() {
            return self.hand_over(frames);
        }
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Relaying(body) => self.relay(body, cx),
            Phase::Failed(failure) => Poll::Ready(Some(Err(failure))),
            Phase::Opening => {
                self.phase = Phase::Opening;
                self.wait(cx);
                Poll::Pending
            }
            Phase::Finishing(mut body) => {
                // Most bodies end with the bytes of `[DONE]`; then the connection is free again.
                if body.poll_next_unpin(cx).is_pending() {
                    self.phase = Phase::Finishing(body);
                }
                Poll::Ready(None)
            }
            Phase::Answered(_) | Phase::Over => Poll::Ready(None),
        }
    }

    fn hand_over(&mut self, frames: Bytes) -> Poll<Option<Result<Bytes, Failure>>> {
        self.last_sent = self.clock.now();
        self.sent_bytes += frames.len() as u64;
        Poll::Ready(Some(Ok(frames)))
    }

    fn relay(&mut self, mut body: UpstreamBody, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                match self.hand_over_piece(piece, body, cx) {
                    Ok(handed_over) => return handed_over,
                    Err(withheld) => body = withheld,
                }
                continue;
            }
            if self.too_long {
                return self.break_off(Outcome::ProviderError, Failure::new(ErrorCode::ProviderError));
            }
            match body.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    let before = self.scanner.watched().frames;
                    // Bytes of a frame that never becomes whole are no sign of life.
                    if self.read(Some(chunk)).frames > before {
                        self.silent_since = None;
                    }
                }
                Poll::Ready(Some(Err(_)) | None) => {
                    self.read(None);
                    if self.pieces.is_empty() {
                        return self.provider_left(cx);
                    }
                    body = stream::empty().boxed_local();
                }
                Poll::Pending => {
                    if self.silent_since.is_none() {
                        self.silent_since = Some(self.clock.now());
                    }
                    self.phase = Phase::Relaying(body);
                    self.wait(cx);
                    return Poll::Pending;
                }
            }
        }
    }

    /// Hands one piece over, or gives the body back where the client didn't ask for that piece.
    fn hand_over_piece(
        &mut self,
        Piece { kind, bytes }: Piece,
        body: UpstreamBody,
        cx: &mut Context<'_>,
    ) -> Result<Poll<Option<Result<Bytes, Failure>>>, UpstreamBody> {
        match kind {
            PieceKind::Usage if !self.wants_usage => return Err(body),
            PieceKind::Frames | PieceKind::Usage => match self.cover() {
                Ok(true) => self.phase = Phase::Relaying(body),
                Err(failure) => return Ok(self.break_off(Outcome::CutOff, failure)),
                Ok(false) => {
                    self.pieces.push_front(Piece { kind, bytes });
                    self.phase = Phase::Relaying(body);
                    self.wait(cx);
                    return Ok(Poll::Pending);
                }
            },
            PieceKind::Done => {
                self.complete(bytes, Phase::Finishing(body));
                return Ok(self.poll_frames(cx));
            }
            PieceKind::Error => drop(self.end(Outcome::ProviderError, Some(ErrorCode::ProviderError))),
        }
        Ok(self.hand_over(bytes))
    }

    /// The provider's body ended without `[DONE]`, or broke. Complete means that a `finish_reason` was seen.
    fn provider_left(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        if self.scanner.watched().is_complete() {
            self.complete(DONE, Phase::Over);
            return self.poll_frames(cx);
        }
        self.break_off(Outcome::ProviderError, Failure::new(ErrorCode::ProviderError))
    }
}
