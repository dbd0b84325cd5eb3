//! The connections that are kept open, and the one way to use one.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};

use super::{
    fault::Fault,
    link::{Link, Scope, Sqlite},
    postgres, sqlite,
};

/// How connections are opened.
#[derive(Clone)]
pub(super) enum Opener {
    /// To a server.
    Postgres(Arc<postgres::Target>),
    /// To a file.
    Sqlite(Arc<sqlite::Target>),
}

/// How many connections there may be, and how long for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// The most connections.
    pub(super) max: u32,
    /// Idle ones are closed after this.
    pub(super) idle_timeout: Option<Duration>,
    /// The longest wait for a connection.
    pub(super) connect_timeout: Duration,
    /// The longest that one call may take once it has a connection.
    pub(super) call_timeout: Duration,
}

/// What a pool holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolState {
    /// Open connections.
    pub connections: u32,
    /// Those of them that nobody uses.
    pub idle: u32,
    /// The most that may be open.
    pub max: u32,
}

/// Some connections to one database.
#[derive(Clone)]
pub(super) struct Pool {
    connections: bb8::Pool<Opener>,
    sizes: Sizes,
    /// Why the last attempt to connect failed: whoever waits is told at once.
    failure: Arc<watch::Sender<String>>,
}

impl Pool {
    /// Makes a pool without opening a connection. Belongs on the runtime that drives the connections.
    pub(super) fn new(opener: Opener, sizes: Sizes) -> Self {
        let failure = Arc::new(watch::Sender::new(String::new()));
        let connections = bb8::Pool::builder()
            .max_size(sizes.max)
            .idle_timeout(sizes.idle_timeout)
            .max_lifetime(None)
            .reaper_rate(sizes.idle_timeout.map_or(Duration::from_secs(30), |idle| idle / 4))
            .connection_timeout(sizes.connect_timeout)
            .retry_connection(false)
            .test_on_check_out(false)
            .error_sink(Box::new(Failures(failure.clone())))
            .build_unchecked(opener);
        Self { connections, sizes, failure }
    }

    /// Returns what the pool holds now.
    pub(super) fn state(&self) -> PoolState {
        let state = self.connections.state();
        PoolState { connections: state.connections, idle: state.idle_connections, max: self.sizes.max }
    }

    /// Runs `work` on a connection, within a transaction of that scope. An error rolls it back, so `work` must not
    /// go on after a statement that failed.
    ///
    /// A call that is too slow, dropped, or can't end its transaction takes its connection with it: nobody knows what
    /// state that is in, and the database rolls back what is left when it closes.
    pub(super) async fn run<T, F>(&self, scope: Scope, limit: Option<Duration>, work: F) -> Result<T, Fault>
    where
        for<'l> F: AsyncFnOnce(&'l mut Link) -> Result<T, Fault> + AsyncWork<&'l mut Link, Result<T, Fault>, Fut: Send>,
    {
        let mut pooled = self.check_out().await?;
        let Pooled { link, busy } = &mut *pooled;
        *busy = true;
        let call = async {
            link.begin(scope).await?;
            let worked = work(&mut *link).await;
            let ended = match worked {
                Ok(_) => link.commit(scope).await,
                Err(_) => link.rollback(scope).await,
            };
            *busy = ended.is_err();
            match ended {
                // Whether a commit without an answer took place is not for us to guess.
                Err(error) if worked.is_ok() => Err(Fault::Unavailable(format!("the commit failed: {error}"))),
                _ => worked,
            }
        };
        let limit = limit.unwrap_or(self.sizes.call_timeout);
        timeout(limit, call)
            .await
            .unwrap_or_else(|_elapsed| Err(Fault::Unavailable(format!("no answer within {limit:?}"))))
    }

    /// Takes a connection that isn't known to be broken.
    async fn check_out(&self) -> Result<bb8::PooledConnection<'static, Opener>, Fault> {
        // Each broken one that is put back makes room, so this ends.
        loop {
            let mut pooled = self.take().await?;
            if !pooled.link.is_broken() {
                return Ok(pooled);
            }
        }
    }

    async fn take(&self) -> Result<bb8::PooledConnection<'static, Opener>, Fault> {
        let mut failure = self.failure.subscribe();
        let mut taken = std::pin::pin!(self.connections.get_owned());
        loop {
            tokio::select! {
                biased;
                taken = &mut taken => return taken.map_err(|error| match error {
                    bb8::RunError::User(why) => Fault::Unavailable(why),
                    bb8::RunError::TimedOut => self.exhausted(),
                }),
                _ = failure.changed() => {
                    // While others hold connections, one of those may come back in time.
                    let why = failure.borrow_and_update().clone();
                    if self.connections.state().connections == 0 {
                        return Err(Fault::Unavailable(why));
                    }
                }
            }
        }
    }

    fn exhausted(&self) -> Fault {
        let PoolState { connections, max, .. } = self.state();
        let waited = self.sizes.connect_timeout;
        Fault::Unavailable(format!("no connection within {waited:?}; {connections} of {max} are in use"))
    }
}

/// An async closure whose future may be sent to another thread: what a bound on `AsyncFnOnce` alone can't say.
pub(super) trait AsyncWork<A, R>: AsyncFnOnce(A) -> R + FnOnce(A) -> <Self as AsyncWork<A, R>>::Fut {
    /// The closure's future.
    type Fut: Future<Output = R>;
}

impl<F, A, R, Fut> AsyncWork<A, R> for F
where
    F: AsyncFnOnce(A) -> R + FnOnce(A) -> Fut,
    Fut: Future<Output = R>,
{
    type Fut = Fut;
}

/// A connection as the pool keeps it.
pub(super) struct Pooled {
    link: Link,
    /// A call has begun and not ended.
    busy: bool,
}

impl bb8::ManageConnection for Opener {
    type Connection = Pooled;
    type Error = String;

    async fn connect(&self) -> Result<Pooled, String> {
        let link = match self {
            Self::Postgres(target) => Link::Postgres(Box::new(target.connect().await?)),
            Self::Sqlite(target) => Link::Sqlite(Sqlite::new(target.open().await?)),
        };
        Ok(Pooled { link, busy: false })
    }

    async fn is_valid(&self, _: &mut Pooled) -> Result<(), String> {
        Ok(())
    }

    fn has_broken(&self, pooled: &mut Pooled) -> bool {
        pooled.busy || pooled.link.is_broken()
    }
}

#[derive(Clone)]
struct Failures(Arc<watch::Sender<String>>);

impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Failures")
    }
}

impl bb8::ErrorSink<String> for Failures {
    fn sink(&self, error: String) {
        self.0.send_replace(error);
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<String>> {
        Box::new(self.clone())
    }
}
