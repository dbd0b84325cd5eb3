//! A request and its answer, on one connection.
//!
//! actix-http's codec reads HTTP/1.1. What it can't tell apart is told here: an answer ends where its framing says so
//! (RFC 9112, section 6.3), and a connection that ends before that breaks it.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_http::{
    ConnectionType, ResponseHead,
    h1::{ClientCodec, ClientPayloadCodec, MessageType},
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use actors::ports::UpstreamError;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::Stream;
use tokio::io::AsyncWrite;
use tokio_util::codec::Decoder;

use super::{
    head::RequestHead,
    pool::{Connection, Pool, Socket},
};

/// A body of so many bytes is copied behind its head: one piece is sent for less than two are.
const COPIED_BYTES: usize = 1024;

/// The head of an answer, and its body to be pulled.
pub(super) struct Answer {
    pub(super) head: ResponseHead,
    pub(super) body: Body,
    /// How long it took to have the connection.
    pub(super) connect: Duration,
}

/// Sends a request and waits for the head of its answer, which may be there before the request is sent.
///
/// A provider may close a connection that was kept at any time (RFC 9112, section 9.5), also while a request is on its way
/// to it: that says nothing of how it fares, so the request goes over a new one.
///
/// # Errors
/// The provider can't be reached, or the connection broke.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub(super) async fn exchange(pool: &Pool, head: RequestHead, body: Bytes) -> Result<Answer, UpstreamError> {
    if let Some(kept) = pool.kept()
        && let Some(answer) = ask(pool, kept, &head, body.clone()).await?
    {
        return Ok(answer);
    }
    ask(pool, pool.connect().await?, &head, body).await?.ok_or(UpstreamError::Broken)
}

/// Sends a request over this connection; `None` if it ended before anything of an answer came.
async fn ask(
    pool: &Pool,
    mut connection: Connection,
    head: &RequestHead,
    body: Bytes,
) -> Result<Option<Answer>, UpstreamError> {
    let connect = connection.opened_in;
    let mut sending = Sending::new(pool, head, body);
    let mut codec = ClientCodec::new(pool.codec());
    // A refusal can come before the request is sent, and be why the rest isn't read: it counts, even where sending breaks.
    let mut sent = Poll::Pending;
    let mut silent = true;
    let head = poll_fn(|cx| {
        if sent.is_pending() {
            sent = sending.poll(pool, &mut connection.socket, cx);
        }
        poll_head(&mut connection, &mut codec, &mut silent, cx)
    })
    .await;
    let head = match head {
        Ok(head) => head,
        Err(_ended) if silent => return Ok(None),
        Err(error) => return Err(error),
    };
    // Whoever doesn't refuse it waits for the rest.
    if sent.is_pending() && head.status.is_success() {
        sent = Poll::Ready(poll_fn(|cx| sending.poll(pool, &mut connection.socket, cx)).await);
    }
    let framing = match codec.message_type() {
        MessageType::None if has_no_body(&head) => Framing::Over,
        MessageType::None => Framing::Close,
        MessageType::Payload | MessageType::Stream => Framing::Coded(codec.into_payload_codec()),
    };
    let reusable = matches!(sent, Poll::Ready(Ok(()))) && head.connection_type() == ConnectionType::KeepAlive;
    let delimited = matches!(framing, Framing::Coded(_)) && is_delimited(&head);
    let mut body = Body { framing, delimited, reusable, connection: Some(connection) };
    if matches!(body.framing, Framing::Over) {
        body.finish();
    }
    Ok(Some(Answer { head, body, connect }))
}

/// A request that is being sent.
struct Sending {
    /// Its head, and a short body, in the buffer that all requests share.
    outgoing: BytesMut,
    /// What follows.
    body: Bytes,
    sent_bytes: usize,
}

impl Sending {
    fn new(pool: &Pool, head: &RequestHead, mut body: Bytes) -> Self {
        let mut outgoing = pool.take_outgoing();
        head.write(body.len(), &mut outgoing);
        if body.len() <= COPIED_BYTES {
            outgoing.extend_from_slice(&body);
            body.clear();
        }
        Self { outgoing, body, sent_bytes: 0 }
    }

