//! What one complete frame says.
//!
//! The usual frame is one `data:` line whose JSON has nothing of interest but a piece of text, and is not parsed: four
//! markers are looked for, as keys with a value. A marker inside text can't be mistaken for one, since quotes are
//! escaped there; one at another level can, so what is found decides only that the frame is parsed.

use std::{borrow::Cow, ops::Range, sync::LazyLock};

use memchr::{memchr2, memmem::Finder};
use serde::de::IgnoredAny;

use super::{Options, PieceKind, Watched};
use crate::stream::usage;

static DELTA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""delta""#));
static FINISH_REASON: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""finish_reason""#));
static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""usage""#));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#""error""#));

/// A marker in a buffer, and where it is next. Frames are read in order, so each byte of a chunk is searched once for each
/// marker, however many frames the chunk has.
#[derive(Debug)]
struct Mark {
    finder: &'static Finder<'static>,
    next: usize,
}

impl Mark {
    fn new(finder: &'static LazyLock<Finder<'static>>) -> Self {
        Self { finder, next: 0 }
    }

    /// Returns the place after the first marker in that part of the buffer.
    fn find(&mut self, buffer: &[u8], part: &Range<usize>) -> Option<usize> {
        if self.next <= part.start {
            let found = buffer.get(part.start..).and_then(|rest| self.finder.find(rest));
            self.next = found.map_or(usize::MAX, |found| part.start + found);
        }
        (self.next < part.end).then(|| self.next + self.finder.needle().len())
    }

    /// Says whether the marker is a key there whose value is neither null nor an empty string.
    fn has_value(&mut self, buffer: &[u8], part: &Range<usize>) -> bool {
        let mut rest = part.clone();
        while let Some(after) = self.find(buffer, &rest) {
            if let Some(value) = usage::next_is(buffer, after, b':') {
                let value = buffer.get(value..rest.end).unwrap_or_default().trim_ascii_start();
                if !value.starts_with(b"null") && !value.starts_with(br#""""#) {
                    return true;
                }
            }
            rest.start = after;
        }
        false
    }
}

/// The markers of one buffer.
#[derive(Debug)]
pub(super) struct Marks {
    delta: Mark,
    finish_reason: Mark,
    usage: Mark,
    error: Mark,
}

impl Marks {
    /// Makes the markers for a buffer that will be read from its start.
    pub(super) fn new() -> Self {
        Self {
            delta: Mark::new(&DELTA),
            finish_reason: Mark::new(&FINISH_REASON),
            usage: Mark::new(&USAGE),
            error: Mark::new(&ERROR),
        }
    }

    fn deltas(&mut self, buffer: &[u8], payload: &Range<usize>) -> Deltas {
        let mut deltas = Deltas::default();
        let mut rest = payload.clone();
        while let Some(after) = self.delta.find(buffer, &rest) {
            rest.start = after;
            let value = usage::next_is(buffer, after, b':').and_then(|value| usage::next_is(buffer, value, b'{'));
            if let Some(start) = value.map(|inside| inside - 1).filter(|start| *start < rest.end) {
                let text = usage::text(buffer.get(start..rest.end).unwrap_or_default());
                rest.start = start + text.object_len;
                deltas.bytes += text.bytes;
                deltas.only = (deltas.count == 0).then_some(start..rest.start);
                deltas.count += 1;
            }
        }
        deltas
    }

    fn worth_parsing(&mut self, buffer: &[u8], payload: &Range<usize>) -> bool {
        // Each must be asked, so that each moves on.
        let finish_reason = self.finish_reason.has_value(buffer, payload);
        let usage = self.usage.has_value(buffer, payload);
        let error = self.error.has_value(buffer, payload);
        finish_reason || usage || error
    }
}

/// The deltas of a frame.
#[derive(Debug, Default)]
struct Deltas {
    /// Bytes of text in all of them.
    bytes: u64,
    count: usize,
    /// The place of the delta, if there is one only.
    only: Option<Range<usize>>,
}

/// The last frame that had no news, without its delta. The frames of a stream differ in their deltas only, as a rule: one
/// that is equal around its delta has no news either, and needs no search, not even for its end: 60 ns a frame of 150 bytes
/// instead of 94.
#[derive(Debug, Default)]
struct Template {
    /// What stands around the delta, line ends included. Empty if there is no template.
    around: Vec<u8>,
    /// Where the delta was.
    at: usize,
}

