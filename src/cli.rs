//! The command line.
//!
//! Results go to standard output, everything else to standard error. Commands that write bring the database's schema up
//! to date first, so that they work before the first `serve`; those that only read make and change nothing.
//!
//! Exit codes: 0 fine, 1 `ledger verify` found drift, 64 bad command line, 69 a dependency is unavailable, 70 internal
//! error, 78 bad configuration.

mod doctor;
mod key;
mod ledger;
mod migrate;
mod model;
mod plan;
mod serve;
mod token;
mod usage;
mod user;

use std::{io::Write, path::PathBuf, process::ExitCode, time::Duration};

use actors::ports::StoreError;
use clap::{Parser, Subcommand};
use serde_json::Value;

use crate::{
    boot::{BootError, install_crypto},
    config::{Config, ConfigError},
    io::{IoHandle, IoThread},
    store::{self, Schema, Store},
    token::{IssueError, SetupError},
};

/// A metered streaming-chat gateway. Without a command it serves.
#[derive(Debug, Parser)]
#[command(name = "hasnot-engine", version, max_term_width = 100)]
struct Cli {
    /// Reads this file of configuration, over the built-in defaults and under the environment.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints results as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves until SIGTERM, SIGINT, SIGHUP or SIGQUIT, each of which drains.
    Serve,
    /// Brings the database's schema up to date.
    Migrate,
    /// Checks configuration, data folder, databases, Redis, the keys of tokens and providers, and says what is wrong and
    /// what to do.
    Doctor,
    /// Adds, disables and lists users.
    #[command(subcommand)]
    User(user::Command),
    /// Says what plans allow.
    #[command(subcommand)]
    Plan(plan::Command),
    /// Adds, removes and lists models.
    #[command(subcommand)]
    Model(model::Command),
    /// Makes, revokes and lists API keys.
    #[command(subcommand)]
    Key(key::Command),
    /// Issues and revokes tokens.
    #[command(subcommand)]
    Token(token::Command),
    /// Shows what users have used.
    #[command(subcommand)]
    Usage(usage::Command),
    /// Proves, shows and corrects the books.
    #[command(subcommand)]
    Ledger(ledger::Command),
}

/// What a command found: for scripts, and for people.
struct Output {
    json: Value,
    text: String,
    /// 0, or what the finding itself means.
    code: u8,
}

impl Output {
    fn new(json: Value, text: impl Into<String>) -> Self {
        Self { json, text: text.into(), code: 0 }
    }
}

/// Why a command failed: a sentence and an exit code.
#[derive(Debug)]
struct Failed {
    code: u8,
    message: String,
}

const USAGE: u8 = 64;
const UNAVAILABLE: u8 = 69;
const INTERNAL: u8 = 70;
const CONFIG: u8 = 78;

impl Failed {
    fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into() }
    }

    fn unavailable(message: impl Into<String>) -> Self {
        Self { code: UNAVAILABLE, message: message.into() }
    }

    fn without_tables() -> Self {
        Self::unavailable(
            "The database has no tables: check DATABASE_URL; if it is the right one, `hasnot-engine migrate` makes them.",
        )
    }
}

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Self {
        Self { code: CONFIG, message: error.to_string() }
    }
}

impl From<SetupError> for Failed {
    fn from(error: SetupError) -> Self {
        Self { code: CONFIG, message: error.to_string() }
    }
}

impl From<IssueError> for Failed {
    fn from(error: IssueError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        let code = if matches!(error, StoreError::Mistaken(_)) { USAGE } else { UNAVAILABLE };
        Self { code, message: error.to_string() }
    }
}

impl From<BootError> for Failed {
    fn from(error: BootError) -> Self {
        let code = match error {
            BootError::Unavailable(_) => UNAVAILABLE,
            BootError::Config(_) => CONFIG,
            BootError::Internal(_) => INTERNAL,
        };
        Self { code, message: error.to_string() }
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self { code: INTERNAL, message: error.to_string() }
    }
}

/// Runs the program.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no errors.
            let _written = error.print().is_ok();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    install_crypto();
    let json = cli.json;
    match dispatch(cli) {
        Ok(Some(output)) => {
            let text = if json { output.json.to_string() } else { output.text };
            print(text.trim_end());
            ExitCode::from(output.code)
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(failed) => {
            complain(&failed.message);
            ExitCode::from(failed.code)
        }
    }
}

impl Command {
    /// Says whether it leaves the database as it is.
    fn only_reads(&self) -> bool {
        match self {
            Self::Serve | Self::Doctor | Self::Migrate | Self::Token(_) => false,
            Self::User(command) => matches!(command, user::Command::List { .. }),
            Self::Plan(command) => matches!(command, plan::Command::List),
            Self::Model(command) => matches!(command, model::Command::List),
            Self::Key(command) => matches!(command, key::Command::List { .. }),
            Self::Usage(usage::Command::Show { .. }) => true,
            Self::Ledger(command) => matches!(command, ledger::Command::Verify | ledger::Command::Inspect),
        }
    }
}

