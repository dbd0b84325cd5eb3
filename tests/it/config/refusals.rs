//! One case for each refusal: the sentence names the key, what was found and what is allowed.

use super::{GOOD_SECRET, file, read, read_file};

/// Asserts that these variables are refused with one sentence that has all of these parts.
fn refused(case: &str, variables: &[(&str, &str)], parts: &[&str]) {
    let error = read(variables).expect_err(case);
    check(case, error.sentences(), parts);
}

/// Asserts that this file is refused with one sentence that has all of these parts.
fn refused_file(case: &str, text: &str, parts: &[&str]) {
    let error = read_file(text, &[]).expect_err(case);
    check(case, error.sentences(), parts);
}

fn check(case: &str, sentences: &[String], parts: &[&str]) {
    assert_eq!(sentences.len(), 1, "{case}: {sentences:#?}");
    for part in parts {
        assert!(sentences[0].contains(part), "{case}: no «{part}» in: {}", sentences[0]);
    }
    assert!(sentences[0].ends_with(['.', '?']), "{case}: no sentence: {}", sentences[0]);
}

#[test]
fn unknown_keys() {
    let cases: [(&str, &str, &[&str]); 7] = [
        ("a section", "[sever]\nx = 1", &["`sever`", "is no key", "server", "Did you mean `server`?"]),
        ("a key", "[server]\nworker = 1", &["`server.worker` (in ", "in `server` there are:", "mean `workers`?"]),
        ("nothing like it", "[server]\nzzz = 1", &["`server.zzz`", "backlog, body_timeout", "write_timeout."]),
        ("of an actor", "[quota]\nmax_acounts = 1", &["`quota.max_acounts`", "mean `max_accounts`?"]),
        ("of a provider", "[providers.x]\nbase_ulr = \"\"\nkind = \"simulator\"", &["`providers.x.base_ulr`"]),
        (
            "of a model",
            "[models.catalog.\"a/b\"]\nclas = \"x\"\nclass = \"x\"\nprovider = \"simulator\"",
            &["`models.catalog.\"a/b\".clas`", "mean `class`?"],
        ),
        ("a file of what is no secret", "[server]\nlisten_file = \"x\"", &["`server.listen_file`", "is no key"]),
    ];
    for (case, text, parts) in cases {
        let error = read_file(text, &[]).expect_err(case);
        check(case, &error.sentences()[..1], parts);
    }
    refused(
        "a variable",
        &[("HNE__SERVER__WORKRES", "1")],
        &["`server.workres` (from HNE__SERVER__WORKRES)", "workers"],
    );
    refused("below a value", &[("HNE__SERVER__LISTEN__X", "1")], &["HNE__SERVER__LISTEN__X", "is no key"]);
    for (variable, meant) in [
        ("HNE_PROFIL", "HNE_PROFILE"),
        ("HNE_DATADIR", "HNE_DATA_DIR"),
        ("HNE_LISTEN", "LISTEN"),
        ("HNE_SERVER__WORKERS", "HNE__SERVER__WORKERS"),
        ("HNE_SERVER_WORKERS", "HNE__SERVER__WORKERS"),
        ("HNE_LOG__FORMAT", "HNE__LOG__FORMAT"),
    ] {
        let (is_none, hint) = (format!("`{variable}` is no variable"), format!("Did you mean `{meant}`?"));
        refused(variable, &[(variable, "s3ntinel")], &[&is_none, "HNE__SECTION__KEY", &hint]);
    }
    refused("a port of its own", &[("HNE_SERVER__PORT", "3")], &["`HNE_SERVER__PORT` is no variable"]);
    #[cfg(not(feature = "mutants"))]
    refused("a mistake in a build without", &[("HNE_MUTANT", "NoAuth")], &["`HNE_MUTANT` is no variable"]);
    refused("a variable for a section", &[("HNE__SERVER", "1")], &["`HNE__SERVER`", "section", "backlog"]);
    refused("a variable for all entries", &[("HNE__PROVIDERS", "1")], &["`HNE__PROVIDERS`", "section"]);
}

