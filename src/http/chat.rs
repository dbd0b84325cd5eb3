//! The chat endpoint: from a request to its answer.
//!
//! Auth runs beside body reading; then model, plan, rate and quota decide, in this order, beside which the provider's
//! request is prepared; then the stream is opened, and its relay is the response's body.

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse, HttpResponseBuilder,
    body::{BodySize, MessageBody},
    http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue},
    web,
};
use actors::{
    domain::{Caller, Catalog, ErrorCode, Model, Plan, PlanLimit, Timings},
    metrics::QuotaRefusal,
    outcome::RequestOutcome,
    quota::{Ask, Dimension, Figure, Permit, QuotaError, Reservation, Wish},
    stream::{Head, Job, Relay, RequestBody, Ticket, UpstreamStream, completion_ceiling, usage::estimate_prompt},
};
use bytes::Bytes;
use futures_util::{Stream, future::Either};

use super::{
    body::ChatBody,
    desk::{Desk, Slot},
    error::ApiError,
    extract::{self, AtDesk},
};
use crate::telemetry::OwnLine;

const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const NO: HeaderValue = HeaderValue::from_static("no");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// How a family of paths behaves.
#[derive(Debug, Clone, Copy)]
struct Manner {
    /// Whether it streams where the body doesn't say.
    stream: bool,
    /// When the 200 is sent at the latest.
    commit_after: Duration,
    /// Whether OpenAI's SDKs call here.
    sdk: bool,
}

/// `POST /api/hasNotEngine-optimized` and its older name.
pub(super) async fn optimized(desk: AtDesk, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let manner = Manner { stream: true, commit_after: desk.0.settings.commit_after, sdk: false };
    chat(desk.0, request, payload, manner).await
}

/// `POST /v1/chat/completions`. SDKs retry by status, so the status waits as long as it can.
pub(super) async fn completions(desk: AtDesk, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let manner = Manner { stream: false, commit_after: desk.0.settings.keepalive, sdk: true };
    chat(desk.0, request, payload, manner).await
}

async fn chat(desk: Rc<Desk>, request: HttpRequest, mut payload: web::Payload, manner: Manner) -> HttpResponse {
    request.extensions_mut().insert(OwnLine);
    let mut outcome = desk.outcome(extract::request_id(&request));
    match admit(&desk, &request, &mut payload, manner, &mut outcome).await {
        Ok(admitted) => answer(&desk, &request, admitted, outcome, manner).await,
        Err(error) => {
            // A body that came with its head is taken in meanwhile; unread, actix would close the connection for it.
            tokio::task::yield_now().await;
            let timing = server_timing(&outcome.timings);
            outcome.refuse(error.code());
            let mut response = error.response();
            response.headers_mut().insert(SERVER_TIMING, timing);
            response
        }
    }
}

/// A request that may go on.
struct Admitted {
    slot: Slot,
    caller: Arc<Caller>,
    plan: Arc<Plan>,
    catalog: Arc<Catalog>,
    model: Arc<Model>,
    body: Rc<ChatBody>,
    /// The body as the model's provider gets it.
    prepared: Bytes,
    promise: (Permit, Reservation),
}

