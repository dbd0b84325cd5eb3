//! Pruning: old posting rows become sums, and what is of no use any more goes.
//!
//! A row goes only where it protects nothing: the revocation of a token that has ended; a closed journal without a
//! single record, which brings nothing when it is found again; a silent instance's leases of windows that ended long
//! ago, as its own heartbeat drops them; a silent instance that has neither leases nor an open journal, and enrolls anew
//! if it lives. A closed journal with records keeps its row for ever: a data folder that comes back, however old,
//! would be applied a second time.

use actors::{domain::Timestamp, ports::StoreError};
use diesel::sql_types::BigInt;

use super::{
    Store,
    fault::Fault,
    instances::ended_windows,
    link::{Link, Number, Scope},
    sql::sql,
    verify::LONGEST,
};

/// How many rows a pruning took away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Postings that are sums now.
    pub postings: i64,
    /// Revocations of tokens that have ended.
    pub revocations: i64,
    /// Closed journals without a record.
    pub journals: i64,
    /// Leases of windows that ended long ago.
    pub leases: i64,
    /// Instances that were silent and have nothing left.
    pub instances: i64,
}

/// What a pruning drops, in this order, each in a transaction of its own: none waits for one while it holds another.
#[derive(Debug, Clone, Copy)]
enum Useless {
    Revocations,
    Journals,
    Leases,
    Instances,
}

impl Store {
    /// Moves the posting rows whose reservations opened before a time into the checkpoints, in one transaction; then
    /// drops what ended, was closed or fell silent before it and is of no use any more. Returns how many rows there
    /// were. Totals stay as they are, and can still be proved. On SQLite nobody else writes meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Mistaken`]: the time isn't in the past.
    pub async fn prune(&self, before: Timestamp) -> Result<Pruned, StoreError> {
        let prune = async move |link: &mut Link| prune(link, before).await;
        let postings = self.call("ledger.prune", &self.0.write, Scope::Write, Some(LONGEST), prune).await?;
        Ok(Pruned {
            postings,
            revocations: self.clear(Useless::Revocations, before).await?,
            journals: self.clear(Useless::Journals, before).await?,
            leases: self.clear(Useless::Leases, before).await?,
            instances: self.clear(Useless::Instances, before).await?,
        })
    }

    async fn clear(&self, what: Useless, before: Timestamp) -> Result<i64, StoreError> {
        let clear = async move |link: &mut Link| clear(link, what, before.0).await;
        Ok(self.call("ledger.prune", &self.0.write, Scope::Write, Some(LONGEST), clear).await?)
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

async fn clear(link: &mut Link, what: Useless, before: i64) -> Result<i64, Fault> {
    link.unlimit().await?;
    let dropped = match what {
        Useless::Revocations => {
            link.execute(sql!("DELETE FROM revoked_tokens WHERE expires_at < $1", BigInt = before)).await?
        }
        Useless::Journals => {
            link.execute(sql!("DELETE FROM journals WHERE closed_at < $1 AND applied = 0", BigInt = before)).await?
        }
        Useless::Leases => {
            let (days, months) = ended_windows(link.now().await?);
            let text = link.text(
                "DELETE FROM leases WHERE ctid = ANY (ARRAY(
                     SELECT l.ctid FROM leases l JOIN instances i ON i.id = l.instance AND i.heartbeat_at < $1
                     WHERE l.window_kind = 0 AND l.window_start < $2 OR l.window_kind = 1 AND l.window_start < $3
                     FOR UPDATE OF l SKIP LOCKED))",
                "DELETE FROM leases WHERE instance IN (SELECT id FROM instances WHERE heartbeat_at < $1)
                     AND (window_kind = 0 AND window_start < $2 OR window_kind = 1 AND window_start < $3)",
            );
            link.execute(sql!(text, BigInt = before, BigInt = days, BigInt = months)).await?
        }
        Useless::Instances => {
            let text = "DELETE FROM instances WHERE heartbeat_at < $1
                AND NOT EXISTS (SELECT 1 FROM leases WHERE leases.instance = instances.id)
                AND NOT EXISTS (SELECT 1 FROM journals WHERE journals.instance = instances.id AND closed_at IS NULL)";
            link.execute(sql!(text, BigInt = before)).await?
        }
    };
    Ok(i64::try_from(dropped).unwrap_or(i64::MAX))
}
