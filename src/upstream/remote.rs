//! A provider that is spoken to over HTTP.

use std::{io, path::Path, sync::Arc, time::Duration};

use actix_service::{Service, fn_service};
use actix_tls::connect::{ConnectInfo, Connector as TcpConnector};
use actors::{
    ports::{Patience, UpstreamError, UpstreamRequest, UpstreamResponse},
    stream::breaker::Rules,
};
use awc::http::{
    Uri,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
        RETRY_AFTER, USER_AGENT,
    },
};
use awc::{
    Client, ClientResponse, Connector,
    error::{ConnectError, SendRequestError},
};
use futures_util::{StreamExt, future::LocalBoxFuture};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use secrecy::ExposeSecret;

use crate::config;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("hasnot-engine/", env!("CARGO_PKG_VERSION")));
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

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
    client: Client,
    uri: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    patience: Patience,
}

impl HttpProvider {
    pub(super) fn new(name: &str, config: &config::HttpProvider) -> Result<Self, UpstreamConfigError> {
        let refuse = |what: &str| UpstreamConfigError::Http { provider: name.to_owned(), what: what.to_owned() };
        let uri = format!("{}/chat/completions", config.base_url.trim_end_matches('/'));
        let uri: Uri = uri.parse().map_err(|_invalid| refuse("base_url"))?;
        let mut headers = Vec::new();
        if let Some(key) = &config.api_key {
            headers.push((
                AUTHORIZATION,
                secret_value(&format!("Bearer {}", key.expose_secret())).ok_or_else(|| refuse("api_key"))?,
            ));
        }
        for (header, value) in &config.headers {
            let parsed = HeaderName::try_from(header.as_str()).ok();
            let pair = parsed.zip(secret_value(value.expose_secret()));
            headers.push(pair.ok_or_else(|| refuse(&format!("headers.{header}")))?);
        }
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
        Ok(Self { client: client(roots, config.connect_timeout), uri, headers, patience })
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    pub(super) fn open(
        &self,
        request: UpstreamRequest,
    ) -> LocalBoxFuture<'static, Result<UpstreamResponse, UpstreamError>> {
        let mut call = self.client.post(self.uri.clone());
        let headers = call.headers_mut();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(ACCEPT, if request.stream { EVENTS } else { JSON });
        headers.insert(ACCEPT_ENCODING, IDENTITY);
        headers.insert(USER_AGENT, AGENT);
        insert(headers, X_REQUEST_ID, request.request_id.as_str());
        if let Some(traceparent) = &request.traceparent {
            insert(headers, TRACEPARENT, traceparent);
        }
        for (name, value) in &self.headers {
            headers.insert(name.clone(), value.clone());
        }
        Box::pin(async move { read_head(call.send_body(request.body).await.map_err(failure)?) })
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn secret_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Connections without a limit (admission has one of its own), a deadline for connecting only (the stream has its own
/// for everything else), HTTP/1.1, no redirects.
fn client(roots: RootCertStore, connect_timeout: Duration) -> Client {
    let mut tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = TcpConnector::default().service();
    let no_delay = fn_service(move |info: ConnectInfo<_>| {
        let connect = tcp.call(info);
        async move {
            let connection = connect.await?;
            // Where the socket is gone already, the first write says so.
            let _set = connection.io_ref().set_nodelay(true).is_ok();
            Ok(connection)
        }
    });
    let connector = Connector::new()
        .connector(no_delay)
        // `max_http_version` would put a TLS of its own in its place, which trusts the public authorities only.
        .rustls_0_23(Arc::new(tls))
        .limit(0)
        .timeout(connect_timeout)
        .handshake_timeout(connect_timeout);
    Client::builder().connector(connector).disable_timeout().disable_redirects().no_default_headers().finish()
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

fn read_head<S>(response: ClientResponse<S>) -> Result<UpstreamResponse, UpstreamError>
where
    ClientResponse<S>: futures_util::Stream<Item = Result<bytes::Bytes, awc::error::PayloadError>> + 'static,
{
    let text = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if text(CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(UpstreamError::Unreadable);
    }
    let content_type = text(CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or_default();
    Ok(UpstreamResponse {
        status: response.status().as_u16(),
        content_type: content_type.trim().to_ascii_lowercase().into(),
        retry_after: text(RETRY_AFTER).and_then(|value| value.trim().parse().ok()).map(Duration::from_secs),
        body: response.map(|chunk| chunk.map_err(|_broken| UpstreamError::Broken)).boxed_local(),
    })
}

fn failure(error: SendRequestError) -> UpstreamError {
    match error {
        SendRequestError::Connect(ConnectError::Timeout) | SendRequestError::Timeout => UpstreamError::ConnectTimeout,
        SendRequestError::Connect(ConnectError::Disconnected) => UpstreamError::Broken,
        SendRequestError::Connect(_) | SendRequestError::Url(_) => UpstreamError::Connect,
        _ => UpstreamError::Broken,
    }
}
