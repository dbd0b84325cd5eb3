//! What the store knows of instances, their journals and their leases, for operators to look at.

use actors::{
    domain::{Nanodollars, Portion, Timestamp, Window},
    ports::StoreError,
};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Nullable, SmallInt, Text},
};

use super::{Store, fault::Fault, link::Link, plans::window_kind, sql::sql};

/// The most instances, and the most journals, that are listed.
const LISTED: i64 = 1_000;
/// The most leases that are listed.
const LISTED_LEASES: i64 = 10_000;

/// What is there, all read at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The store's clock.
    pub now: Timestamp,
    /// At most 1,000, those first that lived last.
    pub instances: Vec<InstanceRow>,
    /// At most 1,000, the open ones first, then those that were moved last.
    pub journals: Vec<JournalRow>,
    /// What is leased, at most 10,000 rows, by account.
    pub leases: Vec<LeaseRow>,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct InstanceRow {
    /// Its id.
    #[diesel(sql_type = Text)]
    pub id: String,
    /// When it last started, in µs.
    #[diesel(sql_type = BigInt)]
    pub enrolled_at: i64,
    /// When it last said that it lives, in µs.
    #[diesel(sql_type = BigInt)]
    pub heartbeat_at: i64,
    /// When it was given up, in µs.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub written_off_at: Option<i64>,
}

/// A journal.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct JournalRow {
    /// Its id.
    #[diesel(sql_type = Text)]
    pub id: String,
    /// Whose it is.
    #[diesel(sql_type = Nullable<Text>)]
    pub instance: Option<String>,
    /// Up to which record it was applied.
    #[diesel(sql_type = BigInt)]
    pub applied: i64,
    /// When its cursor last moved, in µs.
    #[diesel(sql_type = BigInt)]
    pub updated_at: i64,
    /// When it was closed, in µs.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub closed_at: Option<i64>,
}

/// What an instance has leased of an account's limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// Which instance.
    pub instance: String,
    /// The user's id.
    pub user: String,
    /// The class's name.
    pub class: String,
    /// In which window.
    pub window: Window,
    /// How much.
    pub leased: Portion,
    /// The last recall that it obeyed.
    pub obeyed: i64,
}

impl Store {
    /// Reads what is known of instances, journals and leases.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn inspect(&self) -> Result<Inspection, StoreError> {
        let inspect = async |link: &mut Link| inspect(link).await;
        Ok(self.snapshot("ledger.inspect", &self.0.read, None, inspect).await?)
    }
}

async fn inspect(link: &mut Link) -> Result<Inspection, Fault> {
    let instances = "SELECT CAST(id AS TEXT) AS id, enrolled_at, heartbeat_at, written_off_at FROM instances
         ORDER BY heartbeat_at DESC LIMIT $1";
    let journals = "SELECT CAST(id AS TEXT) AS id, CAST(instance AS TEXT) AS instance, applied, updated_at, closed_at
         FROM journals ORDER BY closed_at IS NOT NULL, updated_at DESC LIMIT $1";
    let leases: Vec<StoredLease> = link.load(sql!(include_str!("sql/leases.sql"), BigInt = LISTED_LEASES)).await?;
    Ok(Inspection {
        now: Timestamp(link.now().await?),
        instances: link.load(sql!(instances, BigInt = LISTED)).await?,
        journals: link.load(sql!(journals, BigInt = LISTED)).await?,
        leases: leases.into_iter().map(LeaseRow::try_from).collect::<Result<_, _>>()?,
    })
}

#[derive(QueryableByName)]
struct StoredLease {
    #[diesel(sql_type = Text)]
    instance: String,
    #[diesel(sql_type = Text)]
    user: String,
    #[diesel(sql_type = Text)]
    class: String,
    #[diesel(sql_type = SmallInt)]
    window_kind: i16,
    #[diesel(sql_type = BigInt)]
    window_start: i64,
    #[diesel(sql_type = BigInt)]
    requests: i64,
    #[diesel(sql_type = BigInt)]
    tokens: i64,
    #[diesel(sql_type = BigInt)]
    cost_nanodollars: i64,
    #[diesel(sql_type = BigInt)]
    obeyed: i64,
}

impl TryFrom<StoredLease> for LeaseRow {
    type Error = Fault;
    fn try_from(row: StoredLease) -> Result<Self, Fault> {
        Ok(Self {
            instance: row.instance,
            user: row.user,
            class: row.class,
            window: window_kind(row.window_kind)?.at(Timestamp::from_seconds(row.window_start)),
            leased: Portion { requests: row.requests, tokens: row.tokens, cost: Nanodollars(row.cost_nanodollars) },
            obeyed: row.obeyed,
        })
    }
}
