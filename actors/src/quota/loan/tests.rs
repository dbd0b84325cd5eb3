//! An exhaustive model of journal and lease: some instances share one account's limit, and whatever can go wrong does,
//! in every order.
//!
//! Breadth first through all states that can be reached within [`Bounds`]: requests, exchanges, recalls, flushes,
//! answers that are lost, commits that come late, crashes, recoveries, time. What is tried is the real arithmetic
//! ([`Held`](super::Held) and [`Account`](crate::quota::Account)); the store, the journal and what actors do between them are small copies of
//! what `src/store`, `ledger/flush.rs` and `lending.rs` do, each named where it is copied.
//!
//! | invariant | in every state |
//! | --- | --- |
//! | I1 | `used + Σ leased` of the store is at most the limit |
//! | I2 | what the store has lent an instance is what its memory knows of: free, running, settled and not applied, under way; never less |
//! | I3 | what is charged, with what will be once the journals are applied, is at most the limit |
//! | I4 | an end that the client was told of is in a journal or applied; no posting is applied twice |
//! | I5 | where nothing is under way: a row for each admitted request, a charge for each end; and nobody is refused before used and reserved have reached the limit |
//! | I6 | no instance takes the store to be ahead of its journals |
//!
//! What counts as reserved for I5, beside what runs: what is on its way back to the store, what was lent in an exchange
//! whose answer was lost, and for the 2 s that a recall counts what was lent to an instance that has died since, or whose return was refused.
//! After an exchange that was refused when an answer to it was lost, memory may know of less than is leased, until
//! nothing runs; and by what an operator writes off of a living process, and what that is lent until it learns of it, the
//! limit may be passed (`ledger write-off` refuses one whose heartbeat is younger than 10 minutes).
//!
//! Not covered: tokens and cost, several windows, limits that change, restored databases, copied data folders, damaged
//! journals. The store lends more at once here than it does in truth (a half of what remains), so that leases of a small
//! limit are worth something. Only requests are limited.
//!
//! [`Mutant`]s show that the model can fail. `HNE_PROOFS=long` selects the large bounds.

mod excess;
mod flushing;
mod journal;
mod lending;
mod search;
mod steps;
mod store;
mod world;

use search::search;
use world::{Bounds, Budget, Mutant};

const NOTHING: Budget = Budget { requests: 3, crashes: 0, lost: 0, recalls: 0, write_offs: 0 };

const BASE: Bounds = Bounds {
    mutant: Mutant::None,
    instances: 2,
    limit: 6,
    parts: 2,
    running: 2,
    waiting: 1,
    budget: NOTHING,
    power: false,
    restless: false,
};

/// More states than that take too much memory.
const MOST_STATES: usize = 20_000_000;

/// Looks at all states, and finds nothing.
fn holds(name: &str, bounds: Bounds) {
    let found = search(&bounds, MOST_STATES);
    let (states, transitions, depth) = (found.states, found.transitions, found.depth);
    println!(
        "{name}: states {states}, transitions {transitions}, depth {depth}, violations {}",
        u8::from(found.violation.is_some())
    );
    assert_eq!(found.violation, None);
    assert!(found.states < MOST_STATES, "{name}: not all states were looked at");
}

#[expect(clippy::disallowed_methods, reason = "it is the tests' own configuration")]
fn is_long() -> bool {
    std::env::var("HNE_PROOFS").as_deref() == Ok("long")
}

/// Returns the bounds of this run.
fn scale(short: Bounds, long: Bounds) -> Bounds {
    if is_long() { long } else { short }
}

#[test]
fn three_crashes() {
    let budget = Budget { requests: 2, crashes: 3, ..NOTHING };
    let long = Budget { requests: 3, lost: 1, ..budget };
    holds("three crashes", scale(Bounds { budget, ..BASE }, Bounds { budget: long, ..BASE }));
}

#[test]
fn lost_answers() {
    let short = Bounds { budget: Budget { lost: 1, ..NOTHING }, ..BASE };
    let long = Bounds { budget: Budget { requests: 4, crashes: 1, lost: 2, ..NOTHING }, ..BASE };
    holds("lost answers", scale(short, long));
}

#[test]
fn recalls() {
    let bounds = Bounds { limit: 2, parts: 1, budget: Budget { recalls: 1, ..NOTHING }, ..BASE };
    let long = Bounds { budget: Budget { requests: 3, crashes: 1, lost: 1, recalls: 2, ..NOTHING }, ..bounds };
    holds("recalls", scale(bounds, long));
}

#[test]
fn recalls_and_a_crash() {
    let bounds =
        Bounds { limit: 2, parts: 1, budget: Budget { requests: 2, crashes: 1, recalls: 1, ..NOTHING }, ..BASE };
    holds(
        "recalls and a crash",
        scale(bounds, Bounds { limit: 3, budget: Budget { requests: 4, ..bounds.budget }, ..bounds }),
    );
}

#[test]
fn restless() {
    let bounds =
        Bounds { limit: 1, restless: true, budget: Budget { requests: 2, recalls: 1, lost: 1, ..NOTHING }, ..BASE };
    holds("restless", scale(bounds, Bounds { limit: 2, budget: Budget { requests: 3, ..bounds.budget }, ..bounds }));
}

#[test]
fn write_off() {
    let bounds =
        Bounds { limit: 2, parts: 1, budget: Budget { requests: 2, crashes: 1, write_offs: 1, ..NOTHING }, ..BASE };
    holds("write-off", scale(bounds, Bounds { budget: Budget { requests: 3, ..bounds.budget }, ..bounds }));
}

#[test]
fn power_failure() {
    let bounds = Bounds { limit: 2, parts: 1, power: true, budget: Budget { crashes: 1, ..NOTHING }, ..BASE };
    holds(
        "power failure",
        scale(bounds, Bounds { budget: Budget { requests: 4, lost: 1, ..bounds.budget }, ..bounds }),
    );
}

#[test]
fn three_instances() {
    let bounds = Bounds {
        instances: 3,
        limit: 2,
        parts: 1,
        budget: Budget { requests: 2, crashes: 1, recalls: 1, ..NOTHING },
        ..BASE
    };
    holds("three instances", scale(bounds, Bounds { budget: Budget { requests: 3, ..bounds.budget }, ..bounds }));
}

/// Finds that something doesn't hold, by the shortest way.
fn caught(mutant: Mutant) -> String {
    let budget = Budget { crashes: 1, lost: 1, recalls: 1, ..NOTHING };
    let found = search(&Bounds { mutant, limit: 2, parts: 1, restless: true, budget, ..BASE }, 1_000_000);
    let (why, way) = found.violation.expect("the mutant is not caught");
    println!("mutant {mutant:?}: caught after {} states, in {} steps: {why}: {way:?}", found.states, way.len());
    why
}

#[test]
fn a_cursor_apart_is_caught() {
    assert!(caught(Mutant::CursorApart).contains("applied twice"));
}

#[test]
fn an_unconditional_cursor_is_caught() {
    assert!(caught(Mutant::CursorUnconditional).starts_with("I4"));
}

#[test]
fn a_settlement_after_the_end_is_caught() {
    assert!(caught(Mutant::SettleAfterDone).starts_with("I4"));
}

#[test]
fn a_lease_that_is_returned_before_it_is_debited_is_caught() {
    let why = caught(Mutant::LeaseBeforeDebit);
    assert!(why.starts_with("I1") || why.starts_with("I2"), "{why}");
}
