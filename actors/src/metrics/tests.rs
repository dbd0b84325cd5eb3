//! Names, help texts and labels.

use super::*;
use uuid::Uuid;

use crate::domain::{Amounts, ClassId, ModelKey, Nanodollars, Portion, Timings, UserKey, WindowKind};

/// What a name may end in, before `_total`.
const UNITS: &[&str] = &[
    "attempts",
    "breakers",
    "bytes",
    "calls",
    "connections",
    "errors",
    "failures",
    "fallbacks",
    "flushes",
    "frames",
    "info",
    "journals",
    "leases",
    "lookups",
    "nanodollars",
    "observations",
    "openings",
    "postings",
    "recalls",
    "refusals",
    "reloads",
    "requests",
    "retries",
    "seconds",
    "streams",
    "tokens",
    "waits",
];

fn metrics() -> Metrics {
    let metrics = Metrics::new("1.2.3", Timestamp::from_seconds(1_700_000_000)).unwrap();
    metrics.class("basic").posted(&Posting {
        id: Uuid::nil(),
        user: UserKey(1),
        class: ClassId(1),
        model: ModelKey(1),
        opened_at: Timestamp(0),
        settled_at: Timestamp(0),
        outcome: Outcome::Completed,
        estimated: false,
        amounts: Amounts { requests: 1, prompt_tokens: 9, completion_tokens: 20, cost: Nanodollars(13_350) },
        window: WindowKind::Day,
        leased: Portion { requests: 1, tokens: 28, cost: Nanodollars(0) },
    });
    metrics.provider("openrouter").attempted();
    metrics
}

