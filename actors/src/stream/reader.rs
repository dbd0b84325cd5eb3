//! The reader's end of a stream: what the response is made of.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, stream::FusedStream};

use super::{
    Failure,
    relay::{KEEPALIVE, Phase, Shared, State},
};
use crate::domain::{ErrorCode, Outcome, Timings};

/// How a request's answer begins.
#[derive(Debug, Clone)]
pub enum Head {
    /// A stream: pull it.
    Stream,
    /// The whole answer, which is in the books.
    Answer(Bytes),
    /// None: nothing was sent to the client yet, so an error can be answered by its status.
    Failed(Failure),
}

impl State {
    /// Begins the answer with a comment, before the provider has begun its own.
    fn commit(&mut self) {
        self.ready.push_back(KEEPALIVE);
        self.release_pieces();
        self.committed = true;
    }

    /// Says how the answer begins, once that is known.
    fn poll_head(&mut self, cx: &mut Context<'_>, timings: &mut Timings) -> Poll<Head> {
        if let Some(ticket) = &mut self.ticket() {
            *timings = ticket.outcome().timings;
        }
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Opening => {
                self.phase = Phase::Opening;
                self.wait(cx);
                Poll::Pending
            }
            Phase::Answered(answer) => {
                let settled = self.end(Outcome::Completed, None);
                let failed = |code| Poll::Ready(Head::Failed(Failure::new(code)));
                match self.poll_synced(cx) {
                    Poll::Ready(_) if !settled => failed(ErrorCode::LedgerUnavailable),
                    Poll::Ready(true) => Poll::Ready(Head::Answer(answer)),
                    // It is written, and charged unless the machine dies: no proxy may ask elsewhere.
                    Poll::Ready(false) => failed(ErrorCode::InternalError),
                    Poll::Pending => {
                        self.phase = Phase::Answered(answer);
                        Poll::Pending
                    }
                }
            }
            Phase::Failed(failure) => Poll::Ready(Head::Failed(failure)),
            phase => {
                self.phase = phase;
                self.committed = true;
                Poll::Ready(Head::Stream)
            }
        }
    }
}

/// The reader's end of a stream. Dropping it before the end means that the client left: the provider's connection is
/// closed at once.
pub struct Relay {
    pub(super) shared: Shared,
    pub(super) left: Box<dyn Fn()>,
}

impl Relay {
    /// Waits for the first frame, the whole answer or a failure, but no longer than `commit_after`: then the stream
    /// begins with a comment, and a later failure is an error in the stream.
    ///
    /// `timings` takes what is known by then.
    pub async fn head(&mut self, commit_after: Option<Duration>, timings: &mut Timings) -> Head {
        let shared = Rc::clone(&self.shared);
        let head = std::future::poll_fn(|cx| shared.borrow_mut().poll_head(cx, timings));
        let Some(commit_after) = commit_after else { return head.await };
        match tokio::time::timeout(commit_after, head).await {
            Ok(head) => head,
            Err(_elapsed) => {
                shared.borrow_mut().commit();
                Head::Stream
            }
        }
    }
}

impl Stream for Relay {
    type Item = Result<Bytes, Failure>;

    /// Yields whole frames; an error is the last item.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.shared.borrow_mut().poll_frames(cx)
    }
}

impl FusedStream for Relay {
    fn is_terminated(&self) -> bool {
        self.shared.borrow().is_over()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let mut state = self.shared.borrow_mut();
        state.end(Outcome::ClientGone, None);
        if !matches!(state.phase, Phase::Finishing(_)) {
            state.phase = Phase::Over;
        }
        drop(state);
        (self.left)();
    }
}
