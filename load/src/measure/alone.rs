//! Thousands of streams whose frames come alone: what relaying one costs, and how long it is on its way.
//!
//! Only what happens while all streams run is measured, so that what their beginnings and ends cost is no part of it. Each
//! frame says when it was sent; the client, on the same machine, reads the same clock.

use super::{
    many::{self, Plan},
    progress::Progress,
    record::{Meter, Record, Tally},
    target::Target,
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Measures a target. In the record, an answer's CPU time is that of its frames.
///
/// # Errors
/// The target has ended; flaws of streams are part of the record.
pub async fn measure(target: &Target, plan: Plan, round: u32) -> io::Result<Record> {
    let progress = Progress::new(format!("R {} round {round}", target.name), plan.ticks());
    let before = target.family.resident()?;
    let arrived = Arc::new(AtomicU64::new(0));
    let meanwhile = async {
        let steady = plan.steady().unwrap_or_default();
        tokio::time::sleep(steady.start).await;
        let meter = Meter::start(target)?;
        let frames = arrived.load(Ordering::Relaxed);
        tokio::time::sleep(steady.end.saturating_sub(steady.start)).await;
        let frames = arrived.load(Ordering::Relaxed) - frames;
        let requests = frames / plan.frames.max(1) as u64;
        meter.cut("R", round, &Tally { requests, frames, ..Tally::default() })
    };
    let (record, tally) = tokio::join!(meanwhile, many::drive(target, plan, &arrived, &progress));
    let (record, tally) = (record?, tally?);
    Ok(Record {
        requests: tally.requests,
        frames: tally.frames,
        ttft_ms: tally.ttft.quantiles(),
        total_ms: tally.total.quantiles(),
        late_ms: Some(tally.late.quantiles()),
        flaws: tally.flaws,
        resident_before: before,
        ..record
    })
}
