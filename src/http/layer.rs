//! The outermost layer: gives each request its label, and turns requests away while the process drains.

use actix_web::{
    Error, HttpMessage,
    body::{EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::header::{HeaderName, HeaderValue},
    middleware::Next,
};
use actors::domain::{ErrorCode, RequestId};
use std::rc::Rc;

use super::{desk::Desk, error::ApiError};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Echoes a sane `x-request-id`, or makes one; answers 503 `draining` instead of starting anything new.
///
/// # Errors
/// Those of the layers within.
pub async fn label(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<EitherBody<impl MessageBody>>, Error> {
    let given = request.headers().get(X_REQUEST_ID).and_then(|label| RequestId::from_client(label.as_bytes()));
    let id = given.unwrap_or_else(RequestId::generate);
    let value = HeaderValue::from_str(id.as_str());
    request.extensions_mut().insert(id);
    let draining = request.app_data::<Rc<Desk>>().is_some_and(|desk| desk.gate.is_draining());
    let mut response = if draining && !is_ops(request.path()) {
        let refusal = ApiError::new(ErrorCode::Draining).response();
        request.into_response(refusal).map_into_right_body()
    } else {
        next.call(request).await?.map_into_left_body()
    };
    if let Ok(value) = value {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    Ok(response)
}

/// Operators may look on while the process drains.
fn is_ops(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics")
}
