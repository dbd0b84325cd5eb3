//! Requests, read from the wire and parsed as far as the mock needs them.

use super::wire::{PeerGone, Wire};
use crate::body::{Body, Decoded};
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{borrow::Cow, io};

/// Header lines of a request, at most.
const MAX_HEADERS: usize = 64;
/// Bytes of a request's head, at most.
const MAX_HEAD: usize = 64 << 10;
/// Bytes of a request's body, at most.
const MAX_BODY: usize = 64 << 20;
/// Characters of a marker, at most.
const MAX_MARKER: usize = 64;

/// One HTTP request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

/// Why there is no request.
#[derive(Debug)]
pub(super) enum NoRequest {
    Gone,
    Malformed(String),
}

impl From<PeerGone> for NoRequest {
    fn from(_: PeerGone) -> Self {
        Self::Gone
    }
}

impl From<io::Error> for NoRequest {
    fn from(error: io::Error) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl Request {
    /// Reads the next request of a connection.
    pub(super) async fn read(wire: &mut Wire) -> Result<Self, NoRequest> {
        let mut request = loop {
            if let Some((length, request)) = Self::parse_head(&wire.inbox)? {
                drop(wire.inbox.split_to(length));
                break request;
            }
            if wire.inbox.len() > MAX_HEAD {
                return Err(NoRequest::Malformed("the head is too long".into()));
            }
            wire.fill().await?;
        };
        if request.header("expect").is_some() {
            wire.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        request.body = request.read_body(wire).await?;
        Ok(request)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A parameter of the query, as a number.
    pub(super) fn parameter(&self, name: &str) -> Option<usize> {
        self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    }

    fn parse_head(bytes: &[u8]) -> Result<Option<(usize, Self)>, NoRequest> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Request::new(&mut headers);
        let status = head.parse(bytes).map_err(|error| NoRequest::Malformed(error.to_string()))?;
        let httparse::Status::Complete(length) = status else { return Ok(None) };
        let target = head.path.unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let request = Self {
            method: head.method.unwrap_or_default().to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers: head.headers.iter().map(|h| (h.name.to_ascii_lowercase(), text(h.value))).collect(),
            body: Bytes::new(),
        };
        Ok(Some((length, request)))
    }

    async fn read_body(&self, wire: &mut Wire) -> Result<Bytes, NoRequest> {
        let framing = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let mut framing = Body::from_headers(framing, Body::Done)?;
        let mut body = BytesMut::new();
        loop {
            match framing.decode(&mut wire.inbox)? {
                Decoded::Bytes(bytes) => body.extend_from_slice(&bytes),
                Decoded::End => return Ok(body.freeze()),
                Decoded::NeedMore => wire.fill().await?,
            }
            if body.len() > MAX_BODY {
                return Err(NoRequest::Malformed("the body is too long".into()));
            }
        }
    }
}

/// The fields of a chat request that the mock looks at.
#[derive(Debug, Deserialize)]
pub(super) struct ChatBody<'a> {
    #[serde(borrow)]
    pub(super) model: Cow<'a, str>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

impl ChatBody<'_> {
    pub(super) fn streams(&self) -> bool {
        self.stream == Some(true)
    }

    pub(super) fn includes_usage(&self) -> bool {
        self.stream_options.as_ref().is_some_and(|options| options.include_usage == Some(true))
    }

    /// A third of the messages' bytes, rounded up: not what a gateway would guess.
    pub(super) fn prompt_tokens(&self) -> u64 {
        self.messages.map_or(0, |messages| messages.get().len().div_ceil(3) as u64)
    }

    pub(super) fn marker(&self) -> String {
        let last = || {
            let messages: Vec<Message<'_>> = serde_json::from_str(self.messages?.get()).ok()?;
            let text: String = serde_json::from_str(messages.last()?.content?.get()).ok()?;
            Some(text.chars().take(MAX_MARKER).collect())
        };
        last().unwrap_or_default()
    }
}
