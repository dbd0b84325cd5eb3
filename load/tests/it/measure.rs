//! What is measured is checked: a provider that breaks its answers is found out, and one that doesn't is not.

use hne_load::{
    block_on,
    measure::{closed, job::Shape, many, record::Record, target::Target},
    mock::{MockProvider, Options},
};
use std::time::Duration;

/// A mock that this process is taken for.
fn target(mock: &MockProvider) -> Target {
    Target::parse(&format!("mock={},{}", mock.addr(), std::process::id()), "secret").unwrap()
}

fn measured(shape: Shape, options: &'static str) -> Record {
    let mock = MockProvider::start(Options::default()).unwrap();
    let plan = closed::Plan {
        scenario: "X",
        connections: 4,
        requests: 20,
        shape,
        options,
        spread: Duration::from_millis(10),
        warm_up: false,
    };
    block_on(closed::measure(&target(&mock), &plan, 1)).unwrap().unwrap()
}

#[test]
fn whole_answers_are_counted() {
    let record = measured(Shape::Stream(20), "");
    assert_eq!((record.requests, record.frames, record.errors()), (20, 400, 0));
    assert!(record.ttft_ms.p50 > 0.0 && record.ttft_ms.p50 <= record.total_ms.p50, "{record:?}");
    assert!(record.resident_peak > 0 && record.per_second > 0.0, "{record:?}");
    let record = measured(Shape::Echo(3), "+gap-1ms");
    assert_eq!((record.requests, record.frames, record.errors()), (20, 60, 0));
    let record = measured(Shape::Whole(5), "");
    assert_eq!((record.requests, record.frames, record.errors()), (20, 0, 0));
}

#[test]
fn broken_answers_are_not() {
    for (shape, options, flaw) in [
        (Shape::Stream(5), "+no-done", "no [DONE]"),
        (Shape::Stream(5), "+error-after-2", "error frame"),
        (Shape::Stream(5), "+close-after-2", "cut: unexpected end of file"),
        (Shape::Stream(5), "+status-500", "status 500"),
        (Shape::Stream(5), "+status-503", "status 503"),
        // Another number of frames than was asked for.
        (Shape::Stream(5), "+frames-4", "frames missing"),
        (Shape::Stream(5), "+frames-6", "frame out of order"),
        (Shape::Whole(5), "+frames-4", "another text"),
        (Shape::Whole(5), "+truncate-at-20", "cut: unexpected end of file"),
    ] {
        let record = measured(shape, options);
        assert_eq!((record.requests, record.errors()), (0, 20), "{options}: {record:?}");
        assert_eq!(record.flaws.get(flaw), Some(&20), "{options}: {record:?}");
    }
}

#[test]
fn many_slow_streams_run_at_once() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let plan = many::Plan { streams: 50, frames: 2, ramp: Duration::from_millis(100), later: Duration::ZERO };
    let record = block_on(many::measure(&target(&mock), plan, 1)).unwrap().unwrap();
    assert_eq!((record.requests, record.frames, record.errors()), (50, 100, 0));
    assert!(record.seconds < 50.0, "one after the other takes 50 s: {}", record.seconds);
    assert!(record.late_ms.is_some() && record.resident_later.is_some());
}
