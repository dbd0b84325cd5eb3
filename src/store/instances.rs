//! Instances: who serves, and who was given up.

use std::time::Duration;

use actors::{
    domain::{Nanodollars, Portion, Timestamp, WindowKind},
    ports::{Heartbeat, StoreError},
};
use diesel::{
    QueryableByName,
    sql_types::{BigInt, Bool, Integer, Nullable, SmallInt, Text},
};
use uuid::Uuid;

use super::{
    Store,
    fault::Fault,
    leases,
    link::{Link, Number},
    sql::sql,
};

/// Leases of windows that ended this long ago are dropped. A stream belongs to the window in which it began and runs for as
/// long as its provider sends: without its lease, what it has taken of the limit would be lent again. None runs for a
/// week. Where the store's clock is that far ahead, leases in use are dropped, and their instance forgets them. The rows
/// that are kept longer cost little: most are empty, and `leases_of_instance` finds those that are due.
const ENDED_MICROS: i64 = 7 * 24 * 3600 * 1_000_000;
/// An instance whose last heartbeat is younger can't be written off.
const SILENT: Duration = Duration::from_secs(10 * 60);

/// What giving up an instance has freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteOff {
    /// When.
    pub at: Timestamp,
    /// How many leases it had.
    pub leases: i64,
    /// Their sum.
    pub freed: Portion,
}

impl Store {
    /// Gives an instance up: frees what it has leased, and notes that this was done and by whom. Whatever it still has
    /// to apply can be applied later; should it live after all, its next heartbeat tells it.
    ///
    /// # Errors
    /// [`StoreError::Mistaken`]: nobody knows it, or it was alive in the last ten minutes.
    pub async fn write_off(&self, instance: Uuid, operator: Option<String>) -> Result<WriteOff, StoreError> {
        let write_off = async move |link: &mut Link| write_off(link, instance, operator).await;
        Ok(self.write("ledger.write_off", write_off).await?)
    }
}

/// Takes an identity for a process, from whichever had it before.
pub(super) async fn enroll(link: &mut Link, instance: Uuid, process: Uuid) -> Result<Timestamp, Fault> {
    let now = link.now().await?;
    let text = link.text(
        "INSERT INTO instances (id, process, enrolled_at, heartbeat_at) VALUES ($1::uuid, $2::uuid, $3, $3)
         ON CONFLICT (id) DO UPDATE SET process = excluded.process, enrolled_at = excluded.enrolled_at,
             heartbeat_at = excluded.heartbeat_at, written_off_at = NULL",
        "INSERT INTO instances (id, process, enrolled_at, heartbeat_at) VALUES ($1, $2, $3, $3)
         ON CONFLICT (id) DO UPDATE SET process = excluded.process, enrolled_at = excluded.enrolled_at,
             heartbeat_at = excluded.heartbeat_at, written_off_at = NULL",
    );
    link.execute(sql!(text, Text = instance.to_string(), Text = process.to_string(), BigInt = now)).await?;
    Ok(Timestamp(now))
}

/// Notes that an instance lives, unless another process has its identity now, and drops leases that have had their day.
pub(super) async fn heartbeat(link: &mut Link, instance: Uuid, process: Uuid) -> Result<Heartbeat, Fault> {
    let now = link.now().await?;
    let text = link.text(
        "UPDATE instances SET heartbeat_at = CASE WHEN process = $1::uuid THEN $2 ELSE heartbeat_at END
         WHERE id = $3::uuid RETURNING process = $1::uuid AS ours, written_off_at IS NOT NULL AS written_off",
        "UPDATE instances SET heartbeat_at = CASE WHEN process = $1 THEN $2 ELSE heartbeat_at END
         WHERE id = $3 RETURNING process = $1 AS ours, written_off_at IS NOT NULL AS written_off",
    );
    let id = instance.to_string();
    let beat = sql!(text, Text = process.to_string(), BigInt = now, Text = id.clone());
    let found: Option<BeatRow> = link.find(beat).await?;
    let BeatRow { ours, written_off } = found.unwrap_or(BeatRow { ours: false, written_off: false });
    if ours {
        let (days, months) = ended_windows(now);
        let text = link
            .text(include_str!("sql/postgres/drop_ended_leases.sql"), include_str!("sql/sqlite/drop_ended_leases.sql"));
        link.execute(sql!(text, Text = id, BigInt = days, BigInt = months)).await?;
    }
    Ok(Heartbeat { now: Timestamp(now), ended: Timestamp(now - ENDED_MICROS), ours, written_off })
}

