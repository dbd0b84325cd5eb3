//! A frame that lies in one chunk costs no allocation.
//!
//! The allocations are those of the test's own thread. A stream has one buffer beside: the template, made by its first
//! frame. Copied are frames that chunks cut, frames whose data has several lines, and those that lose their `id:`.

use std::hint::black_box;

use actors::stream::sse::{Options, Scanner};
use bytes::Bytes;

const OPTIONS: Options = Options { max_frame_bytes: 1 << 20, max_tokens: 128_000, choices: 1, sdk_safe: true };

/// Counts the allocations that a chunk costs, pieces included.
fn allocations(scanner: &mut Scanner, chunk: &Bytes) -> u64 {
    let scan = || scanner.scan(chunk.clone()).for_each(|piece| drop(black_box(piece.unwrap())));
    allocation_counter::measure(scan).count_total
}

fn frame(delta: &str, rest: &str) -> String {
    format!("data: {{\"id\":\"c\",\"choices\":[{{\"index\":0,\"delta\":{delta}{rest}}}\n\n")
}

/// Returns a chunk as a connection hands it out: its bytes are shared already.
fn shared(text: String) -> Bytes {
    let chunk = Bytes::from(text);
    drop(chunk.clone());
    chunk
}

#[test]
fn frames_that_lie_in_one_chunk_are_free() {
    let plain = r#","finish_reason":null}]"#;
    let words = ["", "a", " word", r#" \"quoted\""#, " \u{1f600}"];
    let content = |word: &&str| frame(&format!(r#"{{"content":"{word}"}}"#), plain);
    for (name, frames) in [
        ("content", words.iter().map(content).collect()),
        ("content, CRLF", words.iter().map(content).collect::<String>().replace('\n', "\r\n")),
        ("comments", ": OPENROUTER PROCESSING\n\n: ping\r\r".to_owned()),
        ("beside an event", format!("event: chunk\n{}", frame(r#"{"content":"a"}"#, plain))),
        ("running usage", frame(r#"{"content":"a"}"#, r#"}],"usage":{"prompt_tokens":9,"completion_tokens":2}"#)),
        (
            "usage alone",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\n".to_owned(),
        ),
        ("the finish", frame("{}", r#","finish_reason":"stop"}]"#)),
        ("no JSON", "data: x\n\ndata:\n\n".to_owned()),
        ("several forms", [content(&"a"), frame(r#"{"reasoning":"b"}"#, plain), ": c\n\n".to_owned()].concat()),
    ] {
        let chunk = shared(frames.repeat(50));
        let mut scanner = Scanner::new(OPTIONS);
        // A template can be outgrown by the next one, and is so in `several forms`.
        let first = allocations(&mut scanner, &chunk);
        assert!(first <= 2, "{name}: {first} at the start of the stream");
        assert_eq!(allocations(&mut scanner, &chunk), 0, "{name}");
        assert!(!scanner.watched().is_complete() || name == "the finish", "{name}: was not read on");
    }
    for end in ["data: [DONE]\n\n", "data: {\"error\":{\"message\":\"Overloaded\"}}\n\n"] {
        assert_eq!(allocations(&mut Scanner::new(OPTIONS), &shared(end.to_owned())), 0, "{end}");
    }
}

#[test]
fn what_has_to_be_copied_is_counted() {
    let mut scanner = Scanner::new(OPTIONS);
    let cut = allocations(&mut scanner, &shared("data: 1\n".to_owned()));
    assert!(cut > 0, "the first half of a frame is kept");
    let joined = allocations(&mut Scanner::new(OPTIONS), &shared("data: 1\ndata: 2\n\n".to_owned()));
    assert!(joined > 0, "two lines are put together");
}
