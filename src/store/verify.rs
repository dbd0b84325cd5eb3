//! The proof of the books: every total recomputed from the posting rows, and from checkpoints where rows were pruned.

use std::time::Duration;

use actors::{
    domain::{Amounts, Nanodollars, Timestamp, WindowKind},
    ports::StoreError,
};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, SmallInt, Text},
};

use super::{
    Store,
    fault::Fault,
    link::{Link, Number},
    plans::window_kind,
    sql::sql,
};

/// The longest that a verification may take, or a pruning; they read every row.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);
/// The most drifting totals that are listed.
const LISTED: i64 = 1000;

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// How many accounts (user and class) have totals.
    pub accounts: i64,
    /// How many posting rows there are.
    pub postings: i64,
    /// How many sums of pruned rows there are: one for each account and window that lost any.
    pub checkpoints: i64,
    /// The sum of all absolute differences; 0 where the books are right.
    pub drift: i64,
    /// The totals that are wrong, at most 1,000 of them.
    pub drifting: Vec<Drift>,
}

/// A total that isn't the sum of its postings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// The user's id.
    pub user: String,
    /// The class's name.
    pub class: String,
    /// The kind of window.
    pub window: WindowKind,
    /// The window's first moment.
    pub start: Timestamp,
    /// Total minus sum.
    pub difference: Amounts,
}

impl Store {
    /// Recomputes every total, of the days and of the months, from the posting rows and the checkpoints, in one
    /// snapshot. It reads all of them; nobody has to wait for it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn verify_ledger(&self) -> Result<Verification, StoreError> {
        let verify = async |link: &mut Link| verify(link).await;
        Ok(self.snapshot("ledger.verify", &self.0.read, Some(LONGEST), verify).await?)
    }
}

async fn verify(link: &mut Link) -> Result<Verification, Fault> {
    link.unlimit().await?;
    let accounts = "SELECT count(*) AS value FROM (SELECT DISTINCT user_id, class_id FROM usage_totals) AS accounts";
    let Number { value: accounts } = link.get(sql!(accounts)).await?;
    let Number { value: postings } = link.get(sql!("SELECT count(*) AS value FROM postings")).await?;
    let checkpoints = "SELECT count(*) AS value FROM usage_checkpoints";
    let Number { value: checkpoints } = link.get(sql!(checkpoints)).await?;
    let rows: Vec<DriftRow> = link.load(sql!(include_str!("sql/drift.sql"), BigInt = LISTED)).await?;
    let drift = rows.first().map_or(0, |row| row.drift);
    let drifting = rows.into_iter().map(Drift::try_from).collect::<Result<_, _>>()?;
    Ok(Verification { accounts, postings, checkpoints, drift, drifting })
}

#[derive(QueryableByName)]
struct DriftRow {
    #[diesel(sql_type = Text)]
    user: String,
    #[diesel(sql_type = Text)]
    class: String,
    #[diesel(sql_type = SmallInt)]
    window_kind: i16,
    #[diesel(sql_type = BigInt)]
    window_start: i64,
    #[diesel(sql_type = BigInt)]
    requests: i64,
    #[diesel(sql_type = BigInt)]
    prompt_tokens: i64,
    #[diesel(sql_type = BigInt)]
    completion_tokens: i64,
    #[diesel(sql_type = BigInt)]
    cost_nanodollars: i64,
    #[diesel(sql_type = BigInt)]
    drift: i64,
}

impl TryFrom<DriftRow> for Drift {
    type Error = Fault;
    fn try_from(row: DriftRow) -> Result<Self, Fault> {
        Ok(Self {
            user: row.user,
            class: row.class,
            window: window_kind(row.window_kind)?,
            start: Timestamp::from_seconds(row.window_start),
            difference: Amounts {
                requests: row.requests,
                prompt_tokens: row.prompt_tokens,
                completion_tokens: row.completion_tokens,
                cost: Nanodollars(row.cost_nanodollars),
            },
        })
    }
}
