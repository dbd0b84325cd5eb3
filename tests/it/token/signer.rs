//! Signers with fresh keys, and a place where keys are published.

use std::{
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hasnot_engine::token::{Algorithm, Config, Fetch, FetchError};
use jsonwebtoken::{EncodingKey, Header, jwk::Jwk};
use serde_json::Value;
use tokio::sync::watch;

/// Somebody who signs tokens.
pub(crate) struct Signer {
    pub(super) algorithm: Algorithm,
    key: EncodingKey,
    secret: String,
    private_der: Vec<u8>,
    public_der: Vec<u8>,
    file: tempfile::NamedTempFile,
}

impl Signer {
    /// Makes a signer with a key that nobody else has.
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let (private_der, public_der) = key_pair(algorithm);
        let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        let pem = pem("PRIVATE KEY", &private_der).into_bytes();
        let key = match algorithm {
            Algorithm::Hs256 => EncodingKey::from_secret(secret.as_bytes()),
            Algorithm::Rs256 => EncodingKey::from_rsa_pem(&pem).unwrap(),
            Algorithm::Es256 => EncodingKey::from_ec_pem(&pem).unwrap(),
            Algorithm::EdDsa => EncodingKey::from_ed_pem(&pem).unwrap(),
        };
        let file = tempfile::NamedTempFile::new().unwrap();
        let signer = Self { algorithm, key, secret, private_der, public_der, file };
        std::fs::write(signer.file.path(), signer.public_pem()).unwrap();
        signer
    }

    /// Returns a signer that is made once: for tests of thousands of cases.
    pub(super) fn cached(algorithm: Algorithm) -> &'static Self {
        static HMAC: OnceLock<Signer> = OnceLock::new();
        static EDDSA: OnceLock<Signer> = OnceLock::new();
        let place = if algorithm == Algorithm::Hs256 { &HMAC } else { &EDDSA };
        place.get_or_init(|| Self::new(algorithm))
    }

    /// The configuration of somebody who believes this signer.
    pub(super) fn config(&self) -> Config {
        let plain = plain(self.algorithm);
        match self.algorithm {
            Algorithm::Hs256 => Config { secret: Some(self.secret.clone().into()), ..plain },
            _ => Config { public_key_file: Some(self.file.path().to_owned()), ..plain },
        }
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        jsonwebtoken::encode(&self.header(None), claims, &self.key).unwrap()
    }

    pub(crate) fn sign_as(&self, id: &str, claims: &Value) -> String {
        jsonwebtoken::encode(&self.header(Some(id)), claims, &self.key).unwrap()
    }

    /// The public key as it is published.
    pub(crate) fn jwk(&self, id: &str) -> Value {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&self.key, self.header(None).alg).unwrap()).unwrap();
        jwk["kid"] = id.into();
        jwk
    }

    pub(super) fn secret(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    pub(super) fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &self.public_der)
    }

    pub(super) fn private_pem(&self) -> String {
        pem("PRIVATE KEY", &self.private_der)
    }

    pub(super) fn public_der(&self) -> Vec<u8> {
        self.public_der.clone()
    }

    fn header(&self, id: Option<&str>) -> Header {
        let algorithm = match self.algorithm {
            Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        };
        Header { kid: id.map(str::to_owned), ..Header::new(algorithm) }
    }
}

/// Nothing but the keys is configured.
pub(super) fn plain(algorithm: Algorithm) -> Config {
    Config {
        algorithm,
        secret: None,
        public_key_file: None,
        jwks_url: None,
        issuer: None,
        audience: None,
        trust_role_claim: false,
    }
}

/// Makes a private and a public key, in DER.
fn key_pair(algorithm: Algorithm) -> (Vec<u8>, Vec<u8>) {
    match algorithm {
        Algorithm::Hs256 => (Vec::new(), Vec::new()),
        Algorithm::Rs256 => {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
            let private: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
            let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
            (private.as_ref().to_vec(), public.as_ref().to_vec())
        }
        Algorithm::Es256 => {
            let private = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_ref()).unwrap();
            let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
            (private.as_ref().to_vec(), public.as_ref().to_vec())
        }
        Algorithm::EdDsa => {
            let private = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
            let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(private.as_ref()).unwrap();
            let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
            (private.as_ref().to_vec(), public.as_ref().to_vec())
        }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Signs with HMAC whatever the header says.
pub(super) fn sign_hs256(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
    format!("{signed}.{signature}")
}

/// Returns a token with the other signature (r, n − s) that ECDSA accepts for the same text.
pub(super) fn other_form(token: &str) -> String {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = false;
    for (digit, order) in signature[32..].iter_mut().zip(ORDER).rev() {
        let (rest, first) = order.overflowing_sub(*digit);
        let (rest, second) = rest.overflowing_sub(u8::from(borrow));
        (*digit, borrow) = (rest, first || second);
    }
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A place where keys are published, or not.
pub(super) struct FakeFetch {
    calls: AtomicUsize,
    answer: Mutex<Result<Bytes, FetchError>>,
    open: watch::Sender<bool>,
}

impl Default for FakeFetch {
    fn default() -> Self {
        let answer = Mutex::new(Err(FetchError::Failed("nothing is published".to_owned())));
        Self { calls: AtomicUsize::new(0), answer, open: watch::Sender::new(true) }
    }
}

impl FakeFetch {
    pub(super) fn publish(&self, keys: &[Value]) {
        *self.answer.lock().unwrap() = Ok(Bytes::from(serde_json::json!({ "keys": keys }).to_string()));
    }

    pub(super) fn answer(&self, answer: Result<Bytes, FetchError>) {
        *self.answer.lock().unwrap() = answer;
    }

    pub(super) fn hold(&self, held: bool) {
        self.open.send_replace(!held);
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Fetch for FakeFetch {
    fn fetch<'a>(&'a self, _url: &'a str) -> BoxFuture<'a, Result<Bytes, FetchError>> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::SeqCst);
            self.open.subscribe().wait_for(|open| *open).await.unwrap();
            self.answer.lock().unwrap().clone()
        })
    }
}

/// How long a set is used before it is fetched again.
pub(super) const MAX_AGE: Duration = Duration::from_secs(600);
