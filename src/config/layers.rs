//! Puts the layers over each other and reads typed sections from the result.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde::de::DeserializeOwned;
use serde_path_to_error::{Path as Trace, Segment};
use toml::{Table, Value};

use super::{
    database::masked,
    environment,
    error::{ConfigError, Problems},
    schema::{self, Schema, Slot, dotted, is_secret},
};
use crate::values::without_query;

/// The most bytes that a configuration file may have.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What production sets before the operator does.
const PRODUCTION: [(&str, &str, &str); 2] = [("log", "format", "\"json\""), ("models", "pass_through", "false")];

/// All layers, one over the other.
pub(super) struct Layers {
    pub(super) schema: Schema,
    pub(super) problems: Problems,
    table: Table,
}

impl Layers {
    /// Reads the layers: defaults, profile, file, environment.
    pub(super) fn read(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let schema = Schema::new()?;
        let mut problems = Problems::default();
        let from_file = match file {
            Some(path) => {
                let name = path.display().to_string();
                let text = read_text(path).map_err(|error| {
                    ConfigError::of(format!("The configuration file {name} can't be read: {error}."))
                })?;
                let mut table = schema::parse(&text, &name)?;
                note_origins(&table, &mut Vec::new(), &format!("in {name}"), &mut problems);
                admit(&mut table, &mut Vec::new(), &schema, &mut problems);
                table
            }
            None => Table::new(),
        };
        let mut from_environment = environment::layer(variables, &schema, &mut problems);
        admit(&mut from_environment, &mut Vec::new(), &schema, &mut problems);

        let mut table = schema.defaults().clone();
        let profile = from_environment.get("profile").or_else(|| from_file.get("profile"));
        if profile.and_then(Value::as_str) == Some("production") {
            overlay(&mut table, production()?);
        }
        overlay(&mut table, from_file);
        overlay(&mut table, from_environment);
        Ok(Self { schema, problems, table })
    }

    /// Returns the value at `path`.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.table.get(*first)?, |value, key| value.get(*key))
    }

    /// Returns the names of the entries at `path`.
    pub(super) fn names(&self, path: &[&str]) -> Vec<String> {
        let entries = self.at(path).and_then(Value::as_table);
        entries.map(|entries| entries.keys().cloned().collect()).unwrap_or_default()
    }

    /// Reads the section at `path` as a `T`.
    pub(super) fn section<T: DeserializeOwned>(&mut self, path: &[&str]) -> Option<T> {
        let value = self.at(path).cloned().unwrap_or_else(|| Value::Table(Table::new()));
        self.typed(path, value)
    }

    /// Reads `value`, which stands at `path`, as a `T`.
    ///
    /// Each wrong value is refused; then its default takes its place, so that the next one is found in the same go.
    pub(super) fn typed<T: DeserializeOwned>(&mut self, path: &[&str], mut value: Value) -> Option<T> {
        let mut last = None;
        loop {
            let error = match serde_path_to_error::deserialize(value.clone()) {
                Ok(read) => return Some(read),
                Err(error) => error,
            };
            let below = keys(error.path());
            let full: Vec<&str> = path.iter().copied().chain(below.iter().map(String::as_str)).collect();
            let found = below.iter().try_fold(&value, |value, key| value.get(key));
            self.refuse(&full, found, &error.inner().to_string());
            let Slot::Leaf(default) = self.schema.slot(&full) else { return None };
            let default = default.clone();
            *below.iter().try_fold(&mut value, |value, key| value.get_mut(key))? = default;
            if last.replace(below.clone()) == Some(below) {
                return None;
            }
        }
    }

    /// Turns serde's words, «invalid type: string "x", expected u16», into a sentence of ours.
    fn refuse(&mut self, path: &[&str], found: Option<&Value>, reason: &str) {
        let reason = reason.lines().next().unwrap_or_default().trim();
        let name = dotted(path);
        if let Some(field) = reason.strip_prefix("missing field ") {
            return self.problems.say(format!("`{name}` has no {field}; it must be given."));
        }
        let found = match found {
            None => "missing".to_owned(),
            Some(_) if is_secret(path) => "hidden".to_owned(),
            Some(found) => shown(path, found),
        };
        let allowed = reason.rsplit_once("expected ").map_or(reason, |(_, allowed)| allowed);
        let allowed = match allowed {
            "u16" | "u32" | "u64" | "usize" => "a whole number, not negative and not too large",
            "a boolean" => "true or false",
            "a duration" => "a duration such as \"250ms\", \"30s\" or \"10m\"",
            other => other,
        };
        self.problems.refuse(&name, found, allowed);
    }

    /// Returns every key with its value, secrets hidden, and where it came from; sorted by key.
    pub(super) fn shown(&self) -> BTreeMap<String, String> {
        let mut lines = BTreeMap::new();
        leaves(&self.table, &mut Vec::new(), &mut |path, value| {
            let key = dotted(path);
            let origin = self.problems.origin(&key).unwrap_or("default").to_owned();
            lines.insert(key, format!("{} ({origin})", shown(path, value)));
        });
        lines
    }
}

