//! Mistakes that can be made on purpose, to show that the proofs would find them, and parts that can be left out, to
//! measure what they cost.
//!
//! They are compiled in with the feature `mutants` only; without it [`is`] is a constant `false`, and nothing of them is
//! left. The variable `HNE_MUTANT` chooses one, by its name in Rust.

/// A mistake, or a part that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The cursor is moved in a transaction of its own, after the one of the rows.
    ///
    /// Rows get fresh ids in this and the next one: else their primary key, a second defence, would refuse them the
    /// second time, and it wouldn't be seen what the cursor alone is good for.
    CursorApart,
    /// A batch is applied wherever the cursor stands, and a batch whose end is unknown is tried again without a look.
    CursorUnconditional,
    /// A request is settled a moment after its client was told of the end.
    SettleAfterDone,
    /// What is returned to the store leaves memory when the store has answered, not before.
    LeaseBeforeDebit,
    /// Left out: who calls is asked once; from then on everybody is taken for that caller.
    NoAuth,
    /// Left out: records aren't written, and so nothing is brought to the store.
    NoJournal,
    /// Left out: neither metrics nor the report are told of requests that are over.
    NoMetrics,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::CursorApart,
        Self::CursorUnconditional,
        Self::SettleAfterDone,
        Self::LeaseBeforeDebit,
        Self::NoAuth,
        Self::NoJournal,
        Self::NoMetrics,
    ];
}

/// Says whether it was chosen.
#[cfg(feature = "mutants")]
#[must_use]
pub fn is(mutant: Mutant) -> bool {
    static CHOSEN: std::sync::LazyLock<Option<Mutant>> = std::sync::LazyLock::new(chosen);
    *CHOSEN == Some(mutant)
}

#[cfg(feature = "mutants")]
#[expect(clippy::disallowed_methods, reason = "no configuration has a key for mistakes")]
fn chosen() -> Option<Mutant> {
    let name = std::env::var("HNE_MUTANT").ok()?;
    Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name)
}

/// Says whether it was chosen: never.
#[cfg(not(feature = "mutants"))]
#[must_use]
pub const fn is(_: Mutant) -> bool {
    false
}
