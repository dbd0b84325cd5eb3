//! The one table of errors, and the one place that answers.

use actix_web::{
    HttpResponse,
    http::{
        StatusCode,
        header::{HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
    },
};
use actors::{
    domain::{Catalog, ErrorCode},
    quota::{QuotaError, Shortage},
    stream::Failure,
};
use serde_json::{Map, Value, json};

/// An error as a client gets it: by its status, or as the last frame of a stream.
#[derive(Debug, Clone)]
pub struct ApiError {
    code: ErrorCode,
    message: String,
    param: Option<&'static str>,
    retry_after: Option<u64>,
    more: Map<String, Value>,
    shortage: Option<Box<Shortage>>,
    /// Whether asking again gives the same, although the status may mean otherwise.
    is_final: bool,
}

/// Tells SDKs that another try is of no use.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// What a request is told that doesn't fit, though others would: one above the limit will never fit.
const MORE_THAN_REMAINS: &str =
    "This request needs more than what remains of your quota; shorten it, or wait until the quota resets.";

/// The table: status, type, message.
const fn row(code: ErrorCode) -> (u16, &'static str, &'static str) {
    match code {
        ErrorCode::InvalidApiKey => {
            (401, "authentication_error", "Send a valid token or API key as `Authorization: Bearer …`.")
        }
        ErrorCode::TokenExpired => (401, "authentication_error", "The token has expired; get a new one."),
        ErrorCode::AdminRequired => (403, "permission_error", "This needs the role `admin`."),
        ErrorCode::ModelNotAllowed => (403, "permission_error", "Your plan doesn't include this class of models."),
        ErrorCode::ModelNotFound => {
            (404, "invalid_request_error", "There is no such model; GET /v1/models lists yours.")
        }
        ErrorCode::NotFound => (404, "invalid_request_error", "There is nothing at this path."),
        ErrorCode::MethodNotAllowed => {
            (405, "invalid_request_error", "This path doesn't take this method; see `Allow`.")
        }
        ErrorCode::InvalidJson => (400, "invalid_request_error", "The body must be one JSON object in UTF-8."),
        ErrorCode::InvalidValue => (400, "invalid_request_error", "A field is missing, wrong, doubled or forbidden."),
        ErrorCode::RequestTimeout => (408, "invalid_request_error", "The body came too slowly; send it again."),
        ErrorCode::RequestTooLarge => (413, "invalid_request_error", "The body is too large; shorten the messages."),
        ErrorCode::UnsupportedMediaType => {
            (415, "invalid_request_error", "Send the body as `Content-Type: application/json`.")
        }
        ErrorCode::IdempotencyMismatch => {
            (422, "invalid_request_error", "This Idempotency-Key is in use with another body; take a new key.")
        }
        ErrorCode::RateLimitExceeded => (429, "rate_limit_error", "Too many requests; wait for `retry_after` seconds."),
        ErrorCode::InsufficientQuota => {
            (429, "insufficient_quota", "The quota of your plan is used up; wait until it resets.")
        }
        ErrorCode::ProviderError => {
            (502, "provider_error", "The model's provider failed; try again or take another model.")
        }
        ErrorCode::ProviderOverloaded => {
            (503, "provider_error", "The model's provider is overloaded; wait for `retry_after` seconds.")
        }
        ErrorCode::Overloaded => {
            (503, "server_error", "Too many requests are running here; wait for `retry_after` seconds.")
        }
        ErrorCode::Draining => (503, "server_error", "This instance is shutting down; try again at once."),
        ErrorCode::QuotaUnavailable => {
            (503, "server_error", "The quota can't be verified now; wait for `retry_after` seconds.")
        }
        ErrorCode::LedgerUnavailable => {
            (503, "server_error", "Usage can't be recorded now; wait for `retry_after` seconds.")
        }
        ErrorCode::ProviderTimeout => (504, "server_error", "The model's provider was too slow; try again."),
        ErrorCode::InternalError => {
            (500, "server_error", "Something failed here; try again, and report the request id.")
        }
    }
}

impl ApiError {
    /// Makes the error of that row.
    #[must_use]
    pub fn new(code: ErrorCode) -> Self {
        let (status, _, message) = row(code);
        let retry_after = (status == 503).then_some(1);
        Self {
            code,
            message: message.to_owned(),
            param: None,
            retry_after,
            more: Map::new(),
            shortage: None,
            is_final: false,
        }
    }

    /// Makes a 400 about a field.
    #[must_use]
    pub fn field(param: &'static str, message: impl Into<String>) -> Self {
        Self { message: message.into(), param: Some(param), ..Self::new(ErrorCode::InvalidValue) }
    }

    /// Names the field that it is about.
    #[must_use]
    pub fn about(self, param: &'static str) -> Self {
        Self { param: Some(param), ..self }
    }

    /// Makes the 429 of a plan that is used up, or of which less is left than a request needs.
    #[must_use]
    pub fn of_shortage(shortage: &Shortage, catalog: &Catalog) -> Self {
        let Shortage { class, dimension, figure, window } = shortage;
        let shortage = Some(Box::new(*shortage));
        let mut error = Self { shortage, is_final: true, ..Self::new(ErrorCode::InsufficientQuota) };
        for (key, value) in [
            ("metric", json!(dimension.as_str())),
            ("limit", json!(figure.limit)),
            ("used", json!(figure.used)),
            ("reserved", json!(figure.reserved)),
            ("remaining", json!(figure.remaining())),
            ("class", json!(catalog.class_name(*class))),
            ("window", json!(window.kind())),
            ("resets_at", json!(window.end().to_rfc3339())),
        ] {
            error.more.insert(key.into(), value);
        }
        if figure.remaining().is_some_and(|left| left > 0) {
            error.message = MORE_THAN_REMAINS.to_owned();
        }
        error
    }

    /// Makes the 429 of somebody who may come again in so many seconds.
    #[must_use]
    pub fn of_rate(retry_after: u64) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(ErrorCode::RateLimitExceeded) }
    }

    /// Makes the error of a refused reservation.
    #[must_use]
    pub fn of_quota(error: QuotaError, catalog: &Catalog) -> Self {
        match error {
            QuotaError::RateLimited { retry_after } => Self::of_rate(retry_after),
            QuotaError::Crowded => Self::of_rate(1),
            QuotaError::Exhausted(shortage) => Self::of_shortage(&shortage, catalog),
            QuotaError::Unavailable => Self::new(ErrorCode::QuotaUnavailable),
            QuotaError::BooksFull => Self::new(ErrorCode::LedgerUnavailable),
        }
    }

    /// Makes the error of a request that was admitted and failed.
    #[must_use]
    pub fn of_failure(failure: &Failure, catalog: &Catalog) -> Self {
        if let Some(shortage) = &failure.shortage {
            return Self::of_shortage(shortage, catalog);
        }
        let mut error = Self::new(failure.code);
        if let Some(status) = failure.provider_status {
            error.more.insert("provider_status".into(), status.into());
            if matches!(status, 400 | 413 | 422) {
                error.message = format!("The model's provider refuses this request as it is, with status {status}.");
                error.is_final = true;
            }
        }
        if let Some(wait) = failure.retry_after {
            error.retry_after = Some(wait.as_secs().max(1));
        }
        error
    }

    /// Returns the code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// Returns the ceiling that was met, if one was.
    #[must_use]
    pub fn shortage(&self) -> Option<&Shortage> {
        self.shortage.as_deref()
    }

    fn body(&self) -> String {
        let (_, kind, _) = row(self.code);
        let mut error = self.more.clone();
        // Also as a member: a frame has no header.
        if let Some(seconds) = self.retry_after {
            error.insert("retry_after".into(), seconds.into());
        }
        error.insert("message".into(), self.message.as_str().into());
        error.insert("type".into(), kind.into());
        error.insert("param".into(), self.param.into());
        error.insert("code".into(), self.code.as_str().into());
        json!({ "error": error }).to_string()
    }

    /// Returns it as the last frame of a stream.
    #[must_use]
    pub fn frame(&self) -> bytes::Bytes {
        format!("data: {}\n\n", self.body()).into()
    }

    /// Answers with it.
    #[must_use]
    pub fn response(&self) -> HttpResponse {
        let (status, ..) = row(self.code);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = HttpResponse::build(status);
        response.content_type("application/json");
        if status == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        if let Some(seconds) = self.retry_after {
            response.insert_header((RETRY_AFTER, HeaderValue::from(seconds)));
        }
        if self.is_final {
            response.insert_header((X_SHOULD_RETRY, HeaderValue::from_static("false")));
        }
        if self.code == ErrorCode::Draining {
            response.force_close();
        }
        let mut response = response.body(self.body());
        // For the log line, and to be counted.
        response.extensions_mut().insert(self.code);
        response
    }
}

impl From<ErrorCode> for ApiError {
    fn from(code: ErrorCode) -> Self {
        Self::new(code)
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl actix_web::ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(row(self.code).0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        self.response()
    }
}
