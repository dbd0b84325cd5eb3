//! An instance that may die: the real binary, on a port and with a folder that outlive it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use hne_load::{client::Client, mock::MockProvider};
use serde_json::{Value, json};

use crate::{
    harness::app::{DEADLINE, Database, SECRET, now, token},
    process::world::{Done, Process, World, free_port},
};

/// Every key that the binary knows.
const REFERENCE: &str = include_str!("../../../config/default.toml");
/// How often a starting instance is asked whether it is ready.
const ASKED_EVERY: Duration = Duration::from_millis(2);

/// A port, a folder, a database, and a process now and then.
pub(super) struct Instance {
    world: World,
    address: SocketAddr,
    process: Option<Process>,
}

impl Instance {
    /// Makes an instance with a database of its own.
    pub(super) fn on(database: Database, provider: &MockProvider) -> Self {
        Self::of(World::on(database), provider)
    }

    /// Makes an instance on that database.
    pub(super) fn at(database_url: &str, provider: &MockProvider) -> Self {
        Self::of(World::on(Database::Sqlite).env("DATABASE_URL", database_url), provider)
    }

    fn of(world: World, provider: &MockProvider) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let world = world
            .env("LISTEN", address.to_string())
            .env("JWT_SECRET", SECRET)
            .asking(provider)
            // What the provider saw once is then one request.
            .env("HNE__PROVIDERS__OPENROUTER__RETRIES", "0")
            .env("HNE__SERVER__WORKERS", "2")
            .env("HNE__LOG__FILTER", "warn")
            .env("HNE__LOG__ACCESS", "false");
        Self { world, address, process: None }
    }

    /// Runs another program from now on.
    pub(super) fn run_by(&mut self, program: PathBuf) {
        self.world.run_by(program);
    }

    /// Sets a variable for the next start.
    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.world.set(name, value);
    }

    /// Sets a key of the journal for the next start, if this binary has one.
    pub(super) fn set_journal(&mut self, key: &str, value: &str) {
        if REFERENCE.contains("[journal]") {
            self.set(&format!("HNE__JOURNAL__{key}"), value);
        } else {
            println!("HNE__JOURNAL__{key} is not set: this binary has no journal");
        }
    }

    /// Returns where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the database's URL.
    pub(super) fn database_url(&self) -> String {
        self.world.database_url()
    }

    /// Runs a command beside it, or without it, and returns its JSON.
    pub(super) fn json(&self, arguments: &[&str]) -> Value {
        self.world.json(arguments)
    }

    /// Starts it and waits until it is ready.
    pub(super) fn start(&mut self) {
        self.begin();
        let mut process = self.process.take().unwrap();
        let client = Client::new(self.address);
        let ready = async {
            let mut turns = tokio::time::interval(ASKED_EVERY);
            loop {
                turns.tick().await;
                if client.get("/readyz").await.is_ok_and(|response| response.status == 200) {
                    return true;
                }
                if process.has_ended() || process.started.elapsed() > DEADLINE {
                    return false;
                }
            }
        };
        if !hne_load::block_on(ready).unwrap() {
            panic!("the instance does not get ready: {:?}", ended(process));
        }
        self.process = Some(process);
    }

    /// Starts it and waits for nothing.
    pub(super) fn begin(&mut self) {
        self.process = Some(self.world.spawn(&["serve"]));
    }

    /// Returns the text of one of its pages.
    pub(super) fn get(&self, path: &str) -> String {
        let page = async { Client::new(self.address).get(path).await?.text().await };
        hne_load::block_on(page).unwrap().unwrap()
    }

    /// Returns how much memory the running process has, as the kernel says.
    pub(super) fn resident_bytes(&self) -> u64 {
        let process = self.process.as_ref().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Kills it: it must have lived until now.
    pub(super) fn kill(&mut self) {
        let process = self.process.take().unwrap();
        process.signal("KILL");
        let done = process.finish();
        assert_eq!(done.code, -9, "it had ended before it was killed: {done:?}");
        self.remember(&done.stderr);
    }

    /// Ends it in an orderly way.
    pub(super) fn stop(&mut self) {
        let process = self.process.take().unwrap();
        process.signal("TERM");
        let done = process.finish();
        assert_eq!(done.code, 0, "{done:?}");
        self.remember(&done.stderr);
    }

    /// Asserts that the totals are the sums of their postings.
    pub(super) fn verify(&self) {
        let verified = self.json(&["ledger", "verify"]);
        assert_eq!(verified["drift"], 0, "{verified}");
    }

    /// Keeps what it said; shown when the proof fails.
    fn remember(&self, said: &str) {
        let path = self.world.path("said");
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, before + said).unwrap();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Some(process) = self.process.take() {
                self.remember(&ended(process).stderr);
            }
            let said = std::fs::read_to_string(self.world.path("said")).unwrap_or_default();
            let skipped = said.lines().count().saturating_sub(40);
            let last: Vec<_> = said.lines().skip(skipped).collect();
            println!("the last that the instance on {} said:\n{}", self.address, last.join("\n"));
        }
    }
}

/// Ends a process that may have ended.
fn ended(mut process: Process) -> Done {
    if !process.has_ended() {
        process.signal("KILL");
    }
    process.finish()
}

/// Returns a token of this user, good for a week: a store's clock may be days ahead.
pub(super) fn token_of(user: &str) -> String {
    token(&json!({"sub": user, "exp": now() + 7 * 86_400}))
}
