//! How fast a stream is watched: bytes a second, for frames of 150 bytes and more.
//!
//! `cargo bench -p hasnot-actors --bench sse`; the target is 2 GB/s for frames of 150 bytes.

use actors::stream::sse::{Options, Scanner};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const OPTIONS: Options = Options { max_frame_bytes: 1 << 20, max_tokens: 128_000, choices: 1, sdk_safe: true };

/// As most providers send it.
const PLAIN: &str = concat!(
    r#"data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" hello"},"finish_reason":null}]}"#,
    "\n\n"
);
const _: () = assert!(PLAIN.len() == 150);

/// A model's tokens, as JSON has them.
const TOKENS: [&str; 12] =
    [" hello", "The", " quick", " brown", " fox", ",", r"\n\n", " jumps", r#" \"over\""#, " dogs", ".", ""];

/// With `usage: null` in each chunk, as OpenAI sends it when usage is asked for.
const NULL_USAGE: &str = concat!(
    r#"data: {"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion.chunk","created":1741569952,"model":"gpt-4.1-2025-04-14","service_tier":"default","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" hello"},"logprobs":null,"finish_reason":null}],"usage":null}"#,
    "\n\n"
);

/// With running usage in each chunk, which has to be parsed.
const RUNNING_USAGE: &str = concat!(
    r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":" hello"},"finish_reason":null}],"usage":{"prompt_tokens":9,"completion_tokens":20,"total_tokens":29}}"#,
    "\n\n"
);

fn watch(scanner: &mut Scanner, chunk: &Bytes) {
    for piece in scanner.scan(chunk.clone()) {
        std::hint::black_box(piece).ok();
    }
}

/// Returns so many frames, of about 150 bytes, whose text differs as in a real stream.
fn words(frames: usize) -> String {
    let tokens = TOKENS.iter().cycle().take(frames);
    tokens.map(|token| PLAIN.replace(" hello", token)).collect()
}

fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sse");
    for (name, frame) in [("plain", PLAIN), ("null usage", NULL_USAGE), ("running usage", RUNNING_USAGE)] {
        for frames in [1, 20, 200] {
            let chunk = Bytes::from(frame.repeat(frames));
            group.throughput(Throughput::Bytes(chunk.len() as u64));
            group.bench_function(format!("{name}, {frames} to a chunk"), |bench| {
                let mut scanner = Scanner::new(OPTIONS);
                bench.iter(|| watch(&mut scanner, &chunk));
            });
        }
    }
    let chunk = Bytes::from(words(200));
    group.throughput(Throughput::Bytes(chunk.len() as u64));
    group.bench_function("words, 200 to a chunk", |bench| {
        let mut scanner = Scanner::new(OPTIONS);
        bench.iter(|| watch(&mut scanner, &chunk));
    });
    // Each frame is cut in two, so that each is copied.
    let (head, tail) = PLAIN.split_at(40);
    let halves = [Bytes::from(head), Bytes::from(tail)];
    group.throughput(Throughput::Bytes(PLAIN.len() as u64));
    group.bench_function("plain, cut in two", |bench| {
        let mut scanner = Scanner::new(OPTIONS);
        bench.iter(|| halves.iter().for_each(|half| watch(&mut scanner, half)));
    });
    group.finish();
}

criterion_group!(benches, streams);
criterion_main!(benches);
