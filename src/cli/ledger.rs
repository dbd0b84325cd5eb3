//! `ledger`: proves the books.

use clap::Subcommand;
use serde_json::json;

use super::{Desk, Failed, Output, table};
use crate::store::Drift;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Recomputes every total from the posting rows; exits 1 if one is wrong.
    Verify,
}

pub(super) async fn run(desk: &Desk, Command::Verify: Command) -> Result<Output, Failed> {
    let found = desk.store.verify_ledger().await?;
    let shown = |drift: &Drift| {
        json!({
            "user": drift.user, "class": drift.class, "window": drift.window,
            "start": drift.start.to_rfc3339(), "difference": drift.difference,
        })
    };
    let drifting: Vec<_> = found.drifting.iter().map(shown).collect();
    let json = json!({
        "accounts": found.accounts, "postings": found.postings, "drift": found.drift, "drifting": drifting,
    });
    let mut text = format!("{} accounts, {} postings, drift {}", found.accounts, found.postings, found.drift);
    if !found.drifting.is_empty() {
        let row = |drift: &Drift| {
            let difference = format!("{:?}", drift.difference);
            vec![drift.user.clone(), drift.class.clone(), drift.window.as_str().to_owned(), difference]
        };
        let rows: Vec<_> = found.drifting.iter().map(row).collect();
        text = format!("{text}\n{}", table(&["user", "class", "window", "total minus postings"], &rows));
    }
    Ok(Output { json, text, code: u8::from(found.drift != 0) })
}
