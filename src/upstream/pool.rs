//! The connections to one provider, on one thread.
//!
//! awc's connector opens them ([`dial`](super::dial)). What awc keeps above that isn't used. For each request it makes
//! a codec of its own, and with that a task, a timer that rouses the event loop and two buffers of 8 KiB that live as
//! long as the stream; and it looks at idle connections only when it needs one, so that those of a busy hour stay open.
//!
//! Invariants:
//! - A connection serves one request at a time. It comes back only when that was sent, its answer was read to the end and
//!   nothing was left over; dropped before that, it is closed at once.
//! - The one that was used last is taken first. One that rests for `idle_timeout`, or that the provider has closed, is
//!   closed within a quarter of that time. A request that is on its way when the provider closes fails like any other,
//!   and is retried like any other.
//! - Connections that wait for bytes have no buffer: there is one for all of them, which a connection keeps for itself
//!   only while it holds bytes that nobody has read.
//!
//! Limits: as many connections as requests are admitted; idle ones are no more than ran at once.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use actix_http::{KeepAlive, ServiceConfig, Uri};
use actors::ports::UpstreamError;
use awc::error::ConnectError;
use bytes::BytesMut;
use rustls::ClientConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    task::{AbortHandle, coop::unconstrained},
    time::{Instant, MissedTickBehavior},
};

use super::dial::{Dial, dialling};

/// The buffer that is read into. Larger answers take several reads, as they do in awc. Where less than 2 KiB of it are left,
/// actix-http's codec puts one of 32 KiB in its place.
const BUFFER_BYTES: usize = 8 * 1024;
/// With less room left than this another buffer is taken.
const LEAST_ROOM: usize = 1024;

/// A connection's bytes, in the clear.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Socket for T {}

/// The connections to one provider. Cheap to clone; the last clone's end closes those that are idle.
#[derive(Clone)]
pub(super) struct Pool(Rc<Inner>);

struct Inner {
    dial: Dial,
    /// Of all codecs: it keeps the date, by a task of its own.
    codec: ServiceConfig,
    idle: RefCell<Vec<Idle>>,
    buffer: Cell<BytesMut>,
    /// Of heads and short bodies, so that it stays small.
    outgoing: Cell<BytesMut>,
    sweeper: Cell<Option<AbortHandle>>,
}

struct Idle {
    socket: Box<dyn Socket>,
    since: Instant,
}

/// A connection that serves a request.
pub(super) struct Connection {
    pub(super) socket: Box<dyn Socket>,
    /// What was read of the answer and isn't decoded yet.
    pub(super) unread: BytesMut,
    /// How long that took; zero where it was kept.
    pub(super) opened_in: Duration,
    pool: Pool,
}

impl Pool {
    /// Makes an empty pool. Belongs on a thread with a `LocalSet`, which it uses until it is dropped.
    pub(super) fn new(uri: &Uri, tls: ClientConfig, connect_timeout: Duration, idle_timeout: Duration) -> Self {
        let pool = Self(Rc::new(Inner {
            dial: dialling(uri.clone(), tls, connect_timeout),
            codec: ServiceConfig::new(KeepAlive::Os, Duration::ZERO, Duration::ZERO, false, None),
            idle: RefCell::default(),
            buffer: Cell::default(),
            outgoing: Cell::default(),
            sweeper: Cell::default(),
        }));
        let sweeper = actix_rt::spawn(sweep(Rc::downgrade(&pool.0), idle_timeout)).abort_handle();
        pool.0.sweeper.set(Some(sweeper));
        pool
    }

    /// Returns what codecs share.
    pub(super) fn codec(&self) -> ServiceConfig {
        self.0.codec.clone()
    }

