//! The schema: migrations that the binary carries, run before anything else.

use std::time::Duration;

use actors::ports::StoreError;
use diesel::{
    Connection, RunQueryDsl, SqliteConnection, migration::MigrationSource, result::Error as QueryError, sql_query,
};
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use tokio::{task::spawn_blocking, time::timeout};

use super::{Store, fault, link::Postgres, pool::Opener, postgres, sqlite::Target};

const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// The longest that a migration may take, waiting for another instance's included.
const LONGEST: Duration = Duration::from_secs(3600);
/// The key of the advisory lock on PostgreSQL: the ASCII codes of `hasNotEn`.
const LOCK: i64 = 0x6861_734e_6f74_456e;

impl Store {
    /// Brings the schema up to date and returns the names of the migrations that this took. All of them are one
    /// transaction, and of two instances that start at once the second waits for the first.
    ///
    /// # Errors
    /// [`StoreError::Unfit`]: the schema is newer than this binary, or the role may not change it;
    /// [`StoreError::Refused`]: a migration failed and nothing was changed.
    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        let opener = self.0.opener.clone();
        let migrate = async move {
            let work = async {
                match opener {
                    Opener::Postgres(target) => migrate_postgres(&target).await,
                    Opener::Sqlite(target) => migrate_sqlite(&target).await,
                }
            };
            let too_long = || StoreError::Unavailable(format!("not migrated within {LONGEST:?}"));
            timeout(LONGEST, work).await.unwrap_or_else(|_elapsed| Err(too_long()))
        };
        self.0.io.run(migrate).await.unwrap_or_else(|gone| Err(super::no_answer(&gone)))
    }
}

/// On a connection and a thread of its own: the migration harness blocks.
async fn migrate_postgres(target: &postgres::Target) -> Result<Vec<String>, StoreError> {
    let link = target.connect().await.map_err(StoreError::Unavailable)?;
    let migrate = move || {
        let mut link = AsyncConnectionWrapper::<Postgres>::from(link);
        link.transaction(|link| {
            sql_query("SET LOCAL statement_timeout = 0").execute(link)?;
            sql_query("SET LOCAL idle_in_transaction_session_timeout = 0").execute(link)?;
            sql_query(format!("SELECT pg_advisory_xact_lock({LOCK})")).execute(link)?;
            run(link, POSTGRES)
        })
    };
    finish(spawn_blocking(migrate).await)
}

async fn migrate_sqlite(target: &Target) -> Result<Vec<String>, StoreError> {
    let mut link = target.open().await.map_err(StoreError::Unavailable)?;
    let migrate = move || link.immediate_transaction(|link: &mut SqliteConnection| run(link, SQLITE));
    finish(spawn_blocking(migrate).await)
}

/// Runs what is pending, within a transaction that nobody else is in.
fn run<C, S>(link: &mut C, source: S) -> Result<Vec<String>, Trouble>
where
    C: Connection + MigrationHarness<C::Backend>,
    S: MigrationSource<C::Backend>,
{
    let known = source.migrations().map_err(Trouble::of)?;
    let applied = link.applied_migrations().map_err(Trouble::of)?;
    if let Some(newer) = applied.iter().find(|version| !known.iter().any(|known| known.name().version() == **version)) {
        return Err(Trouble::Store(StoreError::Unfit(format!(
            "The database has the migration {newer}, which this version doesn't know: a newer one has been here."
        ))));
    }
    let mut pending: Vec<_> = known.iter().filter(|migration| !applied.contains(&migration.name().version())).collect();
    pending.sort_by(|a, b| a.name().version().cmp(&b.name().version()));
    let mut names = Vec::new();
    for migration in pending {
        link.run_migration(migration).map_err(Trouble::of)?;
        names.push(migration.name().to_string());
    }
    Ok(names)
}

enum Trouble {
    Query(QueryError),
    Store(StoreError),
}

impl Trouble {
    fn of(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        let text = format!("the schema can't be brought up to date: {error}");
        Self::Store(fault::forbidden(&text).unwrap_or(StoreError::Refused(text)))
    }
}

impl From<QueryError> for Trouble {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

fn finish(done: Result<Result<Vec<String>, Trouble>, tokio::task::JoinError>) -> Result<Vec<String>, StoreError> {
    match done {
        Ok(Ok(names)) => Ok(names),
        Ok(Err(Trouble::Query(error))) => Err(super::Fault::Query(error).into()),
        Ok(Err(Trouble::Store(error))) => Err(error),
        Err(_panic) => Err(StoreError::Unavailable("the migration panicked".into())),
    }
}
