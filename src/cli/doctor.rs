//! `doctor`: checks what the service needs, and says what is wrong and what to do.

use std::{sync::Arc, time::Duration};

use actix_rt::{Arbiter, System};
use actors::{
    metrics::Metrics,
    ports::{Clock, StoreError},
};
use serde_json::json;
use uuid::Uuid;

use super::{Failed, Output, UNAVAILABLE};
use crate::{
    boot::find_room,
    cache,
    clock::StoreClock,
    config::{self, Config, ConfigError, HttpProvider, Provider},
    io::IoThread,
    store::{self, Examination, Schema, Store},
    token::{AwcFetch, Published, Verifier},
    upstream,
};

/// How long each check may take.
const PATIENCE: Duration = Duration::from_secs(10);

struct Check {
    name: String,
    ok: bool,
    message: String,
}

impl Check {
    fn of(name: impl Into<String>, result: Result<String, String>) -> Self {
        let ok = result.is_ok();
        let (Ok(message) | Err(message)) = result;
        Self { name: name.into(), ok, message }
    }
}

pub(super) fn run(config: &Config) -> Result<Output, Failed> {
    let io = IoThread::start()?;
    let checks = System::new().block_on(async {
        let mut checks = vec![Check::of("configuration", Ok(stated(config)))];
        checks.push(Check::of("data folder", data_folder(config)));
        checks.extend(databases(&config.database, &io).await);
        checks.push(Check::of("redis", within(redis(config)).await));
        checks.push(Check::of("tokens", within(tokens(config)).await));
        for (name, provider) in &config.providers {
            let check = match provider {
                // Without a key it is asked for nothing, so a machine without a network is no fault.
                idle if idle.is_idle() => Ok("has no key, so it is not used: set OPENROUTER_API_KEY".to_owned()),
                Provider::Http(http) => within(reach(name, http)).await,
                Provider::Simulator(_) => Ok("a simulator: set OPENROUTER_API_KEY for real answers".to_owned()),
            };
            checks.push(Check::of(format!("provider {name}"), check));
        }
        checks
    });
    Ok(findings(&checks))
}

/// What there is to say where the configuration is bad: nothing else can be checked by it.
pub(super) fn misconfigured(error: &ConfigError) -> Output {
    findings(&[Check::of("configuration", Err(error.to_string()))])
}

fn findings(checks: &[Check]) -> Output {
    let ok = checks.iter().all(|check| check.ok);
    let json = checks.iter().map(|check| json!({"name": check.name, "ok": check.ok, "message": check.message}));
    let json = json!({"ok": ok, "checks": json.collect::<Vec<_>>()});
    let line = |check: &Check| format!("{} {}: {}", if check.ok { "ok  " } else { "FAIL" }, check.name, check.message);
    let text: Vec<_> = checks.iter().map(line).collect();
    Output { json, text: text.join("\n"), code: if ok { 0 } else { UNAVAILABLE } }
}

/// Says what was set, and where; defaults are in the reference.
fn stated(config: &Config) -> String {
    let stated: Vec<_> = config.redacted_lines().filter(|line| !line.ends_with("(default)")).collect();
    if stated.is_empty() { "all as it is by default".to_owned() } else { stated.join("; ") }
}

async fn within<T>(check: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, check).await.unwrap_or_else(|_elapsed| Err(format!("no answer within {PATIENCE:?}")))
}

fn data_folder(config: &Config) -> Result<String, String> {
    let (folder, workers) = (&config.data_dir, config.server.worker_count());
    find_room(folder, config.journal.segment_bytes, workers).map_err(|error| error.to_string())?;
    Ok(format!("{} can be written, and has room for journals", folder.display()))
}

/// Checks the database and, where there is one, the replica.
async fn databases(config: &store::Config, io: &IoThread) -> Vec<Check> {
    let examined = within(examine(config, io)).await;
    let has_tables = matches!(&examined, Ok(Examination { identity: Some(_), .. }));
    let mut checks = vec![Check::of("database", examined.map(said))];
    if let Some(url) = &config.replica_url {
        let config = store::Config { url: url.clone(), replica_url: None, ..config.clone() };
        let replica = match within(look(&config, io)).await {
            Ok(None) if has_tables => {
                Err("has no tables to read: DATABASE_REPLICA_URL must be a copy of the database".to_owned())
            }
            Ok(None) => Ok("answers, but has no tables yet, as the database".to_owned()),
            Ok(Some(id)) => Ok(format!("answers; it is store {id}")),
            Err(why) => Err(why),
        };
        checks.push(Check::of("replica", replica));
    }
    checks
}