#[test]
fn values_of_another_type() {
    for (case, variable, value, parts) in [
        ("a number", "HNE__SERVER__WORKERS", "many", &["`server.workers`", "\"many\"", "a whole number"][..]),
        ("a negative one", "HNE__SERVER__WORKERS", "-1", &["`server.workers`", "-1", "not negative"]),
        ("a boolean", "HNE__LOG__ACCESS", "maybe", &["`log.access`", "\"maybe\"", "true or false"]),
        ("a decimal", "HNE__ALERTS__MEMORY_PERCENT", "half", &["`alerts.memory_percent`", "\"half\"", "a number"]),
        ("a duration", "HNE__STREAM__KEEPALIVE", "10", &["`stream.keepalive`", "\"10\"", "\"30s\""]),
        ("a choice", "HNE_PROFILE", "prod", &["`profile`", "HNE_PROFILE", "\"prod\"", "development", "production"]),
        ("an algorithm", "JWT_ALGORITHM", "none", &["`auth.jwt_algorithm`", "\"none\"", "HS256", "EdDSA"]),
        ("provisioning", "HNE__AUTH__PROVISION", "x", &["`auth.provision`", "\"x\"", "default_plan", "reject"]),
        ("a log format", "HNE__LOG__FORMAT", "xml", &["`log.format`", "\"xml\"", "pretty", "json"]),
        ("an address", "LISTEN", "3000", &["`server.listen` (from LISTEN)", "\"3000\"", "ADDRESS:PORT"]),
        ("a filter", "RUST_LOG", "a=b=c", &["`log.filter` (from RUST_LOG)", "\"a=b=c\"", "\"info\""]),
        (
            "a price",
            "HNE__MODELS__CATALOG__SIM/BASIC__INPUT_PRICE",
            "-1",
            &["input_price", "\"-1\"", "US dollars", "0.15"],
        ),
    ] {
        refused(case, &[(variable, value)], parts);
    }
    let wrong = [
        ("a string", "[server]\nlisten = 3000", &["`server.listen`", "3000", "a string"][..]),
        ("a table", "server = 5", &["`server`", "the type integer", "a table"]),
        ("no table", "[server.workers]\nx = 1", &["`server.workers`", "a table"]),
        ("a list", "[server]\ncors_origins = \"*\"", &["`server.cors_origins`", "\"*\"", "a sequence"]),
    ];
    for (case, text, parts) in wrong {
        refused_file(case, text, parts);
    }
    refused_file("TOML", "[server]\nlisten = ", &["test.toml is no valid TOML at line 2"]);
}

