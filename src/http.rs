//! The route table, and the layers around it.

mod admin;
mod body;
mod chat;
mod connection;
pub mod desk;
mod error;
mod extract;
mod layer;
mod models;
mod ops;
mod usage;

use actix_web::{
    HttpRequest, HttpResponse, Route, guard,
    http::{Method, header::ALLOW},
    web::{self, ServiceConfig},
};
use actors::domain::ErrorCode;

pub use body::ChatBody;
pub use connection::Heads;
pub use desk::{Dependency, Desk, Gate, Readiness, Settings, Slots};
pub use error::ApiError;
pub use layer::{outermost, turn_away};
pub use usage::class_json;

/// Who may call what: users with a token, admins with one, operators from inside.
pub fn routes(app: &mut ServiceConfig) {
    let get = |path: &str| web::resource(path.to_owned()).default_service(web::route().to(only_get));
    let post = |path: &str| web::resource(path.to_owned()).default_service(web::route().to(only_post));
    app.service(post("/api/hasNotEngine-optimized").route(web::post().to(chat::optimized)))
        .service(post("/api/hasNotEngine").route(web::post().to(chat::optimized)))
        .service(post("/v1/chat/completions").route(web::post().to(chat::completions)))
        .service(get("/v1/models").route(reading().to(models::list)))
        .service(get("/v1/models/{id:.+}").route(reading().to(models::show)))
        .service(get("/api/usage").route(reading().to(usage::show)))
        .service(get("/api/admin/performance").route(reading().to(admin::performance)))
        .service(get("/metrics").route(reading().to(ops::metrics)))
        .service(get("/healthz").route(reading().to(ops::health)))
        .service(get("/readyz").route(reading().to(ops::ready)))
        .default_service(web::to(nothing_here));
}

/// Takes GET, and HEAD, which is GET without the body (RFC 9110, section 9.3.2).
fn reading() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

async fn nothing_here() -> HttpResponse {
    ApiError::new(ErrorCode::NotFound).response()
}

async fn only_get(request: HttpRequest) -> HttpResponse {
    wrong_method(&request, "GET, HEAD, OPTIONS")
}

async fn only_post(request: HttpRequest) -> HttpResponse {
    wrong_method(&request, "POST, OPTIONS")
}

/// Answers what the path doesn't take. A bare `OPTIONS`, which is no preflight, is told what it does take.
fn wrong_method(request: &HttpRequest, allow: &'static str) -> HttpResponse {
    if request.method() == Method::OPTIONS {
        return HttpResponse::NoContent().insert_header((ALLOW, allow)).finish();
    }
    let mut response = ApiError::new(ErrorCode::MethodNotAllowed).response();
    response.headers_mut().insert(ALLOW, actix_web::http::header::HeaderValue::from_static(allow));
    response
}
