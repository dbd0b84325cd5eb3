//! What is wrong with a configuration, in full sentences; everything that is wrong at once.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    ops::RangeInclusive,
    time::Duration,
};

use humantime_serde::re::humantime::format_duration;

/// A configuration that is refused. Its display is one sentence a line, and never shows a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(Vec<String>);

impl ConfigError {
    /// Refuses for one reason, a full sentence.
    pub(super) fn of(sentence: String) -> Self {
        Self(vec![sentence])
    }

    /// Returns the reasons, each a full sentence.
    #[must_use]
    pub fn sentences(&self) -> &[String] {
        &self.0
    }
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// Collects what is wrong, so that all of it is reported together.
#[derive(Debug, Default)]
pub(super) struct Problems {
    sentences: Vec<String>,
    origins: BTreeMap<String, String>,
}

impl Problems {
    /// Remembers who gave `key`, for the sentences to say: `from HNE__…` or `in FILE`.
    pub(super) fn came_from(&mut self, key: String, origin: String) {
        self.origins.insert(key, origin);
    }

    /// Says who gave `key`; a default has nobody.
    pub(super) fn origin(&self, key: &str) -> Option<&str> {
        self.origins.get(key).map(String::as_str)
    }

    /// Adds a sentence as it is.
    pub(super) fn say(&mut self, sentence: String) {
        self.sentences.push(sentence);
    }

    /// Names a key and who gave it.
    pub(super) fn name(&self, key: &str) -> String {
        self.origin(key).map_or_else(|| format!("`{key}`"), |origin| format!("`{key}` ({origin})"))
    }

    /// Refuses a value: which key, what was found, what is allowed.
    pub(super) fn refuse(&mut self, key: &str, found: impl Display, allowed: impl Display) {
        let name = self.name(key);
        self.say(format!("{name} is {found}; it must be {allowed}."));
    }

    /// Refuses a number outside its range.
    pub(super) fn within<T: PartialOrd + Display>(&mut self, key: &str, value: T, range: RangeInclusive<T>) {
        if !range.contains(&value) {
            self.refuse(key, value, format_args!("from {} to {}", range.start(), range.end()));
        }
    }

    /// Refuses a duration outside its range.
    pub(super) fn within_time(&mut self, key: &str, value: Duration, range: RangeInclusive<Duration>) {
        if !range.contains(&value) {
            let [found, from, to] = [value, *range.start(), *range.end()].map(format_duration);
            self.refuse(key, found, format_args!("from {from} to {to}"));
        }
    }

    /// Ends in the error that has all sentences, or in `value` if there is none.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, ConfigError> {
        match value {
            Some(value) if self.sentences.is_empty() => Ok(value),
            _ => Err(ConfigError(self.sentences)),
        }
    }
}