fn dispatch(cli: Cli) -> Result<Option<Output>, Failed> {
    let command = cli.command.unwrap_or(Command::Serve);
    let config = match (Config::load(cli.config.as_deref()), &command) {
        (Err(error), Command::Doctor) => return Ok(Some(doctor::misconfigured(&error))),
        (config, _) => config?,
    };
    let open = if command.only_reads() { Desk::reading } else { Desk::open };
    let output = match command {
        Command::Serve => return serve::run(config).map(|()| None),
        Command::Doctor => doctor::run(&config)?,
        Command::Migrate => Desk::closed(config)?.block_on(migrate::run)?,
        Command::User(command) => open(config)?.block_on(async |desk| user::run(desk, command).await)?,
        Command::Plan(command) => open(config)?.block_on(async |desk| plan::run(desk, command).await)?,
        Command::Model(command) => open(config)?.block_on(async |desk| model::run(desk, command).await)?,
        Command::Key(command) => open(config)?.block_on(async |desk| key::run(desk, command).await)?,
        Command::Token(command) => open(config)?.block_on(async |desk| token::run(desk, command).await)?,
        Command::Usage(command) => open(config)?.block_on(async |desk| usage::run(desk, command).await)?,
        Command::Ledger(command) => open(config)?.block_on(async |desk| ledger::run(desk, command).await)?,
    };
    Ok(Some(output))
}

/// What commands have at hand: the configuration and the database, beside a running server.
struct Desk {
    config: Config,
    store: Store,
    runtime: tokio::runtime::Runtime,
    _io: IoThread,
}

impl Desk {
    /// Connects to the database as it is.
    fn closed(config: Config) -> Result<Self, Failed> {
        Self::by(config, async |config, io| Store::connect(config, io).await.map(Some))
    }

    /// Connects by this call, which returns `None` where there is no database.
    fn by(
        config: Config,
        connect: impl AsyncFnOnce(&store::Config, &IoHandle) -> Result<Option<Store>, StoreError>,
    ) -> Result<Self, Failed> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let io = IoThread::start()?;
        let store = runtime.block_on(connect(&config.database, &io.handle()));
        let store = store.map_err(|error| match error {
            StoreError::Refused(message) => Failed { code: CONFIG, message },
            away => away.into(),
        })?;
        Ok(Self { config, store: store.ok_or_else(Failed::without_tables)?, runtime, _io: io })
    }

    /// Connects to the database and brings it up to date, so that commands work before the first `serve`.
    fn open(config: Config) -> Result<Self, Failed> {
        let desk = Self::closed(config)?;
        desk.runtime.block_on(desk.store.migrate())?;
        Ok(desk)
    }

    /// Connects to a database that has all tables, for commands that only read: they make none, nor a file. An older
    /// schema is refused likewise, since a statement may need what it lacks.
    fn reading(config: Config) -> Result<Self, Failed> {
        let desk = Self::by(config, Store::find)?;
        match desk.runtime.block_on(desk.store.schema())? {
            Schema::Current => Ok(desk),
            Schema::Absent => Err(Failed::without_tables()),
            Schema::Behind(pending) => Err(Failed::unavailable(format!(
                "The database's schema is older than this version: `hasnot-engine migrate` brings it up to date ({}).",
                pending.join(", ")
            ))),
        }
    }

    fn block_on<T>(&self, work: impl AsyncFnOnce(&Self) -> T) -> T {
        self.runtime.block_on(work(self))
    }
}

/// Writes a result, as one piece, to standard output. Who closed it doesn't want the rest.
fn print(text: &str) {
    let _written = writeln!(std::io::stdout().lock(), "{text}").is_ok();
}

/// Writes a sentence to standard error.
fn complain(text: &str) {
    let _written = writeln!(std::io::stderr().lock(), "{text}").is_ok();
}

/// Returns a reader of whole numbers that are at least this.
fn at_least<T: TryFrom<i128>>(least: i128) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| match text.parse() {
        Ok(number) if number < least => Err(format!("the number must be {least} or more")),
        Ok(number) => T::try_from(number).map_err(|_range| "the number is too large".to_owned()),
        Err(_other) => Err(format!("a whole number, {least} or more")),
    }
}

/// Reads how long a token or a key holds.
fn lifetime(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).ok().filter(|time| *time >= Duration::from_secs(1));
    time.ok_or_else(|| "a time of a second or more, such as 90d or 24h".to_owned())
}

/// Lays out rows under headings, for people.
fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(String::len);
        cells.chain(headings.get(column).map(|heading| heading.len())).max().unwrap_or(0)
    };
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let pad = |(column, cell)| format!("{cell:<width$}", width = width(column));
        let padded: Vec<_> = cells.enumerate().map(pad).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let head = line(&mut headings.iter().copied());
    let body = rows.iter().map(|row| line(&mut row.iter().map(String::as_str)));
    std::iter::once(head).chain(body).collect::<Vec<_>>().join("\n")
}
