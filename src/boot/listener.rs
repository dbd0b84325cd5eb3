//! The listening socket, and the workers behind it.

use std::{
    io,
    net::{Shutdown, TcpListener},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_http::HttpService;
use actix_server::{Server, ServerHandle};
use actix_service::{ServiceFactoryExt, fn_service, map_config};
use actix_web::dev::AppConfig;
use actors::metrics::Metrics;
use futures_util::future::{AbortHandle, abortable};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    BootError,
    socket::{ClientSocket, Patience},
    until,
};
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

/// How long a connection gets to come from the kernel to a worker.
const SETTLE: Duration = Duration::from_millis(50);

/// How long connections are kept after the last answer. A caller's next request, or its proxy's, comes right then; it is
/// told that the connection ends, instead of meeting its end halfway.
const LINGER: Duration = Duration::from_secs(1);

/// Lets no one begin a connection, in the kernel's classic packet filter: a segment whose flags (byte 13, RFC 9293,
/// section 3.1) have SYN without ACK is dropped, others are kept.
const NO_SYN: [SockFilter; 5] = [
    SockFilter::new(0x30, 0, 0, 13),       // load the byte
    SockFilter::new(0x54, 0, 0, 0x12),     // of it ACK and SYN
    SockFilter::new(0x15, 0, 1, 0x02),     // unless it is SYN alone, jump over
    SockFilter::new(0x06, 0, 0, 0),        // drop
    SockFilter::new(0x06, 0, 0, u32::MAX), // keep
];

/// What ends a server.
pub(super) struct Listening {
    server: ServerHandle,
    running: AbortHandle,
    socket: TcpListener,
    present: Arc<AtomicUsize>,
}

impl Listening {
    /// Refuses connections from now on. Whoever was let in before is answered: closing the socket alone would reset
    /// connections that nobody has taken yet, some with a request that a proxy may not send again.
    ///
    /// Takes 2 × [`SETTLE`]. Who knocks meanwhile is refused when it does so again, after a second (RFC 6298).
    ///
    /// # Cancel safety
    /// May be dropped; connections may then be neither taken nor refused.
    pub(super) async fn close(&self) {
        let socket = SockRef::from(&self.socket);
        if let Err(error) = socket.attach_filter(&NO_SYN) {
            tracing::warn!(%error, "connections that are on the way may be lost");
        }
        sleep(SETTLE).await;
        // Nobody looks at the socket any more: its end would be taken for a fault.
        self.server.pause().await;
        sleep(SETTLE).await;
        // It listens no more, whoever else holds it.
        if let Err(error) = socket.shutdown(Shutdown::Read) {
            tracing::warn!(%error, "the socket goes on listening");
        }
        tracing::info!("connections are refused");
    }

    /// Closes connections, idle ones after [`LINGER`], and waits until the clients have gone, however long they take.
    ///
    /// # Cancel safety
    /// May be dropped; once it has begun to close, it goes on.
    pub(super) async fn stop(&self) {
        let nobody = until(|| self.present.load(Ordering::Acquire) == 0);
        // Whoever hasn't asked by then is cut off.
        let _lingered = timeout(LINGER, nobody).await.is_err();
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
    let present = Arc::new(AtomicUsize::new(0));
    let open = Arc::clone(&present);
    let app = move || match shared.desk() {
        Ok(desk) => worker::app(desk, worker::cors(&shared.config)),
        Err(error) => unreachable!("the providers were checked before: {error}"),
    };
    let patience = Patience { head: server.header_timeout, idle: server.keep_alive };
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(connections.div_ceil(workers))
        .backlog(server.backlog)
        // Who is cut off, and when, [`Listening::cut`] says.
        .shutdown_timeout(u64::MAX)
        .disable_signals();
    let stopping = builder.graceful_shutdown_signal();
    // As `HttpServer` does it, but for the socket.
    let service = move || {
        let (stopping, metrics, open) = (stopping.clone(), metrics.clone(), Arc::clone(&open));
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(patience.idle)
            .client_request_timeout(patience.head)
            .client_disconnect_timeout(Duration::from_secs(1))
            .h1_allow_half_closed(false)
            .on_connect_ext(move |socket: &ClientSocket, connection| {
                connection.insert(Connection::open(&metrics, &open));
                connection.insert(Rc::clone(socket.heads()));
            })
            .finish(map_config(app(), |()| AppConfig::default()));
        let accept = move |tcp: TcpStream| async move {
            // Where it is gone already, reading says so.
            let _set = tcp.set_nodelay(true).is_ok();
            let peer = tcp.peer_addr().ok();
            Ok((ClientSocket::new(tcp, patience), actix_http::Protocol::Http1, peer))
        };
        fn_service(accept).and_then(http)
    };
    let server = builder.listen("http", listener.try_clone()?, service)?.run();
    let handle = server.handle();
    let (server, running) = abortable(server);
    Ok((Listening { server: handle, running, socket: listener, present }, async { server.await.unwrap_or(Ok(())) }))
}

/// Counts a client's connection for as long as actix keeps its data.
struct Connection {
    metrics: Metrics,
    open: Arc<AtomicUsize>,
}

impl Connection {
    fn open(metrics: &Metrics, open: &Arc<AtomicUsize>) -> Self {
        metrics.connection_opened();
        open.fetch_add(1, Ordering::AcqRel);
        Self { metrics: metrics.clone(), open: Arc::clone(open) }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.metrics.connection_closed();
    }
}
