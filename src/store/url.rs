//! Database URLs: what is ours is taken out, what nobody knows is refused with a sentence.
//!
//! A URL holds a password. No sentence here repeats any of it but the scheme and keys that look like keys.

use std::path::PathBuf;

use tokio_postgres::config::SslMode;

use super::{
    postgres, sqlite,
    tls::{Tls, Trust},
};
use crate::values::has_certain_user;

/// What a URL stands for.
pub(super) enum Address {
    /// `postgres://` or `postgresql://`.
    Postgres(Box<postgres::Address>),
    /// `sqlite://PATH`.
    Sqlite(sqlite::Target),
}

/// A URL, taken apart.
pub(super) struct Parsed {
    pub(super) address: Address,
    /// `pool_max`, where the URL has it.
    pub(super) pool_max: Option<u32>,
}

/// Other clients' keys, which mean nothing to this one: whether there is a pooler, and of what kind, is found out by asking.
const OTHERS: [&str; 4] = ["pgbouncer", "connection_limit", "pool_timeout", "supa"];

/// Takes a URL apart.
///
/// # Errors
/// A sentence that says what is wrong and what is allowed.
pub(super) fn parse(url: &str) -> Result<Parsed, String> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let scheme = base.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        Some("sqlite") => parse_sqlite(base, query),
        _ if !has_certain_user(url) => Err("the user and password in the database's URL must be percent-encoded, \
                                            and so must any other @ in it (@ is %40, / is %2F, ? is %3F)"
            .into()),
        Some("postgres" | "postgresql") => parse_postgres(base, query),
        _ => Err("the database's URL begins with postgres://, postgresql:// or sqlite://".into()),
    }
}

fn parse_sqlite(base: &str, query: &str) -> Result<Parsed, String> {
    let path = base.trim_start_matches("sqlite://");
    if path.is_empty() || path.starts_with(':') || path.starts_with("file:") {
        return Err("a SQLite URL is sqlite://PATH, with the path of a file".into());
    }
    let mut pool_max = None;
    for (key, value) in pairs(query) {
        match key {
            "pool_max" => pool_max = Some(parse_pool_max(value)?),
            other => return Err(unknown(other, "pool_max")),
        }
    }
    Ok(Parsed { address: Address::Sqlite(sqlite::Target { path: PathBuf::from(path), makes: false }), pool_max })
}

fn parse_postgres(base: &str, query: &str) -> Result<Parsed, String> {
    let mut pool_max = None;
    let mut mode = "prefer";
    let mut root_certificate = None;
    let mut kept = Vec::new();
    for (key, value) in pairs(query) {
        match key {
            "pool_max" => pool_max = Some(parse_pool_max(value)?),
            "sslmode" => mode = value,
            "sslrootcert" => root_certificate = Some(percent_decoded(value)?),
            "user"
            | "password"
            | "dbname"
            | "options"
            | "application_name"
            | "host"
            | "hostaddr"
            | "port"
            | "sslnegotiation"
            | "channel_binding"
            | "target_session_attrs"
            | "load_balance_hosts"
            | "connect_timeout"
            | "tcp_user_timeout"
            | "keepalives"
            | "keepalives_idle"
            | "keepalives_interval"
            | "keepalives_retries" => kept.push(format!("{key}={value}")),
            other if OTHERS.contains(&other) => {}
            other => return Err(unknown(other, "pool_max, sslmode, sslrootcert and libpq's connection keys")),
        }
    }
    let (ssl_mode, trust) = tls_of(mode, root_certificate.is_some())?;
    let url = format!("{base}?{}", kept.join("&"));
    // The parser's own sentence may quote what it stumbled over.
    let mut config = url.parse::<tokio_postgres::Config>().map_err(|_may_quote| {
        "the database's URL can't be read: it is postgres://USER:PASSWORD@HOST:PORT/DATABASE, \
         with user and password percent-encoded"
            .to_owned()
    })?;
    config.ssl_mode(ssl_mode);
    if config.get_application_name().is_none() {
        config.application_name("hasnot-engine");
    }
    let tls = Tls { trust, root_certificate: root_certificate.map(PathBuf::from) };
    Ok(Parsed { address: Address::Postgres(Box::new(postgres::Address { config, tls })), pool_max })
}

