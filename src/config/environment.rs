//! The environment as a layer: `HNE__SECTION__KEY`, and the plain names that operators know.

use std::collections::BTreeMap;

use toml::{Table, Value};
use url::Url;

use super::{
    error::Problems,
    layers::leaves,
    schema::{Schema, Slot, dotted, is_secret, nearest},
};

/// The variables that have a name of their own. A secret one may also be given as `…_FILE`.
const PLAIN: [(&str, &[&str]); 15] = [
    ("HNE_PROFILE", &["profile"]),
    ("HNE_DATA_DIR", &["data_dir"]),
    ("LISTEN", &["server", "listen"]),
    ("DATABASE_URL", &["database", "url"]),
    ("DATABASE_REPLICA_URL", &["database", "replica_url"]),
    ("REDIS_URL", &["redis", "url"]),
    ("OPENROUTER_API_KEY", &["providers", "openrouter", "api_key"]),
    ("OPENROUTER_BASE_URL", &["providers", "openrouter", "base_url"]),
    ("JWT_SECRET", &["auth", "jwt_secret"]),
    ("JWT_PUBLIC_KEY_FILE", &["auth", "jwt_public_key_file"]),
    ("JWT_JWKS_URL", &["auth", "jwt_jwks_url"]),
    ("JWT_ALGORITHM", &["auth", "jwt_algorithm"]),
    ("JWT_ISSUER", &["auth", "jwt_issuer"]),
    ("JWT_AUDIENCE", &["auth", "jwt_audience"]),
    ("RUST_LOG", &["log", "filter"]),
];

/// Upstash's pair: where its REST API is, and the token that is also the password of its TCP endpoint.
const UPSTASH_URL: &str = "UPSTASH_REDIS_REST_URL";
const UPSTASH_TOKEN: &str = "UPSTASH_REDIS_REST_TOKEN";

/// Reads the process's environment. The only place that does.
pub(super) fn process() -> Vec<(String, String)> {
    let text = |value: std::ffi::OsString| value.into_string().unwrap_or_else(|raw| raw.to_string_lossy().into_owned());
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

/// Makes a layer of these variables; those that aren't ours are passed over, and so are plain ones that are empty. What
/// begins like ours must be known: passed over, a typing error would start another service than was meant.
pub(super) fn layer(
    variables: impl IntoIterator<Item = (String, String)>,
    schema: &Schema,
    problems: &mut Problems,
) -> Table {
    let variables: BTreeMap<String, String> = variables.into_iter().collect();
    for (name, value) in &variables {
        if name.starts_with("HNE_") && !name.starts_with("HNE__") && !value.is_empty() && !is_known(name, value) {
            refuse_unknown(name, schema, problems);
        }
    }
    let mut layer = Layer { table: Table::new(), schema, problems, names: BTreeMap::new() };
    let given = |name: &str| variables.get(name).map(String::as_str).filter(|value| !value.is_empty());
    for (name, path) in PLAIN {
        if let Some(value) = given(name) {
            layer.set(name, path, value);
        }
        let file = format!("{name}_FILE");
        if let (true, Some(value), Some((key, parents))) = (is_secret(path), given(&file), path.split_last()) {
            let key = format!("{key}_file");
            layer.set(&file, &[parents, &[key.as_str()]].concat(), value);
        }
    }
    let redis_given = given("REDIS_URL").or(given("REDIS_URL_FILE")).is_some();
    if !redis_given {
        layer.upstash(given(UPSTASH_URL), given(UPSTASH_TOKEN), given(&format!("{UPSTASH_TOKEN}_FILE")));
    }
    for (name, value) in &variables {
        if let Some(rest) = name.strip_prefix("HNE__") {
            layer.nested(name, rest, value);
        }
    }
    layer.table
}

/// Says whether a variable that begins with `HNE_` may be there: it is ours, it chooses a mistake in a build that has
/// them, or it is one of those that Kubernetes sets for each service in a namespace, here one that is called `hne…`.
///
/// Source: <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>.
fn is_known(name: &str, value: &str) -> bool {
    let is_link = name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.contains("_PORT_") && ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| name.contains(protocol)))
        || (name.ends_with("_PORT") && value.contains("://"));
    is_link || PLAIN.iter().any(|(plain, _)| *plain == name) || (cfg!(feature = "mutants") && name == "HNE_MUTANT")
}

/// Refuses a variable that there isn't. Its value isn't shown: it may be a secret.
fn refuse_unknown(name: &str, schema: &Schema, problems: &mut Problems) {
    let mut names: Vec<String> = PLAIN.iter().map(|(plain, _)| (*plain).to_owned()).collect();
    leaves(schema.defaults(), &mut Vec::new(), &mut |path, _| {
        names.push(format!("HNE__{}", path.join("__").to_ascii_uppercase()));
    });
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let bare = name.strip_prefix("HNE_").and_then(|bare| names.iter().find(|known| **known == bare).copied());
    let hint =
        bare.or_else(|| nearest(name, &names)).map_or_else(String::new, |near| format!(" Did you mean `{near}`?"));
    problems.say(format!(
        "`{name}` is no variable; there are `HNE_PROFILE`, `HNE_DATA_DIR`, and `HNE__SECTION__KEY` for any key.{hint}"
    ));
}

