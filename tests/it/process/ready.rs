//! `/readyz`: green where requests can be served, with an entry for each dependency.

use hasnot_engine::token::Algorithm;
use hne_load::mock::{MockProvider, Options};
use serde_json::{Value, json};

use super::world::{Serving, World, free_port};
use crate::{
    harness::{
        app::{DEADLINE, Database, now, run},
        servers,
    },
    token::signer::Signer,
};

/// Returns the answer's status, and what it says of the dependencies of that name.
async fn readiness(service: &Serving, name: &str) -> (u16, Vec<Value>) {
    let mut answer = service.anonymous().get("/readyz").await.unwrap();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(answer.status == 200, body["status"] == "ready", "{body}");
    let all = body["dependencies"].as_array().unwrap();
    (answer.status, all.iter().filter(|entry| entry["name"] == name).cloned().collect())
}

#[test]
fn it_is_not_ready_before_the_first_keys_are_here() {
    let (signer, port) = (Signer::new(Algorithm::Rs256), free_port());
    let world = World::on(Database::Sqlite)
        .env("JWT_ALGORITHM", "RS256")
        .env("JWT_JWKS_URL", format!("http://127.0.0.1:{port}/keys"));
    let service = world.serve();
    let client = service.anonymous().bearer(&signer.sign_as("one", &json!({"sub": "ann", "exp": now() + 3_600})));
    run(async {
        let (status, keys) = readiness(&service, "keys").await;
        assert_eq!(status, 503, "{keys:?}");
        assert_eq!((&keys[0]["ok"], &keys[0]["required"]), (&json!(false), &json!(true)), "{keys:?}");
        assert_eq!(client.get("/v1/models").await.unwrap().status, 503);
        servers::publish(port, json!({"keys": [signer.jwk("one")]}).to_string());
        // No balancer sends anybody meanwhile, so nobody's token has the keys fetched.
        let started = hne_load::clock::now();
        let keys = loop {
            let (status, keys) = readiness(&service, "keys").await;
            if status == 200 {
                break keys;
            }
            assert!(started.elapsed() < DEADLINE, "{keys:?}");
        };
        assert_eq!((&keys[0]["ok"], &keys[0]["required"]), (&json!(true), &json!(false)), "{keys:?}");
        assert_eq!(client.get("/v1/models").await.unwrap().status, 200);
    });
    assert_eq!(service.stop("TERM").0.code, 0);
}

#[test]
fn only_what_is_asked_is_a_dependency() {
    let provider = MockProvider::start(Options::default()).unwrap();
    let simulated = World::on(Database::Sqlite);
    let keyed = World::on(Database::Sqlite).asking(&provider);
    for (world, name) in [(simulated, "simulator"), (keyed, "openrouter")] {
        let service = world.serve();
        let ((status, providers), (_, keys)) =
            run(async { (readiness(&service, "provider").await, readiness(&service, "keys").await) });
        assert_eq!((status, providers.len()), (200, 1), "{providers:?}");
        assert!(providers[0]["message"].as_str().unwrap().starts_with(name), "{providers:?}");
        assert!(keys.is_empty(), "a secret is fetched from nobody: {keys:?}");
        assert_eq!(service.stop("TERM").0.code, 0);
    }
}
