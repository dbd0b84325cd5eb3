//! QuotaGate: whether a caller may go on.
//!
//! One on each worker thread, asked by that thread's handlers. The gates share the [`Accounts`] themselves, a few
//! integers behind a lock for each user, so that limits are exact over all workers; deciding about a warm account costs
//! no I/O. An admitted request gets a [`Permit`] (its place among the user's running streams) and a [`Reservation`]
//! (its share of the limits and of the books).
//!
//! Limits: mailbox 1,024 for each gate; `max_accounts` users in memory; one read of cold accounts in flight, of at
//! most 1,000 accounts at a time.

mod account;
mod accounts;
mod reservation;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use actix::{Actor, Addr, AsyncContext, Context, Handler, MailboxError, Message, Response, WrapFuture};
use serde::Deserialize;

pub use account::{Account, Ask, Dimension, Figure, Meter};
pub use accounts::Accounts;
pub(crate) use accounts::lock;
pub use reservation::{ClassUsage, Permit, Reservation, Settlement, Standing};

use crate::{
    domain::{Amounts, Caller, ClassId, ModelKey, Plan, PlanLimit, Timestamp, Window},
    ledger::Books,
    ports::Clock,
};
use accounts::UserState;

/// How limits are held: `[quota]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The most accounts kept in memory; the idle ones go first.
    pub max_accounts: usize,
    /// How long an account without requests is kept.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long a cold account's first request waits for the store.
    #[serde(with = "humantime_serde")]
    pub load_timeout: Duration,
}

/// Which ceiling leaves no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// In which class.
    pub class: ClassId,
    /// Which figure.
    pub dimension: Dimension,
    /// Where it stands.
    pub figure: Figure,
    /// In which window.
    pub window: Window,
}

/// Why a request may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// Too many requests in a minute, or streams at once.
    #[error("too many requests; try again in {retry_after} s")]
    RateLimited {
        /// Seconds after which one more is admitted, if nothing else comes.
        retry_after: u64,
    },
    /// What the plan allows is used or promised.
    #[error("the quota is used up")]
    Exhausted(Shortage),
    /// The counts can't be read now.
    #[error("the quota can't be verified now")]
    Unavailable,
    /// There is no space in the books for another posting.
    #[error("usage can't be recorded now")]
    BooksFull,
}

/// A request's wish to be admitted.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Who asks.
    pub caller: Arc<Caller>,
    /// The model that will answer.
    pub model: ModelKey,
    /// The plan's line for the model's class.
    pub line: PlanLimit,
    /// What it may need.
    pub ask: Ask,
}

/// Asks for a place and a reservation.
struct Reserve {
    wish: Wish,
    /// `None` for a fallback, whose request has its place already.
    rate: Option<Rate>,
}

struct Rate {
    per_minute: Option<u32>,
    concurrent: Option<u32>,
}

impl Message for Reserve {
    type Result = Result<(Option<Permit>, Reservation), QuotaError>;
}

/// Asks for the counts of a caller.
struct ReadUsage {
    caller: Arc<Caller>,
    lines: Vec<PlanLimit>,
}

impl Message for ReadUsage {
    type Result = Result<Vec<ClassUsage>, QuotaError>;
}

/// How handlers of this worker speak to its gate.
#[derive(Debug, Clone)]
pub struct QuotaHandle(Addr<QuotaGate>);

impl QuotaHandle {
    /// Asks for a place among the user's streams and a reservation.
    ///
    /// # Errors
    /// [`QuotaError`]; nothing is counted or promised then.
    ///
    /// # Cancel safety
    /// Dropping the future gives back what was promised.
    pub async fn ask_admit(&self, plan: &Plan, wish: Wish) -> Result<(Permit, Reservation), QuotaError> {
        let rate = Rate { per_minute: plan.requests_per_minute, concurrent: plan.concurrent_streams };
        let (permit, reservation) = flatten(self.0.send(Reserve { wish, rate: Some(rate) }).await)?;
        Ok((permit.ok_or(QuotaError::Unavailable)?, reservation))
    }

    /// Asks for a reservation for a fallback of a request that was admitted.
    ///
    /// # Errors
    /// [`QuotaError`]; nothing is promised then.
    ///
    /// # Cancel safety
    /// Dropping the future gives back what was promised.
    pub async fn ask_reserve(&self, wish: Wish) -> Result<Reservation, QuotaError> {
        flatten(self.0.send(Reserve { wish, rate: None }).await).map(|(_, reservation)| reservation)
    }

    /// Asks for a caller's counts, a line for each class that the plan limits or allows.
    ///
    /// # Errors
    /// [`QuotaError::Unavailable`] where they are cold and the store can't be read.
    pub async fn ask_usage(&self, caller: Arc<Caller>, lines: Vec<PlanLimit>) -> Result<Vec<ClassUsage>, QuotaError> {
        flatten(self.0.send(ReadUsage { caller, lines }).await)
    }
}

fn flatten<T>(answer: Result<Result<T, QuotaError>, MailboxError>) -> Result<T, QuotaError> {
    answer.unwrap_or(Err(QuotaError::Unavailable))
}

/// The actor.
pub struct QuotaGate {
    config: Config,
    accounts: Arc<Accounts>,
    books: Books,
    clock: Arc<dyn Clock>,
    sweeps: usize,
}

/// How often each gate looks through a part of the accounts for idle ones.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