/// Returns a value as it may be shown: a secret's is hidden.
pub(super) fn shown(path: &[&str], value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        Value::String(url) if matches!(path, ["database" | "redis", _]) && is_secret(path) => masked(url),
        Value::String(url) if path == ["auth", "jwt_jwks_url"] => format!("{:?}", without_query(url)),
        _ if is_secret(path) => "hidden".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        value => value.to_string(),
    }
}

/// Reads the text of a file that holds a secret, without the white space around it.
///
/// The error says what the file must be.
pub(super) fn read_secret(file: &str) -> Result<String, String> {
    match read_text(Path::new(file)) {
        Ok(text) if text.trim().is_empty() => Err("a file that isn't empty".to_owned()),
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(format!("a file that can be read, but: {error}")),
    }
}

/// Reads a text file of bounded size.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    let bounded = u64::try_from(text.len()).is_ok_and(|len| len <= MAX_FILE_BYTES);
    bounded.then_some(text).ok_or_else(|| io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")))
}

fn production() -> Result<Table, ConfigError> {
    let lines = PRODUCTION.map(|(section, key, value)| format!("{section}.{key} = {value}\n"));
    schema::parse(&lines.concat(), "what production sets")
}

/// Refuses the unknown keys of a layer, and reads the files that its `…_file` keys name.
fn admit(table: &mut Table, path: &mut Vec<String>, schema: &Schema, problems: &mut Problems) {
    for key in table.keys().cloned().collect::<Vec<_>>() {
        path.push(key.clone());
        let here: Vec<&str> = path.iter().map(String::as_str).collect();
        match (schema.slot(&here), table.get_mut(&key)) {
            (Slot::Section(_) | Slot::Entries, Some(Value::Table(inner))) => admit(inner, path, schema, problems),
            (Slot::Section(_) | Slot::Entries, Some(other)) => {
                // Not shown: a misplaced value may be a secret.
                problems.refuse(&dotted(&here), format_args!("of the type {}", other.type_str()), "a table of keys");
                table.remove(&key);
            }
            (Slot::Unknown, Some(value)) => {
                let value = value.clone();
                table.remove(&key);
                match schema.secret_of_file(&here) {
                    Some(secret) => take_secret(table, &here, &secret, &value, problems),
                    None => schema.refuse_unknown(&here, problems),
                }
            }
            _ => {}
        }
        path.pop();
    }
}

/// Puts a secret where its `…_file` key was.
fn take_secret(table: &mut Table, here: &[&str], secret: &[&str], value: &Value, problems: &mut Problems) {
    let (name, key) = (dotted(here), dotted(secret));
    let last = secret.last().copied().unwrap_or_default();
    if table.contains_key(last) {
        let (name, key) = (problems.name(&name), problems.name(&key));
        return problems.say(format!("{key} and {name} are both given; only one of them is allowed."));
    }
    let Value::String(file) = value else {
        return problems.refuse(&name, "no text", "the path of a file");
    };
    match read_secret(file) {
        Ok(text) => {
            if let Some(origin) = problems.origin(&name).map(str::to_owned) {
                problems.came_from(key, origin);
            }
            table.insert(last.to_owned(), Value::String(text));
        }
        Err(allowed) => problems.refuse(&name, format_args!("{file:?}"), allowed),
    }
}

fn overlay(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => overlay(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

fn note_origins(table: &Table, path: &mut Vec<String>, origin: &str, problems: &mut Problems) {
    leaves(table, path, &mut |path, _| problems.came_from(dotted(path), origin.to_owned()));
}

/// Visits every value that is no table, with its path.
pub(super) fn leaves(table: &Table, path: &mut Vec<String>, visit: &mut impl FnMut(&[&str], &Value)) {
    for (key, value) in table {
        path.push(key.clone());
        match value {
            Value::Table(inner) => leaves(inner, path, visit),
            value => visit(&path.iter().map(String::as_str).collect::<Vec<_>>(), value),
        }
        path.pop();
    }
}

/// Returns the keys of a trace, up to the first list.
fn keys(trace: &Trace) -> Vec<String> {
    let map_key = |segment: &Segment| match segment {
        Segment::Map { key } => Some(key.clone()),
        _ => None,
    };
    trace.iter().map_while(map_key).collect()
}
