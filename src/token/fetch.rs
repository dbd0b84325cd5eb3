//! Fetching a document of the signer's, over awc.

use std::time::Duration;

use actix_rt::ArbiterHandle;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

/// The most bytes of a document.
pub const MAX_FETCH_BYTES: usize = 1024 * 1024;
/// How long fetching one may take, from the name's resolution to the last byte.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Gets a small document over HTTP.
pub trait Fetch: Send + Sync {
    /// Returns the body of a 200 answer: at most [`MAX_FETCH_BYTES`], within [`FETCH_TIMEOUT`], without redirects.
    fn fetch<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Bytes, FetchError>>;
}

/// Why a document couldn't be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No connection, or it broke.
    #[error("no answer: {0}")]
    Failed(String),
    /// An answer other than 200.
    #[error("the answer's status is {0}")]
    Status(u16),
    /// The answer is too large.
    #[error("the answer is larger than {MAX_FETCH_BYTES} bytes or broke off")]
    Body,
    /// It took too long.
    #[error("no answer within {FETCH_TIMEOUT:?}")]
    Timeout,
}

/// Fetches with awc, which must run on an arbiter's thread; may be asked from any.
#[derive(Debug, Clone)]
pub struct AwcFetch {
    arbiter: ArbiterHandle,
}

impl AwcFetch {
    /// Fetches on this arbiter. The process must have installed rustls's crypto provider before.
    #[must_use]
    pub fn new(arbiter: ArbiterHandle) -> Self {
        Self { arbiter }
    }
}

impl Fetch for AwcFetch {
    fn fetch<'a>(&'a self, url: &'a str) -> BoxFuture<'a, Result<Bytes, FetchError>> {
        let (reply, answer) = oneshot::channel();
        let url = url.to_owned();
        let posted = self.arbiter.spawn_fn(move || {
            // Ends by itself, within the time-out.
            drop(actix_rt::spawn(async move {
                let fetched = tokio::time::timeout(FETCH_TIMEOUT, get(&url)).await;
                // An error means that nobody waits any more.
                drop(reply.send(fetched.unwrap_or(Err(FetchError::Timeout))));
            }));
        });
        Box::pin(async move {
            let stopped = || FetchError::Failed("the arbiter has stopped".to_owned());
            if posted { answer.await.unwrap_or_else(|_| Err(stopped())) } else { Err(stopped()) }
        })
    }
}

async fn get(url: &str) -> Result<Bytes, FetchError> {
    // Once in 10 s at most: a client of its own, so that no idle connection is kept.
    let client = awc::Client::builder().disable_redirects().timeout(FETCH_TIMEOUT).finish();
    let request = client.get(url).insert_header(("accept", "application/json")).no_decompress();
    let mut answer = request.send().await.map_err(|error| FetchError::Failed(error.to_string()))?;
    if answer.status() != awc::http::StatusCode::OK {
        return Err(FetchError::Status(answer.status().as_u16()));
    }
    answer.body().limit(MAX_FETCH_BYTES).await.or(Err(FetchError::Body))
}
