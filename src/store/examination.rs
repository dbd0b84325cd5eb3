//! Whether the service can work with a database as it stands: for `doctor`, which must find what `serve` would stumble
//! over, and change nothing.

use actors::ports::StoreError;
use diesel::{
    QueryableByName,
    sql_types::{Bool, Nullable, Text},
};
use secrecy::ExposeSecret;
use uuid::Uuid;

use super::{
    Config, Schema, Store,
    fault::Fault,
    link::Link,
    sql::sql,
    url::{self, Address},
};
use crate::io::IoHandle;

/// A database with which the service can work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    /// How its schema stands.
    pub schema: Schema,
    /// Its id, where it has tables.
    pub identity: Option<Uuid>,
}

impl Store {
    /// Looks whether the service can work with a database: whether it can be reached, or made; has a schema that this
    /// version knows, or can bring up to date; and lets its tables be read and written.
    ///
    /// # Errors
    /// [`StoreError::Unfit`], with what to do, for what an operator has to see to; otherwise as
    /// [`connect`](Self::connect).
    pub async fn examine(config: &Config, io: &IoHandle) -> Result<Examination, StoreError> {
        let Some(store) = Self::find(config, io).await? else {
            could_be_made(config)?;
            return Ok(Examination { schema: Schema::Absent, identity: None });
        };
        // For SQLite the transaction alone shows that the file can be written.
        store.write("examine.rights", async |link: &mut Link| may_write(link).await).await?;
        let schema = store.schema().await?;
        if schema != Schema::Current {
            store.read("examine.schema", async |link: &mut Link| may_migrate(link).await).await?;
        }
        let identity = if schema == Schema::Absent { None } else { Some(store.identity().await?) };
        Ok(Examination { schema, identity })
    }
}

/// Finds out whether a SQLite file that isn't there could be made.
fn could_be_made(config: &Config) -> Result<(), StoreError> {
    match url::parse(config.url.expose_secret()).map_err(StoreError::Refused)?.address {
        Address::Sqlite(target) => target.could_be_made().map_err(StoreError::Unavailable),
        Address::Postgres(_) => Ok(()),
    }
}

/// Finds out whether the tables that are there can be read and written.
async fn may_write(link: &mut Link) -> Result<(), Fault> {
    let Link::Postgres(_) = link else { return Ok(()) };
    let text = "SELECT current_setting('transaction_read_only') = 'on' AS value";
    let ReadOnly { value: read_only } = link.get(sql!(text)).await?;
    if read_only {
        let sentence = "The database is read-only: it is a standby, or was set so; DATABASE_URL is for the primary.";
        return Err(Fault::Unfit(sentence.into()));
    }
    let grants: Vec<Grant> = link.load(sql!(include_str!("sql/postgres/grants.sql"))).await?;
    if grants.is_empty() {
        return Ok(());
    }
    let grants: Vec<_> = grants.into_iter().map(|row| row.statement).collect();
    let grants = grants.join("; ");
    Err(Fault::Unfit(format!(
        "The database's role may not read and write all tables; their owner can let it: `{grants}`."
    )))
}

/// Finds out whether the tables that are missing can be made.
async fn may_migrate(link: &mut Link) -> Result<(), Fault> {
    let Link::Postgres(_) = link else { return Ok(()) };
    match link.get(sql!(include_str!("sql/postgres/role.sql"))).await? {
        Standing { usage: Some(grant), .. } => Err(Fault::Unfit(format!(
            "The database's role can't look into the schema; its owner can let it: `{grant}`."
        ))),
        Standing { makes: false, .. } => Err(Fault::Unfit(
            "The database lacks tables, and its role may not make them: run `hasnot-engine migrate` as the owner."
                .into(),
        )),
        Standing { makes: true, .. } => Ok(()),
    }
}

#[derive(QueryableByName)]
struct ReadOnly {
    #[diesel(sql_type = Bool)]
    value: bool,
}

/// What the owner of some tables is to say.
#[derive(QueryableByName)]
struct Grant {
    #[diesel(sql_type = Text)]
    statement: String,
}

/// What a role may do in the schema that tables are made in.
#[derive(QueryableByName)]
struct Standing {
    /// What its owner is to say first, where the role can't even look into it.
    #[diesel(sql_type = Nullable<Text>)]
    usage: Option<String>,
    #[diesel(sql_type = Bool)]
    makes: bool,
}
