//! Which keys there are. `config/default.toml` is the schema: a key that it doesn't have is refused.

use toml::{Table, Value};

use super::error::{ConfigError, Problems};

/// The reference that is built into the program.
const DEFAULTS: &str = include_str!("../../config/default.toml");

/// The keys that there are, with their defaults.
pub(super) struct Schema {
    defaults: Table,
    /// The keys of a provider, whatever its kind.
    provider: Table,
    /// The keys of a model.
    model: Table,
    text: Value,
}

/// What may stand at a place.
pub(super) enum Slot<'a> {
    /// A table with these keys.
    Section(&'a Table),
    /// A table whose keys are names that the operator chooses.
    Entries,
    /// A value of this one's type, which is its default.
    Leaf(&'a Value),
    /// Nothing.
    Unknown,
}

impl Schema {
    /// Reads the reference.
    pub(super) fn new() -> Result<Self, ConfigError> {
        let defaults = parse(DEFAULTS, "the built-in config/default.toml")?;
        let entry = |section: &str, name: &str| {
            let entries = section.split('.').try_fold(&defaults, |table, key| table.get(key)?.as_table());
            entries.and_then(|entries| entries.get(name)?.as_table()).cloned().unwrap_or_default()
        };
        let mut provider = entry("providers", "openrouter");
        provider.extend(entry("providers", "simulator"));
        let model = entry("models.catalog", "sim/basic");
        Ok(Self { provider, model, text: Value::String(String::new()), defaults })
    }

    /// Returns the defaults: the first layer.
    pub(super) fn defaults(&self) -> &Table {
        &self.defaults
    }

    /// Returns the reference's provider of that kind.
    pub(super) fn provider_of_kind(&self, kind: &str) -> Option<&Table> {
        self.defaults.get("providers")?.get(kind)?.as_table()
    }

    /// Returns what may stand at `path`.
    pub(super) fn slot(&self, path: &[&str]) -> Slot<'_> {
        match path {
            ["providers"] | ["models", "catalog"] | ["providers", _, "headers"] => Slot::Entries,
            ["providers", _] => Slot::Section(&self.provider),
            ["models", "catalog", _] => Slot::Section(&self.model),
            ["providers", _, "headers", _] => Slot::Leaf(&self.text),
            ["providers", _, rest @ ..] => descend(&self.provider, rest),
            ["models", "catalog", _, rest @ ..] => descend(&self.model, rest),
            path => descend(&self.defaults, path),
        }
    }

    /// Returns the secret key that `path` names a file for: `…_file` of a key that is secret.
    pub(super) fn secret_of_file<'a>(&self, path: &[&'a str]) -> Option<Vec<&'a str>> {
        let (last, parents) = path.split_last()?;
        let secret: Vec<&str> = parents.iter().copied().chain(last.strip_suffix("_file")).collect();
        let known = secret.len() == path.len() && matches!(self.slot(&secret), Slot::Leaf(_));
        (known && is_secret(&secret)).then_some(secret)
    }

    /// Refuses a key that there isn't, and says which there are.
    pub(super) fn refuse_unknown(&self, path: &[&str], problems: &mut Problems) {
        let known = (0..path.len()).rev().find_map(|len| match self.slot(path.get(..len)?) {
            Slot::Section(table) => Some((len, table)),
            _ => None,
        });
        let (len, table) = known.unwrap_or((0, &self.defaults));
        let (parent, key) = path.split_at_checked(len).unwrap_or((path, &[]));
        let key = key.first().copied().unwrap_or_default();
        let keys: Vec<&str> = table.keys().map(String::as_str).collect();
        let place = if parent.is_empty() { "at the top".to_owned() } else { format!("in `{}`", dotted(parent)) };
        let hint = nearest(key, &keys).map_or_else(String::new, |near| format!(" Did you mean `{near}`?"));
        let name = problems.name(&dotted(path));
        problems.say(format!("{name} is no key; {place} there are: {}.{hint}", keys.join(", ")));
    }
}

fn descend<'a>(table: &'a Table, path: &[&str]) -> Slot<'a> {
    let Some((key, rest)) = path.split_first() else { return Slot::Section(table) };
    match table.get(*key) {
        Some(Value::Table(inner)) => descend(inner, rest),
        Some(leaf) if rest.is_empty() => Slot::Leaf(leaf),
        _ => Slot::Unknown,
    }
}

/// Reads TOML. The sentence of a refusal has the line, but never its text, which may hold a secret.
pub(super) fn parse(text: &str, name: &str) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let reason = error.message().lines().next().unwrap_or("not TOML");
        ConfigError::of(format!("{name} is no valid TOML at line {line}: {reason}."))
    })
}

/// Says whether the value at `path` must never be shown.
pub(super) fn is_secret(path: &[&str]) -> bool {
    matches!(
        path,
        ["auth", "jwt_secret"]
            | ["database", "url" | "replica_url"]
            | ["redis", "url"]
            | ["providers", _, "api_key"]
            | ["providers", _, "headers", _]
    )
}

/// Writes a path as TOML does: `models.catalog."gpt-4.1".class`.
pub(super) fn dotted(path: &[&str]) -> String {
    let bare = |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let quoted = path.iter().map(|key| if bare(key) { (*key).to_owned() } else { format!("{key:?}") });
    quoted.collect::<Vec<_>>().join(".")
}

/// Returns the key, or the variable, that was probably meant.
pub(super) fn nearest<'a>(key: &str, keys: &[&'a str]) -> Option<&'a str> {
    let scored = keys.iter().map(|known| (strsim::damerau_levenshtein(key, known), *known));
    scored.min().filter(|(distance, known)| *distance <= 1 + known.len() / 4).map(|(_, known)| known)
}
