//! Plays one answer on the wire, with its timing and its faults.

use super::{
    Ending, Gate,
    books::Record,
    scenario::{Content, Fault, Hold, Scenario},
    script::{Ask, Piece, STAMP, Script},
    wire::{PeerGone, Wire},
};
use crate::clock;
use memchr::memmem;
use std::sync::atomic::Ordering;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\nserver: mock-provider\r\nset-cookie: mock_session=secret\r\ntransfer-encoding: chunked\r\n\r\n";
const HEAD_UNTIL_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\nserver: mock-provider\r\nconnection: close\r\n\r\n";
const HEAD_GZIP: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n";
const TERMINATOR: &[u8] = b"0\r\n\r\n";
/// A gzipped two-frame stream.
pub(super) const ZIPPED: &[u8] = include_bytes!("zipped.gz");
/// Without gaps, the mock looks at the peer and at its other connections once in so many frames.
const BREATH: usize = 32;
/// A chunk of a flood.
const FLOOD: &[u8] = &[b'x'; 16 << 10];

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    KeepAlive,
    Close,
    Reset,
}

/// One answer in the making.
#[derive(Debug)]
pub(super) struct Player<'a> {
    pub(super) wire: &'a mut Wire,
    pub(super) script: &'a Script,
    pub(super) ask: &'a Ask,
    gate: Gate,
    pub(super) record: Record,
    /// Bytes that go out with the next write, and the content frames among them.
    pub(super) pending: Vec<u8>,
    pending_frames: usize,
}

type Played = Result<After, PeerGone>;

impl<'a> Player<'a> {
    pub(super) const fn new(wire: &'a mut Wire, script: &'a Script, ask: &'a Ask, gate: Gate, record: Record) -> Self {
        Self { wire, script, ask, gate, record, pending: Vec::new(), pending_frames: 0 }
    }

    /// Plays the answer; the record is closed when this returns.
    pub(super) async fn play(mut self) -> After {
        match self.answer().await {
            Ok(after) => after,
            Err(gone) => {
                self.record.ending = Ending::ClientGone;
                self.record.peer_closed_at = Some(gone.at);
                After::Close
            }
        }
    }

    const fn scenario(&self) -> &Scenario {
        &self.script.scenario
    }

    async fn answer(&mut self) -> Played {
        let asked = self.script.asked.fetch_add(1, Ordering::AcqRel);
        let fault = self.scenario().fault.filter(|_| self.scenario().fail_first.is_none_or(|first| asked < first));
        if self.scenario().hold == Some(Hold::Head) {
            self.wire.meanwhile(self.gate.open()).await?;
        }
        self.wire.sleep(self.scenario().first).await?;
        match fault {
            Some(Fault::Hang) => Err(self.wire.stall().await),
            Some(Fault::Reset) => Ok(self.faulted(After::Reset)),
            Some(Fault::Close) => Ok(self.faulted(After::Close)),
            Some(Fault::Garbage) => {
                self.send(b"\x16\x03\x01 this is no HTTP\r\n\r\n").await?;
                Ok(self.faulted(After::Close))
            }
            Some(fault @ (Fault::Status(_) | Fault::Html | Fault::Redirect)) => self.refuse(fault).await,
            fault if self.ask.stream => self.stream(fault).await,
            fault => self.whole(fault).await,
        }
    }

