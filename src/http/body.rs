//! The chat body: looked at where limits need it, and changed by splicing bytes.
//!
//! One pass over the JSON finds the looked-at keys and where their values lie; nothing else is parsed into a tree, and
//! every other byte goes to the provider as it came. Keys are compared as JSON means them, so that `"m\u006fdel"` is a
//! second `model`.

#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::BTreeMap, fmt, ops::Range};

use actors::{
    domain::{ErrorCode, Model, ModelId},
    stream::RequestBody,
};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::error::ApiError;
use crate::config::STEERING_FIELDS;

/// The most choices that a request may ask for, as OpenAI has it.
const MAX_CHOICES: i64 = 128;
/// What asks for usage, in `stream_options`.
const INCLUDE_USAGE: &str = "include_usage";
/// More tokens than this are absurd.
const MAX_TOKENS: i64 = 1 << 31;

/// The keys that are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Model,
    Messages,
    Stream,
    StreamOptions,
    MaxTokens,
    MaxCompletionTokens,
    N,
}

impl Key {
    const ALL: [Self; 7] = [
        Self::Model,
        Self::Messages,
        Self::Stream,
        Self::StreamOptions,
        Self::MaxTokens,
        Self::MaxCompletionTokens,
        Self::N,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Messages => "messages",
            Self::Stream => "stream",
            Self::StreamOptions => "stream_options",
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::N => "n",
        }
    }
}

/// The values of the looked-at keys, as they stand in the body.
#[derive(Default)]
struct Fields<'a> {
    values: [Option<&'a RawValue>; Key::ALL.len()],
    doubled: Option<Key>,
    /// A key that some providers read as one of those that matter, and that one.
    alike: Option<(Box<str>, &'static str)>,
    forbidden: Vec<&'static str>,
}

/// Says whether a key is `known` to a decoder that goes by upper and lower case as Unicode folds them, as Go's does: the
/// letters s and k have one more form each.
fn is_alike(name: &str, known: &str) -> bool {
    let fold = |letter: char| match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    };
    name.chars().map(fold).eq(known.chars())
}

impl<'a> Fields<'a> {
    fn get(&self, key: Key) -> Option<&'a RawValue> {
        // `null` is as good as absent, as in OpenAI's API.
        self.values.get(key as usize).copied().flatten().filter(|value| value.get() != "null")
    }

    fn at(&self, key: Key) -> Option<&'a RawValue> {
        self.values.get(key as usize).copied().flatten()
    }
}

/// A key, borrowed unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::default();
                while let Some(Name(name)) = map.next_key()? {
                    if let Some(key) = Key::ALL.into_iter().find(|key| key.name() == name) {
                        let value: &'de RawValue = map.next_value()?;
                        let doubled = fields.values.get_mut(key as usize).and_then(|slot| slot.replace(value));
                        fields.doubled = fields.doubled.or(doubled.map(|_| key));
                        continue;
                    }
                    let known =
                        Key::ALL.map(Key::name).into_iter().chain(STEERING_FIELDS).find(|known| is_alike(&name, known));
                    match known {
                        Some(forbidden) if forbidden == name => fields.forbidden.push(forbidden),
                        Some(known) => fields.alike = Some((name.into(), known)),
                        None => {}
                    }
                    map.next_value::<IgnoredAny>()?;
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// What `stream_options` says, and where.
#[derive(Deserialize)]
struct StreamOptions<'a> {
    /// `null` too: it is replaced where it stands, as a second key beside it might not count.
    #[serde(borrow, default, deserialize_with = "as_written")]
    include_usage: Option<&'a RawValue>,
}

fn as_written<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// A replacement of some of the body's bytes; an empty range inserts.
#[derive(Debug, Clone)]
struct Splice {
    range: Range<usize>,
    text: Cow<'static, str>,
}

/// A valid chat request.
#[derive(Debug)]
pub struct ChatBody {
    raw: Bytes,
    model: ModelId,
    model_at: Range<usize>,
    message_bytes: u64,
    stream: bool,
    wants_usage: bool,
    max_completion_tokens: Option<i64>,
    choices: i64,
    forbidden: Vec<&'static str>,
    /// What is changed for every provider.
    splices: Vec<Splice>,
}

