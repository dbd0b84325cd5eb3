//! UpstreamStream: one request's life at a provider.
//!
//! One actor for each request, on its worker's thread: it opens the provider (retries and fallbacks before the first
//! frame only, where neither budget nor breaker forbids), watches the deadlines and sends keep-alives. The answer's bytes
//! don't pass through its mailbox: the response body pulls them through the [`Relay`], which both share.
//!
//! connecting → waiting for the first frame → relaying → ended, with one exit that settles the reservation and finishes
//! the [`RequestOutcome`](crate::outcome::RequestOutcome); see `relay`.
//!
//! Limits: one chunk of the provider's and a few comments are held for a stream; a frame has at most
//! `max_frame_bytes`, a whole answer `max_answer_bytes`.

pub mod breaker;
mod budget;
mod exit;
mod opening;
mod provider;
mod reader;
mod recent;
mod refusal;
mod relay;
pub mod sse;
mod ticket;
pub mod usage;

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::watch;

pub use provider::KnownProvider;
pub use reader::{Head, Relay};
pub use ticket::Ticket;

use crate::{
    domain::{Caller, ErrorCode, Model, Outcome, Plan, RequestId},
    metrics::Metrics,
    ports::{Clock, Upstream},
    quota::{QuotaHandle, Shortage},
};
use relay::{Shared, State};
use sse::Scanner;

/// How answers are relayed: `[stream]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How long a stream is silent before a keep-alive comment is sent, and again between them.
    #[serde(with = "humantime_serde")]
    pub keepalive: Duration,
    /// How long the `/api` paths wait for the provider before the 200 is sent.
    #[serde(with = "humantime_serde")]
    pub commit_after: Duration,
    /// The most bytes of complete frames that are held for a client that reads slowly.
    pub buffer_bytes: usize,
    /// The most bytes of one frame.
    pub max_frame_bytes: usize,
    /// The most bytes of an answer that isn't streamed.
    pub max_answer_bytes: usize,
    /// The most bytes of running answers that are kept for repeats of their requests.
    pub replay_bytes: usize,
}

/// Why a request got no answer, or not a whole one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What the client is told.
    pub code: ErrorCode,
    /// The provider's HTTP status, if it gave one.
    pub provider_status: Option<u16>,
    /// When the provider may be asked again, if it said so.
    pub retry_after: Option<Duration>,
    /// Which ceiling cut it off, if one did.
    pub shortage: Option<Shortage>,
}

impl Failure {
    /// Makes a failure of which no more is known.
    #[must_use]
    pub fn new(code: ErrorCode) -> Self {
        Self { code, provider_status: None, retry_after: None, shortage: None }
    }
}

/// The request's body, as each model's provider is to get it.
pub trait RequestBody {
    /// Returns the client's bytes with the model's name and the stream options spliced in.
    fn for_model(&self, model: &Model) -> Bytes;
    /// Returns the completion ceiling that the client gave, if it gave one.
    fn max_completion_tokens(&self) -> Option<i64>;
    /// Returns how many completions it asks for.
    fn choices(&self) -> i64;
}

/// The completion ceiling of a model that gives none itself.
const DEFAULT_COMPLETION_TOKENS: i64 = 4_096;

/// Returns the most completion tokens that a request may cost at this model, over all its choices.
#[must_use]
pub fn completion_ceiling(body: &dyn RequestBody, model: &Model) -> i64 {
    let own = body.max_completion_tokens();
    let most = own.or_else(|| model.max_output.map(i64::from)).unwrap_or(DEFAULT_COMPLETION_TOKENS);
    most.saturating_mul(body.choices())
}

/// An admitted request, but for what it owes.
pub struct Job {
    /// The label for the provider's logs.
    pub request_id: RequestId,
    /// The caller, for the reservations of fallbacks.
    pub caller: Arc<Caller>,
    /// The caller's plan.
    pub plan: Arc<Plan>,
    /// The model to ask first.
    pub model: Arc<Model>,
    /// Those to ask if it fails, in order.
    pub fallbacks: Vec<Arc<Model>>,
    /// The body for that model's provider.
    pub prepared: Bytes,
    /// What to ask the others.
    pub body: Rc<dyn RequestBody>,
    /// The size of its `messages`.
    pub message_bytes: u64,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// Whether the client asked for the usage-only chunk.
    pub wants_usage: bool,
    /// Whether what OpenAI's SDKs fail on is taken out of the stream.
    pub sdk_safe: bool,
    /// The client's `traceparent`.
    pub traceparent: Option<Arc<str>>,
}

