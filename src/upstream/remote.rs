//! A provider that is spoken to over HTTP.

use std::{
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use actix_http::{
    Uri,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderName,
        HeaderValue, HttpDate, RETRY_AFTER, USER_AGENT,
    },
};
use actors::{
    ports::{Patience, UpstreamError, UpstreamRequest, UpstreamResponse},
    stream::breaker::Rules,
};
use bytes::Bytes;
use futures_util::{StreamExt, future::LocalBoxFuture};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use secrecy::ExposeSecret;

use super::{
    exchange::{Answer, exchange},
    head::{RequestHead, lines_of_all},
    pool::Pool,
};
use crate::config;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("hasnot-engine/", env!("CARGO_PKG_VERSION")));

/// Why a provider can't be spoken to as configured.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamConfigError {
    /// The file of certificates is none.
    #[error("providers.{provider}.ca_file can't be read: {error}")]
    CaFile {
        /// The provider.
        provider: String,
        /// What is wrong with it.
        error: io::Error,
    },
    /// A URL, a name or a value that HTTP doesn't allow.
    #[error("providers.{provider}: {what} is not allowed in HTTP")]
    Http {
        /// The provider.
        provider: String,
        /// Which setting.
        what: String,
    },
}

/// The client of one provider on one thread.
pub(super) struct HttpProvider {
    pool: Pool,
    /// The lines that every request's head has, without and with a stream to follow.
    lines: [Bytes; 2],
    patience: Patience,
}

impl HttpProvider {
    pub(super) fn new(name: &str, config: &config::HttpProvider) -> Result<Self, UpstreamConfigError> {
        let refuse = |what: &str| UpstreamConfigError::Http { provider: name.to_owned(), what: what.to_owned() };
        let uri = format!("{}/chat/completions", config.base_url.trim_end_matches('/'));
        let uri: Uri = uri.parse().map_err(|_invalid| refuse("base_url"))?;
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host(&uri).ok_or_else(|| refuse("base_url"))?);
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(ACCEPT_ENCODING, IDENTITY);
        headers.insert(USER_AGENT, AGENT);
        if let Some(key) = &config.api_key {
            let bearer = secret_value(&format!("Bearer {}", key.expose_secret()));
            headers.insert(AUTHORIZATION, bearer.ok_or_else(|| refuse("api_key"))?);
        }
        for (header, value) in &config.headers {
            let parsed = HeaderName::try_from(header.as_str()).ok();
            let pair = parsed.zip(secret_value(value.expose_secret()));
            let (name, value) = pair.ok_or_else(|| refuse(&format!("headers.{header}")))?;
            headers.insert(name, value);
        }
        let lines = |accept| {
            let mut headers = headers.clone();
            headers.insert(ACCEPT, accept);
            lines_of_all(&uri, &headers)
        };
        let patience = Patience {
            first_byte: config.first_byte_timeout,
            gap: config.gap_timeout,
            total: config.total_timeout,
            retries: config.retries,
            retry_budget_percent: config.retry_budget_percent,
            breaker: Rules {
                failure_percent: config.breaker_failure_percent,
                min_attempts: config.breaker_min_attempts,
                open: config.breaker_open,
            },
        };
        let roots = roots(config.ca_file.as_deref())
            .map_err(|error| UpstreamConfigError::CaFile { provider: name.to_owned(), error })?;
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let pool = Pool::new(&uri, tls, config.connect_timeout, config.idle_timeout);
        Ok(Self { pool, lines: [lines(JSON), lines(EVENTS)], patience })
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// Opens a connection, and closes it.
    pub(super) async fn try_out(&self) -> Result<(), UpstreamError> {
        self.pool.connect().await.map(drop)
    }

    pub(super) fn open(
        &self,
        request: UpstreamRequest,
    ) -> LocalBoxFuture<'static, Result<UpstreamResponse, UpstreamError>> {
        let [whole, stream] = &self.lines;
        let lines = if request.stream { stream } else { whole }.clone();
        let head = RequestHead { lines, request_id: request.request_id, traceparent: request.traceparent };
        let pool = self.pool.clone();
        Box::pin(async move { read_head(exchange(&pool, head, request.body).await?) })
    }
}

/// Whom the request is for: the host and, where it isn't the scheme's own, the port (RFC 9110, section 7.2).
fn host(uri: &Uri) -> Option<HeaderValue> {
    let host = uri.host()?;
    let text = match uri.port_u16() {
        None | Some(80 | 443) => host.to_owned(),
        Some(port) => format!("{host}:{port}"),
    };
    HeaderValue::try_from(text).ok()
}

fn secret_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn roots(ca_file: Option<&Path>) -> io::Result<RootCertStore> {
    let Some(file) = ca_file else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(io::Error::other)? {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    if roots.is_empty() { Err(io::Error::other("there is no certificate in it")) } else { Ok(roots) }
}

fn read_head(Answer { head, body, connect }: Answer) -> Result<UpstreamResponse, UpstreamError> {
    let text = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if text(CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(UpstreamError::Unreadable);
    }
    let content_type = text(CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or_default();
    Ok(UpstreamResponse {
        status: head.status.as_u16(),
        content_type: content_type.trim().to_ascii_lowercase().into(),
        retry_after: text(RETRY_AFTER).and_then(|wait| read_wait(wait.trim(), text(DATE))),
        connect,
        body: body.boxed_local(),
    })
}

/// Reads a `retry-after`: seconds, or a date (RFC 9110, section 10.2.3), which counts from the provider's own.
fn read_wait(wait: &str, now: Option<&str>) -> Option<Duration> {
    let date = |text: &str| text.parse().map(|date: HttpDate| SystemTime::from(date)).ok();
    let until = || date(wait)?.duration_since(date(now?)?).ok();
    let seconds = wait.parse::<f64>().ok().filter(|seconds| (0.0..f64::INFINITY).contains(seconds));
    let wait = seconds.map(|seconds| seconds.ceil().min(LONGEST_WAIT.as_secs_f64())).map(Duration::from_secs_f64);
    wait.or_else(until).map(|wait| wait.min(LONGEST_WAIT))
}

/// More is no advice.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_seconds_or_dates() {
        let now = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        for (wait, seconds) in [
            ("7", Some(7)),
            ("1.2", Some(2)),
            ("0", Some(0)),
            ("18446744073709551615", Some(86_400)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Fri, 06 Nov 2099 08:50:37 GMT", Some(86_400)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", None),
            ("-1", None),
            ("NaN", None),
            ("soon", None),
        ] {
            assert_eq!(read_wait(wait, now), seconds.map(Duration::from_secs), "{wait}");
        }
        assert_eq!(read_wait("Sun, 06 Nov 1994 08:50:37 GMT", None), None);
    }
}
