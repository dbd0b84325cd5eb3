//! The schema: migrations that the binary carries, run before anything else.

use std::time::Duration;

use actors::ports::StoreError;
use diesel::{
    Connection, QueryableByName, RunQueryDsl, SqliteConnection,
    backend::Backend,
    migration::{Migration, MigrationSource},
    pg::Pg,
    result::Error as QueryError,
    sql_query,
    sql_types::Text,
};
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use tokio::{task::spawn_blocking, time::timeout};

use super::{
    Store,
    fault::{self, Fault},
    link::{Link, Number, Postgres},
    pool::Opener,
    postgres,
    sql::sql,
    sqlite::Target,
};

const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// The longest that a migration may take, waiting for another instance's included.
const LONGEST: Duration = Duration::from_secs(3600);
/// The key of the advisory lock on PostgreSQL: the ASCII codes of `hasNotEn`.
const LOCK: i64 = 0x6861_734e_6f74_456e;

/// How the database's schema stands to the migrations that this binary carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schema {
    /// There are no tables, or none that this role can see.
    Absent,
    /// It lacks the migrations of these names.
    Behind(Vec<String>),
    /// It is what this binary needs.
    Current,
}

impl Store {
    /// Looks how the schema stands. That changes nothing, and takes no right but to read the list of migrations.
    ///
    /// # Errors
    /// [`StoreError::Unfit`]: the schema is newer than this binary, or the role may not read the list.
    pub async fn schema(&self) -> Result<Schema, StoreError> {
        let applied = self.read("schema", async |link: &mut Link| applied(link).await).await?;
        let pending = match &self.0.opener {
            Opener::Postgres(_) => names(&pending::<Pg>(&POSTGRES, &applied)?),
            Opener::Sqlite(_) => names(&pending::<diesel::sqlite::Sqlite>(&SQLITE, &applied)?),
        };
        Ok(match pending {
            none if none.is_empty() => Schema::Current,
            _ if applied.is_empty() => Schema::Absent,
            some => Schema::Behind(some),
        })
    }

    /// Brings the schema up to date and returns the names of the migrations that this took. All of them are one
    /// transaction, and of two instances that start at once the second waits for the first. Where it is up to date
    /// nothing is tried, so that a role needs no right to make tables.
    ///
    /// # Errors
    /// [`StoreError::Unfit`]: the schema is newer than this binary, or the role may not change it;
    /// [`StoreError::Refused`]: a migration failed and nothing was changed.
    pub async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        if self.schema().await? == Schema::Current {
            return Ok(Vec::new());
        }
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
            run(link, &POSTGRES)
        })
    };
    finish(spawn_blocking(migrate).await)
}

async fn migrate_sqlite(target: &Target) -> Result<Vec<String>, StoreError> {
    let mut link = target.open().await.map_err(StoreError::Unavailable)?;
    let migrate = move || link.immediate_transaction(|link: &mut SqliteConnection| run(link, &SQLITE));
    finish(spawn_blocking(migrate).await)
}

/// Runs what is pending, within a transaction that nobody else is in.
fn run<C>(link: &mut C, source: &EmbeddedMigrations) -> Result<Vec<String>, Trouble>
where
    C: Connection + MigrationHarness<C::Backend>,
{
    let applied = link.applied_migrations().map_err(Trouble::of)?;
    let applied: Vec<_> = applied.iter().map(ToString::to_string).collect();
    let pending = pending(source, &applied)?;
    for migration in &pending {
        link.run_migration(migration).map_err(Trouble::of)?;
    }
    Ok(names(&pending))
}

/// Returns the versions of the migrations that a database has had.
async fn applied(link: &mut Link) -> Result<Vec<String>, Fault> {
    let text = link.text(
        "SELECT count(*) AS value FROM pg_class WHERE oid = to_regclass('__diesel_schema_migrations')",
        "SELECT count(*) AS value FROM sqlite_master WHERE name = '__diesel_schema_migrations'",
    );
    let Number { value: tables } = link.get(sql!(text)).await?;
    if tables == 0 {
        return Ok(Vec::new());
    }
    let rows: Vec<Applied> = link.load(sql!("SELECT version FROM __diesel_schema_migrations")).await?;
    Ok(rows.into_iter().map(|row| row.version).collect())
}

/// A migration that a database has had.
#[derive(QueryableByName)]
struct Applied {
    #[diesel(sql_type = Text)]
    version: String,
}

/// Returns the migrations that a database has not had, oldest first.
fn pending<B: Backend>(source: &EmbeddedMigrations, applied: &[String]) -> Result<Migrations<B>, Trouble> {
    let mut migrations: Migrations<B> = source.migrations().map_err(Trouble::of)?;
    let known: Vec<_> = migrations.iter().map(|migration| migration.name().version().to_string()).collect();
    if let Some(newer) = applied.iter().find(|version| !known.contains(version)) {
        return Err(Trouble::Store(StoreError::Unfit(format!(
            "The database has the migration {newer}, which this version doesn't know: a newer one has been here."
        ))));
    }
    migrations.retain(|migration| !applied.contains(&migration.name().version().to_string()));
    migrations.sort_by(|a, b| a.name().version().cmp(&b.name().version()));
    Ok(migrations)
}

type Migrations<B> = Vec<Box<dyn Migration<B>>>;

fn names<B: Backend>(migrations: &Migrations<B>) -> Vec<String> {
    migrations.iter().map(|migration| migration.name().to_string()).collect()
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

impl From<Trouble> for StoreError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Query(error) => Fault::Query(error).into(),
            Trouble::Store(error) => error,
        }
    }
}

fn finish(done: Result<Result<Vec<String>, Trouble>, tokio::task::JoinError>) -> Result<Vec<String>, StoreError> {
    match done {
        Ok(done) => Ok(done?),
        Err(_panic) => Err(StoreError::Unavailable("the migration panicked".into())),
    }
}
