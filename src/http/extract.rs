//! Extractors: handlers receive typed facts, and their signatures show who may call them.

use std::{
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    dev::Payload,
    http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName},
    web,
};
use actors::{
    domain::{Caller, ErrorCode, RequestId, Role},
    repeats::{IdempotencyKey, InvalidKey},
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, future::LocalBoxFuture};

use super::{desk::Desk, error::ApiError};

/// As draft-ietf-httpapi-idempotency-key-header has it.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How long after the first look at a body the second one is at the latest. A timer that is due before all others of its
/// worker costs a write that wakes the worker itself; actix's own clock is due every 500 ms.
const A_MOMENT: Duration = Duration::from_secs(1);

/// Anybody with a valid token.
pub(super) struct Authenticated(pub(super) Arc<Caller>);

/// An admin.
pub(super) struct Admin;

/// The desk of this worker.
pub(super) struct AtDesk(pub(super) Rc<Desk>);

/// Returns the worker's desk.
///
/// # Errors
/// `internal_error` where the app was made without one.
pub(super) fn desk(request: &HttpRequest) -> Result<Rc<Desk>, ApiError> {
    request.app_data::<Rc<Desk>>().cloned().ok_or_else(|| ErrorCode::InternalError.into())
}

/// Returns the label of this request, which the outermost layer gave it.
pub(super) fn request_id(request: &HttpRequest) -> RequestId {
    request.extensions().get::<RequestId>().cloned().unwrap_or_else(RequestId::generate)
}

fn bearer(request: &HttpRequest) -> Option<&str> {
    const SCHEME: &[u8] = b"bearer ";
    let value = request.headers().get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    let token = scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim_ascii())?;
    // ASCII is what tokens are made of; others are unknown anyway.
    std::str::from_utf8(token).ok()
}

/// Returns the name under which the client may send this request again.
///
/// # Errors
/// 400 where it is none, or there are several.
pub(super) fn idempotency_key(request: &HttpRequest) -> Result<Option<IdempotencyKey>, ApiError> {
    let mut given = request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(key) = given.next() else { return Ok(None) };
    let key = key.to_str().ok().and_then(|key| key.parse().ok()).filter(|_| given.next().is_none());
    let refusal = || ApiError::field("idempotency-key", format!("{InvalidKey}, and is given once."));
    key.map(Some).ok_or_else(refusal)
}

/// Verifies the caller.
///
/// # Errors
/// 401, or 503 where nobody who would know can be asked.
///
/// # Cancel safety
/// May be dropped.
pub(super) async fn authenticate(desk: &Desk, request: &HttpRequest) -> Result<Arc<Caller>, ApiError> {
    let token = bearer(request).ok_or_else(|| ApiError::new(ErrorCode::InvalidApiKey))?;
    desk.auth.ask_caller(token).await.map_err(|error| error.code().into())
}

impl FromRequest for AtDesk {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        std::future::ready(desk(request).map(Self))
    }
}

impl FromRequest for Authenticated {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { authenticate(&*desk(&request)?, &request).await.map(Self) })
    }
}

impl FromRequest for Admin {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let caller = authenticate(&*desk(&request)?, &request).await?;
            if caller.role == Role::Admin { Ok(Self) } else { Err(ErrorCode::AdminRequired.into()) }
        })
    }
}

/// Reads a JSON body, within limits of size and time. Bytes that came in one piece are not copied.
///
/// # Errors
/// 408, 413, 415.
///
/// # Cancel safety
/// May be dropped; actix closes the connection then, since the rest of the body is unread.
pub(super) async fn read_body(
    request: &HttpRequest,
    payload: &mut web::Payload,
    max_bytes: usize,
    timeout: Duration,
) -> Result<Bytes, ApiError> {
    let header = |name| request.headers().get(name);
    let media = header(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let is_json =
        |media: &str| media.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    let encodings = request.headers().get_all(CONTENT_ENCODING);
    let encoded = encodings.into_iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded || media.is_some_and(|media| !is_json(media)) {
        return Err(ErrorCode::UnsupportedMediaType.into());
    }
    let announced = header(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > max_bytes) {
        return Err(ErrorCode::RequestTooLarge.into());
    }
    let read = async {
        let mut first = Bytes::new();
        let mut more = BytesMut::new();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|_broken| ApiError::new(ErrorCode::InvalidJson))?;
            if first.len().max(more.len()) + chunk.len() > max_bytes {
                return Err(ErrorCode::RequestTooLarge.into());
            }
            if first.is_empty() && more.is_empty() {
                first = chunk;
                continue;
            }
            if more.is_empty() {
                more.reserve(announced.unwrap_or(0).max(first.len() + chunk.len()));
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(&chunk);
        }
        Ok(if more.is_empty() { first } else { more.freeze() })
    };
    let mut read = pin!(read);
    if let Some(read) = at_once(read.as_mut()).await {
        return read;
    }
    tokio::time::timeout(timeout, read).await.unwrap_or_else(|_elapsed| Err(ErrorCode::RequestTimeout.into()))
}

/// Looks whether a body has come with its head; then its handler isn't woken for it.
///
/// actix decodes such a body right after it has called the handler, and asks the handler again in the same turn. What
/// wakes the handler for it only brings another turn, in which there is nothing to do. So the first look leaves no waker;
/// should nobody ask again, a timer does.
async fn at_once<F: Future>(mut read: Pin<&mut F>) -> Option<F::Output> {
    if let Poll::Ready(read) = read.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return Some(read);
    }
    let mut moment = pin!(tokio::time::sleep(A_MOMENT));
    let mut asked = false;
    std::future::poll_fn(
        |cx| if std::mem::replace(&mut asked, true) { Poll::Ready(()) } else { moment.as_mut().poll(cx) },
    )
    .await;
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// actix asks a handler twice in a turn, so that no request shows it.
    #[actix_rt::test]
    async fn the_second_look_at_a_body_needs_nobody_to_ask() {
        let begun = tokio::time::Instant::now();
        let never = pin!(std::future::pending::<()>());
        // Where the time is over, this looks once more before it gives up.
        let looked = tokio::time::timeout(Duration::from_secs(5), at_once(never)).await;
        assert!(looked.is_ok_and(|read| read.is_none()));
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
}
