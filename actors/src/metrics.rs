//! All metrics of the process, in one struct; methods are named after events.
//!
//! In: what happened, from every thread. Out: the Prometheus text format. An event costs 5 to 20 ns and never blocks.
//! Labels are closed sets, but for class and provider names, which come from operators and are capped; never a user,
//! an address, a model (clients can invent those through pass-through) or a request. Names are
//! `hne_<noun>_<unit>[_total]`, where a thing that is counted is its own unit.

mod family;
mod labels;
mod provider;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use prometheus::{Gauge, IntCounter, IntGauge};

use self::{
    family::{Children, NameKind, Named, Size, Timing, families},
    labels::{End, MemoryKind, PoolState, Recaller, Source, TokenKind},
};
pub use self::{
    labels::{AuthLevel, CacheCall, Failure, QuotaRefusal, Reload, StoreOp},
    provider::ProviderMetrics,
};
use crate::{
    domain::{ErrorCode, Finished, Outcome, Posting, Timestamp},
    stats::Stage,
};

struct Class;

impl NameKind for Class {
    const LABEL: &'static str = "class";
}

struct Provider;

impl NameKind for Provider {
    const LABEL: &'static str = "provider";
}

struct Version;

impl NameKind for Version {
    const LABEL: &'static str = "version";
}

families! {
    /// Chats that are over, by outcome, and whatever else was refused; `refused` were never admitted.
    requests: Children<End, IntCounter> = "hne_requests_total";
    /// Requests that ended in an error, by the code that the client was told.
    errors: Children<ErrorCode, IntCounter> = "hne_errors_total";
    /// Where the time of requests went, by stage; `database` is a call to the store, whoever made it.
    stages: Children<Stage, Timing> = "hne_stage_seconds";
    /// Frames relayed to clients, counted at the end of each stream.
    frames: Children<(), IntCounter> = "hne_relayed_frames_total";
    /// Bytes relayed to clients, counted at the end of each stream.
    bytes: Children<(), IntCounter> = "hne_relayed_bytes_total";
    /// Streams that run now.
    open_streams: Children<(), IntGauge> = "hne_open_streams";
    /// Connections of clients that are open now.
    open_connections: Children<(), IntGauge> = "hne_open_connections";
    /// Connections of clients that were accepted.
    connections: Children<(), IntCounter> = "hne_connections_total";
    /// Callers looked up, by who knew them: l1 memory, l2 shared cache, l3 store, or refused.
    auth_lookups: Children<AuthLevel, IntCounter> = "hne_auth_lookups_total";
    /// Look-ups of callers that waited for another one's answer instead of asking themselves.
    auth_coalesced: Children<(), IntCounter> = "hne_coalesced_lookups_total";
    /// Calls to the shared cache, by result; `open` and `full` were not made.
    cache_calls: Children<CacheCall, IntCounter> = "hne_cache_calls_total";
    /// Calls to the store, by operation and success.
    store_calls: Children<(StoreOp, bool), IntCounter> = "hne_store_calls_total";
    /// How long calls to the store took, by operation.
    store_seconds: Children<StoreOp, Timing> = "hne_store_call_seconds";
    /// Connections to the database, by what they do.
    pool: Children<PoolState, IntGauge> = "hne_pool_connections";
    /// The most connections to the database that there may be.
    pool_max: Children<(), IntGauge> = "hne_pool_max_connections";
    /// Postings made, by class, outcome and source of their figures.
    postings: Named<Class, (Outcome, Source), IntCounter> = "hne_postings_total";
    /// Tokens charged, by class and kind.
    tokens: Named<Class, TokenKind, IntCounter> = "hne_charged_tokens_total";
    /// Cost charged, in billionths of a US dollar, by class.
    cost: Named<Class, (), IntCounter> = "hne_cost_nanodollars_total";
    /// Postings in the journal that the store doesn't have yet.
    lag_postings: Children<(), IntGauge> = "hne_ledger_lag_postings";
    /// Age of the oldest posting that the store doesn't have yet.
    lag_seconds: Children<(), Gauge> = "hne_ledger_lag_seconds";
    /// Batches brought to the store, by success.
    flushes: Children<bool, IntCounter> = "hne_flushes_total";
    /// Postings in a batch that was applied.
    flush_postings: Children<(), Size> = "hne_flush_postings";
    /// How long applying a batch took.
    flush_seconds: Children<(), Timing> = "hne_flush_seconds";
    /// Postings that a provider charged more for than was reserved.
    overages: Named<Class, (), IntCounter> = "hne_overage_postings_total";
    /// Bytes of all journals.
    journal_bytes: Children<(), IntGauge> = "hne_journal_bytes";
    /// How long syncing a journal took.
    syncs: Children<(), Timing> = "hne_journal_sync_seconds";
    /// Journals that a crash had left and that were drained.
    recovered: Children<(), IntCounter> = "hne_recovered_journals_total";
    /// Accounts that have something leased which is promised to nobody.
    leases: Children<(), IntGauge> = "hne_leases";
    /// Requests that waited for the store to lend.
    lease_waits: Children<(), IntCounter> = "hne_lease_waits_total";
    /// Leases that were asked back, by who asked.
    recalls: Children<Recaller, IntCounter> = "hne_lease_recalls_total";
    /// Attempts to open a request, by provider.
    attempts: Named<Provider, (), IntCounter> = "hne_upstream_attempts_total";
    /// Attempts that were repeated at the same provider.
    retries: Named<Provider, (), IntCounter> = "hne_upstream_retries_total";
    /// Requests that went on to a fallback, by the provider they left.
    fallbacks: Named<Provider, (), IntCounter> = "hne_upstream_fallbacks_total";
    /// Attempts that failed, by provider and reason; `breaker_open` were not made.
    failures: Named<Provider, Failure, IntCounter> = "hne_upstream_failures_total";
    /// Retries that would have exceeded the provider's retry budget, and were not made.
    refused_retries: Named<Provider, (), IntCounter> = "hne_refused_retries_total";
    /// Breakers that opened or, when a probe failed, opened again, by provider; each worker and model has its own.
    breaker_openings: Named<Provider, (), IntCounter> = "hne_breaker_openings_total";
    /// Breakers that aren't closed: nothing, or only a few probes, is let through to a model, by provider.
    open_breakers: Named<Provider, (), IntGauge> = "hne_open_breakers";
    /// Requests refused for quota, by the ceiling they met.
    quota_refusals: Children<QuotaRefusal, IntCounter> = "hne_quota_refusals_total";
    /// Readings of what may change while running, by what and success.
    reloads: Children<(Reload, bool), IntCounter> = "hne_reloads_total";
    /// Observations that the report lacks because Stats was behind.
    dropped: Children<(), IntCounter> = "hne_dropped_observations_total";
    /// Memory of the process, by kind.
    memory: Children<MemoryKind, IntGauge> = "hne_memory_bytes";
    /// CPU time of the process, user and system.
    cpu: Children<(), Gauge> = "hne_cpu_seconds";
    /// When the process started, in seconds since 1970.
    started: Children<(), IntGauge> = "hne_start_seconds";
    /// Always 1; its label tells the version.
    build: Named<Version, (), IntGauge> = "hne_build_info";
}

