//! Faults of the store: commits whose answer never comes, and databases that come back older than they were.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hne_load::{
    chaos::{ChaosProxy, Cut, Direction, Moment},
    clock,
    mock::MockProvider,
};

use super::{
    Chance,
    books::{prove, rows},
    crash::{start_under_load, users},
    instance::Instance,
    load::Crowd,
    machine_shared, pass, provider, scale,
};
use crate::harness::{
    app::{DEADLINE, Database},
    servers::{self, Postgres, psql},
};

/// A batch about every 20 ms, so that a cut after each [`CUT_EVERY`] is one of about 50 commits.
const FLUSH_INTERVAL: &str = "20ms";
/// How often it is looked for what should have come.
const ASKED_EVERY: Duration = Duration::from_millis(50);
/// Milliseconds from one cut to the next.
const CUT_EVERY: (u64, u64) = (600, 1_400);

#[test]
fn commits_that_are_cut_off_double_nothing() {
    const NAME: &str = "cut commits and kills";
    let _busy = machine_shared();
    let (kills, cuts_each) = scale((10, 3), (50, 10));
    let mut chance = Chance::new(NAME);
    let provider = provider();
    let direct = servers::postgres().fresh_database();
    let target = SocketAddr::from(([127, 0, 0, 1], servers::postgres().port()));
    let proxy = ChaosProxy::start(target).unwrap();
    let mut instance = Instance::at(&direct.replace(&target.to_string(), &proxy.addr().to_string()), &provider);
    instance.set("HNE__LEDGER__FLUSH_INTERVAL", FLUSH_INTERVAL);
    let crowd = Crowd::busy(instance.address(), users(&instance));
    let mut cuts = 0;
    for _ in 0..kills {
        start_under_load(&mut instance, &provider);
        for _ in 0..cuts_each {
            cuts += 1;
            let moment = if cuts % 2 == 0 { Moment::Before } else { Moment::Answered };
            proxy.cut_when(Direction::Up, "COMMIT", moment, Cut::Reset);
            let cut = hne_load::block_on(proxy.wait_for_cuts(cuts, DEADLINE)).unwrap();
            assert!(cut, "no commit passed");
            pass(chance.millis(CUT_EVERY.0, CUT_EVERY.1));
        }
        pass(chance.millis(20, 250));
        instance.kill();
    }
    let answers = crowd.finish();
    instance.start();
    instance.stop();
    println!("{NAME}: kills {kills}, cuts {cuts}, half of them when the commit was answered");
    prove(NAME, &direct, &provider, &answers);
    instance.verify();
}

/// How long the load runs before a copy, and from then to the crash.
fn a_while() -> (Duration, Duration) {
    (Duration::from_secs(1), Duration::from_secs(scale(3, 30)))
}

/// Serves, is stopped for a copy, serves on, is killed; then the copy takes the place of the database.
fn an_old_copy_comes_back(
    name: &str,
    mut instance: Instance,
    provider: &MockProvider,
    copy: impl FnOnce(),
    restore: impl FnOnce(),
) {
    let _busy = machine_shared();
    let crowd = Crowd::busy(instance.address(), users(&instance));
    let (before, since) = a_while();
    start_under_load(&mut instance, provider);
    pass(before);
    instance.stop();
    copy();
    let copied = rows(&instance.database_url()).len();
    start_under_load(&mut instance, provider);
    pass(since);
    instance.kill();
    let answers = crowd.finish();
    let written = rows(&instance.database_url()).len();
    restore();
    assert_eq!(rows(&instance.database_url()).len(), copied, "the old copy is back");
    instance.start();
    instance.stop();
    println!("{name}: rows in the copy {copied}, when it came back {written}");
    prove(name, &instance.database_url(), provider, &answers);
    instance.verify();
}

/// The files of a SQLite database.
fn files(url: &str) -> [PathBuf; 3] {
    let path = url.strip_prefix("sqlite://").unwrap();
    ["", "-wal", "-shm"].map(|end| PathBuf::from(format!("{path}{end}")))
}

#[test]
fn an_old_copy_of_sqlite_is_brought_up_to_date() {
    let provider = provider();
    let instance = Instance::on(Database::Sqlite, &provider);
    let files = files(&instance.database_url());
    let folder = tempfile::tempdir().unwrap();
    let kept = |file: &Path| folder.path().join(file.file_name().unwrap());
    let copy = || {
        for file in files.iter().filter(|file| file.exists()) {
            std::fs::copy(file, kept(file)).unwrap();
        }
    };
    let restore = || {
        for file in &files {
            // Of the three only the first is always there.
            let removed = std::fs::remove_file(file).is_ok();
            assert!(removed || file != &files[0]);
            if kept(file).exists() {
                std::fs::copy(kept(file), file).unwrap();
            }
        }
    };
    an_old_copy_comes_back("old copy of SQLite", instance, &provider, copy, restore);
}

