//! Whether an answer is whole: every frame, once, in order, of this request, and its end. Pure.
//!
//! The mock numbers its frames (` w000007`), and with `echo` puts the request's marker before the number (`m12#7 `), so
//! that a lost, doubled, swapped or foreign frame shows. With `stamp` a frame has the time of its sending in place of a
//! number: later than the one before it, and as many of them as were asked for.

use memchr::memmem;
use std::fmt;

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Another status than 200.
    Status(u16),
    /// A frame is not the one that had to come.
    Order {
        /// The number that was due.
        due: usize,
    },
    /// An error frame came.
    Error,
    /// It ended although frames were due.
    Short {
        /// The number that was due.
        due: usize,
    },
    /// It has no `[DONE]`.
    Open,
    /// Something follows `[DONE]`.
    After,
    /// A whole answer is another one.
    Text,
    /// The connection failed or was cut.
    Cut(std::io::ErrorKind),
    /// It took longer than anybody waits.
    Late,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Order { .. } => f.write_str("frame out of order"),
            Self::Error => f.write_str("error frame"),
            Self::Short { .. } => f.write_str("frames missing"),
            Self::Open => f.write_str("no [DONE]"),
            Self::After => f.write_str("more after [DONE]"),
            Self::Text => f.write_str("another text"),
            Self::Cut(kind) => write!(f, "cut: {kind}"),
            Self::Late => f.write_str("timed out"),
        }
    }
}

impl From<std::io::Error> for Flaw {
    fn from(error: std::io::Error) -> Self {
        Self::Cut(error.kind())
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The next frame of the content.
    Content {
        /// When it was sent, in nanoseconds since 1970, if it says so.
        sent: Option<u64>,
    },
    /// A comment, the finish reason, the usage, the end.
    Other,
}

/// Follows one stream.
#[derive(Debug)]
pub struct StreamCheck<'a> {
    /// What stands before a frame's number; `None` where frames are stamped.
    before: Option<&'a str>,
    frames: usize,
    due: usize,
    /// When the last one was sent, where they are stamped.
    sent: u64,
    done: bool,
}

impl<'a> StreamCheck<'a> {
    /// Expects so many numbered frames; with a marker, frames that echo it.
    #[must_use]
    pub const fn new(before: &'a str, frames: usize) -> Self {
        Self { before: Some(before), frames, due: 0, sent: 0, done: false }
    }

    /// Expects so many stamped frames.
    #[must_use]
    pub const fn stamped(frames: usize) -> Self {
        Self { before: None, frames, due: 0, sent: 0, done: false }
    }

    /// Looks at the next frame.
    ///
    /// # Errors
    /// The frame is not what may come now.
    pub fn see(&mut self, raw: &[u8]) -> Result<Seen, Flaw> {
        if raw.first() == Some(&b':') {
            return Ok(Seen::Other);
        }
        if self.done {
            return Err(Flaw::After);
        }
        if raw.starts_with(b"data: [DONE]") {
            self.done = true;
            return Ok(Seen::Other);
        }
        let is_error = || memmem::find(raw, br#""error":"#).is_some();
        match between(raw, br#""content":""#, b"\"") {
            Some(text) if self.due < self.frames && self.is_next(text) => {
                self.due += 1;
                Ok(Seen::Content { sent: self.before.is_none().then_some(self.sent) })
            }
            // An error frame may have a delta that says nothing.
            _ if is_error() => Err(Flaw::Error),
            Some(_) => Err(Flaw::Order { due: self.due }),
            None => Ok(Seen::Other),
        }
    }

    fn is_next(&mut self, text: &[u8]) -> bool {
        let Some(before) = self.before else {
            let sent = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            return std::mem::replace(&mut self.sent, sent) < sent;
        };
        number(text, before) == Some(self.due)
    }

    /// Judges the stream as it stands at its end.
    ///
    /// # Errors
    /// Frames are missing, or the end is.
    pub const fn end(&self) -> Result<(), Flaw> {
        match (self.due == self.frames, self.done) {
            (true, true) => Ok(()),
            (true, false) => Err(Flaw::Open),
            (false, _) => Err(Flaw::Short { due: self.due }),
        }
    }
}

/// The text of a whole answer with so many frames.
#[must_use]
pub fn whole_text(frames: usize) -> String {
    (0..frames).map(|index| format!(" w{index:06}")).collect()
}

/// Judges a whole answer.
///
/// # Errors
/// [`Flaw::Text`] where it is not exactly this text.
pub fn whole(body: &[u8], text: &str) -> Result<(), Flaw> {
    if between(body, br#""content":""#, b"\"") == Some(text.as_bytes()) { Ok(()) } else { Err(Flaw::Text) }
}

fn between<'a>(bytes: &'a [u8], start: &[u8], end: &[u8]) -> Option<&'a [u8]> {
    let rest = bytes.get(memmem::find(bytes, start)? + start.len()..)?;
    rest.get(..memmem::find(rest, end)?)
}