/// A handle to all metrics. Cloning it is cheap.
#[derive(Clone)]
pub struct Metrics {
    families: Arc<Families>,
}

impl Metrics {
    /// Registers every family, in a registry of its own.
    ///
    /// # Errors
    /// Only if two families share a name or one is malformed, which a test rules out.
    pub fn new(version: &str, started: Timestamp) -> prometheus::Result<Self> {
        let families = Families::register()?;
        families.build.of(version).set((), 1);
        families.started.set((), u64::try_from(started.seconds()).unwrap_or(0));
        Ok(Self { families: Arc::new(families) })
    }

    /// Returns everything in the text format 0.0.4 (`text/plain; version=0.0.4`).
    ///
    /// # Errors
    /// Only if a family is malformed.
    pub fn encode(&self) -> prometheus::Result<String> {
        prometheus::TextEncoder::new().encode_to_string(&self.families.registry.gather())
    }

    /// A request is over.
    pub fn request_finished(&self, finished: &Finished) {
        let families = &self.families;
        families.requests.count(End::of(finished));
        if let Some(code) = finished.code {
            families.errors.count(code);
        }
        for (stage, took) in Stage::of(&finished.timings) {
            families.stages.time(stage, took);
        }
    }

    /// Something other than a chat was refused.
    pub fn refused(&self, code: ErrorCode) {
        self.families.requests.count(End::Refused);
        self.families.errors.count(code);
    }

    /// A stream began.
    pub fn stream_opened(&self) {
        self.families.open_streams.raise(());
    }

    /// A stream ended, after so many frames and bytes.
    pub fn stream_closed(&self, frames: u64, bytes: u64) {
        self.families.open_streams.lower(());
        self.families.frames.add((), frames);
        self.families.bytes.add((), bytes);
    }

    /// A client's connection was accepted.
    pub fn connection_opened(&self) {
        self.families.connections.count(());
        self.families.open_connections.raise(());
    }

    /// A client's connection was closed.
    pub fn connection_closed(&self) {
        self.families.open_connections.lower(());
    }

    /// A caller was looked up.
    pub fn auth_looked_up(&self, level: AuthLevel) {
        self.families.auth_lookups.count(level);
    }

    /// A look-up waited for another one's answer.
    pub fn auth_coalesced(&self) {
        self.families.auth_coalesced.count(());
    }

