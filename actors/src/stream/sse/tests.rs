//! Streams in the forms that providers send, cut anywhere.

use proptest::prelude::*;

use super::*;
use crate::domain::Nanodollars;

const OPTIONS: Options = Options { max_frame_bytes: 4096, max_tokens: 128_000, choices: 1, sdk_safe: false };

/// What a relay would see: pieces of a kind that follow each other joined.
#[derive(Debug, PartialEq)]
struct Seen {
    pieces: Vec<(PieceKind, String)>,
    watched: Watched,
    rest: Rest,
    too_long: bool,
}

fn scan<'a>(options: Options, chunks: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut scanner = Scanner::new(options);
    let mut pieces: Vec<(PieceKind, Vec<u8>)> = Vec::new();
    let mut too_long = false;
    for chunk in chunks {
        for piece in scanner.scan(Bytes::copy_from_slice(chunk)) {
            match (piece, pieces.last_mut()) {
                (Ok(Piece { kind: PieceKind::Frames, bytes }), Some((PieceKind::Frames, before))) => {
                    before.extend_from_slice(&bytes);
                }
                (Ok(piece), _) => pieces.push((piece.kind, piece.bytes.to_vec())),
                (Err(FrameTooLong), _) => too_long = true,
            }
        }
        assert!(scanner.held() <= options.max_frame_bytes);
    }
    let rest = scanner.finish();
    let pieces = pieces.into_iter().map(|(kind, bytes)| (kind, String::from_utf8_lossy(&bytes).into_owned()));
    Seen { pieces: pieces.collect(), watched: *scanner.watched(), rest, too_long }
}

fn whole(stream: &str) -> Seen {
    scan(OPTIONS, [stream.as_bytes()])
}

fn frames(text: &str) -> (PieceKind, String) {
    (PieceKind::Frames, text.to_owned())
}

const OPENAI: &str = concat!(
    r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null}"#,
    "\n\n",
    r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}],"usage":null}"#,
    "\n\n",
    r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}"#,
    "\n\n",
);
const OPENAI_USAGE: &str = concat!(
    r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":20,"total_tokens":29}}"#,
    "\n\n",
);
const DONE: &str = "data: [DONE]\n\n";
const USAGE: Usage = Usage { prompt_tokens: 9, completion_tokens: 20, cost: None };

#[test]
fn openai_sends_usage_in_a_chunk_of_its_own() {
    let seen = whole(&[OPENAI, OPENAI_USAGE, DONE].concat());
    let expected = [frames(OPENAI), (PieceKind::Usage, OPENAI_USAGE.to_owned()), (PieceKind::Done, DONE.to_owned())];
    assert_eq!(seen.pieces, expected);
    assert_eq!(
        seen.watched,
        Watched {
            frames: 5,
            data_frames: 4,
            content_frames: 1,
            content_bytes: 5,
            usage: Some(USAGE),
            finished: true,
            done: true,
            failed: false,
        }
    );
    assert_eq!(seen.rest, Rest::Nothing);
}

#[test]
fn openrouter_sends_comments_and_usage_with_the_last_content() {
    let stream = concat!(
        ": OPENROUTER PROCESSING\n\n",
        ": OPENROUTER PROCESSING\n\n",
        r#"data: {"id":"gen-1","provider":"X","model":"m","object":"chat.completion.chunk","created":1,"choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":null,"native_finish_reason":null,"logprobs":null}]}"#,
        "\n\n",
        r#"data: {"id":"gen-1","choices":[{"index":0,"delta":{"role":"assistant","content":" there"},"finish_reason":"stop","native_finish_reason":"STOP"}],"usage":{"prompt_tokens":9,"completion_tokens":20,"total_tokens":29,"cost":0.00001335,"is_byok":false}}"#,
        "\n\n",
    );
    let seen = whole(stream);
    assert_eq!(seen.pieces, [frames(stream)]);
    assert_eq!((seen.watched.frames, seen.watched.data_frames, seen.watched.content_bytes), (4, 2, 8));
    assert_eq!(seen.watched.usage, Some(Usage { cost: Some(Nanodollars(13_350)), ..USAGE }));
    assert!(seen.watched.is_complete() && !seen.watched.done);
}

#[test]
fn an_error_in_the_middle_is_the_last_frame() {
    let error = "data: {\"id\":\"gen-1\",\"error\":{\"code\":502,\"message\":\"upstream\"},\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}]}\n\n";
    let seen = whole(&[OPENAI, error, OPENAI_USAGE, DONE].concat());
    assert_eq!(seen.pieces, [frames(OPENAI), (PieceKind::Error, error.to_owned())]);
    assert!(seen.watched.failed && !seen.watched.done && !seen.watched.is_complete());
    assert_eq!((seen.watched.data_frames, seen.watched.usage), (3, None));
    // At the very start: no data frame has come.
    assert_eq!(whole(error).watched.data_frames, 0);
}

