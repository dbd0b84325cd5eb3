//! The configuration: one struct made of each part's own Config.
//!
//! It is read in layers, and a later one wins: `config/default.toml`, which is built in and explains every key; what the
//! profile sets; a file; the environment. What is read is checked as a whole, so that a [`Config`] is always one that
//! can be served; everything that is wrong is reported at once, each as a sentence that names the key, what was found
//! and what is allowed.
//!
//! Secrets are [`secrecy::SecretString`]s: neither `Debug` nor an error nor [`Config::redacted_lines`] shows one.
//! The process's environment is read here and nowhere else.
//!
//! Limits: a file, also one that holds a secret, has at most 1 MiB.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

mod auth;
mod database;
mod engine;
mod environment;
mod error;
mod layers;
mod models;
mod operation;
mod providers;
mod schema;
mod secret;
mod server;

pub use auth::AuthConfig;
pub use error::ConfigError;
pub use models::{ModelConfig, ModelsConfig};
pub use operation::{LogConfig, LogFormat, ShutdownConfig};
pub use providers::{HttpKind, HttpProvider, Provider, STEERING_FIELDS, SimulatorProvider};
pub use secret::{ensure_secret, find_secret};
pub use server::{Admission, ServerConfig};

use layers::Layers;

use crate::{cache, store, values};

/// The file that is read if none is named, where it is there: in the working directory, so that `serve` and the
/// commands beside it agree without being told.
const USUAL_FILE: &str = "hasnot-engine.toml";

/// The name of the provider that models are passed through to.
const OPENROUTER: &str = "openrouter";

/// How the service runs. Every value is in its range, and they fit together.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it runs.
    pub profile: Profile,
    /// The folder of the journal, the `SQLite` file and the secret that development makes.
    pub data_dir: PathBuf,
    /// How clients are served.
    pub server: ServerConfig,
    /// Who is a caller.
    pub auth: AuthConfig,
    /// How limits are held.
    pub quota: actors::quota::Config,
    /// How answers are relayed.
    pub stream: actors::stream::Config,
    /// How usage is booked.
    pub ledger: actors::ledger::Config,
    /// How journals are kept.
    pub journal: actors::ledger::JournalConfig,
    /// Where users, plans, models and usage are kept.
    pub database: store::Config,
    /// The cache that instances share.
    pub redis: cache::Config,
    /// Which models there are.
    pub models: ModelsConfig,
    /// Whose models are served, by name; simulators are there only while no provider has a key.
    pub providers: BTreeMap<String, Provider>,
    /// How the service stops.
    pub shutdown: ShutdownConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// When operators are alerted.
    pub alerts: actors::stats::Config,
    /// Each key with its value and where it came from; secrets are hidden already.
    shown: BTreeMap<String, String>,
}

/// Where the service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// On somebody's own machine: loopback only, with a secret that is made here.
    Development,
    /// For the world: nothing is made up.
    Production,
}

impl Config {
    /// Reads the configuration of this process: its environment, and `file` or else `hasnot-engine.toml`.
    ///
    /// # Errors
    /// [`ConfigError`], with everything that is wrong.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let usual = Path::new(USUAL_FILE);
        Self::read(file.or_else(|| usual.exists().then_some(usual)), environment::process())
    }

    /// Reads the configuration from these variables and this file, and from nothing else.
    ///
    /// # Errors
    /// [`ConfigError`], with everything that is wrong.
    pub fn read(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut layers = Layers::read(file, variables)?;
        let config = Self::from_layers(&mut layers);
        let Layers { mut problems, .. } = layers;
        if let Some(config) = &config {
            config.check(&mut problems);
        }
        problems.finish(config)
    }

    /// Reads every section, also after one that is wrong, so that all is reported.
    fn from_layers(layers: &mut Layers) -> Option<Self> {
        let profile: Option<Profile> = layers.section(&["profile"]);
        let data_dir: Option<PathBuf> = layers.section(&["data_dir"]);
        let server = layers.section(&["server"]);
        let auth = auth::read(layers);
        let quota = layers.section(&["quota"]);
        let stream = layers.section(&["stream"]);
        let ledger = layers.section(&["ledger"]);
        let journal = layers.section(&["journal"]);
        let database: Option<store::Config> = layers.section(&["database"]);
        let redis = layers.section(&["redis"]);
        let providers = providers::read(layers, profile?);
        let models = models::read(layers, &providers);
        let shutdown = layers.section(&["shutdown"]);
        let log = layers.section(&["log"]);
        let alerts = layers.section(&["alerts"]);
        let data_dir = data_dir?;
        let mut database = database?;
        database::settle(&mut database, &data_dir, &mut layers.problems);
        Some(Self {
            profile: profile?,
            data_dir,
            server: server?,
            auth: auth?,
            quota: quota?,
            stream: stream?,
            ledger: ledger?,
            journal: journal?,
            database,
            redis: redis?,
            models: models?,
            providers: providers.usable,
            shutdown: shutdown?,
            log: log?,
            alerts: alerts?,
            shown: layers.shown(),
        })
    }

    fn check(&self, problems: &mut error::Problems) {
        if self.data_dir.as_os_str().is_empty() {
            problems.refuse("data_dir", "empty", "the path of a folder");
        }
        self.server.check(self.profile, problems);
        self.auth.check(self.profile, problems);
        engine::check_quota(&self.quota, problems);
        engine::check_stream(&self.stream, problems);
        engine::check_ledger(&self.ledger, problems);
        engine::check_journal(&self.journal, self.server.worker_count(), problems);
        database::check_database(&self.database, problems);
        database::check_redis(&self.redis, problems);
        self.models.check(problems);
        self.shutdown.check(problems);
        self.log.check(problems);
        engine::check_alerts(&self.alerts, problems);
    }

    /// Returns the provider that takes models which are in no catalog, if they are let through and it has a key.
    #[must_use]
    pub fn pass_through_provider(&self) -> Option<&str> {
        let has_key = matches!(self.providers.get(OPENROUTER), Some(Provider::Http(http)) if http.api_key.is_some());
        (self.models.pass_through && has_key).then_some(OPENROUTER)
    }

    /// Says whether the simulator answers.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        self.providers.values().any(|provider| matches!(provider, Provider::Simulator(_)))
    }

    /// Returns every key with its value and where that came from, for people to read; secrets are hidden.
    pub fn redacted_lines(&self) -> impl Iterator<Item = String> {
        self.shown.iter().map(|(key, value)| format!("{key} = {value}"))
    }
}
