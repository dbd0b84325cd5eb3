//! Whether a connection is one to the database for as long as it is open, or a pooler puts another behind it for each
//! transaction. What is prepared and set on a connection is then lost, or somebody else's.
//!
//! A mark is left on our connection, where only its session has it. It is looked for twice, and then by a second
//! connection, which must not find it. A pooler that takes back whichever connection was used last gives ours to the
//! second one; one that takes them in turn gives us another the second time. Others who use the pooler meanwhile can hide
//! that in one round, hardly in all of them.

use std::time::Duration;

use diesel::{QueryResult, result::Error as QueryError};
use diesel_async::SimpleAsyncConnection;
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    fault::Fault,
    link::{Link, Postgres},
    postgres::Target,
};

/// How long a second connection may take. Without one nothing can be told: a role, or a pooler that keeps sessions, may
/// have no more than one.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked: 0.1 ms each on one machine.
const ROUNDS: usize = 4;

const SENTENCE: &str = "The database is behind a pooler that hands out another connection for each transaction, where \
    prepared statements and settings get lost: use the pooler's session mode (PgBouncer: pool_mode = session), or the \
    database's own address.";

/// Refuses a pooler that doesn't keep sessions. The second connection is closed when this returns.
///
/// # Errors
/// [`Fault::Unfit`], with what to do; [`Fault::Query`] if the database doesn't answer.
pub(super) async fn refuse(link: &mut Link, target: &Target) -> Result<(), Fault> {
    let Link::Postgres(ours) = link else { return Ok(()) };
    let mark = Uuid::new_v4().simple().to_string();
    // Ours comes first: where there can be only one, it is the one that serves.
    ours.batch_execute(&format!("SELECT set_config('hasnot_engine.mark', '{mark}', false)")).await?;
    let mut other = match timeout(PATIENCE, target.connect()).await {
        Ok(Ok(other)) => other,
        Ok(Err(_)) | Err(_) => {
            tracing::debug!("no second connection to find out by whether there is a pooler");
            return Ok(());
        }
    };
    for _ in 0..ROUNDS {
        let is_ours = stands(ours, &mark, true).await? && stands(ours, &mark, true).await?;
        if !is_ours || !stands(&mut other, &mark, false).await? {
            return Err(Fault::Unfit(SENTENCE.into()));
        }
    }
    Ok(())
}

/// Says whether the mark is there, or isn't, as it should be. The statement is sent as it is, since one that is prepared
/// could get lost, too. Such returns no rows, so the bad case is an error: nothing is said in a sound server's log.
async fn stands(link: &mut Postgres, mark: &str, there: bool) -> QueryResult<bool> {
    let bad = if there { "IS DISTINCT FROM" } else { "=" };
    let look = format!(
        "DO $$BEGIN IF current_setting('hasnot_engine.mark', true) {bad} '{mark}' \
         THEN RAISE EXCEPTION 'there is a pooler: {mark}'; END IF; END$$"
    );
    match link.batch_execute(&look).await {
        Ok(()) => Ok(true),
        Err(QueryError::DatabaseError(_, why)) if why.message().contains(mark) => Ok(false),
        Err(error) => Err(error),
    }
}
