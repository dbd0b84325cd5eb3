//! What a chat body costs: one pass that finds what is looked at, and the copy in which model and stream options differ.
//!
//! `cargo bench --bench splice`. To look into a struct that borrows takes 0.13, 2 and 40 µs for bodies of 91 bytes, 4 KB and
//! 65 KB, and to splice one field 0.02 to 0.6 µs more; here the text is checked to be UTF-8 too.
#![expect(clippy::unwrap_used, reason = "a measurement of what failed is none")]

use std::{hint::black_box, time::Duration};

use actors::{
    domain::{Class, ClassId, Model, ModelKey, Price},
    stream::RequestBody,
};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hasnot_engine::http::ChatBody;

/// As in the service.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The shortest that is asked.
const SHORT: &str = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"Say hello in one word."}]}"#;
const _: () = assert!(SHORT.len() == 91);

/// A line of a conversation, as JSON has it.
const ENGLISH: &str = r#"The quick brown fox jumps over the \"lazy\" dog, and then it rests for a while.\n"#;
/// The same where every letter has two bytes.
const GREEK: &str = r"Η γρήγορη καφέ αλεπού πηδά πάνω από το τεμπέλικο σκυλί, και ύστερα ξεκουράζεται.\n";

/// Returns a conversation of so many bytes, in messages of ten lines.
fn conversation(line: &str, bytes: usize) -> String {
    let message = format!(r#"{{"role":"user","content":"{}"}},"#, line.repeat(10));
    let (head, tail) =
        (r#"{"model":"m","temperature":0.7,"stream":true,"messages":["#, r#"{"role":"user","content":""#);
    let end = r#""}]}"#;
    let room = bytes - head.len() - tail.len() - end.len();
    let whole = room / message.len();
    let rest = ".".repeat(room % message.len());
    [head, &message.repeat(whole), tail, &rest, end].concat()
}

fn model() -> Model {
    Model {
        key: ModelKey(1),
        id: "m".parse().unwrap(),
        class: Class { id: ClassId(1), name: "basic".into() },
        provider: "p".into(),
        upstream_model: "gpt-4.1-2025-04-14".into(),
        price: Price::default(),
        context: None,
        max_output: None,
        fallbacks: Vec::new(),
    }
}

fn bodies(criterion: &mut Criterion) {
    let model = model();
    let mut group = criterion.benchmark_group("splice");
    for (name, body) in [
        ("91 bytes", SHORT.to_owned()),
        ("4 KB", conversation(ENGLISH, 4 << 10)),
        ("65 KB", conversation(ENGLISH, 64 << 10)),
        ("65 KB of Greek", conversation(GREEK, 64 << 10)),
    ] {
        let body = Bytes::from(body);
        let sent = ChatBody::parse(body.clone(), true).unwrap().for_model(&model);
        assert!(sent.starts_with(br#"{"stream_options":{"include_usage":true},"model":"gpt-4.1-2025-04-14","#));
        group.sample_size(50).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_millis(700));
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("{name}, parsed"), |bench| {
            bench.iter(|| ChatBody::parse(black_box(&body).clone(), true).unwrap());
        });
        group.bench_function(format!("{name}, parsed and spliced"), |bench| {
            bench.iter(|| ChatBody::parse(black_box(&body).clone(), true).unwrap().for_model(&model));
        });
    }
    group.finish();
}

criterion_group!(benches, bodies);
criterion_main!(benches);
