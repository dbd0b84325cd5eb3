//! What is promised about money, proved from outside: the real binary is killed, starved and cut off under load, and
//! afterwards its books are compared with those of its clients and of the provider.
//!
//! | proof | what is done | what must hold |
//! | --- | --- | --- |
//! | `crash` | `kill -9` at random moments | nothing that was finished is lost, nothing is counted twice |
//! | `crash_store` | the same while commits are cut off; an old copy of the database comes back | the same |
//! | `shared_limit` | three instances, one limit, one of them dies | exactly the limit, never more, and nobody is refused before |
//! | `outage` | the database or Redis freezes, dies, forgets | no request fails, deciding stays quick, memory stays bounded |
//! | `full_disk` | the journal's disk is full | running streams are charged, new ones refused, all goes on afterwards |
//! | `mutants` | the binary is built with a mistake | the proof of crashes finds it |
//! | `midnight` | the store's day changes under load | each request in the day in which it began |
//!
//! Each prints its figures. `HNE_PROOFS=long` selects the long counts; `HNE_PROOFS_SEED` repeats a run's random choices.

mod books;
mod crash;
mod crash_store;
mod full_disk;
mod instance;
mod load;
mod midnight;
mod mutants;
mod outage;
mod shared_limit;
mod traffic;

use std::{
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use hne_load::mock::{MockProvider, Options};

/// Returns a variable of the environment that the tests run in.
#[expect(clippy::disallowed_methods, reason = "it is the tests' own configuration")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Returns the count of this run: the short one, unless the long proofs are asked for.
fn scale<T>(short: T, long: T) -> T {
    if variable("HNE_PROOFS").as_deref() == Some("long") { long } else { short }
}

/// Starts a provider whose books have room for a long proof.
fn provider() -> MockProvider {
    MockProvider::start(Options { max_entries: 5_000_000, keep_body: 0, ..Options::default() }).unwrap()
}

/// The machine, as far as the proofs are concerned.
static MACHINE: RwLock<()> = RwLock::new(());

/// Keeps a proof that takes all the processors there are from running beside one that measures.
fn machine_shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no such proof runs, and keeps them waiting.
fn machine_alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Lets time pass, where it is time itself that the proof is about.
fn pass(time: Duration) {
    hne_load::block_on(async { tokio::time::sleep(time).await }).unwrap();
}

/// Random choices that can be repeated: Steele, Lea and Flood's SplitMix64.
struct Chance(u64);

impl Chance {
    /// Begins with the seed of the environment, else with a new one; prints it.
    fn new(proof: &str) -> Self {
        let given = variable("HNE_PROOFS_SEED").map(|seed| seed.parse().unwrap());
        let seed = given.unwrap_or_else(rand::random);
        println!("{proof}: HNE_PROOFS_SEED={seed}");
        Self(seed)
    }

    /// Returns a number of `low..=high`.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + (mixed ^ (mixed >> 31)) % (high - low + 1)
    }

    /// Returns a time of `low..=high` milliseconds.
    fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }
}