/// A database and its copy, on one server.
struct Copied<'a> {
    server: &'a Postgres,
    name: String,
}

impl<'a> Copied<'a> {
    fn of(server: &'a Postgres, url: &str) -> Self {
        let name = url.rsplit_once('/').unwrap().1.split('?').next().unwrap().to_owned();
        Self { server, name }
    }

    /// Runs an order about the database, which stands as `%` in it.
    fn order(&self, sql: &str) {
        let sql = sql.replace('%', &self.name);
        psql(&self.server.url("postgres"), &sql);
    }

    /// Lets nobody in any more, and waits until those who are in are out.
    fn clear(&self) {
        self.order("ALTER DATABASE % WITH ALLOW_CONNECTIONS false");
        self.order("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '%'");
    }

    /// Copies the database as it is now.
    fn copy(&self) {
        self.clear();
        self.order("CREATE DATABASE %_old TEMPLATE %");
        self.order("ALTER DATABASE % WITH ALLOW_CONNECTIONS true");
    }

    /// Returns the URL of the copy.
    fn copied_url(&self) -> String {
        self.server.url(&format!("{}_old", self.name))
    }

    /// Puts the copy in the database's place.
    fn restore(&self) {
        self.clear();
        self.order("ALTER DATABASE % RENAME TO %_lost");
        self.order("ALTER DATABASE %_old RENAME TO %");
        self.order("ALTER DATABASE % WITH ALLOW_CONNECTIONS true");
    }
}

#[test]
fn an_old_copy_of_postgres_is_brought_up_to_date() {
    let provider = provider();
    let url = servers::postgres().fresh_database();
    let database = Copied::of(servers::postgres(), &url);
    let instance = Instance::at(&url, &provider);
    let (copy, restore) = (|| database.copy(), || database.restore());
    an_old_copy_comes_back("old copy of PostgreSQL", instance, &provider, copy, restore);
}

#[test]
fn an_old_copy_of_postgres_is_brought_up_to_date_while_it_serves() {
    const NAME: &str = "old copy of PostgreSQL, alive";
    let provider = provider();
    let url = servers::postgres().fresh_database();
    let database = Copied::of(servers::postgres(), &url);
    let mut instance = Instance::at(&url, &provider);
    let _busy = machine_shared();
    let crowd = Crowd::busy(instance.address(), users(&instance));
    let (before, since) = a_while();
    start_under_load(&mut instance, &provider);
    pass(before);
    database.copy();
    let copied = rows(&database.copied_url()).len();
    pass(since);
    let written = rows(&url).len();
    database.restore();
    pass(before);
    let answers = crowd.finish();
    instance.stop();
    println!("{NAME}: rows in the copy {copied}, when it came back {written}");
    prove(NAME, &url, &provider, &answers);
    instance.verify();
}

#[test]
fn what_a_crash_has_left_is_brought_anew_to_an_old_copy_of_postgres() {
    const NAME: &str = "old copy of PostgreSQL, after a recovery";
    let provider = provider();
    let url = servers::postgres().fresh_database();
    let database = Copied::of(servers::postgres(), &url);
    let mut instance = Instance::at(&url, &provider);
    let _busy = machine_shared();
    instance.set("HNE__LEDGER__FLUSH_INTERVAL", "1m");
    let crowd = Crowd::busy(instance.address(), users(&instance));
    start_under_load(&mut instance, &provider);
    pass(a_while().0);
    instance.kill();
    let answers = crowd.finish();
    database.copy();
    let copied = rows(&database.copied_url()).len();
    instance.set("HNE__LEDGER__FLUSH_INTERVAL", FLUSH_INTERVAL);
    instance.start();
    let written = rows(&url).len();
    assert!(written > copied, "nothing was left to be recovered");
    // Nothing has been served since.
    database.restore();
    let began = clock::now();
    while rows(&url).len() < written && began.elapsed() < DEADLINE {
        pass(ASKED_EVERY);
    }
    instance.stop();
    println!("{NAME}: rows in the copy {copied}, when it came back {written}");
    prove(NAME, &url, &provider, &answers);
    instance.verify();
}
