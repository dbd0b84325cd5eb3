//! The listening socket, and the workers behind it.

use std::{io, net::TcpListener, sync::Arc, time::Duration};

use actix_web::{HttpServer, dev::ServerHandle};
use actors::metrics::Metrics;
use futures_util::future::{AbortHandle, abortable};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::BootError;
use crate::{
    config::ServerConfig,
    upstream::Providers,
    worker::{self, Shared},
};

/// Raises the limit of open files as far as this process may, and returns it.
pub(super) fn open_files() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1_024)
}

/// Opens the listening socket. Accepted connections inherit its send buffer and its deadline for unacknowledged bytes:
/// a client that never reads would otherwise hold 3.9 MB of kernel memory for ever (measured).
pub(super) fn listen(config: &ServerConfig) -> Result<TcpListener, BootError> {
    let address = config.listen;
    let unavailable = |error: io::Error| BootError::Unavailable(format!("can't listen on {address}: {error}"));
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        SockRef::from(&socket).set_send_buffer_size(config.send_buffer_bytes)?;
        socket.set_tcp_user_timeout(Some(config.write_timeout))?;
        socket.bind(&address.into())?;
        socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
        Ok(TcpListener::from(socket))
    };
    open().map_err(unavailable)
}

/// What ends a server.
pub(super) struct Listening {
    server: ServerHandle,
    running: AbortHandle,
}

impl Listening {
    /// Closes the listener and waits until the clients have gone, however long they take.
    ///
    /// # Cancel safety
    /// May be dropped; it goes on stopping.
    pub(super) async fn stop(&self) {
        self.server.stop(true).await;
    }

    /// Cuts all clients off, also while it waits for them to go.
    pub(super) async fn cut(&self) {
        self.running.abort();
        // A server that is gone can't be told, so this returns then.
        self.server.stop(false).await;
    }
}

/// Starts the workers. They run for as long as what is returned is awaited.
pub(super) fn serve(
    shared: Shared,
    listener: TcpListener,
) -> Result<(Listening, impl Future<Output = io::Result<()>>), BootError> {
    let config = Arc::clone(&shared.config);
    let server = &config.server;
    let workers = server.worker_count();
    let connections = server.admission(open_files()).connections;
    // A provider that can't be spoken to as configured is found out here, not in each worker.
    Providers::new(&config.providers)?;
    let metrics = shared.metrics.clone();
    let app = move || match shared.desk() {
        Ok(desk) => worker::app(desk, worker::cors(&shared.config)),
        Err(error) => unreachable!("the providers were checked before: {error}"),
    };
    let server = HttpServer::new(app)
        .workers(workers)
        .on_connect(move |_, connection| {
            connection.insert(Connection::open(&metrics));
        })
        .max_connections(connections.div_ceil(workers))
        .backlog(server.backlog)
        .keep_alive(server.keep_alive)
        .client_request_timeout(server.header_timeout)
        .client_disconnect_timeout(Duration::from_secs(1))
        .tcp_nodelay(true)
        .h1_allow_half_closed(false)
        // Who is cut off, and when, [`Listening::cut`] says.
        .shutdown_timeout(u64::MAX)
        .disable_signals()
        .listen(listener)?
        .run();
    let handle = server.handle();
    let (server, running) = abortable(server);
    Ok((Listening { server: handle, running }, async { server.await.unwrap_or(Ok(())) }))
}

/// Counts a client's connection for as long as actix keeps its data.
struct Connection(Metrics);

impl Connection {
    fn open(metrics: &Metrics) -> Self {
        metrics.connection_opened();
        Self(metrics.clone())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}