    /// The shared cache was called, or spared.
    pub fn cache_called(&self, call: CacheCall) {
        self.families.cache_calls.count(call);
    }

    /// The store was called.
    pub fn store_called(&self, op: StoreOp, ok: bool, took: Duration) {
        self.families.store_calls.count((op, ok));
        self.families.store_seconds.time(op, took);
        self.families.stages.time(Stage::Database, took);
    }

    /// A batch of postings was brought to the store, or was not.
    pub fn flushed(&self, ok: bool, postings: usize, took: Duration) {
        self.families.flushes.count(ok);
        self.families.flush_seconds.time((), took);
        if ok {
            self.families.flush_postings.measure((), u32::try_from(postings).unwrap_or(u32::MAX));
        }
    }

    /// The journals were looked at.
    pub fn journals_sampled(&self, bytes: u64) {
        self.families.journal_bytes.set((), bytes);
    }

    /// A journal was synced.
    pub fn journal_synced(&self, took: Duration) {
        self.families.syncs.time((), took);
    }

    /// What a crash had left was drained.
    pub fn journals_recovered(&self, journals: u64) {
        self.families.recovered.add((), journals);
    }

    /// The leases were looked at.
    pub fn leases_sampled(&self, accounts: u64) {
        self.families.leases.set((), accounts);
    }

    /// A request waits for the store to lend.
    pub fn lease_awaited(&self) {
        self.families.lease_waits.count(());
    }

    /// Leases were asked back from other instances.
    pub fn leases_recalled(&self, leases: u64) {
        self.families.recalls.add(Recaller::Here, leases);
    }

    /// Another instance asked for leases back, or an operator for an account to be read anew.
    pub fn recalls_obeyed(&self, leases: u64) {
        self.families.recalls.add(Recaller::Elsewhere, leases);
    }

    /// A request was refused for quota.
    pub fn quota_refused(&self, reason: QuotaRefusal) {
        self.families.quota_refusals.count(reason);
    }

    /// Something was read anew while running.
    pub fn reloaded(&self, what: Reload, ok: bool) {
        self.families.reloads.count((what, ok));
    }

    /// Stats says how many observations it has refused since the start.
    pub fn observations_dropped(&self, total: u64) {
        self.families.dropped.raise_to((), total);
    }

    /// The memory of the process was looked at, in bytes.
    pub fn memory_sampled(&self, allocated: u64, resident: u64) {
        self.families.memory.set(MemoryKind::Allocated, allocated);
        self.families.memory.set(MemoryKind::Resident, resident);
    }

    /// The CPU time of the process was looked at.
    pub fn cpu_sampled(&self, total: Duration) {
        self.families.cpu.set_seconds((), total);
    }

    /// The database pool was looked at.
    pub fn pool_sampled(&self, total: u32, active: u32, max: u32) {
        self.families.pool.set(PoolState::Active, active.into());
        self.families.pool.set(PoolState::Idle, total.saturating_sub(active).into());
        self.families.pool_max.set((), max.into());
    }

    /// The ledger's lag was looked at.
    pub fn ledger_lag_sampled(&self, postings: u64, age: Duration) {
        self.families.lag_postings.set((), postings);
        self.families.lag_seconds.set_seconds((), age);
    }

    /// Returns the metrics of a class, to be kept with it: making them takes a lock.
    #[must_use]
    pub fn class(&self, name: &str) -> ClassMetrics {
        let families = &self.families;
        ClassMetrics {
            postings: families.postings.of(name),
            tokens: families.tokens.of(name),
            cost: families.cost.of(name),
            overages: families.overages.of(name),
        }
    }
}

/// What is counted for a class of models.
pub struct ClassMetrics {
    postings: Children<(Outcome, Source), IntCounter>,
    tokens: Children<TokenKind, IntCounter>,
    cost: Children<(), IntCounter>,
    overages: Children<(), IntCounter>,
}

impl ClassMetrics {
    /// A request of this class was settled. Negative amounts, which are corrections, don't lower the totals.
    pub fn posted(&self, posting: &Posting) {
        let Posting { outcome, estimated, amounts, leased, .. } = posting;
        let source = if *estimated { Source::Estimated } else { Source::Reported };
        // Of what was leased for a request something is used, unless there is no ceiling.
        let over = |leased: i64, used: i64| leased > 0 && used > leased;
        if over(leased.tokens, amounts.tokens()) || over(leased.cost.0, amounts.cost.0) {
            self.overages.count(());
        }
        let amount = |amount: i64| u64::try_from(amount).unwrap_or(0);
        self.postings.count((*outcome, source));
        self.tokens.add(TokenKind::Prompt, amount(amounts.prompt_tokens));
        self.tokens.add(TokenKind::Completion, amount(amounts.completion_tokens));
        self.cost.add((), amount(amounts.cost.0));
    }
}