    async fn stream(&mut self, fault: Option<Fault>) -> Played {
        self.record.status = 200;
        match fault {
            Some(Fault::Gzip) => return self.zipped().await,
            Some(Fault::Flood(bytes)) => return self.flood(bytes).await,
            _ => self.head().await?,
        }
        match fault {
            Some(Fault::ErrorFirst) => return self.end_with(&self.script.error_first()).await,
            Some(Fault::InvalidJson) => self.pending.extend_from_slice(&self.script.broken_frame().wire),
            _ => {}
        }
        let frames = self.script.frames(self.ask);
        let stop_at = fault.and_then(Fault::position).map(|count| count.min(frames.len()));
        let mut due = clock::now() + self.scenario().head;
        let mut room = if let Some(Fault::TruncateAt(bytes)) = fault { bytes } else { usize::MAX };
        for (index, piece) in frames.iter().enumerate() {
            if self.scenario().hold == Some(Hold::After(index)) {
                self.hold().await?;
                due = due.max(clock::now());
            }
            if let Some(fault) = fault.filter(|_| stop_at == Some(index)) {
                return self.break_off(fault, Some(piece)).await;
            }
            self.wait_turn(index, due).await?;
            if room < piece.payload.len() {
                return self.truncate(piece, room).await;
            }
            room -= piece.payload.len();
            self.frame(piece).await?;
            due += self.scenario().gap;
        }
        if matches!(self.scenario().hold, Some(Hold::After(count)) if count >= frames.len()) {
            self.hold().await?;
        }
        match fault.filter(|_| stop_at.is_some()) {
            Some(fault) => self.break_off(fault, None).await,
            None => self.tail(room).await,
        }
    }

    async fn head(&mut self) -> Result<(), PeerGone> {
        let head = if self.scenario().until_close { HEAD_UNTIL_CLOSE } else { HEAD };
        self.pending.extend_from_slice(head);
        if let Some(opening) = self.script.opening() {
            self.pending.extend_from_slice(&opening.wire);
        }
        if !self.scenario().head.is_zero() {
            self.flush().await?;
        }
        Ok(())
    }

    /// Waits until frame `index` is due.
    async fn wait_turn(&mut self, index: usize, due: std::time::Instant) -> Result<(), PeerGone> {
        let Scenario { gap, head, coalesced, .. } = *self.scenario();
        let pause = if index == 0 { head } else { gap };
        if pause.is_zero() || coalesced {
            if index % BREATH == BREATH - 1 { self.wire.meanwhile(tokio::task::yield_now()).await } else { Ok(()) }
        } else {
            self.wire.sleep_until(due).await
        }
    }

    async fn tail(&mut self, room: usize) -> Played {
        let tail = self.script.tail(self.ask);
        if let Some(piece) = tail.piece {
            if room < piece.payload.len() {
                return self.truncate(&piece, room).await;
            }
            self.pending.extend_from_slice(&piece.wire);
        }
        let complete = self.scenario().done || self.scenario().finish_reason;
        let after = self.end().await?;
        self.record.usage_sent = tail.usage;
        self.record.done_sent = tail.done;
        self.record.ending = if complete { Ending::Finished } else { Ending::Faulted };
        Ok(after)
    }

    /// Goes wrong after the frames that were written; `next` is the frame that would have followed.
    async fn break_off(&mut self, fault: Fault, next: Option<&Piece>) -> Played {
        match fault {
            Fault::ErrorAfter(_) => return self.end_with(&self.script.error_midway()).await,
            Fault::CloseAfter(_) => {
                let half = next.and_then(|piece| piece.wire.get(..piece.wire.len() / 2));
                self.pending.extend_from_slice(half.unwrap_or_default());
            }
            _ => {}
        }
        self.flush().await?;
        match fault {
            Fault::StallAfter(_) => Err(self.wire.stall().await),
            Fault::ResetAfter(_) => Ok(self.faulted(After::Reset)),
            _ => Ok(self.faulted(After::Close)),
        }
    }

    /// Writes `room` more bytes of payload and closes in the middle of the chunk.
    async fn truncate(&mut self, piece: &Piece, room: usize) -> Played {
        let end = piece.payload.start.saturating_add(room);
        self.pending.extend_from_slice(piece.wire.get(..end).unwrap_or_default());
        self.flush().await?;
        Ok(self.faulted(After::Close))
    }