/// What all streams of a worker share.
pub struct Kit {
    /// `[stream]`.
    pub config: Config,
    /// The providers.
    pub upstream: Rc<dyn Upstream>,
    /// This worker's gate.
    pub quota: QuotaHandle,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Becomes true when the drain's grace is over.
    pub shutdown: watch::Receiver<bool>,
    /// What is counted.
    pub metrics: Metrics,
    /// What is known of each provider, from when it is first asked. Their names are the operator's.
    pub providers: RefCell<HashMap<Arc<str>, Rc<KnownProvider>>>,
}

impl Kit {
    fn provider(&self, name: &Arc<str>) -> Rc<KnownProvider> {
        let mut providers = self.providers.borrow_mut();
        let patience = || self.upstream.patience(name);
        let known = || Rc::new(KnownProvider::new(name, patience(), &self.metrics, self.clock.now()));
        Rc::clone(providers.entry(Arc::clone(name)).or_insert_with(known))
    }
}

/// The actor.
pub struct UpstreamStream {
    kit: Rc<Kit>,
    shared: Shared,
    /// Taken when it starts.
    job: Option<Job>,
}

impl UpstreamStream {
    /// Starts the life of an admitted request; the relay is its reader's end.
    #[must_use]
    pub fn open(kit: &Rc<Kit>, ticket: Ticket, job: Job) -> Relay {
        let state = State::new(ticket, Scanner::new(job.options(kit, &job.model)), &job, kit);
        let shared = Rc::new(RefCell::new(state));
        let actor = Self { kit: Rc::clone(kit), shared: Rc::clone(&shared), job: Some(job) }.start();
        let asking = actor.clone();
        // One is sent at a time, so the mailbox has room.
        shared.borrow_mut().short = Box::new(move || drop(asking.try_send(More)));
        // The mailbox takes this one message; where it is closed, the actor is gone already.
        Relay { shared, left: Box::new(move || drop(actor.try_send(Left))) }
    }
}

impl Actor for UpstreamStream {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        if let Some(job) = self.job.take() {
            ctx.spawn(opening::open(Rc::clone(&self.kit), job, Rc::clone(&self.shared)).into_actor(self));
        }
        ctx.spawn(watch(Rc::clone(&self.kit), Rc::clone(&self.shared)).into_actor(self));
    }
}

impl Drop for UpstreamStream {
    /// Ends what is still running: without its actor nobody would look after its deadlines.
    fn drop(&mut self) {
        if let Ok(mut state) = self.shared.try_borrow_mut() {
            state.fail(Outcome::Interrupted, Failure::new(ErrorCode::InternalError));
        }
    }
}

/// Looks after deadlines and keep-alives until the stream has ended.
async fn watch(kit: Rc<Kit>, shared: Shared) {
    let mut shutdown = kit.shutdown.clone();
    loop {
        let Some(next) = shared.borrow_mut().tick(kit.clock.now(), kit.config.keepalive) else { return };
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            _ = shutdown.wait_for(|over| *over) => {
                shared.borrow_mut().expire(Outcome::Shutdown, ErrorCode::Draining);
                return;
            }
        }
    }
}

/// More quota is needed before anything more is handed over.
struct More;

impl Message for More {
    type Result = ();
}

impl Handler<More> for UpstreamStream {
    type Result = ();

    fn handle(&mut self, _: More, ctx: &mut Context<Self>) {
        let lack = self.shared.borrow().lack();
        if let Some(lack) = lack {
            let kit = Rc::clone(&self.kit);
            let asked = async move { kit.quota.ask_more(lack).await };
            ctx.spawn(asked.into_actor(self).map(|known, stream, _| stream.shared.borrow_mut().take_more(known)));
        }
    }
}

/// The reader dropped its relay.
struct Left;

impl Message for Left {
    type Result = ();
}

impl Handler<Left> for UpstreamStream {
    type Result = ();

    /// Stops, which closes the provider's connection; one that only lacks its last bytes is read to the end first.
    fn handle(&mut self, _: Left, ctx: &mut Context<Self>) {
        match self.shared.borrow_mut().take_finishing() {
            Some(body) => {
                ctx.spawn(opening::finish(body).into_actor(self).map(|(), _, ctx| ctx.stop()));
            }
            None => ctx.stop(),
        }
    }
}
