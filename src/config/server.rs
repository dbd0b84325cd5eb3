//! `[server]`: the listener, its limits and who may call from a browser.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};
use url::Url;

use super::{Profile, error::Problems, values::minutes};

/// Open files that are neither a client's nor a provider's connection: databases, Redis, journals, listeners, logs.
const OWN_FILES: usize = 200;
/// The most worker threads.
pub(super) const MAX_WORKERS: usize = 1_024;

/// How clients are served: `[server]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// The address to listen on; port 0 takes a free one.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Worker threads, 0 to 1,024; 0 = one for each core. See [`Self::worker_count`].
    pub workers: usize,
    /// The most bytes of a request's body, 1 KiB to 1 GiB.
    pub max_body_bytes: usize,
    /// How long a client may take for the head of a request, from the connection's start: 1 s to 10 min.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// How long a client may take for the body of a request: 1 s to 10 min.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// How long an idle connection is kept: 1 s to 1 h.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// Connections that wait to be accepted, 1 to 65,535.
    pub backlog: u32,
    /// Requests that run at once, up to 1,000,000; 0 = derived. See [`Self::admission`].
    pub max_streams: usize,
    /// Client connections at once, up to 1,000,000; 0 = derived. See [`Self::admission`].
    pub max_connections: usize,
    /// The kernel's send buffer of a client connection (`SO_SNDBUF`), 4 KiB to 16 MiB.
    pub send_buffer_bytes: usize,
    /// How long a client may leave sent bytes unacknowledged (`TCP_USER_TIMEOUT`): 1 s to 10 min.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// What the report and the memory alert measure against, in MB (1,048,576 bytes): 16 to 1,048,576.
    pub memory_limit_mb: u64,
    /// Origins that browsers may call from: `*` alone, or such as `https://app.example.com`.
    pub cors_origins: Vec<String>,
    /// Whether browsers may send credentials; never together with `*`.
    pub cors_credentials: bool,
}

/// How much is let in at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Requests that run at once, on all workers.
    pub streams: usize,
    /// Client connections at once, on all workers.
    pub connections: usize,
}

impl ServerConfig {
    /// Returns the number of worker threads: as configured, else one for each core.
    #[must_use]
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            workers => workers,
        }
    }

    /// Derives what `max_streams` and `max_connections` leave open from the number of files that may be open.
    ///
    /// A stream takes two, the client's connection and the provider's: 20,000 open files carry 9,900 streams.
    #[must_use]
    pub fn admission(&self, open_files: u64) -> Admission {
        let files = usize::try_from(open_files).unwrap_or(usize::MAX).saturating_sub(OWN_FILES).max(2);
        let streams = if self.max_streams == 0 { files / 2 } else { self.max_streams };
        let left = files.saturating_sub(streams).max(1);
        let connections = if self.max_connections == 0 { left } else { self.max_connections };
        Admission { streams: streams.min(1_000_000), connections: connections.min(1_000_000) }
    }

    pub(super) fn check(&self, profile: Profile, problems: &mut Problems) {
        if profile == Profile::Development && !self.listen.ip().to_canonical().is_loopback() {
            let allowed = "a loopback address such as 127.0.0.1:3000 in the profile development (HNE_PROFILE=production serves the world)";
            problems.refuse("server.listen", self.listen, allowed);
        }
        problems.within("server.workers", self.workers, 0..=MAX_WORKERS);
        problems.within("server.max_body_bytes", self.max_body_bytes, 1 << 10..=1 << 30);
        problems.within_time("server.header_timeout", self.header_timeout, Duration::from_secs(1)..=minutes(10));
        problems.within_time("server.body_timeout", self.body_timeout, Duration::from_secs(1)..=minutes(10));
        problems.within_time("server.keep_alive", self.keep_alive, Duration::from_secs(1)..=minutes(60));
        problems.within("server.backlog", self.backlog, 1..=65_535);
        problems.within("server.max_streams", self.max_streams, 0..=1_000_000);
        problems.within("server.max_connections", self.max_connections, 0..=1_000_000);
        problems.within("server.send_buffer_bytes", self.send_buffer_bytes, 4 << 10..=16 << 20);
        problems.within_time("server.write_timeout", self.write_timeout, Duration::from_secs(1)..=minutes(10));
        problems.within("server.memory_limit_mb", self.memory_limit_mb, 16..=1 << 20);
        self.check_cors(problems);
    }

    fn check_cors(&self, problems: &mut Problems) {
        let key = "server.cors_origins";
        let any = self.cors_origins.iter().any(|origin| origin == "*");
        if any && self.cors_credentials {
            let allowed = "false where `server.cors_origins` has \"*\": credentials are for origins that are named";
            problems.refuse("server.cors_credentials", true, allowed);
        }
        if any && self.cors_origins.len() > 1 {
            problems.refuse(key, "\"*\" and others", "\"*\" alone, or only origins that are named");
        }
        let is_origin = |origin: &str| {
            let url = Url::parse(origin).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            url.is_some_and(|url| url.origin().ascii_serialization() == origin)
        };
        for origin in self.cors_origins.iter().filter(|origin| *origin != "*" && !is_origin(origin)) {
            let allowed = "\"*\", or as browsers send it: http or https, host, port if unusual, no path";
            problems.refuse(key, format_args!("{origin:?}"), allowed);
        }
    }
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    let numeric = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(&text).parse().map_err(|_error| {
        D::Error::custom("expected ADDRESS:PORT, such as \"127.0.0.1:3000\", \"[::1]:3000\" or \"0.0.0.0:3000\"")
    })
}
