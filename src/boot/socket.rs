//! A client's socket.
//!
//! actix has a deadline for the first head of a connection, and one for a connection on which nothing comes. From the first
//! byte of a later head on neither holds: whoever sends a part of it would keep the connection for ever. So the socket ends.
//!
//! Invariants:
//! - While a request is served, and before a first head is whole, the socket doesn't end by itself.
//! - It ends where a head isn't whole twice `header_timeout` after its first byte, at the latest, and where none is whole
//!   `keep_alive` and `header_timeout` after the last answer.
//! - A connection that is used sets its timer once in `header_timeout`, and not for each request.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

use crate::http::Heads;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a head.
    pub(super) head: Duration,
    /// From an answer to the next head.
    pub(super) idle: Duration,
}

/// A client's socket, which ends when it is due.
pub(super) struct ClientSocket {
    tcp: TcpStream,
    heads: Rc<Heads>,
    patience: Patience,
    timer: Option<Timer>,
}

/// When the socket ends, unless more heads are seen by then.
struct Timer {
    sleep: Pin<Box<Sleep>>,
    seen: (u32, bool),
}

impl ClientSocket {
    pub(super) fn new(tcp: TcpStream, patience: Patience) -> Self {
        Self { tcp, heads: Rc::default(), patience, timer: None }
    }

    pub(super) fn heads(&self) -> &Rc<Heads> {
        &self.heads
    }

    /// Waits until the socket is due. To be called by the one task that reads, when there is nothing to be read.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let seen @ (whole, begun) = self.heads.seen();
        if self.heads.is_served() || whole == 0 {
            return Poll::Pending;
        }
        let wait = self.patience.head + if begun { Duration::ZERO } else { self.patience.idle };
        let timer = match &mut self.timer {
            Some(timer) if timer.sleep.is_elapsed() && timer.seen == seen => return Poll::Ready(()),
            // It is set, and wakes the task; if not for this head, then before that is due.
            Some(timer) if !timer.sleep.is_elapsed() && (timer.seen.1 || !begun) => return Poll::Pending,
            Some(timer) => {
                timer.sleep.as_mut().reset(Instant::now() + wait);
                timer
            }
            none => none.insert(Timer { sleep: Box::pin(sleep(wait)), seen }),
        };
        timer.seen = seen;
        timer.sleep.as_mut().poll(cx)
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(cx, buffer);
        if read.is_pending() {
            return self.poll_due(cx).map(Ok);
        }
        if buffer.filled().len() > before {
            self.heads.came();
        }
        read
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