#[test]
fn markers_inside_text_and_at_other_levels_mislead_nobody() {
    for data in [
        r#"{"choices":[{"delta":{"content":"\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}"}}]}"#,
        r#"{"choices":[{"delta":{"content":"usage"},"finish_reason":null}]}"#,
        r#"{"choices":[{"delta":{"content":"\"error\": \"finish_reason\": \"delta\":{"}}]}"#,
        r#"{"choices":[{"delta":{"content":"data: [DONE]"},"error":{"code":1}}]}"#,
        r#"{"x":{"usage":{"prompt_tokens":1,"completion_tokens":1},"error":{},"finish_reason":"stop"},"choices":[{}]}"#,
        r#"{"error":null,"usage":null,"choices":[{"finish_reason":""}]}"#,
        r#"{"error" : null, "usage" :null,"choices":[{"finish_reason" : null}]}"#,
        r#""usage":{"prompt_tokens":1,"#,
        r#"{"usage":{"prompt_tokens":-1,"completion_tokens":1},"choices":[{}]}"#,
        "[DONE]!",
        "x",
    ] {
        let stream = format!("data: {data}\n\n");
        let seen = whole(&stream);
        assert_eq!(seen.pieces, [frames(&stream)], "{data}");
        assert!(seen.watched.usage.is_none() && !seen.watched.is_complete() && !seen.watched.failed, "{data}");
        assert_eq!(seen.watched.data_frames, 1);
    }
}

#[test]
fn frames_that_are_equal_around_their_deltas_are_read_alike() {
    let frame = |delta: &str, rest: &str| format!("data: {{\"choices\":[{{\"delta\":{delta}{rest}}}]}}\n\n");
    let plain = r#","finish_reason":null"#;
    let stream = [
        frame(r#"{"content":"a"}"#, plain),
        frame(r#"{"content":"bc"}"#, plain),
        frame(r#"{"content":null}"#, plain),
        frame(r#"{"content":"\"},\"finish_reason\":null}]}"}"#, plain),
        frame("null", plain),
        frame(r#"{"content":"d"}"#, r#","finish_reason":"stop""#),
        frame(r#"{"content":"e"}"#, r#"}],"usage":{"prompt_tokens":9,"completion_tokens":20},"x":[{"y":1"#),
    ];
    let seen = whole(&stream.concat());
    assert_eq!(seen.pieces, [frames(&stream.concat())]);
    let escaped = r#""},"finish_reason":null}]}"#.len() as u64;
    assert_eq!((seen.watched.content_frames, seen.watched.content_bytes), (5, 1 + 2 + escaped + 1 + 1));
    assert_eq!((seen.watched.finished, seen.watched.usage, seen.watched.data_frames), (true, Some(USAGE), 7));
    // What `only` means: a second delta is counted, too.
    let two = r#"{"choices":[{"delta":{"content":"a"}},{"delta":{"content":"bc"}}]}"#;
    assert_eq!(whole(&format!("data: {two}\n\ndata: {two}\n\n")).watched.content_bytes, 6);
}

#[test]
fn frames_that_only_seem_alike_are_searched() {
    let open = "data: {\"choices\":[{\"delta\":";
    let (a, b) = (format!("{open}{{\"content\":\"a\"}}}}]}}"), format!("{open}{{\"content\":\"bc\"}}}}]}}"));
    for (stream, text) in [
        // The end of the first depends on what follows it; the second's end goes on.
        (format!("{a}\r\n\r{b}\r\n\r\n{a}\r\n\r\n"), 4),
        (format!("{a}\n\r{b}\n\r\n{a}\n\n"), 4),
        (format!("{a}\n\n{b}\n: c\n\n{a}\r\r{b}\n\n"), 6),
        // Joined lines are no beginning of a line, and an object that is open has no end to be compared.
        (
            format!(
                "data: {{\"choices\":[\ndata: {{\"delta\":{{\"content\":\"a\"}}}}]}}\n\n{}\n\n",
                b.trim_start_matches("data: ")
            ),
            1,
        ),
        (format!("{open}{{\"content\":\"a\"\n\n{open}{{\"content\":\"bc\" ,\n\n"), 3),
        (format!("{b}\n\n{open}{{\"content\":\"a\n\ndata: \"}}}}]}}\n\n"), 2),
    ] {
        let seen = whole(&stream);
        assert_eq!((seen.pieces.as_slice(), seen.watched.content_bytes), ([frames(&stream)].as_slice(), text));
        assert_eq!(scan(OPTIONS, stream.as_bytes().chunks(1)), seen);
    }
    let long = scan(OPTIONS, [format!("{a}\n\n{}\n\n", b.replace("bc", &"b".repeat(4096))).as_bytes()]);
    assert_eq!((long.pieces, long.too_long), (vec![frames(&format!("{a}\n\n"))], true));
}

#[test]
fn the_last_believable_usage_counts() {
    let usage =
        |prompt: i64| format!("data: {{\"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":20}}}}\n\n");
    let seen = whole(&[usage(5), usage(9), usage(-3), usage(1 << 31), usage(128_001)].concat());
    assert_eq!(seen.watched.usage, Some(USAGE));
    assert!(seen.pieces.iter().all(|(kind, _)| *kind == PieceKind::Usage));
}

#[test]
fn line_ends_and_fields_are_read_tolerantly() {
    for stream in [
        "data:{\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":20},\"choices\":[{}]}\r\n\r\ndata:[DONE]\r\n\r\n",
        "data: {\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":20},\"choices\":[{}]}\r\rdata: [DONE] \r\r",
        "event: message\ndata: {\"usage\":\ndata: {\"prompt_tokens\":9,\ndata:\"completion_tokens\":20},\"choices\":[{}]}\nid: 1\n\ndata:  [DONE]\n\n",
        ": hello\ndata: {\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":20},\"choices\":[{}]}\r\n\ndata: [DONE]\n\r\n",
    ] {
        let seen = whole(stream);
        assert_eq!((seen.watched.usage, seen.watched.done, seen.watched.frames), (Some(USAGE), true, 2), "{stream:?}");
        let forwarded: String = seen.pieces.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(forwarded, stream);
        assert_eq!(seen.pieces.len(), 2);
    }
}