/// What libpq does for each `sslmode`; a root certificate turns `require` into `verify-ca`, there as here. `allow` is
/// treated like `prefer`: encrypted where the server can.
fn tls_of(mode: &str, has_root: bool) -> Result<(SslMode, Trust), String> {
    Ok(match mode {
        "disable" => (SslMode::Disable, Trust::Anyone),
        "allow" | "prefer" => (SslMode::Prefer, Trust::Anyone),
        "require" if has_root => (SslMode::Require, Trust::Chain),
        "require" => (SslMode::Require, Trust::Anyone),
        "verify-ca" => (SslMode::Require, Trust::Chain),
        "verify-full" => (SslMode::Require, Trust::ChainAndName),
        _ => return Err("sslmode is one of disable, allow, prefer, require, verify-ca and verify-full".into()),
    })
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn parse_pool_max(value: &str) -> Result<u32, String> {
    match value.parse() {
        Ok(max @ 1..=1000) => Ok(max),
        _ => Err("pool_max in the database's URL is a number from 1 to 1000".into()),
    }
}

fn unknown(key: &str, known: &str) -> String {
    let shown = key.len() <= 32 && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let key = if shown { key } else { "…" };
    format!("unknown key `{key}` in the database's URL; known are {known}")
}

fn percent_decoded(text: &str) -> Result<String, String> {
    let wrong = || "sslrootcert in the database's URL is not percent-encoded UTF-8".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                let (high, low) = (digit(rest.next()).ok_or_else(wrong)?, digit(rest.next()).ok_or_else(wrong)?);
                u8::try_from(high * 16 + low).map_err(|_never| wrong())?
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).map_err(|_bytes| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        parse(url).err().unwrap_or_else(|| panic!("{url} was taken"))
    }

    #[test]
    fn our_keys_are_taken_out_and_the_rest_is_kept() {
        let parsed =
            parse("postgresql://u:p%40ss@db:6432/app?pool_max=7&sslmode=verify-full&pgbouncer=true&connect_timeout=3")
                .unwrap();
        assert_eq!(parsed.pool_max, Some(7));
        let Address::Postgres(address) = parsed.address else { panic!() };
        assert_eq!(address.config.get_password(), Some(&b"p@ss"[..]));
        assert_eq!(address.config.get_ports(), [6432]);
        assert_eq!(address.config.get_ssl_mode(), SslMode::Require);
        assert_eq!(address.tls.trust, Trust::ChainAndName);
    }

    #[test]
    fn sslmode_means_what_it_means_to_libpq() {
        for (query, mode, trust) in [
            ("", SslMode::Prefer, Trust::Anyone),
            ("?sslmode=disable", SslMode::Disable, Trust::Anyone),
            ("?sslmode=allow", SslMode::Prefer, Trust::Anyone),
            ("?sslmode=require", SslMode::Require, Trust::Anyone),
            ("?sslmode=require&sslrootcert=%2Fetc%2Fca.pem", SslMode::Require, Trust::Chain),
            ("?sslmode=verify-ca", SslMode::Require, Trust::Chain),
        ] {
            let Address::Postgres(address) = parse(&format!("postgres://h/d{query}")).unwrap().address else {
                panic!()
            };
            assert_eq!((address.config.get_ssl_mode(), address.tls.trust), (mode, trust), "{query}");
        }
    }

    #[test]
    fn a_sqlite_url_is_a_path() {
        for (url, path) in [("sqlite://data/x.db", "data/x.db"), ("sqlite:///var/x.db?pool_max=3", "/var/x.db")] {
            let Address::Sqlite(target) = parse(url).unwrap().address else { panic!() };
            assert_eq!(target.path, PathBuf::from(path));
        }
        for url in ["sqlite://", "sqlite://:memory:", "sqlite://x.db?mode=ro"] {
            refusal(url);
        }
    }

    #[test]
    fn a_refusal_never_shows_a_password() {
        for url in [
            "mysql://u:hunter2@h/d",
            "postgres://u:hunter2@h:port/d",
            "postgres://u:hunter2?x@h/d",
            "postgres://u:hunter2@h/d?hunter2=1",
            "postgres://u:hunter2@h/d?sslmode=hunter2",
            "postgres://u:hunter2@h/d?pool_max=hunter2",
            "postgres://u:p?hunter=2@h/d",
            "hunter2",
        ] {
            assert!(!refusal(url).contains("hunter"), "{}", refusal(url));
        }
        assert!(refusal("postgres://h/d?schema=app").contains("`schema`"));
    }
}
