//! `serve`: runs the service until it is told to stop.

use std::{future::pending, sync::Arc, time::Duration};

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
    config::{self, Config, LogFormat},
    store::NewUser,
    telemetry,
    token::Issuer,
};

pub(super) fn run(config: Config) -> Result<(), Failed> {
    telemetry::start(&config.log);
    let is_json = config.log.format == LogFormat::Json;
    serve(config).inspect_err(|failed| {
        // People read the sentence itself; who collects JSON may keep nothing else.
        if is_json {
            tracing::error!(exit_code = failed.code, "{}", failed.message);
        }
    })
}

fn serve(mut config: Config) -> Result<(), Failed> {
    prepare_folder(&config.data_dir)?;
    let made_here = config::ensure_secret(&mut config)?;
    System::new().block_on(async move {
        let mut stop = Signals::listen()?;
        let (service, server) = tokio::select! {
            started = Gateway::start(config) => started?,
            // Nothing runs yet: a database that doesn't answer must not keep a supervisor waiting.
            () = stop.wanted() => return Ok(()),
        };
        let mut server = actix_rt::spawn(server);
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
        let ended = tokio::select! {
            () = stop.wanted() => None,
            ended = &mut server => Some(ended),
        };
        // Whoever asks twice is in a hurry.
        service.stop(stop.wanted()).await;
        let by_itself = ended.is_some();
        let how = match ended {
            Some(how) => how,
            None => server.await,
        };
        let why = how.map_err(|panic| panic.to_string()).and_then(|run| run.map_err(|error| error.to_string())).err();
        let message = match (by_itself, why) {
            (false, None) => return Ok(()),
            (false, Some(why)) => why,
            (true, None) => "The server has ended by itself; what ran was drained.".to_owned(),
            (true, Some(why)) => format!("The server has ended by itself ({why}); what ran was drained."),
        };
        Err(Failed { code: INTERNAL, message })
    })
}

/// The signals that a service is sent, each of which would kill it at once if nobody took it.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Absent where it was ignored before the start, as `nohup` has it.
    hang_up: Option<Signal>,
    quit: Signal,
    first_user: Signal,
    second_user: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failed> {
        let kept = ignores_hang_up();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: (!kept).then(|| signal(SignalKind::hangup())).transpose()?,
            quit: signal(SignalKind::quit())?,
            first_user: signal(SignalKind::user_defined1())?,
            second_user: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for one that asks for an orderly end.
    ///
    /// # Cancel safety
    /// May be dropped; a signal that came meanwhile is still seen by the next call.
    async fn wanted(&mut self) {
        let hang_up = async |signal: &mut Option<Signal>| match signal {
            Some(signal) => signal.recv().await,
            None => pending().await,
        };
        loop {
            let signal = tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = hang_up(&mut self.hang_up) => return,
                _ = self.quit.recv() => return,
                _ = self.first_user.recv() => "SIGUSR1",
                _ = self.second_user.recv() => "SIGUSR2",
            };
            tracing::warn!("{signal} means nothing here");
        }
    }
}

/// Says whether whoever started this process wants it to outlive its terminal: by bit 0 of the signals that it ignores.
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    ignored.is_some_and(|signals| signals & 1 == 1)
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
