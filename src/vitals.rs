//! Gauges of the process for the report: memory, CPU time, connections, streams, lag.

use std::{fs, num::NonZeroUsize, sync::Arc, time::Duration};

use actors::{
    ledger::LedgerHandle,
    ports::Clock,
    stats::{Lag, Memory, Pool, Vitals},
};
use tikv_jemalloc_ctl::{epoch, stats};

use crate::{http::Slots, store::Store};

/// `/proc` counts CPU time in hundredths of a second (USER_HZ; proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// Where the gauges are read.
pub struct ProcessVitals {
    /// The database's pool.
    pub store: Store,
    /// The requests that run.
    pub slots: Arc<Slots>,
    /// How far the store is behind.
    pub ledger: LedgerHandle,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Returns the numbers in `/proc/self/stat` after its last `)`: a process's name may contain anything.
fn stat() -> Vec<u64> {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default();
    fields.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect()
}

/// Returns the resident memory in bytes. `status` has it in KiB, however large a page is; `statm` in pages.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |line: &str| line.strip_prefix("VmRSS:")?.split_ascii_whitespace().next()?.parse::<u64>().ok();
    text.lines().find_map(kib).unwrap_or(0) << 10
}

impl Vitals for ProcessVitals {
    fn memory(&self) -> Memory {
        // The allocator's figures are of the last epoch; where it isn't jemalloc (tests), there are none.
        let advanced = epoch::advance().is_ok();
        let allocated = stats::allocated::read().ok().filter(|_| advanced).unwrap_or(0);
        Memory { allocated: u64::try_from(allocated).unwrap_or(u64::MAX), resident: resident() }
    }

    fn cpu_time(&self) -> Duration {
        // utime and stime, the 14th and 15th field of proc(5)'s list, are the 12th and 13th after the name.
        let ticks: u64 = stat().iter().skip(11).take(2).sum();
        TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    fn cores(&self) -> u32 {
        std::thread::available_parallelism().map_or(1, NonZeroUsize::get).try_into().unwrap_or(u32::MAX)
    }

    fn pool(&self) -> Pool {
        let state = self.store.pool_state();
        Pool { total: state.connections, active: state.connections.saturating_sub(state.idle), max: state.max }
    }

    fn open_streams(&self) -> u64 {
        self.slots.taken() as u64
    }

    fn ledger_lag(&self) -> Lag {
        let lag = self.ledger.lag(self.clock.wall());
        Lag { rows: lag.rows as u64, age: lag.age }
    }
}
