//! The leases' statements for SQLite: asks go in as one JSON array of arrays.

use actors::ports::LeaseAsk;
use diesel::{
    QueryResult,
    sql_types::{BigInt, Text},
};
use diesel_async::RunQueryDsl;
use serde_json::{Value, json};

use super::{HolderRow, LIVE_MICROS, Spent, StandingRow, key};
use crate::store::{ledger::TotalKey, link::Sqlite, sql::sql};

pub(super) async fn lock_totals(link: &mut Sqlite, keys: &[TotalKey]) -> QueryResult<usize> {
    sql!(include_str!("../sql/sqlite/lock_totals.sql"), Text = json!(keys).to_string()).execute(link).await
}

pub(super) async fn exchange(link: &mut Sqlite, instance: &str, asks: &[LeaseAsk]) -> QueryResult<usize> {
    let row = |ask: &LeaseAsk| {
        let LeaseAsk { limits, give_back, need, most, .. } = ask;
        let (user, class, kind, start) = key(&ask.key);
        let mut row = vec![json!(user), json!(class), json!(kind), json!(start)];
        row.extend([json!(ask.exchange.to_string()), json!(ask.obeyed)]);
        row.extend([json!(limits.requests), json!(limits.tokens), json!(limits.cost)]);
        for portion in [give_back, need, most] {
            row.extend([portion.requests, portion.tokens, portion.cost.0].map(Value::from));
        }
        Value::from(row)
    };
    let asks: Value = asks.iter().map(row).collect();
    let text = include_str!("../sql/sqlite/exchange.sql");
    sql!(text, Text = asks.to_string(), BigInt = LIVE_MICROS, Text = instance).execute(link).await
}

pub(super) async fn standing(
    link: &mut Sqlite,
    instance: &str,
    keys: &[TotalKey],
    exchanges: Vec<String>,
) -> QueryResult<Vec<StandingRow>> {
    let row =
        |(&(user, class, kind, start), exchange): (&TotalKey, String)| json!([user, class, kind, start, exchange]);
    let asked: Value = keys.iter().zip(exchanges).map(row).collect();
    sql!(include_str!("../sql/sqlite/standing.sql"), Text = asked.to_string(), Text = instance).load(link).await
}

pub(super) async fn spend(link: &mut Sqlite, instance: &str, spent: &Spent) -> QueryResult<usize> {
    let row = |(key, portion): (&TotalKey, &actors::domain::Portion)| {
        let (user, class, kind, start) = key;
        json!([user, class, kind, start, portion.requests, portion.tokens, portion.cost])
    };
    let spent: Value = spent.iter().map(row).collect();
    sql!(include_str!("../sql/sqlite/spend.sql"), Text = spent.to_string(), Text = instance).execute(link).await
}

pub(super) async fn holders(link: &mut Sqlite, instance: &str, keys: &[TotalKey]) -> QueryResult<Vec<HolderRow>> {
    sql!(include_str!("../sql/sqlite/holders.sql"), Text = json!(keys).to_string(), Text = instance).load(link).await
}
