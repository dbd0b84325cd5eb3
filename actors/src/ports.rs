//! What the engine asks of the world: traits named after roles, implemented in `src/`.
//!
//! Futures of the store, the caches and the verifier are `Send`: their connections live on a thread of their own that
//! outlives the workers. Those of [`Upstream`] are not: a provider's connection belongs to the worker that opened it.
//! Every method may be called from any worker; every future may be dropped at any point, and what it had started is
//! then either done completely or not at all.

mod books;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    domain::{
        Amounts, CallerRecord, CatalogRows, Claims, Portion, Position, RequestId, Timestamp, TokenHash, UserId,
        WindowKind,
    },
    stream::breaker::Rules,
};
use bytes::Bytes;
use futures_util::{
    future::{BoxFuture, LocalBoxFuture},
    stream::LocalBoxStream,
};
use serde::{Deserialize, Serialize};

pub use books::{
    ApplyError, Batch, CursorMove, Heartbeat, JournalCursor, LeaseAnswer, LeaseAsk, LeaseKey, LedgerStore, Recall,
};

/// Where time comes from. The only place that reads the machine's clocks.
pub trait Clock: Send + Sync {
    /// Returns the monotonic time, for durations and deadlines.
    fn now(&self) -> Instant;
    /// Returns the time of day that windows and expiries go by.
    fn wall(&self) -> Timestamp;
    /// Returns both, of one moment.
    fn both(&self) -> (Instant, Timestamp) {
        (self.now(), self.wall())
    }
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token, signed by someone else, of another audience, not valid yet, or with a bad claim.
    #[error("the token is not valid")]
    Invalid,
    /// It was valid; its time is over.
    #[error("the token has expired")]
    Expired,
    /// The keys to verify it with can't be fetched now.
    #[error("the keys to verify the token with can't be fetched")]
    KeysUnavailable,
}

/// Checks the signature and the claims of a JWT.
pub trait TokenVerifier: Send + Sync {
    /// Verifies `token` against the configured keys. The clock is the machine's; leeway 30 s.
    ///
    /// # Errors
    /// [`TokenError`], for every reason but a revocation, which is the store's to know.
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Claims, TokenError>>;
}

/// A cache that instances share. Never the authority: each failure is a miss, each answer may be stale.
pub trait SharedCache: Send + Sync {
    /// Returns `user:auth:{userId}`.
    fn caller<'a>(&'a self, user: &'a UserId) -> BoxFuture<'a, Option<CallerRecord>>;
    /// Keeps `user:auth:{userId}` for 600 s, in the background.
    fn post_caller(&self, caller: &CallerRecord);
    /// Returns `key:auth:{sha256}`: whose API key that is.
    fn key<'a>(&'a self, key: &'a TokenHash) -> BoxFuture<'a, Option<KeyRecord>>;
    /// Keeps `key:auth:{sha256}` until the key's end, 600 s at most, in the background.
    fn post_key(&self, key: &TokenHash, record: &KeyRecord);
    /// Keeps `user:usage:{userId}`, a JSON snapshot for readers elsewhere, for 300 s, in the background.
    fn post_usage(&self, user: &UserId, snapshot: &UsageSnapshot<'_>);
    /// Says whether the cache answered lately; `None` where none is configured.
    fn healthy(&self) -> Option<bool>;
}

/// What `user:usage:{userId}` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsageSnapshot<'a> {
    /// Each class that the user has used on this instance.
    pub classes: Vec<ClassSnapshot<'a>>,
}

/// Where a user stands in one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassSnapshot<'a> {
    /// The class's name.
    pub class: &'a str,
    /// How often it resets.
    pub window: WindowKind,
    /// When it resets next, as RFC 3339 has it.
    pub resets_at: String,
    /// What was settled, as far as this instance has counted.
    pub used: Amounts,
    /// What others have settled beyond that, when the store was last asked; nothing of a figure without a ceiling.
    pub used_elsewhere: Portion,
    /// What is promised to requests that run here.
    pub reserved: Amounts,
}

/// Why the store gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached, was too slow or broke off. A write may or may not have happened.
    #[error("the database is unavailable: {0}")]
    Unavailable(String),
    /// It answered, but not what was expected; nothing was written.
    #[error("the database refused: {0}")]
    Refused(String),
    /// As it stands it can't be worked with: an operator has to do what the sentence says. Nothing was written.
    #[error("{0}")]
    Unfit(String),
    /// What was asked for makes no sense, and the sentence says why. Nothing was written.
    #[error("{0}")]
    Mistaken(String),
}

/// What the store knows of an API key; kept as JSON in `key:auth:{sha256}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Whose it is.
    pub user: UserId,
    /// Its end, if it has one.
    pub expires_at: Option<Timestamp>,
    /// Whether it was revoked.
    pub revoked: bool,
    /// What the record was read with; see [`Position`].
    pub as_of: Position,
}

/// Something that was changed in the store, by whichever instance or command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A user was added, disabled or given another plan or role.
    User(UserId),
    /// An API key was made or revoked.
    Key(TokenHash),
    /// A JWT was revoked, until its end.
    Token(TokenHash, Timestamp),
    /// Models, classes, plans or limits changed.
    Catalog,
    /// An instance is asked to return what it doesn't need of a lease, or to forget what it knows of an account whose
    /// totals were corrected.
    Recall(Recall),
}

