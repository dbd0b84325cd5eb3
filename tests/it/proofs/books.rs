//! Three books of the same requests: the clients', the provider's and the service's.

use std::collections::{BTreeMap, HashMap};

use diesel::{
    Connection, QueryableByName, RunQueryDsl, SqliteConnection, connection::SimpleConnection, sql_query, sql_types,
};
use hne_load::mock::{Entry, MockProvider};

use super::load::{Answer, Seen};
use crate::harness::servers::psql;

/// A row of the service's books.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) user: String,
    pub(super) outcome: &'static str,
    pub(super) estimated: bool,
    pub(super) requests: i64,
    pub(super) tokens: (i64, i64),
    /// In microseconds since 1970 by the store's clock.
    pub(super) opened_at: i64,
}

impl Row {
    fn parse(line: &str) -> Self {
        let fields: Vec<&str> = line.split(' ').collect();
        let number = |field: usize| fields[field].parse::<i64>().unwrap();
        let outcome = i16::try_from(number(1)).unwrap();
        Self {
            user: fields[0].to_owned(),
            outcome: actors::domain::Outcome::from_code(outcome).unwrap().as_str(),
            estimated: number(2) == 1,
            requests: number(3),
            tokens: (number(4), number(5)),
            opened_at: number(6),
        }
    }

    fn is_interrupted(&self) -> bool {
        self.outcome == "interrupted"
    }
}

/// The rows as text, since the two databases agree on that.
const ROWS: &str = "SELECT u.name || ' ' || p.outcome || ' ' || CASE WHEN p.estimated THEN 1 ELSE 0 END || ' ' ||
    p.requests || ' ' || p.prompt_tokens || ' ' || p.completion_tokens || ' ' || p.opened_at AS line
    FROM postings p JOIN users u ON u.id = p.user_id";

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = sql_types::Text)]
    line: String,
}

fn sqlite(url: &str) -> Option<SqliteConnection> {
    let mut connection = SqliteConnection::establish(url.strip_prefix("sqlite://")?).unwrap();
    connection.batch_execute("PRAGMA busy_timeout = 5000").unwrap();
    Some(connection)
}

/// Returns the rows of the service's books.
pub(super) fn rows(url: &str) -> Vec<Row> {
    match sqlite(url) {
        Some(mut connection) => {
            let lines: Vec<Line> = sql_query(ROWS).load(&mut connection).unwrap();
            lines.iter().map(|line| Row::parse(&line.line)).collect()
        }
        None => psql(url, ROWS).lines().map(Row::parse).collect(),
    }
}

/// Runs a statement on the service's database.
pub(super) fn execute(url: &str, sql: &str) {
    match sqlite(url) {
        Some(mut connection) => connection.batch_execute(sql).unwrap(),
        None => drop(psql(url, sql)),
    }
}

/// Adds users with a plan.
pub(super) fn add_users(url: &str, users: &[String], plan: &str) {
    let names: Vec<_> = users.iter().map(|user| format!("('{user}')")).collect();
    let sql = format!(
        "INSERT INTO users (name, plan_id, version) SELECT column1, (SELECT id FROM plans WHERE name = '{plan}'), 0
        FROM (VALUES {}) AS v",
        names.join(", ")
    );
    execute(url, &sql);
}

/// A request as both the provider and the service know it: whose, and with which tokens.
type Key<'a> = (&'a str, i64, i64);

fn user_of(entry: &Entry) -> &str {
    entry.marker.split('/').next().unwrap()
}

fn marker_of(entry: &Entry) -> &str {
    entry.marker.split(' ').next().unwrap()
}

fn key_of(entry: &Entry) -> Key<'_> {
    let number = |tokens: u64| i64::try_from(tokens).unwrap();
    (user_of(entry), number(entry.prompt_tokens), number(entry.completion_tokens))
}

