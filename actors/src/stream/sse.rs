//! Cuts a provider's event stream into frames and watches them, without touching their bytes.
//!
//! In: chunks, cut anywhere, inside a character or a line end too. Out: [`Piece`]s to forward, and what the frames said
//! ([`Watched`]). Pure: no I/O, no clock. Frames that are complete in one chunk are forwarded as slices of it, in one
//! piece as long as they are treated alike; only a frame that chunks cut is copied, up to `max_frame_bytes`.
//!
//! Read tolerantly: LF, CRLF, CR; comments; no space after the colon; several `data:` lines. Never forwarded: a byte-order
//! mark (a comment of ours may already stand before it) and empty lines between frames. However a stream is cut, the
//! same bytes are forwarded.
//!
//! ```text
//! for piece in scanner.scan(chunk) {
//!     match piece? {
//!         Piece { kind: PieceKind::Frames, bytes } => out.push(bytes),
//!         Piece { kind: PieceKind::Usage, bytes } => if asked { out.push(bytes) },
//!         Piece { kind: PieceKind::Done, bytes } => done = Some(bytes), // kept until settled
//!         Piece { kind: PieceKind::Error, bytes } => out.push(bytes),   // the last there will be
//!     }
//! }
//! ```

mod frame;
#[cfg(test)]
mod tests;

use std::{mem, ops::Range};

use bytes::Bytes;
use memchr::memchr2;

use self::frame::{Marks, Reader, Verdict};
use crate::domain::Usage;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How a stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The most bytes of one frame, its line ends included.
    pub max_frame_bytes: usize,
    /// The most tokens that usage may tell of: `usage::believable_tokens`.
    pub max_tokens: u32,
    /// How many choices the answer has.
    pub choices: u32,
    /// Whether to take out what OpenAI's SDKs fail on: `id:` and `retry:` lines, and events without data.
    pub sdk_safe: bool,
}

/// A frame is longer than `max_frame_bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the provider sent a frame that is too long")]
pub struct FrameTooLong;

/// What is to be done with a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceKind {
    /// Complete comments and data frames, to be forwarded as they are.
    Frames,
    /// One frame with nothing but usage (`choices: []`): for clients that asked for it.
    Usage,
    /// `data: [DONE]`: to be forwarded last of all. Nothing comes after it.
    Done,
    /// A frame with a top-level `error`: to be forwarded as the last one. Nothing comes after it.
    Error,
}

/// Complete frames that lie next to each other in one chunk and are treated alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What is to be done with it.
    pub kind: PieceKind,
    /// Its bytes: a slice of the chunk, but for a frame that was cut by chunks or lost its `id:`.
    pub bytes: Bytes,
}

/// What the complete frames have said so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watched {
    /// Frames of any kind, comments included.
    pub frames: u64,
    /// Frames with data that is neither an error nor `[DONE]`, which alone is no answer: once there is one, the first frame
    /// has come.
    pub data_frames: u64,
    /// Frames with text of the model: content, reasoning, a refusal or arguments for a tool.
    pub content_frames: u64,
    /// Bytes of that text.
    pub content_bytes: u64,
    /// The last believable usage.
    pub usage: Option<Usage>,
    /// Whether a `finish_reason` of each choice was seen.
    pub finished: bool,
    /// Whether `[DONE]` was seen.
    pub done: bool,
    /// Whether an error frame was seen.
    pub failed: bool,
}

impl Watched {
    /// Says whether the stream is whole: the end of the body proves nothing, these two do.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        (self.done || self.finished) && !self.failed
    }
}

/// What was left over when the body ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// Nothing: the last frame was complete.
    Nothing,
    /// A last frame that only lacked its end: a line feed that CR had announced, or the line ends after `[DONE]` or a whole
    /// JSON object, which often has the usage.
    Frame(Piece),
    /// So many bytes of a frame that never ended; they are not forwarded.
    Dropped(usize),
}

/// Reads one stream.
#[derive(Debug)]
pub struct Scanner {
    reader: Reader,
    /// Where the search for the frame's end stands.
    edge: Edge,
    /// The unfinished frame, as far as earlier chunks had it. Empty between frames.
    tail: Vec<u8>,
    /// Whether no frame has come yet: the first one may begin with a byte-order mark.
    fresh: bool,
    /// Whether nothing more is read: after `[DONE]`, an error frame, or a frame that is too long.
    ended: bool,
}

