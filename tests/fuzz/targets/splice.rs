//! A chat body that is valid is valid JSON after the splice, asks for the model that was chosen and, where it streams, for
//! usage; every byte that says something else is as it came.
#![no_main]

use std::{fmt, ops::Range, sync::LazyLock};

use actors::{
    domain::{Catalog, CatalogRows, Class, ClassId, Model, PassThrough},
    stream::RequestBody,
};
use bytes::Bytes;
use hasnot_engine::http::ChatBody;
use libfuzzer_sys::fuzz_target;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Value, json, value::RawValue};

static MODEL: LazyLock<std::sync::Arc<Model>> = LazyLock::new(|| {
    let class = Class { id: ClassId(1), name: "basic".into() };
    let catalog = Catalog::new(CatalogRows::default(), |_| true, Some(PassThrough { provider: "p".into(), class }));
    catalog.model(&"vendor/chosen".parse().unwrap()).unwrap()
});

/// The members of an object, in order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'a> Members<'a> {
    fn of(json: &'a str) -> Self {
        serde_json::from_str(json).expect("an object")
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        let mut found = self.0.iter().filter(|(member, _)| member == name);
        let value = found.next().map(|(_, value)| *value);
        assert!(found.next().is_none(), "{name} is there twice");
        value
    }
}

fn place(json: &str, value: &RawValue) -> Range<usize> {
    let start = value.get().as_ptr() as usize - json.as_ptr() as usize;
    start..start + value.get().len()
}

/// Takes back what may have been changed: afterwards each byte is as the client sent it.
fn undo(sent: &str, given: &str) -> String {
    let (after, before) = (Members::of(sent), Members::of(given));
    let mut undone = sent.to_owned();
    let mut changes = Vec::new();
    for name in ["model", "stream", "stream_options"] {
        let place = after.get(name).map(|value| place(sent, value));
        match (place, before.get(name)) {
            (Some(place), Some(value)) => changes.push((place, value.get().to_owned())),
            (Some(place), None) => {
                // Its key, the colon and the comma are known, as they were put in.
                let start = place.start - (name.len() + 3);
                assert_eq!(&sent[start..place.start], format!("\"{name}\":"));
                assert_eq!(&sent[place.end..place.end + 1], ",");
                changes.push((start..place.end + 1, String::new()));
            }
            (None, before) => assert!(before.is_none(), "{name} is gone"),
        }
    }
    changes.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    for (place, text) in changes {
        undone.replace_range(place, &text);
    }
    undone
}

/// What the provider is asked for beside usage is what the client asked for.
fn check_options(sent: &Value, given: Option<&RawValue>) {
    let mut given: Value = given.map_or(Value::Null, |given| serde_json::from_str(given.get()).unwrap());
    if given.is_null() {
        given = json!({});
    }
    given["include_usage"] = true.into();
    assert_eq!(*sent, given);
}

// The last bit of the body's length says whether a body that doesn't say so streams.
fuzz_target!(|raw: &[u8]| {
    let Ok(body) = ChatBody::parse(Bytes::copy_from_slice(raw), raw.len().is_multiple_of(2)) else { return };
    let sent = body.for_model(&MODEL);
    let (sent, given) = (std::str::from_utf8(&sent).unwrap(), std::str::from_utf8(raw).unwrap());
    let members = Members::of(sent);
    assert_eq!(members.get("model").unwrap().get(), "\"vendor/chosen\"");
    if body.stream() {
        assert_eq!(members.get("stream").unwrap().get(), "true");
        let options = members.get("stream_options").unwrap();
        assert_eq!(Members::of(options.get()).get("include_usage").unwrap().get(), "true");
        // What is too deep for a tree is compared as bytes only.
        if let Ok(options) = serde_json::from_str(options.get()) {
            check_options(&options, Members::of(given).get("stream_options"));
        }
    } else {
        assert_eq!(members.get("stream").map(RawValue::get), Members::of(given).get("stream").map(RawValue::get));
    }
    assert_eq!(undo(sent, given), given);
});
