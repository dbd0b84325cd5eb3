//! Keeps the style: who imports whom, sizes, documentation, where SQL stands.
//!
//! Every rule is a function of sources to findings, and is shown below to find what it is there for.
#![expect(clippy::string_slice, reason = "every position was found in what it cuts")]

use std::{fs, path::Path};

use self::scan::{Source, named, roots};

mod scan;

/// The most lines of a file.
const MAX_LINES: usize = 400;

/// The most lines of a statement in Rust.
const MAX_SQL_LINES: usize = 10;

/// What a part of `src/` must not name: other parts, or crates that are somebody else's.
///
/// The four that stand before the world don't know each other; `http` speaks to the engine only; nobody but the
/// program itself knows how it is put together.
const SERVICE_ARROWS: [(&str, &[&str]); 16] = [
    ("main", &[]),
    ("lib", &[]),
    ("cli", &[]),
    ("boot", &["cli"]),
    ("worker", &["cli"]),
    ("http", &["store", "cache", "upstream", "token", "boot", "cli", "diesel", "redis", "awc", "jsonwebtoken"]),
    ("token", &["cache", "upstream", "store", "http", "boot", "worker", "cli", "diesel", "redis"]),
    ("cache", &["token", "upstream", "store", "http", "boot", "worker", "cli", "diesel", "jsonwebtoken"]),
    ("upstream", &["token", "cache", "store", "http", "boot", "worker", "cli", "diesel", "redis", "jsonwebtoken"]),
    ("store", &["token", "cache", "upstream", "http", "boot", "worker", "cli", "redis", "awc", "jsonwebtoken"]),
    ("config", &["http", "boot", "worker", "cli", "diesel", "redis", "awc", "jsonwebtoken"]),
    ("io", &["token", "cache", "upstream", "store", "http", "boot", "worker", "cli", "config", "telemetry"]),
    ("clock", &["token", "cache", "upstream", "store", "http", "boot", "worker", "cli", "config"]),
    ("vitals", &["token", "cache", "upstream", "boot", "worker", "cli", "config"]),
    ("values", &["token", "cache", "upstream", "store", "http", "boot", "worker", "cli", "config"]),
    ("telemetry", &["token", "cache", "upstream", "store", "http", "boot", "worker", "cli"]),
];

/// The files of the engine that know no actor, no clock and no I/O.
const PURE: [&str; 9] = [
    "quota::account",
    "quota::meter",
    "stream::breaker",
    "stream::budget",
    "stream::recent",
    "stream::sse",
    "stream::usage",
    "stats::window",
    "stats::histogram",
];

/// What pure files and the domain must not name.
const IMPURE: [&str; 8] =
    ["actix", "actix_rt", "tokio", "std::fs", "std::net", "std::env", "Instant::now", "SystemTime::now"];

/// What the engine must not depend on.
const WORLD: [&str; 5] = ["actix-web", "diesel", "redis", "awc", "jsonwebtoken"];

/// Words that say nothing in a type's name.
const EMPTY_WORDS: [&str; 6] = ["Manager", "Helper", "Util", "Service", "Data", "Info"];

/// Returns the module of a file, such as `["http", "chat"]` of `src/http/chat.rs`.
fn module<'a>(source: &'a Source, root: &str) -> Option<Vec<&'a str>> {
    Some(source.path.strip_prefix(root)?.strip_suffix(".rs")?.split('/').collect())
}

fn service_arrows(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        let Some(module) = module(source, "src/") else { continue };
        let Some((_, forbidden)) = SERVICE_ARROWS.iter().find(|(part, _)| *part == module[0]) else {
            findings.push(format!("{}: a new part of src/ needs a line in SERVICE_ARROWS", source.path));
            continue;
        };
        let parts = named(source.shipped(), &module).into_iter().filter_map(|path| path.into_iter().next());
        let crates = roots(source.shipped()).into_iter().map(str::to_owned);
        let all: Vec<String> = parts.chain(crates).collect();
        let bad = forbidden.iter().filter(|name| all.iter().any(|named| named == *name));
        findings.extend(bad.map(|name| format!("{}: {} must not know {name}", source.path, module[0])));
    }
    findings
}

fn engine_arrows(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        let Some(module) = module(source, "actors/src/") else { continue };
        let is_domain = module[0] == "domain";
        if !is_domain && !PURE.contains(&module.join("::").as_str()) {
            continue;
        }
        for path in named(source.shipped(), &module) {
            let own = path.starts_with(&module.iter().map(|&part| part.to_owned()).collect::<Vec<_>>());
            let pure =
                !is_domain && PURE.contains(&path.iter().take(2).cloned().collect::<Vec<_>>().join("::").as_str());
            if path.first().is_some_and(|first| first != "domain") && !pure && !own {
                findings.push(format!("{}: a pure file must not know {}", source.path, path.join("::")));
            }
        }
        let code = source.shipped();
        let impure = IMPURE
            .iter()
            .filter(|name| if name.contains("::") { code.contains(**name) } else { roots(code).contains(name) });
        findings.extend(impure.map(|name| format!("{}: a pure file must not know {name}", source.path)));
    }
    findings
}

