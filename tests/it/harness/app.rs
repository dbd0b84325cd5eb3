//! The whole service in this process, with a database, a data folder and a mock provider of its own.
//!
//! Every test is an accounting test: dropping the app stops the service, which flushes the ledger, and then compares the
//! books with what the mock says it served.

use std::{
    collections::BTreeMap,
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use diesel::{
    Connection, QueryableByName, RunQueryDsl, SqliteConnection, connection::SimpleConnection, sql_query, sql_types,
};
use hasnot_engine::{boot::Gateway, config::Config};
use hne_load::{
    client::{Client, Request, Response},
    mock::{Ending, Entry, MockProvider, Options},
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::servers;

/// The provider's key in every test: must never reach a client.
pub(crate) const PROVIDER_KEY: &str = "provider-key-of-the-tests";
/// What tokens are signed with in every test.
pub(crate) const SECRET: &str = "0f5c9a1e7b3d48266aa1c0ffee5e11ed";
/// How long a test waits for what must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Which database a test's app runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    Postgres,
    Sqlite,
}

/// Says how an app is to be.
pub(crate) struct AppBuilder {
    database: Database,
    variables: BTreeMap<String, String>,
    mock: Options,
}

impl AppBuilder {
    /// Sets a variable of the environment that the app reads.
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// Puts the app on a server that the test takes away, and has it wait for that no longer than `patience`.
    pub(crate) fn losing(self, server: &servers::Postgres, patience: &str) -> Self {
        self.env("DATABASE_URL", server.fresh_database())
            .env("HNE__DATABASE__STATEMENT_TIMEOUT", patience)
            .env("HNE__DATABASE__CONNECT_TIMEOUT", patience)
    }

    /// Gives the app the private Redis, under a prefix of its own.
    pub(crate) fn redis(self) -> Self {
        let prefix = format!("{}:", uuid::Uuid::new_v4().simple());
        self.env("REDIS_URL", servers::redis().url()).env("HNE__REDIS__KEY_PREFIX", prefix)
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> TestApp {
        let mock = MockProvider::start(std::mem::take(&mut self.mock)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let database_url = self.variables.get("DATABASE_URL").cloned().unwrap_or_else(|| match self.database {
            Database::Postgres => servers::postgres().fresh_database(),
            Database::Sqlite => format!("sqlite://{}", folder.path().join("test.db").display()),
        });
        let defaults = [
            ("LISTEN", "127.0.0.1:0".to_owned()),
            ("DATABASE_URL", database_url.clone()),
            ("HNE_DATA_DIR", folder.path().display().to_string()),
            ("JWT_SECRET", SECRET.to_owned()),
            ("OPENROUTER_API_KEY", PROVIDER_KEY.to_owned()),
            ("OPENROUTER_BASE_URL", mock.base_url()),
            ("HNE__SERVER__WORKERS", "2".to_owned()),
            ("HNE__LEDGER__FLUSH_INTERVAL", "20ms".to_owned()),
            ("HNE__DATABASE__POOL_MAX", "4".to_owned()),
        ];
        for (name, value) in defaults {
            self.variables.entry(name.to_owned()).or_insert(value);
        }
        let config = Config::read(None, self.variables.clone()).unwrap();
        let running = Running::start(config).unwrap();
        let variables = self.variables;
        TestApp { running: Some(running), seconds: Vec::new(), mock, folder, database_url, variables, balanced: true }
    }
}

/// The service's own thread.
struct Running {
    client: Client,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<usize>,
}

impl Running {
    fn start(config: Config) -> Result<Self, String> {
        let (started, start) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let (service, server) = match Gateway::start(config).await {
                    Ok(running) => running,
                    Err(error) => {
                        started.send(Err(error.to_string())).unwrap();
                        return 0;
                    }
                };
                let server = actix_rt::spawn(server);
                service.recover().await.unwrap();
                started.send(Ok(service.address())).unwrap();
                stopped.await.unwrap_or_default();
                let left = service.stop(std::future::pending()).await;
                server.await.unwrap().unwrap();
                left
            })
        });
        let address = start.recv().unwrap()?;
        Ok(Self { client: Client::new(address), stop, thread })
    }

    fn stop(self) -> usize {
        let Self { client, stop, thread } = self;
        drop(client);
        stop.send(()).unwrap();
        thread.join().unwrap()
    }
}

/// A running service and its world.
pub(crate) struct TestApp {
    running: Option<Running>,
    seconds: Vec<(Running, tempfile::TempDir)>,
    pub(crate) mock: MockProvider,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) database_url: String,
    variables: BTreeMap<String, String>,
    balanced: bool,
}