struct Layer<'a> {
    table: Table,
    schema: &'a Schema,
    problems: &'a mut Problems,
    /// Which variable gave a key, by the key.
    names: BTreeMap<String, String>,
}

impl Layer<'_> {
    /// Takes `HNE__SECTION__KEY`.
    fn nested(&mut self, name: &str, rest: &str, value: &str) {
        let lower = rest.to_ascii_lowercase();
        let mut parts: Vec<String> = lower.split("__").map(str::to_owned).collect();
        // No header has an underscore in its name (nginx drops those), and no variable can have a hyphen.
        if let [providers, _, headers, header] = parts.as_mut_slice()
            && providers == "providers"
            && headers == "headers"
        {
            *header = header.replace('_', "-");
        }
        self.set(name, &parts.iter().map(String::as_str).collect::<Vec<_>>(), value);
    }

    /// Takes Upstash's pair, where no other Redis is given.
    fn upstash(&mut self, url: Option<&str>, token: Option<&str>, token_file: Option<&str>) {
        let token = match (token, token_file) {
            (Some(_), Some(_)) => {
                return self.problems.say(format!(
                    "`{UPSTASH_TOKEN}` and `{UPSTASH_TOKEN}_FILE` are both given; only one of them is allowed."
                ));
            }
            (None, Some(file)) => match super::layers::read_secret(file) {
                Ok(token) => Some(token),
                Err(reason) => {
                    return self.problems.refuse(&format!("{UPSTASH_TOKEN}_FILE"), format_args!("{file:?}"), reason);
                }
            },
            (token, None) => token.map(str::to_owned),
        };
        match (url, token) {
            (None, None) => {}
            (Some(url), Some(token)) => match endpoint(url, &token) {
                Some(endpoint) => self.set(UPSTASH_URL, &["redis", "url"], &endpoint),
                None => self.problems.refuse(
                    UPSTASH_URL,
                    "not such a URL",
                    "https://HOST, as Upstash's console shows it; for another Redis give REDIS_URL",
                ),
            },
            (Some(_), None) => self.problems.say(format!("`{UPSTASH_URL}` is given, but `{UPSTASH_TOKEN}` is not.")),
            (None, Some(_)) => self.problems.say(format!("`{UPSTASH_TOKEN}` is given, but `{UPSTASH_URL}` is not.")),
        }
    }

    fn set(&mut self, name: &str, path: &[&str], value: &str) {
        let key = dotted(path);
        if let Some(other) = self.names.get(&key)
            && self.at(path).and_then(Value::as_str) != Some(value)
        {
            return self.problems.say(format!("`{other}` and `{name}` both set `{key}`; only one of them is allowed."));
        }
        self.problems.came_from(key.clone(), format!("from {name}"));
        let value = match self.schema.slot(path) {
            Slot::Leaf(default) => typed(value, default),
            _ if self.schema.secret_of_file(path).is_some() => Ok(Value::String(value.to_owned())),
            Slot::Unknown => return self.schema.refuse_unknown(path, self.problems),
            Slot::Section(table) => {
                let keys = table.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                return self.problems.say(format!("`{name}` names a section; name a key of it: {keys}."));
            }
            Slot::Entries => return self.problems.say(format!("`{name}` names a section; name an entry and its key.")),
        };
        match value {
            Ok(value) => {
                insert(&mut self.table, path, value);
                self.names.insert(key, name.to_owned());
            }
            Err((found, allowed)) => self.problems.refuse(&key, found, allowed),
        }
    }

    fn at(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.table.get(*first)?, |value, key| value.get(*key))
    }
}

/// Reads a variable's text as the type that the default has. No secret has another type than text.
fn typed(text: &str, default: &Value) -> Result<Value, (String, &'static str)> {
    let wrong = |allowed| (format!("{text:?}"), allowed);
    match default {
        Value::Integer(_) => text.trim().parse().map(Value::Integer).map_err(|_error| wrong("a whole number")),
        Value::Float(_) => text.trim().parse().map(Value::Float).map_err(|_error| wrong("a number")),
        Value::Boolean(_) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => Ok(Value::Boolean(true)),
            "false" | "0" => Ok(Value::Boolean(false)),
            _ => Err(wrong("true or false")),
        },
        Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
        }
        _ => Ok(Value::String(text.to_owned())),
    }
}

fn insert(table: &mut Table, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] => {
            table.insert((*key).to_owned(), value);
        }
        [key, rest @ ..] => {
            let inner = table.entry(*key).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// Returns the TCP endpoint of an Upstash database: `rediss://default:TOKEN@HOST:6379`.
///
/// Source: <https://upstash.com/docs/redis/howto/connectclient>.
fn endpoint(rest_url: &str, token: &str) -> Option<String> {
    let rest = Url::parse(rest_url).ok().filter(|url| url.scheme() == "https")?;
    let mut url = Url::parse("rediss://default@host:6379").ok()?;
    url.set_host(Some(rest.host_str()?)).ok()?;
    url.set_password(Some(token)).ok()?;
    Some(url.into())
}
