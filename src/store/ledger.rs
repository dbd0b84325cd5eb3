//! [`LedgerStore`]: the books.
//!
//! A batch is one transaction: the cursors move, the rows are added, the totals grow. The cursors go first and only
//! from where the batch starts, so that of two tries of one batch the second moves nothing and writes nothing.
//! Deadlocks are impossible: each statement takes its rows in the order of their keys, and the tables come in the same
//! order in every transaction. The totals, which instances share, come last and are held the shortest.

mod postgres;
mod sqlite;

use std::{collections::BTreeMap, sync::Arc};

use actors::{
    domain::{AccountKey, Amounts, Nanodollars, Posting, Timestamp, Window},
    ports::{ApplyError, Batch, CursorMove, LedgerStore, StoreError},
};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Text},
};
use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::{Store, fault::Fault, link::Link, plans::window_code};

impl LedgerStore for Store {
    fn apply(&self, batch: Arc<Batch>) -> BoxFuture<'_, Result<(), ApplyError>> {
        let apply = async move |link: &mut Link| apply(link, &batch).await;
        Box::pin(async move { Ok(self.write("ledger.apply", apply).await?) })
    }

    fn cursors<'a>(&'a self, journals: &'a [Uuid]) -> BoxFuture<'a, Result<Vec<u64>, StoreError>> {
        let journals = journals.to_vec();
        let read = async move |link: &mut Link| cursors(link, &journals).await;
        Box::pin(async move { Ok(self.read("ledger.cursors", read).await?) })
    }

    fn totals<'a>(&'a self, accounts: &'a [(AccountKey, Window)]) -> BoxFuture<'a, Result<Vec<Amounts>, StoreError>> {
        let accounts = accounts.to_vec();
        let read = async move |link: &mut Link| totals(link, &accounts).await;
        Box::pin(async move { Ok(self.read("ledger.totals", read).await?) })
    }

    fn now(&self) -> BoxFuture<'_, Result<Timestamp, StoreError>> {
        let read = async |link: &mut Link| Ok(Timestamp(link.now().await?));
        Box::pin(async move { Ok(self.read("now", read).await?) })
    }
}

async fn apply(link: &mut Link, batch: &Batch) -> Result<(), Fault> {
    if batch.cursors.is_empty() {
        return Err(Fault::Refused("a batch without a cursor might be applied twice".into()));
    }
    move_cursors(link, &batch.cursors).await?;
    if batch.postings.is_empty() {
        return Ok(());
    }
    let totals = sum(&batch.postings);
    let (rows, accounts) = match link {
        Link::Postgres(link) => {
            (postgres::add_postings(link, &batch.postings).await?, postgres::add_totals(link, &totals).await?)
        }
        Link::Sqlite(link) => {
            (sqlite::add_postings(link, &batch.postings).await?, sqlite::add_totals(link, &totals).await?)
        }
    };
    if (rows, accounts) == (batch.postings.len(), totals.len()) {
        Ok(())
    } else {
        Err(Fault::Refused(format!("{rows} of {} postings were taken", batch.postings.len())))
    }
}

/// What one row of the totals is about: user, class, kind of window, its first second.
type TotalKey = (i64, i32, i16, i64);

/// Adds the postings up, in the order in which the rows are to be locked.
fn sum(postings: &[Posting]) -> BTreeMap<TotalKey, Amounts> {
    let mut totals = BTreeMap::<TotalKey, Amounts>::new();
    for posting in postings {
        for window in posting.windows() {
            *totals.entry(total_key(posting.account(), window)).or_default() += posting.amounts;
        }
    }
    totals
}

fn total_key(account: AccountKey, window: Window) -> TotalKey {
    (account.user.0, account.class.0, window_code(window.kind()), window.start().seconds())
}

async fn move_cursors(link: &mut Link, moves: &[CursorMove]) -> Result<(), Fault> {
    let stored = moves.iter().map(stored).collect::<Result<Vec<_>, _>>()?;
    let moved = match link {
        Link::Postgres(link) => postgres::move_cursors(link, &stored).await?,
        Link::Sqlite(link) => sqlite::move_cursors(link, &stored).await?,
    };
    let stuck = moves.iter().find(|step| !moved.iter().any(|row| row.id == step.journal.to_string()));
    match stuck {
        None => Ok(()),
        Some(step) => {
            let found = cursors(link, &[step.journal]).await?.first().copied().unwrap_or(0);
            Err(Fault::CursorElsewhere { journal: step.journal, found })
        }
    }
}

/// A move as the statements take it.
fn stored(step: &CursorMove) -> Result<(String, i64, i64), Fault> {
    match (i64::try_from(step.from), i64::try_from(step.to)) {
        (Ok(from), Ok(to)) if from <= to => Ok((step.journal.to_string(), from, to)),
        _ => Err(Fault::Refused(format!("journal {} can't go from {} to {}", step.journal, step.from, step.to))),
    }
}

async fn cursors(link: &mut Link, journals: &[Uuid]) -> Result<Vec<u64>, Fault> {
    let names: Vec<String> = journals.iter().map(Uuid::to_string).collect();
    let rows = match link {
        Link::Postgres(link) => postgres::cursors(link, &names).await?,
        Link::Sqlite(link) => sqlite::cursors(link, &names).await?,
    };
    let read = |row: AppliedRow| {
        u64::try_from(row.applied).map_err(|_negative| Fault::Refused(format!("a cursor stands at {}", row.applied)))
    };
    rows.into_iter().map(read).collect()
}

/// Returns what was used, in the order asked; zero where nothing was.
pub(super) async fn totals(link: &mut Link, accounts: &[(AccountKey, Window)]) -> Result<Vec<Amounts>, Fault> {
    let keys: Vec<TotalKey> = accounts.iter().map(|(account, window)| total_key(*account, *window)).collect();
    let rows = match link {
        Link::Postgres(link) => postgres::totals(link, &keys).await?,
        Link::Sqlite(link) => sqlite::totals(link, &keys).await?,
    };
    Ok(rows.into_iter().map(Amounts::from).collect())
}

/// A journal whose cursor was moved.
#[derive(QueryableByName)]
struct MovedRow {
    #[diesel(sql_type = Text)]
    id: String,
}

/// Where a journal's cursor stands.
#[derive(QueryableByName)]
struct AppliedRow {
    #[diesel(sql_type = BigInt)]
    applied: i64,
}

/// The four figures.
#[derive(QueryableByName)]
pub(super) struct AmountsRow {
    #[diesel(sql_type = BigInt)]
    requests: i64,
    #[diesel(sql_type = BigInt)]
    prompt_tokens: i64,
    #[diesel(sql_type = BigInt)]
    completion_tokens: i64,
    #[diesel(sql_type = BigInt)]
    cost_nanodollars: i64,
}

impl From<AmountsRow> for Amounts {
    fn from(row: AmountsRow) -> Self {
        Self {
            requests: row.requests,
            prompt_tokens: row.prompt_tokens,
            completion_tokens: row.completion_tokens,
            cost: Nanodollars(row.cost_nanodollars),
        }
    }
}
