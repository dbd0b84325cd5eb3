//! What a scenario puts on the wire, built once for each model: frames in their chunks, the tail, the whole answer. Pure.

use super::scenario::{Content, Fault, LineEnd, Scenario, UsageForm};
use bytes::Bytes;
use std::{fmt::Write as _, ops::Range, sync::Arc, sync::atomic::AtomicU32};

/// Stands in a `stamp` frame where the time of sending goes: nanoseconds since 1970.
pub(super) const STAMP: &[u8; 19] = b"0000000000000000000";

const ID: &str = "chatcmpl-mock";
const CREATED: u32 = 1_700_000_000;
/// Text of every error body, so that tests can look for it where it must not be.
const DETAIL: &str = "mock-provider-detail";

/// Bytes for one write, and where the payload lies between the framing of its chunk.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) wire: Bytes,
    pub(super) payload: Range<usize>,
}

/// The last frames of a stream, and what they tell.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) piece: Option<Piece>,
    pub(super) usage: bool,
    pub(super) done: bool,
}

/// The usage figures of one request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pub(super) prompt: u64,
    pub(super) completion: u64,
}

/// What one request asks of a script.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) marker: String,
    pub(super) figures: Figures,
}

/// One model's scenario and its frames.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) scenario: Scenario,
    /// Requests for this exact model name so far, for `fail-first-K`.
    pub(super) asked: AtomicU32,
    pub(super) name: String,
    /// The name as a JSON string.
    model: String,
    frames: Arc<[Piece]>,
}

impl Script {
    pub(super) fn new(model: &str, defaults: &Scenario) -> Result<Self, String> {
        let mut script = Self {
            scenario: defaults.for_model(model)?,
            asked: AtomicU32::new(0),
            name: model.to_owned(),
            model: serde_json::Value::from(model).to_string(),
            frames: Arc::default(),
        };
        // These depend on the request's figures or marker.
        if script.scenario.content != Content::Echo && script.scenario.usage != UsageForm::Running {
            script.frames = script.build_frames(&Ask::default());
        }
        Ok(script)
    }

    /// Frames of the content, one for each write.
    pub(super) fn frames(&self, ask: &Ask) -> Arc<[Piece]> {
        if self.frames.is_empty() { self.build_frames(ask) } else { Arc::clone(&self.frames) }
    }

    /// What comes before the first frame: a byte-order mark, the first comment.
    pub(super) fn opening(&self) -> Option<Piece> {
        let mut payload = Vec::new();
        if self.scenario.bom {
            payload.extend_from_slice("\u{feff}".as_bytes());
        }
        if self.scenario.comments {
            self.comment(&mut payload);
        }
        (!payload.is_empty()).then(|| self.piece(&payload))
    }

