//! Browsers: who may call, what they may send and read.

use hne_load::client::{Request, Response};

use super::{CHAT, NO_TOKEN, about, post, turned_away, valid};
use crate::harness::app::{Database, TestApp, run};

const HOME: &str = "https://app.example.com";
const FOREIGN: &str = "https://evil.example.com";

fn preflight(path: &str, origin: &str, method: &str) -> Request {
    let asked = "authorization,content-type,idempotency-key,x-request-id,traceparent,x-stainless-os,x-stainless-new";
    Request::new("OPTIONS", path)
        .header("origin", origin)
        .header("access-control-request-method", method)
        .header("access-control-request-headers", asked)
}

fn list(response: &Response, name: &str) -> Vec<String> {
    let value = response.header(name).unwrap_or_default();
    let mut words: Vec<_> = value.split(',').map(|word| word.trim().to_lowercase()).collect();
    words.sort();
    words
}

#[test]
fn anybodys_page_may_call_without_credentials() {
    let app = TestApp::start();
    let client = app.client("ann");
    run(async {
        for (path, method) in [(CHAT, "POST"), ("/api/hasNotEngine-optimized", "POST"), ("/v1/models", "GET")] {
            let response = app.anonymous().send(&preflight(path, HOME, method)).await.unwrap();
            assert_eq!(response.status, 200, "{path}");
            assert_eq!(response.header("access-control-allow-origin"), Some("*"));
            assert_eq!(response.header("access-control-allow-credentials"), None);
            assert_eq!(response.header("access-control-max-age"), Some("600"));
            assert_eq!(list(&response, "access-control-allow-methods"), ["get", "options", "post"]);
            let headers = list(&response, "access-control-allow-headers");
            for needed in ["authorization", "content-type", "idempotency-key", "x-stainless-os", "x-stainless-new"] {
                assert!(headers.iter().any(|header| header == needed), "{needed}: {headers:?}");
            }
        }
        let exposed = [
            "x-request-id",
            "x-ratelimit-limit-requests",
            "x-ratelimit-remaining-requests",
            "x-ratelimit-reset-requests",
            "x-ratelimit-limit-tokens",
            "x-ratelimit-remaining-tokens",
            "x-ratelimit-reset-tokens",
            "server-timing",
            "retry-after",
        ];
        let stream = Request::post("/api/hasNotEngine-optimized").json(&valid().to_string());
        for request in [post(&valid()), stream, Request::get("/nowhere"), Request::post(CHAT).json("{")] {
            let mut response = client.send(&request.clone().header("origin", HOME)).await.unwrap();
            response.bytes().await.unwrap();
            assert_eq!(response.header("access-control-allow-origin"), Some("*"), "{request:?}");
            assert_eq!(response.header("access-control-allow-credentials"), None);
            let shown = list(&response, "access-control-expose-headers");
            assert!(exposed.iter().all(|name| shown.iter().any(|header| header == name)), "{shown:?}");
        }
        let refused = post(&valid()).header("origin", HOME);
        let refused = turned_away(&app.anonymous(), &refused, NO_TOKEN, "a page without a token").await;
        assert_eq!(refused.response.header("access-control-allow-origin"), Some("*"));
        assert_eq!(client.send(&post(&valid())).await.unwrap().header("access-control-allow-origin"), None);
    });
}

#[test]
fn named_origins_may_call_and_foreign_ones_are_not_let_read() {
    let app = TestApp::on(Database::Postgres)
        .env("HNE__SERVER__CORS_ORIGINS", format!("{HOME},http://localhost:5173"))
        .env("HNE__SERVER__CORS_CREDENTIALS", "true")
        .start();
    let client = app.client("ann");
    run(async {
        for origin in [HOME, "http://localhost:5173"] {
            let response = app.anonymous().send(&preflight(CHAT, origin, "POST")).await.unwrap();
            assert_eq!((response.status, response.header("access-control-allow-origin")), (200, Some(origin)));
            let mut response = client.send(&post(&valid()).header("origin", origin)).await.unwrap();
            response.bytes().await.unwrap();
            assert_eq!(response.header("access-control-allow-origin"), Some(origin));
            assert_eq!(response.header("access-control-allow-credentials"), Some("true"));
            assert!(list(&response, "vary").iter().any(|name| name == "origin"), "caches keep origins apart");
        }
        let wrong = [
            ("origin", preflight(CHAT, FOREIGN, "POST")),
            ("origin", preflight("/nowhere", "null", "GET")),
            ("access-control-request-method", preflight(CHAT, HOME, "DELETE")),
        ];
        for (header, request) in wrong {
            let response = turned_away(&app.anonymous(), &request, about(header), header).await.response;
            let allowed = |(name, _): &(String, String)| name.starts_with("access-control-");
            assert!(!response.headers.iter().any(allowed), "{header}: {:?}", response.headers);
        }
        // Who isn't a browser may send what it likes as its origin.
        for origin in [FOREIGN, "null", "nonsense"] {
            let mut response = client.send(&post(&valid()).header("origin", origin)).await.unwrap();
            response.bytes().await.unwrap();
            assert_eq!((response.status, response.header("access-control-allow-origin")), (200, None), "{origin}");
        }
    });
}
