//! `GET /api/usage`: the caller's own limits, from the numbers that enforcement uses.

use std::sync::Arc;

use actix_web::HttpResponse;
use actors::{
    domain::{Limits, PlanLimit},
    quota::{Account, ClassUsage, Dimension, Figure},
};
use serde_json::{Value, json};

use super::{
    error::ApiError,
    extract::{AtDesk, Authenticated},
};

/// `GET /api/usage`.
///
/// # Errors
/// 503 `quota_unavailable` where the plan or the counts can't be read.
pub(super) async fn show(Authenticated(caller): Authenticated, desk: AtDesk) -> Result<HttpResponse, ApiError> {
    let catalog = desk.0.catalog_for(&caller).await?;
    let plan = catalog.plan(caller.plan);
    let lines: Vec<PlanLimit> = catalog.classes().iter().filter_map(|class| plan?.line(class.id)).collect();
    let usage = desk.0.quota.ask_usage(Arc::clone(&caller), lines).await;
    let usage = usage.map_err(|error| ApiError::of_quota(error, &catalog))?;
    let class =
        |ClassUsage { line, account }: &ClassUsage| class_json(catalog.class_name(line.class), account, &line.limits);
    Ok(HttpResponse::Ok().json(json!({
        "user": caller.id,
        "plan": plan.map(|plan| Arc::clone(&plan.name)),
        "classes": usage.iter().map(class).collect::<Vec<_>>(),
    })))
}

/// Writes what was used of a class, as this endpoint and the command line show it.
#[must_use]
pub fn class_json(class: &str, account: &Account, limits: &Limits) -> Value {
    let figure = |dimension| account.figure(dimension, limits);
    let shown = |figure: Figure| {
        let remaining = figure.remaining();
        json!({"limit": figure.limit, "used": figure.used, "reserved": figure.reserved, "remaining": remaining})
    };
    let tokens = figure(Dimension::Tokens);
    json!({
        "class": class,
        "window": account.window.kind(),
        "resets_at": account.window.end().to_rfc3339(),
        "requests": shown(figure(Dimension::Requests)),
        "tokens": {
            "limit": tokens.limit,
            "used": tokens.used,
            "reserved": tokens.reserved,
            "remaining": tokens.remaining(),
            "prompt_tokens": account.used.prompt_tokens,
            "completion_tokens": account.used.completion_tokens,
        },
        "cost_nanodollars": shown(figure(Dimension::Cost)),
    })
}
