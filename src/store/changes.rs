//! The log of changes that all instances poll: what somebody changed reaches everybody within a second.
//!
//! A change's number is taken first thing in its transaction, from one row that stays locked until the commit. So the
//! next number is given out only when the one before can be seen, and a poller that asks «after `n`» never misses one.
//! Changes are kept for a day: an instance that was cut off from the store for longer has to be restarted.

use actors::{
    domain::{Position, Timestamp, TokenHash, UserId},
    ports::{Change, Changes, Recall},
};
use diesel::{
    ExpressionMethods, QueryDsl,
    sql_types::{BigInt, SmallInt, Text},
};
use serde::Serialize;

use super::{
    fault::Fault,
    leases::lease_key,
    ledger::total_key,
    link::{Link, Number},
    schema::{change_counter, changes},
    sql::sql,
};

/// The most changes that one poll returns.
const POLLED: i64 = 10_000;
/// Changes older than this are dropped …
const KEPT_MICROS: i64 = 24 * 3600 * 1_000_000;
/// … by whoever makes the next one, of the oldest so many.
const PRUNED: i64 = 100;

const USER: i16 = 0;
const KEY: i16 = 1;
const TOKEN: i16 = 2;
const CATALOG: i16 = 3;
const RECALL: i16 = 4;

/// Notes a change, first thing in the transaction that makes it, and returns its number.
pub(super) async fn note(link: &mut Link, change: &Change) -> Result<i64, Fault> {
    let (kind, subject, until) = match change {
        Change::User(user) => (USER, user.as_str().to_owned(), None),
        Change::Key(key) => (KEY, key.to_hex(), None),
        Change::Token(token, end) => (TOKEN, token.to_hex(), Some(end.0)),
        Change::Catalog => (CATALOG, String::new(), None),
        Change::Recall(recall) => return note_recalls(link, &[*recall]).await,
    };
    let (seq, now) = take(link, 1).await?;
    link.execute(diesel::insert_into(changes::table).values((
        changes::seq.eq(seq),
        changes::kind.eq(kind),
        changes::subject.eq(subject),
        changes::until.eq(until),
        changes::at.eq(now),
    )))
    .await?;
    Ok(seq)
}

/// Notes that leases are asked back, first thing in a transaction, and returns the last one's number.
pub(super) async fn note_recalls(link: &mut Link, recalls: &[Recall]) -> Result<i64, Fault> {
    let subjects: Vec<String> = recalls.iter().map(subject).collect();
    Ok(note_all(link, RECALL, &subjects).await?.1)
}

/// Notes that users are added, and returns the number before the first one's: the others follow in this order.
pub(super) async fn note_users(link: &mut Link, users: impl Iterator<Item = &UserId>) -> Result<i64, Fault> {
    let subjects: Vec<&str> = users.map(UserId::as_str).collect();
    Ok(note_all(link, USER, &subjects).await?.0)
}

/// Notes changes of one kind. Returns the number before the first one's and the last one's.
async fn note_all<S: Serialize>(link: &mut Link, kind: i16, subjects: &[S]) -> Result<(i64, i64), Fault> {
    let count = i64::try_from(subjects.len()).unwrap_or(i64::MAX);
    let (last, now) = take(link, count).await?;
    let text = link.text(
        "INSERT INTO changes (seq, kind, subject, at)
         SELECT $1 + place, $2, subject, $3
         FROM json_array_elements_text($4::json) WITH ORDINALITY AS noted (subject, place)",
        "INSERT INTO changes (seq, kind, subject, at) SELECT $1 + key + 1, $2, value, $3 FROM json_each($4)",
    );
    let subjects = serde_json::json!(subjects).to_string();
    let before = last - count;
    link.execute(sql!(text, BigInt = before, SmallInt = kind, BigInt = now, Text = subjects)).await?;
    Ok((before, last))
}

/// Waits for all who note changes, and keeps them waiting until the transaction ends: for who must read before writing.
/// SQLite's transactions that write do that by themselves.
pub(super) async fn lock(link: &mut Link) -> Result<(), Fault> {
    let text =
        link.text("SELECT seq AS value FROM change_counter FOR UPDATE", "SELECT seq AS value FROM change_counter");
    let Number { .. } = link.get(sql!(text)).await?;
    Ok(())
}

