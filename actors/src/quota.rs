//! QuotaGate: whether a caller may go on.
//!
//! One on each worker thread, asked by that thread's handlers. The gates share the [`Accounts`] themselves, a few
//! integers behind a lock for each user, so that limits are exact over all workers. An admitted request gets a
//! [`Permit`] (its place among the user's running streams) and a [`Reservation`] (its share of the limits and of the
//! journal).
//!
//! Several instances share a limit through leases: parts of it that the store lends to one of them (`lending`). A
//! warm account is decided about from its lease, which costs no I/O but the journal's write; where too little is left
//! the store is asked, and where the rest is lent elsewhere, the others are.
//!
//! Limits: mailbox 1,024 for each gate; `max_accounts` users in memory; one exchange with the store in flight, of at
//! most 1,000 accounts at a time; a request waits for a lease for `lease_wait`.

mod account;
mod accounts;
mod asking;
mod lending;
mod loan;
mod meter;
mod reservation;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use actix::{Actor, Addr, AsyncContext, Context, Handler, MailboxError, Message, Response, WrapFuture};
use serde::Deserialize;

pub use account::{Account, Ask, Dimension, Figure, Grant, Lease, Measure};
pub use accounts::Accounts;
pub use meter::Meter;
pub use reservation::{ClassUsage, Cover, Permit, Reservation, Settlement, Standing};

use crate::{
    domain::{Caller, ClassId, ModelKey, Plan, PlanLimit, Portion, Window},
    ledger::Books,
    lock::lock,
    ports::Clock,
};
use accounts::UserState;
use asking::{Asking, Attempt, recorded};

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
    /// How long a request waits for what is lent to other instances to come back.
    #[serde(with = "humantime_serde")]
    pub lease_wait: Duration,
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
}

impl Actor for QuotaGate {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(1_024);
        ctx.spawn(Arc::clone(&self.accounts).carry().into_actor(self));
        ctx.run_interval(SWEEP_INTERVAL, |gate, _| {
            gate.sweeps = gate.sweeps.wrapping_add(1);
            gate.accounts.sweep(gate.sweeps, gate.clock.now(), gate.config.idle_timeout);
        });
    }
}

impl Handler<Reserve> for QuotaGate {
    type Result = Response<Result<(Option<Permit>, Reservation), QuotaError>>;

    fn handle(&mut self, Reserve { wish, rate }: Reserve, _: &mut Context<Self>) -> Self::Result {
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
        let (accounts, books) = (Arc::clone(&self.accounts), self.books.clone());
        let asking = Asking { accounts, user, books, wish, window, now };
        match asking.attempt(Measure::Whole) {
            Attempt::Decided(decided) => match *decided {
                Ok(reservation) if reservation.receipt().is_some() => {
                    Response::fut(async move { Ok((permit, recorded(reservation).await?)) })
                }
                decided => Response::reply(decided.map(|reservation| (permit, reservation))),
            },
            Attempt::Ask(_) => {
                let config = self.config.clone();
                Response::fut(async move { Ok((permit, recorded(asking.persist(config).await?).await?)) })
            }
        }
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

    fn handle(&mut self, ReadUsage { caller, lines }: ReadUsage, _: &mut Context<Self>) -> Self::Result {
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
                let read = warm.is_none().then(|| self.accounts.ask_lease(&user, line, window, Portion::ZERO));
                (line, window, read)
            })
            .collect();
        let deadline = self.config.load_timeout;
        Response::fut(async move {
            let mut usage = Vec::with_capacity(reads.len());
            for (line, window, read) in reads {
                if let Some(read) = read {
                    let answer = tokio::time::timeout(deadline, read.answer()).await;
                    answer
                        .map_err(|_elapsed| QuotaError::Unavailable)?
                        .map_err(|_logged_by_the_store| QuotaError::Unavailable)?;
                }
                usage.push(Accounts::class_usage(&user, line, window).ok_or(QuotaError::Unavailable)?);
            }
            Ok(usage)
        })
    }
}
