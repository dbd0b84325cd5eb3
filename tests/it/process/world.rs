//! The real binary in a world of its own: an empty environment, a folder, a database, a port.

use std::{
    collections::BTreeMap,
    fs::Permissions,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU16, Ordering},
        mpsc::{self, Receiver},
    },
    time::{Duration, Instant},
};

use diesel::{Connection, SqliteConnection, connection::SimpleConnection};
use hne_load::{client::Client, clock, mock::MockProvider};
use serde_json::Value;

use crate::harness::{
    app::{DEADLINE, Database},
    servers,
};

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_hasnot-engine");
/// Runs a program with something about it changed. Debian has it everywhere.
pub(super) const SETPRIV: &str = "/usr/bin/setpriv";

/// A folder, a database and the variables that every process of a test is started with.
pub(crate) struct World {
    folder: tempfile::TempDir,
    variables: BTreeMap<String, String>,
    /// What is run.
    program: PathBuf,
    /// Who runs the binary, and a name of it that they can reach.
    owner: Option<(u32, PathBuf)>,
}

/// How a process ended, and all that it said.
#[derive(Debug)]
pub(crate) struct Done {
    /// Its exit code; minus the signal that killed it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    /// Makes a world with that database: SQLite is what the binary takes when nobody says anything.
    pub(crate) fn on(database: Database) -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
            variables: BTreeMap::new(),
            program: BINARY.into(),
            owner: None,
        };
        let world = world.env("LISTEN", "127.0.0.1:0");
        match database {
            Database::Postgres => world.env("DATABASE_URL", servers::postgres().fresh_database()),
            Database::Sqlite => world,
        }
    }

    /// Has the processes ask this provider instead of the simulator.
    pub(crate) fn asking(self, provider: &MockProvider) -> Self {
        self.env("OPENROUTER_API_KEY", "key").env("OPENROUTER_BASE_URL", provider.base_url())
    }

    /// Sets a variable for all processes from now on.
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    /// Has the binary run by this user from now on, whom nobody let into the folder of the build.
    pub(super) fn unprivileged(mut self, user: u32) -> Self {
        let binary = self.path("hasnot-engine");
        // Another file system can't link to it.
        std::fs::hard_link(BINARY, &binary).or_else(|_| std::fs::copy(BINARY, &binary).map(drop)).unwrap();
        std::fs::set_permissions(self.folder.path(), Permissions::from_mode(0o755)).unwrap();
        self.owner = Some((user, binary));
        self
    }

    /// Runs another program from now on.
    pub(crate) fn run_by(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// Has SIGHUP kill its processes unless they take it, also where these tests were started so that it doesn't.
    pub(crate) fn hung_up(mut self) -> Self {
        let script = self.path("hung-up");
        let text = format!("#!/bin/sh\nexec /usr/bin/env --default-signal=HUP {} \"$@\"\n", self.program.display());
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        self.run_by(script);
        self
    }

    /// Sets a variable for the processes from now on.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.variables.insert(name.to_owned(), value.into());
    }

    /// Returns a path in the folder, which is also where the processes run.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the database's URL.
    pub(crate) fn database_url(&self) -> String {
        let file = || format!("sqlite://{}", self.path("data/hasnot-engine.db").display());
        self.variables.get("DATABASE_URL").cloned().unwrap_or_else(file)
    }

    /// Does what nobody should, behind the store's back.
    pub(super) fn execute(&self, sql: &str) {
        let url = self.database_url();
        match url.strip_prefix("sqlite://") {
            Some(path) => SqliteConnection::establish(path).unwrap().batch_execute(sql).unwrap(),
            None => drop(servers::psql(&url, sql)),
        }
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        self.spawn(arguments).finish()
    }

    /// Runs a command to its end, which must be a good one, and returns its JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let done = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(done.code, 0, "{arguments:?}: {done:?}");
        assert_eq!(done.stdout.lines().count(), 1, "{done:?}");
        serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {done:?}"))
    }

    /// Runs a command that must fail with this code, say why on standard error, and nothing on standard output.
    pub(crate) fn refused(&self, arguments: &[&str], code: i32) -> String {
        let done = self.run(arguments);
        assert_eq!(done.code, code, "{arguments:?}: {done:?}");
        assert_eq!(done.stdout, "", "{arguments:?}");
        assert!(!done.stderr.trim().is_empty(), "{arguments:?}");
        done.stderr
    }

    /// Starts `hasnot-engine` with these arguments.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Process {
        let Some((user, binary)) = &self.owner else {
            return Process::spawn(&self.program, arguments, &self.variables, self.folder.path());
        };
        let user = user.to_string();
        let become_user = ["--reuid", &user, "--regid", &user, "--clear-groups", "--", binary.to_str().unwrap()];
        let arguments = [&become_user, arguments].concat();
        Process::spawn(Path::new(SETPRIV), &arguments, &self.variables, self.folder.path())
    }

    /// Starts the service and waits until it says that it serves.
    pub(crate) fn serve(&self) -> Serving {
        let mut process = self.spawn(&["serve"]);
        let (line, ready) = process.stderr.wait_for("serving address=");
        let address = line.rsplit_once("address=").unwrap().1.trim().parse().unwrap();
        let took = ready.duration_since(process.started);
        Serving { address, took, process }
    }
}