/// Says what was found, and what is still to come.
fn said(Examination { schema, identity }: Examination) -> String {
    let id = identity.map_or_else(String::new, |id| id.to_string());
    match schema {
        Schema::Absent => "has no tables yet: `hasnot-engine migrate` or the first start makes them".to_owned(),
        Schema::Current => format!("answers; it is store {id}"),
        Schema::Behind(pending) => format!(
            "answers; it is store {id}; `hasnot-engine migrate` or the next start brings its schema up to date ({})",
            pending.join(", ")
        ),
    }
}

async fn examine(config: &store::Config, io: &IoThread) -> Result<Examination, String> {
    Store::examine(config, &io.handle()).await.map_err(|error| hint(error, "DATABASE_URL"))
}

/// Connects to the replica, as it is, and asks for its id: `None` where it has no tables.
async fn look(config: &store::Config, io: &IoThread) -> Result<Option<Uuid>, String> {
    let hint = |error| hint(error, "DATABASE_REPLICA_URL");
    let Some(store) = Store::find(config, &io.handle()).await.map_err(hint)? else { return Ok(None) };
    match store.schema().await.map_err(hint)? {
        Schema::Absent => Ok(None),
        Schema::Behind(_) | Schema::Current => store.identity().await.map(Some).map_err(hint),
    }
}

/// Adds what to do, where a database's error doesn't say.
fn hint(error: StoreError, variable: &str) -> String {
    match error {
        StoreError::Unfit(sentence) => sentence,
        other => format!("{other}: check {variable}, that the server runs, and its log"),
    }
}

async fn redis(config: &Config) -> Result<String, String> {
    if config.redis.url.is_none() {
        return Ok("none is configured; each instance caches on its own".to_owned());
    }
    cache::try_out(&config.redis)
        .await
        .map_err(|error| format!("{error}: check REDIS_URL, its user's rights, the network, and Redis's log"))?;
    Ok("answers, and keeps what is written".to_owned())
}

/// Makes the verifier as `serve` does, and asks for the signer's keys once.
async fn tokens(config: &Config) -> Result<String, String> {
    let (mut config, clock) = (config.clone(), Arc::new(StoreClock::new()));
    if !config::find_secret(&mut config).map_err(|error| error.to_string())? {
        return Ok("the first start makes a secret".to_owned());
    }
    let jwt = &config.auth.jwt;
    let hint = |trouble: String| format!("{trouble}: check JWT_ALGORITHM, and JWT_PUBLIC_KEY_FILE or JWT_JWKS_URL");
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), clock.wall()).map_err(|error| error.to_string())?;
    let fetch = Arc::new(AwcFetch::new(Arbiter::current()));
    let verifier = Verifier::new(jwt, fetch, clock, &metrics).map_err(|error| hint(error.to_string()))?;
    verifier.warm_up().await;
    let name = jwt.algorithm.as_str();
    match verifier.published() {
        None if config.auth.secret_made_here => {
            let folder = config.data_dir.display();
            Ok(format!("are verified by {name}, with a secret that was made here and is kept in {folder}"))
        }
        None => Ok(format!("are verified by {name}, with a configured key")),
        Some(Published { trouble: Some(trouble), .. }) => Err(hint(format!("the signer's keys: {trouble}"))),
        Some(Published { usable, .. }) => Ok(format!("are verified by {name}, with {usable} published keys")),
    }
}

/// Opens a connection to the provider, and no more: a request could cost money.
async fn reach(name: &str, provider: &HttpProvider) -> Result<String, String> {
    let url = &provider.base_url;
    let hint = |error| format!("{url}: {error}: check base_url, ca_file and the network");
    upstream::try_out(name, provider).await.map_err(hint)?;
    let key = if provider.api_key.is_some() { "with a key" } else { "without a key" };
    Ok(format!("{url} takes connections; configured {key}"))
}