impl Scanner {
    /// Makes a scanner at the start of a stream.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let (reader, edge) = (Reader::new(options), Edge::default());
        Self { reader, edge, tail: Vec::new(), fresh: true, ended: false }
    }

    /// Reads a chunk. Run the iterator to its end; what is left when it is dropped is lost.
    pub fn scan(&mut self, chunk: Bytes) -> Pieces<'_> {
        Pieces { scanner: self, chunk, at: 0, marks: Marks::new(), run: 0..0, waiting: None }
    }

    /// Returns what the frames have said so far. While a chunk is scanned, frames count before their piece is out.
    #[must_use]
    pub fn watched(&self) -> &Watched {
        &self.reader.watched
    }

    /// Returns how many bytes of an unfinished frame are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.tail.len()
    }

    /// Ends the stream. Call it once, when the body has ended.
    pub fn finish(&mut self) -> Rest {
        let mut tail = mem::take(&mut self.tail);
        if self.ended || tail.is_empty() {
            return Rest::Nothing;
        }
        if self.edge.place != Place::AfterBlankCr {
            let line = tail.trim_ascii_end();
            let line = if self.fresh { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line) } else { line };
            if !line.strip_prefix(b"data:").is_some_and(frame::is_whole) {
                return Rest::Dropped(tail.len());
            }
            tail.truncate(tail.trim_ascii_end().len());
            tail.extend_from_slice(b"\n\n");
        }
        let lines = mem::take(&mut self.edge).lines;
        self.tail_frame(tail, lines).map_or(Rest::Nothing, Rest::Frame)
    }

    /// Reads a frame that chunks had cut.
    fn tail_frame(&mut self, frame: Vec<u8>, lines: usize) -> Option<Piece> {
        if self.reader.read_alike(&frame).is_some() {
            return Some(Piece { kind: PieceKind::Frames, bytes: frame.into() });
        }
        let place = self.without_mark(&frame, 0..frame.len());
        let (kind, changed) = self.read(&frame, &place, lines, &mut Marks::new())?;
        let bytes = changed.unwrap_or_else(|| Bytes::from(frame).slice(place));
        Some(Piece { kind, bytes })
    }

    /// Leaves out the byte-order mark at the start of the stream.
    fn without_mark(&mut self, buffer: &[u8], frame: Range<usize>) -> Range<usize> {
        let marked = mem::take(&mut self.fresh)
            && buffer.get(frame.clone()).is_some_and(|frame| frame.starts_with(BYTE_ORDER_MARK));
        if marked { frame.start + BYTE_ORDER_MARK.len()..frame.end } else { frame }
    }

    /// Reads a complete frame; returns its kind, and its bytes if they changed.
    fn read(
        &mut self,
        buffer: &[u8],
        place: &Range<usize>,
        lines: usize,
        marks: &mut Marks,
    ) -> Option<(PieceKind, Option<Bytes>)> {
        let verdict = self.reader.read(buffer, place, lines, marks);
        self.ended |= self.reader.watched.done || self.reader.watched.failed;
        match verdict {
            Verdict::Whole(kind) => Some((kind, None)),
            Verdict::Changed(kind, bytes) => Some((kind, Some(bytes.into()))),
            Verdict::Nothing => None,
        }
    }
}

/// The pieces of one chunk, in order.
#[derive(Debug)]
pub struct Pieces<'a> {
    scanner: &'a mut Scanner,
    chunk: Bytes,
    /// How far the chunk was read.
    at: usize,
    marks: Marks,
    /// Frames that were read and make up the next piece.
    run: Range<usize>,
    /// What comes after the run.
    waiting: Option<Result<Piece, FrameTooLong>>,
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece, FrameTooLong>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(waiting) = self.waiting.take() {
            return Some(waiting);
        }
        loop {
            match self.next_frame() {
                Ok(None) => return self.take_run().map(Ok),
                Ok(Some(Found::Slice(PieceKind::Frames, place))) => {
                    if self.run.end == place.start && !self.run.is_empty() {
                        self.run.end = place.end;
                    } else if let Some(before) = mem::replace(&mut self.run, place).into_piece(&self.chunk) {
                        return Some(Ok(before));
                    }
                }
                Ok(Some(Found::Slice(kind, place))) => {
                    return self.after_run(Ok(Piece { kind, bytes: self.chunk.slice(place) }));
                }
                Ok(Some(Found::Copy(piece))) => return self.after_run(Ok(piece)),
                Ok(Some(Found::Nothing)) => {}
                Err(too_long) => {
                    self.scanner.ended = true;
                    self.scanner.tail = Vec::new();
                    return self.after_run(Err(too_long));
                }
            }
        }
    }
}

