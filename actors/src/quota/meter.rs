//! The rate of a user's requests: pure, no clock.

/// One user's requests of the last minute and running streams, on this instance.
///
/// The minute slides in steps of a second: at most `limit` requests in any 60 consecutive clock seconds.
#[derive(Debug, Default)]
pub struct Meter {
    seconds: std::collections::VecDeque<(u64, u32)>,
    running: u32,
}

/// Of what there are too many for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMany {
    /// Requests in a minute: how many seconds to wait.
    InAMinute(u64),
    /// Streams at once.
    AtOnce,
}

/// Seconds that a request counts against the rate.
const MINUTE: u64 = 60;

impl Meter {
    /// Counts a request in, at second `now` of any clock that doesn't run backwards.
    ///
    /// # Errors
    /// [`TooMany`]. A refused request is not counted.
    pub fn admit(&mut self, now: u64, per_minute: Option<u32>, concurrent: Option<u32>) -> Result<(), TooMany> {
        if concurrent.is_some_and(|most| self.running >= most) {
            return Err(TooMany::AtOnce);
        }
        if let Some(most) = per_minute {
            self.count(now, most)?;
        }
        self.running += 1;
        Ok(())
    }

    fn count(&mut self, now: u64, most: u32) -> Result<(), TooMany> {
        while self.seconds.front().is_some_and(|&(second, _)| second + MINUTE <= now) {
            self.seconds.pop_front();
        }
        let counted: u32 = self.seconds.iter().map(|&(_, count)| count).sum();
        if counted >= most {
            let first = self.seconds.front().map_or(now, |&(second, _)| second);
            return Err(TooMany::InAMinute((first + MINUTE).saturating_sub(now).max(1)));
        }
        match self.seconds.back_mut() {
            Some((second, count)) if *second == now => *count += 1,
            _ => self.seconds.push_back((now, 1)),
        }
        Ok(())
    }

    /// Counts a stream out.
    pub fn leave(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Says whether nothing would be forgotten if this were dropped at second `now`.
    #[must_use]
    pub fn is_idle(&self, now: u64) -> bool {
        self.running == 0 && self.seconds.back().is_none_or(|&(second, _)| second + MINUTE <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minute_slides() {
        let mut meter = Meter::default();
        for second in [0, 0, 30] {
            meter.admit(second, Some(3), None).unwrap();
        }
        assert_eq!(meter.admit(31, Some(3), None), Err(TooMany::InAMinute(29)));
        assert_eq!(meter.admit(59, Some(3), None), Err(TooMany::InAMinute(1)));
        meter.admit(60, Some(3), None).unwrap();
        meter.admit(60, Some(3), None).unwrap();
        assert_eq!(meter.admit(61, Some(3), None), Err(TooMany::InAMinute(29)));
        (0..5).for_each(|_| meter.leave());
        assert!(!meter.is_idle(119) && meter.is_idle(120));
    }

    #[test]
    fn streams_at_once_are_bounded_and_a_refusal_counts_nothing() {
        let mut meter = Meter::default();
        meter.admit(0, Some(9), Some(1)).unwrap();
        assert_eq!(meter.admit(0, Some(9), Some(1)), Err(TooMany::AtOnce));
        meter.leave();
        meter.admit(0, Some(2), Some(1)).unwrap();
        assert!(meter.admit(0, None, Some(1)).is_err());
    }
}
