//! What a user has used, as the books say.

use std::sync::Arc;

use actors::{
    domain::{AccountKey, Amounts, Limits, Portion, Timestamp, UserId, Window},
    ports::{LeaseKey, StoreError},
};
use uuid::Uuid;

use super::{Store, catalog, fault::Fault, leases, link::Link, users};

/// What a user has used of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserUsage {
    /// The user.
    pub user: UserId,
    /// The plan's name.
    pub plan: Arc<str>,
    /// Each class that the plan allows.
    pub classes: Vec<ClassUsage>,
}

/// What a user has used of a class in the current window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassUsage {
    /// The class's name.
    pub class: Arc<str>,
    /// The window, by the store's clock.
    pub window: Window,
    /// What the plan allows.
    pub limits: Limits,
    /// What was used.
    pub used: Amounts,
    /// What all instances together have leased.
    pub leased: Portion,
}

impl Store {
    /// Returns what a user has used, class by class; `None` if there is no such user. Read from the replica, where
    /// there is one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn usage(&self, user: &UserId) -> Result<Option<UserUsage>, StoreError> {
        let user = user.clone();
        let read = async move |link: &mut Link| read(link, user).await;
        Ok(self.snapshot("usage", &self.0.report, None, read).await?)
    }
}

async fn read(link: &mut Link, user: UserId) -> Result<Option<UserUsage>, Fault> {
    let Some(caller) = users::find(link, &user).await? else { return Ok(None) };
    let now = Timestamp(link.now().await?);
    let rows = catalog::read(link).await?;
    let plan = rows.plans.iter().find(|plan| plan.id == caller.plan);
    let plan = plan.ok_or_else(|| Fault::Refused(format!("user {user} has no plan")))?;
    let mut classes: Vec<ClassUsage> = Vec::new();
    let mut asked = Vec::new();
    for class in &rows.classes {
        let Some(line) = plan.line(class.id) else { continue };
        let window = line.window.at(now);
        let account = AccountKey { user: caller.key, class: class.id };
        asked.push((LeaseKey { account, window }, Uuid::nil()));
        let (class, limits) = (class.name.clone(), line.limits);
        classes.push(ClassUsage { class, window, limits, used: Amounts::ZERO, leased: Portion::ZERO });
    }
    // Nobody is nil: everything is leased elsewhere.
    let standing = leases::standing(link, Uuid::nil(), asked.into_iter()).await?;
    for (class, answer) in classes.iter_mut().zip(standing) {
        (class.used, class.leased) = (answer.used, answer.elsewhere);
    }
    Ok(Some(UserUsage { user, plan: plan.name.clone(), classes }))
}
