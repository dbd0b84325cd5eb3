//! Leases: the parts of limits that are lent to instances.
//!
//! Invariants:
//! - Of each ceiling, `used + Σ leased` never comes to exceed it by an exchange. Whoever changes a lease holds the lock
//!   of the total of the same account and window, taken by a statement of its own before the one that adds up: under
//!   `READ COMMITTED` only the next statement sees what the one before had to wait for.
//! - An exchange is done once, however often it is asked: the lease keeps the id of the last one and what that lent.
//! - An account without limits has no lease. Asking for its counts locks nothing and writes nothing.

mod postgres;
mod sqlite;

use std::collections::{BTreeMap, BTreeSet};

use actors::{
    domain::{AccountKey, Amounts, ClassId, Limits, Nanodollars, Portion, Posting, Timestamp, UserKey},
    ports::{LeaseAnswer, LeaseAsk, LeaseKey, Recall},
};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Integer, SmallInt, Text},
};
use uuid::Uuid;

use super::{
    fault::Fault,
    ledger::{TotalKey, total_key},
    link::Link,
    plans::window_kind,
};

/// An instance counts as live this long after its last heartbeat: grants are shared out among those.
const LIVE_MICROS: i64 = 30 * 1_000_000;

/// Above this a limit is as good as this one.
const MOST: i64 = i64::MAX / 2;

/// What postings used up of leases.
type Spent = BTreeMap<TotalKey, Portion>;

/// Says whether an ask can change a lease. One that can't is answered by reading.
pub(super) fn moves(ask: &LeaseAsk) -> bool {
    ask.limits != Limits::default() || ask.give_back != Portion::ZERO
}

/// Takes back and lends, then says how things stand, in the order asked.
pub(super) async fn exchange(link: &mut Link, instance: Uuid, asks: &[LeaseAsk]) -> Result<Vec<LeaseAnswer>, Fault> {
    let moving: Vec<LeaseAsk> = asks.iter().filter(|ask| moves(ask)).map(sound).collect();
    let reading = asks.iter().filter(|ask| !moves(ask)).map(|ask| (ask.key, ask.exchange));
    let mut moved = lend(link, instance, &moving).await?.into_iter();
    let mut read = standing(link, instance, reading).await?.into_iter();
    let answers = asks.iter().map_while(|ask| if moves(ask) { moved.next() } else { read.next() });
    Ok(answers.collect())
}

async fn lend(link: &mut Link, instance: Uuid, asks: &[LeaseAsk]) -> Result<Vec<LeaseAnswer>, Fault> {
    if asks.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<TotalKey> = asks.iter().map(|ask| key(&ask.key)).collect();
    if keys.iter().collect::<BTreeSet<_>>().len() < keys.len() {
        return Err(Fault::Refused("a lease is asked for twice in one exchange".into()));
    }
    lock_totals(link, &keys).await?;
    let id = instance.to_string();
    match link {
        Link::Postgres(link) => {
            let rows = postgres::exchange(link, &id, asks).await?;
            Ok(rows.into_iter().map(LeaseAnswer::from).collect())
        }
        Link::Sqlite(sqlite) => {
            sqlite::exchange(sqlite, &id, asks).await?;
            standing(link, instance, asks.iter().map(|ask| (ask.key, ask.exchange))).await
        }
    }
}

/// Without negative figures: a return of less than nothing would be a loan. And with limits that leave room for sums.
fn sound(ask: &LeaseAsk) -> LeaseAsk {
    let positive = |portion: Portion| portion.zip(Portion::ZERO, i64::max);
    let Limits { requests, tokens, cost } = ask.limits;
    let limits = Limits {
        requests: requests.map(|limit| limit.min(MOST)),
        tokens: tokens.map(|limit| limit.min(MOST)),
        cost: cost.map(|limit| limit.min(Nanodollars(MOST))),
    };
    LeaseAsk { limits, give_back: positive(ask.give_back), need: positive(ask.need), most: positive(ask.most), ..*ask }
}

/// Locks totals in the order of their keys; those that aren't there are made.
pub(super) async fn lock_totals(link: &mut Link, keys: &[TotalKey]) -> Result<(), Fault> {
    match link {
        Link::Postgres(link) => postgres::lock_totals(link, keys).await?,
        Link::Sqlite(link) => sqlite::lock_totals(link, keys).await?,
    };
    Ok(())
}

/// Says what was used and who has leased what, in the order asked. One statement.
pub(super) async fn standing(
    link: &mut Link,
    instance: Uuid,
    asked: impl Iterator<Item = (LeaseKey, Uuid)>,
) -> Result<Vec<LeaseAnswer>, Fault> {
    let (keys, exchanges): (Vec<_>, Vec<_>) =
        asked.map(|(lease, exchange)| (key(&lease), exchange.to_string())).unzip();
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let instance = instance.to_string();
    let rows = match link {
        Link::Postgres(link) => postgres::standing(link, &instance, &keys, exchanges).await?,
        Link::Sqlite(link) => sqlite::standing(link, &instance, &keys, exchanges).await?,
    };
    Ok(rows.into_iter().map(LeaseAnswer::from).collect())
}

