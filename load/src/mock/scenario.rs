//! A model name, parsed into what the mock is to do. Pure.

use super::money::Cost;
use std::time::Duration;

/// The most content a scenario may ask for: the frames of a model are built once and kept.
const MAX_CONTENT: usize = 64 << 20;
/// The most frames of one answer.
const MAX_FRAMES: usize = 100_000;

/// Where the usage figures stand in a stream, and whether they are sane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UsageForm {
    Last,
    Apart,
    OpenRouter,
    Running,
    Twice,
    None,
    Negative,
    Huge,
    Text,
    Null,
}

/// The bytes that end a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineEnd {
    Lf,
    Crlf,
    Cr,
}

/// What the deltas carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Plain,
    Unicode,
    ToolCalls,
    Reasoning,
    Echo,
    Stamp,
}

/// Where a stream waits for `MockProvider::release`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Head,
    After(usize),
}

/// How a request goes wrong. Counts are content frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Status(u16),
    ErrorFirst,
    ErrorAfter(usize),
    Html,
    Redirect,
    Gzip,
    Garbage,
    Hang,
    Reset,
    Close,
    ResetAfter(usize),
    CloseAfter(usize),
    StallAfter(usize),
    TruncateAt(usize),
    Flood(usize),
    InvalidJson,
}

/// Everything that a model name can ask for; the table is in the docs of [`crate::mock`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scenario {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
    pub(crate) gap: Duration,
    pub(crate) first: Duration,
    pub(crate) head: Duration,
    pub(crate) content: Content,
    pub(crate) prompt_tokens: Option<u64>,
    pub(crate) completion_tokens: Option<u64>,
    pub(crate) cost: Option<Cost>,
    pub(crate) usage: UsageForm,
    pub(crate) usage_unasked: bool,
    pub(crate) finish_reason: bool,
    pub(crate) done: bool,
    pub(crate) line_end: LineEnd,
    pub(crate) comments: bool,
    pub(crate) bom: bool,
    pub(crate) tight: bool,
    pub(crate) multiline: bool,
    pub(crate) split: Option<usize>,
    pub(crate) drip: Duration,
    pub(crate) coalesced: bool,
    pub(crate) chunked: bool,
    pub(crate) until_close: bool,
    pub(crate) hold: Option<Hold>,
    pub(crate) fault: Option<Fault>,
    pub(crate) fail_first: Option<u32>,
    pub(crate) retry_after: Option<u32>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            frames: 5,
            bytes: 8,
            gap: Duration::ZERO,
            first: Duration::ZERO,
            head: Duration::ZERO,
            content: Content::Plain,
            prompt_tokens: None,
            completion_tokens: None,
            cost: None,
            usage: UsageForm::Last,
            usage_unasked: false,
            finish_reason: true,
            done: true,
            line_end: LineEnd::Lf,
            comments: false,
            bom: false,
            tight: false,
            multiline: false,
            split: None,
            drip: Duration::ZERO,
            coalesced: false,
            chunked: false,
            until_close: false,
            hold: None,
            fault: None,
            fail_first: None,
            retry_after: None,
        }
    }
}

impl Scenario {
    /// Reads the options of a model name, over those of `self`.
    ///
    /// What follows a `+` must be known; what follows a `:` may also be a variant of the vendor's (`:free`).
    pub(crate) fn for_model(&self, model: &str) -> Result<Self, String> {
        let mut scenario = self.clone();
        let options = model.find(['+', ':']).and_then(|at| model.get(at..)).unwrap_or_default();
        let mut rest = options;
        while let Some(mark) = rest.chars().next() {
            let word_and_rest = rest.get(1..).unwrap_or_default();
            let end = word_and_rest.find(['+', ':']).unwrap_or(word_and_rest.len());
            let (word, after) = word_and_rest.split_at(end);
            if scenario.set(word).is_none() && mark == '+' {
                return Err(format!("mock: unknown option `{word}` in model `{model}`"));
            }
            rest = after;
        }
        if scenario.fail_first.is_some() && scenario.fault.is_none() {
            scenario.fault = Some(Fault::Status(500));
        }
        if scenario.frames > MAX_FRAMES || scenario.frames.saturating_mul(scenario.bytes) > MAX_CONTENT {
            return Err(format!("mock: model `{model}` asks for more than {MAX_FRAMES} frames or {MAX_CONTENT} bytes"));
        }
        Ok(scenario)
    }

    /// Reads options without a model in front, as in `frames-20+gap-20ms`.
    pub(crate) fn from_options(options: &str) -> Result<Self, String> {
        if options.is_empty() { Ok(Self::default()) } else { Self::default().for_model(&format!("defaults+{options}")) }
    }

    fn set(&mut self, word: &str) -> Option<()> {
        self.set_shape(word).or_else(|| self.set_fault(word)).or_else(|| {
            let (name, value) = word.rsplit_once('-')?;
            self.set_figure(name, value).or_else(|| self.set_fault_at(name, value))
        })
    }

