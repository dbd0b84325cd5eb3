//! Which tokens open the door.

use futures_util::future::join_all;
use hne_load::client::Request;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::{EXPIRED, NO_TOKEN, Row, holding, post, row, turned_away, until, valid};
use crate::harness::app::{DEADLINE, Database, SECRET, TestApp, now, run, token};

fn signed(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
}

fn usage(token: &str) -> Request {
    Request::get("/api/usage").bearer(token)
}

#[test]
fn a_token_must_be_whole_timely_and_meant_for_this_service() {
    let app = TestApp::on(Database::Postgres).env("JWT_ISSUER", "us").env("JWT_AUDIENCE", "chat").start();
    let claims = |key: &str, value: Value| {
        let mut claims = json!({"sub": "ann", "exp": now() + 3_600, "iss": "us", "aud": "chat"});
        claims[key] = value;
        claims
    };
    let fine = token(&claims("jti", json!("1")));
    let (head, tail) = fine.rsplit_once('.').unwrap();
    let rest: String = tail.chars().skip(1).collect();
    let changed = format!("{head}.{}{rest}", if tail.starts_with('A') { 'B' } else { 'A' });
    let mut short = fine.clone();
    short.pop();
    let none = format!("eyJhbGciOiJub25lIn0.{}.", head.split_once('.').unwrap().1);
    let plain = claims("x", json!(1));
    let table: Vec<(&str, String, Option<Row>)> = vec![
        ("fine", fine.clone(), None),
        ("an audience among others", token(&claims("aud", json!(["a", "chat"]))), None),
        ("expired within the leeway", token(&claims("exp", json!(now() - 20))), None),
        ("not before, within the leeway", token(&claims("nbf", json!(now() + 20))), None),
        ("expired", token(&claims("exp", json!(now() - 40))), Some(EXPIRED)),
        ("not yet", token(&claims("nbf", json!(now() + 100))), Some(NO_TOKEN)),
        ("without an end", token(&claims("exp", json!(null))), Some(NO_TOKEN)),
        ("an absurd end", token(&claims("exp", json!(1e300))), Some(NO_TOKEN)),
        ("another issuer", token(&claims("iss", json!("them"))), Some(NO_TOKEN)),
        ("no issuer", token(&claims("iss", json!(null))), Some(NO_TOKEN)),
        ("another audience", token(&claims("aud", json!("mail"))), Some(NO_TOKEN)),
        ("no user", token(&claims("sub", json!(null))), Some(NO_TOKEN)),
        ("an impossible user", token(&claims("sub", json!("a b"))), Some(NO_TOKEN)),
        ("another secret", signed(Algorithm::HS256, &SECRET.replace('0', "1"), &plain), Some(NO_TOKEN)),
        ("another algorithm", signed(Algorithm::HS512, SECRET, &plain), Some(NO_TOKEN)),
        ("a changed signature", changed, Some(NO_TOKEN)),
        ("no signature", none, Some(NO_TOKEN)),
        ("cut short", short, Some(NO_TOKEN)),
        ("with more", format!("{fine}A"), Some(NO_TOKEN)),
    ];
    run(async {
        for (what, token, refusal) in table {
            match refusal {
                None => assert_eq!(app.anonymous().send(&usage(&token)).await.unwrap().status, 200, "{what}"),
                Some(row) => drop(turned_away(&app.anonymous(), &usage(&token), row, what).await),
            }
        }
        for scheme in ["bearer", "BEARER", "Bearer "] {
            let request = Request::get("/api/usage").header("authorization", &format!("{scheme} {fine}"));
            assert_eq!(app.anonymous().send(&request).await.unwrap().status, 200, "{scheme}");
        }
    });
}

