//! Opening: from the request to its first frame, over retries and fallbacks.
//!
//! A provider may be asked again only while nothing of its answer was handed over: the same one first (after a jittered
//! pause, or when it says so), then the model's fallbacks in order, each reserved, priced and classed as itself.
//!
//! The same one is asked again only within its retry budget (`budget`); a model whose breaker is open isn't asked at all
//! (`breaker`): what its last attempt ended in stands for an answer, so that its fallbacks, and the client, see the same
//! failure as from the provider itself. A request for which nobody was asked is charged nothing and has no row.

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};

use super::{
    Failure, Job, Kit, completion_ceiling,
    refusal::{Again, Refusal},
    relay::{Phase, Shared},
    sse::{Options, Scanner, Watched},
    usage::{believable_tokens, estimate_prompt, read_answer},
};
use crate::{
    domain::{ErrorCode, Model, Outcome},
    metrics::Failure as Reason,
    ports::{Patience, UpstreamBody, UpstreamRequest},
    quota::{Ask, Wish},
};

/// The pause before the first retry; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest that a provider's `retry-after` is waited for; where it says more, the fallback is asked instead.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Job {
    /// Returns how this model's answer is read.
    pub(super) fn options(&self, kit: &Kit, model: &Model) -> Options {
        let choices = u32::try_from(self.body.choices()).unwrap_or(1);
        Options {
            max_frame_bytes: kit.config.max_frame_bytes,
            max_tokens: believable_tokens(model.context, choices),
            choices,
            sdk_safe: self.sdk_safe,
        }
    }
}

/// Opens the job's model, or one of its fallbacks, and leaves the answer in the shared state.
pub(super) async fn open(kit: Rc<Kit>, job: Job, shared: Shared) {
    let mut last = Failure::new(ErrorCode::ProviderError);
    let mut left = &job.model;
    let models = std::iter::once(&job.model).chain(&job.fallbacks);
    for (index, model) in models.enumerate() {
        if index > 0
            && let Err(spared) = fall_back(&kit, &job, model, &shared).await
        {
            last = spared.unwrap_or(last);
            continue;
        }
        if index > 0 {
            kit.provider(&left.provider).metrics.fell_back();
            left = model;
        }
        match ask(&kit, &job, model, &shared).await {
            Ok(()) => return,
            Err(refusal) => {
                last = refusal.failure;
                if refusal.again == Again::No {
                    break;
                }
            }
        }
    }
    shared.borrow_mut().fail(Outcome::ProviderError, last);
}

/// Reserves for a fallback. An error where it is not to be asked: its breaker is open and stands for this failure, or the
/// caller may not use it. Nothing is reserved for it then, and it has no row.
async fn fall_back(kit: &Kit, job: &Job, model: &Arc<Model>, shared: &Shared) -> Result<(), Option<Failure>> {
    let line = job.plan.line(model.class.id).ok_or(None)?;
    let (provider, now) = (kit.provider(&model.provider), kit.clock.now());
    let health = provider.health(&model.upstream_model, now);
    if !health.permits(now) {
        provider.metrics.failed(Reason::BreakerOpen);
        return Err(Some(health.last_failure(now)));
    }
    let ask = Ask {
        prompt_tokens: estimate_prompt(job.message_bytes, model.context).into(),
        completion_tokens: completion_ceiling(&*job.body, model),
        price: model.price,
    };
    let wish = Wish { caller: Arc::clone(&job.caller), model: model.key, line, ask };
    let exchange = || shared.borrow_mut().ticket().and_then(|ticket| ticket.exchange(model, &wish));
    let mut exchanged = exchange();
    if exchanged == Some(false) {
        // What is lent here is as much as the model before needed.
        let lack = shared.borrow_mut().ticket().map(|ticket| ticket.reservation().lack_of(&wish.ask));
        if let Some(lack) = lack {
            kit.quota.ask_more(lack).await;
        }
        exchanged = exchange();
    }
    if let Some(fits) = exchanged {
        return if fits { Ok(()) } else { Err(None) };
    }
    let reservation = kit.quota.ask_reserve(wish).await.map_err(|_refused| None)?;
    if let Some(ticket) = shared.borrow_mut().ticket() {
        ticket.fall_back(Arc::clone(model), reservation);
    }
    Ok(())
}

