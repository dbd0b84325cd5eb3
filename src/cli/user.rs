//! `user`: adds, disables and lists users.

use actors::domain::{CallerRecord, Plan, Role, UserId};
use clap::Subcommand;
use serde_json::json;

use super::{Desk, Failed, Output, at_least, complain, table};
use crate::store::NewUser;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Adds a user, or gives the one of that id this plan and role; also enables it.
    Add {
        /// 1 to 128 characters of A-Z a-z 0-9 . _ : / @ + | -
        id: UserId,
        /// The plan; `default` if absent.
        #[arg(long)]
        plan: Option<String>,
        /// What the user may do.
        #[arg(long, default_value = "user", value_parser = ["user", "admin"])]
        role: String,
    },
    /// Refuses a user from now on, whatever their tokens say.
    Disable {
        /// The user.
        id: UserId,
    },
    /// Lists users by id.
    List {
        /// Only those after this id.
        #[arg(long)]
        after: Option<UserId>,
        /// At most so many.
        #[arg(long, default_value_t = 1_000, allow_negative_numbers = true, value_parser = at_least::<u32>(0))]
        limit: u32,
    },
}

/// Returns the command that gives a user this plan and leaves the role; it also enables.
pub(super) fn change(user: &CallerRecord, plan: &str) -> String {
    format!("`hasnot-engine user add {} --plan {plan} --role {}`", user.id, user.role.as_str())
}

/// Says that what was made for a disabled user is refused, and what changes that.
pub(super) fn remark_disabled(user: &CallerRecord, made: &str, plan: &str) {
    if user.disabled {
        complain(&format!("{} is disabled, so the {made} is refused: {} changes that.", user.id, change(user, plan)));
    }
}

/// Returns the name of a user's plan.
pub(super) fn plan_of<'a>(user: &CallerRecord, plans: &'a [Plan]) -> &'a str {
    plans.iter().find(|plan| plan.id == user.plan).map_or("default", |plan| &plan.name)
}

pub(super) async fn run(desk: &Desk, command: Command) -> Result<Output, Failed> {
    match command {
        Command::Add { id, plan, role } => {
            let name = plan.clone().unwrap_or_else(|| "default".to_owned());
            desk.store.set_user(NewUser { id: id.clone(), plan, role: Role::named(&role) }).await?;
            let json = json!({"user": id, "plan": name, "role": role, "disabled": false});
            Ok(Output::new(json, format!("{id} is a user with the plan {name} and the role {role}.")))
        }
        Command::Disable { id } => {
            if !desk.store.set_disabled(&id, true).await? {
                return Err(Failed::usage(format!("There is no user {id}.")));
            }
            Ok(Output::new(json!({"user": id, "disabled": true}), format!("{id} is disabled.")))
        }
        Command::List { after, limit } => {
            let users = desk.store.users(after.as_ref(), limit).await?;
            let json = users.iter().map(|user| {
                let created_at = user.created_at.to_rfc3339();
                json!({"user": user.id, "plan": user.plan, "role": user.role, "disabled": user.disabled, "created_at": created_at})
            });
            let json = json!({"users": json.collect::<Vec<_>>()});
            let row = |user: &crate::store::UserRow| {
                let state = if user.disabled { "disabled" } else { "enabled" };
                vec![user.id.to_string(), user.plan.clone(), user.role.as_str().to_owned(), state.to_owned()]
            };
            let rows: Vec<_> = users.iter().map(row).collect();
            Ok(Output::new(json, table(&["user", "plan", "role", "state"], &rows)))
        }
    }
}
