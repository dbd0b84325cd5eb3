//! The books' statements for PostgreSQL: rows go in as arrays, one for each column.

use std::collections::BTreeMap;

use actors::domain::{Amounts, Posting};
use diesel::{
    QueryResult,
    sql_types::{self, Array, BigInt, Bool, Integer, SmallInt, Text},
};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::{CursorRow, MovedRow, StoredMove, TotalKey};
use crate::store::{column::Column, link::Postgres, sql::sql};

pub(super) async fn move_cursors(
    link: &mut Postgres,
    instance: Uuid,
    moves: &[StoredMove],
) -> QueryResult<Vec<MovedRow>> {
    let journals: Vec<&str> = moves.iter().map(|(journal, ..)| journal.as_str()).collect();
    let (from, to): (Vec<i64>, Vec<i64>) = moves.iter().map(|(_, from, to, _)| (from, to)).unzip();
    let closes: Vec<bool> = moves.iter().map(|(.., closes)| *closes).collect();
    sql!(
        include_str!("../sql/postgres/move_cursors.sql"),
        Array<Text> = journals,
        Array<BigInt> = from,
        Array<BigInt> = to,
        Array<Bool> = closes,
        Text = instance.to_string(),
    )
    .load(link)
    .await
}

pub(super) async fn add_postings(link: &mut Postgres, postings: &[Posting]) -> QueryResult<usize> {
    let column = |figure: fn(&Posting) -> i64| Column::of(postings.iter().map(figure));
    sql!(
        include_str!("../sql/postgres/add_postings.sql"),
        Array<sql_types::Uuid> = Column::of(postings.iter().map(|posting| posting.id)),
        Array<BigInt> = column(|posting| posting.user.0),
        Array<Integer> = Column::of(postings.iter().map(|posting| posting.class.0)),
        Array<BigInt> = column(|posting| posting.model.0),
        Array<BigInt> = column(|posting| posting.opened_at.0),
        Array<BigInt> = column(|posting| posting.settled_at.0),
        Array<SmallInt> = Column::of(postings.iter().map(|posting| posting.outcome.code())),
        Array<Bool> = Column::of(postings.iter().map(|posting| posting.estimated)),
        Array<BigInt> = column(|posting| posting.amounts.requests),
        Array<BigInt> = column(|posting| posting.amounts.prompt_tokens),
        Array<BigInt> = column(|posting| posting.amounts.completion_tokens),
        Array<BigInt> = column(|posting| posting.amounts.cost.0),
    )
    .execute(link)
    .await
}

pub(super) async fn add_totals(link: &mut Postgres, totals: &BTreeMap<TotalKey, Amounts>) -> QueryResult<usize> {
    let column = |figure: fn(&Amounts) -> i64| Column::of(totals.values().map(figure));
    sql!(
        include_str!("../sql/postgres/add_totals.sql"),
        Array<BigInt> = Column::of(totals.keys().map(|(user, ..)| *user)),
        Array<Integer> = Column::of(totals.keys().map(|(_, class, ..)| *class)),
        Array<SmallInt> = Column::of(totals.keys().map(|(_, _, kind, _)| *kind)),
        Array<BigInt> = Column::of(totals.keys().map(|(.., start)| *start)),
        Array<BigInt> = column(|amounts| amounts.requests),
        Array<BigInt> = column(|amounts| amounts.prompt_tokens),
        Array<BigInt> = column(|amounts| amounts.completion_tokens),
        Array<BigInt> = column(|amounts| amounts.cost.0),
    )
    .execute(link)
    .await
}

pub(super) async fn cursors(link: &mut Postgres, journals: &[String]) -> QueryResult<Vec<CursorRow>> {
    sql!(include_str!("../sql/postgres/cursors.sql"), Array<Text> = journals).load(link).await
}

/// One array for each column of a key.
pub(in crate::store) type KeyColumns = (Vec<i64>, Vec<i32>, Vec<i16>, Vec<i64>);

/// Takes keys apart.
pub(in crate::store) fn columns<'a>(keys: impl Iterator<Item = &'a TotalKey>) -> KeyColumns {
    let mut columns = KeyColumns::default();
    for (user, class, kind, start) in keys.copied() {
        columns.0.push(user);
        columns.1.push(class);
        columns.2.push(kind);
        columns.3.push(start);
    }
    columns
}