/// A complete frame.
enum Found {
    /// It lies in the chunk.
    Slice(PieceKind, Range<usize>),
    /// It had to be copied.
    Copy(Piece),
    /// It is not for the client.
    Nothing,
}

impl Pieces<'_> {
    fn after_run(&mut self, next: Result<Piece, FrameTooLong>) -> Option<Result<Piece, FrameTooLong>> {
        match self.take_run() {
            Some(run) => {
                self.waiting = Some(next);
                Some(Ok(run))
            }
            None => Some(next),
        }
    }

    fn take_run(&mut self) -> Option<Piece> {
        mem::replace(&mut self.run, 0..0).into_piece(&self.chunk)
    }

    /// Finds the next frame that is complete; keeps what is left of the chunk if none is.
    fn next_frame(&mut self) -> Result<Option<Found>, FrameTooLong> {
        let scanner = &mut *self.scanner;
        if scanner.ended {
            return Ok(None);
        }
        if scanner.tail.is_empty() {
            let between = self.chunk.get(self.at..).unwrap_or_default();
            self.at += between.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
        }
        let start = self.at;
        if scanner.tail.is_empty()
            && let Some(len) = self.chunk.get(start..).and_then(|rest| scanner.reader.read_alike(rest))
        {
            self.at += len;
            return Ok(Some(Found::Slice(PieceKind::Frames, start..self.at)));
        }
        let end = scanner.edge.find(&self.chunk, start);
        self.at = end.unwrap_or(self.chunk.len());
        if scanner.tail.len() + (self.at - start) > scanner.reader.options.max_frame_bytes {
            return Err(FrameTooLong);
        }
        let part = self.chunk.get(start..self.at).unwrap_or_default();
        if end.is_none() {
            scanner.tail.extend_from_slice(part);
            return Ok(None);
        }
        let lines = mem::take(&mut scanner.edge).lines;
        if !scanner.tail.is_empty() {
            let mut frame = mem::take(&mut scanner.tail);
            frame.extend_from_slice(part);
            return Ok(Some(scanner.tail_frame(frame, lines).map_or(Found::Nothing, Found::Copy)));
        }
        let place = scanner.without_mark(&self.chunk, start..self.at);
        Ok(Some(match scanner.read(&self.chunk, &place, lines, &mut self.marks) {
            Some((kind, None)) => Found::Slice(kind, place),
            Some((kind, Some(bytes))) => Found::Copy(Piece { kind, bytes }),
            None => Found::Nothing,
        }))
    }
}

trait IntoPiece {
    /// Returns the frames at that place of the chunk, if there are any.
    fn into_piece(self, chunk: &Bytes) -> Option<Piece>;
}

impl IntoPiece for Range<usize> {
    fn into_piece(self, chunk: &Bytes) -> Option<Piece> {
        (!self.is_empty()).then(|| Piece { kind: PieceKind::Frames, bytes: chunk.slice(self) })
    }
}

/// Looks for the empty line that ends a frame.
#[derive(Debug)]
struct Edge {
    place: Place,
    /// Lines of the frame so far, the one that is being read included.
    lines: usize,
}

/// What was read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Something in a line.
    InLine,
    /// The LF that ended a line.
    AfterLf,
    /// A CR that ended a line: an LF now would belong to it.
    AfterCr,
    /// A CR after an LF, which is the empty line: an LF now would belong to it.
    AfterBlankCr,
}

impl Default for Edge {
    fn default() -> Self {
        Self { place: Place::InLine, lines: 1 }
    }
}

impl Edge {
    /// Reads `buffer` from `at` on; returns the place after the frame, if it ends there.
    ///
    /// Two CRs end a frame at once, as nothing may follow for long; an LF after them is an empty line between frames.
    fn find(&mut self, buffer: &[u8], mut at: usize) -> Option<usize> {
        loop {
            if self.place == Place::InLine {
                at += memchr2(b'\n', b'\r', buffer.get(at..)?)?;
                self.place = if buffer.get(at) == Some(&b'\n') { Place::AfterLf } else { Place::AfterCr };
                at += 1;
            }
            match (self.place, buffer.get(at)?) {
                (Place::AfterLf | Place::AfterBlankCr, b'\n') | (Place::AfterCr, b'\r') => return Some(at + 1),
                (Place::AfterBlankCr, _) => return Some(at),
                (Place::AfterLf, b'\r') => self.place = Place::AfterBlankCr,
                (Place::AfterCr, b'\n') => self.place = Place::AfterLf,
                _ => {
                    self.place = Place::InLine;
                    self.lines += 1;
                    continue;
                }
            }
            at += 1;
        }
    }
}
