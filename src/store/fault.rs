//! Why a call failed, while it is still inside the store.

use actors::ports::{ApplyError, StoreError};
use diesel::result::{DatabaseErrorKind, Error as QueryError};
use uuid::Uuid;

/// What goes wrong inside a transaction; all of them roll it back.
#[derive(Debug)]
pub(super) enum Fault {
    /// The database said so.
    Query(QueryError),
    /// No connection, or no answer in time.
    Unavailable(String),
    /// We say so: what is there makes no sense, or what the engine asked for.
    Refused(String),
    /// We say so, in a sentence: what somebody asked for makes no sense.
    Mistaken(String),
    /// We say so, in a sentence: an operator has to see to the database.
    Unfit(String),
    /// Nothing is left to be done, so nothing shall be written: somebody else was first.
    Superfluous,
    /// A journal's cursor isn't where a batch starts.
    CursorElsewhere {
        /// The journal.
        journal: Uuid,
        /// Where it is.
        found: u64,
    },
}

impl Fault {
    /// Says whether the database failed, as against having been asked for something that can't be.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Query(error) => !matches!(error, QueryError::NotFound),
            Self::Unavailable(_) => true,
            Self::Refused(_)
            | Self::Mistaken(_)
            | Self::Unfit(_)
            | Self::Superfluous
            | Self::CursorElsewhere { .. } => false,
        }
    }
}

impl From<QueryError> for Fault {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Query(error) => of_query(&error),
            Fault::Unavailable(why) => Self::Unavailable(why),
            Fault::Refused(why) => Self::Refused(why),
            Fault::Mistaken(why) => Self::Mistaken(why),
            Fault::Unfit(why) => Self::Unfit(why),
            Fault::Superfluous => Self::Refused("nothing is left to be done".into()),
            Fault::CursorElsewhere { journal, found } => {
                Self::Refused(ApplyError::CursorElsewhere { journal, found }.to_string())
            }
        }
    }
}

impl From<Fault> for ApplyError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::CursorElsewhere { journal, found } => Self::CursorElsewhere { journal, found },
            other => Self::Store(other.into()),
        }
    }
}

/// What servers say when it isn't the statement's fault. diesel drops the SQLSTATE, so only the words are left; where
/// they are in another language the error counts as a refusal, and whoever retries does so all the same.
const PASSING: [&str; 10] = [
    "terminating connection",
    "canceling statement",
    "the database system is",
    "too many clients",
    "remaining connection slots",
    "deadlock detected",
    "could not serialize",
    "database is locked",
    "disk",
    "No space left",
];

/// What PostgreSQL says to a role that lacks a right; likewise by its words.
const FORBIDDEN: &str = "permission denied";

/// Says what to do where the words are those of a role that lacks a right.
pub(super) fn forbidden(text: &str) -> Option<StoreError> {
    let sentence = || format!("The database's role lacks a right ({text}): `hasnot-engine doctor` says what to grant.");
    text.contains(FORBIDDEN).then(|| StoreError::Unfit(sentence()))
}

fn of_query(error: &QueryError) -> StoreError {
    let text = error.to_string();
    let passing = match error {
        QueryError::DatabaseError(
            DatabaseErrorKind::UnableToSendCommand
            | DatabaseErrorKind::ClosedConnection
            | DatabaseErrorKind::SerializationFailure
            | DatabaseErrorKind::ReadOnlyTransaction,
            _,
        )
        | QueryError::BrokenTransactionManager
        | QueryError::RollbackErrorOnCommit { .. } => true,
        QueryError::DatabaseError(DatabaseErrorKind::Unknown, _) => PASSING.iter().any(|words| text.contains(words)),
        _ => false,
    };
    match forbidden(&text) {
        _ if passing => StoreError::Unavailable(text),
        Some(forbidden) => forbidden,
        None => StoreError::Refused(text),
    }
}
