//! `ledger inspect`: who serves, how far their journals were applied, and who has leased what.

use std::collections::HashMap;

use actors::{
    domain::Timestamp,
    ledger::{JournalFiles, Owner, inspect as inspect_files},
    ports::JournalCursor,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Desk, Failed, Output, table};
use crate::{
    boot::{BootError, DataFolder},
    store::{InstanceRow, JournalRow, LeaseRow},
};

pub(super) async fn run(desk: &Desk) -> Result<Output, Failed> {
    let json = inspect(desk).await?;
    let text = [
        shown(&json, "instances", &["id", "heartbeat_age_seconds", "enrolled_at", "written_off_at"]),
        shown(&json, "journals", &["id", "instance", "applied", "updated_at", "closed_at"]),
        shown(
            &json,
            "leases",
            &["user", "class", "window", "start", "instance", "requests", "tokens", "cost_nanodollars"],
        ),
        shown(
            &json,
            "files",
            &["journal", "segments", "bytes", "end", "applied", "unapplied_postings", "open_reservations"],
        ),
    ];
    Ok(Output::new(json, text.join("\n\n")))
}

/// Returns what the store and this data folder know: `{"files": [{"journal", "segments", "bytes", "end", "applied",
/// "unapplied_postings", "open_reservations"}], "instances": [{"id", "enrolled_at", "heartbeat_at", "heartbeat_age_seconds",
/// "written_off_at"}], "journals": [{"id", "instance", "applied", "updated_at", "closed_at"}], "leases": [{"instance",
/// "user", "class", "window", "start", "requests", "tokens", "cost_nanodollars", "obeyed"}]}`.
pub(super) async fn inspect(desk: &Desk) -> Result<Value, Failed> {
    let found = desk.store.inspect().await?;
    let time = |micros: i64| Timestamp(micros).to_rfc3339();
    let instance = |row: &InstanceRow| {
        json!({
            "id": row.id, "enrolled_at": time(row.enrolled_at), "heartbeat_at": time(row.heartbeat_at),
            "heartbeat_age_seconds": found.now.since(Timestamp(row.heartbeat_at)).as_secs(),
            "written_off_at": row.written_off_at.map(time),
        })
    };
    let journal = |row: &JournalRow| {
        json!({
            "id": row.id, "instance": row.instance, "applied": row.applied, "updated_at": time(row.updated_at),
            "closed_at": row.closed_at.map(time),
        })
    };
    let lease = |row: &LeaseRow| {
        json!({
            "instance": row.instance, "user": row.user, "class": row.class, "window": row.window.kind(),
            "start": row.window.start().to_rfc3339(), "requests": row.leased.requests, "tokens": row.leased.tokens,
            "cost_nanodollars": row.leased.cost, "obeyed": row.obeyed,
        })
    };
    let cursor = |row: &JournalRow| JournalCursor {
        applied: u64::try_from(row.applied).unwrap_or(0),
        known: true,
        closed: row.closed_at.is_some(),
    };
    let cursors: HashMap<_, _> = found.journals.iter().map(|row| (row.id.clone(), cursor(row))).collect();
    Ok(json!({
        "files": files(desk, &cursors).await?,
        "instances": found.instances.iter().map(instance).collect::<Value>(),
        "journals": found.journals.iter().map(journal).collect::<Value>(),
        "leases": found.leases.iter().map(lease).collect::<Value>(),
    }))
}

/// Looks at the journals in this data folder, also while a server writes them.
async fn files(desk: &Desk, cursors: &HashMap<String, JournalCursor>) -> Result<Value, Failed> {
    let Some(instance) = DataFolder::peek(&desk.config.data_dir) else { return Ok(json!([])) };
    let owner = Owner { store: desk.store.identity().await?, instance };
    let stands = |journal: Uuid| cursors.get(&journal.to_string()).copied().unwrap_or_default();
    let found = inspect_files(&desk.config.data_dir.join("journal"), owner, stands).map_err(BootError::from)?;
    let shown = |files: &JournalFiles| {
        json!({
            "journal": files.journal.to_string(), "segments": files.segments, "bytes": files.bytes, "end": files.end,
            "applied": stands(files.journal).applied, "unapplied_postings": files.unapplied, "open_reservations": files.open,
        })
    };
    Ok(found.iter().map(shown).collect())
}

/// Lays out some fields of a list under its name.
fn shown(json: &Value, list: &str, fields: &[&str]) -> String {
    let cell = |row: &Value, field: &&str| match row.get(field) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let row = |row: &Value| fields.iter().map(|field| cell(row, field)).collect();
    let rows: Vec<Vec<String>> = json.get(list).and_then(Value::as_array).into_iter().flatten().map(row).collect();
    format!("{list}\n{}", table(fields, &rows))
}
