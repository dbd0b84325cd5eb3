//! PostgreSQL: how a connection is opened and set up.

use std::{error::Error, time::Duration};

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use tokio::time::timeout;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{link::Postgres, tls::Tls};

/// A server that has been silent for this long is asked whether it lives, three times, …
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// … with this between them.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// What was sent and not acknowledged for this long breaks the connection (Linux).
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// A URL, read.
pub(super) struct Address {
    pub(super) config: tokio_postgres::Config,
    pub(super) tls: Tls,
}

/// A server, with all that opening a connection to it takes.
pub(super) struct Target {
    config: tokio_postgres::Config,
    tls: MakeRustlsConnect,
    connect_timeout: Duration,
    statement_timeout: Duration,
}

impl Target {
    /// Gets everything ready, without connecting.
    ///
    /// # Errors
    /// A sentence: the root certificate can't be read.
    pub(super) fn new(
        address: Address,
        connect_timeout: Duration,
        statement_timeout: Duration,
    ) -> Result<Self, String> {
        let Address { mut config, tls } = address;
        config
            .connect_timeout(connect_timeout)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(3)
            .tcp_user_timeout(UNACKNOWLEDGED);
        Ok(Self { config, tls: tls.connector()?, connect_timeout, statement_timeout })
    }

    /// Opens a connection, whose driver becomes a task of the current runtime.
    ///
    /// # Errors
    /// A sentence without the password.
    pub(super) async fn connect(&self) -> Result<Postgres, String> {
        match timeout(self.connect_timeout, self.open()).await {
            Ok(opened) => opened,
            Err(_elapsed) => Err(format!("no connection within {:?}", self.connect_timeout)),
        }
    }

    async fn open(&self) -> Result<Postgres, String> {
        let (client, connection) = self.config.connect(self.tls.clone()).await.map_err(|error| with_causes(&error))?;
        let mut link = AsyncPgConnection::try_from_client_and_connection(client, connection)
            .await
            .map_err(|error| with_causes(&error))?;
        link.batch_execute(&self.setup()).await.map_err(|error| with_causes(&error))?;
        Ok(link)
    }

    /// By statements instead of startup parameters, which poolers refuse.
    fn setup(&self) -> String {
        let millis = self.statement_timeout.as_millis();
        format!(
            "SET statement_timeout = {millis}; \
             SET idle_in_transaction_session_timeout = {millis}; \
             SET default_transaction_isolation = 'read committed'"
        )
    }
}

/// Puts the causes behind an error, since the outermost often only says «db error».
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
