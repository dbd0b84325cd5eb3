//! Ten thousand random histories, with faults, crashes and restored books: each request has its row exactly once.

use std::fs;

use proptest::{prelude::*, test_runner::TestRunner};

use super::world::{World, folder, keeping};
use crate::testing::Backup;

/// How many histories are tried.
const CASES: u32 = 10_000;

#[derive(Debug, Clone, Copy)]
enum Step {
    Open(usize),
    Settle(usize),
    Release(usize),
    Furnish,
    Sync,
    Flush,
    /// A batch isn't applied.
    FlushFails,
    /// A batch is applied, and nobody is told.
    FlushUnheard,
    /// The store is away, also for those who ask where it stands.
    StoreAway,
    BackUp,
    Restore,
    /// A journal can't be written or synced any more.
    Break(usize),
    Sweep,
    Close,
    Kill,
    CutPower,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        24 => any::<usize>().prop_map(Step::Open),
        14 => any::<usize>().prop_map(Step::Settle),
        4 => any::<usize>().prop_map(Step::Release),
        10 => Just(Step::Furnish),
        10 => Just(Step::Sync),
        12 => Just(Step::Flush),
        3 => Just(Step::FlushFails),
        3 => Just(Step::FlushUnheard),
        2 => Just(Step::StoreAway),
        2 => Just(Step::BackUp),
        2 => Just(Step::Restore),
        2 => any::<usize>().prop_map(Step::Break),
        2 => Just(Step::Sweep),
        1 => Just(Step::Close),
        2 => Just(Step::Kill),
        2 => Just(Step::CutPower),
    ];
    prop::collection::vec(step, 1..40)
}

struct History {
    world: World,
    books: usize,
    backup: Option<Backup>,
}

impl History {
    async fn step(&mut self, step: Step) {
        let world = &mut self.world;
        match step {
            Step::Open(book) => drop(world.open(book)),
            Step::Settle(place) => world.settle(place),
            Step::Release(place) => world.release(place),
            Step::Furnish => drop(world.life().shelf.furnish()),
            Step::Sync => world.life().shelf.sync(),
            Step::Flush => drop(world.flush().await),
            Step::FlushFails => {
                world.store.applies.set_down(true);
                drop(world.flush().await);
                world.store.applies.set_down(false);
            }
            Step::FlushUnheard => {
                world.store.acknowledgements.set_down(true);
                drop(world.flush().await);
                world.store.acknowledgements.set_down(false);
            }
            Step::StoreAway => {
                world.store.applies.set_down(true);
                world.store.reads.set_down(true);
                assert!(!matches!(world.flush().await, Ok(Some(_))));
                world.store.applies.set_down(false);
                world.store.reads.set_down(false);
            }
            Step::BackUp => self.backup = Some(world.store.back_up()),
            Step::Restore => self.restore(),
            Step::Break(which) => {
                let live = world.life().shelf.live();
                live.get(which % live.len().max(1)).into_iter().for_each(|live| live.fail());
            }
            Step::Sweep => world.life().shelf.sweep(0),
            Step::Close => world.life().shelf.close(),
            Step::Kill => {
                world.kill();
                world.start(self.books).await.unwrap();
            }
            Step::CutPower => {
                world.cut_power();
                world.start(self.books).await.unwrap();
            }
        }
        self.world.assert_synced();
    }

    /// Puts the store back to an older state. Only where nothing is ever dropped can it all be applied again.
    fn restore(&mut self) {
        if let Some(backup) = self.backup.as_ref().filter(|_| !self.world.config.retain.is_zero()) {
            self.world.store.restore(backup);
        }
    }

    /// Kills the process, starts another and compares the books.
    async fn end(mut self) {
        self.world.kill();
        self.world.start(0).await.unwrap();
        self.world.assert_books();
        assert_eq!(self.world.life().shelf.lag_rows(), 0);
        // Another one finds nothing.
        self.world.kill();
        assert_eq!(self.world.start(0).await.unwrap(), 0);
        self.world.kill();
    }
}

#[test]
fn each_request_has_its_row_exactly_once() {
    let folder = folder();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut runner = TestRunner::new(ProptestConfig { cases: CASES, failure_persistence: None, ..Default::default() });
    let histories = (steps(), 8..=16_u64, 1..=6_usize, 1..=2_usize, any::<bool>());
    let result = runner.run(&histories, |(steps, slots, flush_postings, books, keeps)| {
        let folder = folder.path().join("case");
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        let mut config = keeping(slots);
        if !keeps {
            (config.retain, config.retain_bytes) = (std::time::Duration::ZERO, 0);
        }
        let mut history = History { world: World::new(&folder, config, flush_postings), books, backup: None };
        runtime.block_on(async {
            history.world.start(books).await.unwrap();
            for step in steps {
                history.step(step).await;
            }
            history.end().await;
        });
        Ok(())
    });
    result.unwrap();
}
