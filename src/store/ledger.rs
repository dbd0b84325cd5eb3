//! [`LedgerStore`]: the books.
//!
//! A batch is one transaction: the cursors move, the rows are added, the totals grow, the instance's leases shrink. The
//! cursors go first and only from where the batch starts, so that of two tries of one batch the second moves nothing
//! and writes nothing. Deadlocks are impossible: each statement takes its rows in the order of their keys, and the
//! tables come in the same order in every transaction ([`super`]). The totals, which instances share, and the leases,
//! which need no lock beside theirs, come last and are held the shortest.

mod postgres;
mod sqlite;

use std::{collections::BTreeMap, sync::Arc};

use actors::{
    domain::{AccountKey, Amounts, Posting, Timestamp, Window},
    mutants::{self, Mutant},
    ports::{
        ApplyError, Batch, CursorMove, Heartbeat, JournalCursor, LeaseAnswer, LeaseAsk, LeaseKey, LedgerStore,
        StoreError,
    },
};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Bool, Text},
};
use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::{Store, changes, fault::Fault, instances, leases, link::Link, plans::window_code};

pub(super) use self::postgres::columns;

impl LedgerStore for Store {
    fn apply(&self, batch: Arc<Batch>) -> BoxFuture<'_, Result<(), ApplyError>> {
        Box::pin(async move {
            if mutants::is(Mutant::CursorApart) {
                let rows = Arc::new(Batch { cursors: Vec::new(), ..(*batch).clone() });
                self.write("ledger.apply", async move |link: &mut Link| bring(link, &rows).await).await?;
                let cursors = async move |link: &mut Link| move_cursors(link, batch.instance, &batch.cursors).await;
                return Ok(self.write("ledger.apply", cursors).await?);
            }
            Ok(self.write("ledger.apply", async move |link: &mut Link| apply(link, &batch).await).await?)
        })
    }

    fn cursors<'a>(&'a self, journals: &'a [Uuid]) -> BoxFuture<'a, Result<Vec<JournalCursor>, StoreError>> {
        let journals = journals.to_vec();
        let read = async move |link: &mut Link| cursors(link, &journals).await;
        Box::pin(async move { Ok(self.read("ledger.cursors", read).await?) })
    }

    fn exchange<'a>(
        &'a self,
        instance: Uuid,
        asks: &'a [LeaseAsk],
    ) -> BoxFuture<'a, Result<Vec<LeaseAnswer>, StoreError>> {
        let writes = asks.iter().any(leases::moves);
        let asks = asks.to_vec();
        let exchange = async move |link: &mut Link| leases::exchange(link, instance, &asks).await;
        Box::pin(async move {
            let answers = match writes {
                true => self.write("ledger.exchange", exchange).await?,
                false => self.read("ledger.exchange", exchange).await?,
            };
            Ok(answers)
        })
    }

    fn recall<'a>(&'a self, instance: Uuid, keys: &'a [LeaseKey]) -> BoxFuture<'a, Result<i64, StoreError>> {
        let keys = keys.to_vec();
        let find = async move |link: &mut Link| leases::holders(link, instance, &keys).await;
        Box::pin(async move {
            let holders = self.read("ledger.holders", find).await?;
            if holders.is_empty() {
                return Ok(self.read("ledger.recall", async |link| changes::last(link).await).await?);
            }
            let note = async move |link: &mut Link| changes::note_recalls(link, &holders).await;
            Ok(self.write("ledger.recall", note).await?)
        })
    }

    fn enroll(&self, instance: Uuid, process: Uuid) -> BoxFuture<'_, Result<Timestamp, StoreError>> {
        let enroll = async move |link: &mut Link| instances::enroll(link, instance, process).await;
        Box::pin(async move { Ok(self.write("ledger.enroll", enroll).await?) })
    }

    fn heartbeat(&self, instance: Uuid, process: Uuid) -> BoxFuture<'_, Result<Heartbeat, StoreError>> {
        let heartbeat = async move |link: &mut Link| instances::heartbeat(link, instance, process).await;
        Box::pin(async move { Ok(self.write("ledger.heartbeat", heartbeat).await?) })
    }
}

async fn apply(link: &mut Link, batch: &Batch) -> Result<(), Fault> {
    if batch.cursors.is_empty() {
        return Err(Fault::Refused("a batch without a cursor might be applied twice".into()));
    }
    move_cursors(link, batch.instance, &batch.cursors).await?;
    bring(link, batch).await
}

