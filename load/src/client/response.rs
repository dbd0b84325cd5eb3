//! Responses, read as they come.

use super::{Connection, Frame, FrameReader};
use crate::{
    body::{Body, Decoded},
    clock,
};
use bytes::Bytes;
use std::{io, time::Instant};

/// Header lines of a response, at most.
const MAX_HEADERS: usize = 64;
/// Bytes of a response's head, at most.
const MAX_HEAD: usize = 64 << 10;

/// A response whose head has been read, and the connection that its body comes by.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// When the last bytes before it were about to be sent.
    pub sent_at: Instant,
    /// When the head had been read.
    pub head_at: Instant,
    connection: Connection,
    body: Body,
    frames: FrameReader,
    reusable: bool,
}

impl Response {
    pub(super) async fn read(mut connection: Connection) -> io::Result<Self> {
        loop {
            match parse_head(&connection.inbox)? {
                // 100 Continue and its like; the response is still to come.
                Some((length, status, ..)) if (100..200).contains(&status) => {
                    drop(connection.inbox.split_to(length));
                    continue;
                }
                Some((length, status, headers, body)) => {
                    drop(connection.inbox.split_to(length));
                    let closes = |(name, value): &(String, String)| name == "connection" && value.contains("close");
                    return Ok(Self {
                        reusable: body != Body::UntilClose && !headers.iter().any(closes),
                        status,
                        headers,
                        sent_at: connection.sent_at,
                        head_at: clock::now(),
                        connection,
                        body,
                        frames: FrameReader::default(),
                    });
                }
                None if connection.inbox.len() > MAX_HEAD => return Err(invalid("the head is too long")),
                None => {}
            }
            if connection.fill().await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the head had come"));
            }
        }
    }

    /// The first header of this name, which is given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The next bytes of the body, as soon as there are any; `None` at its proper end.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the peer closes short of the end that it announced,
    /// [`io::ErrorKind::ConnectionReset`] if it resets, [`io::ErrorKind::InvalidData`] for broken framing.
    ///
    /// # Cancel safety
    /// No byte is lost when the future is dropped.
    pub async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            match self.body.decode(&mut self.connection.inbox)? {
                Decoded::Bytes(bytes) => return Ok(Some(bytes)),
                Decoded::End => return Ok(None),
                Decoded::NeedMore => {}
            }
            if self.connection.fill().await? == 0 {
                if self.body == Body::UntilClose {
                    self.body = Body::Done;
                    return Ok(None);
                }
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the end of the body"));
            }
        }
    }

    /// The next event of the stream; `None` at the body's proper end. Not to be mixed with [`Response::chunk`].
    ///
    /// # Errors
    /// As [`Response::chunk`], and [`io::ErrorKind::InvalidData`] if the body ends within a frame.
    ///
    /// # Cancel safety
    /// No byte is lost when the future is dropped.
    pub async fn frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.frames.next(clock::now()) {
                return Ok(Some(frame));
            }
            match self.chunk().await? {
                Some(bytes) => self.frames.push(&bytes),
                None if self.frames.is_empty() => return Ok(None),
                None => return Err(invalid("the body ended within a frame")),
            }
        }
    }

    /// All frames up to the end; comments included.
    ///
    /// # Errors
    /// As [`Response::frame`].
    pub async fn frames(&mut self) -> io::Result<Vec<Frame>> {
        let mut frames = Vec::new();
        while let Some(frame) = self.frame().await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// The rest of the body.
    ///
    /// # Errors
    /// As [`Response::chunk`].
    pub async fn bytes(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(bytes) = self.chunk().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    /// The rest of the body, as text.
    ///
    /// # Errors
    /// As [`Response::chunk`], and [`io::ErrorKind::InvalidData`] if it is no UTF-8.
    pub async fn text(&mut self) -> io::Result<String> {
        String::from_utf8(self.bytes().await?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// The rest of the body, as JSON.
    ///
    /// # Errors
    /// As [`Response::chunk`], and [`io::ErrorKind::InvalidData`] if it is no JSON.
    pub async fn json(&mut self) -> io::Result<serde_json::Value> {
        Ok(serde_json::from_slice(&self.bytes().await?)?)
    }

    /// Leaves politely (FIN), wherever the body is; a reset if bytes lie unread in the kernel. As dropping it.
    pub fn close(self) {
        drop(self);
    }

    /// Leaves with a reset.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn reset(self) -> io::Result<()> {
        self.connection.reset()
    }

    /// Vanishes without a word; see [`Connection::vanish`].
    ///
    /// # Errors
    /// What the operating system says.
    pub fn vanish(&self) -> io::Result<()> {
        self.connection.vanish()
    }

    /// Sends a FIN and goes on reading.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn half_close(&mut self) -> io::Result<()> {
        self.connection.half_close().await
    }

    /// Waits until the peer closes, throwing away what it still sends; tells when.
    ///
    /// # Errors
    /// As [`Connection::closed`].
    pub async fn closed(mut self) -> io::Result<Instant> {
        self.connection.closed().await
    }

    /// Gives the connection back for another request.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] if the body was not read to its end, or the server said that it would close.
    pub fn into_connection(mut self) -> io::Result<Connection> {
        let ended = matches!(self.body.decode(&mut self.connection.inbox)?, Decoded::End);
        if ended && self.reusable { Ok(self.connection) } else { Err(invalid("the connection can't be used again")) }
    }
}

type Head = (usize, u16, Vec<(String, String)>, Body);

fn parse_head(bytes: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let httparse::Status::Complete(length) = parsed else { return Ok(None) };
    let status = head.code.unwrap_or_default();
    let body = match status {
        100..200 | 204 | 304 => Body::Done,
        _ => Body::from_headers(head.headers.iter().map(|header| (header.name, header.value)), Body::UntilClose)?,
    };
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = head.headers.iter().map(|header| (header.name.to_ascii_lowercase(), text(header.value))).collect();
    Ok(Some((length, status, headers, body)))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