/// What the comparison of the three books found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Requests that the provider got.
    pub(super) provider: usize,
    /// Requests whose end the client saw.
    pub(super) finished: usize,
    /// Of these, those that are charged exactly once, with the provider's tokens.
    pub(super) charged_once: usize,
    /// Of these, those that are not charged so.
    pub(super) lost: usize,
    /// Requests that are charged with the provider's tokens more than once.
    pub(super) doubled: usize,
    /// Rows with tokens that the provider has never reported to that user.
    pub(super) unknown: usize,
    /// Requests that the provider got and no row tells of.
    pub(super) without_row: usize,
    /// Rows above the provider's requests that say more than that the service died.
    pub(super) surplus: usize,
    /// Rows of requests that were admitted when the service died, before the provider was asked.
    pub(super) never_sent: usize,
    /// Rows of requests that ran when the service died.
    pub(super) interrupted: usize,
    /// Of these, those that are charged nevertheless.
    pub(super) interrupted_charged: usize,
    /// Rows of requests that their client left, or that were charged by estimate.
    pub(super) estimated: usize,
    pub(super) rows: usize,
}

impl Findings {
    /// Compares the books. Every user of the clients must be one of this provider's only.
    pub(super) fn of(rows: &[Row], provider: &MockProvider, answers: &[Answer]) -> Self {
        let entries = provider.books();
        let known: HashMap<Key<'_>, &Entry> = entries.iter().map(|entry| (key_of(entry), entry)).collect();
        assert_eq!(known.len(), entries.len(), "two requests can't be told apart");
        let mut charged: HashMap<Key<'_>, usize> = HashMap::new();
        for row in rows.iter().filter(|row| row.requests > 0 && !row.estimated) {
            *charged.entry((&row.user, row.tokens.0, row.tokens.1)).or_default() += 1;
        }
        let interrupted: Vec<_> = rows.iter().filter(|row| row.is_interrupted()).collect();
        let mut findings = Self {
            provider: entries.len(),
            doubled: charged.values().filter(|&&times| times > 1).count(),
            unknown: charged.keys().filter(|key| !known.contains_key(*key)).count(),
            interrupted: interrupted.len(),
            interrupted_charged: interrupted.iter().filter(|row| (row.requests, row.tokens) != (0, (0, 0))).count(),
            estimated: rows.iter().filter(|row| row.estimated).count(),
            rows: rows.len(),
            ..Self::default()
        };
        findings.follow(&entries, &charged, answers);
        findings.count(&entries, rows);
        findings
    }

    /// Looks for each answer that a client has in the other two books.
    fn follow(&mut self, entries: &[Entry], charged: &HashMap<Key<'_>, usize>, answers: &[Answer]) {
        let by_marker: HashMap<&str, &Entry> = entries.iter().map(|entry| (marker_of(entry), entry)).collect();
        for answer in answers.iter().filter(|answer| answer.is_finished()) {
            self.finished += 1;
            match charged.get(&key_of(by_marker[answer.marker.as_str()])) {
                None => self.lost += 1,
                Some(1) => self.charged_once += 1,
                Some(_) => {}
            }
        }
    }

    /// Holds the numbers of rows against the numbers of requests, user by user.
    fn count(&mut self, entries: &[Entry], rows: &[Row]) {
        let mut users: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
        for entry in entries {
            users.entry(user_of(entry)).or_default()[0] += 1;
        }
        for row in rows {
            users.entry(&row.user).or_default()[1 + usize::from(row.is_interrupted())] += 1;
        }
        for [asked, settled, interrupted] in users.into_values() {
            self.surplus += settled.saturating_sub(asked);
            self.without_row += asked.saturating_sub(settled + interrupted);
            self.never_sent += (settled + interrupted).saturating_sub(asked).min(interrupted);
        }
    }

    /// Counts what is lost, doubled or invented.
    pub(super) fn wrong(&self) -> usize {
        self.lost + self.doubled + self.unknown + self.without_row + self.surplus + self.interrupted_charged
    }

    /// Asserts that nothing is.
    pub(super) fn assert_exact(&self) {
        assert_eq!(
            self.wrong(),
            0,
            "of {} finished answers {} were lost; {} requests were doubled, {} rows are unknown to the provider, {} \
             requests have no row, {} rows are too many, {} interrupted ones were charged",
            self.finished,
            self.lost,
            self.doubled,
            self.unknown,
            self.without_row,
            self.surplus,
            self.interrupted_charged
        );
        assert_eq!(self.charged_once, self.finished);
        assert!(self.finished > 0, "nothing was proved");
    }
}

