//! `token`: issues and revokes tokens.

use std::{sync::Arc, time::Duration};

use actors::{
    domain::{CallerRecord, Role, Timestamp, UserId},
    ports::{CatalogSource, Directory},
};
use clap::Subcommand;
use serde_json::json;

use super::{
    Desk, Failed, Output, complain, lifetime,
    user::{change, plan_of, remark_disabled},
};
use crate::{
    clock::StoreClock,
    config,
    token::{Issued, Issuer, Revocable},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Issues a token for a user, who is added if unknown.
    Issue {
        /// The user.
        #[arg(long)]
        user: UserId,
        /// What the token allows, unless the user may more already.
        #[arg(long, default_value = "user", value_parser = ["user", "admin"])]
        role: String,
        /// The plan of a user who is added; `default` if absent.
        #[arg(long)]
        plan: Option<String>,
        /// How long it holds, at most to the year 9999.
        #[arg(long, default_value = "24h", allow_hyphen_values = true, value_parser = lifetime)]
        ttl: Duration,
    },
    /// Revokes a token until its end; a second later it holds nowhere.
    Revoke {
        /// The token; `Bearer ` may stand before it.
        token: String,
    },
}

pub(super) async fn run(desk: &Desk, command: Command) -> Result<Output, Failed> {
    match command {
        Command::Issue { user, role, plan, ttl } => {
            let (issued, role) = issue(desk, &user, Role::named(&role), plan.as_deref(), ttl).await?;
            let json = json!({
                "token": issued.token, "user": user, "role": role, "expires_at": issued.expires_at.to_rfc3339(),
            });
            Ok(Output::new(json, issued.token))
        }
        Command::Revoke { token } => {
            let end = revoke(desk, &token).await?.to_rfc3339();
            let json = json!({"revoked": true, "expires_at": end});
            Ok(Output::new(json, format!("The token is revoked until its end, {end}.")))
        }
    }
}

/// Revokes a token, unless it has ended already; returns its end.
async fn revoke(desk: &Desk, given: &str) -> Result<Timestamp, Failed> {
    let token = Revocable::read(given).ok_or_else(|| {
        Failed::usage("This is no token with a user and an end (`sub`, `exp`); keys are revoked by `key revoke`.")
    })?;
    let mut config = desk.config.clone();
    // Before the first start there is no secret.
    if config::find_secret(&mut config)? && token.is_signed(&config.auth.jwt)? == Some(false) {
        return Err(Failed::usage("This token isn't signed with the key that is configured here; nothing is revoked."));
    }
    if token.expires_at > desk.store.now().await? {
        desk.store.revoke_token(token.hash(), token.expires_at).await?;
    }
    Ok(token.expires_at)
}

/// Issues a token for a user whom the service knows; returns it with the role that its holder has.
async fn issue(
    desk: &Desk,
    user: &UserId,
    role: Role,
    plan: Option<&str>,
    ttl: Duration,
) -> Result<(Issued, Role), Failed> {
    let mut config = desk.config.clone();
    config::ensure_secret(&mut config)?;
    let issuer = Issuer::new(&config.auth.jwt, Arc::new(StoreClock::new()))?;
    let plans = desk.store.catalog().await?.plans;
    if let Some(name) = plan.filter(|name| !plans.iter().any(|plan| *plan.name == **name)) {
        return Err(Failed::usage(format!("There is no plan `{name}`; `plan list` shows which there are.")));
    }
    let issued = issuer.issue(user, role, plan, ttl)?;
    let record = desk.store.provision(user, plan).await?;
    let kept = plan_of(&record, &plans);
    remark(&record, kept, plan.unwrap_or(kept));
    // The store's role counts too, and the stronger of both.
    Ok((issued, if record.role == Role::Admin { Role::Admin } else { role }))
}

/// Says what a token doesn't change about a user who was there before it, and what does.
fn remark(record: &CallerRecord, kept: &str, wanted: &str) {
    if wanted != kept {
        let (user, change) = (&record.id, change(record, wanted));
        complain(&format!("{user} has the plan {kept} already, and keeps it: {change} changes that."));
    }
    remark_disabled(record, "token", wanted);
}
