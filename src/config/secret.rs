//! The secret that signs tokens: what is wrong with one, and making one for development.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use actors::private;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;

use crate::token::Algorithm;

use super::{Config, Profile, error::ConfigError, layers::read_text};

/// The name of the made secret in the data folder.
const FILE_NAME: &str = "jwt-secret";

/// The fewest bytes of a secret: as many as HS256's hash has (RFC 7518, section 3.2).
const MIN_BYTES: usize = 32;

/// The fewest different bytes. A random secret of 32 hexadecimal digits has 14 at the mean, and below 8 never.
const MIN_DIFFERENT: usize = 8;

/// What the secrets of examples begin with.
const EXAMPLE_STARTS: [&str; 8] =
    ["changeme", "change-me", "change_me", "secret", "your-", "your_", "password", "replace"];

/// What the secrets of examples, the README's among them, have somewhere in them.
const EXAMPLE_PARTS: [&str; 4] = ["example", "changeme", "change-me", "change_me"];

/// Secrets that well-known documentation ships: jwt.io's and Supabase's.
const WELL_KNOWN: [&str; 2] =
    ["a-string-secret-at-least-256-bits-long", "super-secret-jwt-token-with-at-least-32-characters-long"];

/// Says what is wrong with a secret, if anything; never repeats it.
pub(super) fn weakness(secret: &str) -> Option<String> {
    let secret = secret.trim();
    let lower = secret.to_ascii_lowercase();
    if EXAMPLE_STARTS.iter().any(|start| lower.starts_with(start))
        || EXAMPLE_PARTS.iter().any(|part| lower.contains(part))
        || WELL_KNOWN.contains(&lower.as_str())
    {
        return Some("an example".to_owned());
    }
    if secret.len() < MIN_BYTES {
        return Some(format!("only {} bytes long", secret.len()));
    }
    let mut seen = [false; 256];
    secret.bytes().for_each(|byte| seen.iter_mut().skip(usize::from(byte)).take(1).for_each(|seen| *seen = true));
    let different = seen.iter().filter(|seen| **seen).count();
    if different < MIN_DIFFERENT || is_repetition(secret.as_bytes()) {
        return Some("a repetition of few characters".to_owned());
    }
    None
}

/// Says whether these bytes are a shorter piece over and over, as far as they go.
fn is_repetition(bytes: &[u8]) -> bool {
    (1..=bytes.len() / 2).any(|period| bytes.iter().zip(bytes.iter().skip(period)).all(|(a, b)| a == b))
}

/// Sees to it that development has a secret: reads the one in the data folder, or makes it at the first start.
///
/// Does nothing where a secret or a public key is configured. Returns whether the secret is one that was made here, now
/// or at an earlier start, and remembers it in `auth.secret_made_here`.
///
/// # Errors
/// The data folder can't be written, or the secret in it can't be read or is no secret.
pub fn ensure_secret(config: &mut Config) -> Result<bool, ConfigError> {
    if is_made_here(config) {
        let path = config.data_dir.join(FILE_NAME);
        take(config, &path, made(&config.data_dir, &path))?;
    }
    Ok(config.auth.secret_made_here)
}

/// Does as [`ensure_secret`], but makes none. Returns `false` where the first start is still to make it.
///
/// # Errors
/// The secret in the data folder can't be read or is no secret.
pub fn find_secret(config: &mut Config) -> Result<bool, ConfigError> {
    if is_made_here(config) {
        let path = config.data_dir.join(FILE_NAME);
        match kept(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            kept => take(config, &path, kept)?,
        }
    }
    Ok(true)
}

/// Says whether the secret is one that development makes.
fn is_made_here(config: &Config) -> bool {
    let jwt = &config.auth.jwt;
    config.profile == Profile::Development && jwt.algorithm == Algorithm::Hs256 && jwt.secret.is_none()
}

/// Takes what is in the data folder for the configuration's secret.
fn take(config: &mut Config, path: &Path, secret: io::Result<String>) -> Result<(), ConfigError> {
    let path = path.display();
    let secret = secret.map_err(|error| ConfigError::of(format!("The secret in {path} can't be kept: {error}.")))?;
    if let Some(weakness) = weakness(&secret) {
        return Err(ConfigError::of(format!(
            "The secret in {path} is {weakness}; delete the file, and the next start makes a new one."
        )));
    }
    config.auth.jwt.secret = Some(SecretString::from(secret));
    config.auth.secret_made_here = true;
    Ok(())
}

fn kept(path: &Path) -> io::Result<String> {
    Ok(read_text(path)?.trim().to_owned())
}

/// Returns the secret that is kept at `path`, made if it isn't there. Of several processes that start at once, all
/// return the same one: a whole file is linked to its name, and only one link succeeds.
fn made(folder: &Path, path: &Path) -> io::Result<String> {
    match kept(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        kept => return kept,
    }
    private::make_folder(folder)?;
    let fresh = folder.join(format!("{FILE_NAME}.{}", uuid::Uuid::new_v4()));
    let mut file = private::file().write(true).create_new(true).open(&fresh)?;
    let written = writeln!(file, "{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let linked = written.and_then(|()| file.sync_all()).and_then(|()| fs::hard_link(&fresh, path));
    fs::remove_file(&fresh)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => kept(path),
    }
}
