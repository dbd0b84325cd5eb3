//! The load program: what `load/run` lets loose on the servers that it has started.

use hne_load::{
    block_on,
    measure::{
        figures::real,
        growth::{self, Grows},
        instructions::{self, Recorded},
        leaving,
        record::Record,
        report::Report,
        scenario::{self, Scenario, Size},
        soak::{self, Verdict},
        starting,
        target::Target,
        token,
    },
};
use std::{
    collections::BTreeMap,
    env,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

const USAGE: &str = "\
usage: hne-load measure --secret S --target NAME=ADDR,PID … --out FILE [--scenarios A,B,…] [--rounds N]
                        [--percent N] [--wrk-seconds N] [--streams N] [--frames N] [--overload-seconds N]
                        [--warm-up yes|no]
       hne-load leave   --secret S --target NAME=ADDR,PID --mock ADDR --out FILE [--cycles N]
       hne-load grow    --secret S --target NAME=ADDR,PID … --out FILE --of connections|users|models --step N
                        [--rounds N] [--percent N] [--before N] [--cold N] [--warm N]
       hne-load soak    --secret S --target NAME=ADDR,PID --out FILE [--minutes N] [--rate N]
       hne-load start   --name NAME --program FILE --folder FOLDER --out FILE [--set NAME=VALUE …] [--times N]
       hne-load report  --raw FILE --results FOLDER --name NAME --base TARGET --title TEXT [--note TEXT]
                        [--about NAME=VALUE …] [--plot FIGURE=FILE …] [--lines FILE]
       hne-load instructions --raw FILE --recorded FILE --toolchain TEXT --dump SCENARIO=FILE … [--record yes]
       hne-load token   --secret S --user NAME

  measure  runs each scenario against each target, in random order, and adds a line of JSON to FILE for each
  leave    lets clients come and leave, and fails if anything is left of them
  grow     measures each target with so many connections, users or models
  soak     sends at a rate for a long time, and fails if an answer was wrong, or more is held at the end
  start    starts a program again and again, with that environment, and measures until it is ready
  report   makes NAME.json, NAME.md and plots of what `measure` has kept
  instructions  divides what callgrind has dumped by the requests that `measure` has kept, and compares or records it
  token    prints a token of a user

  --secret   what the service's tokens are signed with
  --target   what is measured, and the process behind it, whose children count as well
  --percent  of the usual number of requests in closed loops (100)
  --streams, --frames  of scenario F (9500, 30)
  --before, --cold, --warm  users that were there at the step before (0), that are new to the service (30000) and that
             are asked for again (30000), at most
";

/// At each step of what grows: seconds of CPU time, of which the clock's ticks of 10 ms are no part that counts.
const REQUESTS: u32 = 40_000;
/// Users that are new at each step: each of them costs the store some work as well.
const COLD: u32 = 30_000;

/// What went wrong, and the exit code for it (sysexits.h).
struct Failed(String, u8);

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self(error.to_string(), 69)
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((command, _)) if command == "--help" => say(USAGE),
        Some((command, rest)) => Flags::parse(rest).and_then(|flags| match command.as_str() {
            "measure" => measure(&flags),
            "leave" => leave(&flags),
            "grow" => grow(&flags),
            "soak" => soak(&flags),
            "start" => start(&flags),
            "token" => say(&format!("{}\n", token::issue(&flags.text("secret")?, &flags.text("user")?, token::now())?)),
            "instructions" => count(&flags),
            "report" => report(&flags),
            other => Err(usage(format!("{other} is unknown"))),
        }),
        None => Err(usage("what is to be done?".to_owned())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(why, code)) => {
            // Nobody is left to be told if the stream is closed.
            writeln!(io::stderr(), "hne-load: {why}").ok();
            ExitCode::from(code)
        }
    }
}