#[test]
fn values_out_of_range() {
    for (variable, value, parts) in [
        ("HNE__SERVER__WORKERS", "2000", &["`server.workers`", "2000", "0 to 1024"][..]),
        ("HNE__SERVER__MAX_BODY_BYTES", "1", &["`server.max_body_bytes`", "1024 to 1073741824"]),
        ("HNE__SERVER__HEADER_TIMEOUT", "1ms", &["`server.header_timeout`", "1ms", "1s to 10m"]),
        ("HNE__SERVER__BODY_TIMEOUT", "1h", &["`server.body_timeout`", "1h", "1s to 10m"]),
        ("HNE__SERVER__KEEP_ALIVE", "0s", &["`server.keep_alive`", "0s", "1s to 1h"]),
        ("HNE__SERVER__BACKLOG", "0", &["`server.backlog`", "1 to 65535"]),
        ("HNE__SERVER__MAX_STREAMS", "1000001", &["`server.max_streams`", "0 to 1000000"]),
        ("HNE__SERVER__MAX_CONNECTIONS", "1000001", &["`server.max_connections`", "0 to 1000000"]),
        ("HNE__SERVER__SEND_BUFFER_BYTES", "1", &["`server.send_buffer_bytes`", "4096 to 16777216"]),
        ("HNE__SERVER__WRITE_TIMEOUT", "0s", &["`server.write_timeout`", "1s to 10m"]),
        ("HNE__SERVER__MEMORY_LIMIT_MB", "1", &["`server.memory_limit_mb`", "16 to 1048576"]),
        ("HNE__AUTH__CACHE_ENTRIES", "0", &["`auth.cache_entries`", "1 to 10000000"]),
        ("HNE__QUOTA__MAX_ACCOUNTS", "0", &["`quota.max_accounts`", "1 to 100000000"]),
        ("HNE__QUOTA__IDLE_TIMEOUT", "0s", &["`quota.idle_timeout`", "1s to 1day"]),
        ("HNE__QUOTA__LOAD_TIMEOUT", "0s", &["`quota.load_timeout`", "10ms to 1m"]),
        ("HNE__STREAM__KEEPALIVE", "0s", &["`stream.keepalive`", "100ms to 5m"]),
        ("HNE__STREAM__COMMIT_AFTER", "2m", &["`stream.commit_after`", "0s to 1m"]),
        ("HNE__STREAM__BUFFER_BYTES", "1", &["`stream.buffer_bytes`", "4096 to 16777216"]),
        ("HNE__STREAM__MAX_FRAME_BYTES", "1", &["`stream.max_frame_bytes`", "1024 to 67108864"]),
        ("HNE__STREAM__MAX_ANSWER_BYTES", "1", &["`stream.max_answer_bytes`", "1024 to 1073741824"]),
        ("HNE__STREAM__REPLAY_BYTES", "1", &["`stream.replay_bytes`", "65536 to 17179869184"]),
        ("HNE__LEDGER__FLUSH_INTERVAL", "0s", &["`ledger.flush_interval`", "10ms to 1m"]),
        ("HNE__LEDGER__FLUSH_POSTINGS", "0", &["`ledger.flush_postings`", "1 to 100000"]),
        ("HNE__QUOTA__LEASE_WAIT", "2m", &["`quota.lease_wait`", "0s to 1m"]),
        ("HNE__JOURNAL__FSYNC", "never", &["`journal.fsync`", "interval", "each"]),
        ("HNE__JOURNAL__FSYNC_INTERVAL", "0s", &["`journal.fsync_interval`", "1ms to 10s"]),
        ("HNE__JOURNAL__SEGMENT_BYTES", "65535", &["`journal.segment_bytes`", "65536 to 1073741824"]),
        ("HNE__JOURNAL__RETAIN", "31d", &["`journal.retain`", "0s to 30d"]),
        ("HNE__JOURNAL__RETAIN_BYTES", "1099511627777", &["`journal.retain_bytes`", "0 to 1099511627776"]),
        ("HNE__JOURNAL__MAX_BYTES", "1048575", &["`journal.max_bytes`", "1048576 to 1099511627776"]),
        ("HNE__DATABASE__POOL_MAX", "0", &["`database.pool_max`", "1 to 1000"]),
        ("HNE__DATABASE__IDLE_TIMEOUT", "0s", &["`database.idle_timeout`", "1s to 1h"]),
        ("HNE__DATABASE__CONNECT_TIMEOUT", "0s", &["`database.connect_timeout`", "100ms to 1m"]),
        ("HNE__DATABASE__STATEMENT_TIMEOUT", "0s", &["`database.statement_timeout`", "100ms to 10m"]),
        ("HNE__REDIS__TIMEOUT", "0s", &["`redis.timeout`", "1ms to 10s"]),
        ("HNE__REDIS__QUEUE", "0", &["`redis.queue`", "1 to 1000000"]),
        ("HNE__PROVIDERS__OPENROUTER__CONNECT_TIMEOUT", "0s", &["openrouter.connect_timeout`", "10ms to 5m"]),
        ("HNE__PROVIDERS__OPENROUTER__IDLE_TIMEOUT", "0s", &["openrouter.idle_timeout`", "10ms to 1h"]),
        ("HNE__PROVIDERS__OPENROUTER__FIRST_BYTE_TIMEOUT", "0s", &["first_byte_timeout`", "10ms to 1h"]),
        ("HNE__PROVIDERS__OPENROUTER__GAP_TIMEOUT", "0s", &["gap_timeout`", "10ms to 1h"]),
        ("HNE__PROVIDERS__OPENROUTER__TOTAL_TIMEOUT", "48h", &["total_timeout`", "0s to 1day"]),
        ("HNE__PROVIDERS__OPENROUTER__RETRIES", "11", &["openrouter.retries`", "11", "0 to 10"]),
        ("HNE__PROVIDERS__OPENROUTER__RETRY_BUDGET_PERCENT", "101", &["retry_budget_percent`", "101", "0 to 100"]),
        ("HNE__PROVIDERS__OPENROUTER__BREAKER_FAILURE_PERCENT", "101", &["breaker_failure_percent`", "0 to 100"]),
        ("HNE__PROVIDERS__OPENROUTER__BREAKER_MIN_ATTEMPTS", "1", &["breaker_min_attempts`", "1", "2 to 100000"]),
        ("HNE__PROVIDERS__OPENROUTER__BREAKER_OPEN", "1h", &["breaker_open`", "1h", "10ms to 10m"]),
        ("HNE__PROVIDERS__SIMULATOR__FIRST_FRAME", "1h", &["simulator.first_frame`", "0s to 10m"]),
        ("HNE__PROVIDERS__SIMULATOR__FRAME_GAP", "1h", &["simulator.frame_gap`", "0s to 10m"]),
        ("HNE__PROVIDERS__SIMULATOR__FRAMES", "0", &["simulator.frames`", "1 to 100000"]),
        ("HNE__SHUTDOWN__DELAY", "1h", &["`shutdown.delay`", "0s to 5m"]),
        ("HNE__SHUTDOWN__GRACE", "2h", &["`shutdown.grace`", "0s to 1h"]),
        ("HNE__SHUTDOWN__FLUSH_TIMEOUT", "1h", &["`shutdown.flush_timeout`", "0s to 5m"]),
        ("HNE__ALERTS__MEAN_RESPONSE", "0s", &["`alerts.mean_response`", "1ms to 1h"]),
        ("HNE__ALERTS__ERROR_RATE_PERCENT", "101", &["`alerts.error_rate_percent`", "0 to 100"]),
        ("HNE__ALERTS__MEMORY_PERCENT", "-1", &["`alerts.memory_percent`", "0 to 100"]),
        ("HNE__ALERTS__CONNECTIONS_PERCENT", "NaN", &["`alerts.connections_percent`", "0 to 100"]),
    ] {
        refused(variable, &[(variable, value)], parts);
    }
}

