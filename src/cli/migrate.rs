//! `migrate`: brings the database's schema up to date.

use serde_json::json;

use super::{Desk, Failed, Output};

pub(super) async fn run(desk: &Desk) -> Result<Output, Failed> {
    let applied = desk.store.migrate().await?;
    let text = if applied.is_empty() { "nothing to do".to_owned() } else { applied.join("\n") };
    Ok(Output::new(json!({ "applied": applied }), text))
}
