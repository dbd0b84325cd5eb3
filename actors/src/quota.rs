//! QuotaGate: whether a caller may go on.
//!
//! One on each worker thread, asked by that thread's handlers. The gates share the [`Accounts`] themselves, a few
//! integers behind a lock for each user, so that limits are exact over all workers. An admitted request gets a
//! [`Permit`] (its place among the user's running streams) and a [`Reservation`] (its share of the limits and of the
//! journal).
//!
//! Several instances share a limit through leases: parts of it that the store lends to one of them (`lending`). A
//! warm account is decided about from its lease, which costs no I/O but the journal's write: its handle does that by
//! itself, since a message would have the connection's task leave and come back for it. Where too little is left the
//! actor asks the store, and where the rest is lent elsewhere, the others. A store that was put back to an earlier state
//! lends nothing until it has again what it had (`footing`).
//!
//! Limits: mailbox 1,024 for each gate; `max_accounts` users in memory; one exchange with the store in flight, of at
//! most 1,000 accounts at a time; a request waits for a lease for `lease_wait`.

mod account;
mod accounts;
mod asking;
mod footing;
mod lending;
mod loan;
mod meter;
mod reservation;
#[cfg(test)]
mod tests;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::{Actor, Addr, AsyncContext, Context, Handler, MailboxError, Message, Response, ResponseFuture, WrapFuture};
use serde::Deserialize;

pub use account::{Account, Ask, Dimension, Figure, Grant, Lease, Measure};
pub use accounts::Accounts;
pub use asking::Lack;
pub use meter::{Meter, TooMany};
pub use reservation::{AccountView, ClassUsage, Cover, Permit, Reservation, Settlement, Standing};

use crate::{
    domain::{Caller, ClassId, ModelKey, Plan, PlanLimit, Portion, Timestamp, Window},
    ledger::Books,
    lock::lock,
    ports::Clock,
};
use accounts::UserState;
use asking::{Asking, Attempt, lend};

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
    /// Too many requests in a minute.
    #[error("too many requests; try again in {retry_after} s")]
    RateLimited {
        /// Seconds after which one more is admitted, if nothing else comes.
        retry_after: u64,
    },
    /// Too many streams at once.
    #[error("too many streams at once")]
    Crowded,
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

impl From<TooMany> for QuotaError {
    fn from(met: TooMany) -> Self {
        match met {
            TooMany::InAMinute(retry_after) => Self::RateLimited { retry_after },
            TooMany::AtOnce => Self::Crowded,
        }
    }
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

/// Asks the store for what a request needs, and reserves it.
struct Reserve(Asking);

impl Message for Reserve {
    type Result = Result<Reservation, QuotaError>;
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
#[derive(Clone)]
pub struct QuotaHandle {
    tools: Tools,
    addr: Addr<QuotaGate>,
}

/// What deciding takes. Cheap to clone.
#[derive(Clone)]
struct Tools {
    config: Config,
    accounts: Arc<Accounts>,
    books: Books,
    clock: Arc<dyn Clock>,
}

impl Tools {
    fn user(&self, caller: &Caller, now: Instant) -> Result<Arc<UserState>, QuotaError> {
        self.accounts.user(caller.key, &caller.id, now, self.config.idle_timeout).ok_or(QuotaError::Unavailable)
    }

    /// Counts a request in.
    fn permit(&self, user: &Arc<UserState>, plan: &Plan, now: Instant) -> Result<Permit, QuotaError> {
        let second = self.accounts.second(now);
        lock(&user.counts).meter.admit(second, plan.requests_per_minute, plan.concurrent_streams)?;
        Ok(Permit(Arc::clone(user)))
    }

    fn asking(&self, user: Arc<UserState>, wish: Wish, (now, opened_at): (Instant, Timestamp)) -> Asking {
        let (accounts, books) = (Arc::clone(&self.accounts), self.books.clone());
        let (second, window) = (accounts.second(now), wish.line.window.at(opened_at));
        Asking { accounts, user, books, wish, window, opened_at, second }
    }
}

impl QuotaHandle {
    /// Asks for a place among the user's streams and a reservation.
    ///
    /// # Errors
    /// [`QuotaError`]; nothing is promised then. What is refused for another reason than the rate has counted against it.
    ///
    /// # Cancel safety
    /// Dropping the future gives back what was promised.
    pub async fn ask_admit(&self, plan: &Plan, wish: Wish) -> Result<(Permit, Reservation), QuotaError> {
        let moment = self.tools.clock.both();
        let user = self.tools.user(&wish.caller, moment.0)?;
        let permit = self.tools.permit(&user, plan, moment.0)?;
        Ok((permit, self.reserve(user, wish, moment).await?))
    }