/// Takes the next numbers and returns the last of them, with the time. Drops what is too old.
async fn take(link: &mut Link, count: i64) -> Result<(i64, i64), Fault> {
    let next = sql!("UPDATE change_counter SET seq = seq + $1 RETURNING seq AS value", BigInt = count);
    let Number { value: last } = link.get(next).await?;
    let now = link.now().await?;
    let prune = "DELETE FROM changes WHERE at < $1 AND seq IN (SELECT seq FROM changes ORDER BY seq LIMIT $2)";
    link.execute(sql!(prune, BigInt = now - KEPT_MICROS, BigInt = PRUNED.max(count))).await?;
    Ok((last, now))
}

/// Returns the number of the last change.
pub(super) async fn last(link: &mut Link) -> Result<i64, Fault> {
    Ok(link.get(change_counter::table.select(change_counter::seq)).await?)
}

/// Returns the changes after a number, oldest first, and whether it is still the number of the same change.
pub(super) async fn after(link: &mut Link, after: i64) -> Result<Changes, Fault> {
    let from = changes::table.filter(changes::seq.ge(after)).order(changes::seq).limit(POLLED + 1);
    let mut rows: Vec<Row> = link.load(from).await?;
    let asked = rows.first().filter(|row| row.0 == after).map_or(0, |row| row.4);
    if asked != 0 {
        rows.remove(0);
    } else if rows.is_empty() {
        // It isn't kept any more, or never was.
        return Ok(Changes { last: last(link).await?.min(after), ..Changes::default() });
    }
    Ok(Changes { asked, ..read(rows, (after, asked)) })
}

/// Returns the youngest changes, oldest first. Several statements: belongs in a snapshot.
pub(super) async fn recent(link: &mut Link) -> Result<Changes, Fault> {
    let last = last(link).await?;
    let mut rows: Vec<Row> = link.load(changes::table.order(changes::seq.desc()).limit(POLLED)).await?;
    rows.reverse();
    Ok(read(rows, (last, 0)))
}

/// Number, kind, subject, end, and when it was made.
type Row = (i64, i16, String, Option<i64>, i64);

/// Reads changes; `before` is number and mark of the one before them.
fn read(rows: Vec<Row>, before: (i64, i64)) -> Changes {
    let (last, mark) = rows.last().map_or(before, |row| (row.0, row.4));
    let mut changes = Changes { last, mark, ..Changes::default() };
    for (seq, kind, subject, until, at) in rows {
        match parse(kind, &subject, until) {
            Some(change) => changes.items.push((Position { seq, at }, change)),
            None => {
                tracing::warn!(seq, kind, "a change that this version can't read");
                changes.unreadable = true;
            }
        }
    }
    changes
}

fn parse(kind: i16, subject: &str, until: Option<i64>) -> Option<Change> {
    Some(match kind {
        USER => Change::User(subject.parse::<UserId>().ok()?),
        KEY => Change::Key(hash(subject)?),
        TOKEN => Change::Token(hash(subject)?, Timestamp(until?)),
        CATALOG => Change::Catalog,
        RECALL => Change::Recall(recall(subject)?),
        _ => return None,
    })
}

/// Writes whose lease is meant: instance, user, class, kind of window, its first second.
fn subject(Recall { instance, key }: &Recall) -> String {
    let (user, class, kind, start) = total_key(key.account, key.window);
    format!("{instance} {user} {class} {kind} {start}")
}

fn recall(subject: &str) -> Option<Recall> {
    let mut words = subject.split(' ');
    let instance = words.next()?.parse().ok()?;
    let key = (
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
        words.next()?.parse().ok()?,
    );
    Some(Recall { instance, key: lease_key(key).ok()? })
}

fn hash(hex: &str) -> Option<TokenHash> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(TokenHash(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_survives_its_hexadecimal_form() {
        let token = TokenHash::of("secret");
        assert_eq!(hash(&token.to_hex()), Some(token));
        for bad in ["", "00", &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(hash(bad), None);
        }
    }
}
