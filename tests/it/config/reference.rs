//! `config/default.toml` explains every key that is accepted, and accepts every key that it explains.

use std::collections::BTreeSet;

const REFERENCE: &str = include_str!("../../../config/default.toml");

/// The keys and sections whose line has no comment above it.
fn unexplained(text: &str) -> Vec<&str> {
    let mut above = "";
    let mut missing = Vec::new();
    for line in text.lines().map(str::trim) {
        let is_entry = line.starts_with('[') && line.contains('.');
        let is_key = !line.is_empty() && !line.starts_with(['#', '[']);
        if (is_key || is_entry) && !above.starts_with("# ") {
            missing.push(line);
        }
        above = line;
    }
    missing
}

#[test]
fn every_key_of_the_reference_has_a_comment_above_it() {
    assert_eq!(unexplained(REFERENCE), Vec::<&str>::new());
    assert_eq!(unexplained("# why\na = 1\nb = 2\n\n[s]\n# why\nc = 1"), ["b = 2"], "the check can fail");
}

/// Every key is accepted: each one set to its own default, as a file does, changes nothing and is refused by nobody.
#[test]
fn the_reference_is_itself_a_configuration() {
    let config = super::read_file(REFERENCE, &[]).unwrap();
    let bare = super::read(&[]).unwrap();
    let keys = |config: &hasnot_engine::config::Config| -> BTreeSet<String> {
        config.redacted_lines().filter_map(|line| line.split_once(" (").map(|(value, _)| value.to_owned())).collect()
    };
    assert_eq!(keys(&config), keys(&bare));
}

/// No key is accepted without being explained: a section's struct has no field that the reference leaves out, for it
/// has neither an optional field nor a default of its own. The entries of the catalog are the only ones that have.
#[test]
fn a_key_that_the_reference_leaves_out_is_missed() {
    let table: toml::Table = REFERENCE.parse().unwrap();
    let model = table["models"]["catalog"]["sim/basic"].as_table().unwrap();
    let explained: BTreeSet<&str> = model.keys().map(String::as_str).collect();
    let fields = ["class", "provider", "upstream_model", "input_price", "output_price", "context", "max_output"];
    assert_eq!(explained, fields.into_iter().chain(["fallbacks"]).collect());
}
