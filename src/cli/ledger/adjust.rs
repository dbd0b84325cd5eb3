//! `ledger adjust`: a correction, as a posting with a reason.

use actors::domain::{Amounts, Nanodollars, UserId};
use clap::Args;
use serde_json::json;

use super::{Desk, Failed, Output, figures};
use crate::{cli::plan::dollars, store::Correction};

#[derive(Debug, Args)]
pub(in crate::cli) struct Adjust {
    /// The user.
    user: UserId,
    /// The class of models.
    class: String,
    /// Requests to add.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    requests: i64,
    /// Tokens of prompts to add.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    prompt_tokens: i64,
    /// Tokens of completions to add.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    completion_tokens: i64,
    /// Money to add, in US dollars.
    #[arg(long, value_name = "X", default_value = "0", allow_negative_numbers = true, value_parser = signed_dollars)]
    cost_usd: Nanodollars,
    /// Why; it stays with the books.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Reads an amount of dollars with or without a minus.
fn signed_dollars(text: &str) -> Result<Nanodollars, String> {
    match text.strip_prefix('-') {
        Some(amount) => dollars(amount).map(|Nanodollars(nanos)| Nanodollars(-nanos)),
        None => dollars(text),
    }
    .map_err(|_unsigned| "a number of US dollars, such as -0.15".to_owned())
}

/// As JSON `{"posting", "user", "class", "amounts", "at", "reason"}`.
pub(super) async fn run(desk: &Desk, adjust: Adjust) -> Result<Output, Failed> {
    let Adjust { user, class, requests, prompt_tokens, completion_tokens, cost_usd, reason } = adjust;
    let amounts = Amounts { requests, prompt_tokens, completion_tokens, cost: cost_usd };
    let correction = Correction { user: user.clone(), class: class.clone(), amounts, reason: reason.clone() };
    let posting = desk.store.adjust(correction).await?;
    let json = json!({
        "posting": posting.id.to_string(), "user": user, "class": class, "amounts": figures(&amounts),
        "at": posting.opened_at.to_rfc3339(), "reason": reason.trim(),
    });
    Ok(Output::new(json, format!("The books of {user} in {class} are corrected by posting {}.", posting.id)))
}