    /// Sends what is left. Not to be asked again when that is done, or has failed.
    fn poll(&mut self, pool: &Pool, socket: &mut Box<dyn Socket>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut left = self.outgoing.as_ref().chain(self.body.as_ref());
        left.advance(self.sent_bytes);
        while left.has_remaining() {
            let (first, second) = (left.first_ref(), left.last_ref());
            let socket = Pin::new(&mut *socket);
            let written = if first.is_empty() || second.is_empty() {
                socket.poll_write(cx, left.chunk())
            } else {
                socket.poll_write_vectored(cx, &[IoSlice::new(first), IoSlice::new(second)])
            };
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            left.advance(written);
            self.sent_bytes += written;
        }
        ready!(Pin::new(socket).poll_flush(cx))?;
        pool.put_outgoing(std::mem::take(&mut self.outgoing));
        Poll::Ready(Ok(()))
    }
}

/// Reads up to the head of the answer; `silent` until anything has come.
fn poll_head(
    connection: &mut Connection,
    codec: &mut ClientCodec,
    silent: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Result<ResponseHead, UpstreamError>> {
    loop {
        if !connection.unread.is_empty()
            && let Some(head) = codec.decode(&mut connection.unread).map_err(broken)?
        {
            // What comes before the answer has no body (RFC 9110, section 15.2); what has one, such as another protocol,
            // was not asked for.
            if head.status.is_informational() && matches!(codec.message_type(), MessageType::None) {
                continue;
            }
            connection.give_back();
            return Poll::Ready(Ok(head));
        }
        if ready!(connection.poll_read(cx)).map_err(broken)? == 0 {
            return Poll::Ready(Err(UpstreamError::Broken));
        }
        *silent = false;
    }
}

/// Says whether the answer says where it ends.
fn is_delimited(head: &ResponseHead) -> bool {
    head.headers.contains_key(CONTENT_LENGTH) || head.headers.contains_key(TRANSFER_ENCODING)
}

/// Says whether an answer that the codec takes for empty is. Others are one that offers another protocol, whatever its
/// length, and one whose coding is `identity`.
fn has_no_body(head: &ResponseHead) -> bool {
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    matches!(head.status.as_u16(), 204 | 304) || length.is_some_and(|length| length.trim().parse() == Ok(0_u64))
}

fn broken<E>(_why: E) -> UpstreamError {
    UpstreamError::Broken
}

/// An answer's body. Dropping it before its end closes the connection.
pub(super) struct Body {
    framing: Framing,
    /// Whether the end of the connection, where it comes first, breaks it.
    delimited: bool,
    /// Whether the connection serves others when this was read to the end.
    reusable: bool,
    /// `None` once it has ended.
    connection: Option<Connection>,
}

enum Framing {
    Coded(ClientPayloadCodec),
    /// It is read until the connection ends. The codec takes such an answer for empty.
    Close,
    Over,
}

impl Body {
    fn finish(&mut self) {
        if let Some(connection) = self.connection.take().filter(|_| self.reusable) {
            connection.release();
        }
    }

    /// Takes some of the body out of what was read; pending where more has to be read first.
    fn decode(&mut self) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        let decoded = match &mut self.framing {
            Framing::Coded(codec) => codec.decode(&mut connection.unread).map_err(broken),
            Framing::Close if connection.unread.is_empty() => Ok(None),
            Framing::Close => Ok(Some(Some(connection.unread.split().freeze()))),
            Framing::Over => Ok(Some(None)),
        };
        connection.give_back();
        match decoded {
            Ok(None) => Poll::Pending,
            Ok(Some(Some(bytes))) => Poll::Ready(Some(Ok(bytes))),
            Ok(Some(None)) => {
                self.finish();
                Poll::Ready(None)
            }
            Err(error) => {
                self.connection = None;
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

impl Stream for Body {
    type Item = Result<Bytes, UpstreamError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Poll::Ready(decoded) = self.decode() {
                return Poll::Ready(decoded);
            }
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            match ready!(connection.poll_read(cx)) {
                Ok(1..) => {}
                end => {
                    self.connection = None;
                    let whole = end.is_ok() && !self.delimited;
                    return Poll::Ready((!whole).then_some(Err(UpstreamError::Broken)));
                }
            }
        }
    }
}
