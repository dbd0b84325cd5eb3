//! `ledger`: proves, shows and corrects the books.

mod adjust;
mod inspect;
mod upkeep;

use actors::domain::Amounts;
use clap::Subcommand;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Desk, Failed, Output, table};
use crate::store::Drift;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Recomputes every total from the posting rows and the checkpoints; exits 1 if one is wrong.
    Verify,
    /// Shows the instances, their journals and what they have leased.
    Inspect,
    /// Gives up an instance that will not come back: frees what it has leased.
    WriteOff {
        /// Its id, as `ledger inspect` shows it.
        instance: Uuid,
    },
    /// Corrects what a user has used of a class; negative figures give quota back.
    Adjust(adjust::Adjust),
    /// Replaces old posting rows by their sums, and drops what is of no use any more.
    Prune {
        /// Those rows go whose requests began, or whose use ended, before this day, UTC.
        #[arg(long, value_name = "YYYY-MM-DD", value_parser = upkeep::midnight)]
        before: actors::domain::Timestamp,
    },
}

pub(super) async fn run(desk: &Desk, command: Command) -> Result<Output, Failed> {
    match command {
        Command::Verify => verify(desk).await,
        Command::Inspect => inspect::run(desk).await,
        Command::WriteOff { instance } => upkeep::write_off(desk, instance).await,
        Command::Adjust(adjust) => adjust::run(desk, adjust).await,
        Command::Prune { before } => upkeep::prune(desk, before).await,
    }
}

fn figures(amounts: &Amounts) -> Value {
    json!({
        "requests": amounts.requests, "prompt_tokens": amounts.prompt_tokens,
        "completion_tokens": amounts.completion_tokens, "cost_nanodollars": amounts.cost,
    })
}

/// As JSON `{"accounts", "postings", "checkpoints", "drift", "drifting": [{"user", "class", "window", "start",
/// "difference"}]}`.
async fn verify(desk: &Desk) -> Result<Output, Failed> {
    let found = desk.store.verify_ledger().await?;
    let shown = |drift: &Drift| {
        json!({
            "user": drift.user, "class": drift.class, "window": drift.window,
            "start": drift.start.to_rfc3339(), "difference": figures(&drift.difference),
        })
    };
    let drifting: Vec<_> = found.drifting.iter().map(shown).collect();
    let json = json!({
        "accounts": found.accounts, "postings": found.postings, "checkpoints": found.checkpoints,
        "drift": found.drift, "drifting": drifting,
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
