//! Published keys: found by id, fetched once, renewed, and never mistaken for something else.

use futures_util::future::join_all;
use hasnot_engine::token::{AwcFetch, Fetch, FetchError, MAX_FETCH_BYTES};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{signer::MAX_AGE, *};

struct World {
    clock: Arc<ManualClock>,
    fetch: Arc<FakeFetch>,
    verifier: Verifier,
}

impl World {
    fn new(algorithm: Algorithm) -> Self {
        let (clock, fetch) = (Arc::new(ManualClock::new()), Arc::new(FakeFetch::default()));
        let config = Config { jwks_url: Some("https://signer.example/keys".into()), ..plain(algorithm) };
        let verifier = Verifier::new(&config, fetch.clone(), clock.clone(), &metrics()).unwrap();
        Self { clock, fetch, verifier }
    }

    async fn ask(&self, token: &str) -> Result<(), TokenError> {
        self.verifier.verify(token).await.map(drop)
    }
}

fn claims() -> Value {
    json!({"sub": "alice", "exp": in_an_hour()})
}

#[actix_rt::test]
async fn keys_of_each_algorithm_are_found_by_their_id() {
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
        let (world, one, two) = (World::new(algorithm), Signer::new(algorithm), Signer::new(algorithm));
        world.fetch.publish(&[one.jwk("one"), two.jwk("two")]);
        assert_eq!(world.ask(&one.sign_as("one", &claims())).await, Ok(()));
        assert_eq!(world.ask(&two.sign_as("two", &claims())).await, Ok(()));
        assert_eq!(world.ask(&two.sign_as("one", &claims())).await, Err(TokenError::Invalid));
        assert_eq!(world.ask(&one.sign(&claims())).await, Err(TokenError::Invalid), "which of the two?");
        assert_eq!(world.fetch.calls(), 1);
    }
}

#[actix_rt::test]
async fn a_token_that_names_no_key_is_checked_with_the_only_one() {
    let (world, signer) = (World::new(Algorithm::EdDsa), Signer::new(Algorithm::EdDsa));
    world.fetch.publish(&[signer.jwk("one"), Signer::new(Algorithm::Rs256).jwk("rsa")]);
    assert_eq!(world.ask(&signer.sign(&claims())).await, Ok(()));
}

#[actix_rt::test]
async fn a_rotated_key_is_fetched_by_one_flight() {
    let (world, old, new) =
        (World::new(Algorithm::EdDsa), Signer::new(Algorithm::EdDsa), Signer::new(Algorithm::EdDsa));
    world.fetch.publish(&[old.jwk("old")]);
    world.verifier.warm_up().await;
    world.fetch.publish(&[old.jwk("old"), new.jwk("new")]);
    world.clock.advance(Duration::from_secs(10));
    world.fetch.hold(true);
    let token = new.sign_as("new", &claims());
    let asked = join_all((0..200).map(|_| world.ask(&token)));
    let (answers, ()) = futures_util::join!(asked, async {
        assert_eq!(world.ask(&old.sign_as("old", &claims())).await, Ok(()), "known keys don't wait");
        world.fetch.hold(false);
    });
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(world.fetch.calls(), 2);
}

#[actix_rt::test]
async fn unknown_ids_fetch_at_most_every_ten_seconds() {
    let (world, signer) = (World::new(Algorithm::EdDsa), Signer::new(Algorithm::EdDsa));
    world.fetch.publish(&[signer.jwk("one")]);
    for number in 0..50 {
        let token = signer.sign_as(&format!("made-up-{number}"), &claims());
        assert_eq!(world.ask(&token).await, Err(TokenError::Invalid));
    }
    assert_eq!(world.fetch.calls(), 1);
    world.clock.advance(Duration::from_millis(9_999));
    assert_eq!(world.ask(&signer.sign_as("two", &claims())).await, Err(TokenError::Invalid));
    assert_eq!(world.fetch.calls(), 1);
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.ask(&signer.sign_as("two", &claims())).await, Err(TokenError::Invalid));
    assert_eq!(world.fetch.calls(), 2);
}

#[actix_rt::test]
async fn tokens_that_cannot_be_good_fetch_nothing() {
    let (world, rsa) = (World::new(Algorithm::EdDsa), Signer::new(Algorithm::Rs256));
    for token in ["", "a.b.c", "hello", &rsa.sign_as("one", &claims())] {
        assert_eq!(world.ask(token).await, Err(TokenError::Invalid));
    }
    assert_eq!(world.fetch.calls(), 0);
}

#[actix_rt::test]
async fn a_signer_that_is_away_is_no_refusal() {
    let (world, signer) = (World::new(Algorithm::EdDsa), Signer::new(Algorithm::EdDsa));
    let token = signer.sign_as("one", &claims());
    assert_eq!(world.ask(&token).await, Err(TokenError::KeysUnavailable));
    assert_eq!(world.ask(&token).await, Err(TokenError::KeysUnavailable));
    assert_eq!(world.fetch.calls(), 1);
    for nonsense in ["", "[]", "{\"keys\": 7}", "<html>"] {
        world.fetch.answer(Ok(nonsense.into()));
        world.clock.advance(Duration::from_secs(10));
        assert_eq!(world.ask(&token).await, Err(TokenError::KeysUnavailable), "{nonsense}");
    }
    world.fetch.publish(&[signer.jwk("one")]);
    world.clock.advance(Duration::from_secs(10));
    assert_eq!(world.ask(&token).await, Ok(()));
    world.fetch.answer(Err(FetchError::Timeout));
    world.clock.advance(MAX_AGE);
    assert_eq!(world.ask(&token).await, Ok(()), "the keys that there are go on");
}

