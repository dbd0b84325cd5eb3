//! When breakers open, probe and close.

use super::*;
use crate::{ports::Clock, testing::ManualClock};

const RULES: Rules = Rules { failure_percent: 50, min_attempts: 20, open: Duration::from_secs(5) };

struct World {
    breaker: Breaker,
    now: Instant,
}

impl World {
    fn new(rules: Rules) -> Self {
        let now = ManualClock::new().now();
        Self { breaker: Breaker::new(rules, now), now }
    }

    /// A world whose breaker has just opened.
    fn opened() -> Self {
        let mut world = Self::new(RULES);
        assert_eq!(world.fail(19), [None; 19]);
        assert_eq!(world.fail(1), [Some(Turn::Opened)]);
        world
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn admit(&mut self) -> Option<Pass> {
        self.breaker.admit(self.now)
    }

    fn fail(&mut self, times: usize) -> Vec<Option<Turn>> {
        let fail = |_| {
            let pass = self.admit().unwrap();
            self.breaker.failed(&pass, self.now)
        };
        (0..times).map(fail).collect()
    }

    fn answer(&mut self, times: usize) {
        for _ in 0..times {
            let pass = self.admit().unwrap();
            assert_eq!(self.breaker.answered(&pass, self.now), None);
        }
    }

    /// Returns how many may probe now. They come to neither.
    fn probes(&mut self) -> usize {
        let passes: Vec<_> = std::iter::from_fn(|| self.admit()).take(100).collect();
        passes.iter().for_each(|pass| self.breaker.released(pass));
        passes.len()
    }
}

#[test]
fn a_single_failure_never_opens() {
    for (failure_percent, min_attempts) in [(50, 20), (1, 2), (1, 0), (100, 1)] {
        let mut world = World::new(Rules { failure_percent, min_attempts, ..RULES });
        assert_eq!(world.fail(1), [None]);
        world.wait(10_000);
        assert_eq!(world.fail(1), [None], "the first is forgotten");
    }
    let mut world = World::new(Rules { failure_percent: 1, min_attempts: 2, ..RULES });
    world.answer(30);
    assert_eq!(world.fail(2), [None, Some(Turn::Opened)], "1 of 31 would be above the rate");
}

#[test]
fn it_opens_at_the_rate_over_the_minimum_of_attempts() {
    let mut world = World::opened();
    assert!(world.admit().is_none() && world.breaker.is_open());

    let mut world = World::new(RULES);
    world.answer(11);
    assert_eq!(world.fail(10), [None; 10], "10 of 21");
    assert_eq!(world.fail(1), [Some(Turn::Opened)], "11 of 22");

    let mut world = World::new(Rules { failure_percent: 0, min_attempts: 2, ..RULES });
    assert_eq!(world.fail(100), [None; 100], "off");
}

#[test]
fn what_is_neither_counts_as_nothing() {
    let mut world = World::new(RULES);
    for _ in 0..1_000 {
        let pass = world.admit().unwrap();
        world.breaker.released(&pass);
    }
    assert!(world.breaker.is_idle(world.now));
    assert_eq!(world.fail(20)[19], Some(Turn::Opened), "it doesn't hide failures either");
}

#[test]
fn the_window_slides() {
    let mut world = World::new(RULES);
    assert_eq!(world.fail(19), [None; 19]);
    world.wait(10_000);
    assert!(world.breaker.is_idle(world.now));
    assert_eq!(world.fail(19), [None; 19]);
    world.wait(9_000);
    assert_eq!(world.fail(1), [Some(Turn::Opened)]);
}

#[test]
fn an_open_one_lets_a_few_probe_and_closes_at_the_first_answer() {
    let mut world = World::opened();
    world.wait(4_999);
    assert!(!world.breaker.permits(world.now));
    world.wait(1);
    let passes: Vec<_> = std::iter::from_fn(|| world.admit()).take(100).collect();
    assert_eq!(passes.len(), 3);
    assert_eq!(world.breaker.answered(&passes[0], world.now), Some(Turn::Closed));
    assert_eq!(world.breaker.failed(&passes[1], world.now), None, "that one was let through before");
    assert!(!world.breaker.is_open());
    assert_eq!(world.fail(19), [None; 19], "it starts anew");
    assert_eq!(world.fail(1), [Some(Turn::Opened)]);
    world.wait(5_000);
    assert!(world.breaker.permits(world.now), "as long as the first time");
}

#[test]
fn a_failed_probe_opens_it_for_twice_as_long() {
    let mut world = World::opened();
    for millis in [5_000, 10_000, 20_000, 40_000, 40_000] {
        world.wait(millis - 1);
        assert!(!world.breaker.permits(world.now), "{millis}");
        world.wait(1);
        let late = world.admit().unwrap();
        assert_eq!(world.fail(1), [Some(Turn::OpenedAgain)], "{millis}");
        assert_eq!(world.breaker.answered(&late, world.now), None, "that one was let through before");
        assert!(world.breaker.is_open());
    }
}

#[test]
fn a_probe_that_is_dropped_makes_place_for_another() {
    let mut world = World::opened();
    world.wait(5_000);
    for _ in 0..10 {
        assert_eq!(world.probes(), 3);
    }
    let stale = World::new(RULES).admit().unwrap();
    let probe = world.admit().unwrap();
    world.breaker.released(&stale);
    assert_eq!(world.probes(), 2, "one that was let through before frees no place");
    world.breaker.released(&probe);
    assert_eq!(world.probes(), 3);
}

#[test]
fn what_was_let_through_before_it_opened_changes_nothing() {
    let mut world = World::new(RULES);
    let early: Vec<_> = (0..3).map(|_| world.admit().unwrap()).collect();
    world.fail(20);
    assert_eq!(world.breaker.answered(&early[0], world.now), None);
    assert_eq!(world.breaker.failed(&early[1], world.now), None);
    world.wait(5_000);
    assert_eq!(world.breaker.answered(&early[2], world.now), None);
    assert!(world.breaker.is_open());
}

#[test]
fn answers_that_break_off_are_failures() {
    let mut world = World::new(RULES);
    world.answer(40);
    let broken: Vec<_> = (0..20).map(|_| world.breaker.broke_off(0, world.now)).collect();
    assert_eq!((broken[18], broken[19]), (None, Some(Turn::Opened)), "20 of 40");
    assert_eq!(world.breaker.broke_off(0, world.now), None, "it is open already");

    let mut world = World::new(RULES);
    world.answer(20);
    world.wait(30_000);
    let broken: Vec<_> = (0..20).map(|_| world.breaker.broke_off(0, world.now)).collect();
    assert_eq!((broken[18], broken[19]), (None, Some(Turn::Opened)), "20 of 20 that began long ago");
}

#[test]
fn answers_that_began_before_it_turned_tell_nothing_of_now() {
    let mut world = World::new(RULES);
    world.answer(100);
    let before = world.breaker.turns();
    assert_eq!(world.fail(100).last(), Some(&Some(Turn::Opened)));
    world.wait(5_000);
    let probe = world.admit().unwrap();
    assert_eq!(world.breaker.answered(&probe, world.now), Some(Turn::Closed));
    world.answer(20);
    assert!((0..200).all(|_| world.breaker.broke_off(before, world.now).is_none()));
    assert!(!world.breaker.is_open());
}

#[test]
fn one_that_nobody_asks_any_more_is_idle() {
    let mut world = World::opened();
    world.wait(5_000);
    let probe = world.admit().unwrap();
    world.wait(10_000);
    assert!(!world.breaker.is_idle(world.now), "it probes");
    world.breaker.released(&probe);
    assert!(world.breaker.is_idle(world.now));
}
