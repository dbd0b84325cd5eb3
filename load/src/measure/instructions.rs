//! Instructions for each request, as callgrind counts them, beside what was recorded: a figure without noise. Pure.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// By how many per cent a figure may differ from the recorded one.
const TOLERATED: f64 = 5.0;

/// What was recorded, and with what.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Recorded {
    /// What built the service: compiler, profile, and who counted.
    pub toolchain: String,
    /// Instructions for each request, by scenario.
    pub per_request: BTreeMap<String, f64>,
}

/// Reads the sum of instructions out of a dump of callgrind's. Source: the Callgrind format specification, «totals».
#[must_use]
pub fn of_dump(dump: &str) -> Option<f64> {
    let line = dump.lines().rev().find_map(|line| line.strip_prefix("totals:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Compares; a line for each scenario, and whether all are as recorded.
#[must_use]
pub fn compare(recorded: &Recorded, counted: &Recorded) -> (Vec<String>, bool) {
    let mut lines = Vec::new();
    if recorded.toolchain != counted.toolchain {
        lines.push(format!("recorded with {}, counted with {}", recorded.toolchain, counted.toolchain));
    }
    let mut all_well = true;
    for (scenario, now) in &counted.per_request {
        let Some(then) = recorded.per_request.get(scenario) else {
            lines.push(format!("{scenario}: {now:.0} instructions a request; nothing is recorded"));
            all_well = false;
            continue;
        };
        let percent = 100.0 * (now - then) / then;
        let is_well = percent.abs() <= TOLERATED;
        let verdict = if is_well { "as recorded" } else { "NOT as recorded" };
        lines.push(format!(
            "{scenario}: {now:.0} instructions a request, recorded {then:.0}: {percent:+.1} %, {verdict}"
        ));
        all_well &= is_well;
    }
    (lines, all_well)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(figure: f64) -> Recorded {
        Recorded { toolchain: "t".into(), per_request: BTreeMap::from([("A".to_owned(), figure)]) }
    }

    #[test]
    fn a_dump_has_its_sum() {
        assert_eq!(of_dump("version: 1\nevents: Ir\nfn=(1)\n4 9\ntotals: 123456\n"), Some(123_456.0));
        assert_eq!(of_dump("version: 1\nevents: Ir\n"), None);
    }

    #[test]
    fn five_per_cent_are_tolerated() {
        for (now, is_well) in [(100.0, true), (105.0, true), (95.0, true), (105.1, false), (94.9, false)] {
            assert_eq!(compare(&recorded(100.0), &recorded(now)).1, is_well, "{now}");
        }
        let nothing = Recorded { toolchain: "other".into(), per_request: BTreeMap::new() };
        let (lines, is_well) = compare(&nothing, &recorded(1.0));
        assert!(!is_well && lines.len() == 2, "{lines:?}");
    }
}
