//! The connection to Redis: kept by one task, used by all threads, guarded by a breaker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use actors::metrics::{CacheCall, Metrics};
use arc_swap::ArcSwapOption;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, RedisResult, Value, aio::MultiplexedConnection};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// So many failures in a row open the breaker.
pub(super) const MAX_FAILURES: u32 = 3;
/// How long the breaker stays open before the server is asked again, and how often it is asked when all is well.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// How long connecting may take, TLS included. Nobody waits for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// After so many unanswered pings the connection is given up: the other end may have forgotten it.
const MAX_SILENCE: u32 = 3;
/// How long a key that was written to try the server out is kept at most.
const PROBE_LIFE: Duration = Duration::from_secs(10);
/// The most characters of an error that are told.
const MAX_SAID: usize = 200;

/// A connection that comes and goes.
pub(super) struct Link {
    timeout: Duration,
    connection: ArcSwapOption<MultiplexedConnection>,
    /// The breaker: calls are not even tried.
    open: AtomicBool,
    failures_in_a_row: AtomicU32,
    /// Wakes the keeper: the connection broke.
    broke: Notify,
    metrics: Metrics,
}

impl Link {
    /// Makes a link that isn't connected.
    pub(super) fn new(timeout: Duration, metrics: Metrics) -> Self {
        Self {
            timeout,
            connection: ArcSwapOption::empty(),
            open: AtomicBool::new(false),
            failures_in_a_row: AtomicU32::new(0),
            broke: Notify::new(),
            metrics,
        }
    }

    /// Makes a call; a failure is `None`, and counted. What an answer is, counts whoever asked.
    ///
    /// # Cancel safety
    /// May be dropped at any point; an answer that comes later is thrown away.
    pub(super) async fn call(&self, command: &Cmd) -> Option<Value> {
        let Some(connection) = self.usable() else {
            self.metrics.cache_called(CacheCall::Open);
            return None;
        };
        let answer = timeout(self.timeout, (*connection).clone().send_packed_command(command)).await;
        self.judge(answer.ok(), &connection)
    }

    /// Makes calls whose answers don't matter, in one round trip, which counts as one call.
    pub(super) async fn call_all(&self, pipeline: &Pipeline) {
        let Some(connection) = self.usable() else { return self.metrics.cache_called(CacheCall::Open) };
        let answer = timeout(self.timeout, pipeline.exec_async(&mut (*connection).clone())).await;
        if self.judge(answer.ok(), &connection).is_some() {
            self.metrics.cache_called(CacheCall::Ok);
        }
    }

    /// Says whether the server answered lately.
    pub(super) fn is_up(&self) -> bool {
        self.usable().is_some()
    }

    fn usable(&self) -> Option<Arc<MultiplexedConnection>> {
        if self.open.load(Ordering::Relaxed) { None } else { self.connection.load_full() }
    }

    /// Counts an answer, or that there was none in time.
    fn judge<T>(&self, answer: Option<RedisResult<T>>, connection: &Arc<MultiplexedConnection>) -> Option<T> {
        let failure = match answer {
            Some(Ok(value)) => {
                self.failures_in_a_row.store(0, Ordering::Relaxed);
                return Some(value);
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        self.metrics.cache_called(CacheCall::Failed);
        if failure.as_ref().is_some_and(RedisError::is_unrecoverable_error) {
            // Unless it was replaced already.
            self.connection.compare_and_swap(connection, None);
            self.broke.notify_one();
        } else if self.failures_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_FAILURES
            && !self.open.swap(true, Ordering::Relaxed)
        {
            let error = failure.map_or_else(|| format!("no answer within {:?}", self.timeout), |error| said(&error));
            tracing::warn!(error, "Redis fails or is too slow: going on without it");
        }
        None
    }

    /// Connects, watches, and connects again; never ends.
    pub(super) async fn keep(self: Arc<Self>, client: Client) {
        let mut told = false;
        loop {
            match connect(&client).await {
                Ok(connection) => {
                    tracing::info!("connected to Redis");
                    told = false;
                    let connection = Arc::new(connection);
                    self.connection.store(Some(Arc::clone(&connection)));
                    self.close();
                    self.watch(&connection).await;
                    self.connection.store(None);
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(error = said(&error), "can't connect to Redis: going on without it");
                    }
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Asks now and then whether the server is there; returns when the connection is of no use any more.
    async fn watch(&self, connection: &MultiplexedConnection) {
        let (ping, mut silent) = (redis::cmd("PING"), 0);
        while silent < MAX_SILENCE {
            let woken = timeout(PAUSE, self.broke.notified()).await.is_ok();
            if self.connection.load().is_none() {
                tracing::warn!("the connection to Redis broke");
                return;
            }
            if woken {
                // About a connection before this one.
                continue;
            }
            match timeout(self.timeout, connection.clone().send_packed_command(&ping)).await {
                Ok(Ok(_)) => {
                    silent = 0;
                    self.close();
                }
                Ok(Err(error)) if error.is_unrecoverable_error() => return,
                Ok(Err(_)) | Err(_) => {
                    silent += 1;
                    self.open.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    fn close(&self) {
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        if self.open.swap(false, Ordering::Relaxed) {
            tracing::info!("Redis answers again");
        }
    }
}

async fn connect(client: &Client) -> Result<MultiplexedConnection, RedisError> {
    // Calls have deadlines of their own, on their callers' threads.
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(None);
    match timeout(CONNECT_TIMEOUT, client.get_multiplexed_async_connection_with_config(&config)).await {
        Ok(connected) => connected,
        Err(_elapsed) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

/// Connects and asks for an answer.
pub(super) async fn ping(client: &Client) -> Result<(), RedisError> {
    let mut connection = connect(client).await?;
    ask(&mut connection, &redis::cmd("PING")).await.map(drop)
}

/// Connects, and writes and reads each of these keys, which nobody else has, as calls do. Returns whether it read what
/// it wrote. What is left where keys can't be deleted ends by itself.
pub(super) async fn try_out(client: &Client, keys: &[String]) -> Result<bool, RedisError> {
    let mut connection = connect(client).await?;
    let mut same = true;
    for key in keys {
        ask(&mut connection, redis::cmd("SET").arg(key).arg("{}").arg("EX").arg(PROBE_LIFE.as_secs())).await?;
        let read = ask(&mut connection, redis::cmd("GET").arg(key)).await;
        // The service never deletes, so it doesn't need the right to.
        let _deleted = ask(&mut connection, redis::cmd("DEL").arg(key)).await.is_ok();
        same &= read? == Value::BulkString(b"{}".to_vec());
    }
    Ok(same)
}

async fn ask(connection: &mut MultiplexedConnection, command: &Cmd) -> RedisResult<Value> {
    match timeout(CONNECT_TIMEOUT, command.query_async(connection)).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

/// Returns what Redis, or the way to it, said. To a command that it doesn't know Redis says what came with it, which may
/// be a password or a record: that is left out.
pub(super) fn said(error: &RedisError) -> String {
    let text = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        // Of several commands: the first one's code, and then all of them.
        (Some(code), None) => format!("{code}: {error}"),
        _ => error.to_string(),
    };
    text.split(", with args").next().unwrap_or_default().chars().take(MAX_SAID).collect()
}
