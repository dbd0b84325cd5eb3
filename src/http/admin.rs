//! What admins read.

use actix_web::HttpResponse;
use actors::domain::ErrorCode;

use super::{
    error::ApiError,
    extract::{Admin, AtDesk},
};

/// `GET /api/admin/performance`.
pub(super) async fn performance(_: Admin, desk: AtDesk) -> Result<HttpResponse, ApiError> {
    let report = desk.0.stats.ask_report().await.map_err(|_stopping| ApiError::new(ErrorCode::InternalError))?;
    Ok(HttpResponse::Ok().json(report))
}
