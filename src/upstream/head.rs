//! The head of a request.

use std::sync::Arc;

use actix_http::{
    Uri,
    header::{CONTENT_LENGTH, HeaderMap, HeaderName},
};
use actors::domain::RequestId;
use bytes::{Bytes, BytesMut};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The lines that all requests to a provider have, written once.
pub(super) fn lines_of_all(uri: &Uri, headers: &HeaderMap) -> Bytes {
    let mut lines = BytesMut::new();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    put(&mut lines, [b"POST ", path.as_bytes(), b" HTTP/1.1\r\n"]);
    for (name, value) in headers {
        line(&mut lines, name, value.as_bytes());
    }
    lines.freeze()
}

/// A request's head. Its body's length is its framing (RFC 9112, section 6.2).
pub(super) struct RequestHead {
    /// What all requests to the provider have.
    pub(super) lines: Bytes,
    pub(super) request_id: RequestId,
    pub(super) traceparent: Option<Arc<str>>,
}

impl RequestHead {
    /// Appends it.
    pub(super) fn write(&self, body_bytes: usize, out: &mut BytesMut) {
        out.extend_from_slice(&self.lines);
        line(out, &CONTENT_LENGTH, itoa::Buffer::new().format(body_bytes).as_bytes());
        let labels = [(X_REQUEST_ID, Some(self.request_id.as_str())), (TRACEPARENT, self.traceparent.as_deref())];
        for (name, value) in &labels {
            // What has a line's end in it would be another header.
            if let Some(value) = value.filter(|value| value.bytes().all(|byte| matches!(byte, b' '..=b'~'))) {
                line(out, name, value.as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn line(out: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    put(out, [name.as_str().as_bytes(), b": ", value, b"\r\n"]);
}

fn put<const N: usize>(out: &mut BytesMut, parts: [&[u8]; N]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_lines_and_an_empty_one() {
        let mut headers = HeaderMap::new();
        headers.insert(actix_http::header::HOST, "provider".parse().unwrap());
        let lines = lines_of_all(&Uri::from_static("https://provider/v1/chat/completions?a=b"), &headers);
        let head = |traceparent: &str| {
            let request_id = RequestId::from_client(b"label").unwrap();
            let mut out = BytesMut::new();
            RequestHead { lines: lines.clone(), request_id, traceparent: Some(traceparent.into()) }.write(42, &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        let begin =
            "POST /v1/chat/completions?a=b HTTP/1.1\r\nhost: provider\r\ncontent-length: 42\r\nx-request-id: label\r\n";
        assert_eq!(head("00-1-2-01"), format!("{begin}traceparent: 00-1-2-01\r\n\r\n"));
        for injected in ["a\r\nhost: other", "a\nb", "a\0"] {
            assert_eq!(head(injected), format!("{begin}\r\n"));
        }
    }
}
