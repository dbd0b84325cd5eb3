//! What clients that don't read cost the process.

use std::time::Duration;

use hne_load::{
    client::Client,
    mock::{MockProvider, Options},
};

use super::world::{Serving, World};
use crate::harness::app::{DEADLINE, Database, chat, run, stream};

/// Returns the CPU time of the process so far.
fn cpu(service: &Serving) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", service.process.id())).unwrap();
    let after_the_name = stat.rsplit_once(')').unwrap().1;
    // utime and stime of proc(5), in hundredths of a second.
    let ticks = after_the_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

/// Reads a stream that takes a second, and returns the CPU time that passes meanwhile.
async fn a_second(service: &Serving, client: &Client, marker: &str) -> Duration {
    let before = cpu(service);
    let mut calm = stream(client, &chat("mock/chat+frames-51+gap-20ms", marker)).await;
    assert!(calm.frames().await.unwrap().last().unwrap().is_done());
    cpu(service) - before
}

#[test]
fn clients_that_do_not_read_cost_no_time() {
    const STUCK: usize = 10;
    let mock = MockProvider::start(Options::default()).unwrap();
    let world = World::on(Database::Sqlite).asking(&mock).env("HNE__STREAM__KEEPALIVE", "100ms");
    let service = world.serve();
    let client = service.client(&world, "ann");
    let (alone, beside) = run(async {
        let alone = a_second(&service, &client, "alone").await;
        let mut stuck = Vec::new();
        let greedy = client.clone().receive_buffer(4_096);
        for number in 0..STUCK {
            let body = chat("mock/chat+frames-20000+bytes-1000", &format!("stuck-{number}"));
            stuck.push(stream(&greedy, &body).await);
        }
        // What the kernel holds is sent by then.
        let sent = |books: &[hne_load::mock::Entry]| books.iter().filter(|entry| entry.frames > 100).count() == STUCK;
        mock.wait_for(sent, DEADLINE).await.unwrap();
        a_second(&service, &client, "settling").await;
        (alone, a_second(&service, &client, "beside").await)
    });
    println!("CPU in a second: {alone:?} without, {beside:?} beside {STUCK} clients that don't read");
    assert!(beside < alone + Duration::from_millis(250), "{alone:?} without, {beside:?} beside them");
    let (done, took) = service.stop("KILL");
    assert_eq!(done.code, -9);
    assert!(took < Duration::from_secs(5), "{took:?}");
}
