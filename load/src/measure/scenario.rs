//! The scenarios by their letters.

use super::{alone, closed, crowd, job::Shape, many, overload, record::Record, target::Target, wrk};
use std::{fmt, io, str::FromStr, time::Duration};

/// How much is done; the defaults are what reports are made of.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Requests of a closed loop, in percent of the usual.
    pub percent: u64,
    /// Whether closed loops send some requests before they measure.
    pub warm_up: bool,
    /// Scenario D.
    pub wrk: wrk::Plan,
    /// Scenario F.
    pub many: many::Plan,
    /// Scenario R.
    pub alone: many::Plan,
    /// Scenario H.
    pub overload: overload::Plan,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            percent: 100,
            warm_up: true,
            wrk: wrk::Plan::default(),
            many: many::Plan::default(),
            alone: many::Plan::alone(),
            overload: overload::Plan::default(),
        }
    }
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// Short requests without streaming.
    A,
    /// Short streams without delay.
    B,
    /// Many streams at 20 ms a frame.
    C,
    /// wrk.
    D,
    /// One connection: whole answers.
    E,
    /// One connection: streams, the other half of E.
    S,
    /// Thousands of streams at a frame a second.
    F,
    /// Thousands of streams whose frames come alone.
    R,
    /// Unknown users, all at once.
    G,
    /// Five times as much as is admitted.
    H,
}

/// All of them, in the order of reports.
pub const ALL: [Scenario; 10] = [
    Scenario::A,
    Scenario::B,
    Scenario::C,
    Scenario::D,
    Scenario::E,
    Scenario::S,
    Scenario::F,
    Scenario::R,
    Scenario::G,
    Scenario::H,
];

/// What is done again and again while something grows, or goes on; its records have steps.
#[derive(Debug)]
pub struct Stepped {
    /// Its letter.
    pub letter: &'static str,
    /// What reports say about it.
    pub title: &'static str,
    /// What its steps count.
    pub step: &'static str,
}

/// More and more connections.
pub const CONNECTIONS: Stepped = Stepped {
    letter: "N",
    title: "short requests, whole answers, over more and more connections",
    step: "connections",
};
/// More and more models.
pub const MODELS: Stepped = Stepped {
    letter: "M",
    title: "short requests, whole answers, spread at random over more and more models, 64 connections",
    step: "models",
};
/// More and more users, each seen for the first time.
pub const COLD: Stepped = Stepped {
    letter: "U",
    title: "short requests, each by another user, never seen before, of more and more: look-ups and a lease; 64 connections",
    step: "users",
};
/// More and more users, each seen before.
pub const WARM: Stepped = Stepped {
    letter: "W",
    title: "short requests, whole answers, spread at random over users seen before, 64 connections",
    step: "users",
};
/// A long time.
pub const SOAK: Stepped = Stepped {
    letter: "K",
    title: "streams of 20 frames, 20 ms apart, and whole answers in turn, by 200 users",
    step: "minute",
};

/// All that have steps, in the order of reports.
pub const STEPPED: [Stepped; 5] = [CONNECTIONS, COLD, WARM, MODELS, SOAK];

/// A process that starts and ends: its letter, and what reports say about it.
pub const STARTING: (&str, &str) =
    ("P", "process start: `ttft` is until `/readyz` says 200, `whole` from SIGTERM to the end");

/// Where reports have the scenario of this letter, and what they say about it.
#[must_use]
pub fn place_and_title(letter: &str) -> (usize, &'static str) {
    let letters = ALL.iter().map(|known| (known.letter(), known.title()));
    let stepped = STEPPED.iter().map(|known| (known.letter, known.title));
    let mut all = letters.chain(stepped).chain([STARTING]).enumerate();
    let found = all.find(|(_, (known, _))| *known == letter);
    found.map_or((usize::MAX, ""), |(place, (_, title))| (place, title))
}

impl Scenario {
    /// What reports say about it.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::A => "short request, whole answer, 64 connections",
            Self::B => "stream of 20 frames without delay, 64 connections",
            Self::C => "1,000 streams of 50 frames, 20 ms apart",
            Self::D => "wrk -t12 -c400 --timeout 30s, whole answers",
            Self::E => "one connection, whole answers",
            Self::S => "one connection, streams of 20 frames without delay",
            Self::F => "9,500 streams of 30 frames, one a second",
            Self::R => {
                "4,000 streams, two frames a second, while all run: a frame is `late` by its way from the provider"
            }
            Self::G => "1,000 unknown users at once, a stream of 20 frames each",
            Self::H => "five times as many streams (20 frames, 20 ms apart) as the 200 that are admitted, for 60 s",
        }
    }

    /// Its letter.
    #[must_use]
    pub const fn letter(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::D => "D",
            Self::E => "E",
            Self::S => "S",
            Self::F => "F",
            Self::R => "R",
            Self::G => "G",
            Self::H => "H",
        }
    }

    /// Measures a target.
    ///
    /// # Errors
    /// The target has ended; flaws of answers are part of the record.
    pub async fn measure(self, target: &Target, size: Size, round: u32) -> io::Result<Record> {
        let plan = |connections, requests, shape| closed::Plan {
            scenario: self.letter(),
            connections,
            requests: requests * size.percent / 100,
            shape,
            options: "",
            spread: Duration::ZERO,
            warm_up: size.warm_up,
        };
        let plan = match self {
            Self::A => plan(64, 40_000, Shape::Whole(5)),
            Self::B => plan(64, 10_000, Shape::Stream(20)),
            // The beginnings are spread over one stream's time, so that the frames are.
            Self::C => closed::Plan {
                options: "+gap-20ms",
                spread: Duration::from_secs(1),
                ..plan(1_000, 5_000, Shape::Stream(50))
            },
            Self::E => plan(1, 5_000, Shape::Whole(5)),
            Self::S => plan(1, 3_000, Shape::Stream(20)),
            Self::D => return wrk::measure(target, size.wrk, round).await,
            Self::F => return many::measure(target, size.many, round).await,
            Self::R => return alone::measure(target, size.alone, round).await,
            Self::G => return crowd::measure(target, round).await,
            Self::H => return overload::measure(target, size.overload, round).await,
        };
        closed::measure(target, &plan, round).await
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.letter())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = ALL.into_iter().find(|scenario| scenario.letter() == text);
        found.ok_or_else(|| format!("there is no scenario {text}"))
    }
}
