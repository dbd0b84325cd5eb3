//! `ledger inspect`: who serves, how far their journals were applied, and who has leased what.

use actors::domain::Timestamp;
use serde_json::{Value, json};

use super::{Desk, Failed, Output, table};
use crate::store::{InstanceRow, JournalRow, LeaseRow};

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
    ];
    Ok(Output::new(json, text.join("\n\n")))
}

/// Returns what the store knows: `{"instances": [{"id", "enrolled_at", "heartbeat_at", "heartbeat_age_seconds",
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
    Ok(json!({
        "instances": found.instances.iter().map(instance).collect::<Value>(),
        "journals": found.journals.iter().map(journal).collect::<Value>(),
        "leases": found.leases.iter().map(lease).collect::<Value>(),
    }))
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
