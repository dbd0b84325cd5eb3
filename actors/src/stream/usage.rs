//! What an answer used: the provider's figures where they are believable, else our estimate.
//!
//! In: the JSON of a frame or of a whole answer. Out: [`Usage`], and what else it says about the request's end. Pure;
//! nothing is allocated.

use std::fmt;

use memchr::memchr2;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::domain::{Nanodollars, Usage};

/// Figures of 2^31 and more are no token counts.
const MAX_TOKENS: u32 = i32::MAX.unsigned_abs();

/// Returns the most tokens that a provider may report for a prompt or a completion and be believed: the model's context
/// for each of `n` answers, where that is known.
#[must_use]
pub fn believable_tokens(context: Option<u32>, n: u32) -> u32 {
    context.map_or(MAX_TOKENS, |context| context.saturating_mul(n.max(1)).min(MAX_TOKENS))
}

/// Estimates the prompt: a token for each four bytes of `messages`, rounded up, at most the model's context.
#[must_use]
pub fn estimate_prompt(messages_bytes: u64, context: Option<u32>) -> u32 {
    let most = context.unwrap_or(MAX_TOKENS).min(MAX_TOKENS);
    u32::try_from(messages_bytes.div_ceil(4)).map_or(most, |tokens| tokens.min(most))
}

/// Estimates the completion: the larger of the frames that had text, and a token for each four bytes of text, rounded up.
#[must_use]
pub fn estimate_completion(content_frames: u64, content_bytes: u64) -> u32 {
    u32::try_from(content_frames.max(content_bytes.div_ceil(4))).unwrap_or(MAX_TOKENS).min(MAX_TOKENS)
}

/// What a frame or a whole answer says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Answer {
    /// Believable usage, if there is any: both figures are whole numbers within bounds.
    pub usage: Option<Usage>,
    /// Whether it has a `usage` that isn't null, believable or not.
    pub has_usage: bool,
    /// Whether it has a top-level `error` that isn't null, false or "".
    pub error: bool,
    /// How many choices it has.
    pub choices: usize,
    /// How many of them broke off: their `finish_reason` is `error`, or they have an `error` of their own, as OpenRouter's
    /// whole answers do.
    pub broken: usize,
    /// Which choices have a `finish_reason`, other than an empty one and `error`: a bit for each, by its index.
    pub finished: u128,
    /// Bytes of text in its choices' messages (not in a frame's deltas), as [`text`] counts them.
    pub content_bytes: u64,
}

/// Reads a frame's payload or a whole answer; `None` if it is no JSON object of that shape. `max_tokens` comes from
/// [`believable_tokens`]. Takes about 1 ns a byte.
#[must_use]
pub fn read_answer(json: &[u8], max_tokens: u32) -> Option<Answer> {
    // serde would read a list as a struct, too.
    next_is(json, 0, b'{')?;
    // Once for all of it, not for each string.
    let json = std::str::from_utf8(json).ok()?;
    let body: Body<'_> = serde_json::from_str(json).ok()?;
    let choices = body.choices.unwrap_or_default();
    Some(Answer {
        usage: body.usage.and_then(|usage| read_usage(usage.get(), max_tokens)),
        has_usage: body.usage.is_some(),
        error: body.error.is_some_and(|error| !matches!(error.get(), r#""""# | "false")),
        choices: choices.count,
        broken: choices.broken,
        finished: choices.finished,
        content_bytes: choices.content_bytes,
    })
}

/// What is looked at; `null` is `None`. Of a key that is there several times the last value counts, as with most readers
/// of JSON: an answer that a provider bills is not refused for it.
#[derive(Default)]
struct Body<'a> {
    usage: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
    choices: Option<Choices>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Usage,
    Error,
    Choices,
    #[serde(other)]
    Other,
}

impl<'de> Deserialize<'de> for Body<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Body<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an answer")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body<'de>, A::Error> {
                let mut body = Body::default();
                while let Some(key) = map.next_key()? {
                    match key {
                        Key::Usage => body.usage = map.next_value()?,
                        Key::Error => body.error = map.next_value()?,
                        Key::Choices => body.choices = map.next_value()?,
                        Key::Other => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(body)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: Option<u32>,
    #[serde(borrow, default)]
    finish_reason: Option<&'a RawValue>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// The choices, added up while they are read.
#[derive(Default)]
struct Choices {
    count: usize,
    broken: usize,
    finished: u128,
    content_bytes: u64,
}

impl<'de> Deserialize<'de> for Choices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sum;

        impl<'de> Visitor<'de> for Sum {
            type Value = Choices;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("choices")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Choices, A::Error> {
                let mut choices = Choices::default();
                while let Some(choice) = items.next_element::<Choice<'de>>()? {
                    choices.count += 1;
                    let reason = choice.finish_reason.map(RawValue::get);
                    choices.broken += usize::from(choice.error.is_some() || reason == Some(BROKEN));
                    if reason.is_some_and(finishes) {
                        // 128 is the most that may be asked for.
                        choices.finished |= 1 << choice.index.unwrap_or(0).min(127);
                    }
                    choices.content_bytes += choice.message.map_or(0, |message| text(message.get().as_bytes()).bytes);
                }
                Ok(choices)
            }
        }

        deserializer.deserialize_seq(Sum)
    }
}

/// The `finish_reason` of what broke off.
const BROKEN: &str = r#""error""#;

/// Some providers write an empty reason into each frame.
fn finishes(reason: &str) -> bool {
    !matches!(reason, r#""""# | BROKEN)
}

#[derive(Deserialize)]
struct RawUsage<'a> {
    #[serde(borrow, default)]
    prompt_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    completion_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    cost: Option<&'a RawValue>,
}

