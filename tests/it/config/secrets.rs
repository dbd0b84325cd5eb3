//! Secrets: from files, never shown, and the one that development makes.

use std::{os::unix::fs::PermissionsExt, sync::Barrier};

use hasnot_engine::config::{Config, ensure_secret};
use secrecy::ExposeSecret;

use super::{GOOD_SECRET, file, read, read_file};

/// What must be seen nowhere.
const SENTINEL: &str = "s3ntinel-4f9c1d7be02a63585bd1c09a7e24f631";

#[test]
fn every_secret_may_be_given_as_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let secret =
        |text: &str| file(folder.path(), &text.replace('/', "-"), &format!("\n {text}\n")).display().to_string();
    let config = read(&[
        ("JWT_SECRET_FILE", &secret("jwt-secret")),
        ("DATABASE_URL_FILE", &secret("postgres://u:p@h/d?pool_max=3")),
        ("DATABASE_REPLICA_URL_FILE", &secret("sqlite://replica")),
        ("REDIS_URL_FILE", &secret("redis://h")),
        ("OPENROUTER_API_KEY_FILE", &secret("sk-or-9")),
        ("HNE__PROVIDERS__LOCAL__KIND", "openai"),
        ("HNE__PROVIDERS__LOCAL__BASE_URL", "http://h"),
        ("HNE__PROVIDERS__LOCAL__API_KEY_FILE", &secret("lock-key")),
    ])
    .unwrap();
    assert_eq!(config.auth.jwt.secret.as_ref().unwrap().expose_secret(), "jwt-secret");
    assert_eq!(config.database.url.expose_secret(), "postgres://u:p@h/d");
    assert_eq!(config.database.replica_url.as_ref().unwrap().expose_secret(), "sqlite://replica");
    assert_eq!(config.redis.url.as_ref().unwrap().expose_secret(), "redis://h");
    for (name, key) in [("openrouter", "sk-or-9"), ("local", "lock-key")] {
        let hasnot_engine::config::Provider::Http(http) = &config.providers[name] else { panic!("{name}") };
        assert_eq!(http.api_key.as_ref().unwrap().expose_secret(), key);
    }
}

#[test]
fn a_file_s_secret_is_a_layer_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "secret", "from-the-environment").display().to_string();
    let text = "[auth]\njwt_secret = \"from-the-file\"";
    let config = read_file(text, &[("JWT_SECRET_FILE", &path)]).unwrap();
    assert_eq!(config.auth.jwt.secret.unwrap().expose_secret(), "from-the-environment");
    let config = read_file(&format!("[auth]\njwt_secret_file = {path:?}"), &[]).unwrap();
    assert_eq!(config.auth.jwt.secret.unwrap().expose_secret(), "from-the-environment");
}

/// Every place where a secret may stand, with one in it.
fn full_of_secrets() -> Config {
    let text = format!(
        "[auth]\njwt_secret = \"{SENTINEL}\"\n[database]\nurl = \"postgres://user:{SENTINEL}@db.internal:5432/app?application_name={SENTINEL}\"\n\
         replica_url = \"postgres://user:{SENTINEL}@db2.internal/app\"\n[redis]\nurl = \"rediss://default:{SENTINEL}@r.internal:6379\"\n\
         [providers.openrouter]\napi_key = \"{SENTINEL}\"\nheaders = {{ x-secret = \"{SENTINEL}\" }}"
    );
    read_file(&text, &[]).unwrap()
}

#[test]
fn no_secret_shows_in_debug_output_or_in_what_is_shown() {
    let config = full_of_secrets();
    let shown: Vec<String> = config.redacted_lines().collect();
    for output in [format!("{config:?}"), format!("{config:#?}"), shown.join("\n")] {
        assert!(!output.contains(SENTINEL), "{output}");
    }
    assert!(shown.iter().any(|line| line.starts_with("database.url = postgres://…@db.internal:5432/app (in ")));
    assert!(shown.iter().any(|line| line.starts_with("auth.jwt_secret = hidden (in ")));
}

#[test]
fn a_url_that_reads_two_ways_is_not_shown_at_all() {
    let config = read(&[("DATABASE_URL", "postgres://u:1234#5@h/d")]).unwrap();
    assert_eq!(super::line(&config, "database.url"), "hidden (from DATABASE_URL)");
    let error = read(&[("DATABASE_URL", "postgres://u:1234?5@h/d")]).unwrap_err().to_string();
    assert!(error.contains("percent-encoded") && !error.contains("1234"), "{error}");
}

/// Its host would be a piece of the password, and be shown.
#[test]
fn a_password_that_may_go_on_is_refused_and_not_shown() {
    for rest in [
        "a:p@s3ntinel/rd@127.0.0.1:1/x",
        "a:p@s3ntinel@h/d",
        "a:12/s3ntinel@h/d",
        "a:12/@s3ntinel",
        "a:p@h?s3ntinel@h/d",
        "a:p@h/d?application_name=s3ntinel@h",
        "a:p@h?pool_max=s3ntinel@h/d",
    ] {
        let url = format!("postgres://{rest}");
        for variable in ["DATABASE_URL", "DATABASE_REPLICA_URL"] {
            let error = read(&[(variable, &url)]).expect_err(&url).to_string();
            assert!(error.contains(variable) && error.contains("percent-encoded"), "{url}: {error}");
            assert!(!error.contains("s3ntinel"), "{error}");
        }
    }
    // The client of Redis takes the last `@` before the path for the user's end.
    let config = read(&[("REDIS_URL", "redis://a:p@s3ntinel@h:1/0")]).unwrap();
    assert_eq!(super::line(&config, "redis.url"), "hidden (from REDIS_URL)");
    for url in ["postgres://u:p%40s%2Fs@h/d", "postgres://h/d", "sqlite://at@home/x.db"] {
        read(&[("DATABASE_URL", url)]).unwrap();
    }
}

