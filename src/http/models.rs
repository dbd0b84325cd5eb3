//! `GET /v1/models`: the models that a caller may use, in OpenAI's form.

use actix_web::{HttpResponse, web};
use actors::domain::{Caller, Catalog, ErrorCode, Model, ModelId};
use serde_json::{Value, json};

use super::{
    error::ApiError,
    extract::{AtDesk, Authenticated},
};

fn allowed(catalog: &Catalog, caller: &Caller, model: &Model) -> bool {
    catalog.plan(caller.plan).is_some_and(|plan| plan.line(model.class.id).is_some())
}

fn entry(model: &Model) -> Value {
    json!({
        "id": model.id,
        "object": "model",
        "created": 0,
        "owned_by": model.provider,
        "class": model.class.name,
        "context_length": model.context,
        "max_output_tokens": model.max_output,
    })
}

/// `GET /v1/models`, sorted by id.
///
/// # Errors
/// 503 `quota_unavailable` where the plan can't be read.
pub(super) async fn list(Authenticated(caller): Authenticated, desk: AtDesk) -> Result<HttpResponse, ApiError> {
    let catalog = desk.0.catalog_for(&caller).await?;
    let mut models: Vec<_> = catalog.models().filter(|model| allowed(&catalog, &caller, model)).collect();
    models.sort_by(|a, b| a.id.cmp(&b.id));
    let data: Vec<_> = models.into_iter().map(|model| entry(model)).collect();
    Ok(HttpResponse::Ok().json(json!({"object": "list", "data": data})))
}

/// `GET /v1/models/{id}`.
///
/// # Errors
/// 404 for a model that isn't there or isn't the caller's to use.
pub(super) async fn show(
    Authenticated(caller): Authenticated,
    desk: AtDesk,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let unknown = || ApiError::new(ErrorCode::ModelNotFound).about("model");
    let id: ModelId = id.parse().map_err(|_invalid| unknown())?;
    let find = |catalog: &Catalog| catalog.model(&id).filter(|model| allowed(catalog, &caller, model));
    let found = match find(&desk.0.catalog.current()) {
        Some(model) => Some(model),
        None => {
            let fresh = desk.0.catalog.ask_refresh().await;
            find(&*fresh.map_err(|_away| ApiError::new(ErrorCode::QuotaUnavailable))?)
        }
    };
    found.map(|model| HttpResponse::Ok().json(entry(&model))).ok_or_else(unknown)
}