/// A frame that is equal around its delta.
struct Alike {
    /// How long it is.
    len: usize,
    /// Bytes of text in its delta.
    text: u64,
}

impl Template {
    /// Longer ones are not kept.
    const MAX_BYTES: usize = 1024;

    /// Reads the frame at the start of `bytes`, if it is alike. What follows it is not looked at.
    fn read(&self, bytes: &[u8]) -> Option<Alike> {
        let (before, after) = self.around.split_at_checked(self.at).filter(|(before, _)| !before.is_empty())?;
        let rest = bytes.strip_prefix(before)?;
        let line = memchr2(b'\n', b'\r', rest)?;
        let delta = usage::text(rest.get(..line).filter(|line| line.starts_with(b"{"))?);
        let whole = rest.get(delta.object_len..)?.starts_with(after);
        whole.then(|| Alike { len: self.around.len() + delta.object_len, text: delta.bytes })
    }

    /// Remembers a frame that is one `data:` line. Where its end depends on what follows it, or its delta on where the
    /// line ends, nothing is remembered.
    fn learn(&mut self, frame: &[u8], delta: &Range<usize>) {
        self.around.clear();
        let (before, after) =
            (frame.get(..delta.start).unwrap_or_default(), frame.get(delta.end..).unwrap_or_default());
        let is_certain = !after.trim_ascii_start().is_empty() && !after.ends_with(b"\n\r");
        if is_certain && before.len() + after.len() <= Self::MAX_BYTES {
            self.around.extend_from_slice(before);
            self.around.extend_from_slice(after);
            self.at = before.len();
        }
    }
}

/// What becomes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is forwarded, or not, as it is.
    Whole(PieceKind),
    /// It is forwarded in this form.
    Changed(PieceKind, Vec<u8>),
    /// It says nothing that the client could bear.
    Nothing,
}

/// Reads frames, one after the other.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) options: Options,
    pub(super) watched: Watched,
    /// The choices that have seen their `finish_reason`: a bit for each.
    finished: u128,
    template: Template,
}

impl Reader {
    pub(super) fn new(options: Options) -> Self {
        Self { options, watched: Watched::default(), finished: 0, template: Template::default() }
    }

    /// Reads the frame at the start of `bytes`, if it is like the one before; returns its length. It is forwarded as it is.
    pub(super) fn read_alike(&mut self, bytes: &[u8]) -> Option<usize> {
        let Alike { len, text } = self.template.read(bytes)?;
        if len > self.options.max_frame_bytes {
            return None;
        }
        self.watched.frames += 1;
        self.count(text);
        Some(len)
    }

    /// Reads the frame that lies at `place` in `buffer`, and has `lines` lines beside the empty one that ends it.
    pub(super) fn read(&mut self, buffer: &[u8], place: &Range<usize>, lines: usize, marks: &mut Marks) -> Verdict {
        self.watched.frames += 1;
        let frame = buffer.get(place.clone()).unwrap_or_default();
        if lines != 1 || !frame.starts_with(b"data:") {
            return self.read_lines(frame);
        }
        let end = place.start + frame.trim_ascii_end().len();
        let start = place.start + b"data:".len();
        if start >= end {
            return if self.options.sdk_safe { Verdict::Nothing } else { Verdict::Whole(PieceKind::Frames) };
        }
        let (kind, delta) = self.read_payload(buffer, &(start..end), marks);
        if let Some(delta) = delta {
            self.template.learn(frame, &(delta.start - place.start..delta.end - place.start));
        }
        Verdict::Whole(kind)
    }