#[test]
fn journals_that_have_no_room() {
    let sizes = |most| {
        let (workers, segment) = (("HNE__SERVER__WORKERS", "4"), ("HNE__JOURNAL__SEGMENT_BYTES", "1073741824"));
        [workers, segment, ("HNE__JOURNAL__MAX_BYTES", most)]
    };
    refused(
        "four files for four workers",
        &sizes("4294967296"),
        &["`journal.max_bytes`", "least 8589934592", "4 workers"],
    );
    assert!(read(&sizes("8589934592")).is_ok());
}

#[test]
fn addresses() {
    let cases = [
        ("the world in development", "LISTEN", "0.0.0.0:3000", &["`server.listen`", "0.0.0.0:3000", "loopback"][..]),
        ("a mapped address", "LISTEN", "[::ffff:10.0.0.1]:80", &["`server.listen`", "loopback"]),
        ("a database's scheme", "DATABASE_URL", "mysql://u:p@h/d", &["`database.url`", "mysql://", "sqlite://"]),
        ("no database", "DATABASE_URL", "host=h user=u", &["`database.url`", "no URL", "postgres://"]),
        ("a replica", "DATABASE_REPLICA_URL", "x", &["`database.replica_url`", "postgres://"]),
        ("a pool", "DATABASE_URL", "postgres://h/d?pool_max=x", &["`database.url`", "pool_max=x", "1 to 1000"]),
        ("Redis", "REDIS_URL", "http://h", &["`redis.url` (from REDIS_URL)", "http://", "rediss://"]),
        ("its database", "REDIS_URL", "redis://h/abc", &["`redis.url` (from REDIS_URL)", "number of a database"]),
        ("a provider's scheme", "OPENROUTER_BASE_URL", "ftp://h", &["openrouter.base_url`", "\"ftp://h\"", "https"]),
        ("no host", "OPENROUTER_BASE_URL", "/v1", &["openrouter.base_url`", "\"/v1\"", "host"]),
        ("credentials", "OPENROUTER_BASE_URL", "https://u:p@h", &["openrouter.base_url`", "without credentials"]),
        ("a query", "OPENROUTER_BASE_URL", "https://h?x=1", &["openrouter.base_url`", "without credentials, query"]),
        ("a part", "OPENROUTER_BASE_URL", "https://h/#x", &["openrouter.base_url`", "query and fragment"]),
        ("an origin's path", "HNE__SERVER__CORS_ORIGINS", "https://a.example/", &["`server.cors_origins`", "no path"]),
        ("an origin", "HNE__SERVER__CORS_ORIGINS", "a.example", &["`server.cors_origins`", "\"a.example\""]),
        ("any and some", "HNE__SERVER__CORS_ORIGINS", "*,https://a.example", &["`server.cors_origins`", "alone"]),
        ("credentials for all", "HNE__SERVER__CORS_CREDENTIALS", "true", &["`server.cors_credentials`", "\"*\""]),
        ("a folder", "HNE__DATA_DIR", "", &["`data_dir`", "empty", "folder"]),
    ];
    for (case, variable, value, parts) in cases {
        refused(case, &[(variable, value)], parts);
    }
}