/// Decides. The order of refusals is API.md's: authentication, body, model, plan, rate, quota.
async fn admit(
    desk: &Rc<Desk>,
    request: &HttpRequest,
    payload: &mut web::Payload,
    manner: Manner,
    outcome: &mut RequestOutcome,
) -> Result<Admitted, ApiError> {
    let slot = desk.slots.take().ok_or_else(|| ApiError::new(ErrorCode::Overloaded))?;
    let (caller, body) = caller_and_body(desk, request, payload, outcome).await?;
    outcome.user = Some(caller.id.clone());
    let body = ChatBody::parse(body?, manner.stream)?;
    outcome.model = Some(body.model().clone());
    let routed = route(desk, &caller, &body).await;
    let (catalog, model, plan, line) = routed.inspect_err(|refused| {
        if refused.code() == ErrorCode::ModelNotAllowed {
            desk.metrics.quota_refused(QuotaRefusal::NotAllowed);
        }
    })?;
    let ask = Ask {
        prompt_tokens: estimate_prompt(body.message_bytes(), model.context).into(),
        completion_tokens: completion_ceiling(&body, &model),
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
    Ok(Admitted { slot, caller, plan, catalog, model, body: Rc::new(body), prepared, promise })
}

fn refusal(error: &QuotaError) -> QuotaRefusal {
    match error {
        QuotaError::RateLimited { .. } => QuotaRefusal::Rate,
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

async fn answer(
    desk: &Rc<Desk>,
    request: &HttpRequest,
    admitted: Admitted,
    outcome: RequestOutcome,
    manner: Manner,
) -> HttpResponse {
    let Admitted { slot, caller, plan, catalog, model, body, prepared, promise } = admitted;
    let limits = limit_headers(&promise.1);
    let mut timings = outcome.timings;
    let job = Job {
        request_id: outcome.id.clone(),
        caller,
        plan,
        fallbacks: model.fallbacks.iter().filter_map(|id| catalog.model(id)).collect(),
        model: Arc::clone(&model),
        message_bytes: body.message_bytes(),
        stream: body.stream(),
        wants_usage: body.wants_usage(),
        sdk_safe: manner.sdk,
        traceparent: traceparent(request),
        prepared,
        body: Rc::clone(&body) as Rc<dyn RequestBody>,
    };
    let ticket = Ticket::new(outcome, promise, model, body.message_bytes());
    let mut relay = UpstreamStream::open(&desk.kit, ticket, job);
    let head = relay.head(body.stream().then_some(manner.commit_after), &mut timings).await;
    let mut response = match &head {
        Head::Failed(failure) => return failed(&ApiError::of_failure(failure, &catalog), &limits, &timings),
        Head::Stream | Head::Answer(_) => HttpResponse::Ok(),
    };
    limits.add_to(&mut response);
    response.insert_header((CACHE_CONTROL, NO_STORE)).insert_header((SERVER_TIMING, server_timing(&timings)));
    match head {
        Head::Answer(answer) => response.insert_header((CONTENT_TYPE, JSON)).body(answer),
        _ => response.insert_header((CONTENT_TYPE, EVENTS)).insert_header((X_ACCEL_BUFFERING, NO)).body(StreamBody {
            relay,
            catalog,
            _slot: slot,
        }),
    }
}

fn failed(error: &ApiError, limits: &LimitHeaders, timings: &Timings) -> HttpResponse {
    let mut response = error.response();
    for (name, value) in limits.pairs() {
        response.headers_mut().insert(name, value);
    }
    response.headers_mut().insert(SERVER_TIMING, server_timing(timings));
    response
}

fn traceparent(request: &HttpRequest) -> Option<Arc<str>> {
    let value = request.headers().get("traceparent")?.to_str().ok()?;
    let hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let parts: Vec<&str> = value.split('-').collect();
    let [version, trace, parent, flags] = parts.as_slice() else { return None };
    // Ids of zeros and the version ff are invalid (W3C Trace Context, 2.2.2).
    let sane = [version.len(), trace.len(), parent.len(), flags.len()] == [2, 32, 16, 2]
        && parts.iter().all(|part| hex(part))
        && *version != "ff"
        && [trace, parent].iter().all(|id| id.bytes().any(|byte| byte != b'0'));
    sane.then(|| Arc::from(value))
}

/// A stream's body: the relay's frames, and an error as the last of them.
struct StreamBody {
    relay: Relay,
    catalog: Arc<Catalog>,
    _slot: Slot,
}

impl MessageBody for StreamBody {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let item = std::task::ready!(Pin::new(&mut self.relay).poll_next(cx));
        let error = |failure| ApiError::of_failure(&failure, &self.catalog).frame();
        Poll::Ready(item.map(|frames| Ok(frames.unwrap_or_else(error))))
    }
}

/// `x-ratelimit-…`: how far the window with the least left is used.
struct LimitHeaders([Option<(Figure, Duration)>; 2]);

const LIMIT_NAMES: [[HeaderName; 3]; 2] = [
    [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ],
    [
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ],
];

fn limit_headers(reservation: &Reservation) -> LimitHeaders {
    let Some(standing) = reservation.standing() else { return LimitHeaders([None, None]) };
    let left = standing.resets_at.since(reservation.opened_at());
    let limited = |figure: Figure| figure.limit.map(|_| (figure, left));
    LimitHeaders([limited(standing.requests), limited(standing.tokens)])
}

impl LimitHeaders {
    fn pairs(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        self.0.iter().zip(LIMIT_NAMES).filter_map(|(limited, names)| Some((limited.as_ref()?, names))).flat_map(
            |((figure, left), [limit, remaining, reset])| {
                let number = |value: Option<i64>| HeaderValue::from(value.unwrap_or_default());
                let time = HeaderValue::try_from(duration(*left)).unwrap_or(NO_STORE);
                [(limit, number(figure.limit)), (remaining, number(figure.remaining())), (reset, time)]
            },
        )
    }

    fn add_to(&self, response: &mut HttpResponseBuilder) {
        for pair in self.pairs() {
            response.insert_header(pair);
        }
    }
}

/// Writes a duration as OpenAI's headers do: `1s`, `6m0s`, `23h59m1s`.
fn duration(left: Duration) -> String {
    let (hours, minutes, seconds) = (left.as_secs() / 3_600, left.as_secs() / 60 % 60, left.as_secs() % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

fn server_timing(timings: &Timings) -> HeaderValue {
    let stages =
        [("auth", timings.auth), ("quota", timings.quota), ("connect", timings.connect), ("ttfb", timings.ttft)];
    let text = stages.into_iter().filter_map(|(name, took)| Some((name, took?))).fold(
        String::new(),
        |mut text, (name, took)| {
            let comma = if text.is_empty() { "" } else { ", " };
            text.push_str(&format!("{comma}{name};dur={:.3}", took.as_secs_f64() * 1_000.0));
            text
        },
    );
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_openai_does() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (360, "6m0s"), (86_399, "23h59m59s"), (2_592_000, "720h0m0s")] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn server_timing_lists_what_happened() {
        let timings = Timings {
            auth: Some(Duration::from_micros(1_234)),
            ttft: Some(Duration::from_millis(5)),
            ..Timings::default()
        };
        assert_eq!(server_timing(&timings), "auth;dur=1.234, ttfb;dur=5.000");
    }
}