#[test]
fn an_empty_line_of_one_cr_ends_a_frame_when_no_lf_follows() {
    let stream = "data: 1\n\rdata: 2\r\n\rdata: 3\n\n";
    let seen = whole(stream);
    assert_eq!((seen.pieces, seen.watched.data_frames), (vec![frames(stream)], 3));
}

#[test]
fn a_byte_order_mark_and_empty_lines_between_frames_are_left_out() {
    let seen = whole("\u{feff}data: 1\n\n\n\r\ndata: 2\r\r\ndata: \u{feff}\n\n\n");
    assert_eq!(seen.pieces, [frames("data: 1\n\ndata: 2\r\rdata: \u{feff}\n\n")]);
    assert_eq!(seen.rest, Rest::Nothing);
}

#[test]
fn an_unfinished_frame_is_dropped_unless_nothing_can_be_missing() {
    for (stream, rest) in [
        ("data: 1\n\ndata: 2\n", Rest::Dropped(8)),
        ("data: 1\n\ndata: [DONE", Rest::Dropped(11)),
        ("data: 1\n\n\n", Rest::Nothing),
        (r#"data: {"choices":[]"#, Rest::Dropped(19)),
        ("data: {\ndata: }", Rest::Dropped(15)),
        ("data: [{}]", Rest::Dropped(10)),
    ] {
        assert_eq!(whole(stream).rest, rest, "{stream:?}");
    }
    for end in ["data: [DONE]", "data:[DONE]\n", "data: [DONE]\r\n\r"] {
        let seen = whole(&["data: 1\n\n", end].concat());
        assert!(matches!(&seen.rest, Rest::Frame(Piece { kind: PieceKind::Done, .. })), "{end:?}: {seen:?}");
        assert!(seen.watched.done);
    }
    for end in [OPENAI_USAGE.trim_end(), OPENAI_USAGE.strip_suffix('\n').unwrap()] {
        let seen = whole(&[OPENAI, end].concat());
        assert_eq!(seen.rest, Rest::Frame(Piece { kind: PieceKind::Usage, bytes: Bytes::from(OPENAI_USAGE) }));
        assert_eq!(seen.watched.usage.map(|usage| usage.completion_tokens), Some(20));
    }
    let crlf = whole("data: 1\r\n\r");
    assert_eq!(crlf.rest, Rest::Frame(Piece { kind: PieceKind::Frames, bytes: Bytes::from("data: 1\r\n\r") }));
}

#[test]
fn nothing_is_read_after_the_end() {
    let seen = whole(&[DONE, OPENAI, "data: {\"error\":{}}\n\ntail"].concat());
    assert_eq!(seen.pieces, [(PieceKind::Done, DONE.to_owned())]);
    assert_eq!((seen.watched.frames, seen.rest), (1, Rest::Nothing));
}

#[test]
fn a_frame_that_is_too_long_ends_the_stream_after_the_frames_before_it() {
    let frame = |len: usize| format!("data: {}\n\n", "x".repeat(len - 8));
    let limit = OPTIONS.max_frame_bytes;
    assert!(!whole(&frame(limit)).too_long);
    let long = ["data: 1\n\n", &frame(limit + 1), DONE].concat();
    for chunk in [1, 7, 5000] {
        let seen = scan(OPTIONS, long.as_bytes().chunks(chunk));
        assert_eq!((seen.pieces, seen.too_long), (vec![frames("data: 1\n\n")], true));
        assert_eq!((seen.watched.done, seen.rest), (false, Rest::Nothing));
    }
}

#[test]
fn what_breaks_sdks_is_taken_out_where_they_call() {
    let options = Options { sdk_safe: true, ..OPTIONS };
    let stream = "id: 1\nevent: x\ndata: 1\nretry: 5\n\nretry: 100\n\nevent: ping\n\ndata:\n\nid\ndata: 2\r\n\r\n: c\nid: 7\n\ndata: 3\n\n";
    let kept = "event: x\ndata: 1\n\ndata: 2\r\n\r\n: c\n\ndata: 3\n\n";
    assert_eq!(scan(options, [stream.as_bytes()]).pieces, [frames(kept)]);
    assert_eq!(whole(stream).pieces, [frames(stream)]);
}

#[test]
fn frames_that_lie_in_one_chunk_are_slices_of_it() {
    let chunk = Bytes::from([OPENAI, OPENAI_USAGE, DONE, "ignored"].concat());
    let within = |piece: &Piece| chunk.as_ptr_range().contains(&piece.bytes.as_ptr());
    let mut scanner = Scanner::new(OPTIONS);
    let pieces: Vec<_> = scanner.scan(chunk.clone()).map(Result::unwrap).collect();
    assert_eq!(pieces.len(), 3);
    assert!(pieces.iter().all(within));
    assert_eq!((scanner.held(), scanner.tail.capacity()), (0, 0));
}

fn streams() -> impl Strategy<Value = Vec<u8>> {
    let frame = prop_oneof![
        "data: \\{\"choices\":\\[\\{\"delta\":\\{\"content\":\"[a\\\\{]{0,3}\"\\}(,\"finish_reason\":(null|\"stop\"))?\\}\\]\\}\n\n",
        Just(OPENAI.to_owned()),
        Just(OPENAI_USAGE.to_owned()),
        Just(": comment\n\n".to_owned()),
        Just("event: x\nid: 1\ndata: {\"choices\":\ndata: []}\n\n".to_owned()),
        Just("data: {\"choices\":[{\"delta\":{\"content\":\"\u{1f600} h\u{e9}\"}}]}\n\n".to_owned()),
        Just("\u{feff}\n".to_owned()),
        Just("retry: 1\n\n".to_owned()),
        Just("data\n\n".to_owned()),
        "[dat:\\[\\]DONE\\n\\r \u{feff}]{0,12}",
        Just(DONE.to_owned()),
        Just("data: {\"error\":{\"message\":\"x\"}}\n\n".to_owned()),
    ];
    let ends = prop_oneof![Just("\n"), Just("\r\n"), Just("\r")];
    (any::<bool>(), prop::collection::vec((frame, ends), 0..12)).prop_map(|(mark, frames)| {
        let text = frames.into_iter().map(|(frame, end)| frame.replace('\n', end)).collect::<String>();
        [if mark { BYTE_ORDER_MARK } else { b"" }, text.as_bytes()].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn however_a_stream_is_cut_the_same_is_forwarded(
        stream in streams(), sdk_safe: bool, max in prop_oneof![Just(4096_usize), 10_usize..60],
        cuts in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let options = Options { sdk_safe, max_frame_bytes: max, ..OPTIONS };
        let uncut = scan(options, [stream.as_slice()]);
        let mut rest = stream.as_slice();
        let mut chunks = Vec::new();
        for len in cuts.iter().cycle() {
            let (chunk, after) = rest.split_at((*len).min(rest.len()));
            chunks.push(chunk);
            rest = after;
            if rest.is_empty() { break }
        }
        prop_assert_eq!(&scan(options, chunks), &uncut);
        prop_assert_eq!(&scan(options, stream.chunks(1)), &uncut);
    }
}