fn measure(flags: &Flags) -> Result<(), Failed> {
    let targets = flags.targets()?;
    let scenarios: Vec<Scenario> = match flags.list("scenarios") {
        Some(letters) => letters.split(',').map(str::parse).collect::<Result<_, _>>().map_err(usage)?,
        None => scenario::ALL.to_vec(),
    };
    let mut size = Size::default();
    size.percent = flags.number("percent", size.percent)?;
    size.many.streams = flags.number("streams", size.many.streams)?;
    size.many.frames = flags.number("frames", size.many.frames)?;
    size.warm_up = flags.list("warm-up").is_none_or(|text| text == "yes");
    size.wrk.seconds = flags.number("wrk-seconds", size.wrk.seconds)?;
    let lasts = flags.number("overload-seconds", size.overload.lasts.as_secs())?;
    size.overload.lasts = Duration::from_secs(lasts);
    let out = flags.text("out")?;
    for round in 1..=flags.number("rounds", 5)? {
        let mut scenarios = scenarios.clone();
        fastrand::shuffle(&mut scenarios);
        for scenario in scenarios {
            // A scenario's targets follow each other, so that what else the machine does befalls all of them.
            let mut order: Vec<&Target> = targets.iter().collect();
            fastrand::shuffle(&mut order);
            for target in order {
                let record = block_on(scenario.measure(target, size, round))??;
                keep(&record, Path::new(&out))?;
                say(&format!("{}\n", record.line()))?;
            }
        }
    }
    Ok(())
}

fn grow(flags: &Flags) -> Result<(), Failed> {
    let percent: u32 = flags.number("percent", 100)?;
    let grows = match flags.text("of")?.as_str() {
        "connections" => Grows::Connections,
        "models" => Grows::Models,
        "users" => Grows::Users {
            before: flags.number("before", 0)?,
            cold: flags.number("cold", COLD)? * percent / 100,
            warm: flags.number("warm", COLD)?,
        },
        other => return Err(usage(format!("--of can't be {other}"))),
    };
    let (step, requests, out) = (flags.number("step", 1)?, REQUESTS * percent / 100, flags.text("out")?);
    for round in 1..=flags.number("rounds", 1)? {
        for target in flags.targets()? {
            for record in block_on(growth::measure(&target, growth::Plan { grows, step, requests, round }))?? {
                keep(&record, Path::new(&out))?;
                say(&format!("{}\n", record.line()))?;
            }
        }
    }
    Ok(())
}

fn soak(flags: &Flags) -> Result<(), Failed> {
    let targets = flags.targets()?;
    let service = targets.first().ok_or_else(|| usage("--target is missing".to_owned()))?;
    let mut plan = soak::Plan::default();
    plan.minutes = flags.number("minutes", plan.minutes)?;
    plan.rate = flags.number("rate", plan.rate)?;
    let (out, mut records) = (flags.text("out")?, Vec::new());
    block_on(soak::run(service, plan, |record| {
        records.push(record.clone());
        writeln!(io::stdout(), "{}", record.line())?;
        keep(record, Path::new(&out))
    }))??;
    let verdict = Verdict::of(&records).ok_or_else(|| Failed("too short to be judged".to_owned(), 65))?;
    if verdict.is_well() { say(&format!("{verdict}\n")) } else { Err(Failed(verdict.to_string(), 1)) }
}

fn start(flags: &Flags) -> Result<(), Failed> {
    let plan = starting::Plan {
        name: flags.text("name")?,
        program: flags.text("program")?.into(),
        folder: flags.text("folder")?.into(),
        environment: flags.pairs("set").map_err(usage)?,
        times: flags.number("times", 15)?,
    };
    let record = block_on(starting::measure(&plan))??;
    keep(&record, Path::new(&flags.text("out")?))?;
    say(&format!("{}\n", record.line()))
}

fn keep(record: &Record, file: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    writeln!(file, "{}", serde_json::to_string(record)?)
}

fn report(flags: &Flags) -> Result<(), Failed> {
    let records = records(&flags.text("raw")?)?;
    let about = flags.pairs("about").map_err(usage)?.into_iter().collect();
    let report = Report::new(about, &flags.text("base")?, records);
    let (folder, name) = (PathBuf::from(flags.text("results")?), flags.text("name")?);
    fs::create_dir_all(&folder)?;
    let mut notes = flags.list("note").cloned().unwrap_or_default();
    for (figure, file) in flags.pairs("plot").map_err(usage)? {
        fs::write(folder.join(&file), report.plot(&figure))?;
        notes.push_str(&format!("\n![{figure}]({file})"));
    }
    if let Some(file) = flags.list("lines") {
        fs::write(folder.join(file), report.lines())?;
        let verdict = Verdict::of(&report.records).map_or_else(String::new, |verdict| format!("{verdict}."));
        notes.push_str(&format!("\n{verdict}\n\n![what was held]({file})"));
    }
    let markdown = report.markdown(&flags.text("title")?, &notes);
    fs::write(folder.join(format!("{name}.json")), serde_json::to_string(&report).map_err(io::Error::other)?)?;
    fs::write(folder.join(format!("{name}.md")), &markdown)?;
    say(&markdown)
}