fn engine_dependencies(manifest: &str) -> Vec<String> {
    let manifest: toml::Table = manifest.parse().unwrap();
    let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
    let tables = sections.iter().filter_map(|section| manifest.get(*section)?.as_table());
    let names = tables.flat_map(toml::Table::keys).filter(|name| WORLD.contains(&name.as_str()));
    names.map(|name| format!("actors/Cargo.toml: the engine must not depend on {name}")).collect()
}

fn sizes(sources: &[Source]) -> Vec<String> {
    let lines = sources.iter().map(|source| (source, source.text.lines().count()));
    let long = lines.filter(|(_, lines)| *lines > MAX_LINES);
    long.map(|(source, lines)| format!("{}: {lines} lines, {MAX_LINES} at most", source.path)).collect()
}

fn documentation(sources: &[Source]) -> Vec<String> {
    let bare = sources.iter().filter(|source| !source.text.starts_with("//! "));
    bare.map(|source| format!("{}: has no //! documentation at its top", source.path)).collect()
}

fn names(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        if source.path.ends_with("/mod.rs") {
            findings.push(format!("{}: is foo/mod.rs; it must be foo.rs", source.path));
        }
        let words: Vec<&str> =
            source.code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).collect();
        for pair in words.windows(2) {
            let defines = matches!(pair[0], "struct" | "enum" | "trait");
            if defines && EMPTY_WORDS.iter().any(|word| pair[1].ends_with(word)) {
                findings.push(format!("{}: the name {} says nothing", source.path, pair[1]));
            }
        }
    }
    findings
}

fn attributes(sources: &[Source]) -> Vec<String> {
    let rules = [
        ("[allow(", "allows a lint; use #[expect(…, reason = \"…\")]"),
        ("#[ignore]", "ignores a test without a reason"),
    ];
    let mut findings = Vec::new();
    for source in sources {
        for (text, meaning) in rules {
            if source.code.contains(text) {
                findings.push(format!("{}: {meaning}", source.path));
            }
        }
    }
    findings
}

/// Printing is for the results of the command line, where it is expected.
fn printing(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in
        sources.iter().filter(|source| source.path.starts_with("src/") || source.path.starts_with("actors/src/"))
    {
        let code = source.shipped();
        for (macros, lint) in
            [(["println!", "print!"], "clippy::print_stdout"), (["eprintln!", "eprint!"], "clippy::print_stderr")]
        {
            let is_used = |name: &str| {
                code.match_indices(name).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            };
            if macros.into_iter().any(is_used) && !code.contains(lint) {
                findings.push(format!("{}: prints without #[expect({lint}, …)]", source.path));
            }
        }
    }
    findings
}

fn sql(sources: &[Source]) -> Vec<String> {
    let verbs = ["select", "insert", "update", "delete", "create", "alter", "with", "drop"];
    let mut findings = Vec::new();
    for source in sources {
        for literal in &source.literals {
            let text = literal.trim().trim_start_matches('\\').trim_start().to_ascii_lowercase();
            let is_sql = text.split_whitespace().next().is_some_and(|word| verbs.contains(&word));
            let lines = literal.trim().lines().count();
            if is_sql && lines > MAX_SQL_LINES {
                findings.push(format!(
                    "{}: a statement of {lines} lines; above {MAX_SQL_LINES} it is an .sql file",
                    source.path
                ));
            }
        }
    }
    findings
}

