//! The leases' statements for PostgreSQL: asks go in as arrays, one for each column.

use actors::ports::LeaseAsk;
use diesel::{
    QueryResult,
    sql_types::{Array, BigInt, Integer, Nullable, SmallInt, Text},
};
use diesel_async::RunQueryDsl;

use super::{HolderRow, LIVE_MICROS, Spent, StandingRow, key};
use crate::store::{
    ledger::{TotalKey, columns},
    link::Postgres,
    sql::sql,
};

pub(super) async fn lock_totals(link: &mut Postgres, keys: &[TotalKey]) -> QueryResult<usize> {
    let (users, classes, kinds, starts) = columns(keys.iter());
    sql!(
        include_str!("../sql/postgres/lock_totals.sql"),
        Array<BigInt> = users,
        Array<Integer> = classes,
        Array<SmallInt> = kinds,
        Array<BigInt> = starts,
    )
    .execute(link)
    .await
}

pub(super) async fn exchange(link: &mut Postgres, instance: &str, asks: &[LeaseAsk]) -> QueryResult<Vec<StandingRow>> {
    let keys: Vec<TotalKey> = asks.iter().map(|ask| key(&ask.key)).collect();
    let (users, classes, kinds, starts) = columns(keys.iter());
    let exchanges: Vec<String> = asks.iter().map(|ask| ask.exchange.to_string()).collect();
    let limit = |figure: fn(&LeaseAsk) -> Option<i64>| asks.iter().map(figure).collect::<Vec<Option<i64>>>();
    let column = |figure: fn(&LeaseAsk) -> i64| asks.iter().map(figure).collect::<Vec<i64>>();
    sql!(
        include_str!("../sql/postgres/exchange.sql"),
        Text = instance,
        Array<BigInt> = users,
        Array<Integer> = classes,
        Array<SmallInt> = kinds,
        Array<BigInt> = starts,
        Array<Text> = exchanges,
        Array<BigInt> = column(|ask| ask.obeyed),
        Array<Nullable<BigInt>> = limit(|ask| ask.limits.requests),
        Array<Nullable<BigInt>> = limit(|ask| ask.limits.tokens),
        Array<Nullable<BigInt>> = limit(|ask| ask.limits.cost.map(|cost| cost.0)),
        Array<BigInt> = column(|ask| ask.give_back.requests),
        Array<BigInt> = column(|ask| ask.give_back.tokens),
        Array<BigInt> = column(|ask| ask.give_back.cost.0),
        Array<BigInt> = column(|ask| ask.need.requests),
        Array<BigInt> = column(|ask| ask.need.tokens),
        Array<BigInt> = column(|ask| ask.need.cost.0),
        Array<BigInt> = column(|ask| ask.most.requests),
        Array<BigInt> = column(|ask| ask.most.tokens),
        Array<BigInt> = column(|ask| ask.most.cost.0),
        BigInt = LIVE_MICROS,
    )
    .load(link)
    .await
}

pub(super) async fn standing(
    link: &mut Postgres,
    instance: &str,
    keys: &[TotalKey],
    exchanges: Vec<String>,
) -> QueryResult<Vec<StandingRow>> {
    let (users, classes, kinds, starts) = columns(keys.iter());
    sql!(
        include_str!("../sql/postgres/standing.sql"),
        Text = instance,
        Array<BigInt> = users,
        Array<Integer> = classes,
        Array<SmallInt> = kinds,
        Array<BigInt> = starts,
        Array<Text> = exchanges,
    )
    .load(link)
    .await
}

pub(super) async fn spend(link: &mut Postgres, instance: &str, spent: &Spent) -> QueryResult<usize> {
    let (users, classes, kinds, starts) = columns(spent.keys());
    let requests: Vec<i64> = spent.values().map(|portion| portion.requests).collect();
    let tokens: Vec<i64> = spent.values().map(|portion| portion.tokens).collect();
    let costs: Vec<i64> = spent.values().map(|portion| portion.cost.0).collect();
    sql!(
        include_str!("../sql/postgres/spend.sql"),
        Text = instance,
        Array<BigInt> = users,
        Array<Integer> = classes,
        Array<SmallInt> = kinds,
        Array<BigInt> = starts,
        Array<BigInt> = requests,
        Array<BigInt> = tokens,
        Array<BigInt> = costs,
    )
    .execute(link)
    .await
}

pub(super) async fn holders(link: &mut Postgres, instance: &str, keys: &[TotalKey]) -> QueryResult<Vec<HolderRow>> {
    let (users, classes, kinds, starts) = columns(keys.iter());
    sql!(
        include_str!("../sql/postgres/holders.sql"),
        Text = instance,
        Array<BigInt> = users,
        Array<Integer> = classes,
        Array<SmallInt> = kinds,
        Array<BigInt> = starts,
    )
    .load(link)
    .await
}