impl ChatBody {
    /// Reads a body; `stream` is what holds where the body doesn't say.
    ///
    /// # Errors
    /// 400 `invalid_json` or `invalid_value`, naming the field.
    pub fn parse(raw: Bytes, stream: bool) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(&raw).map_err(|_utf8| ApiError::new(ErrorCode::InvalidJson))?;
        let fields: Fields<'_> = serde_json::from_str(text).map_err(|_json| ApiError::new(ErrorCode::InvalidJson))?;
        if let Some(key) = fields.doubled {
            return Err(ApiError::field(key.name(), format!("`{}` must be given only once.", key.name())));
        }
        if let Some((name, known)) = fields.alike {
            return Err(misspelt(known, &name, known));
        }
        let range = |value: &RawValue| {
            let start = (value.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
            start..start + value.get().len()
        };
        let (model, model_at) = match fields.get(Key::Model) {
            Some(value) => (read_model(value)?, range(value)),
            None => return Err(ApiError::field("model", "`model` is missing.")),
        };
        let message_bytes = read_messages(fields.get(Key::Messages))?;
        let stream = read_flag(Key::Stream, fields.get(Key::Stream))?.unwrap_or(stream);
        // Both go to the provider, which may go by either.
        let [max_tokens, max_completion] =
            [Key::MaxTokens, Key::MaxCompletionTokens].map(|key| read_number(key, fields.get(key), MAX_TOKENS));
        let max_completion_tokens = max_tokens?.max(max_completion?);
        let choices = read_number(Key::N, fields.get(Key::N), MAX_CHOICES)?.unwrap_or(1);
        let (wants_usage, options) = read_options(fields.get(Key::StreamOptions))?;
        let mut splices = Vec::new();
        if stream {
            let open = text.find('{').map_or(0, |brace| brace + 1);
            let mut force = |key: Key, value: &'static str| match fields.at(key).map(range) {
                Some(range) => splices.push(Splice { range, text: value.into() }),
                None => {
                    let text = ["\"", key.name(), "\":", value, ","].concat().into();
                    splices.push(Splice { range: open..open, text });
                }
            };
            if fields.get(Key::Stream).is_none() {
                force(Key::Stream, "true");
            }
            match (fields.get(Key::StreamOptions), options) {
                (None, _) => force(Key::StreamOptions, r#"{"include_usage":true}"#),
                (Some(_), Some(include)) => splices.push(Splice { range: range(include), text: "true".into() }),
                (Some(value), None) => {
                    let open = range(value).start + 1;
                    let empty = value.get().trim_matches(['{', '}']).trim().is_empty();
                    let text = if empty { r#""include_usage":true"# } else { r#""include_usage":true,"# };
                    splices.push(Splice { range: open..open, text: text.into() });
                }
            }
        }
        let forbidden = fields.forbidden;
        splices.sort_by_key(|splice| splice.range.start);
        Ok(Self {
            raw: raw.clone(),
            model,
            model_at,
            message_bytes,
            stream,
            wants_usage,
            max_completion_tokens,
            choices,
            forbidden,
            splices,
        })
    }

    /// Returns the model that the client named.
    #[must_use]
    pub fn model(&self) -> &ModelId {
        &self.model
    }

    /// Returns the size of `messages` in bytes.
    #[must_use]
    pub fn message_bytes(&self) -> u64 {
        self.message_bytes
    }

    /// Says whether the answer is a stream.
    #[must_use]
    pub fn stream(&self) -> bool {
        self.stream
    }

    /// Says whether the client asked for the usage-only chunk.
    #[must_use]
    pub fn wants_usage(&self) -> bool {
        self.wants_usage
    }

    /// Returns the first field that only a provider whose `allow_fields` names it may be sent.
    #[must_use]
    pub fn forbidden(&self, allowed: &[String]) -> Option<&'static str> {
        self.forbidden.iter().copied().find(|field| !allowed.iter().any(|allowed| allowed == field))
    }
}