    /// Takes the connection that was used last, if one was kept.
    pub(super) fn kept(&self) -> Option<Connection> {
        let idle = || self.0.idle.borrow_mut().pop();
        while let Some(Idle { mut socket, .. }) = idle() {
            if is_quiet(&mut socket) {
                return Some(self.serving(socket, Duration::ZERO));
            }
        }
        None
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The provider can't be reached.
    pub(super) async fn connect(&self) -> Result<Connection, UpstreamError> {
        let begun = Instant::now();
        let socket = (self.0.dial)().await.map_err(|error| match error {
            ConnectError::Timeout => UpstreamError::ConnectTimeout,
            ConnectError::Disconnected => UpstreamError::Broken,
            other => UpstreamError::Connect(other.to_string()),
        })?;
        Ok(self.serving(socket, begun.elapsed()))
    }

    /// Takes the buffer that requests are written into, empty. Where another one is being sent out of it, it is a new one.
    pub(super) fn take_outgoing(&self) -> BytesMut {
        self.0.outgoing.take()
    }

    /// Gives it back when the request was sent.
    pub(super) fn put_outgoing(&self, mut outgoing: BytesMut) {
        outgoing.clear();
        self.0.outgoing.set(outgoing);
    }

    fn serving(&self, socket: Box<dyn Socket>, opened_in: Duration) -> Connection {
        Connection { socket, unread: BytesMut::new(), opened_in, pool: self.clone() }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(sweeper) = self.sweeper.take() {
            sweeper.abort();
        }
    }
}

impl Connection {
    /// Reads more of the answer. Returns how many bytes came; 0 is the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.unread.is_empty() {
            self.unread = self.pool.0.buffer.take();
        }
        if self.unread.capacity() - self.unread.len() < LEAST_ROOM {
            self.unread.reserve(BUFFER_BYTES);
        }
        let read = pin!(self.socket.read_buf(&mut self.unread)).poll(cx);
        self.give_back();
        read
    }

    /// Gives the buffer back, if there is nothing in it. Where it was given back before, the one that is there stays.
    pub(super) fn give_back(&mut self) {
        if self.unread.is_empty() && self.unread.capacity() > 0 {
            self.pool.0.buffer.set(std::mem::take(&mut self.unread));
        }
    }

    /// Has it serve others. For one whose answer was read to the end.
    pub(super) fn release(mut self) {
        self.give_back();
        if self.unread.is_empty() {
            self.pool.0.idle.borrow_mut().push(Idle { socket: self.socket, since: Instant::now() });
        }
    }
}

/// Says whether nothing has come since the last answer, not even the end.
fn is_quiet(socket: &mut Box<dyn Socket>) -> bool {
    let mut byte = [0];
    let mut read = ReadBuf::new(&mut byte);
    // A task that has read 128 times is told that there is nothing, so that it yields: what is closed would look quiet.
    let look = pin!(unconstrained(poll_fn(|cx| Pin::new(&mut *socket).poll_read(cx, &mut read))));
    look.poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

/// Closes what has rested for too long, and what the provider has closed, until the pool is gone.
async fn sweep(pool: std::rc::Weak<Inner>, idle_timeout: Duration) {
    let mut tick = tokio::time::interval((idle_timeout / 4).max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = tick.tick().await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.idle.borrow_mut();
        idle.retain_mut(|idle| now.saturating_duration_since(idle.since) < idle_timeout && is_quiet(&mut idle.socket));
        idle.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// A connection that has given its buffer back once more must not leave others without.
    #[actix_rt::test]
    async fn one_buffer_serves_one_read_after_another() {
        let roots = rustls::RootCertStore::empty();
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let pool = Pool::new(&Uri::from_static("http://provider"), tls, Duration::from_secs(1), Duration::from_secs(1));
        let (mut provider, socket) = tokio::io::duplex(64);
        let mut connection = pool.serving(Box::new(socket), Duration::ZERO);
        for read in 1..=9 {
            provider.write_all(b"frame").await.unwrap();
            assert_eq!(poll_fn(|cx| connection.poll_read(cx)).await.unwrap(), 5);
            let frame = connection.unread.split();
            connection.give_back();
            connection.give_back();
            assert_eq!(frame, "frame");
            let left = pool.0.buffer.take();
            assert_eq!(left.capacity(), BUFFER_BYTES - read * frame.len());
            pool.0.buffer.set(left);
        }
    }
}
