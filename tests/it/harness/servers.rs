//! Private servers for the tests: one PostgreSQL and one Redis for the whole process, made when first asked for, and
//! extra ones for tests that stop, kill or freeze theirs.
//!
//! Each is run by a shell (`guard.sh`) that stops it and removes its folder when the pipe from this process closes.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    ops::Deref,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Returns the process's PostgreSQL. Each test takes a database of its own.
pub(crate) fn postgres() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(Postgres::start)
}

/// Returns the process's Redis. Each test takes a key prefix, or a user id, of its own.
pub(crate) fn redis() -> &'static Redis {
    static SERVER: OnceLock<Redis> = OnceLock::new();
    SERVER.get_or_init(Redis::start)
}

/// Publishes a document on this port, 0 = any, for as long as the process lives; returns its URL.
pub(crate) fn publish(port: u16, document: String) -> String {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let _read = socket.read(&mut [0; 4_096]).unwrap();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", document.len());
            socket.write_all((head + &document).as_bytes()).unwrap();
        }
    });
    url
}

/// A PostgreSQL server that trusts everybody, with TLS for those who want it (its certificate is for `localhost`).
pub(crate) struct Postgres(Server);

impl Postgres {
    /// Starts an extra one, which ends when it is dropped.
    pub(crate) fn start() -> Self {
        Self(Server::start("postgres"))
    }

    /// Makes an empty database and returns its URL.
    pub(crate) fn fresh_database(&self) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        psql(&self.url("postgres"), &format!("CREATE DATABASE {name} TEMPLATE template0"));
        self.url(&name)
    }

    /// Returns the URL of a database.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.0.port)
    }

    /// Makes a role that may do no more in a database than connect; returns its name, and the URL by which it does.
    pub(crate) fn fresh_role(&self, database: &str) -> (String, String) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("role_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        // Before PostgreSQL 15 everybody may make tables.
        psql(database, &format!("CREATE ROLE {name} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC"));
        let url = database.replace("postgres@", &format!("{name}@"));
        (name, url)
    }

    /// Returns the file of the server's certificate, which signed itself.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.0.folder.join("data/server.crt")
    }
}

/// A Redis server without persistence.
pub(crate) struct Redis(Server);

impl Redis {
    /// Starts an extra one, which ends when it is dropped.
    pub(crate) fn start() -> Self {
        Self(Server::start("redis"))
    }

    /// Makes it forget everything.
    pub(crate) fn flush(&self) {
        assert_eq!(self.command(&["flushall"]), "OK");
    }

    /// Sends a command beside the service's own connection.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.0.port.to_string()]).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Returns its URL.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.0.port)
    }
}

/// A Redis server as hosted ones are: TLS only (its certificate is for `localhost`), and a password.
pub(crate) struct TlsRedis(Server);

impl TlsRedis {
    /// Starts one, which ends when it is dropped.
    pub(crate) fn start() -> Self {
        Self(Server::start("redis_tls"))
    }

    /// Returns its URL, as Upstash's are made.
    pub(crate) fn url(&self) -> String {
        format!("rediss://default:the-token@localhost:{}", self.0.port)
    }

    /// Returns the file of the server's certificate, which signed itself.
    pub(crate) fn certificate(&self) -> String {
        self.0.folder.join("server.crt").display().to_string()
    }

    /// Sends a command beside the service's own connection.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        cli.args(["--tls", "--cacert", &self.certificate(), "-u", &self.url(), "--no-auth-warning"]).args(arguments);
        let output = cli.output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }
}

/// A PgBouncer before the process's PostgreSQL.
pub(crate) struct PgBouncer(Server);

impl PgBouncer {
    /// Starts one with this `pool_mode`, which ends when it is dropped.
    pub(crate) fn start(mode: &str) -> Self {
        Self(Server::start_with("pgbouncer", &[mode, &postgres().port().to_string()]))
    }

