//! How values of the configuration are read that TOML has no type for. Empty text means: not given.

use std::{path::PathBuf, time::Duration};

use actors::domain::Nanodollars;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de::Error as _};
use url::Url;

/// Reads text; `None` if it is empty.
pub(crate) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok((!text.is_empty()).then_some(text))
}

/// Reads a secret; `None` if it is empty.
pub(crate) fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    text(deserializer).map(|text| text.map(SecretString::from))
}

/// Reads a path; `None` if it is empty.
pub(crate) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    text(deserializer).map(|text| text.map(PathBuf::from))
}

/// Reads a duration; `None` if it is zero.
pub(crate) fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let duration: Duration = humantime_serde::deserialize(deserializer)?;
    Ok((!duration.is_zero()).then_some(duration))
}

/// Reads a number; `None` if it is zero.
pub(crate) fn nonzero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = u32::deserialize(deserializer)?;
    Ok((number != 0).then_some(number))
}

/// Reads an amount of US dollars, exactly: as decimal text, or as a number.
pub(crate) fn dollars<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Nanodollars, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected US dollars as a decimal, such as \"0.15\"")]
    enum Decimal {
        Text(String),
        Whole(i64),
        // Rust prints the shortest decimal that reads back as the same float: the one that the operator wrote.
        Float(f64),
    }
    let decimal = match Decimal::deserialize(deserializer)? {
        Decimal::Text(text) => text,
        Decimal::Whole(number) => number.to_string(),
        Decimal::Float(number) => number.to_string(),
    };
    Nanodollars::from_decimal(&decimal)
        .ok_or_else(|| D::Error::custom("expected US dollars as a decimal, not negative, such as \"0.15\""))
}

/// Returns that many minutes.
pub(crate) const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// Says whether this is an http or https URL with a host, and without credentials and fragment.
pub(crate) fn is_http_url(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && bare
    })
}

/// Says whether this is such a URL without a query.
pub(crate) fn is_plain_http_url(text: &str) -> bool {
    is_http_url(text) && !text.contains('?')
}

/// Returns a URL as it may be shown: what its query says is hidden.
pub(crate) fn without_query(url: &str) -> String {
    url.split_once('?').map_or_else(|| url.to_owned(), |(plain, _query)| format!("{plain}?…"))
}

/// Says whether it is certain where the user and password of a URL end: at its only `@`, which comes before any `/` and
/// `?`. A password that isn't percent-encoded may have one of these in it, and its rest would be taken for a host.
pub(crate) fn has_certain_user(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_scheme, rest)| rest);
    rest.split_once('@').is_none_or(|(user, host)| !user.contains(['/', '?']) && !host.contains('@'))
}