fn count(flags: &Flags) -> Result<(), Failed> {
    let records = records(&flags.text("raw")?)?;
    let mut per_request = BTreeMap::new();
    for (scenario, file) in flags.pairs("dump").map_err(usage)? {
        let requests: u64 = records.iter().filter(|one| one.scenario == scenario).map(|one| one.requests).sum();
        let counted = instructions::of_dump(&fs::read_to_string(&file)?).filter(|_| requests > 0);
        let counted = counted.ok_or_else(|| Failed(format!("{file} has no sum, or {scenario} no requests"), 65))?;
        per_request.insert(scenario, (counted / real(requests)).round());
    }
    let counted = Recorded { toolchain: flags.text("toolchain")?, per_request };
    let file = flags.text("recorded")?;
    if flags.list("record").is_some_and(|text| text == "yes") {
        let text = serde_json::to_string_pretty(&counted).map_err(io::Error::other)?;
        fs::create_dir_all(Path::new(&file).parent().unwrap_or(Path::new("")))?;
        fs::write(&file, format!("{text}\n"))?;
        return say(&format!("recorded in {file}: {text}\n"));
    }
    let recorded = serde_json::from_str(&fs::read_to_string(&file)?).map_err(io::Error::other)?;
    let (lines, all_well) = instructions::compare(&recorded, &counted);
    say(&format!("{}\n", lines.join("\n")))?;
    if all_well {
        Ok(())
    } else {
        Err(Failed("record them anew (load/run record) if that is as it should be".to_owned(), 1))
    }
}

fn records(file: &str) -> Result<Vec<Record>, Failed> {
    let raw = fs::read_to_string(file)?;
    Ok(raw.lines().map(serde_json::from_str).collect::<Result<_, _>>().map_err(io::Error::other)?)
}

fn leave(flags: &Flags) -> Result<(), Failed> {
    let targets = flags.targets()?;
    let service = targets.first().ok_or_else(|| usage("--target is missing".to_owned()))?;
    let mut plan = leaving::Plan::default();
    plan.cycles = flags.number("cycles", plan.cycles)?;
    let mock = flags.text("mock")?.parse().map_err(|_unfit| usage("--mock is no address".to_owned()))?;
    let left = block_on(leaving::run(service, mock, plan))??;
    let text = serde_json::to_string(&left).map_err(io::Error::other)?;
    fs::write(flags.text("out")?, &text)?;
    say(&format!("{} clients came and left: {text}\n", plan.cycles))?;
    if left.is_nothing() { Ok(()) } else { Err(Failed("something is left of the clients that left".to_owned(), 1)) }
}

/// `--name value`, each as often as it is given.
struct Flags(BTreeMap<String, Vec<String>>);

impl Flags {
    fn parse(arguments: &[String]) -> Result<Self, Failed> {
        let mut flags = BTreeMap::<String, Vec<String>>::new();
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            let name = name.strip_prefix("--").ok_or_else(|| usage(format!("{name} is unknown")))?;
            let value = arguments.next().ok_or_else(|| usage(format!("--{name} needs a value")))?;
            flags.entry(name.to_owned()).or_default().push(value.clone());
        }
        Ok(Self(flags))
    }

    fn list(&self, name: &str) -> Option<&String> {
        self.0.get(name)?.last()
    }

    fn text(&self, name: &str) -> Result<String, Failed> {
        self.list(name).cloned().ok_or_else(|| usage(format!("--{name} is missing")))
    }

    /// All `name=value` of a flag.
    fn pairs(&self, name: &str) -> Result<Vec<(String, String)>, String> {
        let texts = self.0.get(name).map(Vec::as_slice).unwrap_or_default();
        let pair = |text: &String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        texts.iter().map(|text| pair(text).ok_or_else(|| format!("--{name} is no NAME=VALUE: {text}"))).collect()
    }

    fn number<T: FromStr>(&self, name: &str, otherwise: T) -> Result<T, Failed> {
        match self.list(name) {
            Some(text) => text.parse().map_err(|_unfit| usage(format!("--{name} can't be {text}"))),
            None => Ok(otherwise),
        }
    }

    fn targets(&self) -> Result<Vec<Target>, Failed> {
        let secret = self.text("secret")?;
        let texts = self.0.get("target").map(Vec::as_slice).unwrap_or_default();
        Ok(texts.iter().map(|text| Target::parse(text, &secret)).collect::<io::Result<_>>()?)
    }
}

fn usage(why: String) -> Failed {
    Failed(format!("{why}\n\n{USAGE}"), 64)
}

fn say(text: &str) -> Result<(), Failed> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}
