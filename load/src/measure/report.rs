//! Reports: medians over the rounds, and ratios to a base, as JSON and as Markdown. Pure.

use super::{
    figures::{median, real},
    plot::{Bar, Group, bars, lines},
    record::{Level, Record, mib},
    scenario,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// What was measured where, when and with what; said in every report.
pub type About = BTreeMap<String, String>;

/// All that was measured in one run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where, when, with what.
    pub about: About,
    /// The target that ratios are to.
    pub base: String,
    /// Medians, by scenario and target.
    pub rows: Vec<Row>,
    /// What they are medians of.
    pub records: Vec<Record>,
}

/// Medians of one target in one scenario.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The scenario's letter.
    pub scenario: String,
    /// The target's name.
    pub target: String,
    /// How far the scenario had grown, or 0.
    pub step: u64,
    /// Rounds.
    pub rounds: usize,
    /// Medians of the figures, by name.
    pub figures: BTreeMap<String, f64>,
    /// Medians of the rounds' ratios to the base in the same round.
    pub ratios: BTreeMap<String, f64>,
    /// Medians of the rounds' differences to `direct` in the same round, in ms.
    pub added_ms: BTreeMap<String, f64>,
    /// Answers that were not good, in all rounds.
    pub errors: u64,
}

/// The figures of a record, by name.
fn figures(record: &Record) -> BTreeMap<String, f64> {
    let mut figures: BTreeMap<String, f64> = [
        ("answers/s", record.per_second),
        ("CPU µs/answer", record.cpu_us_request),
        ("CPU µs/frame", record.cpu_us_frame),
        ("ttft p50", record.ttft_ms.p50),
        ("ttft p95", record.ttft_ms.p95),
        ("ttft p99", record.ttft_ms.p99),
        ("total p50", record.total_ms.p50),
        ("total p95", record.total_ms.p95),
        ("total p99", record.total_ms.p99),
        ("MiB before", mib(record.resident_before)),
        ("MiB peak", mib(record.resident_peak)),
        ("load average", record.load_average),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    if let Some(late) = record.late_ms {
        figures.insert("late p50".to_owned(), late.p50);
        figures.insert("late p99".to_owned(), late.p99);
    }
    if let Some(later) = record.resident_later {
        figures.insert("MiB later".to_owned(), mib(later));
    }
    figures.extend(record.extra.clone());
    figures
}

impl Report {
    /// Makes a report of these records.
    #[must_use]
    pub fn new(about: About, base: &str, records: Vec<Record>) -> Self {
        let mut groups = BTreeMap::<(usize, &str, &str, u64), Vec<&Record>>::new();
        for record in &records {
            let (place, _) = scenario::place_and_title(&record.scenario);
            groups.entry((place, &record.scenario, &record.target, record.step)).or_default().push(record);
        }
        let mut rows: Vec<(usize, Row)> =
            groups.iter().map(|((place, ..), group)| (*place, Row::new(group, base, &records))).collect();
        let rank = |name: &str| match name {
            "direct" => 0,
            name if name == base => 1,
            _ => 2,
        };
        rows.sort_by(|(place, row), (other, next)| {
            let key = |row: &Row| (rank(&row.target), row.target.clone(), row.step);
            (place, key(row)).cmp(&(other, key(next)))
        });
        let rows = rows.into_iter().map(|(_, row)| row).collect();
        Self { about, base: base.to_owned(), rows, records }
    }

    /// Renders tables, one for each scenario.
    #[must_use]
    pub fn markdown(&self, title: &str, notes: &str) -> String {
        let mut text = format!("# {title}\n\n");
        for (name, value) in &self.about {
            line(&mut text, format_args!("- {name}: {value}"));
        }
        let base = &self.base;
        line(
            &mut text,
            format_args!(
                "\nMedians over the rounds; «× {base}» is the median of the ratios to {base} in the same round. Times are in ms; \
             CPU is the process's user and system time.\n{notes}"
            ),
        );
        let mut last = "";
        for row in &self.rows {
            if row.scenario != last {
                last = &row.scenario;
                let (_, title) = scenario::place_and_title(last);
                let further = self.further(last);
                let head: String = further.iter().map(|name| format!(" {name} |")).collect();
                let rule = " ---: |".repeat(further.len());
                line(
                    &mut text,
                    format_args!(
                        "\n## {last}: {title}\n\n| target |{head} answers/s | × {base} | ttft p50 · p95 · p99 | whole p50 · p95 · p99 | \
                     CPU µs/answer | µs/frame | CPU × {base} | MiB before · peak | errors | load |\n\
                     | --- |{rule} ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
                    ),
                );
            }
            line(&mut text, format_args!("{}", row.cells(&self.further(last))));
        }
        self.specials(&mut text);
        text
    }

    /// The columns that only a scenario with steps has: the step, and the figures of its own.
    fn further(&self, scenario: &str) -> Vec<&str> {
        let Some(stepped) = scenario::STEPPED.iter().find(|known| known.letter == scenario) else { return Vec::new() };
        let records = self.records.iter().filter(|record| record.scenario == scenario);
        let own: BTreeSet<&str> = records.flat_map(|record| record.extra.keys().map(String::as_str)).collect();
        [stepped.step].into_iter().chain(own).collect()
    }

    /// What only some scenarios have.
    fn specials(&self, text: &mut String) {
        let known = ["late p50", "late p99", "MiB later"];
        let own =
            |name: &str| known.contains(&name) || self.records.iter().any(|record| record.extra.contains_key(name));
        let mut rows = Vec::new();
        for row in self.rows.iter().filter(|row| row.step == 0) {
            let special: Vec<_> = row.figures.iter().filter(|(name, _)| own(name)).collect();
            let added: Vec<_> = row.added_ms.iter().collect();
            for (name, value) in special {
                rows.push(format!("| {} | {} | {name} | {value:.2} |", row.scenario, row.target));
            }
            for (name, value) in added {
                rows.push(format!("| {} | {} | {name} over direct, ms | {value:.3} |", row.scenario, row.target));
            }
        }
        if !rows.is_empty() {
            line(
                text,
                format_args!(
                    "\n## What only some have\n\n| scenario | target | figure | median |\n| --- | --- | --- | ---: |\n{}",
                    rows.join("\n")
                ),
            );
        }
    }

    /// Draws what targets held from minute to minute.
    #[must_use]
    pub fn lines(&self) -> String {
        let levels = || self.records.iter().flat_map(|record| &record.levels);
        let line = |held: fn(&Level) -> f64| levels().map(|level| (level.seconds / 60.0, held(level))).collect();
        lines(
            "minutes",
            &[
                ("MiB resident", line(|level| mib(level.resident))),
                ("descriptors", line(|level| real(level.descriptors))),
            ],
        )
    }

    /// Draws a figure of each target in each scenario, divided by the base's median, or the first step's; a dot for
    /// each round.
    #[must_use]
    pub fn plot(&self, figure: &str) -> String {
        let value = |row: &Row| row.figures.get(figure).copied().filter(|value| *value > 0.0);
        let mut groups: Vec<Group> = Vec::new();
        for row in &self.rows {
            let base = self.rows.iter().find(|other| {
                let base = if row.step == 0 { &self.base } else { &row.target };
                other.scenario == row.scenario && other.target == *base
            });
            let (Some(base), Some(height)) = (base.and_then(value), value(row)) else { continue };
            let (label, series) = match row.step {
                0 => (row.scenario.clone(), row.target.clone()),
                step => (format!("{} {}", row.scenario, row.target), step.to_string()),
            };
            if groups.last().is_none_or(|group| group.label != label) {
                groups.push(Group { label, bars: Vec::new() });
            }
            let same = |record: &&Record| {
                (&record.scenario, &record.target, record.step) == (&row.scenario, &row.target, row.step)
            };
            let rounds = self.records.iter().filter(same).filter_map(|record| figures(record).get(figure).copied());
            let bar = Bar { series, value: height / base, dots: rounds.map(|dot| dot / base).collect() };
            if let Some(group) = groups.last_mut() {
                group.bars.push(bar);
            }
        }
        bars(&format!("{figure}, as a multiple of {}", self.base), &groups)
    }
}

impl Row {
    fn new(group: &[&Record], base: &str, all: &[Record]) -> Self {
        let mut values = BTreeMap::<String, Vec<f64>>::new();
        let mut ratios = BTreeMap::<String, Vec<f64>>::new();
        let mut added = BTreeMap::<String, Vec<f64>>::new();
        for record in group {
            let beside = |target: &str| {
                let mut others =
                    all.iter().filter(|other| other.scenario == record.scenario && other.round == record.round);
                others.find(|other| other.target == target).map(figures).unwrap_or_default()
            };
            let first = || {
                let same = |other: &&Record| {
                    (&other.scenario, &other.target, other.round) == (&record.scenario, &record.target, record.round)
                };
                all.iter().filter(same).min_by_key(|other| other.step).map(figures).unwrap_or_default()
            };
            let (base, direct) = (if record.step == 0 { beside(base) } else { first() }, beside("direct"));
            for (name, value) in figures(record) {
                if let Some(ratio) = base.get(&name).filter(|base| **base > 0.0).map(|base| value / base) {
                    ratios.entry(name.clone()).or_default().push(ratio);
                }
                let single = matches!(record.scenario.as_str(), "E" | "S") && record.target != "direct";
                if let Some(direct) =
                    direct.get(&name).filter(|_| single && (name.starts_with("ttft") || name.starts_with("total")))
                {
                    added.entry(name.clone()).or_default().push(value - direct);
                }
                values.entry(name).or_default().push(value);
            }
        }
        let medians = |values: BTreeMap<String, Vec<f64>>| {
            values.into_iter().filter_map(|(name, values)| Some((name, median(&values)?))).collect()
        };
        Self {
            scenario: group.first().map(|record| record.scenario.clone()).unwrap_or_default(),
            target: group.first().map(|record| record.target.clone()).unwrap_or_default(),
            step: group.first().map_or(0, |record| record.step),
            rounds: group.len(),
            figures: medians(values),
            ratios: medians(ratios),
            added_ms: medians(added),
            errors: group.iter().map(|record| record.errors()).sum(),
        }
    }

    fn cells(&self, further: &[&str]) -> String {
        let figure = |name: &str| self.figures.get(name).copied().unwrap_or(0.0);
        let ratio = |name: &str| self.ratios.get(name).map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        // What isn't measured, such as the memory of a process that has only been started, is 0 in a record.
        let measured = |name: &str, digits: usize| {
            let value = figure(name);
            if value > 0.0 { format!("{value:.digits$}") } else { "–".to_owned() }
        };
        let three = |name: &str| {
            let [p50, p95, p99] = ["p50", "p95", "p99"].map(|percent| figure(&format!("{name} {percent}")));
            if p99 > 0.0 { format!("{p50:.2} · {p95:.2} · {p99:.2}") } else { "–".to_owned() }
        };
        // The first one is the step, the others are figures.
        let step = further.first().map(|_| format!(" {} |", self.step));
        let own = further.iter().skip(1).map(|name| format!(" {:.0} |", figure(name)));
        let further: String = step.into_iter().chain(own).collect();
        format!(
            "| {} |{further} {} | {} | {} | {} | {} | {} | {} | {} · {} | {} | {} |",
            self.target,
            measured("answers/s", 0),
            ratio("answers/s"),
            three("ttft"),
            three("total"),
            measured("CPU µs/answer", 1),
            measured("CPU µs/frame", 2),
            ratio("CPU µs/answer"),
            measured("MiB before", 1),
            measured("MiB peak", 1),
            self.errors,
            measured("load average", 1),
        )
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    writeln!(text, "{line}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(target: &str, round: u32, cpu: f64, p50: f64) -> Record {
        let mut record = Record { scenario: "E".into(), target: target.into(), round, ..Record::default() };
        record.cpu_us_request = cpu;
        record.total_ms.p50 = p50;
        record
    }

    #[test]
    fn ratios_and_differences_are_of_the_same_round() {
        // The third round was disturbed, for everybody.
        let rounds = [(1, 1.0), (2, 1.0), (3, 10.0)];
        let of = |target: &'static str, cpu: f64, p50: f64| {
            rounds.map(|(round, noise)| record(target, round, cpu * noise, p50 * noise))
        };
        let records = [of("service", 30.0, 0.3), of("nginx", 20.0, 0.2), of("direct", 10.0, 0.1)].concat();
        let report = Report::new(About::new(), "nginx", records);
        let targets: Vec<_> = report.rows.iter().map(|row| row.target.as_str()).collect();
        assert_eq!(targets, ["direct", "nginx", "service"]);
        let service = report.rows.last().unwrap();
        assert_eq!(service.rounds, 3);
        assert!((service.ratios["CPU µs/answer"] - 1.5).abs() < 1e-9);
        assert!((service.added_ms["total p50"] - 0.2).abs() < 1e-9);
        assert!(report.markdown("Title", "").contains("| service | – | – | – | – | 30.0 | – | 1.50 | – · – | 0 | – |"));
        assert_eq!(report.plot("CPU µs/answer").matches("<circle").count(), 9);
    }

    #[test]
    fn ratios_of_steps_are_to_the_first_one() {
        let step = |step: u64, cpu: f64| {
            let extra = [("different users".to_owned(), 7.0)].into();
            Record { scenario: "W".into(), step, extra, ..record("service", 1, cpu, 1.0) }
        };
        let report = Report::new(About::new(), "the first step", vec![step(1_000, 33.0), step(10, 30.0)]);
        let markdown = report.markdown("Title", "");
        assert!(markdown.contains("| target | users | different users | answers/s | × the first step |"), "{markdown}");
        assert!(markdown.contains("| service | 10 | 7 | – | – |"), "{markdown}");
        assert!(markdown.contains("| 33.0 | – | 1.10 |"), "{markdown}");
        assert!(!markdown.contains("What only some have"), "{markdown}");
        assert_eq!(report.plot("CPU µs/answer").matches("<circle").count(), 2);
    }
}