/// A row of the books.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub(crate) struct PostingRow {
    #[diesel(sql_type = sql_types::Text)]
    pub(crate) user: String,
    #[diesel(sql_type = sql_types::Text)]
    pub(crate) class: String,
    #[diesel(sql_type = sql_types::BigInt)]
    pub(crate) outcome: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    pub(crate) estimated: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    pub(crate) requests: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    pub(crate) prompt_tokens: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    pub(crate) completion_tokens: i64,
    #[diesel(sql_type = sql_types::BigInt)]
    pub(crate) cost_nanodollars: i64,
}

impl PostingRow {
    /// Returns the outcome's name.
    pub(crate) fn outcome(&self) -> &'static str {
        let code = i16::try_from(self.outcome).unwrap();
        actors::domain::Outcome::from_code(code).unwrap().as_str()
    }

    fn tokens(&self) -> (i64, i64) {
        (self.prompt_tokens, self.completion_tokens)
    }
}

const POSTINGS: &str = r#"SELECT u.name AS "user", c.name AS "class", CAST(p.outcome AS BIGINT) AS outcome,
    CAST(CASE WHEN p.estimated THEN 1 ELSE 0 END AS BIGINT) AS estimated, p.requests, p.prompt_tokens,
    p.completion_tokens, p.cost_nanodollars
    FROM postings p JOIN users u ON u.id = p.user_id JOIN classes c ON c.id = p.class_id ORDER BY p.settled_at, p.id"#;

impl TestApp {
    /// Says how an app on this database is to be.
    pub(crate) fn on(database: Database) -> AppBuilder {
        let mock = Options { api_key: Some(PROVIDER_KEY.to_owned()), ..Options::default() };
        AppBuilder { database, variables: BTreeMap::new(), mock }
    }

    /// Starts an app on PostgreSQL, with everything else as it is by default.
    pub(crate) fn start() -> Self {
        Self::on(Database::Postgres).start()
    }

