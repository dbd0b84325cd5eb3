//! The store's clock decides windows: its midnight comes under load, while the machine's clock is elsewhere.

use std::time::{Duration, Instant};

use hne_load::clock;

use super::{
    books::{add_users, execute, prove, rows},
    instance::Instance,
    load::{Caller, Crowd, Kind, Order},
    machine_shared, pass, provider,
    traffic::{Traffic, none_failed},
};
use crate::harness::{app::now, servers};

const ACCOUNTS: usize = 1_100;
/// Streams that begin before midnight and end after it, of a user of their own.
const OVER_MIDNIGHT: usize = 20;
const NIGHT_OWL: &str = "night-owl";
/// Requests a second.
const RATE: u32 = 200;
const DAY: i64 = 86_400;
const MICROS: i64 = 1_000_000;
/// From the store's first look at its clock to its midnight: enough to start and to warm all accounts.
const UNTIL_MIDNIGHT: Duration = Duration::from_secs(30);
/// How long before midnight statements are counted from: accounts ask for the next window 5 s ahead.
const AHEAD: Duration = Duration::from_secs(6);
/// How long the load goes on after midnight.
const AFTER: Duration = Duration::from_secs(4);
/// How far what a client sees of a moment may be from what the store does.
const SLACK: Duration = Duration::from_millis(500);
/// Accounts that one statement lends the next window to, at most.
const ACCOUNTS_A_STATEMENT: usize = 1_000;
/// Statements of the refills in the background: all accounts that wait share one, and one flies at a time, so that
/// there are a few in a second however many accounts there are.
const REFILLS_A_SECOND: usize = 10;

/// Statements that may be needed around midnight.
fn allowed(time: Duration) -> usize {
    let seconds = usize::try_from(time.as_secs()).unwrap() + 1;
    ACCOUNTS.div_ceil(ACCOUNTS_A_STATEMENT) + seconds * REFILLS_A_SECOND
}

/// Sets the store's clock ahead, to shortly before a midnight that is more than an hour away by the machine's clock.
/// Returns that midnight in seconds since 1970, and when it will be.
fn set_clock(url: &str) -> (i64, Instant) {
    let machine = now();
    let midnight = (machine + 3_600).div_euclid(DAY) * DAY + 2 * DAY;
    let offset = midnight - machine - i64::try_from(UNTIL_MIDNIGHT.as_secs()).unwrap();
    assert!(offset > 3_600);
    execute(
        url,
        &format!(
            "CREATE OR REPLACE FUNCTION now_micros() RETURNS BIGINT LANGUAGE sql VOLATILE AS
            $$ SELECT (extract(epoch FROM clock_timestamp()) * {MICROS})::bigint + {offset} * {MICROS}::bigint $$"
        ),
    );
    let left = midnight * MICROS - servers::psql(url, "SELECT now_micros()").parse::<i64>().unwrap();
    (midnight, clock::now() + Duration::from_micros(u64::try_from(left).unwrap()))
}

/// Returns how many statements have asked for leases so far.
fn exchanges(instance: &Instance) -> usize {
    let metrics = instance.get("/metrics");
    let calls = metrics.lines().filter(|line| line.starts_with("hne_store_calls_total") && line.contains("exchange"));
    calls.map(|line| line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap()).sum()
}

fn pass_until(moment: Instant) {
    pass(moment.saturating_duration_since(clock::now()));
}

#[test]
fn every_request_counts_in_the_day_in_which_it_began() {
    let _busy = machine_shared();
    let provider = provider();
    let url = servers::postgres().fresh_database();
    let mut instance = Instance::at(&url, &provider);
    instance.json(&["plan", "set", "daily", "basic", "--window", "day", "--requests", "100000"]);
    let users: Vec<_> = (0..ACCOUNTS).map(|account| format!("daily-{account:04}")).collect();
    add_users(&url, &users, "daily");
    add_users(&url, &[NIGHT_OWL.to_owned()], "daily");
    let (midnight, comes_at) = set_clock(&url);
    instance.start();
    let address = instance.address();
    let traffic = Traffic::start(address, &users, RATE);
    let over_midnight = Crowd::start(OVER_MIDNIGHT, move |number, _| async move {
        vec![Caller::new(address).ask(&Order::new(NIGHT_OWL, number, Kind::Held)).await]
    });
    assert!(clock::now() + AHEAD < comes_at, "all accounts are warm in time");
    pass_until(comes_at - AHEAD);
    let statements = exchanges(&instance);
    pass_until(comes_at + AFTER);
    let statements = exchanges(&instance) - statements;
    provider.release("");
    let answers = [traffic.finish(), over_midnight.wait()].concat();
    instance.stop();

    let rows = rows(&url);
    let before = rows.iter().filter(|row| row.opened_at < midnight * MICROS).count();
    let yesterday = answers.iter().filter(|answer| answer.ended + SLACK < comes_at).count();
    let today = answers.iter().filter(|answer| answer.sent > comes_at + SLACK).count();
    let totals = "SELECT coalesce(sum(requests), 0) FROM usage_totals WHERE window_kind = 0 AND window_start = ";
    let day = |start: i64| servers::psql(&url, &format!("{totals}{start}")).parse::<usize>().unwrap();
    let (first, second) = (day(midnight - DAY), day(midnight));
    println!(
        "midnight: requests {}, counted before {first} and after {second}, rows before {before}, surely before \
         {yesterday}, surely after {today}, lease statements {statements} of {} allowed for {ACCOUNTS} accounts",
        answers.len(),
        allowed(AHEAD + AFTER)
    );
    none_failed(&answers);
    prove("midnight", &url, &provider, &answers);
    instance.verify();
    let late = rows.iter().filter(|row| row.user == NIGHT_OWL && row.opened_at < midnight * MICROS).count();
    assert_eq!(late, OVER_MIDNIGHT, "a stream that ends after midnight counts in the day in which it began");
    assert_eq!((first, second), (before, rows.len() - before), "each row counts on its side of midnight");
    assert!(first >= yesterday && second >= today, "each request is on its side of midnight");
    assert!(yesterday > ACCOUNTS && today > 0, "there was load on both sides");
    assert!(statements <= allowed(AHEAD + AFTER), "{statements} lease statements");
}
