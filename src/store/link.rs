//! One connection, of whichever database, that takes the same diesel statements either way.

use diesel::{OptionalExtension, QueryResult, SqliteConnection, connection::AnsiTransactionManager};
use diesel_async::{
    AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection, TransactionManager,
    methods::{ExecuteDsl, LoadQuery},
    pooled_connection::PoolableConnection,
    sync_connection_wrapper::SyncConnectionWrapper,
};

use super::sql::sql;

/// A connection to PostgreSQL.
pub(super) type Postgres = AsyncPgConnection;
/// A connection to SQLite; its calls run on the runtime's threads for blocking work.
pub(super) type Sqlite = SyncConnectionWrapper<SqliteConnection>;

/// One connection.
pub(super) enum Link {
    /// To a server.
    Postgres(Box<Postgres>),
    /// To a file.
    Sqlite(Sqlite),
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// None: each statement is on its own.
    Statement,
    /// Several statements that read one and the same state.
    Snapshot,
    /// All or nothing. SQLite takes the write lock at once: a transaction that reads first fails beside another writer.
    Write,
}

impl Link {
    /// Executes a statement and returns how many rows it changed.
    pub(super) async fn execute<Q>(&mut self, query: Q) -> QueryResult<usize>
    where
        Q: ExecuteDsl<Postgres> + ExecuteDsl<Sqlite>,
    {
        match self {
            Self::Postgres(link) => RunQueryDsl::execute(query, &mut **link).await,
            Self::Sqlite(link) => RunQueryDsl::execute(query, link).await,
        }
    }

    /// Returns the rows that a query finds.
    pub(super) async fn load<'q, Q, U>(&mut self, query: Q) -> QueryResult<Vec<U>>
    where
        U: Send,
        Q: LoadQuery<'q, Postgres, U> + LoadQuery<'q, Sqlite, U> + 'q,
    {
        match self {
            Self::Postgres(link) => RunQueryDsl::load(query, &mut **link).await,
            Self::Sqlite(link) => RunQueryDsl::load(query, link).await,
        }
    }

    /// Returns the only row that a query can find, if there is one.
    pub(super) async fn find<'q, Q, U>(&mut self, query: Q) -> QueryResult<Option<U>>
    where
        U: Send,
        Q: LoadQuery<'q, Postgres, U> + LoadQuery<'q, Sqlite, U> + 'q,
    {
        match self {
            Self::Postgres(link) => RunQueryDsl::get_result(query, &mut **link).await.optional(),
            Self::Sqlite(link) => RunQueryDsl::get_result(query, link).await.optional(),
        }
    }

    /// Returns the row that a query is bound to find.
    pub(super) async fn get<'q, Q, U>(&mut self, query: Q) -> QueryResult<U>
    where
        U: Send,
        Q: LoadQuery<'q, Postgres, U> + LoadQuery<'q, Sqlite, U> + 'q,
    {
        self.find(query).await?.ok_or(diesel::result::Error::NotFound)
    }

    /// Returns the text that is for this database, of a statement that takes and returns the same on both.
    pub(super) fn text(&self, postgres: &'static str, sqlite: &'static str) -> &'static str {
        match self {
            Self::Postgres(_) => postgres,
            Self::Sqlite(_) => sqlite,
        }
    }

    /// Returns the database's clock, in microseconds.
    pub(super) async fn now(&mut self) -> QueryResult<i64> {
        let text =
            self.text("SELECT now_micros() AS value", "SELECT CAST(unixepoch('subsec') * 1000000 AS INTEGER) AS value");
        self.get(sql!(text)).await.map(|Number { value }| value)
    }

    /// Lets the transaction take as long as it needs.
    pub(super) async fn unlimit(&mut self) -> QueryResult<()> {
        match self {
            Self::Postgres(link) => link.batch_execute("SET LOCAL statement_timeout = 0").await,
            Self::Sqlite(_) => Ok(()),
        }
    }

    pub(super) async fn begin(&mut self, scope: Scope) -> QueryResult<()> {
        let (postgres, sqlite) = match scope {
            Scope::Statement => return Ok(()),
            Scope::Snapshot => ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "BEGIN"),
            Scope::Write => ("BEGIN ISOLATION LEVEL READ COMMITTED", "BEGIN IMMEDIATE"),
        };
        match self {
            Self::Postgres(link) => {
                diesel_async::AnsiTransactionManager::begin_transaction_sql(&mut **link, postgres).await
            }
            Self::Sqlite(link) => {
                link.spawn_blocking(move |link| AnsiTransactionManager::begin_transaction_sql(link, sqlite)).await
            }
        }
    }

    pub(super) async fn commit(&mut self, scope: Scope) -> QueryResult<()> {
        match self {
            _ if scope == Scope::Statement => Ok(()),
            Self::Postgres(link) => Manager::<Postgres>::commit_transaction(&mut **link).await,
            Self::Sqlite(link) => Manager::<Sqlite>::commit_transaction(link).await,
        }
    }

    pub(super) async fn rollback(&mut self, scope: Scope) -> QueryResult<()> {
        match self {
            _ if scope == Scope::Statement => Ok(()),
            Self::Postgres(link) => Manager::<Postgres>::rollback_transaction(&mut **link).await,
            Self::Sqlite(link) => Manager::<Sqlite>::rollback_transaction(link).await,
        }
    }

    /// Says whether the connection is of no more use: closed, or left within a transaction.
    pub(super) fn is_broken(&mut self) -> bool {
        match self {
            Self::Postgres(link) => link.is_broken(),
            Self::Sqlite(link) => link.is_broken(),
        }
    }
}

type Manager<C> = <C as AsyncConnection>::TransactionManager;

/// A row of one number.
#[derive(diesel::QueryableByName)]
pub(super) struct Number {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    pub(super) value: i64,
}
