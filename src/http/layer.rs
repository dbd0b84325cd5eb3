//! The layers around the routes: the outermost sees to what holds for every answer, the innermost turns requests away
//! while the process starts or drains.

mod answer;

use std::rc::Rc;

use actix_cors::CorsError;
use actix_web::{
    Error, HttpMessage,
    body::{self, BodySize, BoxBody, EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        ConnectionType, Method, Version,
        header::{CACHE_CONTROL, HeaderName, HeaderValue},
    },
    middleware::Next,
};
use actors::domain::{ErrorCode, RequestId};

use self::answer::{Answer, Lasting};
use super::{desk::Desk, error::ApiError};
use crate::telemetry::OwnRecord;

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Echoes a sane `x-request-id`, or makes one, lets nothing be kept by caches, leaves out the body of what answers HEAD,
/// sends no chunks to HTTP/1.0, says how long a request lasts, refuses preflights in our shape, and counts errors.
/// Whatever else answers does so within.
///
/// actix leaves that body out too, but goes by the last request that it has read from the connection, which another one
/// may have followed by then: the body would go out, and every answer after it be out of step. `content-length` goes
/// with the body, as it may (RFC 9110, section 8.6).
///
/// # Errors
/// Those of the layers within.
pub async fn outermost<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Answer<EitherBody<B>>>, Error> {
    let lasting = Lasting::of(&mut request);
    let is_head = request.method() == Method::HEAD;
    let given = request.headers().get(X_REQUEST_ID).and_then(|label| RequestId::from_client(label.as_bytes()));
    let id = given.unwrap_or_else(RequestId::generate);
    let value = HeaderValue::from_str(id.as_str());
    request.extensions_mut().insert(id);
    let response = next.call(request).await?;
    let mut response = if is_head {
        response.map_body(|_, _| EitherBody::right(BoxBody::new(body::None::new())))
    } else if let Some(refusal) = preflight_refusal(&response) {
        response.into_response(refusal.response()).map_into_right_body()
    } else {
        response.map_into_left_body()
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, NO_STORE);
    if let Ok(value) = value {
        headers.insert(X_REQUEST_ID, value);
    }
    if response.request().version() < Version::HTTP_11 {
        unchunk(&mut response);
    }
    if response.status().as_u16() >= 400 {
        count(&response);
    }
    Ok(response.map_body(|_, body| lasting.beside(body)))
}

/// Counts an error that is in no record of a request.
fn count<B>(response: &ServiceResponse<B>) {
    let request = response.request();
    let extensions = response.response().extensions();
    let code: Option<&ErrorCode> = extensions.get().filter(|_| !request.extensions().contains::<OwnRecord>());
    if let (Some(code), Some(desk)) = (code, request.app_data::<Rc<Desk>>()) {
        desk.refused(*code);
    }
}

/// Ends a stream with its connection: HTTP/1.0 knows no chunks (RFC 9112, section 6.1), which actix sends nevertheless.
fn unchunk<B: MessageBody>(response: &mut ServiceResponse<B>) {
    if response.response().body().size() == BodySize::Stream {
        let head = response.response_mut().head_mut();
        head.no_chunking(true);
        head.set_connection_type(ConnectionType::Close);
    }
}

/// Says in our shape why a preflight was refused; the layer that lets browsers in says it in plain text.
fn preflight_refusal<B>(response: &ServiceResponse<B>) -> Option<ApiError> {
    let refused = response.response().error()?.as_error::<CorsError>()?;
    let (header, message) = match refused {
        CorsError::MissingRequestMethod | CorsError::BadRequestMethod | CorsError::MethodNotAllowed => {
            ("access-control-request-method", "Pages may send GET and POST.")
        }
        CorsError::BadRequestHeaders | CorsError::HeadersNotAllowed => {
            ("access-control-request-headers", "Headers are named as RFC 9110 has it, with commas between them.")
        }
        _ => {
            ("origin", "Pages of this origin may not call; the operator names those that may in `server.cors_origins`.")
        }
    };
    Some(ApiError::field(header, message))
}

/// Answers 503 `draining`, or `ledger_unavailable` while what a crash has left is recovered, instead of starting
/// anything new. Within the layers that log, and that let browsers read it.
///
/// # Errors
/// Those of the routes.
pub async fn turn_away<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let gate = request.app_data::<Rc<Desk>>().map(|desk| &desk.gate);
    let refusal = match gate {
        Some(gate) if gate.is_draining() => Some(ErrorCode::Draining),
        Some(gate) if gate.is_recovering() => Some(ErrorCode::LedgerUnavailable),
        _ => None,
    };
    if let Some(code) = refusal.filter(|_| !is_ops(request.path())) {
        return Ok(request.into_response(ApiError::new(code).response()).map_into_right_body());
    }
    next.call(request).await.map(ServiceResponse::map_into_left_body)
}

/// Operators may look on meanwhile.
fn is_ops(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}
