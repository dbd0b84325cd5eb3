//! The layers around the routes: the outermost gives each request its label, the innermost turns requests away while the
//! process drains.

use std::rc::Rc;

use actix_web::{
    Error, HttpMessage,
    body::{EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::header::{HeaderName, HeaderValue},
    middleware::Next,
};
use actors::domain::{ErrorCode, RequestId};

use super::{desk::Desk, error::ApiError};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Echoes a sane `x-request-id`, or makes one. Whatever else answers, preflights included, does so within.
///
/// # Errors
/// Those of the layers within.
pub async fn label<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let given = request.headers().get(X_REQUEST_ID).and_then(|label| RequestId::from_client(label.as_bytes()));
    let id = given.unwrap_or_else(RequestId::generate);
    let value = HeaderValue::from_str(id.as_str());
    request.extensions_mut().insert(id);
    let mut response = next.call(request).await?;
    if let Ok(value) = value {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    Ok(response)
}

/// Answers 503 `draining` instead of starting anything new. Within the layers that log, and that let browsers read it.
///
/// # Errors
/// Those of the routes.
pub async fn turn_away<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let draining = request.app_data::<Rc<Desk>>().is_some_and(|desk| desk.gate.is_draining());
    if draining && !is_ops(request.path()) {
        let refusal = ApiError::new(ErrorCode::Draining).response();
        return Ok(request.into_response(refusal).map_into_right_body());
    }
    next.call(request).await.map(ServiceResponse::map_into_left_body)
}

/// Operators may look on while the process drains.
fn is_ops(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}
