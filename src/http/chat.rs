//! The chat endpoint: from a request to its answer.
//!
//! Auth runs beside body reading; then model, plan, rate and quota decide, in this order, beside which the provider's
//! request is prepared; then the stream is opened, and its relay is the response's body. A repeat of a request that runs
//! under the same `Idempotency-Key` reads that one's answer instead.

mod admission;
mod headers;

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    body::{BodySize, MessageBody},
    http::header::{CONTENT_TYPE, HeaderName, HeaderValue},
    web,
};
use actors::{
    domain::{Catalog, ErrorCode},
    outcome::RequestOutcome,
    repeats::{Beginning, Entered, Fingerprint, IdempotencyKey, Place},
    stream::{Failure, Head, Job, Relay, RequestBody, Ticket, UpstreamStream},
};
use bytes::Bytes;
use futures_util::Stream;

use self::{
    admission::{Admitted, Arrived, admit, arrive},
    headers::{LimitHeaders, server_timing, traceparent},
};
use super::{
    desk::{Desk, Slot},
    error::ApiError,
    extract::{self, AtDesk},
};
use crate::telemetry::OwnRecord;

const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
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
    Call { desk: desk.0, request, manner }.answer(payload).await
}

/// `POST /v1/chat/completions`. SDKs retry by status, so the status waits as long as it can.
pub(super) async fn completions(desk: AtDesk, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    let manner = Manner { stream: false, commit_after: desk.0.settings.keepalive, sdk: true };
    Call { desk: desk.0, request, manner }.answer(payload).await
}

/// One request for an answer.
struct Call {
    desk: Rc<Desk>,
    request: HttpRequest,
    manner: Manner,
}

impl Call {
    async fn answer(&self, mut payload: web::Payload) -> HttpResponse {
        self.request.extensions_mut().insert(OwnRecord);
        let mut outcome = self.desk.outcome(extract::request_id(&self.request));
        let arrived = match arrive(&self.desk, &self.request, &mut payload, self.manner, &mut outcome).await {
            Ok(arrived) => arrived,
            Err(error) => return self.refused(&error, outcome).await,
        };
        match &arrived.repeatable {
            None => self.alone(arrived, outcome).await,
            Some((key, request)) => {
                let (key, request) = (key.clone(), *request);
                // Rare and large: not in the future of every request.
                Box::pin(self.under_a_key(key, request, arrived, outcome)).await
            }
        }
    }

    /// Answers a request that can't be repeated.
    async fn alone(&self, arrived: Arrived, mut outcome: RequestOutcome) -> HttpResponse {
        let admitted = match admit(&self.desk, &arrived, &mut outcome).await {
            Ok(admitted) => admitted,
            Err(error) => return self.refused(&error, outcome).await,
        };
        let (catalog, account) = (Arc::clone(&admitted.catalog), admitted.promise.1.view());
        let mut timings = outcome.timings;
        let mut relay = self.open(admitted, outcome);
        let head = relay.head(self.commit_after(&arrived), &mut timings).await;
        let beginning = Beginning { head, timings, standing: account.standing() };
        begin(&beginning, StreamBody { frames: relay, catalog, joined: None, _slot: arrived.slot })
    }

    /// Answers a request that is the first under its key, or joins it to the one that is.
    async fn under_a_key(
        &self,
        key: IdempotencyKey,
        request: Fingerprint,
        arrived: Arrived,
        mut outcome: RequestOutcome,
    ) -> HttpResponse {
        loop {
            match self.desk.repeats.enter(arrived.caller.key, key.clone(), request) {
                Entered::First(place) => return self.first(place, arrived, outcome).await,
                Entered::Repeat(mut reader) => {
                    if let Some(beginning) = reader.beginning().await {
                        outcome.joined = true;
                        outcome.timings.ttft = Some(outcome.age());
                        let catalog = self.desk.catalog.current();
                        let joined = Some(outcome);
                        return begin(&beginning, StreamBody { frames: reader, catalog, joined, _slot: arrived.slot });
                    }
                }
                Entered::Mismatch => {
                    return self.refused(&ApiError::new(ErrorCode::IdempotencyMismatch), outcome).await;
                }
                Entered::TooLate => return self.refused(&ApiError::new(ErrorCode::Overloaded), outcome).await,
                Entered::TooMany => return self.refused(&ApiError::of_rate(1), outcome).await,
            }
        }
    }

