//! One connection: requests come in, one after the other, and are routed.

use super::{
    Ending, Gate, Options, Released,
    books::{Books, Entry},
    play::{After, Player},
    request::{ChatBody, NoRequest, Request},
    scenario::Scenario,
    script::{Ask, Figures, Script, error_body},
    whole::reason,
    wire::Wire,
};
use crate::clock;
use bytes::Bytes;
use serde_json::json;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{net::TcpStream, sync::watch};

/// Scripts that are kept, at most; those of further model names are built for each request and remember nothing.
const MAX_SCRIPTS: usize = 4096;
/// Entries in one answer of `/__books`, unless the query asks for more.
const BOOKS_PAGE: usize = 1000;

/// What all connections of one mock share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) books: Arc<Books>,
    pub(super) options: Options,
    pub(super) defaults: Scenario,
    pub(super) scripts: Mutex<HashMap<String, Arc<Script>>>,
    pub(super) released: watch::Sender<Released>,
}

/// Serves a connection until either side closes it.
pub(super) async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    let open = shared.books.open_connection();
    let Ok(mut wire) = Wire::new(socket) else { return };
    loop {
        let after = match Request::read(&mut wire).await {
            Ok(request) => shared.answer(&mut wire, request, open.id).await,
            Err(NoRequest::Gone) => After::Close,
            Err(NoRequest::Malformed(why)) => {
                reply(&mut wire, 400, &error_body(&why, 400)).await;
                After::Close
            }
        };
        match after {
            After::KeepAlive => {}
            After::Close => return,
            After::Reset => return wire.reset(),
        }
    }
}

impl Shared {
    async fn answer(self: &Arc<Self>, wire: &mut Wire, request: Request, connection: u64) -> After {
        let close = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let after = match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/__books/totals") => reply(wire, 200, &json!(self.books.totals()).to_string()).await,
            ("GET", "/__books") => reply(wire, 200, &self.books_page(&request)).await,
            ("POST", "/__release") => {
                self.release(&request);
                reply(wire, 200, "{}").await
            }
            ("GET", path) if path.ends_with("/models") => reply(wire, 200, &models()).await,
            ("POST", path) if path.ends_with("/chat/completions") => self.chat(wire, request, connection).await,
            _ => reply(wire, 404, &error_body("no such path", 404)).await,
        };
        if close && after == After::KeepAlive { After::Close } else { after }
    }

    async fn chat(self: &Arc<Self>, wire: &mut Wire, request: Request, connection: u64) -> After {
        let authorized = self.options.api_key.as_ref().is_none_or(|key| {
            request.header("authorization").and_then(|value| value.strip_prefix("Bearer ")) == Some(key)
        });
        let parsed = match serde_json::from_slice::<ChatBody<'_>>(&request.body) {
            _ if !authorized => Err((401, "wrong key".to_owned())),
            Err(error) => Err((400, error.to_string())),
            Ok(body) => match self.script(&body.model) {
                Ok(script) => {
                    let ask = ask(&body, &script.scenario);
                    Ok((script, ask))
                }
                Err(why) => Err((400, why)),
            },
        };
        let (script, ask) = match parsed {
            Ok(parsed) => parsed,
            Err((status, why)) => {
                let nothing = Ask::default();
                let mut record = self.books.open(|sequence| self.entry(sequence, connection, &request, None, &nothing));
                (record.status, record.ending) = (status, Ending::Refused);
                return reply(wire, status, &error_body(&why, status)).await;
            }
        };
        let record = self.books.open(|sequence| self.entry(sequence, connection, &request, Some(&script), &ask));
        drop(request);
        let gate = Gate { released: self.released.subscribe(), model: script.name.clone() };
        Player::new(wire, &script, &ask, gate, record).play().await
    }

    fn script(&self, model: &str) -> Result<Arc<Script>, String> {
        let mut scripts = self.scripts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(script) = scripts.get(model) {
            return Ok(Arc::clone(script));
        }
        let script = Arc::new(Script::new(model, &self.defaults)?);
        if scripts.len() < MAX_SCRIPTS {
            scripts.insert(model.to_owned(), Arc::clone(&script));
        }
        Ok(script)
    }

    fn entry(&self, sequence: u64, connection: u64, request: &Request, script: Option<&Script>, ask: &Ask) -> Entry {
        let kept = request.body.len().min(self.options.keep_body);
        Entry {
            sequence,
            connection,
            path: request.path.clone(),
            model: script.map(|script| script.name.clone()).unwrap_or_default(),
            marker: ask.marker.clone(),
            stream: ask.stream,
            include_usage: ask.include_usage,
            prompt_tokens: ask.figures.prompt,
            completion_tokens: ask.figures.completion,
            cost_nanodollars: script.and_then(|script| script.scenario.cost.as_ref()).map(|cost| cost.nanodollars()),
            status: 0,
            frames: 0,
            usage_sent: false,
            done_sent: false,
            ending: Ending::Open,
            headers: request.headers.as_slice().into(),
            body_bytes: request.body.len(),
            body: request.body.get(..kept).map(Bytes::copy_from_slice).unwrap_or_default(),
            received_at: clock::now(),
            ended_at: None,
            peer_closed_at: None,
        }
    }

    fn books_page(&self, request: &Request) -> String {
        let limit = request.parameter("limit").unwrap_or(BOOKS_PAGE);
        let entries = self.books.entries(request.parameter("from").unwrap_or(0), limit);
        let entries: Vec<_> = entries.iter().map(|entry| self.books.to_json(entry)).collect();
        json!({"totals": self.books.totals(), "entries": entries}).to_string()
    }

    fn release(&self, request: &Request) {
        let model = String::from_utf8_lossy(&request.body).trim().to_owned();
        self.released.send_modify(|released| released.add(&model));
    }
}

fn ask(body: &ChatBody<'_>, scenario: &Scenario) -> Ask {
    let figures = Figures {
        prompt: scenario.prompt_tokens.unwrap_or_else(|| body.prompt_tokens()),
        completion: scenario.completion_tokens.unwrap_or(scenario.frames as u64),
    };
    Ask { stream: body.streams(), include_usage: body.includes_usage(), marker: body.marker(), figures }
}

fn models() -> String {
    json!({"object": "list", "data": [{"id": "mock/chat", "object": "model", "created": 0, "owned_by": "mock"}]})
        .to_string()
}

async fn reply(wire: &mut Wire, status: u16, body: &str) -> After {
    let head = format!(
        "HTTP/1.1 {status} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        reason(status),
        body.len()
    );
    if wire.write(head.as_bytes()).await.is_ok() { After::KeepAlive } else { After::Close }
}
