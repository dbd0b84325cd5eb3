//! Breadth first through all states that can be reached.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    time::Instant,
};

use super::{
    super::{CONTENDED, Held},
    journal::Move,
    steps::{Step, steps, take},
    store::Row,
    world::{Bounds, Instance, NOW, World},
};

/// What a search has found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) states: usize,
    pub(super) transitions: usize,
    pub(super) depth: usize,
    /// What doesn't hold, and the shortest way there.
    pub(super) violation: Option<(String, Vec<Step>)>,
}

fn small(number: i64) -> u8 {
    i8::try_from(number.min(100)).unwrap().to_le_bytes()[0]
}

/// Writes what makes two states of an account different. What decides nothing is left out: figures that only responses
/// show, and what was answered where it isn't believed any more.
fn encode_held(held: &Held, instance: &Instance, row: &Row, key: &mut Vec<u8>) {
    let loan = &held.loan;
    let since = |at: Instant| u8::try_from(NOW.saturating_duration_since(at).as_millis() / 250).unwrap();
    let [short, ..] = loan.short;
    let lease = held.account.lease;
    key.extend([lease.free.requests, held.account.reserved.requests, loan.obeyed].map(small));
    key.extend([
        u8::from(short),
        u8::from(loan.asked),
        u8::from(loan.uncertain),
        u8::try_from(loan.unflushed).unwrap(),
    ]);
    if believes(held) {
        key.extend([small(lease.elsewhere.requests), small(loan.obeyed_elsewhere), u8::from(instance.full)]);
    }
    if !short {
        key.push(small(loan.size.requests));
    }
    key.extend(loan.recall.map_or([0, 255], |(number, at)| [small(number), since(at)]));
    key.push(loan.contended.map_or(255, since));
    if let Some(ask) = loan.pending {
        key.extend([ask.give_back, ask.need, ask.most].map(|portion| small(portion.requests)));
        let made = ask.exchange == row.exchange;
        key.extend([small(ask.obeyed), if made { small(row.granted) } else { 255 }]);
    }
}

/// Says whether it may be decided by what the store has answered last.
fn believes(held: &Held) -> bool {
    held.loan.short[0] && held.loan.answered_at.is_some()
}

/// Says whether time makes a difference.
pub(super) fn ages(held: &Held) -> bool {
    believes(held) || held.loan.recall.is_some() || held.loan.contended.is_some_and(|at| *NOW - at < CONTENDED)
}

fn encode_steps(instance: &Instance, steps: &[Move], key: &mut Vec<u8>) {
    let number = |n: usize| u8::try_from(n).unwrap();
    let journal = |step: &Move| instance.journals.iter().position(|journal| journal.life == step.life).unwrap_or(99);
    key.extend(steps.iter().flat_map(|step| [number(journal(step)), number(step.from), number(step.to)]));
}

fn encode_instance(instance: &Instance, row: &Row, key: &mut Vec<u8>) {
    key.extend([row.leased, row.obeyed].map(small));
    let flags = [
        instance.up,
        instance.serving,
        instance.returns,
        instance.refill,
        instance.leaks,
        instance.excused,
        instance.forgets,
        instance.unheard,
    ];
    key.extend(flags.map(u8::from));
    key.extend([instance.running, instance.stale, instance.told, instance.recalled].map(small));
    key.extend([instance.waiting, 0xF0]);
    if let Some(held) = &instance.held {
        encode_held(held, instance, row, key);
    }
    key.push(0xF1);
    if let Some(under_way) = &instance.exchange {
        let current = instance.held.as_ref().map_or(0, |held| held.loan.epoch);
        key.extend([under_way.waiters, u8::from(under_way.left), u8::from(under_way.full)]);
        key.push(u8::from(under_way.epoch == current));
        key.extend([under_way.ask.give_back, under_way.ask.need].map(|portion| small(portion.requests)));
        let answer = under_way.answer;
        key.extend([answer.granted, answer.leased, answer.elsewhere].map(|portion| small(portion.requests)));
        key.push(small(answer.obeyed_elsewhere));
    }
    key.push(0xF2);
    instance.journals.iter().for_each(|journal| journal.encode(key));
    key.push(0xF3);
    if let Some(flight) = &instance.flight {
        key.extend([u8::from(flight.answered), u8::from(flight.apart)]);
        encode_steps(instance, &flight.steps, key);
    }
    key.push(0xF4);
    if let Some(late) = &instance.late {
        encode_steps(instance, late, key);
    }
}

/// Returns the state's fingerprint, the same whichever instance is called the first. Among a million states, two share
/// one with a probability of 3 in 10^8.
fn fingerprint(world: &World) -> u64 {
    let encode = |(row, instance): (&Row, &Instance)| {
        let mut key = Vec::with_capacity(128);
        encode_instance(instance, row, &mut key);
        key
    };
    let mut instances: Vec<_> = world.store.leases.iter().zip(&world.instances).map(encode).collect();
    instances.sort_unstable();
    let mut key = instances.concat();
    key.extend([
        world.store.rows,
        world.due,
        small(world.store.used),
        small(world.store.recalls),
        small(world.told),
        small(world.written_off),
    ]);
    let left = world.left;
    key.extend([left.requests, left.crashes, left.lost, left.recalls, left.write_offs]);
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Goes through all states, until one doesn't hold. `keep` remembers the ways, which takes memory.
pub(super) fn search(bounds: &Bounds, most: usize) -> Found {
    let first = World::new(bounds);
    let mut seen = HashSet::from([fingerprint(&first)]);
    let mut ways: HashMap<usize, (usize, Step)> = HashMap::new();
    let mut open = VecDeque::from([(0, 0, first)]);
    let mut found = Found { states: 1, transitions: 0, depth: 0, violation: None };
    while let Some((number, depth, world)) = open.pop_front() {
        found.depth = depth;
        for step in steps(&world, bounds) {
            match take(&world, step, bounds) {
                Ok(None) => {}
                Ok(Some(next)) => {
                    found.transitions += 1;
                    if seen.insert(fingerprint(&next)) {
                        ways.insert(found.states, (number, step));
                        open.push_back((found.states, depth + 1, next));
                        found.states += 1;
                        if found.states >= most {
                            return found;
                        }
                    }
                }
                Err(why) => {
                    let mut way = vec![step];
                    let mut at = number;
                    while let Some((before, step)) = ways.get(&at) {
                        way.insert(0, *step);
                        at = *before;
                    }
                    found.violation = Some((why, way));
                    return found;
                }
            }
        }
    }
    found
}
