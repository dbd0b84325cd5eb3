//! `[quota]`, `[stream]`, `[ledger]`, `[journal]` and `[alerts]`: the ranges of what the actors themselves configure.

use std::time::Duration;

use super::{error::Problems, server::MAX_WORKERS, values::minutes};

pub(super) fn check_quota(quota: &actors::quota::Config, problems: &mut Problems) {
    problems.within("quota.max_accounts", quota.max_accounts, 1..=100_000_000);
    problems.within_time("quota.idle_timeout", quota.idle_timeout, Duration::from_secs(1)..=minutes(24 * 60));
    problems.within_time("quota.load_timeout", quota.load_timeout, Duration::from_millis(10)..=minutes(1));
    problems.within_time("quota.lease_wait", quota.lease_wait, Duration::ZERO..=minutes(1));
}

pub(super) fn check_stream(stream: &actors::stream::Config, problems: &mut Problems) {
    problems.within_time("stream.keepalive", stream.keepalive, Duration::from_millis(100)..=minutes(5));
    problems.within_time("stream.commit_after", stream.commit_after, Duration::ZERO..=minutes(1));
    problems.within("stream.buffer_bytes", stream.buffer_bytes, 4 << 10..=16 << 20);
    problems.within("stream.max_frame_bytes", stream.max_frame_bytes, 1 << 10..=64 << 20);
    problems.within("stream.max_answer_bytes", stream.max_answer_bytes, 1 << 10..=1 << 30);
    problems.within("stream.replay_bytes", stream.replay_bytes, 64 << 10..=16 << 30);
}

pub(super) fn check_ledger(ledger: &actors::ledger::Config, problems: &mut Problems) {
    problems.within_time("ledger.flush_interval", ledger.flush_interval, Duration::from_millis(10)..=minutes(1));
    problems.within("ledger.flush_postings", ledger.flush_postings, 1..=100_000);
}

/// A worker can't begin its journal without a segment to write and one to go on in.
const LEAST_SEGMENTS: u64 = 2;

pub(super) fn check_journal(journal: &actors::ledger::JournalConfig, workers: usize, problems: &mut Problems) {
    let (millisecond, month) = (Duration::from_millis(1), minutes(30 * 24 * 60));
    problems.within_time("journal.fsync_interval", journal.fsync_interval, millisecond..=Duration::from_secs(10));
    problems.within("journal.segment_bytes", journal.segment_bytes, 64 << 10..=1 << 30);
    problems.within_time("journal.retain", journal.retain, Duration::ZERO..=month);
    problems.within("journal.retain_bytes", journal.retain_bytes, 0..=1 << 40);
    let bounds = 1 << 20..=1 << 40;
    let least = journal.segment_bytes.saturating_mul(LEAST_SEGMENTS).saturating_mul(workers as u64);
    if bounds.contains(&journal.max_bytes) && workers <= MAX_WORKERS && journal.max_bytes < least {
        let allowed =
            format!("at least {least}: {LEAST_SEGMENTS} × `journal.segment_bytes` for each of {workers} workers");
        problems.refuse("journal.max_bytes", journal.max_bytes, allowed);
    }
    problems.within("journal.max_bytes", journal.max_bytes, bounds);
}

pub(super) fn check_alerts(config: &actors::stats::Config, problems: &mut Problems) {
    problems.within_time("alerts.mean_response", config.mean_response, Duration::from_millis(1)..=minutes(60));
    problems.within("alerts.error_rate_percent", config.error_rate_percent, 0.0..=100.0);
    problems.within("alerts.memory_percent", config.memory_percent, 0.0..=100.0);
    problems.within("alerts.connections_percent", config.connections_percent, 0.0..=100.0);
}
