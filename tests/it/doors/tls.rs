//! Providers behind TLS: who is trusted, and what is spoken.

use super::{post, refused, row, valid};
use crate::harness::{
    app::{Database, TestApp, chat, complete, run, stream},
    tls::{Greeting, TlsFront},
};

const CA_FILE: &str = "HNE__PROVIDERS__OPENROUTER__CA_FILE";

#[test]
fn a_provider_whose_authority_is_configured_streams_over_tls_and_http_1() {
    let front = TlsFront::start();
    let app = TestApp::on(Database::Sqlite)
        .env("OPENROUTER_BASE_URL", front.base_url("localhost"))
        .env(CA_FILE, front.certificate())
        .start();
    front.before(app.mock.addr());
    let client = app.client("ann");
    run(async {
        let model = "mock/held+frames-4+hold-after-2";
        let mut response = stream(&client, &chat(model, "held")).await;
        assert_eq!(response.status, 200, "{:?}", front.handshakes());
        for _ in 0..2 {
            // They are here although the provider has more to say.
            while response.frame().await.unwrap().unwrap().is_comment() {}
        }
        app.mock.release(model);
        assert!(response.frames().await.unwrap().last().unwrap().is_done());
        let mut whole = complete(&client, &valid()).await;
        assert_eq!(whole.status, 200);
        assert_eq!(whole.json().await.unwrap()["object"], "chat.completion");
        // Who leaves is noticed through TLS as well.
        let left = stream(&client, &chat("mock/chat+hold-after-1+frames-3", "left")).await;
        left.close();
        app.mock.wait_for_end("left", crate::harness::app::DEADLINE).await.unwrap();
    });
    let greeting = Greeting { name: Some("localhost".to_owned()), protocol: Some("http/1.1".to_owned()) };
    let handshakes = front.handshakes();
    assert!(!handshakes.is_empty() && handshakes.iter().all(|one| one.as_ref() == Ok(&greeting)), "{handshakes:?}");
}

#[test]
fn a_provider_that_nobody_vouches_for_is_told_nothing() {
    let front = TlsFront::start();
    let stranger = TlsFront::start();
    let nobody = [
        ("the public authorities only", front.base_url("localhost"), None),
        ("another authority", front.base_url("localhost"), Some(stranger.certificate())),
        ("another name", front.base_url("127.0.0.1"), Some(front.certificate())),
    ];
    for (what, url, authority) in nobody {
        let app = TestApp::on(Database::Sqlite).env("OPENROUTER_BASE_URL", url);
        let app = authority.into_iter().fold(app, |app, file| app.env(CA_FILE, file)).start();
        let client = app.client("ann");
        run(async {
            let response = client.send(&post(&valid())).await.unwrap();
            refused(response, row(502, "provider_error", "provider_error"), what).await;
        });
        let rows = app.wait_for_postings(1);
        assert_eq!((rows[0].outcome(), rows[0].requests), ("provider_error", 0), "{what}");
    }
    let handshakes = front.handshakes();
    assert!(handshakes.len() >= 3 && handshakes.iter().all(Result::is_err), "{handshakes:?}");
}
