//! Users: found, provisioned, administered.

use std::{
    collections::{HashMap, HashSet},
    iter,
};

use actors::{
    domain::{CallerRecord, PlanId, Position, Role, Timestamp, UserId, UserKey},
    ports::{Change, StoreError},
};
use diesel::{
    ExpressionMethods, JoinOnDsl, QueryDsl, QueryableByName,
    sql_types::{BigInt, Bool, Integer, Text},
};

use super::{
    Store, changes,
    fault::Fault,
    link::Link,
    plans,
    schema::{plans as plans_table, users},
    sql::sql,
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
    /// [`StoreError::Mistaken`]: there is no such plan.
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

/// The columns of a [`KnownRow`]: with the change up to which the same statement sees everything.
macro_rules! known {
    ($verb:literal) => {
        concat!(
            $verb,
            " id, name, role, plan_id, disabled, version, (SELECT seq FROM change_counter) AS as_of,
             COALESCE((SELECT at FROM changes WHERE seq = (SELECT seq FROM change_counter)), 0) AS as_of_at"
        )
    };
}

/// A caller whom the store may not know yet.
#[derive(Debug, Clone)]
pub(super) struct NewCaller {
    pub(super) id: UserId,
    /// The plan to be added with, by name.
    pub(super) plan: Option<String>,
}

/// Finds a user.
pub(super) async fn find(link: &mut Link, user: &UserId) -> Result<Option<CallerRecord>, Fault> {
    Ok(find_all(link, iter::once(user)).await?.remove(user))
}

/// Finds users, in one statement.
pub(super) async fn find_all(link: &mut Link, users: impl Iterator<Item = &UserId>) -> Result<Known, Fault> {
    let names: Vec<&str> = users.map(UserId::as_str).collect();
    let text = link.text(
        concat!(known!("SELECT"), " FROM users WHERE name = ANY (ARRAY(SELECT json_array_elements_text($1::json)))"),
        concat!(known!("SELECT"), " FROM users WHERE name IN (SELECT value FROM json_each($1))"),
    );
    known(link.load(sql!(text, Text = serde_json::json!(names).to_string())).await?)
}

/// Returns what is known of these callers, in their order, once those that were unknown have been added: with the plan
/// that was named for them or, where there is none of that name, the default one.
pub(super) async fn provision_all(link: &mut Link, asked: &[NewCaller]) -> Result<Vec<CallerRecord>, Fault> {
    // Whoever adds users holds this lock, so who is unknown now stays unknown until the commit.
    changes::lock(link).await?;
    let mut known = find_all(link, asked.iter().map(|new| &new.id)).await?;
    // Of several who ask for one user the first counts.
    let mut seen = HashSet::new();
    let unknown: Vec<&NewCaller> =
        asked.iter().filter(|new| !known.contains_key(&new.id) && seen.insert(&new.id)).collect();
    if !unknown.is_empty() {
        known.extend(add_all(link, &unknown).await?);
    }
    let records = asked.iter().map(|new| known.get(&new.id).cloned());
    records.collect::<Option<_>>().ok_or(Fault::Query(diesel::result::Error::NotFound))
}

/// Adds users that are all unknown. The version of each is the number of its own change.
async fn add_all(link: &mut Link, unknown: &[&NewCaller]) -> Result<Known, Fault> {
    let plans = plans::by_name(link).await?;
    let default =
        plans.get(DEFAULT_PLAN).ok_or_else(|| Fault::Refused(format!("there is no plan `{DEFAULT_PLAN}`")))?;
    let plan = |new: &NewCaller| new.plan.as_ref().and_then(|name| plans.get(name)).unwrap_or(default).0;
    let rows: Vec<(&str, i32)> = unknown.iter().map(|new| (new.id.as_str(), plan(new))).collect();
    let before = changes::note_users(link, unknown.iter().map(|new| &new.id)).await?;
    let text = link.text(
        concat!(
            "INSERT INTO users (name, plan_id, version)
             SELECT added ->> 0, (added ->> 1)::integer, $1 + place
             FROM json_array_elements($2::json) WITH ORDINALITY AS adding (added, place) ",
            known!("RETURNING")
        ),
        concat!(
            "INSERT INTO users (name, plan_id, version)
             SELECT value ->> 0, value ->> 1, $1 + key + 1 FROM json_each($2) ",
            known!("RETURNING")
        ),
    );
    known(link.load(sql!(text, BigInt = before, Text = serde_json::json!(rows).to_string())).await?)
}

/// Users by their ids.
type Known = HashMap<UserId, CallerRecord>;

fn known(rows: Vec<KnownRow>) -> Result<Known, Fault> {
    let record = |row: KnownRow| {
        let id = user_id(row.name)?;
        let record = CallerRecord {
            key: UserKey(row.id),
            id: id.clone(),
            role: Role::named(&row.role),
            plan: PlanId(row.plan_id),
            disabled: row.disabled,
            version: row.version,
            as_of: Position { seq: row.as_of, at: row.as_of_at },
        };
        Ok((id, record))
    };
    rows.into_iter().map(record).collect()
}

/// What is known of a user.
#[derive(QueryableByName)]
struct KnownRow {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    role: String,
    #[diesel(sql_type = Integer)]
    plan_id: i32,
    #[diesel(sql_type = Bool)]
    disabled: bool,
    #[diesel(sql_type = BigInt)]
    version: i64,
    #[diesel(sql_type = BigInt)]
    as_of: i64,
    #[diesel(sql_type = BigInt)]
    as_of_at: i64,
}

/// Reads an id that the store holds.
pub(super) fn user_id(text: String) -> Result<UserId, Fault> {
    UserId::try_from(text).map_err(|error| Fault::Refused(error.to_string()))
}
