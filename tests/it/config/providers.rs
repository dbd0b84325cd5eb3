//! Providers and models: the ones that are there by default, one's own, and when the simulator goes.

use hasnot_engine::config::{Config, HttpKind, HttpProvider, Provider};
use secrecy::ExposeSecret;

use super::{read, read_file};

fn http(config: &Config, name: &str) -> HttpProvider {
    match config.providers.get(name) {
        Some(Provider::Http(http)) => http.clone(),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn the_simulator_is_there_only_while_no_provider_has_a_key() {
    let config = read(&[("OPENROUTER_API_KEY", "sk-or-1")]).unwrap();
    assert!(!config.is_simulated() && config.models.catalog.is_empty());
    assert_eq!(config.pass_through_provider(), Some("openrouter"));
    let local = [("HNE__PROVIDERS__LOCAL__KIND", "openai"), ("HNE__PROVIDERS__LOCAL__BASE_URL", "http://h:8000/v1/")];
    let config = read(&local).unwrap();
    assert!(config.is_simulated(), "a provider without a key");
    let config = read(&[&local[..], &[("HNE__PROVIDERS__LOCAL__API_KEY", "k")]].concat()).unwrap();
    assert!(!config.is_simulated());
    assert_eq!(config.pass_through_provider(), None, "OpenRouter has none");
}

#[test]
fn a_provider_of_one_s_own_takes_the_reference_s_deadlines_but_not_its_address_or_key() {
    let variables = [
        ("OPENROUTER_API_KEY", "sk-or-1"),
        ("HNE__PROVIDERS__LOCAL__KIND", "openai"),
        ("HNE__PROVIDERS__LOCAL__BASE_URL", "http://h:8000/v1/"),
        ("HNE__PROVIDERS__LOCAL__ALLOW_FIELDS", "models,route"),
        ("HNE__PROVIDERS__LOCAL__GAP_TIMEOUT", "5m"),
        ("HNE__PROVIDERS__LOCAL__TOTAL_TIMEOUT", "1h"),
        ("HNE__PROVIDERS__LOCAL__HEADERS__X_TITLE", "Chat"),
    ];
    let local = http(&read(&variables).unwrap(), "local");
    assert_eq!((local.kind, local.base_url.as_str()), (HttpKind::Openai, "http://h:8000/v1"));
    assert!(local.api_key.is_none());
    assert_eq!(local.allow_fields, ["models", "route"]);
    assert_eq!((local.connect_timeout.as_secs(), local.gap_timeout.as_secs(), local.retries), (5, 300, 1));
    assert_eq!(local.total_timeout.map(|timeout| timeout.as_secs()), Some(3600));
    assert_eq!(local.headers["x-title"].expose_secret(), "Chat");
}

#[test]
fn openrouter_s_own_defaults_stand() {
    let config = read_file("[providers.openrouter.headers]\nHTTP-Referer = \"https://chat.example\"", &[]).unwrap();
    let openrouter = http(&config, "openrouter");
    assert_eq!(openrouter.kind, HttpKind::Openrouter);
    assert_eq!(openrouter.base_url, "https://openrouter.ai/api/v1");
    assert_eq!(openrouter.headers["http-referer"].expose_secret(), "https://chat.example");
    assert!(openrouter.total_timeout.is_none() && openrouter.ca_file.is_none());
}

#[test]
fn the_simulator_s_timing_can_be_set() {
    let config = read(&[("HNE__PROVIDERS__SIMULATOR__FRAMES", "3"), ("HNE__PROVIDERS__SIMULATOR__FRAME_GAP", "0s")]);
    match &config.unwrap().providers["simulator"] {
        Provider::Simulator(simulator) => {
            assert_eq!((simulator.frames, simulator.frame_gap.is_zero()), (3, true));
            assert_eq!(simulator.first_frame.as_millis(), 50);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_model_has_exact_prices_and_sensible_gaps() {
    let text = r#"
        [models.catalog."openai/gpt-4.1"]
        class = "premium"
        provider = "openrouter"
        input_price = 0.1
        output_price = "8"
        fallbacks = ["sim/basic"]
    "#;
    let config = read_file(text, &[]).unwrap();
    let model = &config.models.catalog["openai/gpt-4.1"];
    assert_eq!((model.price().input.0, model.price().output.0), (100_000_000, 8_000_000_000));
    assert_eq!((model.upstream_model.as_deref(), model.context, model.max_output), (None, None, None));
    assert_eq!(model.fallbacks.len(), 1);
    let built_in = &config.models.catalog["sim/basic"];
    assert_eq!((built_in.class.as_str(), built_in.price().input.0), ("basic", 150_000_000));
    assert_eq!(built_in.context, Some(128_000));
}
