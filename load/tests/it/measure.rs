//! What is measured is checked: a provider that breaks its answers is found out, and one that doesn't is not.

use hne_load::{
    block_on,
    chaos::ChaosProxy,
    measure::{
        alone, closed,
        growth::{self, Grows},
        job::Shape,
        many,
        record::{Level, Record},
        soak::Verdict,
        target::Target,
    },
    mock::{Entry, MockProvider, Options},
};
use std::{collections::BTreeSet, time::Duration};

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
    let ramp = Duration::from_millis(100);
    let plan = many::Plan { streams: 50, frames: 2, ramp, later: Duration::ZERO, ..many::Plan::default() };
    let record = block_on(many::measure(&target(&mock), plan, 1)).unwrap().unwrap();
    assert_eq!((record.requests, record.frames, record.errors()), (50, 100, 0));
    assert!(record.seconds < 50.0, "one after the other takes 50 s: {}", record.seconds);
    assert!(record.late_ms.is_some() && record.resident_later.is_some());
}

#[test]
fn a_frame_on_its_own_is_timed_from_when_it_was_sent() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let proxy = ChaosProxy::start(mock.addr()).unwrap();
    proxy.set_latency(Duration::from_millis(50));
    let slow = Target::parse(&format!("slow={},{}", proxy.addr(), std::process::id()), "secret").unwrap();
    let plan = many::Plan { streams: 20, frames: 6, ramp: Duration::from_millis(100), ..many::Plan::alone() };
    let record = block_on(alone::measure(&slow, plan, 1)).unwrap().unwrap();
    assert_eq!((record.requests, record.frames, record.errors()), (20, 120, 0));
    let late = record.late_ms.unwrap();
    assert!(late.p50 >= 50.0 && late.p50 < 400.0, "{late:?}");
    // 0.9 s of 3 are measured.
    assert!(record.seconds < 2.0, "{}", record.seconds);
}

#[test]
fn a_frame_on_its_own_is_timed_only_while_all_streams_run() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let proxy = ChaosProxy::start(mock.addr()).unwrap();
    // For the first two frames of each stream, until 0.6 s; what is measured begins after 1.1.
    proxy.set_latency(Duration::from_millis(200));
    let slow = Target::parse(&format!("slow={},{}", proxy.addr(), std::process::id()), "secret").unwrap();
    let plan = many::Plan { streams: 20, frames: 6, ramp: Duration::from_millis(100), ..many::Plan::alone() };
    let heal = async {
        let begun = |books: &[Entry]| books.iter().filter(|entry| entry.frames >= 2).count() == 20;
        mock.wait_for(begun, Duration::from_secs(10)).await.unwrap();
        proxy.set_latency(Duration::ZERO);
    };
    let both = async { tokio::join!(alone::measure(&slow, plan, 1), heal) };
    let (record, ()) = block_on(both).unwrap();
    let late = record.unwrap().late_ms.unwrap();
    assert!(late.max > 0.0 && late.max < 200.0, "{late:?}");
}

#[test]
fn users_are_chosen_by_a_seed() {
    let (range, all) = (100..1_000, 900);
    let users = growth::each_once(7, range.clone(), 300);
    assert_eq!(users, growth::each_once(7, range.clone(), 300), "the same each time");
    assert_ne!(users, growth::each_once(8, range.clone(), 300));
    let different: BTreeSet<u32> = users.iter().copied().collect();
    assert_eq!(different.len(), 300, "each once");
    assert!(different.iter().all(|user| range.contains(user)) && !users.is_sorted());
    assert_eq!(growth::each_once(7, range, 5_000).len(), all, "no more than there are");
    let drawn = growth::drawn(7, &[4, 5, 6], 100);
    assert_eq!((drawn.len(), drawn.iter().collect::<BTreeSet<_>>().len()), (100, 3));
    assert_eq!(drawn, growth::drawn(7, &[4, 5, 6], 100));
    assert!(growth::drawn(7, &[], 100).is_empty());
}

#[test]
fn each_user_and_each_connection_asks() {
    let mock = MockProvider::start(Options::default()).unwrap();
    let measure = |grows, step| {
        let plan = growth::Plan { grows, step, requests: 200, round: 1 };
        block_on(growth::measure(&target(&mock), plan)).unwrap().unwrap()
    };
    let of = |records: &[Record]| -> Vec<_> {
        records.iter().map(|one| (one.scenario.clone(), one.step, one.requests, one.errors())).collect()
    };
    assert_eq!(of(&measure(Grows::Connections, 10)), [("N".to_owned(), 10, 200, 0)]);
    let records = measure(Grows::Connections, 300);
    assert_eq!(of(&records), [("N".to_owned(), 300, 300, 0)], "one each at least");
    assert!((records[0].extra["open at the end"] - 300.0).abs() < 1e-9);
    let users = Grows::Users { before: 10, cold: 150, warm: 20 };
    let records = measure(users, 1_000);
    assert_eq!(of(&records), [("U".to_owned(), 1_000, 150, 0), ("W".to_owned(), 1_000, 200, 0)]);
    let different: Vec<f64> = records.iter().map(|record| record.extra["different users"]).collect();
    assert_eq!(different, [150.0, 20.0]);
    assert_eq!(of(&measure(users, 20)), [("W".to_owned(), 20, 200, 0)], "too few to measure them cold");
}

/// A run of so many minutes, with what is held at each of its seconds.
fn soaked(minutes: u32, held: impl Fn(f64) -> u64) -> Vec<Record> {
    let minute = |minute: u32| {
        let level = |part: u32| f64::from((minute * 6 + part) * 10 + 10);
        let level = |part| Level { seconds: level(part), resident: held(level(part)) * 1024, descriptors: 50 };
        Record { requests: 600, levels: (0..6).map(level).collect(), ..Record::default() }
    };
    (0..minutes).map(minute).collect()
}

#[test]
fn a_soak_is_judged_by_its_thirds() {
    let verdict = |held: fn(f64) -> u64| Verdict::of(&soaked(30, held)).unwrap();
    assert!(verdict(|_| 100).is_well());
    assert!(verdict(|seconds| if seconds <= 120.0 { 10 } else { 100 }).is_well(), "what begins may grow");
    assert!(verdict(|seconds| if (1_500.0..1_550.0).contains(&seconds) { 900 } else { 100 }).is_well(), "a peak");
    let grown = verdict(|seconds| if seconds > 1_200.0 { 111 } else { 100 });
    assert!(grown.resident.has_grown() && !grown.descriptors.has_grown() && !grown.is_well(), "{grown}");
    assert!(verdict(|seconds| if seconds > 1_200.0 { 109 } else { 100 }).is_well());
    let mut wrong = soaked(30, |_| 100);
    wrong[3].flaws.insert("frames missing".to_owned(), 1);
    assert!(!Verdict::of(&wrong).unwrap().is_well());
    let mut leaking = soaked(30, |_| 100);
    leaking.iter_mut().rev().take(12).flat_map(|record| &mut record.levels).for_each(|level| level.descriptors = 60);
    assert!(Verdict::of(&leaking).unwrap().descriptors.has_grown());
    assert!(Verdict::of(&soaked(1, |_| 100)).unwrap().is_well(), "a short one is judged as well");
    assert_eq!(Verdict::of(&[]), None);
}
