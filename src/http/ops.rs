//! What operators ask; the shipped nginx doesn't let it out.

use actix_web::{HttpResponse, http::StatusCode};
use actors::domain::ErrorCode;
use serde_json::json;

use super::{error::ApiError, extract::AtDesk};

/// `GET /healthz`: the process lives.
pub(super) async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

/// `GET /readyz`: requests can be served. A database or Redis that is away doesn't make it fail while warm accounts
/// are served.
pub(super) async fn ready(desk: AtDesk) -> HttpResponse {
    let dependencies = desk.0.readiness.dependencies().await;
    let (draining, recovering) = (desk.0.gate.is_draining(), desk.0.gate.is_recovering());
    let ready = !draining && !recovering && dependencies.iter().all(|dependency| dependency.ok || !dependency.required);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let state = match (draining, recovering, ready) {
        (true, ..) => "draining",
        (_, true, _) => "recovering",
        (.., true) => "ready",
        _ => "not ready",
    };
    HttpResponse::build(status).json(json!({"status": state, "dependencies": dependencies}))
}

/// `GET /metrics`: Prometheus's text format.
///
/// # Errors
/// `internal_error`, if a metric can't be written.
pub(super) async fn metrics(desk: AtDesk) -> Result<HttpResponse, ApiError> {
    let text = desk.0.metrics.encode().map_err(|_metric| ApiError::new(ErrorCode::InternalError))?;
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text))
}
