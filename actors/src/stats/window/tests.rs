//! Windows against a list of everything that happened.

use proptest::prelude::*;

use super::*;

const NO_TIME: Timings =
    Timings { auth: None, quota: None, connect: None, ttft: None, overhead: None, total: Duration::ZERO };

fn request(outcome: Option<Outcome>, code: Option<ErrorCode>) -> Observation {
    Observation::Request(Finished { outcome, code, joined: false, estimated: false, timings: NO_TIME })
}

fn one_call() -> Tally {
    let mut tally = Tally::default();
    tally.record(&Observation::Database { took: Duration::from_millis(3), ok: true });
    tally
}

proptest! {
    #[test]
    fn windows_hold_what_happened_in_their_last_twelve_slots(steps in prop::collection::vec(
        prop_oneof![4 => 0_u64..2_000, 2 => 0_u64..70_000, 1 => 0_u64..8_000_000], 1..200,
    )) {
        let mut windows = Windows::new();
        let mut times = Vec::new();
        let mut now = 0;
        for step in steps {
            now += step;
            windows.add(Duration::from_millis(now), &one_call());
            times.push(now);
            for (view, slot) in windows.views(Duration::from_millis(now)).iter().zip([5_000, 25_000, 300_000]) {
                let recent = times.iter().filter(|&&time| time / slot + 12 > now / slot).count();
                let counted = view.tally.stage(Stage::Database).summary().count;
                prop_assert_eq!(counted, u64::try_from(recent).unwrap(), "{} at {}", view.name, now);
                let covered = u64::try_from(view.covered.as_millis()).unwrap();
                prop_assert_eq!(covered, now.min(11 * slot + now % slot));
            }
        }
        let views = windows.views(Duration::from_millis(now));
        prop_assert_eq!(views.last().unwrap().tally.stage(Stage::Database).summary().count,
                        u64::try_from(times.len()).unwrap());
    }
}

#[test]
fn time_may_stand_still_go_back_or_jump_to_its_end() {
    let mut windows = Windows::new();
    windows.add(Duration::from_secs(7200), &one_call());
    windows.add(Duration::from_secs(1), &one_call());
    let counts = |windows: &mut Windows, now| {
        windows.views(now).iter().map(|view| view.tally.stage(Stage::Database).summary().count).collect::<Vec<_>>()
    };
    assert_eq!(counts(&mut windows, Duration::from_secs(7200)), [2, 2, 2, 2]);
    assert_eq!(counts(&mut windows, Duration::from_secs(7200 + 60)), [0, 2, 2, 2]);
    assert_eq!(counts(&mut windows, Duration::MAX), [0, 0, 0, 2]);
    windows.add(Duration::MAX, &one_call());
    assert_eq!(counts(&mut windows, Duration::MAX), [1, 1, 1, 3]);
}

#[test]
fn clients_mistakes_are_listed_but_are_no_errors() {
    let mut tally = Tally::default();
    for observation in [
        request(Some(Outcome::Completed), None),
        request(Some(Outcome::ClientGone), None),
        request(Some(Outcome::CutOff), Some(ErrorCode::InsufficientQuota)),
        request(None, Some(ErrorCode::InvalidApiKey)),
        request(None, Some(ErrorCode::RequestTimeout)),
        request(None, Some(ErrorCode::RateLimitExceeded)),
        request(None, Some(ErrorCode::Overloaded)),
        request(Some(Outcome::Deadline), Some(ErrorCode::ProviderTimeout)),
        request(Some(Outcome::ProviderError), Some(ErrorCode::ProviderTimeout)),
        request(Some(Outcome::Shutdown), None),
        Observation::Refusal(ErrorCode::NotFound),
        Observation::Refusal(ErrorCode::InternalError),
        Observation::Refusal(ErrorCode::Draining),
    ] {
        tally.record(&observation);
    }
    assert_eq!((tally.requests, tally.refused, tally.failed, tally.timeouts, tally.posted), (12, 4, 5, 2, 6));
    let codes: Vec<_> = tally.by_code().map(|(code, count)| (code.as_str(), count)).collect();
    assert_eq!(
        codes,
        [
            ("invalid_api_key", 1),
            ("not_found", 1),
            ("request_timeout", 1),
            ("rate_limit_exceeded", 1),
            ("insufficient_quota", 1),
            ("overloaded", 1),
            ("draining", 1),
            ("provider_timeout", 2),
            ("internal_error", 1),
        ]
    );
}

#[test]
fn an_answer_is_slow_above_half_a_second() {
    let mut tally = Tally::default();
    for millis in [499, 500, 501, 2000] {
        let timings = Timings { ttft: Some(Duration::from_millis(millis)), ..NO_TIME };
        let finished =
            Finished { outcome: Some(Outcome::Completed), code: None, joined: false, estimated: true, timings };
        tally.record(&Observation::Request(finished));
    }
    assert_eq!((tally.slow, tally.estimated, tally.stage(Stage::Ttft).summary().count), (2, 4, 4));
}

#[test]
fn who_waits_for_long_in_vain_has_waited_for_the_first_frame() {
    let mut tally = Tally::default();
    let ended = |outcome, total| Finished {
        outcome,
        code: None,
        joined: false,
        estimated: false,
        timings: Timings { total, ..NO_TIME },
    };
    let left = |total| ended(Some(Outcome::ClientGone), total);
    let failed = |total| ended(Some(Outcome::ProviderError), total);
    // Who leaves or fails at once says nothing of how long it takes, nor does who has seen a frame; who was refused has
    // asked no provider.
    let seen = Timings { ttft: Some(Duration::from_millis(40)), total: Duration::from_secs(9), ..NO_TIME };
    for finished in [
        left(Duration::from_secs(2)),
        left(Duration::from_millis(3)),
        failed(Duration::from_secs(2)),
        failed(Duration::from_millis(3)),
        ended(None, Duration::from_secs(2)),
        Finished { timings: seen, ..left(Duration::ZERO) },
    ] {
        tally.record(&Observation::Request(finished));
    }
    let ttft = tally.stage(Stage::Ttft).summary();
    assert_eq!((tally.slow, ttft.count), (2, 3));
    assert!(ttft.max >= Duration::from_secs(2));
}