#[test]
fn keys_that_do_not_fit_the_algorithm() {
    let folder = tempfile::tempdir().unwrap();
    let pem = file(folder.path(), "key.pem", "PEM").display().to_string();
    let jwks = ("JWT_JWKS_URL", "https://h/jwks");
    refused("HS256, public key", &[("JWT_PUBLIC_KEY_FILE", &pem)], &["`auth.jwt_algorithm`", "HS256", "RS256"]);
    refused("HS256, JWKS", &[jwks], &["`auth.jwt_algorithm`", "HS256", "EdDSA"]);
    refused(
        "RS256, none",
        &[("JWT_ALGORITHM", "RS256")],
        &["`auth.jwt_algorithm` is RS256", "JWT_PUBLIC_KEY_FILE", "JWT_JWKS"],
    );
    refused(
        "ES256, a secret",
        &[("JWT_ALGORITHM", "ES256"), jwks, ("JWT_SECRET", GOOD_SECRET)],
        &["`auth.jwt_secret` (from JWT_SECRET)", "is ES256", "HS256"],
    );
    let both = [("JWT_ALGORITHM", "EdDSA"), jwks, ("JWT_PUBLIC_KEY_FILE", pem.as_str())];
    refused("both", &both, &["jwt_public_key_file", "jwt_jwks_url", "only one"]);
    let gone = [("JWT_ALGORITHM", "RS256"), ("JWT_PUBLIC_KEY_FILE", "/nowhere/key.pem")];
    refused("a file that isn't there", &gone, &["`auth.jwt_public_key_file`", "/nowhere/key.pem", "read"]);
    let ftp = [("JWT_ALGORITHM", "RS256"), ("JWT_JWKS_URL", "ftp://h")];
    refused("no such URL", &ftp, &["`auth.jwt_jwks_url`", "\"ftp://h\"", "https"]);
    let part = [("JWT_ALGORITHM", "RS256"), ("JWT_JWKS_URL", "https://h/keys#one")];
    refused("a part", &part, &["`auth.jwt_jwks_url`", "https://h/keys#one", "without credentials and fragment"]);
}

#[test]
fn secrets_that_production_does_not_take() {
    let production = [("HNE_PROFILE", "production"), ("OPENROUTER_API_KEY", "sk-or-1")];
    refused("none", &production, &["`auth.jwt_secret`", "missing or empty", "JWT_SECRET"]);
    for (secret, found) in [
        ("short-4f9c1d7be02a63585bd1c09a7", "only 31 bytes"),
        ("changeme-4f9c1d7be02a63585bd1c09a7e24f631", "an example"),
        ("CHANGE-ME-4f9c1d7be02a63585bd1c09a7e24f631", "an example"),
        ("secret-4f9c1d7be02a63585bd1c09a7e24f631", "an example"),
        ("your-256-bit-secret-4f9c1d7be02a63585bd1", "an example"),
        ("hne-example-4f9c1d7be02a63585bd1c09a7e24f631", "an example"),
        ("a-string-secret-at-least-256-bits-long", "an example"),
        ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "a repetition"),
        ("abababababababababababababababababababab", "a repetition"),
        ("0123456789abcdef0123456789abcdef", "a repetition"),
        ("                                        ", "only 0 bytes"),
    ] {
        let given = [&production[..], &[("JWT_SECRET", secret)]].concat();
        refused(secret, &given, &["`auth.jwt_secret` (from JWT_SECRET)", found, "32 random bytes"]);
    }
    assert!(read(&[&production[..], &[("JWT_SECRET", GOOD_SECRET)]].concat()).is_ok());
}