    async fn first(&self, place: Place, arrived: Arrived, mut outcome: RequestOutcome) -> HttpResponse {
        let admitted = match admit(&self.desk, &arrived, &mut outcome).await {
            Ok(admitted) => admitted,
            Err(error) => {
                drop(place);
                return self.refused(&error, outcome).await;
            }
        };
        let (catalog, account) = (Arc::clone(&admitted.catalog), admitted.promise.1.view());
        let timings = outcome.timings;
        let relay = self.open(admitted, outcome);
        let mut reader = place.serve(relay, self.commit_after(&arrived), timings, account);
        match reader.beginning().await {
            Some(beginning) => {
                begin(&beginning, StreamBody { frames: reader, catalog, joined: None, _slot: arrived.slot })
            }
            None => ApiError::new(ErrorCode::InternalError).response(),
        }
    }

    /// Answers a request that isn't admitted.
    async fn refused(&self, error: &ApiError, outcome: RequestOutcome) -> HttpResponse {
        // A body that came with its head is taken in meanwhile; unread, actix would close the connection for it.
        tokio::task::yield_now().await;
        let timing = server_timing(&outcome.timings);
        outcome.refuse(error.code());
        let mut response = error.response();
        let headers = response.headers_mut();
        if let Some(shortage) = error.shortage() {
            for (name, value) in LimitHeaders::of_shortage(shortage, self.desk.clock.wall()).pairs() {
                headers.insert(name, value);
            }
        }
        headers.insert(SERVER_TIMING, timing);
        response
    }

    fn commit_after(&self, arrived: &Arrived) -> Option<Duration> {
        arrived.body.stream().then_some(self.manner.commit_after)
    }

    fn open(&self, admitted: Admitted, outcome: RequestOutcome) -> Relay {
        let Admitted { caller, plan, catalog, model, body, prepared, promise } = admitted;
        let job = Job {
            request_id: outcome.id.clone(),
            caller,
            plan,
            fallbacks: model.fallbacks.iter().filter_map(|id| catalog.model(id)).collect(),
            model: Arc::clone(&model),
            message_bytes: body.message_bytes(),
            stream: body.stream(),
            wants_usage: body.wants_usage(),
            sdk_safe: self.manner.sdk,
            traceparent: traceparent(&self.request),
            prepared,
            body: Rc::clone(&body) as Rc<dyn RequestBody>,
        };
        let ticket = Ticket::new(outcome, promise, model, body.message_bytes());
        UpstreamStream::open(&self.desk.kit, ticket, job)
    }
}

/// Begins an answer.
fn begin<S>(beginning: &Beginning, mut body: StreamBody<S>) -> HttpResponse
where
    S: Stream<Item = Result<Bytes, Failure>> + Unpin + 'static,
{
    let mut response = match &beginning.head {
        Head::Failed(failure) => {
            let error = ApiError::of_failure(failure, &body.catalog);
            body.finish(Some(error.code()));
            error.response()
        }
        Head::Answer(answer) => {
            body.finish(None);
            HttpResponse::Ok().insert_header((CONTENT_TYPE, JSON)).body(answer.clone())
        }
        Head::Stream => {
            let mut response = HttpResponse::Ok();
            response.insert_header((CONTENT_TYPE, EVENTS)).insert_header((X_ACCEL_BUFFERING, NO)).body(body)
        }
    };
    let headers = response.headers_mut();
    for (name, value) in LimitHeaders::of(beginning.standing).pairs() {
        headers.insert(name, value);
    }
    headers.insert(SERVER_TIMING, server_timing(&beginning.timings));
    response
}

/// A stream's body: whole frames, and an error as the last of them.
struct StreamBody<S> {
    frames: S,
    catalog: Arc<Catalog>,
    /// The record of a request that has joined another's answer; the first one's is its ticket's.
    joined: Option<RequestOutcome>,
    _slot: Slot,
}

impl<S> StreamBody<S> {
    fn finish(&mut self, code: Option<ErrorCode>) {
        if let Some(joined) = self.joined.take() {
            joined.finish(None, code, false);
        }
    }
}

impl<S: Stream<Item = Result<Bytes, Failure>> + Unpin> MessageBody for StreamBody<S> {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let item = std::task::ready!(Pin::new(&mut self.frames).poll_next(cx));
        Poll::Ready(item.map(|frames| {
            Ok(frames.unwrap_or_else(|failure| {
                let error = ApiError::of_failure(&failure, &self.catalog);
                self.finish(Some(error.code()));
                error.frame()
            }))
        }))
    }
}