    async fn end_with(&mut self, error: &Piece) -> Played {
        self.pending.extend_from_slice(&error.wire);
        let after = self.end().await?;
        Ok(self.faulted(after))
    }

    /// Ends the body as its framing says.
    async fn end(&mut self) -> Played {
        if self.scenario().until_close {
            self.flush().await?;
            return Ok(After::Close);
        }
        self.pending.extend_from_slice(TERMINATOR);
        self.flush().await?;
        Ok(After::KeepAlive)
    }

    async fn zipped(&mut self) -> Played {
        self.pending.extend_from_slice(HEAD_GZIP);
        self.pending.extend(format!("{:x}\r\n", ZIPPED.len()).bytes().chain(ZIPPED.iter().copied()).chain(*b"\r\n"));
        let after = self.end().await?;
        Ok(self.faulted(after))
    }

    /// Sends a single line without an end.
    async fn flood(&mut self, bytes: usize) -> Played {
        self.pending.extend_from_slice(HEAD);
        self.pending.extend_from_slice(b"6\r\ndata: \r\n");
        let mut left = bytes;
        while left > 0 {
            let chunk = FLOOD.get(..left).unwrap_or(FLOOD);
            left -= chunk.len();
            self.pending.extend(format!("{:x}\r\n", chunk.len()).bytes());
            self.pending.extend_from_slice(chunk);
            self.pending.extend_from_slice(b"\r\n");
            self.flush().await?;
        }
        let after = self.end().await?;
        Ok(self.faulted(after))
    }

    async fn hold(&mut self) -> Result<(), PeerGone> {
        self.flush().await?;
        self.wire.meanwhile(self.gate.open()).await
    }

    async fn frame(&mut self, piece: &Piece) -> Result<(), PeerGone> {
        let Scenario { content, coalesced, .. } = *self.scenario();
        self.pending_frames += 1;
        if self.pending.is_empty() && !coalesced && content != Content::Stamp {
            self.send(&piece.wire).await?;
        } else {
            let start = self.pending.len();
            self.pending.extend_from_slice(&piece.wire);
            if content == Content::Stamp {
                stamp(self.pending.get_mut(start..).unwrap_or_default());
            }
        }
        if coalesced { Ok(()) } else { self.flush().await }
    }

    /// Writes what is pending and counts its frames.
    pub(super) async fn flush(&mut self) -> Result<(), PeerGone> {
        if !self.pending.is_empty() {
            let bytes = std::mem::take(&mut self.pending);
            self.send(&bytes).await?;
            self.pending = bytes;
            self.pending.clear();
        }
        if self.pending_frames > 0 {
            self.record.frames_written(std::mem::take(&mut self.pending_frames));
        }
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), PeerGone> {
        let Scenario { split, drip, .. } = *self.scenario();
        if split.is_none() && drip.is_zero() {
            return self.wire.write(bytes).await;
        }
        for piece in bytes.chunks(split.unwrap_or(1)) {
            self.wire.write(piece).await?;
            if drip.is_zero() {
                self.wire.meanwhile(tokio::task::yield_now()).await?;
            } else {
                self.wire.sleep(drip).await?;
            }
        }
        Ok(())
    }

    pub(super) const fn faulted(&mut self, after: After) -> After {
        self.record.ending = Ending::Faulted;
        after
    }
}

/// Puts the time into the place that a frame keeps for it.
fn stamp(frame: &mut [u8]) {
    if let Some(slot) = memmem::find(frame, STAMP).and_then(|at| frame.get_mut(at..at + STAMP.len())) {
        slot.copy_from_slice(format!("{:019}", clock::unix_nanos()).as_bytes());
    }
}

impl Fault {
    /// After how many content frames a stream breaks.
    const fn position(self) -> Option<usize> {
        match self {
            Self::ErrorAfter(count) | Self::ResetAfter(count) | Self::CloseAfter(count) | Self::StallAfter(count) => {
                Some(count)
            }
            _ => None,
        }
    }
}
