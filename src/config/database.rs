//! `[database]` and `[redis]`: where things are kept.

use std::{path::Path, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::error::Problems;
use crate::{
    cache::{self, SetupError},
    store,
    values::{has_certain_user, minutes},
};

/// Fills in the default URL, and takes `pool_max` out of the URL that is given.
pub(super) fn settle(config: &mut store::Config, data_dir: &Path, problems: &mut Problems) {
    let given = config.url.expose_secret();
    if given.is_empty() {
        let file = data_dir.join("hasnot-engine.db");
        config.url = SecretString::from(format!("sqlite://{}", file.display()));
        return;
    }
    // What follows a bare `?` in a password is no query: it is refused below, and none of it is shown.
    let Some((before, query)) = given.split_once('?').filter(|_| has_certain_user(given)) else { return };
    let (ours, others): (Vec<&str>, Vec<&str>) =
        query.split('&').partition(|pair| pair.split('=').next() == Some("pool_max"));
    let Some(pair) = ours.last() else { return };
    match pair.split_once('=').and_then(|(_, number)| number.parse().ok()) {
        Some(number) => config.pool_max = number,
        None => problems.refuse("database.url", format_args!("one with {pair:?}"), "one with pool_max=1 to 1000"),
    }
    let query = if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
    config.url = SecretString::from(format!("{before}{query}"));
}

/// Checks `[database]`.
pub(super) fn check_database(config: &store::Config, problems: &mut Problems) {
    let schemes = ["postgres", "postgresql", "sqlite"];
    let urls = [("database.url", Some(&config.url)), ("database.replica_url", config.replica_url.as_ref())];
    for (key, url) in urls.into_iter().filter_map(|(key, url)| Some((key, url?))) {
        if check_url(key, url, &schemes, problems)
            && let Err(why) = store::check_url(url)
        {
            problems.say(format!("{} can't be used: {why}.", problems.name(key)));
        }
    }
    problems.within("database.pool_max", config.pool_max, 1..=1_000);
    problems.within_time("database.idle_timeout", config.idle_timeout, Duration::from_secs(1)..=minutes(60));
    let least = Duration::from_millis(100);
    problems.within_time("database.connect_timeout", config.connect_timeout, least..=minutes(1));
    problems.within_time("database.statement_timeout", config.statement_timeout, least..=minutes(10));
}

/// Checks `[redis]`.
pub(super) fn check_redis(config: &cache::Config, problems: &mut Problems) {
    if let Some(url) = &config.url
        && check_url("redis.url", url, &["redis", "rediss"], problems)
        && let Err(why) = cache::check(config)
    {
        let key =
            if matches!(why, SetupError::Url | SetupError::DatabaseNumber) { "redis.url" } else { "redis.ca_file" };
        problems.say(format!("{} can't be used: {why}.", problems.name(key)));
    }
    let range = Duration::from_millis(1)..=Duration::from_secs(10);
    problems.within_time("redis.timeout", config.timeout, range);
    problems.within("redis.queue", config.queue, 1..=1_000_000);
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
    let plain = url.split_once('?').map_or(url, |(plain, _query)| plain);
    if plain.starts_with("sqlite://") {
        return plain.to_owned();
    }
    // A password with a bare `@`, `/`, `?` or `#` in it makes a URL whose parts aren't what they seem.
    let parsed = Url::parse(plain).ok().filter(|_| !plain.contains('#') && has_certain_user(url));
    let host = parsed.as_ref().and_then(|url| Some((url, url.host_str()?)));
    host.map_or_else(
        || "hidden".to_owned(),
        |(url, host)| {
            let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
            format!("{}://…@{host}{port}{}", url.scheme(), url.path())
        },
    )
}
