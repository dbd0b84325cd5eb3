//! Addresses that answer, refuse, or say nothing.

use std::net::{Ipv4Addr, TcpListener};

use tokio::{net::TcpSocket, time::timeout};

use super::*;

const LONG: Duration = Duration::from_secs(10);

/// An address from which nothing ever comes back: one connection waits to be accepted, and there is room for no other.
struct Silent {
    address: SocketAddr,
    _held: (tokio::net::TcpListener, TcpStream),
}

impl Silent {
    async fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let first = TcpStream::connect(address).await.unwrap();
        Self { address, _held: (listener, first) }
    }
}

fn refusing() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

#[actix_rt::test]
async fn a_silent_address_keeps_nobody_from_the_next() {
    let (one, another) = (Silent::new().await, Silent::new().await);
    let live = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addresses = [one.address, another.address, refusing(), live.local_addr().unwrap()];
    let socket = timeout(LONG, reach(&addresses)).await.expect("no address keeps the others waiting").unwrap();
    assert_eq!(socket.peer_addr().unwrap(), live.local_addr().unwrap());
}

#[actix_rt::test]
async fn where_no_address_answers_the_last_failure_is_told() {
    let refused = timeout(LONG, reach(&[refusing(), refusing()])).await.unwrap();
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(reach(&[]).await.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
}

#[test]
fn the_kinds_of_address_take_turns() {
    let addresses =
        ["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1", "127.0.0.2:1"].map(|address| address.parse().unwrap());
    let [a, b, c, d, e] = addresses;
    assert_eq!(in_turns(&addresses), [a, d, b, e, c]);
    assert_eq!(in_turns(&[d, a, b]), [d, a, b]);
}

#[actix_rt::test]
async fn who_asks_while_a_name_is_looked_up_gets_the_same_answer() {
    let name = Name::default();
    let address = |port| name.addresses(format!("127.0.0.1:{port}"));
    let (first, second) = (address(1), address(1));
    assert!(first.ptr_eq(&second));
    drop(first);
    assert_eq!(*second.await.unwrap(), ["127.0.0.1:1".parse().unwrap()]);
    assert_eq!(*address(2).await.unwrap(), ["127.0.0.1:2".parse().unwrap()], "it is not remembered");
    assert!(address(99_999).await.is_err());
    assert_eq!(*name.addresses("[::1]:3".into()).await.unwrap(), ["[::1]:3".parse().unwrap()]);
}
