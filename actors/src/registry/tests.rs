//! The actor with fakes, on tokio's paused clock: seconds pass as soon as nobody has anything left to do.

use std::time::Instant;

use futures_util::future::join_all;

use super::*;
use crate::{
    domain::{CatalogRows, Class, ClassId, ModelId, ModelKey, Price, Timestamp, TokenHash},
    metrics::Metrics,
    ports::Change,
    testing::{FakeCatalog, FakeDirectory, VirtualClock},
};

struct World {
    catalog: Arc<FakeCatalog>,
    directory: Arc<FakeDirectory>,
    clock: Arc<VirtualClock>,
    handle: CatalogHandle,
}

fn model(id: &str, provider: &str) -> Model {
    Model {
        key: ModelKey(1),
        id: id.parse().unwrap(),
        class: basic(),
        provider: provider.into(),
        upstream_model: id.into(),
        price: Price::default(),
        context: None,
        max_output: None,
        fallbacks: Vec::new(),
    }
}

fn basic() -> Class {
    Class { id: ClassId(1), name: "basic".into() }
}

fn rows(models: &[&str]) -> CatalogRows {
    let models = models.iter().map(|id| model(id, "known")).collect();
    CatalogRows { models, plans: Vec::new(), classes: vec![basic()] }
}

fn id(text: &str) -> ModelId {
    text.parse().unwrap()
}

impl World {
    /// Starts the actor; nothing has been read yet.
    fn start() -> Self {
        let catalog = Arc::new(FakeCatalog::default());
        let directory = Arc::new(FakeDirectory::default());
        let clock = Arc::new(VirtualClock::new());
        catalog.set(rows(&["m1"]));
        let config = Config {
            keep: Arc::new(|model| &*model.provider == "known"),
            pass_through: Some(PassThroughTo { provider: "known".into(), class: "basic".into() }),
        };
        let metrics = Metrics::new("test", Timestamp(0)).unwrap();
        let ports = Ports { catalog: catalog.clone(), directory: directory.clone(), metrics, clock: clock.clone() };
        let handle = CatalogHandle::start(&actix::Arbiter::current(), config, ports);
        Self { catalog, directory, clock, handle }
    }

    fn has(&self, model: &str) -> bool {
        self.handle.current().model(&id(model)).is_some()
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }
}

