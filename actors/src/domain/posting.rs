//! Postings: immutable facts of usage. Totals are projections of them.

use uuid::Uuid;

use super::{Amounts, ClassId, ModelKey, Portion, Timestamp, UserKey, Window, WindowKind};

/// What usage is counted for, in each window: a user and a class of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountKey {
    /// The user.
    pub user: UserKey,
    /// The class.
    pub class: ClassId,
}

/// How an admitted request ended, which decides what is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// `[DONE]` or a `finish_reason` was seen.
    Completed,
    /// The client left first.
    ClientGone,
    /// The provider failed.
    ProviderError,
    /// The provider was silent, or busy, for too long.
    Deadline,
    /// Tokens or cost were used up in mid-stream.
    CutOff,
    /// The drain's grace was over.
    Shutdown,
    /// The service itself died.
    Interrupted,
    /// An operator corrected the books.
    Adjusted,
}

impl Outcome {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 8] = [
        Self::Completed,
        Self::ClientGone,
        Self::ProviderError,
        Self::Deadline,
        Self::CutOff,
        Self::Shutdown,
        Self::Interrupted,
        Self::Adjusted,
    ];

    /// Returns the code that the store and the journal keep: 0 to 7.
    #[must_use]
    pub fn code(self) -> i16 {
        self as i16
    }

    /// Returns the outcome of that code.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.code() == code)
    }

    /// Returns the name, as rows, metrics and logs spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientGone => "client_gone",
            Self::ProviderError => "provider_error",
            Self::Deadline => "deadline",
            Self::CutOff => "cut_off",
            Self::Shutdown => "shutdown",
            Self::Interrupted => "interrupted",
            Self::Adjusted => "adjusted",
        }
    }
}

/// One immutable fact of usage: a row in the store, and what totals are the sums of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posting {
    /// Its own id, a `UUIDv7`; never the client's.
    pub id: Uuid,
    /// Who used.
    pub user: UserKey,
    /// In which class: the class of the model that answered.
    pub class: ClassId,
    /// Which model answered.
    pub model: ModelKey,
    /// When its reservation opened, by the store's clock: this decides the windows in which it counts.
    pub opened_at: Timestamp,
    /// When it was settled.
    pub settled_at: Timestamp,
    /// How the request ended.
    pub outcome: Outcome,
    /// Whether the tokens are our estimate instead of the provider's figures.
    pub estimated: bool,
    /// What is charged.
    pub amounts: Amounts,
    /// The kind of window whose limit it was admitted under.
    pub window: WindowKind,
    /// What it uses up of its instance's lease in that window: never more than its reservation took from it.
    pub leased: Portion,
}

impl Posting {
    /// Returns the account that it counts for.
    #[must_use]
    pub fn account(&self) -> AccountKey {
        AccountKey { user: self.user, class: self.class }
    }

    /// Returns the window under whose limit it was admitted.
    #[must_use]
    pub fn admitted_in(&self) -> Window {
        self.window.at(self.opened_at)
    }

    /// Returns the windows in which it counts: the day's and the month's.
    #[must_use]
    pub fn windows(&self) -> [Window; 2] {
        WindowKind::ALL.map(|kind| kind.at(self.opened_at))
    }
}
