//! The disk that the journal lies on is full: what runs is charged, what is new is refused, until there is room again.

use std::time::Duration;

use hne_load::clock;

use super::{
    books::{add_users, prove},
    instance::Instance,
    load::{Answer, Caller, Crowd, Kind, Order},
    machine_shared, provider,
};
use crate::harness::{app::DEADLINE, disk::SmallDisk, servers};

/// Streams that run while the disk gets full.
const RUNNING: usize = 20;
/// Clients that fill the journal up.
const CLIENTS: usize = 50;
/// Requests of one client, at most. Each takes 256 bytes of a journal: together ten segments.
const REQUESTS: usize = 200;
/// Small, so that the spare segments are soon used up.
const SEGMENT: &str = "262144";
/// How soon there is service again after there is room.
const RESUMES: Duration = Duration::from_secs(1);

fn is_refused(answer: &Answer) -> bool {
    answer.refusal() == "ledger_unavailable"
}

/// Asks until it is refused; whatever else fails is seen in the answers.
async fn until_refused(instance: std::net::SocketAddr, client: usize) -> Vec<Answer> {
    let mut caller = Caller::new(instance);
    let mut answers = Vec::new();
    for number in 0..REQUESTS {
        answers.push(caller.ask(&Order::new(&format!("filler-{client:02}"), number, Kind::Short)).await);
        if answers.last().is_none_or(is_refused) {
            break;
        }
    }
    answers
}

/// Asks again and again until there is service; returns the answers and how long it took.
fn until_served(instance: std::net::SocketAddr) -> (Vec<Answer>, Duration) {
    let began = clock::now();
    let asking = async {
        let mut caller = Caller::new(instance);
        let mut answers = Vec::new();
        let mut turns = tokio::time::interval(Duration::from_millis(5));
        for number in 0.. {
            turns.tick().await;
            answers.push(caller.ask(&Order::new("later", number, Kind::Short)).await);
            if !answers.last().is_some_and(is_refused) || began.elapsed() > DEADLINE {
                break;
            }
        }
        answers
    };
    (hne_load::block_on(asking).unwrap(), began.elapsed())
}

#[test]
fn on_a_full_disk_running_streams_are_charged_and_new_ones_refused() {
    let disk = match SmallDisk::mount() {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: a disk of 8 MB can't be mounted: {why}"),
    };
    let _busy = machine_shared();
    let provider = provider();
    let mut instance = Instance::at(&servers::postgres().fresh_database(), &provider);
    instance.set("HNE_DATA_DIR", disk.path().to_str().unwrap());
    instance.set_journal("SEGMENT_BYTES", SEGMENT);
    instance.json(&["migrate"]);
    let names = (0..CLIENTS).map(|client| format!("filler-{client:02}"));
    let users: Vec<_> = names.chain(["running", "later"].map(str::to_owned)).collect();
    add_users(&instance.database_url(), &users, "unlimited");
    instance.start();
    let address = instance.address();

    let running = Crowd::start(RUNNING, move |number, _| async move {
        vec![Caller::new(address).ask(&Order::new("running", number, Kind::Held)).await]
    });
    let begun = provider.wait_for_totals(|totals| totals.open_streams == RUNNING, DEADLINE);
    assert!(hne_load::block_on(begun).unwrap().is_ok(), "the streams do not begin");
    let ballast = disk.fill();
    let fillers = Crowd::start(CLIENTS, move |client, _| until_refused(address, client)).wait();
    let refused = fillers.iter().filter(|answer| is_refused(answer)).count();
    let served = fillers.iter().filter(|answer| answer.is_finished()).count();
    println!("full disk: served {served} from what was claimed before, then refused {refused} of {CLIENTS} clients");
    assert_eq!(refused, CLIENTS, "on a full disk requests are still admitted, after {served} of them");
    assert_eq!(served + refused, fillers.len(), "each was served or refused");

    provider.release("");
    let running = running.wait();
    let finished = running.iter().filter(|answer| answer.is_finished()).count();
    assert_eq!(finished, RUNNING, "running streams end well: {running:?}");
    std::fs::remove_file(ballast).unwrap();
    let (later, took) = until_served(address);
    println!("full disk: {finished} running streams ended well; with room again, served after {took:?}");
    assert!(later.last().is_some_and(Answer::is_finished) && took < RESUMES, "{took:?}: {:?}", later.last());

    instance.stop();
    prove("full disk", &instance.database_url(), &provider, &[fillers, running, later].concat());
    instance.verify();
}
