//! The providers, as a worker speaks to them.
//!
//! One [`Providers`] on each worker thread: a provider's connections belong to the thread that opened them. HTTP
//! providers are spoken to over HTTP/1.1, on connections that awc opens; the simulator answers in process. Hosts,
//! credentials and headers come from configuration only; of the caller's request the body and two labels are handed on.

mod dial;
mod exchange;
mod head;
mod pool;
mod remote;
mod simulator;

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    time::Duration,
};

use actors::{
    ports::{Patience, Upstream, UpstreamError, UpstreamRequest, UpstreamResponse},
    stream::breaker::Rules,
};
use futures_util::future::LocalBoxFuture;

use crate::config::{self, Provider};
use remote::HttpProvider;
pub use remote::UpstreamConfigError;
use simulator::Simulator;

/// Every configured provider, by name.
pub struct Providers(HashMap<Box<str>, One>);

enum One {
    Http(HttpProvider),
    Simulator(Simulator),
}

/// For a provider that isn't there, and for the simulator, which can't be silent.
const PATIENCE: Patience = Patience {
    first_byte: Duration::from_secs(60),
    gap: Duration::from_secs(60),
    total: None,
    retries: 0,
    retry_budget_percent: 0,
    breaker: Rules::NEVER,
};

impl Providers {
    /// Makes this thread's clients.
    ///
    /// # Errors
    /// A CA file that can't be read, or a header that is none.
    pub fn new(config: &BTreeMap<String, Provider>) -> Result<Self, UpstreamConfigError> {
        let one = |(name, provider): (&String, &Provider)| {
            let one = match provider {
                Provider::Http(config) => One::Http(HttpProvider::new(name, config)?),
                Provider::Simulator(config) => One::Simulator(Simulator::new(config)),
            };
            Ok((name.as_str().into(), one))
        };
        config.iter().map(one).collect::<Result<_, _>>().map(Self)
    }
}

/// Opens a connection to a provider as a request does, and closes it: a request could cost money.
///
/// # Errors
/// What is wrong with its configuration, or with the way to it.
pub async fn try_out(name: &str, config: &config::HttpProvider) -> Result<(), Box<dyn Error>> {
    Ok(HttpProvider::new(name, config)?.try_out().await?)
}

impl Upstream for Providers {
    fn open(&self, request: UpstreamRequest) -> LocalBoxFuture<'static, Result<UpstreamResponse, UpstreamError>> {
        match self.0.get(&*request.provider) {
            Some(One::Http(provider)) => provider.open(request),
            Some(One::Simulator(simulator)) => simulator.open(request),
            None => Box::pin(std::future::ready(Err(UpstreamError::Unknown))),
        }
    }

    fn patience(&self, provider: &str) -> Patience {
        match self.0.get(provider) {
            Some(One::Http(provider)) => provider.patience(),
            Some(One::Simulator(_)) | None => PATIENCE,
        }
    }
}
