//! The books' statements for SQLite: rows go in as one JSON array of arrays.

use std::collections::BTreeMap;

use actors::domain::{Amounts, Posting};
use diesel::{QueryResult, sql_types::Text};
use diesel_async::RunQueryDsl;
use serde_json::json;
use uuid::Uuid;

use super::{CursorRow, MovedRow, StoredMove, TotalKey};
use crate::store::{link::Sqlite, sql::sql};

pub(super) async fn move_cursors(
    link: &mut Sqlite,
    instance: Uuid,
    moves: &[StoredMove],
) -> QueryResult<Vec<MovedRow>> {
    let (instance, moves) = (instance.to_string(), json!(moves).to_string());
    sql!(include_str!("../sql/sqlite/move_cursors.sql"), Text = instance, Text = moves).load(link).await
}

pub(super) async fn add_postings(link: &mut Sqlite, postings: &[Posting]) -> QueryResult<usize> {
    let row = |posting: &Posting| {
        let Posting { id, user, class, model, opened_at, settled_at, outcome, estimated, amounts, .. } = posting;
        let figures = (amounts.requests, amounts.prompt_tokens, amounts.completion_tokens, amounts.cost.0);
        json!([
            id.to_string(),
            user.0,
            class.0,
            model.0,
            opened_at.0,
            settled_at.0,
            outcome.code(),
            u8::from(*estimated),
            figures.0,
            figures.1,
            figures.2,
            figures.3
        ])
    };
    let rows: serde_json::Value = postings.iter().map(row).collect();
    sql!(include_str!("../sql/sqlite/add_postings.sql"), Text = rows.to_string()).execute(link).await
}

pub(super) async fn add_totals(link: &mut Sqlite, totals: &BTreeMap<TotalKey, Amounts>) -> QueryResult<usize> {
    let row = |((user, class, kind, start), amounts): (&TotalKey, &Amounts)| {
        let Amounts { requests, prompt_tokens, completion_tokens, cost } = amounts;
        json!([user, class, kind, start, requests, prompt_tokens, completion_tokens, cost.0])
    };
    let rows: serde_json::Value = totals.iter().map(row).collect();
    sql!(include_str!("../sql/sqlite/add_totals.sql"), Text = rows.to_string()).execute(link).await
}

pub(super) async fn cursors(link: &mut Sqlite, journals: &[String]) -> QueryResult<Vec<CursorRow>> {
    sql!(include_str!("../sql/sqlite/cursors.sql"), Text = json!(journals).to_string()).load(link).await
}