#[test]
fn the_simulator_in_production() {
    let production = [("HNE_PROFILE", "production"), ("JWT_SECRET", GOOD_SECRET)];
    refused("no provider", &production, &["OPENROUTER_API_KEY", "simulator"]);
    let keyed = [&production[..], &[("OPENROUTER_API_KEY", "sk-or-1")]].concat();
    for name in ["SLOW", "SIMULATOR"] {
        let variable = format!("HNE__PROVIDERS__{name}__KIND");
        let given = [&keyed[..], &[(variable.as_str(), "simulator")]].concat();
        refused(name, &given, &[".kind`", &variable, "\"simulator\"", "openrouter or openai"]);
    }
    let local = [("HNE__PROVIDERS__LOCAL__KIND", "openai"), ("HNE__PROVIDERS__LOCAL__BASE_URL", "http://h:8000")];
    assert!(read(&[&production[..], &local].concat()).is_ok(), "a local model needs no key");
}

#[test]
fn providers_and_models() {
    let model = |rest: &str| format!("[models.catalog.\"a/b\"]\n{rest}");
    let fine = "class = \"basic\"\nprovider = \"openrouter\"\n";
    let cases = [
        ("no kind", "[providers.x]\nretries = 1".to_owned(), &["`providers.x.kind`", "missing", "openai"][..]),
        ("a kind", "[providers.x]\nkind = \"azure\"".to_owned(), &["`providers.x.kind`", "\"azure\"", "simulator"]),
        ("no address", "[providers.x]\nkind = \"openai\"".to_owned(), &["`providers.x.base_url`", "missing"]),
        (
            "a key of another kind",
            "[providers.x]\nkind = \"simulator\"\nretries = 1".to_owned(),
            &["`providers.x.retries`", "no key of the kind simulator", "first_frame"],
        ),
        (
            "a field",
            "[providers.openrouter]\nallow_fields = [\"model\"]".to_owned(),
            &["openrouter.allow_fields`", "\"model\"", "models, route"],
        ),
        ("a header", "[providers.openrouter.headers]\nHost = \"x\"".to_owned(), &["headers.host`", "sets it itself"]),
        ("a header's name", "[providers.openrouter.headers]\n\"a b\" = \"x\"".to_owned(), &["headers.a b`", "letters"]),
        ("a header's value", "[providers.openrouter.headers]\nx = \"a\\nb\"".to_owned(), &["headers.x`", "ASCII"]),
        ("a CA", "[providers.openrouter]\nca_file = \"/nowhere\"".to_owned(), &["openrouter.ca_file`", "/nowhere"]),
        (
            "a CA of Redis's",
            "[redis]\nurl = \"rediss://h\"\nca_file = \"/nowhere\"".to_owned(),
            &["`redis.ca_file`", "can't be read", "No such file"],
        ),
        (
            "a CA without TLS",
            "[redis]\nurl = \"redis://h\"\nca_file = \"/nowhere\"".to_owned(),
            &["`redis.ca_file`", "rediss://"],
        ),
        ("no class", model("provider = \"openrouter\""), &["`models.catalog.\"a/b\"` has no `class`"]),
        ("a provider", model("class = \"x\"\nprovider = \"y\""), &["provider`", "\"y\"", "openrouter, simulator"]),
        ("a simulated name", model("class = \"x\"\nprovider = \"simulator\""), &["provider`", "a simulator", "sim/"]),
        ("itself", model(&format!("{fine}fallbacks = [\"a/b\"]")), &["fallbacks`", "itself"]),
        ("no id", model(&format!("{fine}fallbacks = [\"a b\"]")), &["fallbacks`", "a b", "1 to 128"]),
        (
            "too much",
            model(&format!("{fine}context = 5\nmax_output = 6")),
            &["max_output`", "6", "at most `context`, 5"],
        ),
        ("a class", model("class = \"a b\"\nprovider = \"openrouter\""), &["class`", "\"a b\"", "1 to 128"]),
        ("an id", format!("[models.catalog.\"a b\"]\n{fine}"), &["\"a b\"` is no model's id"]),
        ("the class of others", "[models]\npass_through_class = \"\"".to_owned(), &["`models.pass_through_class`"]),
    ];
    for (case, text, parts) in &cases {
        refused_file(case, text, parts);
    }
}