/// Takes out of an instance's leases what postings have used of them. The totals are locked already.
pub(super) async fn spend(link: &mut Link, instance: Uuid, postings: &[Posting]) -> Result<(), Fault> {
    let mut spent = Spent::new();
    for posting in postings.iter().filter(|posting| posting.leased != Portion::ZERO) {
        *spent.entry(total_key(posting.account(), posting.admitted_in())).or_default() += posting.leased;
    }
    if spent.is_empty() {
        return Ok(());
    }
    let instance = instance.to_string();
    match link {
        Link::Postgres(link) => postgres::spend(link, &instance, &spent).await?,
        Link::Sqlite(link) => sqlite::spend(link, &instance, &spent).await?,
    };
    Ok(())
}

/// Finds what others have leased of these. Locks nothing.
pub(super) async fn holders(link: &mut Link, instance: Uuid, leases: &[LeaseKey]) -> Result<Vec<Recall>, Fault> {
    let keys: BTreeSet<TotalKey> = leases.iter().map(key).collect();
    let keys: Vec<TotalKey> = keys.into_iter().collect();
    let instance = instance.to_string();
    let rows = match link {
        Link::Postgres(link) => postgres::holders(link, &instance, &keys).await?,
        Link::Sqlite(link) => sqlite::holders(link, &instance, &keys).await?,
    };
    rows.into_iter().map(Recall::try_from).collect()
}

fn key(lease: &LeaseKey) -> TotalKey {
    total_key(lease.account, lease.window)
}

/// Reads a key as the tables have it.
pub(super) fn lease_key((user, class, kind, start): TotalKey) -> Result<LeaseKey, Fault> {
    let account = AccountKey { user: UserKey(user), class: ClassId(class) };
    Ok(LeaseKey { account, window: window_kind(kind)?.at(Timestamp::from_seconds(start)) })
}

/// Who has something leased.
#[derive(QueryableByName)]
struct HolderRow {
    #[diesel(sql_type = Text)]
    instance: String,
    #[diesel(sql_type = BigInt)]
    user_id: i64,
    #[diesel(sql_type = Integer)]
    class_id: i32,
    #[diesel(sql_type = SmallInt)]
    window_kind: i16,
    #[diesel(sql_type = BigInt)]
    window_start: i64,
}

impl TryFrom<HolderRow> for Recall {
    type Error = Fault;
    fn try_from(row: HolderRow) -> Result<Self, Fault> {
        let instance = row.instance.parse();
        Ok(Self {
            instance: instance.map_err(|_unreadable| Fault::Refused(format!("{} is no instance", row.instance)))?,
            key: lease_key((row.user_id, row.class_id, row.window_kind, row.window_start))?,
        })
    }
}

/// How a lease stands.
#[derive(QueryableByName)]
struct StandingRow {
    #[diesel(sql_type = BigInt)]
    requests: i64,
    #[diesel(sql_type = BigInt)]
    prompt_tokens: i64,
    #[diesel(sql_type = BigInt)]
    completion_tokens: i64,
    #[diesel(sql_type = BigInt)]
    cost_nanodollars: i64,
    #[diesel(sql_type = BigInt)]
    granted_requests: i64,
    #[diesel(sql_type = BigInt)]
    granted_tokens: i64,
    #[diesel(sql_type = BigInt)]
    granted_cost: i64,
    #[diesel(sql_type = BigInt)]
    leased_requests: i64,
    #[diesel(sql_type = BigInt)]
    leased_tokens: i64,
    #[diesel(sql_type = BigInt)]
    leased_cost: i64,
    #[diesel(sql_type = BigInt)]
    other_requests: i64,
    #[diesel(sql_type = BigInt)]
    other_tokens: i64,
    #[diesel(sql_type = BigInt)]
    other_cost: i64,
    #[diesel(sql_type = BigInt)]
    obeyed: i64,
}

impl From<StandingRow> for LeaseAnswer {
    fn from(row: StandingRow) -> Self {
        let portion = |requests, tokens, cost| Portion { requests, tokens, cost: Nanodollars(cost) };
        Self {
            used: Amounts {
                requests: row.requests,
                prompt_tokens: row.prompt_tokens,
                completion_tokens: row.completion_tokens,
                cost: Nanodollars(row.cost_nanodollars),
            },
            granted: portion(row.granted_requests, row.granted_tokens, row.granted_cost),
            leased: portion(row.leased_requests, row.leased_tokens, row.leased_cost),
            elsewhere: portion(row.other_requests, row.other_tokens, row.other_cost),
            obeyed_elsewhere: row.obeyed,
        }
    }
}