#[actix_rt::test]
async fn a_withdrawn_key_is_given_up() {
    let (world, old, new) =
        (World::new(Algorithm::EdDsa), Signer::new(Algorithm::EdDsa), Signer::new(Algorithm::EdDsa));
    world.fetch.publish(&[old.jwk("old"), new.jwk("new")]);
    let token = old.sign_as("old", &claims());
    assert_eq!(world.ask(&token).await, Ok(()));
    world.fetch.publish(&[new.jwk("new")]);
    world.clock.advance(MAX_AGE);
    assert_eq!(world.ask(&token).await, Err(TokenError::Invalid));
}

#[actix_rt::test]
async fn a_set_without_a_usable_key_replaces_none_that_has_some() {
    let (signer, other) = (Signer::new(Algorithm::EdDsa), Signer::new(Algorithm::Rs256));
    let (token, unknown) = (signer.sign_as("one", &claims()), signer.sign_as("two", &claims()));
    let pace = Duration::from_secs(10);
    for useless in [vec![], vec![other.jwk("one")]] {
        let world = World::new(Algorithm::EdDsa);
        world.fetch.publish(&[signer.jwk("one")]);
        assert_eq!(world.ask(&token).await, Ok(()));
        world.fetch.publish(&useless);
        for fetched in [MAX_AGE - pace * 2, pace] {
            world.clock.advance(fetched);
            assert_eq!(world.ask(&unknown).await, Err(TokenError::Invalid));
            assert_eq!(world.ask(&token).await, Ok(()), "the keys that there are go on");
            let published = world.verifier.published().unwrap();
            assert_eq!((published.usable, published.awaited), (1, false));
            assert!(published.trouble.unwrap().contains("none of the published keys"));
        }
        world.clock.advance(pace);
        assert_eq!(world.ask(&token).await, Err(TokenError::Invalid), "but not for ever");
        assert_eq!((world.fetch.calls(), world.verifier.published().unwrap().usable), (4, 0));
    }
}

#[actix_rt::test]
async fn keys_that_cannot_be_asked_for_again_in_time_are_not_kept() {
    let (world, signer) = (World::new(Algorithm::EdDsa), Signer::new(Algorithm::EdDsa));
    world.fetch.publish(&[signer.jwk("one")]);
    world.verifier.warm_up().await;
    world.fetch.publish(&[]);
    world.clock.advance(MAX_AGE - Duration::from_secs(9));
    assert_eq!(world.ask(&signer.sign_as("two", &claims())).await, Err(TokenError::Invalid));
    assert_eq!(world.ask(&signer.sign_as("one", &claims())).await, Err(TokenError::Invalid));
}

#[actix_rt::test]
async fn keys_for_something_else_are_left_out() {
    let signer = Signer::new(Algorithm::Rs256);
    let changed = |field: &str, value: Value| {
        let mut jwk = signer.jwk("one");
        jwk[field] = value;
        jwk
    };
    let secret = json!({"kty": "oct", "kid": "one", "alg": "HS256", "k": "c2VjcmV0"});
    for (jwk, good) in [
        (signer.jwk("one"), true),
        (changed("alg", json!("RS256")), true),
        (changed("use", json!("sig")), true),
        (changed("key_ops", json!(["verify"])), true),
        (changed("alg", json!("RS512")), false),
        (changed("alg", json!("HS256")), false),
        (changed("use", json!("enc")), false),
        (changed("key_ops", json!(["encrypt"])), false),
        (changed("n", json!("AQAB")), false),
        (changed("kty", json!("quantum")), false),
        (secret, false),
    ] {
        let world = World::new(Algorithm::Rs256);
        world.fetch.publish(&[json!("nonsense"), jwk.clone()]);
        let answer = world.ask(&signer.sign_as("one", &claims())).await;
        assert_eq!(answer.is_ok(), good, "{jwk}");
        let forged = signer::sign_hs256(&json!({"alg": "HS256", "kid": "one"}), &claims(), b"secret");
        assert_eq!(world.ask(&forged).await, Err(TokenError::Invalid));
    }
}

/// Answers one request with this and closes.
async fn serve_once(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    actix_rt::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 4_096];
        let _read = socket.read(&mut request).await.unwrap();
        // The client may have seen enough before everything is written.
        drop(socket.write_all(&answer).await);
    });
    url
}

#[actix_rt::test]
async fn documents_are_fetched_with_awc_bounded_and_without_redirects() {
    // A second test may have been first.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let fetch = AwcFetch::new(actix_rt::Arbiter::current());
    let answer = |head: &str, length: usize| {
        let mut answer =
            format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n").into_bytes();
        answer.resize(answer.len() + length, b'x');
        answer
    };
    for (answer, expected) in [
        (answer("200 OK", 3), Ok("xxx".into())),
        (answer("404 Not Found", 3), Err(FetchError::Status(404))),
        (answer("302 Found\r\nlocation: http://127.0.0.1:1/", 0), Err(FetchError::Status(302))),
        (answer("200 OK", MAX_FETCH_BYTES + 1), Err(FetchError::Body)),
    ] {
        let url = serve_once(answer).await;
        assert_eq!(fetch.fetch(&url).await, expected);
    }
    assert!(matches!(fetch.fetch("http://127.0.0.1:1/").await, Err(FetchError::Failed(_))));
}