/// Adds a batch's rows, in the transaction in which the cursors have moved.
async fn bring(link: &mut Link, batch: &Batch) -> Result<(), Fault> {
    if batch.postings.is_empty() {
        return Ok(());
    }
    if mutants::is(Mutant::CursorApart) || mutants::is(Mutant::CursorUnconditional) {
        let anew = |posting: &Posting| Posting { id: Uuid::new_v4(), ..posting.clone() };
        add(link, &batch.postings.iter().map(anew).collect::<Vec<_>>()).await?;
    } else {
        add(link, &batch.postings).await?;
    }
    leases::spend(link, batch.instance, &batch.postings).await
}

/// Adds postings to the rows and to the totals.
pub(super) async fn add(link: &mut Link, postings: &[Posting]) -> Result<(), Fault> {
    let totals = sum(postings);
    let (rows, accounts) = match link {
        Link::Postgres(link) => {
            (postgres::add_postings(link, postings).await?, postgres::add_totals(link, &totals).await?)
        }
        Link::Sqlite(link) => (sqlite::add_postings(link, postings).await?, sqlite::add_totals(link, &totals).await?),
    };
    if (rows, accounts) == (postings.len(), totals.len()) {
        Ok(())
    } else {
        Err(Fault::Refused(format!("{rows} of {} postings were taken", postings.len())))
    }
}

/// What one row of the totals is about: user, class, kind of window, its first second.
pub(super) type TotalKey = (i64, i32, i16, i64);

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

/// Writes a key as the tables have it.
pub(super) fn total_key(account: AccountKey, window: Window) -> TotalKey {
    (account.user.0, account.class.0, window_code(window.kind()), window.start().seconds())
}

async fn move_cursors(link: &mut Link, instance: Uuid, moves: &[CursorMove]) -> Result<(), Fault> {
    let stored = moves.iter().map(stored).collect::<Result<Vec<_>, _>>()?;
    let moved = match link {
        Link::Postgres(link) => postgres::move_cursors(link, instance, &stored).await?,
        Link::Sqlite(link) => sqlite::move_cursors(link, instance, &stored).await?,
    };
    let stuck = moves.iter().find(|step| !moved.iter().any(|row| row.id == step.journal.to_string()));
    match stuck {
        None => Ok(()),
        Some(_) if mutants::is(Mutant::CursorUnconditional) => Ok(()),
        Some(step) => {
            let found = cursors(link, &[step.journal]).await?.first().map_or(0, |cursor| cursor.applied);
            Err(Fault::CursorElsewhere { journal: step.journal, found })
        }
    }
}

/// A move as the statements take it: journal, from, to, whether it closes.
type StoredMove = (String, i64, i64, bool);

fn stored(step: &CursorMove) -> Result<StoredMove, Fault> {
    match (i64::try_from(step.from), i64::try_from(step.to)) {
        (Ok(from), Ok(to)) if from <= to => Ok((step.journal.to_string(), from, to, step.closes)),
        _ => Err(Fault::Refused(format!("journal {} can't go from {} to {}", step.journal, step.from, step.to))),
    }
}

async fn cursors(link: &mut Link, journals: &[Uuid]) -> Result<Vec<JournalCursor>, Fault> {
    let names: Vec<String> = journals.iter().map(Uuid::to_string).collect();
    let rows = match link {
        Link::Postgres(link) => postgres::cursors(link, &names).await?,
        Link::Sqlite(link) => sqlite::cursors(link, &names).await?,
    };
    let read = |row: CursorRow| match u64::try_from(row.applied) {
        Ok(applied) => Ok(JournalCursor { applied, known: row.known, closed: row.closed }),
        Err(_negative) => Err(Fault::Refused(format!("a cursor stands at {}", row.applied))),
    };
    rows.into_iter().map(read).collect()
}

/// A journal whose cursor was moved.
#[derive(QueryableByName)]
struct MovedRow {
    #[diesel(sql_type = Text)]
    id: String,
}

/// Where a journal's cursor stands.
#[derive(QueryableByName)]
struct CursorRow {
    #[diesel(sql_type = BigInt)]
    applied: i64,
    #[diesel(sql_type = Bool)]
    known: bool,
    #[diesel(sql_type = Bool)]
    closed: bool,
}
