//! `[providers]`: whose models are served, and how they are reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::PathBuf,
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use toml::Value;

use super::{
    Profile,
    error::Problems,
    layers::Layers,
    schema::dotted,
    values::{self, is_plain_http_url, minutes},
};

/// Body fields that choose other models, or cost, behind the quota's back.
pub const STEERING_FIELDS: [&str; 4] = ["models", "route", "fallbacks", "plugins"];

/// Headers that the service sets itself; a configuration can't.
const OWN_HEADERS: [&str; 11] = [
    "accept",
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "te",
    "traceparent",
    "transfer-encoding",
    "x-request-id",
];

/// A provider: `[providers.NAME]`.
#[derive(Debug, Clone)]
pub enum Provider {
    /// A company's API.
    Http(HttpProvider),
    /// The in-process provider.
    Simulator(SimulatorProvider),
}

impl Provider {
    /// Says whether it is asked for nothing: OpenRouter without a key. An API of the kind openai may do without one.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self, Self::Http(http) if http.kind == HttpKind::Openrouter && http.api_key.is_none())
    }
}

/// A provider that is reached over HTTP.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpProvider {
    /// Whose manners it has.
    pub kind: HttpKind,
    /// An http or https URL without a slash at its end: `/chat/completions` is added to it.
    pub base_url: String,
    /// Its key, sent as a bearer token.
    #[serde(deserialize_with = "values::secret")]
    pub api_key: Option<SecretString>,
    /// Headers that each request has beside ours; names in lower case.
    pub headers: BTreeMap<String, SecretString>,
    /// Body fields that are let through although they choose other models or cost.
    pub allow_fields: Vec<String>,
    /// How long connecting may take, TLS included: 10 ms to 5 min.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long a connection is kept for the next request: 10 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long it may take until the first frame: 10 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub first_byte_timeout: Duration,
    /// How long it may be silent between frames: 10 ms to 1 h.
    #[serde(with = "humantime_serde")]
    pub gap_timeout: Duration,
    /// How long a whole answer may take, up to 24 h; `None` = no limit.
    #[serde(deserialize_with = "values::positive")]
    pub total_timeout: Option<Duration>,
    /// The certificate authorities to trust, a PEM file; `None` = the public ones.
    #[serde(deserialize_with = "values::path")]
    pub ca_file: Option<PathBuf>,
    /// So often a request is tried again before its first frame: 0 to 10.
    pub retries: u32,
    /// The most retries in 10 s, in percent of the requests, on each worker: 0 to 100. Ten more are always there.
    pub retry_budget_percent: u32,
    /// The share of failed attempts at which a model's breaker opens, in percent: 1 to 100; 0 = never.
    pub breaker_failure_percent: u32,
    /// The least attempts in 10 s to tell that by, on each worker: 2 to 100,000.
    pub breaker_min_attempts: u32,
    /// How long a breaker stays open before probes are let through: 10 ms to 10 min.
    #[serde(with = "humantime_serde")]
    pub breaker_open: Duration,
}

/// Whose manners an HTTP provider has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpKind {
    /// OpenRouter: `usage.cost`, attribution headers, comments while it waits.
    Openrouter,
    /// Any API like OpenAI's.
    Openai,
}

/// The provider inside the process, for trying and load-testing the service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulatorProvider {
    /// How long it takes until the first frame: up to 10 min.
    #[serde(with = "humantime_serde")]
    pub first_frame: Duration,
    /// How long it takes between frames: up to 10 min.
    #[serde(with = "humantime_serde")]
    pub frame_gap: Duration,
    /// Frames of an answer: 1 to 100,000.
    pub frames: u32,
}

/// The providers as configured, sorted out.
#[derive(Debug, Default)]
pub(super) struct Providers {
    /// Those that are there.
    pub(super) usable: BTreeMap<String, Provider>,
    /// Simulators that aren't: a provider has a key, or this is production.
    pub(super) dropped: BTreeSet<String>,
}

/// Reads `[providers]`, and drops the simulators where they must not be.
pub(super) fn read(layers: &mut Layers, profile: Profile) -> Providers {
    let mut providers = Providers::default();
    for name in layers.names(&["providers"]) {
        if let Some(provider) = entry(layers, &name) {
            provider.check(&dotted(&["providers", &name]), &mut layers.problems);
            providers.usable.insert(name, provider);
        }
    }
    let has_key = |provider: &Provider| matches!(provider, Provider::Http(http) if http.api_key.is_some());
    if profile == Profile::Production || providers.usable.values().any(has_key) {
        let is_simulator = |provider: &Provider| matches!(provider, Provider::Simulator(_));
        providers.dropped =
            providers.usable.iter().filter(|(_, p)| is_simulator(p)).map(|(name, _)| name.clone()).collect();
        providers.usable.retain(|_, provider| !is_simulator(provider));
    }
    if profile == Profile::Production {
        check_production(&providers, &mut layers.problems);
    }
    providers
}

/// Production refuses the simulator, whether somebody asks for it or nothing else is there.
fn check_production(providers: &Providers, problems: &mut Problems) {
    for name in &providers.dropped {
        let key = dotted(&["providers", name, "kind"]);
        if name != "simulator" || problems.origin(&key).is_some() {
            problems.refuse(&key, "\"simulator\"", "openrouter or openai in the profile production");
        }
    }
    let ready = |provider: &Provider| match provider {
        Provider::Http(http) => http.api_key.is_some() || http.kind == HttpKind::Openai,
        Provider::Simulator(_) => false,
    };
    if !providers.usable.values().any(ready) {
        problems.say(
            "No provider has a key, and the profile production refuses the simulator; give `providers.openrouter.api_key` \
             (OPENROUTER_API_KEY), or a provider of the kind openai."
                .to_owned(),
        );
    }
}

