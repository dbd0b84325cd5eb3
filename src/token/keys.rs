//! What tokens are checked with.

use std::{fs::File, io::Read, path::Path, sync::Arc};

use actors::{metrics::Metrics, ports::Clock};
use jsonwebtoken::DecodingKey;
use secrecy::ExposeSecret;

use super::{Algorithm, Config, Fetch, SetupError, jwks::Jwks};

/// A PEM file is not larger than this.
const MAX_PEM_BYTES: u64 = 64 * 1024;
/// The DER form of an RSA key of 2,048 bits is a little longer than its modulus.
const MIN_RSA_BYTES: usize = 256;

/// Where the key for a token comes from.
pub(super) enum Keys {
    /// The secret or the PEM file.
    Fixed(Arc<DecodingKey>),
    /// The signer's published set.
    Set(Jwks),
}

impl Keys {
    pub(super) fn new(
        config: &Config,
        fetch: Arc<dyn Fetch>,
        clock: Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Result<Self, SetupError> {
        match configured(config)? {
            Configured::Key(key) => Ok(Self::Fixed(Arc::new(key))),
            Configured::Url(url) => Ok(Self::Set(Jwks::new(config.algorithm, url, fetch, clock, metrics)?)),
        }
    }
}

/// What the configuration has for checking tokens.
pub(super) enum Configured<'a> {
    /// The key itself.
    Key(DecodingKey),
    /// Where the signer publishes it.
    Url(&'a str),
}

/// Reads the configured key, or where it is published.
pub(super) fn configured(config: &Config) -> Result<Configured<'_>, SetupError> {
    let name = config.algorithm.as_str();
    match (config.algorithm, &config.secret, &config.public_key_file, &config.jwks_url) {
        (Algorithm::Hs256, Some(secret), None, None) => {
            let secret = secret.expose_secret();
            if secret.is_empty() {
                return refuse("HS256 needs a secret that isn't empty: anybody could sign with that".to_owned());
            }
            Ok(Configured::Key(DecodingKey::from_secret(secret.as_bytes())))
        }
        (Algorithm::Hs256, None, _, _) => refuse("HS256 needs a secret (JWT_SECRET)".to_owned()),
        (Algorithm::Hs256, ..) => {
            refuse("HS256 takes a secret, and neither a public key file nor a JWKS URL".to_owned())
        }
        (_, _, Some(file), None) => Ok(Configured::Key(from_pem(config.algorithm, file)?)),
        (_, _, None, Some(url)) => Ok(Configured::Url(url.expose_secret())),
        _ => {
            refuse(format!("{name} needs either a public key file (JWT_PUBLIC_KEY_FILE) or a JWKS URL (JWT_JWKS_URL)"))
        }
    }
}

fn from_pem(algorithm: Algorithm, file: &Path) -> Result<DecodingKey, SetupError> {
    let name = algorithm.as_str();
    let pem = read(file).map_err(|error| SetupError(format!("can't read {}: {error}", file.display())))?;
    if pem.contains("PRIVATE KEY") {
        return refuse(format!("{} holds a private key; the public one is all that is needed here", file.display()));
    }
    let key = match algorithm {
        Algorithm::Rs256 => DecodingKey::from_rsa_pem(pem.as_bytes()),
        Algorithm::Es256 => DecodingKey::from_ec_pem(pem.as_bytes()),
        Algorithm::EdDsa => DecodingKey::from_ed_pem(pem.as_bytes()),
        Algorithm::Hs256 => return refuse("HS256 takes a secret".to_owned()),
    };
    let key = key.map_err(|error| {
        SetupError(format!("{} holds no public key for {name} (BEGIN PUBLIC KEY): {error}", file.display()))
    })?;
    let bytes = key.try_get_as_bytes().map_or(0, <[u8]>::len);
    if algorithm == Algorithm::Rs256 && bytes < MIN_RSA_BYTES {
        return refuse(format!("{}: an RSA key needs 2,048 bits", file.display()));
    }
    Ok(key)
}

fn read(file: &Path) -> std::io::Result<String> {
    let mut pem = String::new();
    File::open(file)?.take(MAX_PEM_BYTES).read_to_string(&mut pem)?;
    Ok(pem)
}

fn refuse<T>(sentence: String) -> Result<T, SetupError> {
    Err(SetupError(sentence))
}
