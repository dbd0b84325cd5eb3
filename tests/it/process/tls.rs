//! Redis over TLS, as hosted ones are reached.

use serde_json::json;

use super::world::World;
use crate::harness::{
    app::{DEADLINE, Database, run},
    servers::TlsRedis,
};

#[test]
fn redis_over_tls_is_used_where_its_authority_is_trusted_and_its_password_is_right() {
    let redis = TlsRedis::start();
    let on = |url: &str| World::on(Database::Sqlite).env("REDIS_URL", url);
    let world = on(&redis.url()).env("HNE__REDIS__CA_FILE", redis.certificate());
    let service = world.serve();
    let client = service.client(&world, "ann");
    run(async {
        assert_eq!(client.get("/v1/models").await.unwrap().status, 200);
        let ready = service.anonymous().get("/readyz").await.unwrap().json().await.unwrap();
        let dependencies = ready["dependencies"].as_array().unwrap();
        let redis = dependencies.iter().find(|dependency| dependency["name"] == "redis").unwrap();
        assert_eq!(redis["ok"], true, "{ready}");
    });
    let started = hne_load::clock::now();
    while !redis.command(&["GET", "user:auth:ann"]).contains(r#""id":"ann""#) {
        assert!(started.elapsed() < DEADLINE, "what is known of ann never came to Redis");
    }
    let checks = world.json(&["doctor"])["checks"].clone();
    let redis_is = |ok: bool| checks.as_array().unwrap().iter().any(|c| c["name"] == "redis" && c["ok"] == json!(ok));
    assert!(redis_is(true), "{checks}");

    // The public authorities vouch for nobody here, the certificate is for another name, the password is wrong.
    on(&redis.url()).refused(&["serve"], 69);
    let trusted = |url: &str| on(url).env("HNE__REDIS__CA_FILE", redis.certificate());
    trusted(&redis.url().replace("localhost", "127.0.0.1")).refused(&["serve"], 69);
    let said = trusted(&redis.url().replace("the-token", "geheim")).refused(&["serve"], 69);
    assert!(said.contains("REDIS_URL") && !said.contains("geheim"), "{said}");
}