    fn set_shape(&mut self, word: &str) -> Option<()> {
        match word {
            "no-done" => self.done = false,
            "no-finish" => self.finish_reason = false,
            "neither" => (self.done, self.finish_reason) = (false, false),
            "lf" => self.line_end = LineEnd::Lf,
            "crlf" => self.line_end = LineEnd::Crlf,
            "cr" => self.line_end = LineEnd::Cr,
            "comments" => self.comments = true,
            "bom" => self.bom = true,
            "tight" => self.tight = true,
            "multiline" => self.multiline = true,
            "coalesced" => self.coalesced = true,
            "chunked" => self.chunked = true,
            "until-close" => self.until_close = true,
            "hold-head" => self.hold = Some(Hold::Head),
            "unicode" => self.content = Content::Unicode,
            "tool-calls" => self.content = Content::ToolCalls,
            "reasoning" => self.content = Content::Reasoning,
            "echo" => self.content = Content::Echo,
            "stamp" => self.content = Content::Stamp,
            "usage-unasked" => self.usage_unasked = true,
            _ => self.usage = usage_form(word.strip_prefix("usage-")?)?,
        }
        Some(())
    }

    fn set_fault(&mut self, word: &str) -> Option<()> {
        self.fault = Some(match word {
            "error-first" => Fault::ErrorFirst,
            "html" => Fault::Html,
            "redirect" => Fault::Redirect,
            "gzip" => Fault::Gzip,
            "garbage" => Fault::Garbage,
            "hang" => Fault::Hang,
            "reset" => Fault::Reset,
            "close" => Fault::Close,
            "invalid-json" => Fault::InvalidJson,
            _ => return None,
        });
        Some(())
    }

    fn set_figure(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "frames" => self.frames = value.parse().ok()?,
            "bytes" => self.bytes = value.parse().ok()?,
            "gap" => self.gap = duration(value)?,
            "first" => self.first = duration(value)?,
            "head" => self.head = duration(value)?,
            "drip" => self.drip = duration(value)?,
            "split" => self.split = Some(value.parse().ok().filter(|&size| size > 0)?),
            "prompt" => self.prompt_tokens = Some(value.parse().ok()?),
            "completion" => self.completion_tokens = Some(value.parse().ok()?),
            "cost" => self.cost = Some(Cost::parse(value)?),
            "hold-after" => self.hold = Some(Hold::After(value.parse().ok()?)),
            "fail-first" => self.fail_first = Some(value.parse().ok()?),
            "retry-after" => self.retry_after = Some(value.parse().ok()?),
            _ => return None,
        }
        Some(())
    }

    fn set_fault_at(&mut self, name: &str, value: &str) -> Option<()> {
        let count = value.parse().ok()?;
        self.fault = Some(match name {
            "status" => Fault::Status(value.parse().ok().filter(|status| (400..=599).contains(status))?),
            "error-after" => Fault::ErrorAfter(count),
            "reset-after" => Fault::ResetAfter(count),
            "close-after" => Fault::CloseAfter(count),
            "stall-after" => Fault::StallAfter(count),
            "truncate-at" => Fault::TruncateAt(count),
            "flood" => Fault::Flood(count),
            _ => return None,
        });
        Some(())
    }
}

fn usage_form(word: &str) -> Option<UsageForm> {
    Some(match word {
        "last" => UsageForm::Last,
        "apart" => UsageForm::Apart,
        "openrouter" => UsageForm::OpenRouter,
        "running" => UsageForm::Running,
        "twice" => UsageForm::Twice,
        "none" => UsageForm::None,
        "negative" => UsageForm::Negative,
        "huge" => UsageForm::Huge,
        "string" => UsageForm::Text,
        "null" => UsageForm::Null,
        _ => return None,
    })
}

/// `20ms`, `1s`, `500us`; a bare number is milliseconds.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    match text.strip_prefix(digits)? {
        "us" => Some(Duration::from_micros(number)),
        "ms" | "" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(model: &str) -> Scenario {
        Scenario::default().for_model(model).unwrap()
    }

    #[test]
    fn a_plain_name_asks_for_the_defaults() {
        assert_eq!(parse("openai/gpt-4o-mini"), Scenario::default());
        assert_eq!(parse("openai/gpt-4o-mini:free"), Scenario::default());
    }

    #[test]
    fn options_are_read_in_any_order() {
        let scenario = parse("mock/chat+frames-20+gap-20ms:first-1s+usage-apart+no-done+crlf+cost-0.00012");
        assert_eq!((scenario.frames, scenario.gap), (20, Duration::from_millis(20)));
        assert_eq!((scenario.first, scenario.usage), (Duration::from_secs(1), UsageForm::Apart));
        assert_eq!((scenario.done, scenario.finish_reason, scenario.line_end), (false, true, LineEnd::Crlf));
        assert_eq!(scenario.cost.unwrap().nanodollars(), 120_000);
    }

    #[test]
    fn faults_are_read() {
        assert_eq!(parse("m+status-429+retry-after-2").fault, Some(Fault::Status(429)));
        assert_eq!(parse("m+reset-after-3").fault, Some(Fault::ResetAfter(3)));
        assert_eq!(parse("m+error-first").fault, Some(Fault::ErrorFirst));
        assert_eq!(parse("m+fail-first-2").fault, Some(Fault::Status(500)));
        assert_eq!(parse("m+hang+fail-first-2").fault, Some(Fault::Hang));
    }

    #[test]
    fn a_misspelt_option_is_refused_with_its_name() {
        let error = Scenario::default().for_model("m+frame-20").unwrap_err();
        assert!(error.contains("`frame-20`"), "{error}");
        assert!(Scenario::default().for_model("m+gap-20parsecs").is_err());
        assert!(Scenario::default().for_model("m+status-200").is_err());
        assert!(Scenario::default().for_model("m+frames-100000+bytes-100000").is_err());
    }
}
