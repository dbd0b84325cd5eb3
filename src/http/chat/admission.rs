//! Who may go on: from a request to its reservation.

use std::{rc::Rc, sync::Arc};

use actix_web::{HttpRequest, web};
use actors::{
    domain::{Caller, Catalog, ErrorCode, Model, Plan, PlanLimit},
    metrics::QuotaRefusal,
    outcome::RequestOutcome,
    quota::{Ask, Dimension, Permit, QuotaError, Reservation, Wish},
    repeats::{Fingerprint, IdempotencyKey},
    stream::{RequestBody, completion_ceiling, usage::estimate_prompt},
};
use bytes::Bytes;
use futures_util::future::Either;

use super::{
    super::{
        body::ChatBody,
        desk::{Desk, Slot},
        error::ApiError,
        extract,
    },
    Manner,
};

/// A request of a known caller.
pub(super) struct Arrived {
    pub(super) slot: Slot,
    pub(super) caller: Arc<Caller>,
    pub(super) body: Rc<ChatBody>,
    /// Under which name it may be repeated, and what a repeat has to be like.
    pub(super) repeatable: Option<(IdempotencyKey, Fingerprint)>,
}

/// A request that may go on.
pub(super) struct Admitted {
    pub(super) caller: Arc<Caller>,
    pub(super) plan: Arc<Plan>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) model: Arc<Model>,
    pub(super) body: Rc<ChatBody>,
    /// The body as the model's provider gets it.
    pub(super) prepared: Bytes,
    pub(super) promise: (Permit, Reservation),
}

/// Takes a request in. The order of refusals is promised: authentication, body, and then those of [`admit`].
pub(super) async fn arrive(
    desk: &Rc<Desk>,
    request: &HttpRequest,
    payload: &mut web::Payload,
    manner: Manner,
    outcome: &mut RequestOutcome,
) -> Result<Arrived, ApiError> {
    let slot = desk.slots.take().ok_or_else(|| ApiError::new(ErrorCode::Overloaded))?;
    let (caller, body) = caller_and_body(desk, request, payload, outcome).await?;
    outcome.user = Some(caller.id.clone());
    let raw = body?;
    let body = ChatBody::parse(raw.clone(), manner.stream)?;
    outcome.model = Some(body.model().clone());
    // How it is answered depends on the path, too.
    let answered = [u8::from(body.stream()), u8::from(manner.sdk)];
    let key = extract::idempotency_key(request)?;
    let repeatable = key.map(|key| (key, Fingerprint::of(&raw, &answered)));
    Ok(Arrived { slot, caller, body: Rc::new(body), repeatable })
}

/// Decides, in this order: model, plan, rate, quota.
pub(super) async fn admit(desk: &Desk, arrived: &Arrived, outcome: &mut RequestOutcome) -> Result<Admitted, ApiError> {
    let (caller, body) = (Arc::clone(&arrived.caller), Rc::clone(&arrived.body));
    let routed = route(desk, &caller, &body).await;
    let (catalog, model, plan, line) = routed.inspect_err(|refused| {
        if refused.code() == ErrorCode::ModelNotAllowed {
            desk.metrics.quota_refused(QuotaRefusal::NotAllowed);
        }
    })?;
    let ask = Ask {
        prompt_tokens: estimate_prompt(body.message_bytes(), model.context).into(),
        completion_tokens: completion_ceiling(&*body, &model),
        price: model.price,
    };
    let wish = Wish { caller: Arc::clone(&caller), model: model.key, line, ask };
    let asked = desk.clock.now();
    let prepare = async { body.for_model(&model) };
    let (promise, prepared) = futures_util::join!(desk.quota.ask_admit(&plan, wish), prepare);
    outcome.timings.quota = Some(desk.clock.now().saturating_duration_since(asked));
    let promise = promise.map_err(|error| {
        desk.metrics.quota_refused(refusal(&error));
        ApiError::of_quota(error, &catalog)
    })?;
    Ok(Admitted { caller, plan, catalog, model, body, prepared, promise })
}

fn refusal(error: &QuotaError) -> QuotaRefusal {
    match error {
        QuotaError::RateLimited { .. } => QuotaRefusal::Rate,
        QuotaError::Crowded => QuotaRefusal::Concurrency,
        QuotaError::Exhausted(shortage) => match shortage.dimension {
            Dimension::Requests => QuotaRefusal::Requests,
            Dimension::Tokens => QuotaRefusal::Tokens,
            Dimension::Cost => QuotaRefusal::Cost,
        },
        QuotaError::Unavailable | QuotaError::BooksFull => QuotaRefusal::Unavailable,
    }
}

/// Verifies the caller and reads the body side by side. A refused caller's body isn't waited for.
async fn caller_and_body(
    desk: &Desk,
    request: &HttpRequest,
    payload: &mut web::Payload,
    outcome: &mut RequestOutcome,
) -> Result<(Arc<Caller>, Result<Bytes, ApiError>), ApiError> {
    let settings = &desk.settings;
    let auth = std::pin::pin!(extract::authenticate(desk, request));
    let body = extract::read_body(request, payload, settings.max_body_bytes, settings.body_timeout);
    let body = std::pin::pin!(body);
    match futures_util::future::select(auth, body).await {
        Either::Left((caller, body)) => {
            outcome.timings.auth = Some(outcome.age());
            Ok((caller?, body.await))
        }
        Either::Right((body, auth)) => {
            let caller = auth.await;
            outcome.timings.auth = Some(outcome.age());
            Ok((caller?, body))
        }
    }
}

type Routed = (Arc<Catalog>, Arc<Model>, Arc<Plan>, PlanLimit);

/// Finds model and plan. What this instance doesn't know is looked up in the store before it is refused.
async fn route(desk: &Desk, caller: &Caller, body: &ChatBody) -> Result<Routed, ApiError> {
    let catalog = desk.catalog.current();
    match route_in(desk, &catalog, caller, body) {
        Ok((model, plan, line)) => Ok((catalog, model, plan, line)),
        Err(refusal) if catalog.model(body.model()).is_none() || refusal.code() == ErrorCode::ModelNotAllowed => {
            let fresh = desk.catalog.ask_refresh().await.map_err(|_away| ApiError::new(ErrorCode::QuotaUnavailable))?;
            let (model, plan, line) = route_in(desk, &fresh, caller, body)?;
            Ok((fresh, model, plan, line))
        }
        Err(refusal) => Err(refusal),
    }
}

fn route_in(
    desk: &Desk,
    catalog: &Catalog,
    caller: &Caller,
    body: &ChatBody,
) -> Result<(Arc<Model>, Arc<Plan>, PlanLimit), ApiError> {
    let model = catalog.model(body.model());
    let allowed = model.as_ref().map_or(&[][..], |model| desk.settings.allowed_fields(&model.provider));
    if let Some(field) = body.forbidden(allowed) {
        return Err(ApiError::field(field, format!("`{field}` is not allowed here; name one model.")));
    }
    let model = model.ok_or_else(|| ApiError::new(ErrorCode::ModelNotFound).about("model"))?;
    let plan = catalog.plan(caller.plan).cloned().ok_or_else(|| ApiError::new(ErrorCode::ModelNotAllowed))?;
    let line = plan.line(model.class.id).ok_or_else(|| ApiError::new(ErrorCode::ModelNotAllowed).about("model"))?;
    Ok((model, plan, line))
}