    /// Reads a payload that isn't empty; white space at its start doesn't matter. Where it has no news but one delta,
    /// the delta's place is returned, too.
    fn read_payload(
        &mut self,
        buffer: &[u8],
        place: &Range<usize>,
        marks: &mut Marks,
    ) -> (PieceKind, Option<Range<usize>>) {
        let payload = buffer.get(place.clone()).unwrap_or_default();
        if is_done(payload) {
            self.watched.done = true;
            return (PieceKind::Done, None);
        }
        let deltas = marks.deltas(buffer, place);
        if !marks.worth_parsing(buffer, place) {
            self.count(deltas.bytes);
            return (PieceKind::Frames, deltas.only);
        }
        let answer = usage::read_answer(payload, self.options.max_tokens).unwrap_or_default();
        // Whatever broke off is charged as the provider says, too.
        self.watched.usage = answer.usage.or(self.watched.usage);
        if answer.error {
            self.watched.failed = true;
            self.count_text(deltas.bytes);
            return (PieceKind::Error, None);
        }
        self.count(deltas.bytes);
        self.finished |= answer.finished;
        self.watched.finished = self.finished.count_ones() >= self.options.choices.max(1);
        let kind = if answer.has_usage && answer.choices == 0 { PieceKind::Usage } else { PieceKind::Frames };
        (kind, None)
    }

    fn count(&mut self, text: u64) {
        self.watched.data_frames += 1;
        self.count_text(text);
    }

    fn count_text(&mut self, text: u64) {
        self.watched.content_frames += u64::from(text > 0);
        self.watched.content_bytes += text;
    }

    /// Reads a frame that is more than a single `data:` line.
    fn read_lines(&mut self, frame: &[u8]) -> Verdict {
        let payload = join(lines(frame).filter_map(|line| line.field(b"data")));
        let has_data = !payload.trim_ascii().is_empty();
        let kind = if has_data {
            self.read_payload(&payload, &(0..payload.len()), &mut Marks::new()).0
        } else {
            PieceKind::Frames
        };
        let sdk_safe = self.options.sdk_safe;
        let bearable = |line: &Line<'_>| {
            let unsafe_field = line.field(b"id").or(line.field(b"retry")).is_some();
            !sdk_safe || line.text.is_empty() || line.is_comment() || (has_data && !unsafe_field)
        };
        if lines(frame).all(|line| bearable(&line)) {
            return Verdict::Whole(kind);
        }
        let kept: Vec<_> = lines(frame).filter(bearable).collect();
        if kept.iter().all(|line| line.text.is_empty()) {
            return Verdict::Nothing;
        }
        Verdict::Changed(kind, kept.iter().flat_map(|line| [line.text, line.end]).flatten().copied().collect())
    }
}

/// Says whether a payload is the end of the stream.
pub(super) fn is_done(payload: &[u8]) -> bool {
    payload.trim_ascii() == b"[DONE]"
}

/// Says whether nothing can be missing from a payload: no piece of an object is one.
pub(super) fn is_whole(payload: &[u8]) -> bool {
    is_done(payload)
        || (usage::next_is(payload, 0, b'{').is_some() && serde_json::from_slice::<IgnoredAny>(payload).is_ok())
}

/// Puts the lines of a payload together; nothing is copied where there is one.
fn join<'a>(mut lines: impl Iterator<Item = &'a [u8]>) -> Cow<'a, [u8]> {
    let mut payload = Cow::Borrowed(lines.next().unwrap_or_default());
    for line in lines {
        let payload = payload.to_mut();
        payload.push(b'\n');
        payload.extend_from_slice(line);
    }
    payload
}

/// A line, and what ended it.
struct Line<'a> {
    text: &'a [u8],
    end: &'a [u8],
}

impl<'a> Line<'a> {
    /// Returns the value, if that is the field's name: without its colon and one space after it.
    fn field(&self, name: &[u8]) -> Option<&'a [u8]> {
        match self.text.strip_prefix(name)? {
            [] => Some(b""),
            [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
            _ => None,
        }
    }

    fn is_comment(&self) -> bool {
        self.text.starts_with(b":")
    }
}

/// Iterates over lines, ended by LF, CRLF or CR.
fn lines(mut rest: &[u8]) -> impl Iterator<Item = Line<'_>> {
    std::iter::from_fn(move || {
        let len = memchr2(b'\n', b'\r', rest)?;
        let (text, after) = rest.split_at_checked(len)?;
        let end = if after.starts_with(b"\r\n") { 2 } else { 1 };
        let (end, after) = after.split_at_checked(end)?;
        rest = after;
        Some(Line { text, end })
    })
}
