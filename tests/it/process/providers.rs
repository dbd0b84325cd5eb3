//! Providers that can't be used: what an operator is told.

use hne_load::mock::{MockProvider, Options};

use super::{
    doctor::{check, examine},
    world::{World, free_port},
};
use crate::harness::{
    app::{Database, chat, complete, run},
    tls::TlsFront,
};

const CA_FILE: &str = "HNE__PROVIDERS__OPENROUTER__CA_FILE";

/// A service whose provider is there.
fn at(base_url: impl Into<String>) -> World {
    World::on(Database::Sqlite).env("OPENROUTER_API_KEY", "key").env("OPENROUTER_BASE_URL", base_url)
}

/// Asks for these models, one after the other; returns what the log says of providers.
fn said(world: World, models: &[&str]) -> Vec<String> {
    let world = world.env("HNE__SERVER__WORKERS", "1");
    let service = world.serve();
    let client = service.client(&world, "ann");
    for model in models {
        run(async { assert_eq!(complete(&client, &chat(model, "hello")).await.status, 502, "{model}") });
    }
    let log = service.stop("TERM").0.stderr;
    log.lines().filter(|line| line.contains("a provider failed")).map(str::to_owned).collect()
}

#[test]
fn why_a_provider_failed_is_said_once_and_not_for_a_request_at_fault() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let refused = "mock/chat+status-401";
    let models = ["mock/chat+status-400", refused, refused, refused];
    let said = said(at(mock.base_url()), &models);
    let expected = r#"provider="openrouter" model="mock/chat+status-401" reason=status status=401 unsaid=0"#;
    assert!(said.len() == 1 && said[0].ends_with(expected), "{said:#?}");
}

#[test]
fn why_a_provider_cannot_be_reached_is_said() {
    let front = TlsFront::start();
    let nowhere = [
        (format!("http://127.0.0.1:{}/v1", free_port()), "Connection refused"),
        ("http://nobody.invalid/v1".to_owned(), "failed to lookup address"),
        (front.base_url("localhost"), "invalid peer certificate"),
    ];
    for (url, why) in nowhere {
        let said = said(at(&url), &["mock/chat"]);
        assert!(said.len() == 1 && said[0].contains("reason=connect") && said[0].contains(why), "{url}: {said:#?}");
    }
}

#[test]
fn doctor_finds_a_provider_that_nobody_vouches_for() {
    let front = TlsFront::start();
    let world = at(front.base_url("localhost"));
    let (code, checks) = examine(&world);
    let (ok, message) = check(&checks, "provider openrouter");
    assert!(code == 69 && ok == false && message.contains("certificate") && message.contains("ca_file"), "{checks}");
    let (code, checks) = examine(&world.env(CA_FILE, front.certificate()));
    assert!(code == 0 && check(&checks, "provider openrouter").0 == true, "{checks}");
}
