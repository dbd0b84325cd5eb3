//! What may happen next: every step that a state allows, each as one change of it.

use std::time::Duration;

use super::search::ages;
use super::world::{Bounds, Mutant, World, age};

/// One step; the number is the instance's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A request comes.
    Request(usize),
    /// A waiting request gives up.
    Leave(usize),
    /// A running request ends and is charged.
    Settle(usize),
    /// The same of one that was promised from a lease which is forgotten.
    SettleStale(usize),
    /// A running request ends before a provider was asked.
    Release(usize),
    /// The client is told of the end, before it is settled: only a mutant does that.
    Tell(usize),
    /// What isn't needed is to go back.
    Return(usize),
    /// The store makes the exchange that is queued; its answer is under way.
    Exchange(usize),
    /// It makes it, and the answer is lost.
    ExchangeLost(usize),
    /// It doesn't make it, and nobody knows.
    ExchangeFailed(usize),
    /// It refuses it.
    ExchangeRefused(usize),
    /// The answer is there.
    Answer(usize),
    /// A recall is obeyed.
    Obey(usize),
    /// The account leaves memory.
    Evict(usize),
    /// An operator writes off what is leased.
    WriteOff(usize),
    /// It finds that out, and forgets what was lent.
    Forget(usize),
    /// Records reach the disk.
    Sync(usize),
    /// A batch is taken and applied; the answer is under way.
    Flush(usize),
    /// The second of two transactions: a mutant's.
    FlushCursor(usize),
    /// The answer to a batch is lost.
    FlushLost(usize),
    /// A batch is given up before the store has got to it.
    FlushLate(usize),
    /// The store gets to it.
    LateApplied(usize),
    /// It never will.
    LateDropped(usize),
    /// The answer to a batch is there.
    Landed(usize),
    /// What became of a batch is found out, or it is tried again.
    Retry(usize),
    /// The process, or with it the machine, dies; that many records are lost.
    Crash(usize, usize),
    /// It dies with a batch on its way to the store.
    CrashLate(usize),
    /// A new process starts.
    Restart(usize),
    /// So much time passes, for all.
    Pass(Duration),
}

/// Half a second: an answer isn't believed any more, and a recall may be repeated.
const SHORT: Duration = Duration::from_millis(500);
/// Five seconds: nothing counts any more.
const LONG: Duration = Duration::from_secs(5);

/// All steps that a state allows: cheap conditions only, a step may still turn out to be none.
pub(super) fn steps(world: &World, bounds: &Bounds) -> Vec<Step> {
    let mut steps = Vec::new();
    for at in 0..world.instances.len() {
        life_steps(world, bounds, at, &mut steps);
        if world.instances[at].up {
            flush_steps(world, bounds, at, &mut steps);
            quota_steps(world, bounds, at, &mut steps);
        }
    }
    if world.instances.iter().any(|one| one.held.as_ref().is_some_and(ages)) {
        steps.extend([Step::Pass(SHORT), Step::Pass(LONG)]);
    }
    steps
}

fn life_steps(world: &World, bounds: &Bounds, at: usize, steps: &mut Vec<Step>) {
    let instance = &world.instances[at];
    if instance.late.is_some() {
        steps.extend([Step::LateApplied(at), Step::LateDropped(at)]);
    }
    if world.left.write_offs > 0 && world.store.leases[at].leased > 0 {
        steps.push(Step::WriteOff(at));
    }
    if instance.forgets {
        steps.push(Step::Forget(at));
    }
    if !instance.up {
        steps.push(Step::Restart(at));
    } else if world.left.crashes > 0 {
        let unsynced = if bounds.power { instance.journals.last().map_or(0, |journal| journal.unsynced()) } else { 0 };
        steps.extend((0..=unsynced).map(|lost| Step::Crash(at, lost)));
        if instance.flight.is_none() && instance.late.is_none() {
            steps.push(Step::CrashLate(at));
        }
    }
}

fn flush_steps(world: &World, bounds: &Bounds, at: usize, steps: &mut Vec<Step>) {
    let instance = &world.instances[at];
    let lossy = world.left.lost > 0;
    match &instance.flight {
        None => {
            steps.push(Step::Flush(at));
            if lossy && instance.late.is_none() {
                steps.push(Step::FlushLate(at));
            }
        }
        Some(flight) if flight.apart => steps.push(Step::FlushCursor(at)),
        Some(flight) if flight.answered => steps.push(Step::Landed(at)),
        Some(_) => steps.push(Step::Retry(at)),
    }
    if lossy && instance.flight.as_ref().is_some_and(|flight| flight.answered || flight.apart) {
        steps.push(Step::FlushLost(at));
    }
    if bounds.power {
        steps.push(Step::Sync(at));
    }
}

