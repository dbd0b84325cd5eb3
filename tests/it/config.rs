//! Configuration: the layers, every variable's effect, the secrets that never show, the reference.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use hasnot_engine::config::{Config, ConfigError, Profile, Provider};
use secrecy::ExposeSecret;

mod providers;
mod reference;
mod refusals;
mod secrets;

/// A secret that production takes.
pub(crate) const GOOD_SECRET: &str = "4f9c1d7be02a63585bd1c09a7e24f6318c5a70d9";

/// Reads a configuration from these variables alone.
fn read(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::read(None, owned(variables))
}

/// Reads a configuration from this file's text and these variables.
fn read_file(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    Config::read(Some(&file(folder.path(), "test.toml", text)), owned(variables))
}

fn owned(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn line(config: &Config, key: &str) -> String {
    let lines: BTreeMap<String, String> = config
        .redacted_lines()
        .filter_map(|line| line.split_once(" = ").map(|(key, value)| (key.to_owned(), value.to_owned())))
        .collect();
    lines.get(key).cloned().unwrap_or_else(|| panic!("no {key}"))
}

#[test]
fn without_anything_the_service_is_in_development_with_the_simulator() {
    let config = read(&[]).unwrap();
    assert_eq!(config.profile, Profile::Development);
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:3000");
    assert_eq!(config.database.url.expose_secret(), "sqlite://./data/hasnot-engine.db");
    assert!(config.redis.url.is_none());
    assert!(config.is_simulated());
    assert!(config.models.pass_through && config.pass_through_provider().is_none());
    let ids: Vec<&str> = config.models.catalog.keys().map(|id| id.as_str()).collect();
    assert_eq!(ids, ["sim/basic", "sim/premium"]);
}

#[test]
fn a_later_layer_wins() {
    let text = "[server]\nworkers = 2\nbacklog = 100\n[stream]\nkeepalive = \"3s\"";
    let config = read_file(text, &[("HNE__SERVER__WORKERS", "7")]).unwrap();
    assert_eq!((config.server.workers, config.server.backlog), (7, 100));
    assert_eq!(config.stream.keepalive.as_secs(), 3);
    assert_eq!(config.server.max_body_bytes, 8 << 20, "the rest is as in the reference");
    assert_eq!(line(&config, "server.workers"), "7 (from HNE__SERVER__WORKERS)");
    assert!(line(&config, "server.backlog").starts_with("100 (in /"));
    assert_eq!(line(&config, "server.listen"), "\"127.0.0.1:3000\" (default)");
}

#[test]
fn production_has_defaults_of_its_own_under_the_file_and_the_environment() {
    use hasnot_engine::config::LogFormat;
    let base = [("HNE_PROFILE", "production"), ("JWT_SECRET", GOOD_SECRET), ("OPENROUTER_API_KEY", "sk-or-1")];
    let config = read(&[&base[..], &[("LISTEN", "0.0.0.0:3000")]].concat()).unwrap();
    assert_eq!((config.log.format, config.models.pass_through), (LogFormat::Json, false));
    assert!(!config.is_simulated() && config.models.catalog.is_empty());
    let config = read_file("[log]\nformat = \"pretty\"\n[models]\npass_through = true", &base).unwrap();
    assert_eq!((config.log.format, config.models.pass_through), (LogFormat::Pretty, true));
    let config = read_file("profile = \"production\"", &base[1..]).unwrap();
    assert_eq!(config.profile, Profile::Production);
}

#[test]
fn every_plain_variable_has_its_effect() {
    let folder = tempfile::tempdir().unwrap();
    let pem = file(folder.path(), "key.pem", "PEM");
    let secret = |value: Option<&secrecy::SecretString>| value.map(|value| value.expose_secret().to_owned());
    type Effect<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a dyn Fn(&Config) -> Option<String>);
    let openrouter = |config: &Config| match config.providers.get("openrouter") {
        Some(Provider::Http(http)) => http.clone(),
        _ => panic!("no openrouter"),
    };
    let effects: &[Effect] = &[
        ("LISTEN", "127.0.0.1:0", &[], &|c| Some(c.server.listen.to_string())),
        ("DATABASE_URL", "postgres://u:p@h/d", &[], &|c| secret(Some(&c.database.url))),
        ("DATABASE_REPLICA_URL", "postgres://u:p@r/d", &[], &|c| secret(c.database.replica_url.as_ref())),
        ("REDIS_URL", "redis://h:6379", &[], &|c| secret(c.redis.url.as_ref())),
        ("OPENROUTER_API_KEY", "sk-or-1", &[], &|c| secret(openrouter(c).api_key.as_ref())),
        ("OPENROUTER_BASE_URL", "http://h/v1", &[], &|c| Some(openrouter(c).base_url)),
        ("JWT_SECRET", "short", &[], &|c| secret(c.auth.jwt.secret.as_ref())),
        ("JWT_PUBLIC_KEY_FILE", pem.to_str().unwrap(), &[("JWT_ALGORITHM", "RS256")], &|c| {
            c.auth.jwt.public_key_file.as_ref().map(|path| path.display().to_string())
        }),
        ("JWT_JWKS_URL", "https://h/jwks?p=b2c_1_sign_in", &[("JWT_ALGORITHM", "ES256")], &|c| {
            secret(c.auth.jwt.jwks_url.as_ref())
        }),
        ("JWT_ALGORITHM", "EdDSA", &[("JWT_JWKS_URL", "https://h/jwks")], &|c| {
            Some(format!("{:?}", c.auth.jwt.algorithm).replace("EdDsa", "EdDSA"))
        }),
        ("JWT_ISSUER", "https://issuer", &[], &|c| c.auth.jwt.issuer.clone()),
        ("JWT_AUDIENCE", "chat", &[], &|c| c.auth.jwt.audience.clone()),
        ("HNE_DATA_DIR", "/srv/hne", &[], &|c| Some(c.data_dir.display().to_string())),
        ("HNE_PROFILE", "development", &[], &|c| Some(format!("{:?}", c.profile).to_lowercase())),
        ("RUST_LOG", "warn,hasnot_engine=debug", &[], &|c| Some(c.log.filter.clone())),
    ];
    for (name, value, others, effect) in effects {
        let config = read(&[&[(*name, *value)], *others].concat()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(effect(&config).as_deref(), Some(*value), "{name}");
    }
}

#[test]
fn an_empty_plain_variable_is_as_if_it_were_not_there() {
    let config = read(&[("LISTEN", ""), ("REDIS_URL", ""), ("JWT_SECRET", ""), ("DATABASE_URL_FILE", "")]).unwrap();
    assert_eq!(config.server.listen.port(), 3000);
    assert!(config.redis.url.is_none() && config.auth.jwt.secret.is_none());
}

#[test]
fn values_of_variables_are_read_by_the_type_of_their_key() {
    let config = read(&[
        ("HNE__SERVER__CORS_ORIGINS", "https://a.example, https://b.example:8443"),
        ("HNE__SERVER__CORS_CREDENTIALS", "true"),
        ("HNE__ALERTS__MEMORY_PERCENT", "75"),
        ("HNE__LOG__ACCESS", "0"),
        ("HNE__QUOTA__IDLE_TIMEOUT", "1h"),
        ("HNE__MODELS__CATALOG__SMALL__CLASS", "basic"),
        ("HNE__MODELS__CATALOG__SMALL__PROVIDER", "openrouter"),
        ("HNE__MODELS__CATALOG__SMALL__INPUT_PRICE", "0.05"),
    ])
    .unwrap();
    assert_eq!(config.server.cors_origins, ["https://a.example", "https://b.example:8443"]);
    assert!(config.server.cors_credentials && !config.log.access);
    assert!((config.alerts.memory_percent - 75.0).abs() < f64::EPSILON);
    assert_eq!(config.quota.idle_timeout.as_secs(), 3600);
    assert_eq!(config.models.catalog["small"].input_price.0, 50_000_000);
}

#[test]
fn other_programs_variables_are_passed_over() {
    assert!(read(&[("PATH", "/bin"), ("SERVER__LISTEN", "x"), ("HNETWORK", "x"), ("HNE_EMPTY", "")]).is_ok());
    // As Kubernetes tells of its services `hne` and `hne-redis`.
    let links = [
        ("HNE_SERVICE_HOST", "10.0.0.1"),
        ("HNE_SERVICE_PORT", "3000"),
        ("HNE_SERVICE_PORT_HTTP", "3000"),
        ("HNE_PORT", "tcp://10.0.0.1:3000"),
        ("HNE_PORT_3000_TCP", "tcp://10.0.0.1:3000"),
        ("HNE_PORT_3000_TCP_PROTO", "tcp"),
        ("HNE_PORT_3000_TCP_PORT", "3000"),
        ("HNE_PORT_3000_TCP_ADDR", "10.0.0.1"),
        ("HNE_REDIS_SERVICE_HOST", "10.0.0.2"),
        ("HNE_REDIS_PORT", "tcp://10.0.0.2:6379"),
    ];
    read(&links).unwrap();
}

#[test]
fn upstash_s_rest_pair_gives_its_tcp_endpoint() {
    let url = ("UPSTASH_REDIS_REST_URL", "https://eu1-fine-owl-123.upstash.io/");
    let redis = |variables: &[(&str, &str)]| {
        read(variables).unwrap().redis.url.map(|url| url.expose_secret().to_owned()).unwrap()
    };
    let endpoint = "rediss://default:AbC123xyz@eu1-fine-owl-123.upstash.io:6379";
    assert_eq!(redis(&[url, ("UPSTASH_REDIS_REST_TOKEN", "AbC123xyz")]), endpoint);
    let folder = tempfile::tempdir().unwrap();
    let token = file(folder.path(), "token", "AbC123xyz\n");
    assert_eq!(redis(&[url, ("UPSTASH_REDIS_REST_TOKEN_FILE", token.to_str().unwrap())]), endpoint);
    let awkward = redis(&[url, ("UPSTASH_REDIS_REST_TOKEN", "a/b@c:d")]);
    assert_eq!(awkward, "rediss://default:a%2Fb%40c%3Ad@eu1-fine-owl-123.upstash.io:6379");
    assert_eq!(
        redis(&[url, ("UPSTASH_REDIS_REST_TOKEN", "t"), ("REDIS_URL", "redis://h")]),
        "redis://h",
        "a plain Redis goes first"
    );
}

#[test]
fn pool_max_is_taken_out_of_the_url() {
    for (url, bare, pool_max) in [
        ("postgresql://user:pass@host:5432/db?pool_max=20", "postgresql://user:pass@host:5432/db", 20),
        ("postgres://h/db?sslmode=require&pool_max=7", "postgres://h/db?sslmode=require", 7),
        ("postgres://h/db?sslmode=require", "postgres://h/db?sslmode=require", 20),
        ("sqlite:///var/lib/x.db", "sqlite:///var/lib/x.db", 20),
    ] {
        let database = read(&[("DATABASE_URL", url)]).unwrap().database;
        assert_eq!((database.url.expose_secret(), database.pool_max), (bare, pool_max));
    }
}

#[test]
fn what_is_let_in_follows_from_the_open_files() {
    let config = |variables: &[(&str, &str)]| read(variables).unwrap().server.admission(20_000);
    assert_eq!((config(&[]).streams, config(&[]).connections), (9_900, 9_900));
    let few = config(&[("HNE__SERVER__MAX_STREAMS", "100")]);
    assert_eq!((few.streams, few.connections), (100, 19_700));
    let fixed = config(&[("HNE__SERVER__MAX_CONNECTIONS", "50")]);
    assert_eq!((fixed.streams, fixed.connections), (9_900, 50));
    assert!(read(&[]).unwrap().server.admission(0).streams > 0);
    assert!(read(&[]).unwrap().server.worker_count() > 0);
}