#[test]
fn the_same_thing_given_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "secret", GOOD_SECRET).display().to_string();
    let both = [("JWT_SECRET", GOOD_SECRET), ("JWT_SECRET_FILE", path.as_str())];
    refused("a secret and its file", &both, &["JWT_SECRET", "JWT_SECRET_FILE", "only one"]);
    let mixed = [("HNE__AUTH__JWT_SECRET", GOOD_SECRET), ("JWT_SECRET_FILE", path.as_str())];
    refused("under two names", &mixed, &["HNE__AUTH__JWT_SECRET", "JWT_SECRET_FILE", "only one"]);
    let text = format!("[auth]\njwt_secret = {GOOD_SECRET:?}\njwt_secret_file = {path:?}");
    refused_file("in a file", &text, &["auth.jwt_secret", "auth.jwt_secret_file", "only one"]);
    let two = [("LISTEN", "127.0.0.1:1"), ("HNE__SERVER__LISTEN", "127.0.0.1:2")];
    refused("two variables", &two, &["`LISTEN`", "`HNE__SERVER__LISTEN`", "only one"]);
    let same = [("LISTEN", "127.0.0.1:1"), ("HNE__SERVER__LISTEN", "127.0.0.1:1")];
    assert!(read(&same).is_ok(), "saying the same twice is fine");
    let tokens = [
        ("UPSTASH_REDIS_REST_URL", "https://h"),
        ("UPSTASH_REDIS_REST_TOKEN", "t"),
        ("UPSTASH_REDIS_REST_TOKEN_FILE", "f"),
    ];
    refused("Upstash's token", &tokens, &["UPSTASH_REDIS_REST_TOKEN_FILE", "only one"]);
}

#[test]
fn half_of_upstash_s_pair() {
    let (url, token) = (("UPSTASH_REDIS_REST_URL", "https://h"), ("UPSTASH_REDIS_REST_TOKEN", "t"));
    refused("no token", &[url], &["`UPSTASH_REDIS_REST_URL` is given", "`UPSTASH_REDIS_REST_TOKEN` is not"]);
    refused("no URL", &[token], &["`UPSTASH_REDIS_REST_TOKEN` is given", "`UPSTASH_REDIS_REST_URL` is not"]);
    refused("no such URL", &[("UPSTASH_REDIS_REST_URL", "redis://h"), token], &["UPSTASH_REDIS_REST_URL", "https://"]);
}

#[test]
fn files_that_cannot_be_read() {
    refused("a secret's", &[("JWT_SECRET_FILE", "/nowhere")], &["JWT_SECRET_FILE", "\"/nowhere\"", "can be read"]);
    let folder = tempfile::tempdir().unwrap();
    let empty = file(folder.path(), "empty", " \n").display().to_string();
    refused("an empty one", &[("JWT_SECRET_FILE", &empty)], &["JWT_SECRET_FILE", "isn't empty"]);
    let error = hasnot_engine::config::Config::read(Some(std::path::Path::new("/nowhere.toml")), []).unwrap_err();
    check("the configuration", error.sentences(), &["/nowhere.toml", "can't be read"]);
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = "[server]\nworkers = \"x\"\nbacklog = \"y\"\ntypo = 1\n[stream]\nkeepalive = \"0s\"\n[models]\npass_through = 3";
    let error = read_file(text, &[("LISTEN", "nowhere"), ("REDIS_URL", "h")]).unwrap_err();
    for key in ["workers", "backlog", "typo", "keepalive", "pass_through", "listen", "redis.url"] {
        assert!(error.sentences().iter().any(|sentence| sentence.contains(key)), "no {key} in: {error}");
    }
    assert_eq!(error.sentences().len(), 7, "{error}");
}