/// Asks one provider, and again if that may help.
async fn ask(kit: &Kit, job: &Job, model: &Model, shared: &Shared) -> Result<(), Refusal> {
    let provider = kit.provider(&model.provider);
    let mut now = kit.clock.now();
    let health = provider.health(&model.upstream_model, now);
    let (patience, metrics) = (provider.patience, &provider.metrics);
    let mut pause = FIRST_PAUSE;
    let mut tries = 0;
    let mut last = None;
    loop {
        let Some(asking) = health.admit(now) else {
            return Err(last.unwrap_or_else(|| {
                metrics.failed(Reason::BreakerOpen);
                Refusal::spared(health.last_failure(now))
            }));
        };
        match tries {
            0 => provider.requested(now),
            _ => metrics.retried(),
        }
        metrics.attempted();
        let refusal = match attempt((kit, job, model), patience, now, shared).await {
            Ok(answered) => {
                shared.borrow_mut().answering = Some(asking.answered(answered));
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        now = kit.clock.now();
        provider.failed(&model.upstream_model, &refusal, now);
        if let Some(ticket) = shared.borrow_mut().ticket() {
            ticket.contacted_in_vain(now);
        }
        if refusal.is_failure() {
            asking.failed(refusal.failure, now);
        } else {
            drop(asking);
        }
        let wait = refusal.failure.retry_after.unwrap_or_else(|| jittered(pause));
        let may_help = refusal.again == Again::Here && tries < patience.retries && wait <= LONGEST_PAUSE;
        if !may_help || !health.permits(now) || !provider.take_retry(now) {
            return Err(refusal);
        }
        tokio::time::sleep(wait).await;
        now = kit.clock.now();
        last = Some(refusal);
        tries += 1;
        pause *= 2;
    }
}

/// Between half and one and a half times as long, so that requests that failed together don't come back together.
fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let random = RandomState::new().build_hasher().finish() % 1_000;
    pause / 2 + pause.mul_f64(f64::from(u32::try_from(random).unwrap_or(0)) / 1_000.0)
}

/// Asks once. Returns when the first frame, or the whole answer, was here.
async fn attempt(
    (kit, job, model): (&Kit, &Job, &Model),
    patience: Patience,
    now: Instant,
    shared: &Shared,
) -> Result<Instant, Refusal> {
    let request = UpstreamRequest {
        provider: Arc::clone(&model.provider),
        body: if model.id == job.model.id { job.prepared.clone() } else { job.body.for_model(model) },
        stream: job.stream,
        request_id: job.request_id.clone(),
        traceparent: job.traceparent.clone(),
    };
    let deadline = now + patience.first_byte;
    {
        let mut state = shared.borrow_mut();
        // Where its time is over meanwhile, no provider is asked any more.
        let ticket = state.ticket().ok_or_else(|| Refusal::new(Reason::Timeout, Again::No))?;
        ticket.contact(now);
        state.restart(Scanner::new(job.options(kit, model)), patience);
    }
    let opened = tokio::time::timeout_at(deadline.into(), kit.upstream.open(request)).await;
    let response = opened.map_err(|_elapsed| Refusal::new(Reason::Timeout, Again::Elsewhere))??;
    if let Some(ticket) = shared.borrow_mut().ticket() {
        ticket.connected(response.connect);
    }
    if response.status != 200 {
        return Err(Refusal::of_status(&response));
    }
    let expected = if job.stream { "text/event-stream" } else { "application/json" };
    if &*response.content_type != expected {
        let told = match &*response.content_type {
            "application/json" => told(kit, response.body, patience).await,
            _ => None,
        };
        let mut refusal = told.unwrap_or_else(|| Refusal::new(Reason::Nonsense, Again::Elsewhere));
        refusal.failure.provider_status.get_or_insert(response.status);
        return Err(refusal);
    }
    if job.stream {
        first_frame(kit, response.body, (deadline, patience), shared).await
    } else {
        whole_answer((kit, job, model), response.body, patience, shared).await
    }
}

/// Reads the next piece of a body; silence until then and a break are failures.
async fn next(body: &mut UpstreamBody, deadline: Instant) -> Result<Option<Bytes>, Refusal> {
    match tokio::time::timeout_at(deadline.into(), body.next()).await {
        Err(_elapsed) => Err(Refusal::new(Reason::Timeout, Again::Elsewhere)),
        Ok(Some(Err(error))) => Err(error.into()),
        Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
        Ok(None) => Ok(None),
    }
}

/// Reads up to the first data frame and hands the stream over to the reader. Comments that come before it are handed
/// over at once where the answer has begun already, else with that frame; each is a sign of life, which bytes that never
/// become a line are not.
async fn first_frame(
    kit: &Kit,
    mut body: UpstreamBody,
    (mut deadline, patience): (Instant, Patience),
    shared: &Shared,
) -> Result<Instant, Refusal> {
    let mut frames = 0;
    loop {
        let chunk = next(&mut body, deadline).await?;
        let ended = chunk.is_none();
        let mut state = shared.borrow_mut();
        let seen = state.read(chunk);
        if seen.frames > frames {
            (deadline, frames) = (kit.clock.now() + patience.first_byte, seen.frames);
        }
        if seen.data_frames > 0 {
            state.hand_over_to_reader(Phase::Relaying(body));
            let now = kit.clock.now();
            if let Some(ticket) = state.ticket() {
                ticket.first_frame(now);
            }
            return Ok(now);
        }
        if state.is_too_long() {
            return Err(Refusal::new(Reason::Nonsense, Again::Elsewhere));
        }
        // An error in the place of the first frame, or a stream that is over before it began: nothing was answered.
        if seen.failed {
            return Err(Refusal::of_error(&state.take_pieces()));
        }
        if ended || seen.done {
            return Err(Refusal::new(Reason::Broken, Again::Here));
        }
        state.pass_comments(kit.config.buffer_bytes);
    }
}

/// Reads a body that comes in place of a stream; `None` if it is no error object.
async fn told(kit: &Kit, body: UpstreamBody, patience: Patience) -> Option<Refusal> {
    let whole = tokio::time::timeout(patience.first_byte, read_whole(kit, body, patience)).await.ok()?.ok()?;
    read_answer(&whole, 0).filter(|answer| answer.error).map(|_| Refusal::of_error(&whole))
}

/// Reads a body to its end.
async fn read_whole(kit: &Kit, mut body: UpstreamBody, patience: Patience) -> Result<Bytes, Refusal> {
    let mut whole = Bytes::new();
    while let Some(chunk) = next(&mut body, kit.clock.now() + patience.gap).await? {
        if whole.len() + chunk.len() > kit.config.max_answer_bytes {
            return Err(Refusal::new(Reason::Nonsense, Again::Elsewhere));
        }
        whole = if whole.is_empty() { chunk } else { join(whole, &chunk) };
    }
    Ok(whole)
}

async fn whole_answer(
    (kit, job, model): (&Kit, &Job, &Model),
    body: UpstreamBody,
    patience: Patience,
    shared: &Shared,
) -> Result<Instant, Refusal> {
    let whole = read_whole(kit, body, patience).await?;
    let answer = read_answer(&whole, job.options(kit, model).max_tokens);
    let answer = answer.ok_or_else(|| Refusal::new(Reason::Nonsense, Again::Elsewhere))?;
    // Where each choice broke off, there is no answer.
    if answer.error || answer.choices == answer.broken {
        return Err(Refusal::of_error(&whole));
    }
    let mut state = shared.borrow_mut();
    state.answer = Some(Watched {
        data_frames: 1,
        content_bytes: answer.content_bytes,
        usage: answer.usage,
        done: true,
        ..Watched::default()
    });
    let now = kit.clock.now();
    if let Some(ticket) = state.ticket() {
        ticket.first_frame(now);
    }
    state.hand_over_to_reader(Phase::Answered(whole));
    Ok(now)
}

/// Appends, reusing the buffer that the first join made.
fn join(whole: Bytes, chunk: &Bytes) -> Bytes {
    let mut joined = whole.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    joined.extend_from_slice(chunk);
    joined.freeze()
}

/// Reads a body whose stream is complete to its end, so that its connection can serve again; gives up after a second.
pub(super) async fn finish(body: UpstreamBody) {
    let mut body = body.take(64);
    let end = std::future::poll_fn(|cx| {
        loop {
            match std::task::ready!(Pin::new(&mut body).poll_next(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return std::task::Poll::Ready(()),
            }
        }
    });
    // A connection that isn't free by then is closed.
    let _in_time = tokio::time::timeout(Duration::from_secs(1), end).await.is_ok();
}