    /// Starts a second instance on the same database, Redis and provider; returns a client of it without a token.
    pub(crate) fn second(&mut self) -> Client {
        let folder = tempfile::tempdir().unwrap();
        let mut variables = self.variables.clone();
        variables.insert("HNE_DATA_DIR".to_owned(), folder.path().display().to_string());
        let running = Running::start(Config::read(None, variables).unwrap()).unwrap();
        let client = running.client.clone();
        self.seconds.push((running, folder));
        client
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    /// Returns a client without a token.
    pub(crate) fn anonymous(&self) -> Client {
        self.running().client.clone()
    }

    /// Returns a client with a token of this user, who is added with the plan `unlimited`.
    pub(crate) fn client(&self, user: &str) -> Client {
        self.user(user, "unlimited");
        self.anonymous().bearer(&token(&json!({"sub": user, "exp": now() + 3_600})))
    }

    /// Returns a client with an admin's token.
    pub(crate) fn admin(&self) -> Client {
        self.anonymous().bearer(&token(&json!({"sub": "admin", "role": "admin", "exp": now() + 3_600})))
    }

    /// Adds a user with a plan.
    pub(crate) fn user(&self, user: &str, plan: &str) {
        self.cli(&["user", "add", user, "--plan", plan]);
    }

    /// Returns a variable of the environment that the app was started with.
    pub(crate) fn variable(&self, name: &str) -> &str {
        &self.variables[name]
    }

    /// Runs a command of the real binary beside the app, on its database; returns its JSON.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Value {
        let output = self.try_cli(arguments);
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {errors}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// Runs a command of the real binary, which may fail.
    pub(crate) fn try_cli(&self, arguments: &[&str]) -> std::process::Output {
        std::process::Command::new(env!("CARGO_BIN_EXE_hasnot-engine"))
            .args(arguments)
            .arg("--json")
            .env_clear()
            .envs(&self.variables)
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }

    /// Returns the rows of the books, in the order in which they were settled.
    pub(crate) fn postings(&self) -> Vec<PostingRow> {
        if self.database_url.starts_with("sqlite") {
            let path = self.database_url.strip_prefix("sqlite://").unwrap();
            let mut connection = SqliteConnection::establish(path).unwrap();
            connection.batch_execute("PRAGMA busy_timeout = 5000").unwrap();
            return sql_query(POSTINGS).load(&mut connection).unwrap();
        }
        let json = format!("SELECT coalesce(json_agg(x), '[]') FROM ({POSTINGS}) x");
        let rows: Vec<Value> = serde_json::from_str(&servers::psql(&self.database_url, &json)).unwrap();
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let number = |row: &Value, key: &str| row[key].as_i64().unwrap();
        rows.iter()
            .map(|row| PostingRow {
                user: text(row, "user"),
                class: text(row, "class"),
                outcome: number(row, "outcome"),
                estimated: number(row, "estimated"),
                requests: number(row, "requests"),
                prompt_tokens: number(row, "prompt_tokens"),
                completion_tokens: number(row, "completion_tokens"),
                cost_nanodollars: number(row, "cost_nanodollars"),
            })
            .collect()
    }

    /// Waits until the app has seen every change that was made so far: what it reads from then on stays good.
    pub(crate) async fn wait_for_changes(&self) {
        let polls = async || {
            let text = self.anonymous().get("/metrics").await.unwrap().text().await.unwrap();
            let line =
                text.lines().find_map(|line| line.strip_prefix(r#"hne_reloads_total{ok="true",what="changes"} "#));
            line.unwrap().parse::<u64>().unwrap()
        };
        // The one under way may have begun before.
        let seen = polls().await + 2;
        while polls().await < seen {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until so many rows are in the books.
    pub(crate) fn wait_for_postings(&self, count: usize) -> Vec<PostingRow> {
        let started = hne_load::clock::now();
        loop {
            let rows = self.postings();
            if rows.len() >= count {
                return rows;
            }
            assert!(started.elapsed() < DEADLINE, "{count} postings never came: {rows:?}");
            std::thread::yield_now();
        }
    }

    /// Leaves out the comparison with the mock's books, for tests in which the two must differ.
    pub(crate) fn unbalanced(&mut self) {
        self.balanced = false;
    }

    /// Stops the service; returns how many postings were not flushed.
    pub(crate) fn stop(&mut self) -> usize {
        let seconds = self.seconds.drain(..).map(|(running, _folder)| running.stop()).sum::<usize>();
        seconds + self.running.take().map_or(0, Running::stop)
    }

    /// Stops the service and starts it again, on the same database, folder and provider.
    pub(crate) fn restart(&mut self) {
        assert_eq!(self.stop(), 0, "postings were not flushed");
        let config = Config::read(None, self.variables.clone()).unwrap();
        self.running = Some(Running::start(config).unwrap());
    }

    /// Compares the books with the mock's: every answer whose usage was delivered whole is charged with exactly that
    /// usage, and nothing else is charged as reported.
    fn balance(&self) {
        let rows = self.postings();
        let mut charged: Vec<_> = rows.iter().filter(|row| row.estimated == 0 && row.requests > 0).collect();
        charged.sort_by_key(|row| row.tokens());
        let reported = |entry: &Entry| entry.usage_sent && entry.ending == Ending::Finished && entry.status == 200;
        let tokens = |entry: &Entry| {
            (i64::try_from(entry.prompt_tokens).unwrap(), i64::try_from(entry.completion_tokens).unwrap())
        };
        let mut served: Vec<_> = self.mock.books().iter().filter(|entry| reported(entry)).map(tokens).collect();
        served.sort_unstable();
        let charged: Vec<_> = charged.iter().map(|row| row.tokens()).collect();
        assert_eq!(charged, served, "the books differ from the provider's");
        let drift = self.cli(&["ledger", "verify"]);
        assert_eq!(drift["drift"], 0, "{drift}");
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        let left = self.stop();
        if !std::thread::panicking() && self.balanced {
            assert_eq!(left, 0, "postings were not flushed");
            self.balance();
        }
    }
}

/// Returns the machine's time of day in seconds since 1970.
pub(crate) fn now() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "tests sign tokens by the machine's clock")]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

/// Signs a token with the tests' secret.
pub(crate) fn token(claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

/// Makes a chat body whose message ties the request to the mock's books.
pub(crate) fn chat(model: &str, marker: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": marker}]})
}

/// Posts a chat to `/v1/chat/completions`.
pub(crate) async fn complete(client: &Client, body: &Value) -> Response {
    client.post_json("/v1/chat/completions", &body.to_string()).await.unwrap()
}

/// Posts a chat to the optimized path, which streams.
pub(crate) async fn stream(client: &Client, body: &Value) -> Response {
    client.post_json("/api/hasNotEngine-optimized", &body.to_string()).await.unwrap()
}

/// Runs a test's conversation.
pub(crate) fn run<T>(conversation: impl Future<Output = T>) -> T {
    hne_load::block_on(async { tokio::time::timeout(DEADLINE * 3, conversation).await.unwrap() }).unwrap()
}

/// A request for clients that need more than a body.
pub(crate) fn post(path: &str, body: &Value) -> Request {
    Request::post(path).json(&body.to_string())
}
