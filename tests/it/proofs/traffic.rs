//! An open loop: requests leave on a fixed schedule, whatever becomes of those before them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::Duration,
};

use tokio::{
    sync::{
        mpsc::{Receiver, channel},
        watch,
    },
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::load::{Answer, Caller, Crowd, Kind, Order, Stop};
use crate::harness::app::DEADLINE;

/// Connections. Each account keeps to one of them, and so to the worker on which it is warm.
const LANES: usize = 64;
/// Requests that wait for their connection, at most; one more fails the proof.
const WAITING: usize = 1_024;

/// Steady traffic of many accounts.
pub(super) struct Traffic {
    crowd: Crowd,
    ended: Arc<AtomicUsize>,
}

/// What the traffic is made of.
#[derive(Clone)]
struct Plan {
    instance: SocketAddr,
    users: Arc<[String]>,
    /// Requests a second.
    rate: u32,
    /// Counts the requests that ended.
    ended: Arc<AtomicUsize>,
}

impl Traffic {
    /// Asks once for each user; then sends so many requests a second, for each user in turn.
    /// Returns when all users have been served.
    pub(super) fn start(instance: SocketAddr, users: &[String], rate: u32) -> Self {
        let ended = Arc::new(AtomicUsize::new(0));
        let plan = Plan { instance, users: users.into(), rate, ended: Arc::clone(&ended) };
        let (warm, all_warm) = sync_channel(1);
        let crowd = Crowd::start(1, move |_, stop| keep_pace(plan.clone(), warm.clone(), stop));
        all_warm.recv_timeout(DEADLINE * 3).unwrap();
        Self { crowd, ended }
    }

    /// Returns how many requests have ended.
    pub(super) fn ended(&self) -> usize {
        self.ended.load(Ordering::Acquire)
    }

    /// Ends it after the running requests, and returns what was seen.
    pub(super) fn finish(self) -> Vec<Answer> {
        self.crowd.finish()
    }
}

async fn keep_pace(plan: Plan, warm: SyncSender<()>, stop: Stop) -> Vec<Answer> {
    let users = plan.users.len();
    let (served, mut all_served) = watch::channel(0);
    let mut lanes = JoinSet::new();
    let mut senders = Vec::new();
    for _ in 0..LANES {
        let (sender, numbers) = channel(WAITING);
        senders.push(sender);
        lanes.spawn(lane(plan.clone(), numbers, served.clone()));
    }
    // Request `number` is of user `number % users`.
    let lane_of = |number: usize| number % users % LANES;
    for number in 0..users {
        senders[lane_of(number)].send(number).await.unwrap();
    }
    all_served.wait_for(|served| *served == users).await.unwrap();
    warm.send(()).unwrap();
    let mut ticks = interval(Duration::from_secs(1) / plan.rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in users.. {
        ticks.tick().await;
        if *stop.borrow() {
            break;
        }
        senders[lane_of(number)].try_send(number).expect("a connection is stuck");
    }
    drop(senders);
    lanes.join_all().await.concat()
}

/// One connection: its requests leave in turn.
async fn lane(plan: Plan, mut numbers: Receiver<usize>, served: watch::Sender<usize>) -> Vec<Answer> {
    let mut caller = Caller::new(plan.instance);
    let mut answers = Vec::new();
    while let Some(number) = numbers.recv().await {
        let users = plan.users.len();
        let order = Order::new(&plan.users[number % users], number / users, Kind::Short);
        answers.push(caller.ask(&order).await);
        plan.ended.fetch_add(1, Ordering::AcqRel);
        served.send_modify(|served| *served += 1);
    }
    answers
}

/// Asserts that every request was served.
pub(super) fn none_failed(answers: &[Answer]) {
    let failed: Vec<_> = answers.iter().filter(|answer| !answer.is_finished()).collect();
    assert!(failed.is_empty(), "{} of {} requests failed: {:?}", failed.len(), answers.len(), failed.first());
}
