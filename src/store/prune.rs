//! Pruning: old posting rows become sums.

use actors::{domain::Timestamp, ports::StoreError};
use diesel::sql_types::BigInt;

use super::{
    Store,
    fault::Fault,
    link::{Link, Number, Scope},
    sql::sql,
    verify::LONGEST,
};

impl Store {
    /// Moves the posting rows whose reservations opened before a time into the checkpoints, in one transaction, and
    /// returns how many there were. Totals stay as they are, and can still be proved. On SQLite nobody else writes
    /// meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Mistaken`]: the time isn't in the past.
    pub async fn prune(&self, before: Timestamp) -> Result<i64, StoreError> {
        let prune = async move |link: &mut Link| prune(link, before).await;
        Ok(self.call("ledger.prune", &self.0.write, Scope::Write, Some(LONGEST), prune).await?)
    }
}

async fn prune(link: &mut Link, before: Timestamp) -> Result<i64, Fault> {
    if before.0 > link.now().await? {
        return Err(Fault::Mistaken(format!("The time {} is not in the past.", before.to_rfc3339())));
    }
    link.unlimit().await?;
    match link {
        Link::Postgres(_) => {
            let Number { value } = link.get(sql!(include_str!("sql/postgres/prune.sql"), BigInt = before.0)).await?;
            Ok(value)
        }
        Link::Sqlite(_) => {
            link.execute(sql!(include_str!("sql/sqlite/prune.sql"), BigInt = before.0)).await?;
            let deleted = link.execute(sql!("DELETE FROM postings WHERE opened_at < $1", BigInt = before.0)).await?;
            Ok(i64::try_from(deleted).unwrap_or(i64::MAX))
        }
    }
}