impl RequestBody for ChatBody {
    fn for_model(&self, model: &Model) -> Bytes {
        // Text can always be written.
        let name = serde_json::to_string(&*model.upstream_model).unwrap_or_default();
        let named = self.raw.get(self.model_at.clone()) == Some(name.as_bytes());
        if named && self.splices.is_empty() {
            return self.raw.clone();
        }
        let model = Splice { range: self.model_at.clone(), text: name.into() };
        let at = self.splices.partition_point(|splice| splice.range.start <= model.range.start);
        let (before, after) = self.splices.split_at(at);
        let added: usize = self.splices.iter().map(|splice| splice.text.len()).sum();
        let mut body = Vec::with_capacity(self.raw.len() + added + model.text.len());
        let mut done = 0;
        for splice in before.iter().chain([&model]).chain(after) {
            body.extend_from_slice(self.raw.get(done..splice.range.start).unwrap_or_default());
            body.extend_from_slice(splice.text.as_bytes());
            done = splice.range.end;
        }
        body.extend_from_slice(self.raw.get(done..).unwrap_or_default());
        body.into()
    }

    fn max_completion_tokens(&self) -> Option<i64> {
        self.max_completion_tokens
    }

    fn choices(&self) -> i64 {
        self.choices
    }
}

fn misspelt(param: &'static str, name: &str, known: &str) -> ApiError {
    ApiError::field(param, format!("Write `{known}` for `{name}`: some providers read it so."))
}

fn read_model(value: &RawValue) -> Result<ModelId, ApiError> {
    let name: Option<String> = serde_json::from_str(value.get()).ok();
    name.and_then(|name| name.parse().ok()).ok_or_else(|| {
        ApiError::field("model", "`model` must be a string of 1 to 128 characters of A-Z a-z 0-9 . _ : / @ + | -")
    })
}

fn read_messages(value: Option<&RawValue>) -> Result<u64, ApiError> {
    let Some(value) = value.map(RawValue::get) else {
        return Err(ApiError::field("messages", "`messages` is missing."));
    };
    let inner = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if inner.is_none_or(|inner| inner.trim().is_empty()) {
        return Err(ApiError::field("messages", "`messages` must be an array with at least one message."));
    }
    Ok(value.len() as u64)
}

fn read_flag(key: Key, value: Option<&RawValue>) -> Result<Option<bool>, ApiError> {
    match value.map(RawValue::get) {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(ApiError::field(key.name(), format!("`{}` must be true or false.", key.name()))),
    }
}

fn read_number(key: Key, value: Option<&RawValue>, most: i64) -> Result<Option<i64>, ApiError> {
    let Some(value) = value else { return Ok(None) };
    match value.get().parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
        _ => Err(ApiError::field(key.name(), format!("`{}` must be a whole number from 1 to {most}.", key.name()))),
    }
}

/// Returns whether the client wants the usage-only chunk, and where it said so.
fn read_options(value: Option<&RawValue>) -> Result<(bool, Option<&RawValue>), ApiError> {
    let refuse = || {
        ApiError::field(
            "stream_options",
            "`stream_options` must be an object whose `include_usage`, if any, is true or false.",
        )
    };
    let Some(value) = value else { return Ok((false, None)) };
    if !value.get().starts_with('{') {
        return Err(refuse());
    }
    let options: StreamOptions<'_> = serde_json::from_str(value.get()).map_err(|_shape_or_doubled| refuse())?;
    let names: BTreeMap<Cow<'_, str>, IgnoredAny> = serde_json::from_str(value.get()).map_err(|_shape| refuse())?;
    let is_other = |name: &Cow<'_, str>| name != INCLUDE_USAGE && is_alike(name, INCLUDE_USAGE);
    if let Some(name) = names.into_keys().find(is_other) {
        return Err(misspelt("stream_options", &name, INCLUDE_USAGE));
    }
    match options.include_usage.map(RawValue::get) {
        None | Some("false" | "null") => Ok((false, options.include_usage)),
        Some("true") => Ok((true, options.include_usage)),
        Some(_) => Err(refuse()),
    }
}