    /// Finish reason, usage and `[DONE]`, as far as the scenario has them.
    pub(super) fn tail(&self, ask: &Ask) -> Tail {
        let (form, figures) = (self.scenario.usage, ask.figures);
        let usage = (self.usage_wanted(ask) && form != UsageForm::None).then(|| self.usage(figures, form));
        let finish = if self.scenario.finish_reason { r#""stop""# } else { "null" };
        let mut payload = Vec::new();
        let closing = format!(r#"[{{"index":0,"delta":{{}},"finish_reason":{finish}}}]"#);
        let apart = matches!(form, UsageForm::Apart | UsageForm::OpenRouter | UsageForm::Twice);
        if self.scenario.finish_reason || (usage.is_some() && !apart) {
            let half = Figures { prompt: figures.prompt, completion: figures.completion / 2 };
            let first = (form == UsageForm::Twice).then(|| self.usage(half, form));
            let beside = if apart { first.as_ref().filter(|_| usage.is_some()) } else { usage.as_ref() };
            self.frame(&mut payload, &self.chunk(&closing, beside.map(String::as_str)));
        }
        if let Some(usage) = usage.as_deref().filter(|_| apart) {
            let empty = r#"[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]"#;
            let choices = if form == UsageForm::OpenRouter { empty } else { "[]" };
            self.frame(&mut payload, &self.chunk(choices, Some(usage)));
        }
        if self.scenario.done {
            self.frame(&mut payload, "[DONE]");
        }
        Tail {
            usage: usage.is_some() && self.usage_is_valid(),
            done: self.scenario.done,
            piece: (!payload.is_empty()).then(|| self.piece(&payload)),
        }
    }

    /// An error in the place of the first frame: a bare object.
    pub(super) fn error_first(&self) -> Piece {
        let mut payload = Vec::new();
        self.frame(&mut payload, &error_body("first", 502));
        self.piece(&payload)
    }

    /// A frame whose data is no JSON.
    pub(super) fn broken_frame(&self) -> Piece {
        let mut payload = Vec::new();
        self.frame(&mut payload, r#"{"choices":[{"delta":{"content":"#);
        self.piece(&payload)
    }

    /// An error in the middle of a stream, in the shape that OpenRouter documents.
    pub(super) fn error_midway(&self) -> Piece {
        let choices = r#"[{"index":0,"delta":{"content":""},"finish_reason":"error"}]"#;
        let chunk = self.chunk(choices, None);
        let error = format!(r#"{{"error":{{"code":502,"message":"Provider disconnected: {DETAIL}"}},"#);
        let mut payload = Vec::new();
        self.frame(&mut payload, &chunk.replacen('{', &error, 1));
        self.piece(&payload)
    }

    /// Whether the usage that the scenario sends, if it sends any, is what the books say.
    pub(super) const fn usage_is_valid(&self) -> bool {
        use UsageForm::{Huge, Negative, None, Null, Text};
        !matches!(self.scenario.usage, None | Negative | Huge | Text | Null)
    }

    /// The whole answer for `stream: false`; one that broke off says so in its choice.
    pub(super) fn answer(&self, ask: &Ask, fault: Option<Fault>) -> String {
        let text: String = (0..self.scenario.frames).map(|index| self.text(index, &ask.marker)).collect();
        let message = match self.scenario.content {
            Content::ToolCalls => format!(r#"{{"role":"assistant","content":null,{}}}"#, tool_call(0, &text)),
            Content::Reasoning => format!(r#"{{"role":"assistant","content":"","reasoning":{}}}"#, quote(&text)),
            _ => format!(r#"{{"role":"assistant","content":{}}}"#, quote(&text)),
        };
        let end = match fault {
            Some(Fault::ErrorAfter(_)) => format!(r#""error",{}"#, error_member("error", 502)),
            _ => r#""stop""#.to_owned(),
        };
        let mut answer = format!(
            r#"{{"id":"{ID}","object":"chat.completion","created":{CREATED},"model":{},"choices":[{{"index":0,"message":{message},"finish_reason":{end}}}]"#,
            self.model
        );
        if self.scenario.usage != UsageForm::None {
            answer.push_str(r#","usage":"#);
            answer.push_str(&self.usage(ask.figures, self.scenario.usage));
        }
        answer.push('}');
        answer
    }

    const fn usage_wanted(&self, ask: &Ask) -> bool {
        ask.include_usage || self.scenario.usage_unasked
    }

    fn build_frames(&self, ask: &Ask) -> Arc<[Piece]> {
        let running = self.scenario.usage == UsageForm::Running && self.usage_wanted(ask);
        let (mut wire, mut places) = (Vec::new(), Vec::with_capacity(self.scenario.frames));
        let mut payload = Vec::new();
        for index in 0..self.scenario.frames {
            payload.clear();
            if self.scenario.comments && index > 0 {
                self.comment(&mut payload);
            }
            let so_far = Figures { prompt: ask.figures.prompt, completion: index as u64 + 1 };
            let usage = running.then(|| self.usage(so_far, UsageForm::Running));
            let choices = self.choices(index, &self.text(index, &ask.marker));
            self.frame(&mut payload, &self.chunk(&choices, usage.as_deref()));
            let start = wire.len();
            let inner = self.enclose(&mut wire, &payload);
            places.push((start..wire.len(), inner));
        }
        let wire = Bytes::from(wire);
        let piece = |(all, payload): (Range<usize>, _)| Piece { wire: wire.slice(all), payload };
        places.into_iter().map(piece).collect()
    }

    /// One delta. The first also carries the role.
    fn choices(&self, index: usize, text: &str) -> String {
        let role = if index == 0 { r#""role":"assistant","# } else { "" };
        let delta = match self.scenario.content {
            Content::ToolCalls => tool_call(index, text),
            Content::Reasoning => format!(r#""content":"","reasoning":{}"#, quote(text)),
            _ => format!(r#""content":{}"#, quote(text)),
        };
        format!(r#"[{{"index":0,"delta":{{{role}{delta}}},"finish_reason":null}}]"#)
    }

    /// Text of a frame: numbered, so that a lost, doubled or swapped one shows.
    fn text(&self, index: usize, marker: &str) -> String {
        let size = self.scenario.bytes;
        match self.scenario.content {
            Content::Echo => format!("{marker}#{index} "),
            Content::Stamp => String::from_utf8_lossy(STAMP).into_owned(),
            Content::Unicode => {
                let mut text = String::new();
                for letter in "é漢🦀ß→".chars().cycle().skip(index % 5) {
                    if text.len() >= size {
                        break;
                    }
                    text.push(letter);
                }
                text
            }
            _ => {
                let number = format!(" w{index:06}");
                match size.checked_sub(number.len()) {
                    Some(more) => number + &"x".repeat(more),
                    None => number.chars().rev().take(size).collect(),
                }
            }
        }
    }

    fn usage(&self, figures: Figures, form: UsageForm) -> String {
        let Figures { prompt, completion } = figures;
        let mut usage = match form {
            UsageForm::Null => return "null".to_owned(),
            UsageForm::Negative => r#"{"prompt_tokens":-5,"completion_tokens":-7,"total_tokens":-12"#.to_owned(),
            UsageForm::Huge => {
                r#"{"prompt_tokens":9000000000000,"completion_tokens":9000000000000,"total_tokens":18000000000000"#
                    .to_owned()
            }
            UsageForm::Text => {
                format!(r#"{{"prompt_tokens":"{prompt}","completion_tokens":"{completion}","total_tokens":"x""#)
            }
            _ => {
                let total = prompt.saturating_add(completion);
                format!(r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{total}"#)
            }
        };
        if let Some(cost) = &self.scenario.cost {
            // Writing to a string can't fail.
            write!(usage, r#","cost":{cost}"#).ok();
        }
        usage.push('}');
        usage
    }

    fn chunk(&self, choices: &str, usage: Option<&str>) -> String {
        let model = &self.model;
        let usage = usage.map_or_else(String::new, |usage| format!(r#","usage":{usage}"#));
        format!(
            r#"{{"id":"{ID}","object":"chat.completion.chunk","created":{CREATED},"model":{model},"choices":{choices}{usage}}}"#
        )
    }

    fn frame(&self, out: &mut Vec<u8>, data: &str) {
        let (field, end) = (if self.scenario.tight { "data:" } else { "data: " }, self.line_end());
        // White space may stand after an object's opening brace, so the lines join to the same JSON.
        match data.strip_prefix('{').filter(|_| self.scenario.multiline) {
            Some(rest) => [field, "{", end, field, rest, end, end].iter().for_each(|part| out.extend(part.as_bytes())),
            None => [field, data, end, end].iter().for_each(|part| out.extend(part.as_bytes())),
        }
    }

    fn comment(&self, out: &mut Vec<u8>) {
        let end = self.line_end();
        [": OPENROUTER PROCESSING", end, end].iter().for_each(|part| out.extend(part.as_bytes()));
    }

    const fn line_end(&self) -> &'static str {
        match self.scenario.line_end {
            LineEnd::Lf => "\n",
            LineEnd::Crlf => "\r\n",
            LineEnd::Cr => "\r",
        }
    }

    fn piece(&self, payload: &[u8]) -> Piece {
        let mut wire = Vec::with_capacity(payload.len() + 16);
        let payload = self.enclose(&mut wire, payload);
        Piece { wire: wire.into(), payload }
    }

    /// Appends a payload in its chunk; the range counts from the chunk's start.
    fn enclose(&self, wire: &mut Vec<u8>, payload: &[u8]) -> Range<usize> {
        let before = if self.scenario.until_close { String::new() } else { format!("{:x}\r\n", payload.len()) };
        wire.extend(before.as_bytes());
        wire.extend(payload);
        if !self.scenario.until_close {
            wire.extend(b"\r\n");
        }
        before.len()..before.len() + payload.len()
    }
}

/// The JSON body of a refusal.
pub(super) fn error_body(what: &str, code: u16) -> String {
    format!("{{{}}}", error_member(what, code))
}

fn error_member(what: &str, code: u16) -> String {
    format!(r#""error":{{"message":"mock: {what} ({DETAIL})","type":"mock_error","code":{code}}}"#)
}

fn tool_call(index: usize, arguments: &str) -> String {
    let name = if index == 0 { r#""id":"call_0","type":"function","# } else { "" };
    let function = if index == 0 { r#""name":"look_up","# } else { "" };
    format!(r#""tool_calls":[{{"index":0,{name}"function":{{{function}"arguments":{}}}}}]"#, quote(arguments))
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
