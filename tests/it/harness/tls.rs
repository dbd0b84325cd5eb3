//! TLS in tests: a certificate that signed itself, and a listener that speaks TLS before a server that doesn't.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
};

use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A certificate for `localhost` that signed itself, and its key: two files.
pub(crate) struct Certificate(tempfile::TempDir);

impl Certificate {
    /// Makes one.
    pub(crate) fn new() -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        let request = "req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=localhost \
                       -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE";
        let mut openssl = Command::new("openssl");
        openssl.args(request.split_whitespace()).arg("-keyout").arg(made.key()).arg("-out").arg(made.file());
        assert!(openssl.stderr(Stdio::null()).status().unwrap().success());
        made
    }

    /// Returns the certificate's file.
    pub(crate) fn file(&self) -> PathBuf {
        self.0.path().join("fullchain.pem")
    }

    /// Returns the key's file.
    pub(crate) fn key(&self) -> PathBuf {
        self.0.path().join("privkey.pem")
    }
}

/// What a client said in a handshake that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// The name that it asked for.
    pub(crate) name: Option<String>,
    /// The protocol that was agreed on, of `h2` and `http/1.1` in this order.
    pub(crate) protocol: Option<String>,
}

/// Takes TLS connections and passes on what is in them. Ends with this.
pub(crate) struct TlsFront {
    address: SocketAddr,
    certificate: Certificate,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

#[derive(Default)]
struct Shared {
    target: OnceLock<SocketAddr>,
    handshakes: Mutex<Vec<Result<Greeting, String>>>,
}

impl TlsFront {
    /// Starts to listen.
    pub(crate) fn start() -> Self {
        let (certificate, shared) = (Certificate::new(), Arc::new(Shared::default()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        drop(runtime.spawn(Arc::clone(&shared).accept(listener, acceptor(&certificate))));
        Self { address, certificate, shared, _runtime: runtime }
    }

    /// Says where to pass things on to.
    pub(crate) fn before(&self, target: SocketAddr) {
        self.shared.target.set(target).unwrap();
    }

    /// Returns its URL as a provider, under that name.
    pub(crate) fn base_url(&self, host: &str) -> String {
        format!("https://{host}:{}/v1", self.address.port())
    }

    /// Returns the file of its certificate.
    pub(crate) fn certificate(&self) -> String {
        self.certificate.file().display().to_string()
    }

    /// Returns how each handshake went.
    pub(crate) fn handshakes(&self) -> Vec<Result<Greeting, String>> {
        self.shared.handshakes.lock().unwrap().clone()
    }
}

impl Shared {
    async fn accept(self: Arc<Self>, listener: TcpListener, acceptor: TlsAcceptor) {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (shared, acceptor) = (Arc::clone(&self), acceptor.clone());
            drop(tokio::spawn(async move {
                let accepted = acceptor.accept(socket).await;
                let greeting = accepted.as_ref().map(greeting).map_err(ToString::to_string);
                shared.handshakes.lock().unwrap().push(greeting);
                let Ok(mut outside) = accepted else { return };
                let mut inside = TcpStream::connect(shared.target.get().unwrap()).await.unwrap();
                inside.set_nodelay(true).unwrap();
                // Either side may break off: then the other one is closed as well.
                let _ended = tokio::io::copy_bidirectional(&mut outside, &mut inside).await.is_ok();
            }));
        }
    }
}

fn greeting(stream: &TlsStream<TcpStream>) -> Greeting {
    let (socket, connection) = stream.get_ref();
    socket.set_nodelay(true).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Greeting { name: connection.server_name().map(str::to_owned), protocol: connection.alpn_protocol().map(text) }
}

fn acceptor(certificate: &Certificate) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_file(certificate.file()).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certificate.key()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    // The server's order counts: a client that offered HTTP/2 would get it.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
