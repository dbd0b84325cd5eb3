//! One connection's socket. Whatever the mock waits for, it learns at once that the peer has gone.

use crate::clock;
use bytes::BytesMut;
use socket2::SockRef;
use std::{future::Future, future::pending, io, pin::pin, time::Duration, time::Instant};
use tokio::net::TcpStream;

/// What may be read ahead of the request that is being answered; then reading stops until it is.
const READ_AHEAD: usize = 64 << 10;
/// Room made for each read.
const READ_SIZE: usize = 4 << 10;

/// The peer closed or reset its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerGone {
    /// When the mock noticed.
    pub(crate) at: Instant,
}

/// A socket, and the bytes that were read from it but not used yet.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: TcpStream,
    pub(crate) inbox: BytesMut,
}

impl Wire {
    pub(crate) fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self { socket, inbox: BytesMut::new() })
    }

    /// Waits for more bytes of the peer, of any number.
    pub(crate) async fn fill(&mut self) -> Result<(), PeerGone> {
        let before = self.inbox.len();
        while self.inbox.len() == before {
            self.read().await?;
        }
        Ok(())
    }

    /// Waits for `event`, or until the peer has gone.
    pub(crate) async fn meanwhile<F: Future>(&mut self, event: F) -> Result<F::Output, PeerGone> {
        let mut event = pin!(event);
        loop {
            tokio::select! {
                biased;
                output = &mut event => return Ok(output),
                read = async {
                    if self.inbox.len() < READ_AHEAD { self.read().await } else { pending().await }
                } => read?,
            }
        }
    }

    pub(crate) async fn sleep(&mut self, time: Duration) -> Result<(), PeerGone> {
        if time.is_zero() { Ok(()) } else { self.meanwhile(tokio::time::sleep(time)).await }
    }

    pub(crate) async fn sleep_until(&mut self, due: Instant) -> Result<(), PeerGone> {
        self.meanwhile(tokio::time::sleep_until(due.into())).await
    }

    /// Stays silent until the peer goes.
    pub(crate) async fn stall(&mut self) -> PeerGone {
        match self.meanwhile(pending::<PeerGone>()).await {
            Ok(gone) | Err(gone) => gone,
        }
    }

    pub(crate) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), PeerGone> {
        while !bytes.is_empty() {
            match self.socket.try_write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(_) => return Err(gone()),
            }
        }
        Ok(())
    }

    /// Closes with a reset instead of a FIN.
    pub(crate) fn reset(self) {
        // If the option can't be set the socket is broken already, and the peer sees an error anyway.
        SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).ok();
    }

    async fn writable(&mut self) -> Result<(), PeerGone> {
        if self.inbox.len() >= READ_AHEAD {
            return self.socket.writable().await.map_err(|_closed| gone());
        }
        tokio::select! {
            ready = self.socket.writable() => ready.map_err(|_closed| gone()),
            ready = self.socket.readable() => {
                ready.map_err(|_closed| gone())?;
                self.try_read()
            }
        }
    }

    async fn read(&mut self) -> Result<(), PeerGone> {
        self.socket.readable().await.map_err(|_closed| gone())?;
        self.try_read()
    }

    fn try_read(&mut self) -> Result<(), PeerGone> {
        self.inbox.reserve(READ_SIZE);
        match self.socket.try_read_buf(&mut self.inbox) {
            Ok(0) => Err(gone()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(gone()),
        }
    }
}

fn gone() -> PeerGone {
    PeerGone { at: clock::now() }
}
