//! Three instances share one user's limit: it is used up to the last request and never passed.

use std::{net::SocketAddr, time::Duration};

use hne_load::{clock, mock::MockProvider};

use super::{
    books::{Row, add_users, rows},
    instance::Instance,
    load::{Answer, Caller, Crowd, Kind, Order, Seen},
    machine_shared, provider, scale,
};
use crate::harness::{app::DEADLINE, servers};

const LIMIT: usize = 1_000;
const CLIENTS: usize = 200;
const INSTANCES: usize = 3;
/// A client that is told to come back comes back so soon: sooner than `retry-after` says, to press harder.
const COME_BACK: Duration = Duration::from_millis(50);

/// Makes instances on one database, and users whose plan allows the limit.
fn instances(provider: &MockProvider, users: &[String]) -> Vec<Instance> {
    let url = servers::postgres().fresh_database();
    let instances: Vec<_> = (0..INSTANCES).map(|_| Instance::at(&url, provider)).collect();
    let limit = LIMIT.to_string();
    instances[0].json(&["plan", "set", "shared", "basic", "--window", "day", "--requests", &limit]);
    add_users(&url, users, "shared");
    instances
}

/// How long a client goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Until it is told that the quota is used up; no instance may fail meanwhile.
    Endless,
    /// Also until it was told so often in a row that the quota is unavailable; instances may die.
    Turns(usize),
}

/// Asks all instances in turn, for one user; `first` is the first of this client's numbers.
async fn insist(instances: Vec<SocketAddr>, user: String, first: usize, patience: Patience) -> Vec<Answer> {
    let mut callers: Vec<_> = instances.into_iter().map(Caller::new).collect();
    let (mut answers, mut number, mut waits, mut turn) = (Vec::new(), first, 0, first);
    loop {
        let count = callers.len();
        turn += 1;
        let answer = callers[turn % count].ask(&Order::new(&user, number, Kind::Short)).await;
        let (seen, refusal) = (answer.seen.clone(), answer.refusal().to_owned());
        answers.push(answer);
        match seen {
            Seen::Finished => {
                (number, waits) = (number + CLIENTS, 0);
            }
            Seen::Refused(503, _) if refusal == "quota_unavailable" => {
                waits += 1;
                if patience == Patience::Turns(waits) {
                    return answers;
                }
                tokio::time::sleep(COME_BACK).await;
            }
            Seen::Refused(429, _) if refusal == "insufficient_quota" => return answers,
            Seen::Broken(_) if patience != Patience::Endless => number += CLIENTS,
            Seen::Absent if patience != Patience::Endless => tokio::time::sleep(COME_BACK).await,
            other => panic!("request {number} of {user} failed: {other:?}"),
        }
    }
}

fn crowd(instances: &[Instance], user: &str, first: usize, patience: Patience) -> Crowd {
    let addresses: Vec<_> = instances.iter().map(Instance::address).collect();
    let user = user.to_owned();
    Crowd::start(CLIENTS, move |slot, _| insist(addresses.clone(), user.clone(), first + slot, patience))
}

/// Whoever was refused for good was told that nothing is left.
fn refusals_are_true(answers: &[Answer]) {
    for answer in answers.iter().filter(|answer| answer.refusal() == "insufficient_quota") {
        let Seen::Refused(_, error) = &answer.seen else { unreachable!() };
        let figure = |name: &str| error[name].as_i64().unwrap();
        let limit = i64::try_from(LIMIT).unwrap();
        assert_eq!(figure("limit"), limit, "{error}");
        assert!(figure("used") + figure("reserved") >= limit && figure("remaining") <= 0, "{error}");
    }
}

fn told(answers: &[Answer], code: &str) -> usize {
    answers.iter().filter(|answer| answer.refusal() == code).count()
}

fn finished(answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.is_finished()).count()
}

fn charged(rows: &[Row], user: &str) -> usize {
    rows.iter().filter(|row| row.user == user && row.requests > 0).count()
}

#[test]
fn three_instances_charge_exactly_one_limit() {
    let _busy = machine_shared();
    let provider = provider();
    let users: Vec<_> = (0..scale(5, 25)).map(|run| format!("shared-{run}")).collect();
    let mut instances = instances(&provider, &users);
    instances.iter_mut().for_each(Instance::start);
    let mut seen = Vec::new();
    for user in &users {
        let began = clock::now();
        let answers = crowd(&instances, user, 0, Patience::Endless).wait();
        println!(
            "shared limit, {user}: finished {}, 503 quota_unavailable {}, 429 {}, in {:.2?}",
            finished(&answers),
            told(&answers, "quota_unavailable"),
            told(&answers, "insufficient_quota"),
            began.elapsed()
        );
        refusals_are_true(&answers);
        seen.push(finished(&answers));
    }
    let url = instances[0].database_url();
    instances.iter_mut().for_each(Instance::stop);
    let rows = rows(&url);
    let charged: Vec<_> = users.iter().map(|user| charged(&rows, user)).collect();
    println!("shared limit: charged {charged:?}, finished {seen:?}");
    assert_eq!(charged, vec![LIMIT; users.len()], "charged for each user, under a limit of {LIMIT}");
    assert_eq!(seen, charged, "what was charged was served");
    instances[0].verify();
}

#[test]
fn a_killed_instance_keeps_what_it_was_lent() {
    let _busy = machine_shared();
    let provider = provider();
    let users = ["shared-killed".to_owned()];
    let [user] = &users;
    let mut instances = instances(&provider, &users);
    instances.iter_mut().for_each(Instance::start);
    let url = instances[0].database_url();
    let first = crowd(&instances, user, 0, Patience::Turns(2));
    let underway = provider.wait_for_totals(|totals| totals.requests >= 300, DEADLINE);
    assert!(hne_load::block_on(underway).unwrap().is_ok(), "the load does not reach the provider");
    instances[1].kill();
    let mut answers = first.wait();
    let (before, waits) = (finished(&answers), told(&answers, "quota_unavailable"));
    println!("shared limit, one killed: finished {before}, 503 quota_unavailable {waits}");
    assert!(before <= LIMIT, "{before} were served under a limit of {LIMIT}");

    instances[1].start();
    answers.extend(crowd(&instances, user, 6_000, Patience::Endless).wait());
    refusals_are_true(&answers);
    instances.iter_mut().for_each(Instance::stop);
    let rows = rows(&url);
    let interrupted = rows.iter().filter(|row| row.outcome == "interrupted").count();
    let charged = charged(&rows, user);
    println!(
        "shared limit, one killed and back: finished {}, charged {charged}, interrupted {interrupted}",
        finished(&answers)
    );
    assert_eq!(charged, LIMIT, "after the return of the killed instance exactly the limit is charged");
    assert!(finished(&answers) <= charged, "what was served was charged");
    instances[0].verify();
}
