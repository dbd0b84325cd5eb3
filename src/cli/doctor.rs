//! `doctor`: checks what the service needs, and says what is wrong and what to do.

use std::{net::ToSocketAddrs, path::Path, time::Duration};

use serde_json::json;

use super::{Failed, Output, UNAVAILABLE};
use crate::{
    boot::prepare_folder,
    cache,
    config::{Config, ConfigError, HttpProvider, Provider},
    io::IoThread,
    store::Store,
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let checks = runtime.block_on(async {
        let mut checks = vec![Check::of("configuration", Ok(stated(config)))];
        checks.push(Check::of("data folder", data_folder(&config.data_dir)));
        checks.push(Check::of("database", within(database(config, &io)).await));
        checks.push(Check::of("redis", within(redis(config)).await));
        for (name, provider) in &config.providers {
            let check = match provider {
                // Without a key it is asked for nothing, so a machine without a network is no fault.
                idle if idle.is_idle() => Ok("has no key, so it is not used: set OPENROUTER_API_KEY".to_owned()),
                Provider::Http(http) => within(reach(http)).await,
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

async fn within(check: impl Future<Output = Result<String, String>>) -> Result<String, String> {
    tokio::time::timeout(PATIENCE, check).await.unwrap_or_else(|_elapsed| Err(format!("no answer within {PATIENCE:?}")))
}

fn data_folder(folder: &Path) -> Result<String, String> {
    prepare_folder(folder).map_err(|error| error.to_string())?;
    Ok(format!("{} can be written", folder.display()))
}

async fn database(config: &Config, io: &IoThread) -> Result<String, String> {
    let hint =
        |error: actors::ports::StoreError| format!("{error}: check DATABASE_URL, that the server runs, and its log");
    let store = Store::connect(&config.database, &io.handle()).await.map_err(hint)?;
    match store.identity().await {
        Ok(id) => Ok(format!("answers; it is store {id}")),
        Err(_not_migrated) => Ok("answers; `hasnot-engine migrate` or the next start makes its tables".to_owned()),
    }
}

async fn redis(config: &Config) -> Result<String, String> {
    if config.redis.url.is_none() {
        return Ok("none is configured; each instance caches on its own".to_owned());
    }
    cache::ping(&config.redis)
        .await
        .map_err(|error| format!("{error}: check REDIS_URL, the network, and Redis's log"))?;
    Ok("answers".to_owned())
}

/// Opens a connection to the provider's host, and no more: a request could cost money.
async fn reach(provider: &HttpProvider) -> Result<String, String> {
    let url = url::Url::parse(&provider.base_url).map_err(|error| format!("{}: {error}", provider.base_url))?;
    let host = url.host_str().unwrap_or_default().to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let key = if provider.api_key.is_some() { "with a key" } else { "without a key" };
    let target = format!("{host}:{port}");
    let resolve =
        tokio::task::spawn_blocking(move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>));
    let addresses = match resolve.await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(error)) => return Err(format!("{target} can't be resolved ({error}): check base_url and the network")),
        Err(error) => return Err(error.to_string()),
    };
    match tokio::net::TcpStream::connect(&*addresses).await {
        Ok(_) => Ok(format!("{target} takes connections; configured {key}")),
        Err(error) => Err(format!("{target} can't be reached ({error}): check base_url and the network")),
    }
}
