//! What a provider reported beyond a lease, while it is on its way to the store: tokens, of one instance.

use std::time::Instant;

use uuid::Uuid;

use crate::{
    domain::{AccountKey, Amounts, ClassId, Limits, Portion, Timestamp, UserKey, WindowKind},
    ports::{Clock, LeaseAnswer, LeaseAsk, LeaseKey},
    quota::{
        Dimension,
        account::{Account, Grant},
        loan::{Held, Verdict},
    },
    testing::ManualClock,
};

const LIMITS: Limits = Limits { requests: None, tokens: Some(100), cost: None };

fn tokens(tokens: i64) -> Portion {
    Portion { tokens, ..Portion::ZERO }
}

fn used(completion_tokens: i64) -> Amounts {
    Amounts { completion_tokens, ..Amounts::ZERO }
}

/// An account that was lent 10 of 100 tokens and has used 60, which the store doesn't know; an ask is under way.
fn asking(now: Instant) -> (Held, LeaseAsk, u64) {
    let class = ClassId(1);
    let window = WindowKind::Day.at(Timestamp::from_seconds(0));
    let mut held = Held::new(class, Account::new(window, Amounts::ZERO));
    (held.account.lease.free, held.loan.limits) = (tokens(10), LIMITS);
    let leased = held.account.settle(Grant::default(), used(60), &LIMITS);
    held.sent(tokens(60) - leased);
    let ask = LeaseAsk {
        key: LeaseKey { account: AccountKey { user: UserKey(1), class }, window },
        exchange: Uuid::nil(),
        limits: LIMITS,
        give_back: Portion::ZERO,
        need: tokens(1),
        most: tokens(1_000),
        obeyed: 0,
    };
    let (ask, epoch) = held.ask(ask, false, now);
    (held, ask, epoch)
}

#[test]
fn what_is_flushed_while_the_store_answers_is_not_forgotten() {
    let now = ManualClock::new().now();
    let (mut held, ask, epoch) = asking(now);
    held.arrived(tokens(50));
    held.touch();
    // As before the flush: 10 are leased, and nothing is used.
    let answer = LeaseAnswer { granted: tokens(90), leased: tokens(100), ..LeaseAnswer::default() };
    held.answered(&ask, epoch, &answer, now);
    assert_eq!(held.account.free(Dimension::Tokens, &LIMITS), 40);
}

#[test]
fn what_the_store_knew_before_it_was_told_refuses_nobody() {
    let now = ManualClock::new().now();
    let (mut held, ask, epoch) = asking(now);
    let answer = LeaseAnswer { used: used(60), granted: tokens(40), leased: tokens(40), ..LeaseAnswer::default() };
    held.answered(&ask, epoch, &answer, now);
    assert_eq!(held.account.free(Dimension::Tokens, &LIMITS), 0);
    assert_eq!(held.verdict(Dimension::Tokens, now), Verdict::Elsewhere, "it waits for the flush");
    held.arrived(tokens(50));
    assert_eq!(held.verdict(Dimension::Tokens, now), Verdict::Ask);
}

#[test]
fn demand_that_comes_late_throws_no_minute_away() {
    let (mut held, ..) = asking(ManualClock::new().now());
    for (asked, second) in [(5, 59), (7, 60), (2, 59)] {
        held.demand(tokens(asked), second);
    }
    assert_eq!((held.loan.demand.before, held.loan.demand.now), (tokens(5), tokens(9)));
}
