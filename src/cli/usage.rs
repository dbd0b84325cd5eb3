//! `usage`: shows what users have used.

use actors::{
    domain::UserId,
    quota::{Account, Dimension, Figure, Lease},
};
use clap::Subcommand;
use serde_json::json;

use super::{Desk, Failed, Output, table};
use crate::{http::class_json, store::ClassUsage};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Shows what a user has used of each class in its current window.
    Show {
        /// The user.
        user: UserId,
    },
}

pub(super) async fn run(desk: &Desk, Command::Show { user }: Command) -> Result<Output, Failed> {
    let usage = desk.store.usage(&user).await?;
    let usage = usage.ok_or_else(|| Failed::usage(format!("There is no user {user}.")))?;
    let class = |usage: &ClassUsage| class_json(&usage.class, &account(usage), &usage.limits);
    let classes: Vec<_> = usage.classes.iter().map(class).collect();
    let rows: Vec<_> = usage.classes.iter().map(row).collect();
    let headings = ["class", "window", "requests", "tokens", "cost (nanodollars)"];
    let text = format!("{user}, plan {}\n{}", usage.plan, table(&headings, &rows));
    Ok(Output::new(json!({"user": user, "plan": usage.plan, "classes": classes}), text))
}

/// What is leased is out of reach for whoever else asks, promised to a request or not.
fn account(usage: &ClassUsage) -> Account {
    let lease = Lease { elsewhere: usage.leased, ..Lease::default() };
    Account { lease, ..Account::new(usage.window, usage.used) }
}

fn row(usage: &ClassUsage) -> Vec<String> {
    let shown = |figure: Figure| match figure.limit {
        Some(limit) => format!("{} of {limit}", figure.used),
        None => figure.used.to_string(),
    };
    let mut row = vec![usage.class.to_string(), usage.window.kind().as_str().to_owned()];
    let account = account(usage);
    let figure = |dimension| shown(account.figure(dimension, &usage.limits));
    row.extend([Dimension::Requests, Dimension::Tokens, Dimension::Cost].map(figure));
    row
}