fn quota_steps(world: &World, bounds: &Bounds, at: usize, steps: &mut Vec<Step>) {
    let instance = &world.instances[at];
    // What was left isn't in the store yet: what is leased isn't all free.
    if instance.recalled > 0 && instance.serving {
        steps.push(Step::Obey(at));
    }
    if instance.exchange.is_some() {
        steps.push(Step::Answer(at));
    } else if instance.waiting > 0 || instance.returns || instance.refill {
        steps.push(Step::Exchange(at));
        if world.left.lost > 0 {
            steps.extend([Step::ExchangeLost(at), Step::ExchangeFailed(at), Step::ExchangeRefused(at)]);
        }
    }
    if !instance.serving {
        return;
    }
    let waiting = instance.waiting + instance.exchange.as_ref().map_or(0, |exchange| exchange.waiters);
    if world.left.requests > 0 && instance.running < bounds.running && waiting < bounds.waiting {
        steps.push(Step::Request(at));
    }
    let delayed = bounds.mutant == Mutant::SettleAfterDone;
    if instance.running > instance.stale {
        steps.push(if delayed { Step::Tell(at) } else { Step::Settle(at) });
    }
    if delayed && instance.told > 0 {
        steps.push(Step::Settle(at));
    }
    if instance.stale > 0 {
        steps.push(Step::SettleStale(at));
    }
    if bounds.restless {
        restless_steps(world, at, steps);
    }
}

fn restless_steps(world: &World, at: usize, steps: &mut Vec<Step>) {
    let instance = &world.instances[at];
    if instance.waiting > 0 || instance.exchange.as_ref().is_some_and(|exchange| exchange.waiters > 0) {
        steps.push(Step::Leave(at));
    }
    if instance.running > instance.stale {
        steps.push(Step::Release(at));
    }
    if instance.free() > 0 && !instance.returns {
        steps.push(Step::Return(at));
    }
    let idle = instance.held.as_ref().is_some_and(|held| held.is_quiet() && !held.loan.asked);
    if idle && instance.exchange.is_none() && !(instance.waiting > 0 || instance.returns || instance.refill) {
        steps.push(Step::Evict(at));
    }
}

/// Takes a step. `None` where it is none; `Err` says what doesn't hold.
pub(super) fn take(world: &World, step: Step, bounds: &Bounds) -> Result<Option<World>, String> {
    let mut next = world.clone();
    let taken = match step {
        Step::Request(at) => next.request(at, bounds)?,
        Step::Leave(at) => next.leave(at),
        Step::Settle(at) => next.settle(at, false, bounds),
        Step::SettleStale(at) => next.settle(at, true, bounds),
        Step::Release(at) => next.release(at, bounds),
        Step::Tell(at) => next.tell(at),
        Step::Return(at) => {
            next.instances[at].returns = true;
            true
        }
        Step::Exchange(at) => next.exchange(at, bounds),
        Step::ExchangeLost(at) => next.exchange_lost(at, true, bounds),
        Step::ExchangeFailed(at) => next.exchange_lost(at, false, bounds),
        Step::ExchangeRefused(at) => next.exchange_refused(at, bounds),
        Step::Answer(at) => next.answer(at, bounds)?,
        Step::Obey(at) => next.obey(at),
        Step::Evict(at) => {
            if next.instances[at].held.take().is_some_and(|held| held.loan.pending.is_some()) {
                next.excuse();
            }
            true
        }
        Step::WriteOff(at) => next.write_off(at),
        Step::Forget(at) => next.forget(at),
        Step::Sync(at) => next.sync(at),
        Step::Flush(at) => next.flush(at, bounds)?,
        Step::FlushCursor(at) => next.flush_cursor(at),
        Step::FlushLost(at) => next.flush_lost(at),
        Step::FlushLate(at) => next.flush_late(at, bounds),
        Step::LateApplied(at) => next.late_applied(at, bounds)?,
        Step::LateDropped(at) => next.instances[at].late.take().is_some(),
        Step::Landed(at) => next.landed(at),
        Step::Retry(at) => next.retry(at, bounds)?,
        Step::Crash(at, lost) => next.crash(at, lost, bounds),
        Step::CrashLate(at) => next.crash_late(at, bounds),
        Step::Restart(at) => next.restart(at),
        Step::Pass(time) => {
            next.instances.iter_mut().for_each(|one| age(one, time));
            true
        }
    };
    if !taken {
        return Ok(None);
    }
    next.settle_down(bounds)?;
    Ok(Some(next))
}