#[test]
fn an_unknown_user_is_added_or_refused() {
    let app = TestApp::start();
    let claims = json!({"sub": "new", "plan": "unlimited", "exp": now() + 3_600});
    run(async {
        let mut response = app.anonymous().send(&usage(&token(&claims))).await.unwrap();
        assert_eq!(response.json().await.unwrap()["plan"], "unlimited");
        // From then on the store's plan counts, not the token's.
        let later = json!({"sub": "new", "plan": "default", "exp": now() + 3_600});
        let mut response = app.anonymous().send(&usage(&token(&later))).await.unwrap();
        assert_eq!(response.json().await.unwrap()["plan"], "unlimited");
        let mut response = app.anonymous().send(&usage(&holding("other"))).await.unwrap();
        assert_eq!(response.json().await.unwrap()["plan"], "default");
        let odd = json!({"sub": "odd", "plan": "no such plan", "exp": now() + 3_600});
        let mut response = app.anonymous().send(&usage(&token(&odd))).await.unwrap();
        assert_eq!(response.json().await.unwrap()["plan"], "default");
    });
    let app = TestApp::on(Database::Postgres).env("HNE__AUTH__PROVISION", "reject").start();
    app.user("known", "default");
    run(async {
        turned_away(&app.anonymous(), &usage(&holding("stranger")), NO_TOKEN, "a stranger").await;
        assert_eq!(app.anonymous().send(&usage(&holding("known"))).await.unwrap().status, 200);
    });
    assert!(!app.cli(&["user", "list"]).to_string().contains("stranger"));
}

#[test]
fn a_crowd_of_strangers_is_let_in() {
    for database in [Database::Postgres, Database::Sqlite] {
        let app = TestApp::on(database).redis().start();
        let ask = async |number: usize| {
            let request = post(&valid()).bearer(&holding(&format!("stranger-{number}")));
            let mut response = app.anonymous().send(&request).await.unwrap();
            (response.status, response.text().await.unwrap())
        };
        let answers = run(join_all((0..300).map(ask)));
        assert_eq!(answers.into_iter().find(|(status, _)| *status != 200), None);
        assert_eq!(app.cli(&["user", "list"])["users"].as_array().unwrap().len(), 300);
    }
}

#[test]
fn admins_are_made_by_their_token_or_their_record() {
    let app = TestApp::start();
    app.cli(&["user", "add", "chief", "--role", "admin"]);
    let report = |token: &str| Request::get("/api/admin/performance").bearer(token);
    let with_role = |role: Value| token(&json!({"sub": "ann", "role": role, "exp": now() + 3_600}));
    let refused = row(403, "permission_error", "admin_required");
    run(async {
        assert_eq!(app.anonymous().send(&report(&holding("chief"))).await.unwrap().status, 200);
        assert_eq!(app.anonymous().send(&report(&with_role(json!("admin")))).await.unwrap().status, 200);
        for role in [json!("user"), json!("Admin"), json!("root"), json!(["admin"]), json!(null)] {
            turned_away(&app.anonymous(), &report(&with_role(role.clone())), refused, &role.to_string()).await;
        }
    });
}

#[test]
fn keys_hold_until_their_end_and_their_use_is_noted() {
    let app = TestApp::start();
    app.user("ann", "default");
    let key = |ttl: &[&str]| app.cli(&[&["key", "create", "ann"][..], ttl].concat());
    let (lasting, short) = (key(&[]), key(&["--ttl", "2s"]));
    let text = |made: &Value| made["key"].as_str().unwrap().to_owned();
    run(async {
        let mut response = app.anonymous().send(&usage(&text(&lasting))).await.unwrap();
        assert_eq!(response.json().await.unwrap()["user"], "ann");
        let wrong = format!("{}x", text(&lasting));
        turned_away(&app.anonymous(), &usage(&wrong), NO_TOKEN, "a key that is longer").await;
        until(&app, &usage(&text(&short)), 401).await;
        turned_away(&app.anonymous(), &usage(&text(&short)), EXPIRED, "a key after its end").await;
    });
    let used = || {
        let keys = app.cli(&["key", "list", "ann"]);
        let keys = keys["keys"].as_array().unwrap().clone();
        keys.iter().find(|key| key["id"] == lasting["id"]).unwrap()["last_used_at"].clone()
    };
    let started = hne_load::clock::now();
    while used().is_null() {
        assert!(started.elapsed() < DEADLINE, "its use was never noted");
    }
    assert!(!app.cli(&["key", "list", "ann"]).to_string().contains(&text(&lasting)));
}