impl QuotaGate {
    /// Starts this worker's gate on the current thread.
    #[must_use]
    pub fn start(config: Config, accounts: Arc<Accounts>, books: Books, clock: Arc<dyn Clock>) -> QuotaHandle {
        QuotaHandle(Actor::start(Self { config, accounts, books, clock, sweeps: 0 }))
    }

    fn user(&self, caller: &Caller) -> Result<Arc<UserState>, QuotaError> {
        let now = self.clock.now();
        self.accounts.user(caller.key, &caller.id, now, self.config.idle_timeout).ok_or(QuotaError::Unavailable)
    }

    /// Queues a read of the account, and carries the flight if nobody does.
    fn load(&self, user: &Arc<UserState>, line: PlanLimit, window: Window, ctx: &mut Context<Self>) -> Load {
        let (waiting, fly) = self.accounts.post_load(user, line.class, window);
        if fly {
            ctx.spawn(Arc::clone(&self.accounts).fly().into_actor(self));
        }
        let deadline = self.config.load_timeout;
        Box::pin(async move {
            let answer = tokio::time::timeout(deadline, waiting.answer()).await;
            answer.map_or(Err(QuotaError::Unavailable), |answer| {
                answer.map_err(|_logged_by_the_store| QuotaError::Unavailable)
            })
        })
    }
}

type Load = std::pin::Pin<Box<dyn Future<Output = Result<(), QuotaError>>>>;

impl Actor for QuotaGate {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(1_024);
        ctx.run_interval(SWEEP_INTERVAL, |gate, _| {
            gate.sweeps = gate.sweeps.wrapping_add(1);
            gate.accounts.sweep(gate.sweeps, gate.clock.now(), gate.config.idle_timeout);
        });
    }
}

/// Takes a promise from a warm account; `None` where it is cold.
fn take(
    user: &Arc<UserState>,
    wish: &Wish,
    window: Window,
    opened_at: Timestamp,
    books: &Books,
) -> Option<Result<Reservation, QuotaError>> {
    let mut counts = lock(&user.counts);
    let account = counts.account(wish.line.class, window)?;
    let granted = match account.reserve(&wish.ask, &wish.line.limits) {
        Ok(granted) => granted,
        Err(dimension) => {
            let figure = account.figure(dimension, &wish.line.limits);
            let class = wish.line.class;
            return Some(Err(QuotaError::Exhausted(Shortage { class, dimension, figure, window })));
        }
    };
    let Some(entry) = books.open() else {
        account.settle(granted, Amounts::ZERO);
        return Some(Err(QuotaError::BooksFull));
    };
    let (price, model, line) = (wish.ask.price, wish.model, wish.line);
    Some(Ok(Reservation { user: Arc::clone(user), model, line, window, price, opened_at, granted, entry: Some(entry) }))
}

impl Handler<Reserve> for QuotaGate {
    type Result = Response<Result<(Option<Permit>, Reservation), QuotaError>>;

    fn handle(&mut self, Reserve { wish, rate }: Reserve, ctx: &mut Context<Self>) -> Self::Result {
        let user = match self.user(&wish.caller) {
            Ok(user) => user,
            Err(error) => return Response::reply(Err(error)),
        };
        let permit = match rate.map(|rate| self.admit(&user, &rate)).transpose() {
            Ok(permit) => permit,
            Err(error) => return Response::reply(Err(error)),
        };
        let now = self.clock.wall();
        let window = wish.line.window.at(now);
        if let Some(taken) = take(&user, &wish, window, now, &self.books) {
            return Response::reply(taken.map(|reservation| (permit, reservation)));
        }
        let (load, books) = (self.load(&user, wish.line, window, ctx), self.books.clone());
        Response::fut(async move {
            load.await?;
            let taken = take(&user, &wish, window, now, &books);
            taken.unwrap_or(Err(QuotaError::Unavailable)).map(|reservation| (permit, reservation))
        })
    }
}

impl QuotaGate {
    fn admit(&self, user: &Arc<UserState>, rate: &Rate) -> Result<Permit, QuotaError> {
        let second = self.accounts.second(self.clock.now());
        lock(&user.counts)
            .meter
            .admit(second, rate.per_minute, rate.concurrent)
            .map_err(|retry_after| QuotaError::RateLimited { retry_after })?;
        Ok(Permit(Arc::clone(user)))
    }
}

impl Handler<ReadUsage> for QuotaGate {
    type Result = Response<Result<Vec<ClassUsage>, QuotaError>>;

    fn handle(&mut self, ReadUsage { caller, lines }: ReadUsage, ctx: &mut Context<Self>) -> Self::Result {
        let user = match self.user(&caller) {
            Ok(user) => user,
            Err(error) => return Response::reply(Err(error)),
        };
        let now = self.clock.wall();
        let reads: Vec<_> = lines
            .into_iter()
            .map(|line| {
                let window = line.window.at(now);
                let warm = Accounts::class_usage(&user, line, window);
                let load = warm.is_none().then(|| self.load(&user, line, window, ctx));
                (line, window, load)
            })
            .collect();
        Response::fut(async move {
            let mut usage = Vec::with_capacity(reads.len());
            for (line, window, load) in reads {
                if let Some(load) = load {
                    load.await?;
                }
                usage.push(Accounts::class_usage(&user, line, window).ok_or(QuotaError::Unavailable)?);
            }
            Ok(usage)
        })
    }
}
