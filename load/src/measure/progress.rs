//! A line on standard error that says how far a long run is; nothing where standard error is no terminal.

use crate::clock;
use std::{
    cell::Cell,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

const WIDTH: u64 = 30;
/// The line is written again after this long.
const EVERY: Duration = Duration::from_millis(200);

/// One bar.
#[derive(Debug)]
pub struct Progress {
    label: String,
    total: u64,
    done: Cell<u64>,
    written: Cell<Option<Instant>>,
    begun: Instant,
}

impl Progress {
    /// Begins a bar of so many steps.
    #[must_use]
    pub fn new(label: impl Into<String>, total: u64) -> Self {
        Self { label: label.into(), total, done: Cell::new(0), written: Cell::new(None), begun: clock::now() }
    }

    /// Takes a step.
    pub fn step(&self) {
        self.done.set(self.done.get() + 1);
        let now = clock::now();
        let is_due = self.written.get().is_none_or(|written| now.saturating_duration_since(written) >= EVERY);
        if is_due && io::stderr().is_terminal() {
            self.written.set(Some(now));
            self.write(&format!("\r{}\x1b[K", line(&self.label, self.done.get(), self.total, self.begun.elapsed())));
        }
    }

    fn write(&self, text: &str) {
        // Nobody is left to be told if the stream is closed.
        io::stderr().write_all(text.as_bytes()).ok();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.written.get().is_some() {
            self.write("\r\x1b[K");
        }
    }
}

fn line(label: &str, done: u64, total: u64, took: Duration) -> String {
    let full = (done.min(total) * WIDTH).checked_div(total).unwrap_or(WIDTH);
    let bar: String = (0..WIDTH).map(|place| if place < full { '█' } else { '░' }).collect();
    format!("{label} {bar} {done}/{total}, {} s", took.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_fills() {
        let full = |done, total| line("A", done, total, Duration::ZERO).matches('█').count();
        assert_eq!((full(0, 10), full(5, 10), full(10, 10), full(11, 10), full(0, 0)), (0, 15, 30, 30, 30));
    }
}