fn number(text: &[u8], before: &str) -> Option<usize> {
    std::str::from_utf8(text).ok()?.strip_prefix(before)?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: &str = "data: [DONE]\n\n";
    const STOP: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";

    fn frame(text: &str) -> String {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"
        )
    }

    fn judge(before: &str, count: usize, frames: &[String]) -> Result<(), Flaw> {
        let mut check = StreamCheck::new(before, count);
        for frame in frames {
            check.see(frame.as_bytes())?;
        }
        check.end()
    }

    #[test]
    fn stamps_ascend_and_are_complete() {
        let judge = |stamps: &[u64]| {
            let mut check = StreamCheck::stamped(2);
            for stamp in stamps {
                assert_eq!(check.see(frame(&format!("{stamp:019}")).as_bytes())?, Seen::Content { sent: Some(*stamp) });
            }
            check.see(DONE.as_bytes())?;
            check.end()
        };
        assert_eq!(judge(&[5, 6]), Ok(()));
        assert_eq!(judge(&[6, 5]), Err(Flaw::Order { due: 1 }), "swapped");
        assert_eq!(judge(&[5, 5]), Err(Flaw::Order { due: 1 }), "doubled");
        assert_eq!(judge(&[5]), Err(Flaw::Short { due: 1 }), "lost");
        assert_eq!(judge(&[5, 6, 7]), Err(Flaw::Order { due: 2 }), "one too many");
    }

    fn plain(order: &[usize], end: &[&str]) -> Vec<String> {
        let frames = order.iter().map(|index| frame(&format!(" w{index:06}")));
        frames.chain(end.iter().map(|&text| text.to_owned())).collect()
    }

    #[test]
    fn a_whole_stream_passes() {
        assert_eq!(judge(" w", 3, &plain(&[0, 1, 2], &[": comment\n\n", STOP, DONE])), Ok(()));
        let echo: Vec<_> = ["m1#0 ", "m1#1 "].map(frame).into_iter().chain([DONE.to_owned()]).collect();
        assert_eq!(judge("m1#", 2, &echo), Ok(()));
    }

    #[test]
    fn every_flaw_is_found() {
        let flaw = |order: &[usize], end: &[&str]| judge(" w", 3, &plain(order, end)).unwrap_err();
        assert_eq!(flaw(&[0, 2, 1], &[DONE]), Flaw::Order { due: 1 }, "swapped");
        assert_eq!(flaw(&[0, 1, 1, 2], &[DONE]), Flaw::Order { due: 2 }, "doubled");
        assert_eq!(flaw(&[0, 2], &[DONE]), Flaw::Order { due: 1 }, "lost in the middle");
        assert_eq!(flaw(&[0, 1], &[STOP, DONE]), Flaw::Short { due: 2 }, "lost at the end");
        assert_eq!(flaw(&[0, 1, 2, 3], &[DONE]), Flaw::Order { due: 3 }, "one too many");
        assert_eq!(flaw(&[0, 1, 2], &[STOP]), Flaw::Open);
        assert_eq!(flaw(&[0, 1, 2], &[DONE, STOP]), Flaw::After);
        assert_eq!(flaw(&[0], &["data: {\"error\":{\"code\":502}}\n\n"]), Flaw::Error);
        let midway = "data: {\"error\":{},\"choices\":[{\"delta\":{\"content\":\"\"}}]}\n\n";
        assert_eq!(flaw(&[0], &[midway]), Flaw::Error);
        assert_eq!(judge("m1#", 1, &[frame("m2#0 ")]), Err(Flaw::Order { due: 0 }), "somebody else's");
    }

    #[test]
    fn a_whole_answer_is_compared_in_whole() {
        let body = |text: &str| format!(r#"{{"choices":[{{"message":{{"role":"assistant","content":"{text}"}}}}]}}"#);
        assert_eq!(whole(body(" w000000 w000001").as_bytes(), &whole_text(2)), Ok(()));
        assert_eq!(whole(body(" w000000").as_bytes(), &whole_text(2)), Err(Flaw::Text));
        assert_eq!(whole(b"{}", &whole_text(0)), Err(Flaw::Text));
    }
}
