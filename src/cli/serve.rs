//! `serve`: runs the service until it is told to stop.

use std::{sync::Arc, time::Duration};

use actix_rt::System;
use actors::{
    domain::{Model, Role, UserId},
    ports::CatalogSource,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failed, INTERNAL, complain, print};
use crate::{
    boot::{Gateway, prepare_folder},
    clock::StoreClock,
    config::{self, Config},
    store::NewUser,
    telemetry,
    token::Issuer,
};

pub(super) fn run(mut config: Config) -> Result<(), Failed> {
    telemetry::start(&config.log);
    prepare_folder(&config.data_dir)?;
    let made_here = config::ensure_secret(&mut config)?;
    System::new().block_on(async move {
        let mut stop = StopSignals::listen()?;
        let (service, server) = tokio::select! {
            started = Gateway::start(config) => started?,
            // Nothing runs yet: a database that doesn't answer must not keep a supervisor waiting.
            () = stop.wanted() => return Ok(()),
        };
        let server = actix_rt::spawn(server);
        let serves = tokio::select! {
            recovered = service.recover() => recovered.map(|_| true),
            // What isn't recovered by then waits in the data folder for the next start.
            () = stop.wanted() => Ok(false),
        };
        if !matches!(serves, Ok(true)) {
            service.stop(stop.wanted()).await;
            return Ok(serves.map(drop)?);
        }
        tracing::info!(address = %service.address(), "serving");
        if service.config().is_simulated() {
            tracing::warn!("no provider has a key: a simulator answers, and its answers are made up");
        }
        if made_here {
            match model(&service).await? {
                Some(model) => print(&invitation(&service, &model).await?),
                None => complain(&without_a_model(service.config())),
            }
        }
        stop.wanted().await;
        // Whoever asks twice is in a hurry.
        service.stop(stop.wanted()).await;
        match server.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
            Err(panic) => Err(Failed { code: INTERNAL, message: panic.to_string() }),
        }
    })
}

/// The signals that ask for an orderly end.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn listen() -> Result<Self, Failed> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one of them.
    async fn wanted(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Who calls by the printed line.
const GUEST: &str = "guest";
/// A model that OpenRouter has had for long.
const PASSED_ON: &str = "openai/gpt-4o-mini";
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes the line that a newcomer pastes: a chat with a fresh token, which only holds where the secret was made here.
async fn invitation(service: &Gateway, model: &str) -> Result<String, Failed> {
    let user: UserId = GUEST.parse().map_err(|_invalid| Failed::usage("the guest has no valid id"))?;
    let plan = Some("unlimited".to_owned());
    service.store().set_user(NewUser { id: user.clone(), plan, role: Role::User }).await?;
    let issuer = Issuer::new(&service.config().auth.jwt, Arc::new(StoreClock::new()))?;
    let issued = issuer.issue(&user, Role::User, None, A_DAY)?;
    Ok(format!(
        "curl -N http://{}/api/hasNotEngine-optimized -H 'authorization: Bearer {}' -H 'content-type: application/json' \
         -d '{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'",
        service.address(),
        issued.token,
    ))
}

/// Returns a model that is answered: one of the catalog, or one that is passed on.
async fn model(service: &Gateway) -> Result<Option<String>, Failed> {
    let config = service.config();
    let is_asked = |model: &&Model| config.providers.get(&*model.provider).is_some_and(|provider| !provider.is_idle());
    let models = service.store().catalog().await?.models;
    let model = models.iter().filter(is_asked).map(|model| model.id.to_string()).min();
    Ok(model.or_else(|| config.pass_through_provider().map(|_| PASSED_ON.to_owned())))
}

/// Says how a model is added.
fn without_a_model(config: &Config) -> String {
    let asked = config.providers.iter().find(|(_, provider)| !provider.is_idle());
    let provider = asked.map_or("PROVIDER", |(name, _)| name);
    format!(
        "No model is served yet: `hasnot-engine model add MODEL --class basic --provider {provider}` adds one, by the \
         name that {provider} has for it."
    )
}
