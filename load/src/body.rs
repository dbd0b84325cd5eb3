//! HTTP/1.1 message bodies, decoded from whatever has arrived so far.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;
use std::io;

/// The longest line of a chunked body: a size with its extension, or a trailer.
const MAX_LINE: usize = 4096;

/// Where a body ends, and how far the decoder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// This many bytes are still to come.
    Sized(u64),
    /// Everything until the connection closes.
    UntilClose,
    /// Chunked: the next line is a size.
    ChunkSize,
    /// Chunked: inside of a chunk.
    Chunk(u64),
    /// Chunked: the line end after a chunk.
    ChunkEnd,
    /// Chunked: trailers, up to an empty line.
    Trailers,
    /// The end was seen.
    Done,
}

/// What the decoder made of the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// Bytes of the body.
    Bytes(Bytes),
    /// The buffer holds nothing that can be decoded yet.
    NeedMore,
    /// The body has ended as it announced.
    End,
}

impl Body {
    /// Decides from the two framing headers; `otherwise` is for messages that have neither.
    pub(crate) fn from_headers<'a>(
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        otherwise: Self,
    ) -> io::Result<Self> {
        let mut body = otherwise;
        for (name, value) in headers {
            if name.eq_ignore_ascii_case("transfer-encoding") {
                return Ok(Self::ChunkSize);
            }
            if name.eq_ignore_ascii_case("content-length") {
                let text = std::str::from_utf8(value).map_err(io::Error::other)?;
                body = Self::Sized(text.trim().parse().map_err(io::Error::other)?);
            }
        }
        Ok(body)
    }

    /// Takes the next piece out of `buffer`.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> io::Result<Decoded> {
        loop {
            match *self {
                Self::Done | Self::Sized(0) => {
                    *self = Self::Done;
                    return Ok(Decoded::End);
                }
                Self::Sized(_) | Self::UntilClose | Self::Chunk(_) if buffer.is_empty() => {
                    return Ok(Decoded::NeedMore);
                }
                Self::UntilClose => return Ok(Decoded::Bytes(buffer.split().freeze())),
                Self::Sized(left) => {
                    let (piece, left) = take(buffer, left);
                    *self = Self::Sized(left);
                    return Ok(Decoded::Bytes(piece));
                }
                Self::Chunk(left) => {
                    let (piece, left) = take(buffer, left);
                    *self = if left == 0 { Self::ChunkEnd } else { Self::Chunk(left) };
                    return Ok(Decoded::Bytes(piece));
                }
                Self::ChunkSize | Self::ChunkEnd | Self::Trailers => {
                    let Some(line) = take_line(buffer)? else { return Ok(Decoded::NeedMore) };
                    *self = self.after_line(&line)?;
                }
            }
        }
    }

    fn after_line(self, line: &[u8]) -> io::Result<Self> {
        match self {
            Self::ChunkEnd if line.is_empty() => Ok(Self::ChunkSize),
            Self::ChunkEnd => Err(invalid("a chunk is longer than it said")),
            Self::ChunkSize => {
                let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
                let digits = std::str::from_utf8(digits).map_err(io::Error::other)?;
                match u64::from_str_radix(digits.trim(), 16).map_err(io::Error::other)? {
                    0 => Ok(Self::Trailers),
                    size => Ok(Self::Chunk(size)),
                }
            }
            Self::Trailers if line.is_empty() => Ok(Self::Done),
            other => Ok(other),
        }
    }
}

fn take(buffer: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    (buffer.split_to(length).freeze(), left - length as u64)
}

/// Takes a line without its end, LF or CRLF.
fn take_line(buffer: &mut BytesMut) -> io::Result<Option<Bytes>> {
    let Some(end) = memchr(b'\n', buffer) else {
        return if buffer.len() > MAX_LINE { Err(invalid("a line of a chunked body is too long")) } else { Ok(None) };
    };
    let mut line = buffer.split_to(end);
    buffer.advance(1);
    if line.last() == Some(&b'\r') {
        line.truncate(end - 1);
    }
    Ok(Some(line.freeze()))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(body: &mut Body, wire: &[u8], step: usize) -> io::Result<(Vec<u8>, bool)> {
        let (mut buffer, mut out) = (BytesMut::new(), Vec::new());
        for piece in wire.chunks(step) {
            buffer.extend_from_slice(piece);
            loop {
                match body.decode(&mut buffer)? {
                    Decoded::Bytes(bytes) => out.extend_from_slice(&bytes),
                    Decoded::NeedMore => break,
                    Decoded::End => return Ok((out, true)),
                }
            }
        }
        Ok((out, false))
    }

    #[test]
    fn chunks_are_decoded_wherever_the_bytes_are_cut() {
        let wire = b"5;name=value\r\nhello\r\n1\n \r\n05\r\nworld\r\n0\r\nx-trailer: 1\r\n\r\n";
        for step in 1..=wire.len() {
            assert_eq!(all(&mut Body::ChunkSize, wire, step).unwrap(), (b"hello world".to_vec(), true));
        }
    }

    #[test]
    fn a_cut_body_has_no_end() {
        assert_eq!(all(&mut Body::ChunkSize, b"5\r\nhel", 3).unwrap(), (b"hel".to_vec(), false));
        assert_eq!(all(&mut Body::Sized(5), b"hel", 3).unwrap(), (b"hel".to_vec(), false));
        assert_eq!(all(&mut Body::Sized(3), b"hel", 3).unwrap(), (b"hel".to_vec(), true));
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(all(&mut Body::ChunkSize, b"zz\r\n", 9).is_err());
        assert!(all(&mut Body::ChunkSize, b"1\r\nab\r\n", 9).is_err());
    }
}
