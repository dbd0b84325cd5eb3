//! `key`: makes, revokes and lists API keys.

use std::time::Duration;

use actors::{
    domain::{Timestamp, UserId},
    ports::{CatalogSource, Directory},
};
use clap::Subcommand;
use serde_json::json;

use super::{
    Desk, Failed, Output, lifetime, table,
    user::{plan_of, remark_disabled},
};
use crate::{
    store::{KeyRow, NewKey},
    token::{ApiKey, end_of},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Makes a key for a user and shows it, this once.
    Create {
        /// Whose it is.
        user: UserId,
        /// How long it holds, such as `90d`, at most to the year 9999; for ever if absent.
        #[arg(long, allow_hyphen_values = true, value_parser = lifetime)]
        ttl: Option<Duration>,
    },
    /// Revokes a key; a second later it holds nowhere.
    Revoke {
        /// What `key create` called it: `key_…`.
        id: String,
    },
    /// Lists the keys of a user.
    List {
        /// Whose they are.
        user: UserId,
    },
}

pub(super) async fn run(desk: &Desk, command: Command) -> Result<Output, Failed> {
    match command {
        Command::Create { user, ttl } => {
            let now = desk.store.now().await?;
            let end = ttl.map(|ttl| end_of(ttl, now)).transpose()?;
            let key = ApiKey::generate();
            let id = desk.store.create_key(NewKey { user: user.clone(), hash: key.hash, expires_at: end }).await?;
            if let Some(record) = desk.store.caller(&user).await? {
                remark_disabled(&record, "key", plan_of(&record, &desk.store.catalog().await?.plans));
            }
            let json = json!({"id": id, "key": key.text, "user": user, "expires_at": end.map(Timestamp::to_rfc3339)});
            Ok(Output::new(json, format!("{}\n({id}, for {user}; it is not shown again)", key.text)))
        }
        Command::Revoke { id } => {
            if !desk.store.revoke_key(&id).await? {
                return Err(Failed::usage(format!("There is no key {id} that holds.")));
            }
            Ok(Output::new(json!({"id": id, "revoked": true}), format!("{id} is revoked.")))
        }
        Command::List { user } => list(desk, &user).await,
    }
}

async fn list(desk: &Desk, user: &UserId) -> Result<Output, Failed> {
    let keys = desk.store.keys(user).await?;
    let time = |time: Option<Timestamp>| time.map(Timestamp::to_rfc3339);
    let json = keys.iter().map(|key| {
        json!({
            "id": key.id, "created_at": key.created_at.to_rfc3339(), "expires_at": time(key.expires_at),
            "last_used_at": time(key.last_used_at), "revoked_at": time(key.revoked_at),
        })
    });
    let json = json!({"user": user, "keys": json.collect::<Vec<_>>()});
    let shown = |at: Option<Timestamp>| time(at).unwrap_or_else(|| "-".to_owned());
    let row =
        |key: &KeyRow| vec![key.id.clone(), shown(key.expires_at), shown(key.last_used_at), shown(key.revoked_at)];
    let rows: Vec<_> = keys.iter().map(row).collect();
    Ok(Output::new(json, table(&["key", "expires", "last used", "revoked"], &rows)))
}
