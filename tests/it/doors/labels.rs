//! `x-request-id`: a sane one is echoed, any other is replaced.

use hne_load::client::Request;

use super::{CHAT, post, valid};
use crate::harness::app::{TestApp, run};

#[test]
fn every_answer_has_the_callers_label_or_a_fresh_one() {
    let app = TestApp::start();
    let client = app.client("ann");
    let preflight = Request::new("OPTIONS", CHAT)
        .header("origin", "https://app.example.com")
        .header("access-control-request-method", "POST");
    let requests = [
        (post(&valid()), 200),
        (Request::post("/api/hasNotEngine").json(&valid().to_string()), 200),
        (Request::get("/v1/models"), 200),
        (Request::get("/healthz"), 200),
        (Request::get("/metrics"), 200),
        (preflight, 200),
        (Request::new("OPTIONS", CHAT), 204),
        (post(&valid()).header("authorization", "Bearer nonsense"), 401),
        (Request::get("/nowhere"), 404),
        (Request::get(CHAT), 405),
        (Request::post(CHAT).json("{"), 400),
    ];
    let longest = "a".repeat(128);
    let longer = "a".repeat(129);
    let labels = [
        (Some("abc-1"), true),
        (Some("~!@#{}\"\\"), true),
        (Some(longest.as_str()), true),
        (Some(longer.as_str()), false),
        (Some("two words"), false),
        (Some("ümlaut"), false),
        (Some(""), false),
        (None, false),
    ];
    run(async {
        for (request, status) in requests {
            for (label, sane) in labels {
                let anonymous = app.anonymous();
                let caller = if status == 401 { &anonymous } else { &client };
                let request = label.map_or(request.clone(), |label| request.clone().header("x-request-id", label));
                let mut response = caller.send(&request).await.unwrap();
                response.bytes().await.unwrap();
                assert_eq!(response.status, status, "{request:?}");
                let all: Vec<_> = response.headers.iter().filter(|(name, _)| name == "x-request-id").collect();
                assert_eq!(all.len(), 1, "{request:?}");
                let echoed = response.header("x-request-id").unwrap();
                if sane {
                    assert_eq!(Some(echoed), label);
                } else {
                    let fresh = uuid::Uuid::parse_str(echoed).unwrap();
                    assert_eq!(fresh.get_version_num(), 7, "{request:?}");
                }
            }
        }
    });
}
