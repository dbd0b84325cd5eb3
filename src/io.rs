//! The thread that the connections to the database and to Redis live on.
//!
//! Their drivers are tasks, and a task dies with the runtime that it was started on: opened from an actix worker, a
//! connection breaks when that worker stops, just before the last flush. So boot starts one [`IoThread`], hands
//! [`IoHandle`]s to whoever talks to a server, and drops it last of all.
//!
//! What is started through a handle runs to its end, whether or not anybody still waits for it.

use std::{
    future::Future,
    io,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// How long blocking calls (SQLite's) may go on when the thread is told to end.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// The thread is gone, or the work panicked: there is no answer, and what was begun may or may not have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connections' thread gave no answer")]
pub struct NoAnswer;

/// A thread with a runtime of its own. Dropping it ends what still runs there and waits for the thread.
#[derive(Debug)]
pub struct IoThread {
    handle: IoHandle,
    /// Dropping the sender ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl IoThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system gives no thread or no event queue.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = IoHandle(runtime.handle().clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("hne-io".into()).spawn(move || {
            // Nothing is ever sent: the error of the dropped sender is the signal.
            runtime.block_on(async { stopped.await.unwrap_or_default() });
            runtime.shutdown_timeout(LAST_CALLS);
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Returns a handle to start work with.
    #[must_use]
    pub fn handle(&self) -> IoHandle {
        self.handle.clone()
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("the connections' thread panicked");
        }
    }
}

/// Starts work on an [`IoThread`], from any thread and any runtime.
#[derive(Debug, Clone)]
pub struct IoHandle(Handle);

impl IoHandle {
    /// Runs `work` on the thread and returns its result.
    ///
    /// # Errors
    /// [`NoAnswer`].
    ///
    /// # Cancel safety
    /// Once polled, the work runs to its end even if this future is dropped.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T, NoAnswer> {
        self.0.spawn(work).await.map_err(|error| {
            if error.is_panic() {
                tracing::error!("work on the connections' thread panicked");
            }
            NoAnswer
        })
    }

    /// Returns the thread's runtime, for tasks that somebody else ends.
    #[must_use]
    pub fn runtime(&self) -> &Handle {
        &self.0
    }

    /// Starts `work` on the thread without waiting for it. The caller sees to it that not too much is under way.
    pub fn post(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.0.spawn(work));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        Builder::new_current_thread().build().unwrap().block_on(work)
    }

    #[test]
    fn work_runs_to_its_end_although_nobody_waits() {
        let io = IoThread::start().unwrap();
        let (go, gone) = oneshot::channel::<()>();
        let (done, finished) = oneshot::channel();
        let handle = io.handle();
        block_on(async {
            let mut work = Box::pin(handle.run(async move {
                gone.await.unwrap();
                done.send(()).unwrap();
            }));
            assert!(futures_util::poll!(work.as_mut()).is_pending());
            drop(work);
            go.send(()).unwrap();
            finished.await.unwrap();
        });
    }

    #[test]
    fn a_panic_and_a_stopped_thread_are_errors() {
        let io = IoThread::start().unwrap();
        let handle = io.handle();
        assert_eq!(block_on(handle.run(async { 1 })), Ok(1));
        assert_eq!(block_on(handle.run(async { assert_eq!(1, 2) })), Err(NoAnswer));
        drop(io);
        assert_eq!(block_on(handle.run(async { 1 })), Err(NoAnswer));
    }
}
