//! Users: found, provisioned, administered.

use actors::{
    domain::{CallerRecord, PlanId, Role, Timestamp, UserId, UserKey},
    ports::{Change, StoreError},
};
use diesel::{ExpressionMethods, JoinOnDsl, QueryDsl};

use super::{
    Store, changes,
    fault::Fault,
    link::Link,
    plans,
    schema::{plans as plans_table, users},
};

/// The plan of whom nobody gave another.
pub(super) const DEFAULT_PLAN: &str = "default";

/// A user as an operator states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUser {
    /// The id.
    pub id: UserId,
    /// The plan; `default` if absent.
    pub plan: Option<String>,
    /// The role.
    pub role: Role,
}

/// A user as listings show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// The store's id.
    pub key: UserKey,
    /// The user's id.
    pub id: UserId,
    /// The role.
    pub role: Role,
    /// The plan's name.
    pub plan: String,
    /// Whether the user is refused.
    pub disabled: bool,
    /// When the user was added.
    pub created_at: Timestamp,
}

impl Store {
    /// Adds a user, or makes the one of that id what is stated here: enabled, with that plan and role.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: there is no such plan.
    pub async fn set_user(&self, user: NewUser) -> Result<CallerRecord, StoreError> {
        let set = async move |link: &mut Link| {
            let version = changes::note(link, &Change::User(user.id.clone())).await?;
            let plan = plans::named(link, user.plan.as_deref().unwrap_or(DEFAULT_PLAN)).await?;
            let stated = (
                users::role.eq(user.role.as_str()),
                users::plan_id.eq(plan.0),
                users::disabled.eq(false),
                users::version.eq(version),
            );
            link.execute(
                diesel::insert_into(users::table)
                    .values((users::name.eq(user.id.as_str()), stated))
                    .on_conflict(users::name)
                    .do_update()
                    .set(stated),
            )
            .await?;
            find(link, &user.id).await?.ok_or(Fault::Query(diesel::result::Error::NotFound))
        };
        Ok(self.write("user.set", set).await?)
    }

    /// Disables or enables a user; `false` if there is none of that id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_disabled(&self, user: &UserId, disabled: bool) -> Result<bool, StoreError> {
        let user = user.clone();
        let set = async move |link: &mut Link| {
            let version = changes::note(link, &Change::User(user.clone())).await?;
            let of_name = users::table.filter(users::name.eq(user.as_str()));
            let stated = (users::disabled.eq(disabled), users::version.eq(version));
            Ok(link.execute(diesel::update(of_name).set(stated)).await? == 1)
        };
        Ok(self.write("user.disable", set).await?)
    }

    /// Lists users by id, those after `after` only, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn users(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserRow>, StoreError> {
        let after = after.map_or(String::new(), |user| user.as_str().to_owned());
        let list = async move |link: &mut Link| {
            let rows: Vec<(i64, String, String, String, bool, i64)> = link
                .load(
                    users::table
                        .inner_join(plans_table::table.on(plans_table::id.eq(users::plan_id)))
                        .filter(users::name.gt(after))
                        .order(users::name)
                        .limit(limit.into())
                        .select((
                            users::id,
                            users::name,
                            users::role,
                            plans_table::name,
                            users::disabled,
                            users::created_at,
                        )),
                )
                .await?;
            rows.into_iter()
                .map(|(key, id, role, plan, disabled, created_at)| {
                    Ok(UserRow {
                        key: UserKey(key),
                        id: user_id(id)?,
                        role: Role::named(&role),
                        plan,
                        disabled,
                        created_at: Timestamp(created_at),
                    })
                })
                .collect()
        };
        Ok(self.read("user.list", list).await?)
    }
}

/// Finds a user.
pub(super) async fn find(link: &mut Link, user: &UserId) -> Result<Option<CallerRecord>, Fault> {
    let row: Option<(i64, String, i32, bool, i64)> = link
        .find(users::table.filter(users::name.eq(user.as_str().to_owned())).select((
            users::id,
            users::role,
            users::plan_id,
            users::disabled,
            users::version,
        )))
        .await?;
    Ok(row.map(|(key, role, plan, disabled, version)| CallerRecord {
        key: UserKey(key),
        id: user.clone(),
        role: Role::named(&role),
        plan: PlanId(plan),
        disabled,
        version,
    }))
}

/// Adds a user with the named plan or, where there is none of that name, the default one.
///
/// # Errors
/// [`Fault::Superfluous`]: somebody else just did.
pub(super) async fn add(link: &mut Link, user: &UserId, plan: Option<&str>) -> Result<(), Fault> {
    let version = changes::note(link, &Change::User(user.clone())).await?;
    let plan = match plan {
        Some(name) => plans::find(link, name).await?,
        None => None,
    };
    let plan = match plan {
        Some(plan) => plan,
        None => plans::named(link, DEFAULT_PLAN).await?,
    };
    let added = link
        .execute(
            diesel::insert_into(users::table)
                .values((users::name.eq(user.as_str()), users::plan_id.eq(plan.0), users::version.eq(version)))
                .on_conflict_do_nothing(),
        )
        .await?;
    if added == 1 { Ok(()) } else { Err(Fault::Superfluous) }
}

/// Reads an id that the store holds.
pub(super) fn user_id(text: String) -> Result<UserId, Fault> {
    UserId::try_from(text).map_err(|error| Fault::Refused(error.to_string()))
}
