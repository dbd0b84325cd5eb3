//! Threads with a runtime each, which stop and close everything when their owner is dropped.
//!
//! A mock must work inside any test, whatever runtime the test is on, so it brings its own. One runtime for each
//! thread, never a work-stealing one: a connection stays on the thread that accepted it.

use socket2::{Domain, Protocol, Socket, Type};
use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    thread::{self, JoinHandle},
};
use tokio::sync::watch;

/// How many connections may wait to be accepted; the kernel's `somaxconn` caps it.
const BACKLOG: i32 = 4096;

/// Owns the threads; dropping it stops and joins them.
#[derive(Debug)]
pub(crate) struct Host {
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self { stop: watch::Sender::new(false), threads: Vec::new() }
    }

    /// Starts a thread that runs `serve` until it ends or the host is dropped.
    pub(crate) fn spawn<F, S>(&mut self, name: &str, serve: S) -> io::Result<()>
    where
        S: FnOnce() -> F + Send + 'static,
        F: Future<Output = ()>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut stop = self.stop.subscribe();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve() => {}
                    _ = stop.changed() => {}
                }
            });
        };
        self.threads.push(thread::Builder::new().name(name.to_owned()).spawn(run)?);
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            // A panic on a mock's thread has printed itself; the test fails by what it then misses.
            thread.join().ok();
        }
    }
}

/// Binds a listening socket. `shared` lets several threads listen on one port, each with a queue of its own.
pub(crate) fn listen(addr: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
