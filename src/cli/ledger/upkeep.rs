//! `ledger write-off` and `ledger prune`: what an operator does now and then.

use std::os::unix::fs::MetadataExt;

use actors::domain::Timestamp;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{Desk, Failed, Output};
use crate::store::Pruned;

/// As JSON `{"instance", "at", "operator", "leases", "freed": {"requests", "tokens", "cost_nanodollars"}}`.
pub(super) async fn write_off(desk: &Desk, instance: Uuid) -> Result<Output, Failed> {
    let operator = operator();
    let done = desk.store.write_off(instance, operator.clone()).await?;
    let freed = done.freed;
    let json = json!({
        "instance": instance.to_string(), "at": done.at.to_rfc3339(), "operator": operator, "leases": done.leases,
        "freed": {"requests": freed.requests, "tokens": freed.tokens, "cost_nanodollars": freed.cost},
    });
    let text = format!(
        "Instance {instance} is written off. Its {} leases are free: {} requests, {} tokens, {} nanodollars.",
        done.leases, freed.requests, freed.tokens, freed.cost.0
    );
    Ok(Output::new(json, text))
}

/// Returns the name of the user who runs this, or the number where that has no name.
fn operator() -> Option<String> {
    let uid = std::fs::metadata("/proc/self").ok()?.uid().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, id) = (fields.next()?, fields.next()?, fields.next()?);
        (id == uid).then(|| name.to_owned())
    });
    Some(name.unwrap_or(uid))
}

/// Reads a day and returns when it begins, UTC.
pub(super) fn midnight(day: &str) -> Result<Timestamp, String> {
    match OffsetDateTime::parse(&format!("{day}T00:00:00Z"), &Rfc3339) {
        Ok(time) if day.len() == 10 => Ok(Timestamp::from_seconds(time.unix_timestamp())),
        _ => Err("a day, such as 2026-11-23".to_owned()),
    }
}

/// As JSON `{"before", "pruned", "dropped": {"revocations", "journals", "leases", "instances"}}`.
pub(super) async fn prune(desk: &Desk, before: Timestamp) -> Result<Output, Failed> {
    let Pruned { postings, revocations, journals, leases, instances } = desk.store.prune(before).await?;
    let json = json!({
        "before": before.to_rfc3339(), "pruned": postings,
        "dropped": {"revocations": revocations, "journals": journals, "leases": leases, "instances": instances},
    });
    let text = format!(
        "{postings} postings from before {} are now sums.\nDropped, as of no use since: {revocations} revocations of \
         tokens, {journals} empty journals, {leases} leases, {instances} instances.",
        before.to_rfc3339()
    );
    Ok(Output::new(json, text))
}
