//! Streams, what is charged, quota and the ledger, through the front door.
//!
//! Each caller of a test has a name of its own, so that rows of the books are told apart by it.

mod breaker;
mod charges;
mod early;
mod failures;
mod frames;
mod journal;
mod leaving;
mod ledger;
mod lent;
mod limits;
mod network;
mod odd;
mod repeats;
mod silence;
mod wire;

use hne_load::client::{Client, Frame};
use serde_json::{Value, json};

use crate::harness::app::{PostingRow, TestApp, now, token};

/// A client of a user whom the service adds at the first request, with the default plan.
fn caller(app: &TestApp, user: &str) -> Client {
    app.anonymous().bearer(&token(&json!({"sub": user, "exp": now() + 3_600})))
}

/// What a row of the books says, but for whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Charge {
    outcome: &'static str,
    requests: i64,
    tokens: (i64, i64),
    estimated: bool,
    cost: i64,
}

impl Charge {
    /// A request that is charged with what the provider reported.
    const fn reported(outcome: &'static str, prompt: i64, completion: i64) -> Self {
        Self { outcome, requests: 1, tokens: (prompt, completion), estimated: false, cost: 0 }
    }

    /// A request that is charged by estimate.
    fn estimated(outcome: &'static str, body: &Value, completion: i64) -> Self {
        Self { outcome, requests: 1, tokens: (prompt_of(body), completion), estimated: true, cost: 0 }
    }

    /// A request that nobody answered.
    const fn nothing(outcome: &'static str) -> Self {
        Self { outcome, requests: 0, tokens: (0, 0), estimated: false, cost: 0 }
    }

    const fn costing(self, cost: i64) -> Self {
        Self { cost, ..self }
    }
}

/// The estimate of a prompt: a token for each four bytes of `messages`.
fn prompt_of(body: &Value) -> i64 {
    i64::try_from(body["messages"].to_string().len().div_ceil(4)).unwrap()
}

/// The charges of one user.
fn charges(rows: &[PostingRow], user: &str) -> Vec<Charge> {
    let of_user = rows.iter().filter(|row| row.user == user);
    let charge = |row: &PostingRow| Charge {
        outcome: row.outcome(),
        requests: row.requests,
        tokens: (row.prompt_tokens, row.completion_tokens),
        estimated: row.estimated == 1,
        cost: row.cost_nanodollars,
    };
    of_user.map(charge).collect()
}

/// The text of a stream.
fn text(frames: &[Frame]) -> String {
    frames.iter().filter_map(Frame::content).collect()
}

/// The code of the error that ends a stream; there must be one, and nothing like it before.
fn last_error(frames: &[Frame]) -> String {
    let errors: Vec<_> = frames.iter().filter_map(Frame::error).collect();
    assert_eq!(errors.len(), 1, "one error: {frames:?}");
    assert!(frames.last().unwrap().error().is_some(), "nothing follows an error: {frames:?}");
    let code = &errors.first().unwrap()["code"];
    code.as_str().map_or_else(|| code.to_string(), str::to_owned)
}