    /// Returns a database's URL that leads through it.
    pub(crate) fn url(&self, database: &str) -> String {
        database.replace(&format!(":{}/", postgres().port()), &format!(":{}/", self.0.port))
    }
}

impl Deref for Postgres {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.0
    }
}

impl Deref for Redis {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.0
    }
}

/// Runs SQL through `psql` and returns what it prints: rows by line, columns between bars.
pub(crate) fn psql(url: &str, sql: &str) -> String {
    let output = Command::new("psql").args(["-XqAt", "-v", "ON_ERROR_STOP=1", url, "-c", sql]).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// A running server, and the faults it can have.
pub(crate) struct Server {
    port: u16,
    folder: PathBuf,
    guard: Mutex<Guard>,
}

impl Server {
    /// Lets it end in an orderly way: clients are told.
    pub(crate) fn stop(&self) {
        self.order("stop");
    }

    /// Ends it at once, as a crash would; what was committed stays.
    pub(crate) fn kill(&self) {
        self.order("kill");
    }

    /// Starts it again, on the same port, after `stop` or `kill`.
    pub(crate) fn restart(&self) {
        self.order("start");
    }

    /// Leaves connections open and answers nothing.
    pub(crate) fn freeze(&self) {
        self.order("freeze");
    }

    /// Ends `freeze`.
    pub(crate) fn thaw(&self) {
        self.order("thaw");
    }

    /// Returns its TCP port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    fn start(kind: &str) -> Self {
        Self::start_with(kind, &[])
    }

    /// Starts one that takes more arguments (`guard.sh`).
    fn start_with(kind: &str, more: &[&str]) -> Self {
        // Between looking for a free port and taking it, somebody else may.
        (0..5).find_map(|_| Self::try_start(kind, more)).unwrap_or_else(|| panic!("{kind} can't be started"))
    }

    fn try_start(kind: &str, more: &[&str]) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let script = include_str!("guard.sh");
        let is_root = std::process::Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
        let mut command = if is_root && ["postgres", "pgbouncer"].contains(&kind) {
            // They refuse to run as root.
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        // A group of its own: Ctrl-C is for the tests, the guard cleans up after them.
        let mut shell = command
            .args(["-c", script, "guard", kind, &port.to_string()])
            .args(more)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = shell.stdin.take();
        let answers = BufReader::new(shell.stdout.take().unwrap());
        let mut guard = Guard { shell, orders, answers };
        let folder = PathBuf::from(guard.answer()?);
        Some(Self { port, folder, guard: Mutex::new(guard) })
    }

    fn order(&self, word: &str) {
        let mut guard = self.guard.lock().unwrap();
        writeln!(guard.orders.as_mut().unwrap(), "{word}").unwrap();
        assert_eq!(guard.answer().as_deref(), Some("done"));
    }
}

struct Guard {
    shell: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Guard {
    fn answer(&mut self) -> Option<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.strip_suffix('\n').map(str::to_owned)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.orders.take());
        self.shell.wait().unwrap();
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream, time::Duration};

    use super::*;

    fn ping(redis: &Redis) -> Option<String> {
        let mut line = TcpStream::connect(("127.0.0.1", redis.port())).ok()?;
        line.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        line.write_all(b"PING\r\n").ok()?;
        let mut answer = [0; 7];
        line.read_exact(&mut answer).ok()?;
        Some(String::from_utf8_lossy(&answer).into_owned())
    }

    #[test]
    fn redis_is_started_frozen_killed_and_started_again() {
        assert_eq!(redis().url(), format!("redis://127.0.0.1:{}", redis().port()));
        let own = Redis::start();
        assert_eq!(ping(&own).as_deref(), Some("+PONG\r\n"));
        own.freeze();
        assert_eq!(ping(&own), None);
        own.thaw();
        assert!(ping(&own).is_some());
        own.kill();
        assert_eq!(ping(&own), None);
        own.restart();
        assert!(ping(&own).is_some());
    }
}
