//! Server-sent events, taken apart without loss. Pure.
//!
//! Source: the WHATWG HTML standard, «Server-sent events», §9.2.6.

use bytes::{Bytes, BytesMut};
use serde_json::Value;
use std::time::Instant;

/// One block between two blank lines: an event or comments.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its bytes, with the blank line that ends it.
    pub raw: Bytes,
    /// When it was complete and asked for.
    pub at: Instant,
}

impl Frame {
    /// The `data` lines, joined; `None` if there is none.
    #[must_use]
    pub fn data(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.raw);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let value = |line: &str| {
            let value = line.strip_prefix("data:").or_else(|| (line == "data").then_some(""))?;
            Some(value.strip_prefix(' ').unwrap_or(value).to_owned())
        };
        let lines: Vec<String> = text.split(['\n', '\r']).filter_map(value).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// Whether it is comments only, as keep-alives are.
    #[must_use]
    pub fn is_comment(&self) -> bool {
        let mut lines = self.raw.split(|byte| matches!(byte, b'\n' | b'\r')).filter(|line| !line.is_empty());
        lines.all(|line| line.first() == Some(&b':'))
    }

    /// Whether it is `[DONE]`.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.data().as_deref() == Some("[DONE]")
    }

    /// The data as JSON; `None` if there is none, or it is none.
    #[must_use]
    pub fn json(&self) -> Option<Value> {
        serde_json::from_str(&self.data()?).ok()
    }

    /// The text of the first choice's delta; `None` for any other frame.
    #[must_use]
    pub fn content(&self) -> Option<String> {
        self.json()?.pointer("/choices/0/delta/content")?.as_str().map(str::to_owned)
    }

    /// The error object of an error frame.
    #[must_use]
    pub fn error(&self) -> Option<Value> {
        self.json()?.get("error").cloned()
    }
}

/// Cuts a stream into frames, wherever its bytes were cut before.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: BytesMut,
    /// How far the buffer has been looked at.
    seen: usize,
    /// Whether the line that is being looked at has any bytes yet.
    in_line: bool,
    /// Whether the last byte looked at was a CR, to which a LF may belong.
    after_cr: bool,
    /// Whether this stream's lines end in CRLF, so that a LF must still come.
    crlf: bool,
}

impl FrameReader {
    /// Adds bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next complete frame, if there is one.
    pub fn next(&mut self, at: Instant) -> Option<Frame> {
        while let Some(&byte) = self.buffer.get(self.seen) {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {
                    self.crlf = true;
                    self.seen += 1;
                }
                b'\n' | b'\r' => {
                    if !self.in_line {
                        let pair = byte == b'\r' && self.buffer.get(self.seen + 1) == Some(&b'\n');
                        if byte == b'\r' && self.crlf && self.buffer.len() == self.seen + 1 {
                            self.after_cr = after_cr;
                            return None;
                        }
                        let raw = self.buffer.split_to(self.seen + if pair { 2 } else { 1 }).freeze();
                        self.after_cr &= !pair;
                        self.seen = 0;
                        return Some(Frame { raw, at });
                    }
                    self.in_line = false;
                    self.seen += 1;
                }
                _ => {
                    self.in_line = true;
                    self.seen += 1;
                }
            }
        }
        None
    }

    /// Whether no byte of an unfinished frame is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(stream: &[u8], step: usize) -> Vec<Frame> {
        let (mut reader, mut frames) = (FrameReader::default(), Vec::new());
        for piece in stream.chunks(step) {
            reader.push(piece);
            while let Some(frame) = reader.next(crate::clock::now()) {
                frames.push(frame);
            }
        }
        assert!(reader.is_empty(), "{reader:?}");
        frames
    }

    #[test]
    fn frames_are_found_wherever_the_bytes_are_cut() {
        for end in ["\n", "\r\n", "\r"] {
            let stream =
                [": hello", "", "data: one", "", "data:two", "data: lines", "", "data: [DONE]", "", ""].join(end);
            for step in 1..=stream.len() {
                let frames = cut(stream.as_bytes(), step);
                let data: Vec<_> = frames.iter().map(Frame::data).collect();
                let text = |text: &str| Some(text.to_owned());
                assert_eq!(data, [None, text("one"), text("two\nlines"), text("[DONE]")], "{end:?} in steps of {step}");
                assert!(frames.first().unwrap().is_comment() && frames.last().unwrap().is_done());
                let raw: Vec<u8> = frames.iter().flat_map(|frame| frame.raw.to_vec()).collect();
                assert_eq!(raw, stream.as_bytes(), "no byte is lost");
            }
        }
    }

    #[test]
    fn what_a_frame_says() {
        let frames = cut(
            b"\xef\xbb\xbfdata: {\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}\n\ndata: {\"error\":{\"code\":1}}\n\n",
            7,
        );
        assert_eq!(frames.first().unwrap().content().as_deref(), Some("hi"));
        assert_eq!(frames.last().unwrap().error().unwrap()["code"], 1);
    }
}
