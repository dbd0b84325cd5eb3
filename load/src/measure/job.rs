//! One request, and its answer with every frame checked.

use super::{
    check::{self, Flaw, Seen, StreamCheck},
    target::Target,
};
use crate::{
    client::{Connection, Request, Response},
    clock,
};
use serde_json::json;
use std::{
    io,
    time::{Duration, Instant},
};

/// The path that the service serves without waiting for its own keep-alives, and the mock and nginx as well.
const PATH: &str = "/v1/chat/completions";

/// What is asked for, and so what has to come.
#[derive(Clone, Debug)]
pub enum Shape {
    /// A whole answer with so many numbered words.
    Whole(usize),
    /// A stream of so many numbered frames.
    Stream(usize),
    /// A stream of so many frames that echo the request's marker.
    Echo(usize),
    /// A stream of so many frames that say when they were sent.
    Stamped(usize),
}

/// A request as bytes, and what has to come back.
#[derive(Clone, Debug)]
pub struct Job {
    bytes: Vec<u8>,
    expected: Expected,
}

#[derive(Clone, Debug)]
enum Expected {
    Whole(String),
    Stream { before: String, frames: usize },
    Stamped { frames: usize },
}

/// A frame of content that has come.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When.
    pub at: Instant,
    /// How long after it was sent, if it says so.
    pub way: Option<Duration>,
}

/// What one good answer took, from the moment at which its request was due.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// To the first frame of content; to the head of a whole answer.
    pub ttft: Duration,
    /// To the end.
    pub total: Duration,
    /// Frames of content.
    pub frames: u64,
}

/// How a request ended well: with its answer, or with a refusal in time.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// The answer is whole.
    Good(Sample),
    /// The target has no room (429, 503).
    Refused {
        /// The status.
        status: u16,
        /// From the moment at which the request was due, to the head.
        after: Duration,
    },
}

impl Job {
    /// Writes the request of a user for an answer of this shape. `options` are further ones of the mock's, such as
    /// `+gap-20ms`; the marker is what the user says.
    ///
    /// # Errors
    /// There is no token for this target.
    pub fn new(target: &Target, user: &str, marker: &str, shape: &Shape, options: &str) -> io::Result<Self> {
        let (frames, echo) = match *shape {
            Shape::Whole(frames) | Shape::Stream(frames) => (frames, ""),
            Shape::Echo(frames) => (frames, "+echo"),
            Shape::Stamped(frames) => (frames, "+stamp"),
        };
        Self::of_model(target, user, marker, shape, &format!("mock/load+frames-{frames}{echo}{options}"))
    }

    /// As [`Job::new`], of a model that the target's catalog has under this name, and that answers in this shape.
    ///
    /// # Errors
    /// There is no token for this target.
    pub fn of_model(target: &Target, user: &str, marker: &str, shape: &Shape, model: &str) -> io::Result<Self> {
        let (frames, stream) = match *shape {
            Shape::Whole(frames) => (frames, false),
            Shape::Stream(frames) | Shape::Echo(frames) | Shape::Stamped(frames) => (frames, true),
        };
        let body = json!({
            "model": model,
            "messages": [{"role": "user", "content": marker}],
            "stream": stream,
        });
        let request = Request::post(PATH).bearer(&target.token(user)?).json(&body.to_string());
        let expected = match shape {
            Shape::Whole(_) => Expected::Whole(check::whole_text(frames)),
            Shape::Stream(_) => Expected::Stream { before: " w".to_owned(), frames },
            Shape::Echo(_) => Expected::Stream { before: format!("{marker}#"), frames },
            Shape::Stamped(_) => Expected::Stamped { frames },
        };
        Ok(Self { bytes: request.encode(target.addr, &[]), expected })
    }

    /// The request's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Sends the request and reads its answer; `on_frame` is told when each frame of content came. Returns the
    /// connection as well, if it can be used again.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub async fn perform(
        &self,
        connection: Connection,
        due: Instant,
        on_frame: impl FnMut(Arrival),
    ) -> Result<(Sample, Option<Connection>), Flaw> {
        match self.attempt(connection, due, on_frame).await? {
            (Outcome::Good(sample), connection) => Ok((sample, connection)),
            (Outcome::Refused { status, .. }, _) => Err(Flaw::Status(status)),
        }
    }

    /// As [`Job::perform`], where a refusal is no flaw.
    ///
    /// # Errors
    /// What is wrong with the answer.
    pub async fn attempt(
        &self,
        mut connection: Connection,
        due: Instant,
        on_frame: impl FnMut(Arrival),
    ) -> Result<(Outcome, Option<Connection>), Flaw> {
        connection.send_raw(&self.bytes).await?;
        let mut response = connection.response().await?;
        match response.status {
            200 => {}
            status @ (429 | 503) => {
                response.bytes().await?;
                let after = response.head_at.saturating_duration_since(due);
                return Ok((Outcome::Refused { status, after }, response.into_connection().ok()));
            }
            status => return Err(Flaw::Status(status)),
        }
        let (ttft, frames) = match &self.expected {
            Expected::Whole(text) => {
                check::whole(&response.bytes().await?, text)?;
                (response.head_at, 0)
            }
            Expected::Stream { before, frames } => {
                let first = follow(&mut response, StreamCheck::new(before, *frames), on_frame).await?;
                (first.unwrap_or(response.head_at), *frames as u64)
            }
            Expected::Stamped { frames } => {
                let first = follow(&mut response, StreamCheck::stamped(*frames), on_frame).await?;
                (first.unwrap_or(response.head_at), *frames as u64)
            }
        };
        let total = clock::now().saturating_duration_since(due);
        let sample = Sample { ttft: ttft.saturating_duration_since(due), total, frames };
        Ok((Outcome::Good(sample), response.into_connection().ok()))
    }
}

async fn follow(
    response: &mut Response,
    mut check: StreamCheck<'_>,
    mut on_frame: impl FnMut(Arrival),
) -> Result<Option<Instant>, Flaw> {
    let mut first = None;
    while let Some(frame) = response.frame().await? {
        if let Seen::Content { sent } = check.see(&frame.raw)? {
            first.get_or_insert(frame.at);
            let since = |sent| Duration::from_nanos(clock::unix_nanos().saturating_sub(sent));
            let way = sent.map(|sent| since(sent).saturating_sub(frame.at.elapsed()));
            on_frame(Arrival { at: frame.at, way });
        }
    }
    check.end()?;
    Ok(first)
}
