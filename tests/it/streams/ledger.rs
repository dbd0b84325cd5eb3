//! The books while the database is away, and when its answer gets lost.

use std::net::SocketAddr;

use hne_load::{
    chaos::{ChaosProxy, Cut, Direction, Moment},
    client::Client,
};

use super::{caller, charges};
use crate::harness::{
    app::{DEADLINE, Database, TestApp, chat, complete, run, stream},
    servers::Postgres,
};

/// Streams, and asks for whole answers; so many of each.
pub(super) async fn serve(client: &Client, count: usize) {
    for _ in 0..count {
        let frames = stream(client, &chat("mock/chat", "streamed")).await.frames().await.unwrap();
        assert!(frames.last().unwrap().is_done());
        assert_eq!(complete(client, &chat("mock/chat", "whole")).await.status, 200);
    }
}

fn an_outage(begin: fn(&Postgres), end: fn(&Postgres)) {
    let server = Postgres::start();
    let app = TestApp::on(Database::Postgres).losing(&server, "1s").start();
    let warm = caller(&app, "warm");
    run(async {
        app.wait_for_changes().await;
        // On both workers: which one takes a connection is the kernel's choice.
        serve(&warm, 10).await;
        begin(&server);
        serve(&warm, 20).await;
        let cold = complete(&caller(&app, "cold"), &chat("mock/chat", "cold")).await;
        assert_eq!((cold.status, cold.header("retry-after")), (503, Some("1")));
        end(&server);
        serve(&warm, 5).await;
    });
    let rows = app.wait_for_postings(70);
    assert_eq!(charges(&rows, "warm").len(), 70);
    drop(app);
}

#[test]
fn warm_accounts_are_served_while_the_database_is_dead() {
    an_outage(|server| server.kill(), |server| server.restart());
}

#[test]
fn warm_accounts_are_served_while_the_database_is_silent() {
    an_outage(|server| server.freeze(), |server| server.thaw());
}

#[test]
fn warm_accounts_are_served_while_the_database_is_stopped() {
    an_outage(|server| server.stop(), |server| server.restart());
}

#[test]
fn a_lost_acknowledgement_doubles_nothing() {
    const ROUNDS: u64 = 5;
    let server = Postgres::start();
    let target = SocketAddr::from(([127, 0, 0, 1], server.port()));
    let proxy = ChaosProxy::start(target).unwrap();
    let url = server.fresh_database().replace(&target.to_string(), &proxy.addr().to_string());
    let app = TestApp::on(Database::Postgres).env("DATABASE_URL", url).start();
    let client = caller(&app, "ann");
    run(async {
        serve(&client, 1).await;
        for round in 1..=ROUNDS {
            let moment = if round % 2 == 0 { Moment::Before } else { Moment::Answered };
            proxy.cut_when(Direction::Up, "COMMIT", moment, Cut::Reset);
            serve(&client, 2).await;
            assert!(proxy.wait_for_cuts(round, DEADLINE).await);
        }
    });
    let rows = app.wait_for_postings(22);
    assert_eq!(charges(&rows, "ann").len(), 22);
    drop(app);
}