#[test]
fn a_key_set_s_query_is_taken_and_not_shown() {
    let url = format!("https://signer.example/keys?p={SENTINEL}");
    let config = read(&[("JWT_ALGORITHM", "RS256"), ("JWT_JWKS_URL", &url)]).unwrap();
    assert!(!format!("{config:?}").contains(SENTINEL), "{config:?}");
    assert_eq!(super::line(&config, "auth.jwt_jwks_url"), "\"https://signer.example/keys?…\" (from JWT_JWKS_URL)");
}

#[test]
fn no_secret_shows_in_an_error() {
    let token = format!("https://h?{SENTINEL}");
    let variables: [&[(&str, &str)]; 11] = [
        &[("DATABASE_URL", SENTINEL)],
        &[("DATABASE_URL", "postgres//user:s3ntinel-4f9c1d7be02a63585bd1c09a7e24f631@h")],
        &[("REDIS_URL", SENTINEL)],
        &[("HNE_PROFILE", "production"), ("JWT_SECRET", "secret-s3ntinel-4f9c1d7be02a63585bd1c09a7e24f631")],
        &[("JWT_ALGORITHM", "RS256"), ("JWT_SECRET", SENTINEL)],
        &[("OPENROUTER_BASE_URL", &token)],
        &[("JWT_ALGORITHM", "RS256"), ("JWT_JWKS_URL", &token.replace("https", "ftp"))],
        &[("JWT_ALGORITHM", "RS256"), ("JWT_JWKS_URL", &token.replace("//h?", "//u:p?w@"))],
        &[("OPENROUTER_API_KEY", "s3ntinel-4f9c1d7be02a63585bd1c09a7e24f631\nx")],
        &[("UPSTASH_REDIS_REST_TOKEN", SENTINEL), ("UPSTASH_REDIS_REST_URL", "redis")],
        &[("JWT_SECRET", SENTINEL), ("HNE__AUTH__JWT_SECRET", "s3ntinel-4f9c1d7be02a63585bd1c09a7e24f632")],
    ];
    for variables in variables {
        let error = read(variables).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3ntinel"), "{error}");
    }
    for text in [
        format!("[auth]\njwt_secret = {SENTINEL}"),
        format!("[auth]\njwt_secret = [\"{SENTINEL}\"]"),
        format!("[auth]\njwt_secret = {{ s = \"{SENTINEL}\" }}"),
        format!("[auth]\njwt_secret = \"{SENTINEL}"),
        format!("[auth]\njwt_secret = \"a\"\njwt_secret = \"{SENTINEL}\""),
        format!("auth = \"{SENTINEL}\""),
        format!("[providers]\nopenrouter = \"{SENTINEL}\""),
        format!("[providers.openrouter]\nheaders = \"{SENTINEL}\""),
        format!("[providers.openrouter.headers]\nx = [\"{SENTINEL}\"]"),
    ] {
        let error = read_file(&text, &[]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3ntinel"), "{text}\n{error}");
    }
}

#[test]
fn development_makes_a_secret_once_and_keeps_it_to_itself() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let config = || read(&[("HNE_DATA_DIR", data.to_str().unwrap())]).unwrap();
    let mut first = config();
    assert!(ensure_secret(&mut first).unwrap() && first.auth.secret_made_here);
    assert!(ensure_secret(&mut first).unwrap(), "asking again tells the same");
    let mut second = config();
    assert!(ensure_secret(&mut second).unwrap(), "at later starts too");
    let secrets = [&first, &second].map(|config| config.auth.jwt.secret.clone().unwrap().expose_secret().to_owned());
    assert_eq!(secrets[0], secrets[1]);
    assert_eq!(secrets[0].len(), 43, "32 bytes in base64");
    let mode = std::fs::metadata(data.join("jwt-secret")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn starts_at_the_same_time_agree_on_one_secret() {
    let folder = tempfile::tempdir().unwrap();
    let barrier = Barrier::new(8);
    let secret = || {
        let mut config = read(&[("HNE_DATA_DIR", folder.path().to_str().unwrap())]).unwrap();
        barrier.wait();
        ensure_secret(&mut config).unwrap();
        config.auth.jwt.secret.unwrap().expose_secret().to_owned()
    };
    let secrets: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(secret)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(secrets.iter().all(|secret| *secret == secrets[0]));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn no_secret_is_made_where_a_key_is_given_or_in_production() {
    let folder = tempfile::tempdir().unwrap();
    let data = ("HNE_DATA_DIR", folder.path().to_str().unwrap());
    for variables in [
        &[data, ("JWT_SECRET", "mine")][..],
        &[data, ("JWT_ALGORITHM", "RS256"), ("JWT_JWKS_URL", "https://h/jwks")],
        &[data, ("HNE_PROFILE", "production"), ("JWT_SECRET", GOOD_SECRET), ("OPENROUTER_API_KEY", "k")],
    ] {
        let mut config = read(variables).unwrap();
        assert!(!ensure_secret(&mut config).unwrap() && !config.auth.secret_made_here);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_kept_secret_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "jwt-secret", "\n");
    let mut config = read(&[("HNE_DATA_DIR", folder.path().to_str().unwrap())]).unwrap();
    let error = ensure_secret(&mut config).unwrap_err().to_string();
    assert!(error.contains("jwt-secret is only 0 bytes long; delete the file"), "{error}");
}
