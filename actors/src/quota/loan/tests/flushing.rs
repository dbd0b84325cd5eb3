//! The steps of the ledger: flushes, lost answers, crashes, recovery.

use super::{
    journal::{Journal, Move, Record, gather},
    world::{Bounds, Flight, Instance, Mutant, World},
};

impl Instance {
    fn journal(&mut self, step: &Move) -> &mut Journal {
        self.journals.iter_mut().find(|journal| journal.life == step.life).unwrap()
    }

    fn gather(&self) -> Vec<Move> {
        gather(&self.journals, Some(self.life).filter(|_| self.up))
    }

    fn stand(&mut self, steps: &[Move], end: bool) -> bool {
        steps.iter().all(|step| self.journal(step).stands_at(step, end))
    }
}

impl World {
    pub(super) fn sync(&mut self, at: usize) -> bool {
        let journal = self.instances[at].book();
        let before = journal.pending().2;
        let synced = journal.sync();
        self.told += journal.pending().2 - before;
        synced
    }

    /// `Flusher::flush`, up to the store's answer.
    pub(super) fn flush(&mut self, at: usize, bounds: &Bounds) -> Result<bool, String> {
        let steps = self.ready(at, bounds);
        if steps.is_empty() {
            return Ok(false);
        }
        self.send(at, steps, bounds)?;
        Ok(true)
    }

    /// Where a power failure is nothing to be afraid of, all that is written counts as synced.
    fn ready(&mut self, at: usize, bounds: &Bounds) -> Vec<Move> {
        if !bounds.power {
            self.instances[at].book().sync();
        }
        self.instances[at].gather()
    }

    fn send(&mut self, at: usize, steps: Vec<Move>, bounds: &Bounds) -> Result<(), String> {
        let instance = &mut self.instances[at];
        let unconditional = bounds.mutant == Mutant::CursorUnconditional;
        if unconditional || instance.stand(&steps, false) {
            self.apply(at, &steps, bounds.mutant == Mutant::CursorApart)?;
            let apart = bounds.mutant == Mutant::CursorApart;
            self.instances[at].flight = Some(Flight { steps, answered: true, apart });
        } else if instance.stand(&steps, true) {
            // An attempt that was given up was made meanwhile.
            instance.flight = Some(Flight { steps, answered: true, apart: false });
        } else {
            self.go_back(at, &steps)?;
        }
        Ok(())
    }

    /// `src/store/ledger.rs`: all of it, or nothing.
    fn apply(&mut self, at: usize, steps: &[Move], apart: bool) -> Result<(), String> {
        for step in steps {
            let journal = self.instances[at].journal(step);
            let brought = journal.bring(step);
            if brought.doubled {
                return Err(format!("I4: a posting of instance {at} is applied twice"));
            }
            if !apart {
                journal.move_cursor(step);
            }
            self.store.used += brought.charged;
            self.store.rows += brought.rows;
            let row = &mut self.store.leases[at];
            row.leased = (row.leased - brought.leased).max(0);
        }
        Ok(())
    }

    pub(super) fn flush_cursor(&mut self, at: usize) -> bool {
        let instance = &mut self.instances[at];
        let Some(mut flight) = instance.flight.take() else { return false };
        flight.steps.iter().for_each(|step| instance.journal(step).move_cursor(step));
        flight.apart = false;
        instance.flight = Some(flight);
        true
    }

    pub(super) fn flush_lost(&mut self, at: usize) -> bool {
        self.left.lost -= 1;
        if let Some(flight) = &mut self.instances[at].flight {
            (flight.answered, flight.apart) = (false, false);
        }
        true
    }

    pub(super) fn flush_late(&mut self, at: usize, bounds: &Bounds) -> bool {
        self.left.lost -= 1;
        let steps = self.ready(at, bounds);
        if steps.is_empty() {
            return false;
        }
        self.instances[at].late = Some(steps.clone());
        self.instances[at].flight = Some(Flight { steps, answered: false, apart: false });
        true
    }

    /// The store gets to a batch that was given up. It applies it only from where it starts.
    pub(super) fn late_applied(&mut self, at: usize, bounds: &Bounds) -> Result<bool, String> {
        let Some(steps) = self.instances[at].late.take() else { return Ok(false) };
        if bounds.mutant == Mutant::CursorUnconditional || self.instances[at].stand(&steps, false) {
            self.apply(at, &steps, false)?;
        }
        Ok(true)
    }

    /// `Flusher::land`, and what accounts are told.
    pub(super) fn landed(&mut self, at: usize) -> bool {
        let instance = &mut self.instances[at];
        let Some(flight) = instance.flight.take() else { return false };
        for step in &flight.steps {
            let life = instance.life;
            let journal = instance.journal(step);
            journal.landed(step);
            let news = if step.life == life { journal.settled(step) } else { 0 };
            if let Some(held) = instance.held.as_mut().filter(|_| news > 0) {
                held.loan.unflushed = held.loan.unflushed.saturating_sub(news);
                held.touch();
            }
        }
        true
    }

    /// `Flusher::was_applied`, then the same again where it was not.
    pub(super) fn retry(&mut self, at: usize, bounds: &Bounds) -> Result<bool, String> {
        let Some(flight) = self.instances[at].flight.take() else { return Ok(false) };
        if bounds.mutant != Mutant::CursorUnconditional && self.instances[at].stand(&flight.steps, true) {
            self.instances[at].flight = Some(Flight { answered: true, ..flight });
            return Ok(self.landed(at));
        }
        self.send(at, flight.steps, bounds)?;
        Ok(true)
    }

    /// `Flusher::go_back`.
    fn go_back(&mut self, at: usize, steps: &[Move]) -> Result<(), String> {
        let instance = &mut self.instances[at];
        instance.flight = None;
        let life = instance.life;
        for step in steps {
            let journal = instance.journal(step);
            // Of a dead writer it is a commit that has come late.
            if journal.is_ahead() && step.life == life {
                return Err(format!("I6: instance {at} stops: the store is ahead of its journal"));
            }
            journal.found();
        }
        Ok(())
    }

    /// The process dies, and with it what is in memory; with the machine also what was not synced.
    pub(super) fn crash(&mut self, at: usize, lost: usize, bounds: &Bounds) -> bool {
        if lost > 0 && !bounds.power {
            return false;
        }
        self.left.crashes -= 1;
        self.excuse();
        let instance = &mut self.instances[at];
        for record in instance.book().lose(lost) {
            match record {
                Record::Reserved => self.due -= 1,
                Record::Released => self.due += 1,
                Record::Settled { .. } => {}
            }
        }
        instance.book().sync_silently();
        instance.journals.iter_mut().for_each(Journal::found);
        let (life, exchanges, full, leaks) = (instance.life, instance.exchanges, false, false);
        let (journals, late) = (std::mem::take(&mut instance.journals), instance.late.take());
        *instance =
            Instance { life, exchanges, full, leaks, journals, late, up: false, serving: false, ..Instance::new() };
        true
    }

    pub(super) fn crash_late(&mut self, at: usize, bounds: &Bounds) -> bool {
        let steps = self.ready(at, bounds);
        if steps.is_empty() {
            return false;
        }
        self.instances[at].late = Some(steps);
        self.crash(at, 0, bounds)
    }

    /// A new process: it reads where the store stands in what was left, and begins a journal of its own.
    pub(super) fn restart(&mut self, at: usize) -> bool {
        let instance = &mut self.instances[at];
        instance.life += 1;
        instance.up = true;
        instance.journals.iter_mut().for_each(Journal::found);
        instance.journals.push(Journal::new(instance.life));
        true
    }
}