/// Returns before which second a day began, and a month, whose leases have had their day.
pub(super) fn ended_windows(now: i64) -> (i64, i64) {
    let since = |kind: WindowKind| kind.at(Timestamp(now - ENDED_MICROS)).start().seconds();
    (since(WindowKind::Day), since(WindowKind::Month))
}

async fn write_off(link: &mut Link, instance: Uuid, operator: Option<String>) -> Result<WriteOff, Fault> {
    let id = instance.to_string();
    let text = link.text(
        "SELECT heartbeat_at AS value FROM instances WHERE id = $1::uuid FOR UPDATE",
        "SELECT heartbeat_at AS value FROM instances WHERE id = $1",
    );
    let found: Option<Number> = link.find(sql!(text, Text = id.clone())).await?;
    let Number { value: heartbeat } = found.ok_or_else(|| Fault::Mistaken(format!("There is no instance {id}.")))?;
    let at = Timestamp(link.now().await?);
    let silent = at.since(Timestamp(heartbeat));
    if silent < SILENT {
        let seconds = silent.as_secs();
        return Err(Fault::Mistaken(format!(
            "Instance {id} was alive {seconds} s ago; it can be written off after {} minutes of silence.",
            SILENT.as_secs() / 60
        )));
    }
    let (leases, freed) = free(link, id.clone()).await?;
    let text = link.text(
        "UPDATE instances SET written_off_at = $1 WHERE id = $2::uuid",
        "UPDATE instances SET written_off_at = $1 WHERE id = $2",
    );
    link.execute(sql!(text, BigInt = at.0, Text = id.clone())).await?;
    let text = link.text(
        "INSERT INTO write_offs (instance, at, operator, leases, requests, tokens, cost_nanodollars)
         VALUES ($1::uuid, $2, $3, $4, $5, $6, $7)",
        "INSERT INTO write_offs (instance, at, operator, leases, requests, tokens, cost_nanodollars)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    );
    let Portion { requests, tokens, cost } = freed;
    link.execute(sql!(
        text,
        Text = id,
        BigInt = at.0,
        Nullable<Text> = operator,
        BigInt = leases,
        BigInt = requests,
        BigInt = tokens,
        BigInt = cost.0
    ))
    .await?;
    Ok(WriteOff { at, leases, freed })
}

/// Drops an instance's leases, under the locks of their totals, and returns how many there were and their sum.
async fn free(link: &mut Link, id: String) -> Result<(i64, Portion), Fault> {
    let text = link.text(
        "SELECT user_id, class_id, window_kind, window_start FROM leases WHERE instance = $1::uuid",
        "SELECT user_id, class_id, window_kind, window_start FROM leases WHERE instance = $1",
    );
    let held: Vec<KeyRow> = link.load(sql!(text, Text = id.clone())).await?;
    let keys: Vec<_> = held.iter().map(|row| (row.user_id, row.class_id, row.window_kind, row.window_start)).collect();
    leases::lock_totals(link, &keys).await?;
    let text = link.text(
        "DELETE FROM leases WHERE instance = $1::uuid RETURNING requests, tokens, cost_nanodollars",
        "DELETE FROM leases WHERE instance = $1 RETURNING requests, tokens, cost_nanodollars",
    );
    let freed: Vec<PortionRow> = link.load(sql!(text, Text = id)).await?;
    let count = i64::try_from(freed.len()).unwrap_or(i64::MAX);
    let portion = |row: PortionRow| Portion {
        requests: row.requests,
        tokens: row.tokens,
        cost: Nanodollars(row.cost_nanodollars),
    };
    Ok((count, freed.into_iter().map(portion).fold(Portion::ZERO, |sum, portion| sum + portion)))
}

/// Which lease a row is.
#[derive(QueryableByName)]
struct KeyRow {
    #[diesel(sql_type = BigInt)]
    user_id: i64,
    #[diesel(sql_type = Integer)]
    class_id: i32,
    #[diesel(sql_type = SmallInt)]
    window_kind: i16,
    #[diesel(sql_type = BigInt)]
    window_start: i64,
}

/// What was leased.
#[derive(QueryableByName)]
struct PortionRow {
    #[diesel(sql_type = BigInt)]
    requests: i64,
    #[diesel(sql_type = BigInt)]
    tokens: i64,
    #[diesel(sql_type = BigInt)]
    cost_nanodollars: i64,
}

/// What a heartbeat found.
#[derive(QueryableByName)]
struct BeatRow {
    #[diesel(sql_type = Bool)]
    ours: bool,
    #[diesel(sql_type = Bool)]
    written_off: bool,
}
