//! Opening connections to one provider: names, addresses, TLS, a deadline.
//!
//! awc's connector does it, on two things of ours. Connections that are opened at once share one look-up of the name. And of
//! the addresses that it has any may lead nowhere: the next one is tried while those before it are silent, and the first
//! that answers is taken («Happy Eyeballs», RFC 8305).

use std::{
    cell::RefCell, collections::VecDeque, future::pending, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration,
};

use actix_http::Uri;
use actix_service::{Service, fn_service};
use actix_tls::connect::{ConnectError as TcpError, ConnectInfo, Connection};
use awc::{Connect, Connector, error::ConnectError};
use futures_util::{
    FutureExt, StreamExt,
    future::{LocalBoxFuture, Shared, WeakShared},
    stream::FuturesUnordered,
};
use rustls::ClientConfig;
use tokio::{
    net::{TcpStream, lookup_host},
    time::sleep,
};

use super::pool::Socket;

/// How long an address may be silent before the next one is tried, too (RFC 8305, 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// What opens connections.
pub(super) type Dial = Box<dyn Fn() -> LocalBoxFuture<'static, Result<Box<dyn Socket>, ConnectError>>>;

/// Returns what opens connections to a provider, within `connect_timeout` for name and address and as long again for TLS,
/// and without delaying small writes.
pub(super) fn dialling(uri: Uri, mut tls: ClientConfig, connect_timeout: Duration) -> Dial {
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = Rc::new(Name::default());
    let tcp = fn_service(move |info: ConnectInfo<Uri>| {
        let name = Rc::clone(&name);
        async move {
            let addresses = name.addresses(format!("{}:{}", info.hostname(), info.port())).await;
            let addresses = addresses.map_err(|error| TcpError::Resolver(Box::new(error)))?;
            let socket = reach(&addresses).await.map_err(TcpError::Io)?;
            // Where the socket is gone already, the first write says so.
            let _set = socket.set_nodelay(true).is_ok();
            Ok(Connection::new(info.request().clone(), socket))
        }
    });
    let connector = Connector::new()
        .connector(tcp)
        // `max_http_version` would put a TLS of its own in its place, which trusts the public authorities only.
        .rustls_0_23(Arc::new(tls))
        // Admission has a limit of its own.
        .limit(0)
        .timeout(connect_timeout)
        .handshake_timeout(connect_timeout)
        .finish();
    Box::new(move || {
        let connecting = connector.call(Connect { uri: uri.clone(), addr: None });
        Box::pin(async move { Ok(Box::new(connecting.await?) as Box<dyn Socket>) })
    })
}

type Lookup = LocalBoxFuture<'static, Result<Rc<[SocketAddr]>, Arc<io::Error>>>;

/// A name that is being looked up by whoever asks first, for as long as anybody waits for it.
#[derive(Default)]
struct Name(RefCell<Option<WeakShared<Lookup>>>);

impl Name {
    /// Returns the addresses of `host:port`, in the order in which the system prefers them.
    ///
    /// # Cancel safety
    /// Others that wait for the same go on.
    fn addresses(&self, authority: String) -> Shared<Lookup> {
        let mut under_way = self.0.borrow_mut();
        if let Some(shared) = under_way.as_ref().and_then(WeakShared::upgrade) {
            return shared;
        }
        let found = async move { Ok(lookup_host(authority).await.map_err(Arc::new)?.collect()) };
        let shared = found.boxed_local().shared();
        *under_way = shared.downgrade();
        shared
    }
}

/// Connects to whichever address answers first.
///
/// # Errors
/// None does: how the last one failed.
///
/// # Cancel safety
/// What was tried is given up.
async fn reach(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = in_turns(addresses);
    let mut attempts = FuturesUnordered::new();
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        attempts.extend(waiting.pop_front().map(TcpStream::connect));
        let next_is_due = async {
            match waiting.is_empty() {
                true => pending().await,
                false => sleep(ATTEMPT_DELAY).await,
            }
        };
        tokio::select! {
            tried = attempts.next() => match tried {
                Some(Ok(socket)) => return Ok(socket),
                Some(Err(error)) => failed = error,
                None => return Err(failed),
            },
            () = next_is_due => {}
        }
    }
}

/// Has IPv4 and IPv6 take turns, beginning with the kind of the first.
fn in_turns(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let leads = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (leading, others): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv6() == leads);
    let turn = |index| leading.get(index).into_iter().chain(others.get(index));
    (0..addresses.len()).flat_map(turn).copied().collect()
}

#[cfg(test)]
mod tests;