/// Reads one provider; keys that it leaves out are as in the reference's entry of its kind.
fn entry(layers: &mut Layers, name: &str) -> Option<Provider> {
    let path = ["providers", name];
    let given = layers.at(&path)?.as_table()?.clone();
    let kind = given.get("kind").and_then(Value::as_str).unwrap_or_default();
    let template = match kind {
        "openrouter" | "openai" => "openrouter",
        "simulator" => "simulator",
        other => {
            let found = if other.is_empty() { "missing".to_owned() } else { format!("{other:?}") };
            layers.problems.refuse(&dotted(&["providers", name, "kind"]), found, "openrouter, openai or simulator");
            return None;
        }
    };
    if kind == "openai" && !given.contains_key("base_url") {
        let allowed = "given for the kind openai, an http or https URL";
        layers.problems.refuse(&dotted(&["providers", name, "base_url"]), "missing", allowed);
        return None;
    }
    let mut table = layers.schema.provider_of_kind(template)?.clone();
    for (key, value) in given {
        if table.contains_key(&key) {
            table.insert(key, value);
        } else {
            let keys = table.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let name = layers.problems.name(&dotted(&["providers", name, &key]));
            layers.problems.say(format!("{name} is no key of the kind {template}; there are: {keys}."));
        }
    }
    if template == "simulator" {
        table.remove("kind");
        return layers.typed(&path, Value::Table(table)).map(Provider::Simulator);
    }
    let mut http: HttpProvider = layers.typed(&path, Value::Table(table))?;
    http.base_url.truncate(http.base_url.trim_end_matches('/').len());
    http.headers = http.headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    Some(Provider::Http(http))
}

impl Provider {
    fn check(&self, key: &str, problems: &mut Problems) {
        match self {
            Self::Http(http) => http.check(key, problems),
            Self::Simulator(simulator) => {
                let range = Duration::ZERO..=minutes(10);
                problems.within_time(&format!("{key}.first_frame"), simulator.first_frame, range.clone());
                problems.within_time(&format!("{key}.frame_gap"), simulator.frame_gap, range);
                problems.within(&format!("{key}.frames"), simulator.frames, 1..=100_000);
            }
        }
    }
}

impl HttpProvider {
    fn check(&self, key: &str, problems: &mut Problems) {
        if !is_plain_http_url(&self.base_url) {
            let hidden = self.base_url.contains(['@', '?']);
            let found = if hidden { "not such a URL".to_owned() } else { format!("{:?}", self.base_url) };
            let allowed = "an http or https URL with a host, without credentials, query and fragment";
            problems.refuse(&format!("{key}.base_url"), found, allowed);
        }
        if self.api_key.as_ref().is_some_and(|key| !is_header_value(key.expose_secret())) {
            problems.refuse(&format!("{key}.api_key"), "not sendable", "printable ASCII without line breaks");
        }
        self.check_headers(key, problems);
        for field in self.allow_fields.iter().filter(|field| !STEERING_FIELDS.contains(&field.as_str())) {
            let allowed = format!("some of {}", STEERING_FIELDS.join(", "));
            problems.refuse(&format!("{key}.allow_fields"), format_args!("a list with {field:?}"), allowed);
        }
        let least = Duration::from_millis(10);
        problems.within_time(&format!("{key}.connect_timeout"), self.connect_timeout, least..=minutes(5));
        problems.within_time(&format!("{key}.idle_timeout"), self.idle_timeout, least..=minutes(60));
        problems.within_time(&format!("{key}.first_byte_timeout"), self.first_byte_timeout, least..=minutes(60));
        problems.within_time(&format!("{key}.gap_timeout"), self.gap_timeout, least..=minutes(60));
        let total = self.total_timeout.unwrap_or_default();
        problems.within_time(&format!("{key}.total_timeout"), total, Duration::ZERO..=minutes(24 * 60));
        problems.within(&format!("{key}.retries"), self.retries, 0..=10);
        problems.within(&format!("{key}.retry_budget_percent"), self.retry_budget_percent, 0..=100);
        problems.within(&format!("{key}.breaker_failure_percent"), self.breaker_failure_percent, 0..=100);
        problems.within(&format!("{key}.breaker_min_attempts"), self.breaker_min_attempts, 2..=100_000);
        problems.within_time(&format!("{key}.breaker_open"), self.breaker_open, least..=minutes(10));
        if let Some(file) = &self.ca_file
            && let Err(error) = File::open(file)
        {
            let allowed = format_args!("a PEM file that can be read, but: {error}");
            problems.refuse(&format!("{key}.ca_file"), format_args!("{file:?}"), allowed);
        }
    }

    fn check_headers(&self, key: &str, problems: &mut Problems) {
        for (name, value) in &self.headers {
            let is_token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
            let key = format!("{key}.headers.{name}");
            if !is_token {
                problems.refuse(&key, "no header's name", "of letters, digits, - and _");
            } else if OWN_HEADERS.contains(&name.as_str()) {
                let allowed = "another: the service sets it itself (`api_key` makes the authorization)";
                problems.refuse(&key, "such a header", allowed);
            } else if !is_header_value(value.expose_secret()) {
                problems.refuse(&key, "not sendable", "printable ASCII without line breaks");
            }
        }
    }
}

/// Says whether this can be sent as a header's value (RFC 9110, section 5.5, without what is obsolete there).
fn is_header_value(value: &str) -> bool {
    value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b))
}