/// Runs a test whose clock stands still while anybody has something to do.
fn on_paused_time(test: impl Future<Output = ()>) {
    let paused = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    actix::System::with_tokio_rt(paused).block_on(test);
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

#[test]
fn the_first_snapshot_is_there_when_it_is_ready() {
    on_paused_time(async {
        let world = World::start();
        let models = vec![model("m1", "known"), model("m2", "gone"), model("vendor/dear", "gone")];
        world.catalog.set(CatalogRows { models, ..rows(&[]) });
        assert!(!world.has("m1"));
        world.handle.ask_ready().await.unwrap();
        assert!(world.has("m1"));
        assert!(!world.has("m2"), "its provider can't be used");
        assert!(world.has("vendor/other"), "passed through");
        assert!(!world.has("vendor/dear"), "it has a class and a price");
        assert!(world.handle.feed().is_fresh(world.now()));
        assert_eq!(world.handle.current().class_name(ClassId(1)), "basic");
    });
}

#[test]
fn a_start_without_the_store_fails_and_goes_on_trying() {
    on_paused_time(async {
        let world = World::start();
        world.directory.polls.set_down(true);
        assert!(world.handle.ask_ready().await.is_err());
        assert!(world.handle.ask_ready().await.is_err());
        assert!(!world.handle.feed().is_fresh(world.now()));
        world.directory.polls.set_down(false);
        world.handle.ask_ready().await.unwrap();
        assert!(world.has("m1"));
    });
}

#[test]
fn changes_hold_within_a_second() {
    on_paused_time(async {
        let world = World::start();
        world.handle.ask_ready().await.unwrap();
        let mut news = world.handle.feed().reader();
        let token = TokenHash([1; 32]);
        world.directory.revoke(token, Timestamp(i64::MAX));
        world.catalog.set(rows(&["m1", "m2"]));
        world.directory.announce(Change::Catalog);
        pass(Duration::from_secs(1)).await;
        assert!(world.has("m2"));
        assert_eq!(world.handle.feed().revocation(&token), Revocation::Revoked);
        assert_eq!(news.news(), News::Changes(vec![Change::Token(token, Timestamp(i64::MAX)), Change::Catalog]));
    });
}

#[test]
fn polls_come_each_half_second_and_never_overlap() {
    on_paused_time(async {
        let world = World::start();
        world.handle.ask_ready().await.unwrap();
        let before = world.directory.polls.calls();
        pass(Duration::from_millis(10_100)).await;
        assert_eq!(world.directory.polls.calls() - before, 20);
        world.directory.polls.hold();
        pass(Duration::from_millis(4_500)).await;
        assert_eq!(world.directory.polls.calls() - before, 21);
        assert!(!world.handle.feed().is_fresh(world.now()), "no poll has come back for more than two seconds");
        world.directory.polls.release();
        pass(Duration::from_millis(1_000)).await;
        assert!(world.handle.feed().is_fresh(world.now()));
    });
}

#[test]
fn a_store_that_was_away_is_caught_up_with() {
    on_paused_time(async {
        let world = World::start();
        world.handle.ask_ready().await.unwrap();
        let mut news = world.handle.feed().reader();
        world.directory.polls.set_down(true);
        pass(Duration::from_secs(60)).await;
        let tries = world.directory.polls.calls();
        assert!((55..=65).contains(&tries), "{tries} tries in a minute");
        for _ in 0..25_000 {
            world.directory.announce(Change::Catalog);
        }
        world.directory.announce(Change::User("last".parse().unwrap()));
        world.directory.polls.set_down(false);
        pass(Duration::from_millis(1_100)).await;
        assert_eq!(world.handle.feed().last(), 25_001, "page by page, at once");
        assert_eq!(news.news(), News::Everything, "more than is remembered");
    });
}

#[test]
fn between_two_pages_the_feed_is_not_fresh() {
    on_paused_time(async {
        let world = World::start();
        world.handle.ask_ready().await.unwrap();
        world.directory.polls.hold();
        for _ in 0..15_000 {
            world.directory.announce(Change::Catalog);
        }
        pass(Duration::from_millis(2_200)).await;
        assert!(!world.handle.feed().is_fresh(world.now()), "the poll under way has begun 1.7 s ago");
        world.directory.polls.break_next();
        world.directory.polls.release();
        pass(Duration::from_millis(1)).await;
        assert_eq!(world.handle.feed().last(), 10_000, "the second page could not be read");
        assert!(!world.handle.feed().is_fresh(world.now()), "what is on it isn't known");
        pass(MAX_PAUSE).await;
        assert_eq!(world.handle.feed().last(), 15_000);
        assert!(world.handle.feed().is_fresh(world.now()));
    });
}

#[test]
fn after_a_long_outage_everything_is_read_anew() {
    on_paused_time(async {
        let world = World::start();
        world.handle.ask_ready().await.unwrap();
        let mut news = world.handle.feed().reader();
        world.directory.polls.set_down(true);
        pass(MAX_GAP).await;
        world.catalog.set(rows(&["m2"]));
        world.directory.polls.set_down(false);
        pass(Duration::from_secs(2)).await;
        assert!(world.has("m2") && !world.has("m1"), "nobody had announced it");
        assert_eq!(news.news(), News::Everything);
        assert!(world.handle.feed().is_fresh(world.now()));
    });
}

/// Two changes are known; then the store is put back to where there was none, and so many are made before the next poll.
fn a_store_that_is_put_back(changes: i64) {
    on_paused_time(async {
        let world = World::start();
        world.directory.announce(Change::Catalog);
        world.directory.announce(Change::Catalog);
        world.handle.ask_ready().await.unwrap();
        let mut news = world.handle.feed().reader();
        world.directory.rewind();
        world.catalog.set(rows(&["m0"]));
        for _ in 0..changes {
            world.directory.announce(Change::User("a".parse().unwrap()));
        }
        pass(Duration::from_secs(1)).await;
        assert!(world.has("m0"));
        assert_eq!((news.news(), world.handle.feed().last()), (News::Everything, changes));
    });
}

#[test]
fn a_sequence_that_went_backwards_is_a_restored_backup() {
    a_store_that_is_put_back(1);
}

#[test]
fn so_is_one_that_has_caught_up_again_or_gone_ahead() {
    a_store_that_is_put_back(2);
    a_store_that_is_put_back(3);
}

#[test]
fn a_sequence_whose_old_changes_are_dropped_goes_on() {
    on_paused_time(async {
        let world = World::start();
        let known = world.directory.announce(Change::Catalog);
        world.handle.ask_ready().await.unwrap();
        let mut news = world.handle.feed().reader();
        let change = Change::User("a".parse().unwrap());
        world.directory.announce(change.clone());
        world.directory.drop_change(known);
        pass(Duration::from_secs(1)).await;
        assert_eq!(news.news(), News::Changes(vec![change]));
    });
}

#[test]
fn a_catalog_that_could_not_be_read_is_tried_again() {
    on_paused_time(async {
        let world = World::start();
        world.handle.ask_ready().await.unwrap();
        world.catalog.reads.set_down(true);
        world.catalog.set(rows(&["m2"]));
        world.directory.announce(Change::Catalog);
        pass(Duration::from_secs(3)).await;
        assert!(world.has("m1"), "requests go on with the snapshot that there is");
        world.catalog.reads.set_down(false);
        pass(Duration::from_secs(1)).await;
        assert!(world.has("m2"));
    });
}

#[test]
fn askers_for_what_is_unknown_share_one_read_each_half_second() {
    on_paused_time(async {
        let world = World::start();
        world.handle.ask_ready().await.unwrap();
        world.catalog.set(rows(&["m2"]));
        let before = world.catalog.reads.calls();
        for answer in join_all((0..200).map(|_| world.handle.ask_refresh())).await {
            assert!(answer.unwrap().model(&id("m2")).is_some());
        }
        world.catalog.set(rows(&["m3"]));
        assert!(world.handle.ask_refresh().await.unwrap().model(&id("m3")).is_none(), "too soon to ask again");
        assert_eq!(world.catalog.reads.calls() - before, 1);
        pass(REFRESH_INTERVAL).await;
        assert!(world.handle.ask_refresh().await.unwrap().model(&id("m3")).is_some());
        world.catalog.reads.set_down(true);
        pass(REFRESH_INTERVAL).await;
        assert!(world.handle.ask_refresh().await.is_err(), "nobody can say whether there is such a model");
        assert!(world.handle.ask_refresh().await.is_err());
        assert_eq!(world.catalog.reads.calls() - before, 3);
    });
}

#[test]
fn whoever_comes_late_to_a_slow_read_waits_for_the_next() {
    on_paused_time(async {
        let world = World::start();
        world.handle.ask_ready().await.unwrap();
        world.catalog.reads.hold();
        let before = world.catalog.reads.calls();
        let early = async { world.handle.ask_refresh().await.is_ok() };
        let late = async {
            pass(Duration::from_secs(2)).await;
            world.catalog.set(rows(&["m2"]));
            let answer = world.handle.ask_refresh();
            futures_util::join!(answer, async { world.catalog.reads.release() }).0.unwrap().model(&id("m2")).is_some()
        };
        assert_eq!(futures_util::join!(early, late), (true, true));
        assert_eq!(world.catalog.reads.calls() - before, 2, "the first had begun before the model was there");
    });
}

#[test]
fn a_read_that_crashes_does_not_stop_the_polls() {
    on_paused_time(async {
        let world = World::start();
        world.handle.ask_ready().await.unwrap();
        world.directory.polls.break_next();
        world.catalog.reads.break_next();
        assert!(world.handle.ask_refresh().await.is_err());
        pass(Duration::from_secs(3)).await;
        assert!(world.handle.feed().is_fresh(world.now()));
        assert!(world.handle.ask_refresh().await.is_ok());
    });
}