fn lines(metrics: &Metrics) -> Vec<String> {
    metrics.encode().unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn every_name_follows_the_scheme_and_has_a_help_text() {
    let metrics = metrics();
    for family in metrics.families.registry.gather() {
        let name = family.name();
        let is_counter = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
        let noun = name.strip_prefix("hne_").unwrap_or_else(|| panic!("{name} lacks its prefix"));
        assert_eq!(noun.ends_with("_total"), is_counter, "{name}: counters end in _total, and nothing else does");
        let unit = noun.trim_end_matches("_total").rsplit('_').next().unwrap();
        assert!(UNITS.contains(&unit), "{name} ends in no unit");
        assert!(noun.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        let help = family.help();
        assert!(help.ends_with('.') && help.len() > 15 && help == help.trim(), "{name}: {help:?}");
        let labels = family.get_metric().iter().flat_map(prometheus::proto::Metric::get_label);
        for label in labels {
            assert!(!["user", "model", "address", "ip", "request"].contains(&label.name()), "{name}");
        }
    }
}

#[test]
fn a_finished_request_is_counted_by_outcome_code_and_stage() {
    let metrics = metrics();
    let timings =
        Timings { auth: Some(Duration::from_micros(3)), total: Duration::from_millis(120), ..Timings::default() };
    let finished = Finished {
        outcome: Some(Outcome::Deadline),
        code: Some(ErrorCode::ProviderTimeout),
        joined: false,
        estimated: true,
        timings,
    };
    metrics.request_finished(&finished);
    metrics.request_finished(&Finished { outcome: None, code: Some(ErrorCode::InvalidJson), ..finished });
    metrics.request_finished(&Finished { outcome: None, code: None, joined: true, ..finished });
    let lines = lines(&metrics);
    for line in [
        r#"hne_requests_total{outcome="deadline"} 1"#,
        r#"hne_requests_total{outcome="refused"} 1"#,
        r#"hne_requests_total{outcome="joined"} 1"#,
        r#"hne_requests_total{outcome="completed"} 0"#,
        r#"hne_errors_total{code="provider_timeout"} 1"#,
        r#"hne_errors_total{code="invalid_json"} 1"#,
        r#"hne_stage_seconds_bucket{stage="auth",le="0.00005"} 3"#,
        r#"hne_stage_seconds_bucket{stage="total",le="0.1"} 0"#,
        r#"hne_stage_seconds_bucket{stage="total",le="0.15"} 3"#,
        r#"hne_stage_seconds_count{stage="connect"} 0"#,
    ] {
        assert!(lines.iter().any(|found| found == line), "{line} is not in\n{}", lines.join("\n"));
    }
}

#[test]
fn events_reach_the_series_that_their_labels_name() {
    let metrics = metrics();
    metrics.stream_opened();
    metrics.stream_opened();
    metrics.stream_closed(22, 3300);
    metrics.connection_opened();
    metrics.connection_closed();
    metrics.auth_looked_up(AuthLevel::Refused);
    metrics.auth_coalesced();
    metrics.cache_called(CacheCall::Open);
    metrics.store_called(StoreOp::Exchange, false, Duration::from_millis(3));
    metrics.flushed(true, 500, Duration::from_millis(14));
    metrics.flushed(false, 500, Duration::from_secs(3));
    metrics.quota_refused(QuotaRefusal::Unavailable);
    metrics.reloaded(Reload::Catalog, true);
    metrics.observations_dropped(1);
    metrics.observations_dropped(4);
    metrics.memory_sampled(1, 2);
    metrics.cpu_sampled(Duration::from_millis(1500));
    metrics.pool_sampled(7, 3, 20);
    metrics.ledger_lag_sampled(5, Duration::from_millis(250));
    let provider = metrics.provider("openrouter");
    provider.failed(Failure::BreakerOpen);
    provider.retry_refused();
    provider.breaker_opened();
    provider.breaker_opened();
    provider.breaker_opened_again();
    provider.breaker_closed();
    let lines = lines(&metrics);
    for line in [
        "hne_open_streams 1",
        "hne_relayed_frames_total 22",
        "hne_relayed_bytes_total 3300",
        "hne_open_connections 0",
        "hne_connections_total 1",
        r#"hne_auth_lookups_total{level="refused"} 1"#,
        "hne_coalesced_lookups_total 1",
        r#"hne_cache_calls_total{result="open"} 1"#,
        r#"hne_store_calls_total{ok="false",op="exchange"} 1"#,
        r#"hne_store_calls_total{ok="true",op="exchange"} 0"#,
        r#"hne_store_call_seconds_count{op="exchange"} 1"#,
        r#"hne_flushes_total{ok="true"} 1"#,
        r#"hne_flush_postings_bucket{le="256"} 0"#,
        r#"hne_flush_postings_bucket{le="1024"} 1"#,
        "hne_flush_seconds_count 2",
        r#"hne_quota_refusals_total{reason="unavailable"} 1"#,
        r#"hne_reloads_total{ok="true",what="catalog"} 1"#,
        "hne_dropped_observations_total 4",
        r#"hne_memory_bytes{kind="resident"} 2"#,
        "hne_cpu_seconds 1.5",
        r#"hne_pool_connections{state="idle"} 4"#,
        "hne_pool_max_connections 20",
        "hne_ledger_lag_postings 5",
        "hne_ledger_lag_seconds 0.25",
        r#"hne_upstream_attempts_total{provider="openrouter"} 1"#,
        r#"hne_upstream_failures_total{provider="openrouter",reason="breaker_open"} 1"#,
        r#"hne_refused_retries_total{provider="openrouter"} 1"#,
        r#"hne_breaker_openings_total{provider="openrouter"} 3"#,
        r#"hne_open_breakers{provider="openrouter"} 1"#,
        r#"hne_postings_total{class="basic",outcome="completed",source="reported"} 1"#,
        r#"hne_charged_tokens_total{class="basic",kind="completion"} 20"#,
        r#"hne_cost_nanodollars_total{class="basic"} 13350"#,
        r#"hne_build_info{version="1.2.3"} 1"#,
        "hne_start_seconds 1700000000",
    ] {
        assert!(lines.iter().any(|found| found == line), "{line} is not in\n{}", lines.join("\n"));
    }
}

#[test]
fn names_beyond_the_cap_are_counted_together() {
    let metrics = metrics();
    for name in 0..1000 {
        metrics.provider(&format!("p{name}")).retried();
    }
    let lines = lines(&metrics);
    let series = lines.iter().filter(|line| line.starts_with("hne_upstream_retries_total{"));
    assert_eq!(series.count(), 65);
    assert!(lines.iter().any(|line| line == r#"hne_upstream_retries_total{provider="other"} 937"#));
}

#[test]
fn journals_and_leases_are_counted() {
    let metrics = metrics();
    metrics.journals_sampled(8_388_608);
    metrics.journal_synced(Duration::from_millis(4));
    metrics.journals_recovered(2);
    metrics.leases_sampled(3);
    metrics.lease_awaited();
    metrics.leases_recalled(5);
    metrics.recalls_obeyed(1);
    let lines = lines(&metrics);
    for line in [
        r#"hne_overage_postings_total{class="basic"} 1"#,
        "hne_journal_bytes 8388608",
        "hne_journal_sync_seconds_count 1",
        "hne_recovered_journals_total 2",
        "hne_leases 3",
        "hne_lease_waits_total 1",
        r#"hne_lease_recalls_total{by="here"} 5"#,
        r#"hne_lease_recalls_total{by="elsewhere"} 1"#,
    ] {
        assert!(lines.iter().any(|found| found == line), "{line} is not in\n{}", lines.join("\n"));
    }
}