/// A running process, killed when it is dropped, and by the kernel when the test's thread dies first.
pub(crate) struct Process {
    child: Child,
    pub(crate) started: Instant,
    pub(crate) stdout: Pipe,
    pub(crate) stderr: Pipe,
}

impl Process {
    /// Starts a program with these variables and no others.
    pub(crate) fn spawn(
        program: &Path,
        arguments: &[&str],
        variables: &BTreeMap<String, String>,
        folder: &Path,
    ) -> Self {
        let mut command = if Path::new(SETPRIV).exists() {
            let mut command = Command::new(SETPRIV);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let started = clock::now();
        let mut child = command
            .args(arguments)
            .env_clear()
            .envs(variables)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = Pipe::of(child.stdout.take().unwrap());
        let stderr = Pipe::of(child.stderr.take().unwrap());
        Self { child, started, stdout, stderr }
    }

    /// Returns its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells whether it has ended, by itself or not.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Sends a signal: `TERM`, `INT`, `KILL`, `HUP`.
    pub(crate) fn signal(&self, name: &str) {
        let order = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &order]).status().unwrap().success());
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Done {
        self.stdout.read_to_end();
        self.stderr.read_to_end();
        let status = self.child.wait().unwrap();
        let code = status.code().or(status.signal().map(|signal| -signal)).unwrap();
        Done { code, stdout: std::mem::take(&mut self.stdout.text), stderr: std::mem::take(&mut self.stderr.text) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.child.kill().is_ok();
        self.child.wait().unwrap();
    }
}

/// What comes out of a process, line by line.
pub(crate) struct Pipe {
    lines: Receiver<(String, Instant)>,
    /// All that was read so far.
    pub(crate) text: String,
}

impl Pipe {
    fn of(source: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = String::new();
            while source.read_line(&mut line).is_ok_and(|length| length > 0) {
                if sender.send((std::mem::take(&mut line), clock::now())).is_err() {
                    return;
                }
            }
        });
        Self { lines, text: String::new() }
    }

    /// Reads up to the next line that has this in it; returns it, and when it came.
    pub(crate) fn wait_for(&mut self, part: &str) -> (String, Instant) {
        loop {
            let Ok((line, at)) = self.lines.recv_timeout(DEADLINE) else {
                panic!("no line with {part:?} came: {}", self.text)
            };
            self.text.push_str(&line);
            if line.contains(part) {
                return (line, at);
            }
        }
    }

    /// Returns all that came so far.
    pub(crate) fn so_far(&mut self) -> &str {
        self.text.extend(self.lines.try_iter().map(|(line, _)| line));
        &self.text
    }

    fn read_to_end(&mut self) {
        loop {
            match self.lines.recv_timeout(DEADLINE * 2) {
                Ok((line, _)) => self.text.push_str(&line),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the process goes on and on: {}", self.text),
            }
        }
    }
}

/// A process that serves.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    /// From the process's start until it said that it serves.
    pub(crate) took: Duration,
    pub(crate) process: Process,
}

impl Serving {
    /// Returns a client without a token.
    pub(crate) fn anonymous(&self) -> Client {
        Client::new(self.address)
    }

    /// Returns a client with a token, which the command line issues, of a user without limits.
    pub(crate) fn client(&self, world: &World, user: &str) -> Client {
        let issued = world.json(&["token", "issue", "--user", user, "--plan", "unlimited"]);
        self.anonymous().bearer(issued["token"].as_str().unwrap())
    }

    /// Ends it as an operator does, and returns how that went and how long it took.
    pub(crate) fn stop(self, signal: &str) -> (Done, Duration) {
        let asked = clock::now();
        self.process.signal(signal);
        let done = self.process.finish();
        (done, asked.elapsed())
    }
}

/// Returns a port that nobody listens on, outside the range that the kernel hands out: so nobody takes it meanwhile.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 12_000 + u16::try_from(std::process::id() % 1_000).unwrap() * 16;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