/// Changes in the order in which they were committed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// The sequence number to ask from next time.
    pub last: i64,
    /// Which change has that number: when it was made, in µs by the store's clock; 0 where none is kept.
    pub mark: i64,
    /// The same of the number that was asked from. It differs from what was said before where the store was put back
    /// meanwhile, and other changes were given the numbers that followed.
    pub asked: i64,
    /// Whether there are more, which this version can't read: whatever is cached may be stale.
    pub unreadable: bool,
    /// Each with its own sequence number and time.
    pub items: Vec<(Position, Change)>,
}

/// Users, keys and revocations.
pub trait Directory: Send + Sync {
    /// Finds a user.
    ///
    /// # Errors
    /// [`StoreError`], as all methods here.
    fn caller<'a>(&'a self, user: &'a UserId) -> BoxFuture<'a, Result<Option<CallerRecord>, StoreError>>;
    /// Adds a user if unknown, with the named plan or, if that is none, the default plan; returns what is there now.
    fn provision<'a>(
        &'a self,
        user: &'a UserId,
        plan: Option<&'a str>,
    ) -> BoxFuture<'a, Result<CallerRecord, StoreError>>;
    /// Finds an API key.
    fn key<'a>(&'a self, key: &'a TokenHash) -> BoxFuture<'a, Result<Option<KeyRecord>, StoreError>>;
    /// Notes when these keys were last used. One statement.
    fn touch_keys<'a>(&'a self, used: &'a [(TokenHash, Timestamp)]) -> BoxFuture<'a, Result<(), StoreError>>;
    /// Returns every revoked JWT that hasn't expired, with its end.
    fn revoked_tokens(&self) -> BoxFuture<'_, Result<Vec<(TokenHash, Timestamp)>, StoreError>>;
    /// Returns the changes after a sequence number, oldest first, at most 10,000.
    fn changes(&self, after: i64) -> BoxFuture<'_, Result<Changes, StoreError>>;
    /// Returns the last changes, oldest first, at most 10,000: nothing has come after them.
    fn recent_changes(&self) -> BoxFuture<'_, Result<Changes, StoreError>>;
}

/// Models, classes and plans.
pub trait CatalogSource: Send + Sync {
    /// Reads all of them, in one transaction.
    ///
    /// # Errors
    /// [`StoreError`].
    fn catalog(&self) -> BoxFuture<'_, Result<CatalogRows, StoreError>>;
}

/// What to open at a provider.
#[derive(Debug, Clone)]
pub struct UpstreamRequest {
    /// The provider's name under `[providers]`.
    pub provider: Arc<str>,
    /// The JSON body, spliced for that provider.
    pub body: Bytes,
    /// Whether the answer is a stream of events.
    pub stream: bool,
    /// The label for the provider's logs.
    pub request_id: RequestId,
    /// The caller's `traceparent`, handed on.
    pub traceparent: Option<Arc<str>>,
}

/// The head of a provider's answer, and its body to be pulled.
pub struct UpstreamResponse {
    /// The HTTP status.
    pub status: u16,
    /// `content-type`, lower case, without parameters.
    pub content_type: Box<str>,
    /// `retry-after`, where the provider gave one.
    pub retry_after: Option<Duration>,
    /// How long it took to have a connection: name, TCP and TLS. Zero where one was kept.
    pub connect: Duration,
    /// The body. Dropping it closes the connection at once.
    pub body: UpstreamBody,
}

impl fmt::Debug for UpstreamResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamResponse").field("status", &self.status).finish_non_exhaustive()
    }
}

/// A provider's body, as it comes. Its end proves nothing: a truncated body ends like a whole one.
pub type UpstreamBody = LocalBoxStream<'static, Result<Bytes, UpstreamError>>;

/// Why a provider gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// No connection: refused, unresolved, TLS failed. Nothing was sent.
    #[error("can't connect to the provider: {0}")]
    Connect(String),
    /// No connection within the provider's `connect_timeout`. Nothing was sent.
    #[error("connecting to the provider took too long")]
    ConnectTimeout,
    /// The connection broke, or what came was no HTTP. The request may have been served.
    #[error("the provider broke off")]
    Broken,
    /// What came can't be relayed: it is compressed, though that was not asked for.
    #[error("the provider answered in an encoding that it was not asked for")]
    Unreadable,
    /// No provider of that name is configured.
    #[error("no such provider")]
    Unknown,
}

/// How long a provider may be silent, how often it is asked again, and when it isn't asked at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From the request until the head of the answer.
    pub first_byte: Duration,
    /// Between any two pieces of the answer.
    pub gap: Duration,
    /// Over the whole answer; `None` is off, since only silence is a fault.
    pub total: Option<Duration>,
    /// How many more times the same provider is asked before the first frame.
    pub retries: u32,
    /// The most of these in 10 s, on one worker, in percent of its requests; ten more are always there.
    pub retry_budget_percent: u32,
    /// When breakers of its models open, each worker's by itself.
    pub breaker: Rules,
}

/// Opens requests at providers, from the worker's own thread.
pub trait Upstream {
    /// Sends the request and returns the answer's head, whatever its status. Redirects are not followed, compressed
    /// bodies not decoded.
    ///
    /// # Errors
    /// [`UpstreamError`].
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    fn open(&self, request: UpstreamRequest) -> LocalBoxFuture<'static, Result<UpstreamResponse, UpstreamError>>;
    /// Returns how patient to be with a provider.
    fn patience(&self, provider: &str) -> Patience;
}
