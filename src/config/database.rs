//! `[database]` and `[redis]`: where things are kept.

use std::{path::Path, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use crate::{cache, store};

use super::{
    error::Problems,
    values::{self, minutes},
};

/// Where users, plans, models and usage are kept: `[database]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `postgres://…` or `sqlite://PATH`; `pool_max` is taken out of it. PATH is a path as it stands.
    pub url: SecretString,
    /// Where usage listings and reports read from, if not from `url`.
    #[serde(deserialize_with = "values::secret")]
    pub replica_url: Option<SecretString>,
    /// The most connections, 1 to 1,000.
    pub pool_max: u32,
    /// How long an idle connection is kept: 1 s to 1 h.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long opening a connection may take: 100 ms to 1 min.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long a statement may take: 100 ms to 10 min.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
}

/// The cache that instances share: `[redis]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://…` or `rediss://…`; `None` = no shared cache.
    #[serde(deserialize_with = "values::secret")]
    pub url: Option<SecretString>,
    /// How long a call may take: 1 ms to 10 s.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The most writes that wait for the server: 1 to 1,000,000. What doesn't fit is dropped.
    pub queue: usize,
    /// What every key begins with, where several deployments share a server.
    pub key_prefix: String,
}

impl DatabaseConfig {
    /// Returns what the store is to go by.
    #[must_use]
    pub fn store(&self) -> store::Config {
        store::Config {
            url: self.url.clone(),
            replica_url: self.replica_url.clone(),
            pool_max: self.pool_max,
            idle_timeout: self.idle_timeout,
            connect_timeout: self.connect_timeout,
            statement_timeout: self.statement_timeout,
        }
    }

    /// Fills in the default URL, and takes `pool_max` out of the URL that is given.
    pub(super) fn settle(&mut self, data_dir: &Path, problems: &mut Problems) {
        let given = self.url.expose_secret();
        if given.is_empty() {
            let file = data_dir.join("hasnot-engine.db");
            self.url = SecretString::from(format!("sqlite://{}", file.display()));
            return;
        }
        let Some((before, query)) = given.split_once('?') else { return };
        let (ours, others): (Vec<&str>, Vec<&str>) =
            query.split('&').partition(|pair| pair.split('=').next() == Some("pool_max"));
        let Some(pair) = ours.last() else { return };
        match pair.split_once('=').and_then(|(_, number)| number.parse().ok()) {
            Some(number) => self.pool_max = number,
            None => problems.refuse("database.url", format_args!("one with {pair:?}"), "one with pool_max=1 to 1000"),
        }
        let query = if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
        self.url = SecretString::from(format!("{before}{query}"));
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        let schemes = ["postgres", "postgresql", "sqlite"];
        let urls = [("database.url", Some(&self.url)), ("database.replica_url", self.replica_url.as_ref())];
        for (key, url) in urls.into_iter().filter_map(|(key, url)| Some((key, url?))) {
            if check_url(key, url, &schemes, problems)
                && let Err(why) = store::check_url(url)
            {
                problems.say(format!("{} can't be used: {why}.", problems.name(key)));
            }
        }
        problems.within("database.pool_max", self.pool_max, 1..=1_000);
        problems.within_time("database.idle_timeout", self.idle_timeout, Duration::from_secs(1)..=minutes(60));
        let least = Duration::from_millis(100);
        problems.within_time("database.connect_timeout", self.connect_timeout, least..=minutes(1));
        problems.within_time("database.statement_timeout", self.statement_timeout, least..=minutes(10));
    }
}

impl RedisConfig {
    /// Returns what the cache is to go by.
    #[must_use]
    pub fn cache(&self) -> cache::Config {
        cache::Config {
            url: self.url.clone(),
            timeout: self.timeout,
            queue: self.queue,
            key_prefix: self.key_prefix.clone(),
        }
    }

    pub(super) fn check(&self, problems: &mut Problems) {
        if let Some(url) = &self.url
            && check_url("redis.url", url, &["redis", "rediss"], problems)
            && let Err(why) = cache::check_url(url)
        {
            problems.say(format!("{} can't be used: {why}.", problems.name("redis.url")));
        }
        let range = Duration::from_millis(1)..=Duration::from_secs(10);
        problems.within_time("redis.timeout", self.timeout, range);
        problems.within("redis.queue", self.queue, 1..=1_000_000);
    }
}

/// Refuses a URL whose scheme is none of these, or that has nothing after it. Shows its scheme at most. Says whether it
/// was let pass.
fn check_url(key: &str, url: &SecretString, schemes: &[&str], problems: &mut Problems) -> bool {
    let allowed = format!("{}://…", schemes.join("://… or "));
    match url.expose_secret().split_once("://") {
        Some((scheme, rest)) if schemes.contains(&scheme) && !rest.is_empty() => return true,
        Some((scheme, _)) if scheme.len() <= 16 && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+') => {
            problems.refuse(key, format_args!("a URL that begins with {scheme}://"), allowed);
        }
        _ => problems.refuse(key, "no URL", allowed),
    }
    false
}

/// Returns what of a database's or Redis's URL may be shown: no user, no password, no query.
pub(super) fn masked(url: &str) -> String {
    let (plain, query) = url.split_once('?').unwrap_or((url, ""));
    if plain.starts_with("sqlite://") {
        return plain.to_owned();
    }
    // A password with a bare `?` or `#` in it makes a URL whose parts aren't what they seem.
    let parsed = Url::parse(plain).ok().filter(|_| !plain.contains('#') && !query.contains('@'));
    let host = parsed.as_ref().and_then(|url| Some((url, url.host_str()?)));
    host.map_or_else(
        || "hidden".to_owned(),
        |(url, host)| {
            let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
            format!("{}://…@{host}{port}{}", url.scheme(), url.path())
        },
    )
}
