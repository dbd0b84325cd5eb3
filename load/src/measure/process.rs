//! Other processes, as `/proc` shows them: CPU time, resident memory, open descriptors.
//!
//! A process here is one with its children, since nginx's workers are its master's. Source: proc(5).

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

/// `/proc` counts CPU time in hundredths of a second (USER_HZ).
const TICK: Duration = Duration::from_millis(10);
/// How often memory is looked at while its peak is sought.
const SAMPLED_EVERY: Duration = Duration::from_millis(100);

/// A process and its children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    members: Vec<u32>,
}

impl Family {
    /// Finds a process and its children.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where there is none of that id.
    pub fn of(pid: u32) -> io::Result<Self> {
        let mut members = vec![pid];
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may have ended since.
            let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            members.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        Ok(Self { members })
    }

    /// User and system time so far.
    ///
    /// # Errors
    /// A member has ended.
    pub fn cpu(&self) -> io::Result<Duration> {
        let mut ticks = 0;
        for pid in &self.members {
            ticks += ticks_of(&fs::read_to_string(format!("/proc/{pid}/stat"))?);
        }
        Ok(TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX)))
    }

    /// Resident memory in KiB.
    ///
    /// # Errors
    /// A member has ended.
    pub fn resident(&self) -> io::Result<u64> {
        let mut sum = 0;
        for pid in &self.members {
            sum += resident_of(&fs::read_to_string(format!("/proc/{pid}/status"))?);
        }
        Ok(sum)
    }

    /// Open descriptors.
    ///
    /// # Errors
    /// A member has ended.
    pub fn descriptors(&self) -> io::Result<usize> {
        let mut sum = 0;
        for pid in &self.members {
            sum += fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        }
        Ok(sum)
    }

    /// Watches resident memory until the watch is read.
    #[must_use]
    pub fn watch(&self) -> Watch {
        let (family, peak) = (self.clone(), Arc::new(AtomicU64::new(0)));
        let highest = Arc::clone(&peak);
        let task = tokio::spawn(async move {
            let mut turns = tokio::time::interval(SAMPLED_EVERY);
            loop {
                turns.tick().await;
                highest.fetch_max(family.resident().unwrap_or(0), Ordering::Relaxed);
            }
        });
        Watch { task, peak }
    }
}

/// Seeks the peak of a family's memory; dropping it ends that.
#[derive(Debug)]
pub struct Watch {
    task: JoinHandle<()>,
    peak: Arc<AtomicU64>,
}

impl Watch {
    /// The most KiB so far.
    #[must_use]
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The machine's load average of the last minute; 0 where it can't be read.
#[must_use]
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

/// utime and stime, the 14th and 15th field, are the 12th and 13th after the name, which may contain anything.
fn ticks_of(stat: &str) -> u64 {
    let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

fn resident_of(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 110 23 0 0 20 0 1 0 5 6 7";
        assert_eq!(ticks_of(stat), 133);
        assert_eq!(resident_of("Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t  812 kB\n"), 812);
    }

    #[test]
    fn this_process_is_there_and_works() {
        let this = Family::of(std::process::id()).unwrap();
        let before = this.cpu().unwrap();
        while this.cpu().unwrap() == before {}
        assert!(this.resident().unwrap() > 100);
        // More than tests that run beside this one open and close.
        let before = this.descriptors().unwrap();
        let files: Vec<_> = (0..200).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
        assert!(this.descriptors().unwrap() > before + files.len() / 2);
        assert!(Family::of(u32::MAX).is_err());
    }
}