impl std::fmt::Display for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "provider {}, done {}, charged once {}, lost {}, doubled {}, unknown {}, rows {} (interrupted {}, of which \
             never sent {}, estimated {}), without a row {}, surplus {}",
            self.provider,
            self.finished,
            self.charged_once,
            self.lost,
            self.doubled,
            self.unknown,
            self.rows,
            self.interrupted,
            self.never_sent,
            self.estimated,
            self.without_row,
            self.surplus
        )
    }
}

/// Compares the three books, prints what was found, and asserts that they agree.
pub(super) fn prove(proof: &str, url: &str, provider: &MockProvider, answers: &[Answer]) -> Findings {
    let findings = Findings::of(&rows(url), provider, answers);
    let mut broken: BTreeMap<&str, usize> = BTreeMap::new();
    for answer in answers {
        if let Seen::Broken(how) = &answer.seen {
            *broken.entry(how).or_default() += 1;
        }
    }
    println!("{proof}: streams {}, broken {broken:?}, {findings}", answers.len());
    findings.assert_exact();
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proofs::{
        load::{Caller, Kind, Order},
        provider,
    };

    /// Three requests to the provider itself, and the rows that a faultless service would have written of them.
    fn served(provider: &MockProvider) -> (Vec<Answer>, Vec<Row>) {
        let asking = async {
            let mut caller = Caller::new(provider.addr());
            let mut answers = Vec::new();
            for (number, kind) in [Kind::Short, Kind::Whole, Kind::Short].into_iter().enumerate() {
                answers.push(caller.ask(&Order::new("ann", number, kind)).await);
            }
            answers
        };
        let answers = hne_load::block_on(asking).unwrap();
        let row = |entry: &Entry| {
            let (user, prompt, completion) = key_of(entry);
            Row::parse(&format!("{user} 0 0 1 {prompt} {completion} 0"))
        };
        (answers, provider.books().iter().map(row).collect())
    }

    #[test]
    fn every_difference_between_the_books_is_found() {
        let provider = provider();
        let (answers, exact) = served(&provider);
        let found = |change: &dyn Fn(&mut Vec<Row>)| {
            let mut rows = exact.clone();
            change(&mut rows);
            let found = Findings::of(&rows, &provider, &answers);
            let all = (found.lost, found.doubled, found.unknown, found.without_row, found.surplus);
            (all, found.never_sent, found.interrupted_charged)
        };
        let interrupted = || Row { requests: 0, tokens: (0, 0), outcome: "interrupted", ..exact[0].clone() };
        assert_eq!(Findings::of(&exact, &provider, &answers).charged_once, 3);
        assert_eq!(found(&|_| {}), ((0, 0, 0, 0, 0), 0, 0));
        assert_eq!(found(&|rows| drop(rows.pop())), ((1, 0, 0, 1, 0), 0, 0), "a lost row");
        assert_eq!(found(&|rows| rows.push(exact[0].clone())), ((0, 1, 0, 0, 1), 0, 0), "a doubled row");
        assert_eq!(found(&|rows| rows[0] = exact[1].clone()), ((1, 1, 0, 0, 0), 0, 0), "one twice, one not at all");
        assert_eq!(found(&|rows| rows[0].tokens.0 += 1), ((1, 0, 1, 0, 0), 0, 0), "wrong tokens");
        assert_eq!(found(&|rows| rows[0] = interrupted()), ((1, 0, 0, 0, 0), 0, 0), "finished, but interrupted");
        assert_eq!(found(&|rows| rows.push(interrupted())), ((0, 0, 0, 0, 0), 1, 0), "admitted, but never sent");
        let charged = || Row { requests: 1, ..interrupted() };
        assert_eq!(found(&|rows| rows.push(charged())), ((0, 0, 1, 0, 0), 1, 1), "charged although interrupted");
    }
}