/// A cost that can't be read or believed is as good as none: price then decides. Such tokens make the whole usage void.
fn read_usage(json: &str, max_tokens: u32) -> Option<Usage> {
    next_is(json.as_bytes(), 0, b'{')?;
    let raw: RawUsage<'_> = serde_json::from_str(json).ok()?;
    let tokens = |figure: Option<&RawValue>| {
        let figure = figure?.get();
        let whole = figure.strip_suffix(".0").unwrap_or(figure);
        whole.parse::<u32>().ok().filter(|tokens| *tokens <= max_tokens)
    };
    Some(Usage {
        prompt_tokens: tokens(raw.prompt_tokens)?,
        completion_tokens: tokens(raw.completion_tokens)?,
        cost: raw
            .cost
            .and_then(|cost| Nanodollars::from_decimal(cost.get().trim_matches('"')))
            .filter(|cost| *cost <= Nanodollars::DEAREST_REQUEST),
    })
}

/// Text found in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Text {
    /// Its bytes.
    pub bytes: u64,
    /// How long the object is.
    pub object_len: usize,
}

/// A value whose strings count by rules of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// A list in the place of `content`: its parts' `text` counts, too.
    Parts,
    /// `reasoning_details`, which say once more what `reasoning` says, as a rule.
    Details,
    /// `annotations`: what they quote is not the model's.
    Annotations,
}

impl Within {
    fn of(key: &[u8]) -> Option<Self> {
        match key {
            b"content" => Some(Self::Parts),
            b"reasoning_details" => Some(Self::Details),
            b"annotations" => Some(Self::Annotations),
            _ => None,
        }
    }
}

/// Bytes of text, by what they are.
#[derive(Default)]
struct Found {
    text: u64,
    /// Providers send it under both of its names, or one.
    reasoning: u64,
    details: u64,
}

impl Found {
    fn count(&mut self, within: Option<Within>, key: &[u8], len: usize) {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        match (key, within) {
            (_, Some(Within::Annotations)) => {}
            (b"content" | b"refusal" | b"arguments", _) => self.text += len,
            (b"reasoning" | b"reasoning_content", _) => self.reasoning = len.max(self.reasoning),
            (b"text" | b"summary", Some(Within::Details)) => self.details += len,
            (b"text" | b"thinking", Some(Within::Parts)) | (b"transcript", None) => self.text += len,
            _ => {}
        }
    }
}

/// Counts the bytes of text that a model wrote into the delta or message at the start of `json`: `content`, also where
/// it is a list of parts, `refusal`, `arguments` of tool calls, what was said aloud (`transcript`), and the reasoning
/// (once, where a provider sends it under several names). An escape counts as what it stands for.
#[must_use]
pub fn text(json: &[u8]) -> Text {
    let mut found = Found::default();
    let mut key: &[u8] = b"";
    let (mut within, mut opened) = (None, 0);
    let mut depth = 0_u32;
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => {
                let (start, escapes);
                (start, (at, escapes)) = (at, string_end(json, at));
                let string = json.get(start..at.saturating_sub(1)).unwrap_or_default();
                if next_is(json, at, b':').is_some() {
                    key = string;
                    continue;
                }
                found.count(within, key, string.len().saturating_sub(escapes));
                key = b"";
            }
            b'{' | b'[' => {
                depth += 1;
                if within.is_none() && !key.is_empty() {
                    (within, opened) = (Within::of(key), depth);
                }
            }
            b'}' | b']' => {
                if depth == opened {
                    within = None;
                }
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    break;
                }
            }
            _ => {}
        }
    }
    Text { bytes: found.text + found.reasoning.max(found.details), object_len: at }
}

/// Returns the place after the quote that ends the string whose text starts at `from`, or the end of `json` if none does;
/// and by how many bytes its escapes are longer than what they stand for.
fn string_end(json: &[u8], mut from: usize) -> (usize, usize) {
    let mut escapes = 0;
    while let Some(found) = json.get(from..).and_then(quote_or_backslash) {
        from += found;
        if json.get(from) == Some(&b'"') {
            return (from + 1, escapes);
        }
        escapes += excess(json.get(from..).unwrap_or_default());
        from += 2;
    }
    (json.len(), escapes)
}

/// Returns by how many bytes the escape that `text` begins with is longer than the UTF-8 that it stands for.
fn excess(text: &[u8]) -> usize {
    let digits = text.get(2..6).filter(|_| text.get(1) == Some(&b'u'));
    let unit = digits.and_then(|digits| u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
    match unit {
        None => 1,
        Some(..0x80) => 5,
        // Two of the latter are a character of four bytes.
        Some(..0x800 | 0xd800..0xe000) => 4,
        Some(_) => 3,
    }
}

/// Finds the next byte that matters in a string. Keys and tokens are a few bytes long, for which a loop is quicker than a
/// call: 60 ns a frame of 150 bytes instead of 70.
fn quote_or_backslash(text: &[u8]) -> Option<usize> {
    const NEAR: usize = 16;
    let near = text.get(..NEAR).unwrap_or(text).iter().position(|byte| matches!(byte, b'"' | b'\\'));
    near.or_else(|| Some(NEAR + memchr2(b'"', b'\\', text.get(NEAR..)?)?))
}

/// Returns the place after `wanted`, if that comes next but for white space.
pub(super) fn next_is(json: &[u8], mut at: usize, wanted: u8) -> Option<usize> {
    loop {
        match json.get(at)? {
            byte if *byte == wanted => return Some(at + 1),
            byte if byte.is_ascii_whitespace() => at += 1,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests;
