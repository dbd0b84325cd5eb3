//! A caller on raw TCP: it sees every byte and its moment, and may leave in any way there is.
//!
//! ```no_run
//! # async fn example(addr: std::net::SocketAddr) -> std::io::Result<()> {
//! use hne_load::client::{Client, Request};
//!
//! let client = Client::new(addr).bearer("token");
//! let body = r#"{"model":"mock/chat","messages":[{"role":"user","content":"marker-1"}],"stream":true}"#;
//! let mut response = client.send(&Request::post("/v1/chat/completions").json(body)).await?;
//! while let Some(frame) = response.frame().await? {
//!     println!("{:?} {:?}", frame.at, frame.data());
//! }
//! let reused = response.into_connection(); // kept alive, as the body was read to its end
//! # Ok(())
//! # }
//! ```
//!
//! A body that ends short of its framing is an error here ([`io::ErrorKind::UnexpectedEof`]), never a clean end. Nothing
//! is retried, redirected, decompressed or timed out; the caller wraps what it awaits in a timeout. What is not read
//! stays in the kernel: to stop reading, don't ask for the next frame.

mod request;
mod response;
mod sse;

pub use request::Request;
pub use response::Response;
pub use sse::{Frame, FrameReader};

use crate::clock;
use bytes::BytesMut;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

/// Room made for each read.
const READ_SIZE: usize = 16 << 10;

/// A packet filter that lets nothing in: «return, 0 bytes» (`BPF_RET | BPF_K`).
const DROP_ALL: SockFilter = SockFilter::new(0x06, 0, 0, 0);

/// Where requests go, and what they all carry.
#[derive(Clone, Debug)]
pub struct Client {
    addr: SocketAddr,
    headers: Vec<(String, String)>,
    receive_buffer: Option<usize>,
}

impl Client {
    /// Makes a client of one address. It holds no connection.
    #[must_use]
    pub const fn new(addr: SocketAddr) -> Self {
        Self { addr, headers: Vec::new(), receive_buffer: None }
    }

    /// Sends a bearer token with each request.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Sends a header with each request.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Makes the kernel hold about this many unread bytes for each connection, so that a slow reader is felt soon.
    #[must_use]
    pub const fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn connect(&self) -> io::Result<Connection> {
        let stream = match self.receive_buffer {
            None => TcpStream::connect(self.addr).await?,
            Some(bytes) => {
                let socket = Socket::new(Domain::for_address(self.addr), Type::STREAM, Some(Protocol::TCP))?;
                // Before connecting: the window is agreed on then.
                socket.set_recv_buffer_size(bytes)?;
                socket.set_nonblocking(true)?;
                TcpSocket::from_std_stream(socket.into()).connect(self.addr).await?
            }
        };
        stream.set_nodelay(true)?;
        let headers = self.headers.clone();
        Ok(Connection { stream, inbox: BytesMut::new(), headers, addr: self.addr, sent_at: clock::now() })
    }

    /// Sends a request over a new connection and reads the response's head.
    ///
    /// # Errors
    /// What the operating system says, or [`io::ErrorKind::InvalidData`] for a head that is no HTTP.
    pub async fn send(&self, request: &Request) -> io::Result<Response> {
        self.connect().await?.exchange(request).await
    }

    /// `GET path`, over a new connection.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn get(&self, path: &str) -> io::Result<Response> {
        self.send(&Request::get(path)).await
    }

    /// `POST path` with a JSON body, over a new connection.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn post_json(&self, path: &str, body: &str) -> io::Result<Response> {
        self.send(&Request::post(path).json(body)).await
    }
}

/// One TCP connection, between responses.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    inbox: BytesMut,
    headers: Vec<(String, String)>,
    addr: SocketAddr,
    sent_at: Instant,
}

impl Connection {
    /// Sends a request and reads the response's head.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn exchange(mut self, request: &Request) -> io::Result<Response> {
        self.send(request).await?;
        self.response().await
    }

    /// Sends a request without waiting for anything; several may follow each other (pipelining).
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn send(&mut self, request: &Request) -> io::Result<()> {
        let bytes = request.encode(self.addr, &self.headers);
        self.send_raw(&bytes).await
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sent_at = clock::now();
        self.stream.write_all(bytes).await
    }

    /// Reads the next response's head.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the peer closes first, [`io::ErrorKind::InvalidData`] for a head that is no
    /// HTTP, otherwise what the operating system says.
    pub async fn response(self) -> io::Result<Response> {
        Response::read(self).await
    }

    /// Reads some bytes as they are; none at the end.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn read_raw(&mut self) -> io::Result<bytes::Bytes> {
        if self.inbox.is_empty() {
            self.fill().await?;
        }
        Ok(self.inbox.split().freeze())
    }

    /// The address of this end.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Waits until the peer closes, throwing away what it sends; tells when.
    ///
    /// # Errors
    /// Never for a reset, which is a close as well; otherwise what the operating system says.
    pub async fn closed(&mut self) -> io::Result<Instant> {
        loop {
            self.inbox.clear();
            match self.fill().await {
                Ok(0) => return Ok(clock::now()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(clock::now()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Closes politely. If bytes lie unread in the kernel, it makes a reset of this.
    pub fn close(self) {
        drop(self);
    }

    /// Resets: the peer's next read or write fails.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn reset(self) -> io::Result<()> {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
    }

    /// Vanishes, as a machine does whose cable is cut: from now on the kernel drops what arrives, and acknowledges
    /// nothing. Keep the connection, since closing it would say something.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn vanish(&self) -> io::Result<()> {
        socket2::SockRef::from(&self.stream).attach_filter(&[DROP_ALL])
    }

    /// Sends a FIN and goes on reading.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn half_close(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Reads more; 0 is the end.
    async fn fill(&mut self) -> io::Result<usize> {
        self.inbox.reserve(READ_SIZE);
        self.stream.read_buf(&mut self.inbox).await
    }
}
