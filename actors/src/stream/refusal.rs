//! Why a provider's attempt came to nothing, and what may be tried then.

use serde::Deserialize;
use serde_json::Value;

use super::Failure;
use crate::{
    domain::ErrorCode,
    metrics::Failure as Reason,
    ports::{UpstreamError, UpstreamResponse},
};

/// What may be tried after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// The request itself is at fault.
    No,
    /// Another provider may serve it.
    Elsewhere,
    /// The same provider may serve it, too.
    Here,
}

/// Why an attempt came to nothing, and what may help.
pub(super) struct Refusal {
    /// What the client is told, if nothing does.
    pub(super) failure: Failure,
    pub(super) again: Again,
    pub(super) reason: Reason,
    /// What the connection has met, for the log.
    pub(super) error: Option<UpstreamError>,
}

impl Refusal {
    pub(super) fn new(reason: Reason, again: Again) -> Self {
        let code = match reason {
            Reason::Timeout => ErrorCode::ProviderTimeout,
            Reason::RateLimited => ErrorCode::ProviderOverloaded,
            _ => ErrorCode::ProviderError,
        };
        Self { failure: Failure::new(code), again, reason, error: None }
    }

    /// Of a model whose breaker is open.
    pub(super) fn spared(failure: Failure) -> Self {
        Self { failure, again: Again::Elsewhere, reason: Reason::BreakerOpen, error: None }
    }

    /// Says whether the provider failed. Statuses that are no reason to ask it again tell nothing of how it fares, whether
    /// they stand in the head or in an error object.
    pub(super) fn is_failure(&self) -> bool {
        match self.again {
            Again::Here => true,
            Again::Elsewhere => !matches!(self.reason, Reason::Status | Reason::ErrorFrame),
            Again::No => false,
        }
    }

    /// Of an answer whose head says no.
    pub(super) fn of_status(response: &UpstreamResponse) -> Self {
        let mut refusal = Self::new(reason(response.status, Reason::Status), again(response.status));
        refusal.failure.provider_status = Some(response.status);
        refusal.failure.retry_after = response.retry_after;
        refusal
    }

    /// Of an error object in the place of an answer: a frame's bytes, or a whole body. Where its `code` is a status, as
    /// OpenRouter has it, it goes by that.
    pub(super) fn of_error(bytes: &[u8]) -> Self {
        match error_status(bytes) {
            Some(status) => Self::new(reason(status, Reason::ErrorFrame), again(status)),
            None => Self::new(Reason::ErrorFrame, Again::Here),
        }
    }
}

fn reason(status: u16, otherwise: Reason) -> Reason {
    if status == 429 { Reason::RateLimited } else { otherwise }
}

fn again(status: u16) -> Again {
    match status {
        408 | 429 | 500..=599 => Again::Here,
        // What is no answer is no judgement of the request, either.
        ..=399 | 401..=404 => Again::Elsewhere,
        _ => Again::No,
    }
}

/// Returns the status that an error object tells: its `code` or `status`, if that is the number of an HTTP error, or what
/// OpenAI's `type` says of a request that is at fault.
fn error_status(bytes: &[u8]) -> Option<u16> {
    #[derive(Deserialize)]
    struct Body {
        error: Told,
    }
    #[derive(Deserialize)]
    struct Told {
        #[serde(default)]
        code: Value,
        #[serde(default)]
        status: Value,
        #[serde(default)]
        r#type: Value,
    }
    let number = |value: &Value| {
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
        u16::try_from(number).ok().filter(|status| (400..600).contains(status))
    };
    let start = memchr::memchr(b'{', bytes)?;
    let mut bodies = serde_json::Deserializer::from_slice(bytes.get(start..)?).into_iter::<Body>();
    let Told { code, status, r#type } = bodies.next()?.ok()?.error;
    number(&code).or_else(|| number(&status)).or_else(|| (r#type == "invalid_request_error").then_some(400))
}

impl From<UpstreamError> for Refusal {
    fn from(error: UpstreamError) -> Self {
        let (reason, again) = match error {
            UpstreamError::Connect(_) => (Reason::Connect, Again::Here),
            UpstreamError::Broken => (Reason::Broken, Again::Here),
            UpstreamError::ConnectTimeout => (Reason::Timeout, Again::Elsewhere),
            UpstreamError::Unreadable | UpstreamError::Unknown => (Reason::Nonsense, Again::Elsewhere),
        };
        Self { error: Some(error), ..Self::new(reason, again) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_object_goes_by_its_code() {
        let told = |text: &str| {
            let refusal = Refusal::of_error(text.as_bytes());
            (refusal.again, refusal.failure.code, refusal.is_failure())
        };
        let failed = (Again::Here, ErrorCode::ProviderError, true);
        assert_eq!(told("data: {\"error\":{\"code\":502,\"message\":\"x\"}}\n\n"), failed);
        assert_eq!(told("{\"error\":{\"message\":\"{\"}}"), failed, "without a code");
        assert_eq!(told("{\"choices\":[]}"), failed);
        assert_eq!(told("data: {\"error\":{\"code\":\"rate\"}}"), failed);
        assert_eq!(told("data: {\"error\":{\"code\":7}}"), failed);
        assert_eq!(told("data: {\"error\":{\"code\":429}}\n\n"), (Again::Here, ErrorCode::ProviderOverloaded, true));
        assert_eq!(told("{\"error\":{\"code\":\"429\"}}"), (Again::Here, ErrorCode::ProviderOverloaded, true));
        let fault = (Again::No, ErrorCode::ProviderError, false);
        assert_eq!(
            told("{\"error\":{\"type\":\"invalid_request_error\",\"code\":\"context_length_exceeded\"}}"),
            fault
        );
        assert_eq!(told("{\"error\":{\"status\":422}}"), fault);
        assert_eq!(told("{\"error\":{\"status\":503,\"type\":\"invalid_request_error\"}}"), failed);
        assert_eq!(told("data: {\"error\":{\"code\":400}}\n\n"), (Again::No, ErrorCode::ProviderError, false));
        assert_eq!(told("data: {\"error\":{\"code\":403}}\n\n"), (Again::Elsewhere, ErrorCode::ProviderError, false));
    }
}
