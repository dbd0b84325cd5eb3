//! What is remembered of a provider and its models, and what is forgotten.

use super::{super::breaker::Rules, *};
use crate::{domain::Timestamp, ports::Clock, testing::ManualClock};

struct World {
    provider: KnownProvider,
    metrics: Metrics,
    clock: ManualClock,
}

impl World {
    fn new() -> Self {
        let (metrics, clock) = (Metrics::new("1", Timestamp(0)).unwrap(), ManualClock::new());
        let second = Duration::from_secs(1);
        let patience = Patience {
            first_byte: second,
            gap: second,
            total: None,
            retries: 1,
            retry_budget_percent: 10,
            breaker: Rules { failure_percent: 50, min_attempts: 2, open: second },
        };
        Self { provider: KnownProvider::new(&"p".into(), patience, &metrics, clock.now()), metrics, clock }
    }

    fn health(&self, model: &str) -> Rc<Health> {
        self.provider.health(&model.into(), self.clock.now())
    }

    /// Opens the breaker of a model.
    fn fail(&self, model: &str, failure: Failure) {
        for _ in 0..2 {
            self.health(model).admit(self.clock.now()).unwrap().failed(failure, self.clock.now());
        }
        assert!(self.health(model).admit(self.clock.now()).is_none(), "{model}");
    }

    fn open_breakers(&self) -> String {
        let text = self.metrics.encode().unwrap();
        text.lines().find_map(|line| line.strip_prefix("hne_open_breakers{provider=\"p\"} ")).unwrap().to_owned()
    }
}

#[test]
fn the_last_failure_is_told_with_what_is_left_of_its_wait() {
    let world = World::new();
    let failure = Failure {
        provider_status: Some(429),
        retry_after: Some(Duration::from_secs(7)),
        ..Failure::new(ErrorCode::ProviderOverloaded)
    };
    world.fail("m", failure);
    let told = |after| {
        world.clock.advance(Duration::from_millis(after));
        world.health("m").last_failure(world.clock.now())
    };
    assert_eq!(told(0), failure);
    let left = |seconds| Failure { retry_after: Some(Duration::from_secs(seconds)), ..failure };
    assert_eq!(told(300), left(7), "no earlier than the provider said");
    assert_eq!(told(1_700), left(5));
    assert_eq!(told(100_000), left(0));
}

#[test]
fn each_model_has_a_breaker_of_its_own_and_a_dropped_probe_frees_its_place() {
    let world = World::new();
    world.fail("m", Failure::new(ErrorCode::ProviderError));
    assert!(world.health("other").permits(world.clock.now()));
    assert_eq!(world.open_breakers(), "1");
    world.clock.advance(Duration::from_secs(1));
    for _ in 0..100 {
        drop(world.health("m").admit(world.clock.now()).unwrap());
    }
    let health = world.health("m");
    let answering = health.admit(world.clock.now()).unwrap().answered(world.clock.now());
    assert_eq!(world.open_breakers(), "0");
    answering.broke_off(Failure::new(ErrorCode::ProviderError), world.clock.now());
    assert!(health.permits(world.clock.now()), "a single one");
    answering.broke_off(Failure::new(ErrorCode::ProviderTimeout), world.clock.now());
    assert!(!health.permits(world.clock.now()));
    assert_eq!(health.last_failure(world.clock.now()).code, ErrorCode::ProviderTimeout);
}

#[test]
fn idle_models_are_forgotten_and_too_many_busy_ones_share_a_breaker() {
    let world = World::new();
    for number in 0..10_000 {
        drop(world.health(&format!("invented-{number}")).admit(world.clock.now()));
    }
    assert!(world.provider.models.borrow().len() <= MAX_MODELS);

    let world = World::new();
    for number in 0..MAX_MODELS - 1 {
        world.fail(&format!("m{number}"), Failure::new(ErrorCode::ProviderError));
    }
    let held = world.health("held").admit(world.clock.now());
    for number in 0..10 {
        assert!(Rc::ptr_eq(&world.health(&format!("more-{number}")), &world.provider.others));
    }
    assert_eq!(world.open_breakers(), (MAX_MODELS - 1).to_string());
    world.clock.advance(Duration::from_secs(11));
    assert!(!Rc::ptr_eq(&world.health("more-0"), &world.provider.others));
    assert_eq!(world.provider.models.borrow().len(), 2, "that one, and the one with an attempt under way");
    assert_eq!(world.open_breakers(), "0", "they were forgotten");
    drop(held);
}

#[test]
fn retries_come_out_of_the_provider_s_budget() {
    let world = World::new();
    (0..100).for_each(|_| world.provider.requested(world.clock.now()));
    assert_eq!((0..100).filter(|_| world.provider.take_retry(world.clock.now())).count(), 20);
    let text = world.metrics.encode().unwrap();
    assert!(text.contains("hne_refused_retries_total{provider=\"p\"} 80"), "{text}");
}