    /// Asks for a reservation for a fallback of a request that was admitted.
    ///
    /// # Errors
    /// [`QuotaError`]; nothing is promised then.
    ///
    /// # Cancel safety
    /// Dropping the future gives back what was promised.
    pub async fn ask_reserve(&self, wish: Wish) -> Result<Reservation, QuotaError> {
        let moment = self.tools.clock.both();
        self.reserve(self.tools.user(&wish.caller, moment.0)?, wish, moment).await
    }

    async fn reserve(
        &self,
        user: Arc<UserState>,
        wish: Wish,
        moment: (Instant, Timestamp),
    ) -> Result<Reservation, QuotaError> {
        let asking = self.tools.asking(user, wish, moment);
        let reservation = match asking.attempt(Measure::Whole) {
            Attempt::Decided(decided) => *decided,
            // Rare and large: not in the future of every request.
            Attempt::Ask(_) => Box::pin(async { flatten(self.addr.send(Reserve(asking)).await) }).await,
        }?;
        let recorded = match reservation.receipt() {
            Some(receipt) => receipt.synced().await,
            None => true,
        };
        if recorded { Ok(reservation) } else { Err(QuotaError::BooksFull) }
    }

    /// Asks the store for what a running request lacks, and waits for at most `lease_wait` while the rest is lent
    /// elsewhere, perhaps unspent. Returns whether it is known by then that this is all there is; what has come of it is
    /// with the account.
    ///
    /// # Cancel safety
    /// What the store has lent stays with the account.
    pub async fn ask_more(&self, lack: Lack) -> bool {
        lack.fill(&self.tools.accounts, &self.tools.config).await
    }

    /// Asks for a caller's counts, a line for each class that the plan limits or allows.
    ///
    /// # Errors
    /// [`QuotaError::Unavailable`] where they are cold and the store can't be read.
    pub async fn ask_usage(&self, caller: Arc<Caller>, lines: Vec<PlanLimit>) -> Result<Vec<ClassUsage>, QuotaError> {
        flatten(self.addr.send(ReadUsage { caller, lines }).await)
    }
}

fn flatten<T>(answer: Result<Result<T, QuotaError>, MailboxError>) -> Result<T, QuotaError> {
    answer.unwrap_or(Err(QuotaError::Unavailable))
}

/// The actor.
pub struct QuotaGate {
    tools: Tools,
    sweeps: usize,
}

/// How often each gate looks through a part of the accounts for idle ones.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

impl QuotaGate {
    /// Starts this worker's gate on the current thread.
    #[must_use]
    pub fn start(config: Config, accounts: Arc<Accounts>, books: Books, clock: Arc<dyn Clock>) -> QuotaHandle {
        let tools = Tools { config, accounts, books, clock };
        QuotaHandle { tools: tools.clone(), addr: Actor::start(Self { tools, sweeps: 0 }) }
    }
}

impl Actor for QuotaGate {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(1_024);
        ctx.spawn(Arc::clone(&self.tools.accounts).carry().into_actor(self));
        ctx.run_interval(SWEEP_INTERVAL, |gate, _| {
            gate.sweeps = gate.sweeps.wrapping_add(1);
            let Tools { config, accounts, clock, .. } = &gate.tools;
            accounts.sweep(gate.sweeps, clock.now(), config.idle_timeout);
        });
    }
}

impl Handler<Reserve> for QuotaGate {
    type Result = ResponseFuture<Result<Reservation, QuotaError>>;

    fn handle(&mut self, Reserve(asking): Reserve, _: &mut Context<Self>) -> Self::Result {
        Box::pin(asking.persist(self.tools.config.clone()))
    }
}

impl Handler<ReadUsage> for QuotaGate {
    type Result = Response<Result<Vec<ClassUsage>, QuotaError>>;

    fn handle(&mut self, ReadUsage { caller, lines }: ReadUsage, _: &mut Context<Self>) -> Self::Result {
        let (moment, now) = self.tools.clock.both();
        let user = match self.tools.user(&caller, moment) {
            Ok(user) => user,
            Err(error) => return Response::reply(Err(error)),
        };
        let Tools { config, accounts, .. } = self.tools.clone();
        let reads: Vec<_> = lines
            .into_iter()
            .map(|line| {
                let window = line.window.at(now);
                let stale = accounts.is_stale(&user, line, window, moment);
                let read = stale.then(|| accounts.ask_lease(&user, line, window, Portion::ZERO));
                (line, window, read)
            })
            .collect();
        Response::fut(async move {
            let mut usage = Vec::with_capacity(reads.len());
            for (line, window, read) in reads {
                let known = || Accounts::class_usage(&user, line, window);
                if let Some(read) = read {
                    let answered = tokio::time::timeout(config.load_timeout, read.answer()).await;
                    if answered.is_ok_and(|answer| answer.is_ok()) && known().is_none() {
                        lend(&accounts, (&user, line, window), Portion::ZERO, &config).await?;
                    }
                }
                usage.push(known().ok_or(QuotaError::Unavailable)?);
            }
            Ok(usage)
        })
    }
}
