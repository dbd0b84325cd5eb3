//! Answers that are no streams: whole JSON bodies and refusals.

use super::{
    Ending,
    play::{After, Player},
    scenario::Fault,
    script::error_body,
    wire::PeerGone,
};

impl Player<'_> {
    /// Answers `stream: false`, after the time that the stream would have taken.
    pub(super) async fn whole(&mut self, fault: Option<Fault>) -> Result<After, PeerGone> {
        let gaps = u32::try_from(self.script.scenario.frames).unwrap_or(u32::MAX);
        self.wire
            .sleep(self.script.scenario.head.saturating_add(self.script.scenario.gap.saturating_mul(gaps)))
            .await?;
        self.record.status = 200;
        let mut body = match fault {
            Some(Fault::ErrorFirst) => error_body("error", 502).into_bytes(),
            Some(Fault::Flood(bytes)) => vec![b'x'; bytes],
            Some(Fault::Gzip) => super::play::ZIPPED.to_vec(),
            _ => self.script.answer(self.ask, fault).into_bytes(),
        };
        if fault == Some(Fault::InvalidJson) {
            body.truncate(body.len() / 2);
        }
        let encoding = if fault == Some(Fault::Gzip) { "content-encoding: gzip\r\n" } else { "" };
        self.json_head(200, &format!("content-type: application/json\r\n{encoding}"), body.len());
        let start = self.pending.len();
        self.pending.extend_from_slice(&body);
        match fault {
            Some(Fault::TruncateAt(bytes)) => self.pending.truncate(start.saturating_add(bytes.min(body.len()))),
            Some(Fault::CloseAfter(_) | Fault::ResetAfter(_) | Fault::StallAfter(_)) => {
                self.pending.truncate(start + body.len() / 2);
            }
            _ if self.script.scenario.chunked => self.pending.extend_from_slice(b"\r\n0\r\n\r\n"),
            _ => {}
        }
        self.flush().await?;
        match fault {
            None => {
                self.record.usage_sent = self.script.usage_is_valid();
                self.record.ending = Ending::Finished;
                Ok(After::KeepAlive)
            }
            Some(Fault::StallAfter(_)) => Err(self.wire.stall().await),
            Some(Fault::ResetAfter(_)) => Ok(self.faulted(After::Reset)),
            Some(Fault::CloseAfter(_) | Fault::TruncateAt(_)) => Ok(self.faulted(After::Close)),
            Some(_) => Ok(self.faulted(After::KeepAlive)),
        }
    }

    /// Answers with something that is no answer.
    pub(super) async fn refuse(&mut self, fault: Fault) -> Result<After, PeerGone> {
        let (status, kind, body) = match fault {
            Fault::Status(status) => {
                (status, "content-type: application/json\r\n", error_body("status as asked", status))
            }
            Fault::Redirect => {
                (302, "content-type: text/plain\r\nlocation: http://127.0.0.1:9/elsewhere\r\n", String::new())
            }
            _ => (200, "content-type: text/html\r\n", "<!doctype html><h1>Just a moment...</h1>".to_owned()),
        };
        self.record.status = status;
        let retry = self.script.scenario.retry_after.map(|seconds| format!("retry-after: {seconds}\r\n"));
        let head = format!(
            "HTTP/1.1 {status} {}\r\n{kind}{}content-length: {}\r\n\r\n{body}",
            reason(status),
            retry.unwrap_or_default(),
            body.len()
        );
        self.pending.extend_from_slice(head.as_bytes());
        self.flush().await?;
        Ok(self.faulted(After::KeepAlive))
    }

    fn json_head(&mut self, status: u16, headers: &str, length: usize) {
        let framing = if self.script.scenario.chunked {
            format!("transfer-encoding: chunked\r\n\r\n{length:x}\r\n")
        } else {
            format!("content-length: {length}\r\n\r\n")
        };
        let head = format!("HTTP/1.1 {status} {}\r\n{headers}server: mock-provider\r\n{framing}", reason(status));
        self.pending.extend_from_slice(head.as_bytes());
    }
}

/// The phrase after a status; clients ignore it.
pub(super) const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Mock",
    }
}