/// Reads every Rust file below these folders.
fn sources(root: &Path, folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut open: Vec<_> = folders.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                found.push(Source::new(name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

#[test]
fn the_sources_keep_the_style() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [
        "src",
        "actors/src",
        "actors/benches",
        "actors/tests",
        "load/src",
        "tests/it",
        "tests/benches",
        "tests/fuzz/targets",
    ];
    let sources = sources(root, &folders);
    assert!(sources.len() > 20, "the sources are not where they were");
    let rules = [service_arrows, engine_arrows, sizes, documentation, names, attributes, printing, sql];
    let mut findings: Vec<String> = rules.iter().flat_map(|rule| rule(&sources)).collect();
    findings.extend(engine_dependencies(&fs::read_to_string(root.join("actors/Cargo.toml")).unwrap()));
    findings.sort();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// Asserts that `rule` finds as much in this file as it should.
fn finds(rule: fn(&[Source]) -> Vec<String>, path: &str, text: &str, count: usize) {
    let findings = rule(&[Source::new(path, text)]);
    assert_eq!(findings.len(), count, "{path}: {text}\n{findings:#?}");
}

#[test]
fn wrong_arrows_are_found() {
    for text in
        ["use crate::store::Store;", "use crate::{a, store::X};", "fn f() { crate::store::x() }", "use diesel::x;"]
    {
        finds(service_arrows, "src/http/chat.rs", text, 1);
    }
    finds(service_arrows, "src/http.rs", "use super::store::X;", 1);
    finds(service_arrows, "src/http/chat.rs", "use super::super::{store};", 1);
    finds(service_arrows, "src/http/chat.rs", "use super::store; // crate::store", 0);
    finds(service_arrows, "src/boot.rs", "use crate::{http, store, token, cache, upstream};", 0);
    finds(service_arrows, "src/token.rs", "use crate::cache;", 1);
    finds(service_arrows, "src/cache.rs", "use crate::upstream;", 1);
    finds(service_arrows, "src/upstream/http.rs", "use crate::store;", 1);
    finds(service_arrows, "src/store/postgres.rs", "use crate::token;", 1);
    finds(service_arrows, "src/store/postgres.rs", "#[cfg(test)]\nmod tests { use crate::token; }", 0);
    finds(service_arrows, "src/novelty.rs", "", 1);

    finds(engine_arrows, "actors/src/domain/window.rs", "use crate::quota::Account;", 1);
    finds(engine_arrows, "actors/src/domain/window.rs", "use super::amounts::Amounts;", 0);
    finds(engine_arrows, "actors/src/quota/account.rs", "use crate::domain::Window;", 0);
    finds(engine_arrows, "actors/src/quota/account.rs", "use crate::ports::Clock;", 1);
    finds(engine_arrows, "actors/src/stream/usage.rs", "use super::sse::Frame;", 0);
    finds(engine_arrows, "actors/src/stream/usage.rs", "use super::Config;", 1);
    finds(engine_arrows, "actors/src/quota/meter.rs", "use actix::Addr;\nlet t = Instant::now();", 2);
    finds(engine_arrows, "actors/src/quota/meter.rs", "use std::{fs::File};\nstd::fs::read()", 1);
    finds(engine_arrows, "actors/src/quota.rs", "use crate::ports::Clock;\nuse actix::Addr;", 0);

    assert_eq!(
        engine_dependencies("[dependencies]\nactix = \"1\"\ndiesel = \"2\"\n[dev-dependencies]\nawc = \"3\"").len(),
        2
    );
    assert!(engine_dependencies("[dependencies]\nactix = \"1\"").is_empty());
}

#[test]
fn wrong_sizes_documents_and_names_are_found() {
    finds(sizes, "src/a.rs", &"//! a\n".repeat(400), 0);
    finds(sizes, "src/a.rs", &"//! a\n".repeat(401), 1);
    finds(documentation, "src/a.rs", "//! What it owns.\nuse a;", 0);
    finds(documentation, "src/a.rs", "use a;", 1);
    finds(documentation, "src/a.rs", "// no\n//! late", 1);
    finds(names, "src/http/mod.rs", "", 1);
    finds(names, "src/a.rs", "pub struct StreamManager;\nenum Ledger {}\ntrait TokenHelper {}", 2);
    finds(names, "src/a.rs", "use actix_web::web::Data; // struct XManager", 0);
}

#[test]
fn wrong_attributes_and_prints_are_found() {
    finds(attributes, "src/a.rs", "#[allow(dead_code)]\nfn f() {}", 1);
    finds(attributes, "src/a.rs", "#![allow(dead_code)]", 1);
    finds(attributes, "tests/it/a.rs", "#[test]\n#[ignore]\nfn f() {}", 1);
    finds(attributes, "tests/it/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() { \"#[allow(\"; }", 0);
    finds(printing, "src/a.rs", "fn f() { println!(); }", 1);
    finds(printing, "src/a.rs", "fn f() { eprintln!(); }", 1);
    finds(printing, "src/cli/a.rs", "#[expect(clippy::print_stdout, reason = \"r\")]\nfn f() { println!(); }", 0);
    finds(printing, "src/cli/a.rs", "#[expect(clippy::print_stdout, reason = \"r\")]\nfn f() { eprintln!(); }", 1);
    finds(printing, "tests/it/a.rs", "fn f() { println!(); }", 0);
}

#[test]
fn long_statements_are_found() {
    let statement = |lines: usize| format!("let q = \"SELECT a{}\";", "\n, b".repeat(lines - 1));
    finds(sql, "src/store/postgres.rs", &statement(10), 0);
    finds(sql, "src/store/postgres.rs", &statement(11), 1);
    finds(sql, "src/store/postgres.rs", &statement(11).replace("\"SELECT", "r#\"\n with").replace("\";", "\n\"#;"), 1);
    finds(sql, "src/store/postgres.rs", &statement(11).replace("SELECT", "Selected"), 0);
}
