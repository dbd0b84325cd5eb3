//! `plan`: says what plans allow.

use actors::{
    domain::{Limits, Nanodollars, WindowKind},
    ports::CatalogSource,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Desk, Failed, Output, at_least, table};
use crate::store::PlanLine;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Sets what a plan allows for a class of models, in place of what it allowed before.
    Set(Set),
    /// Takes a class of models out of a plan: a second later it is not allowed any more. What was used stays in the books.
    Remove {
        /// The plan.
        name: String,
        /// The class of models.
        class: String,
    },
    /// Sets how fast each user of a plan may go on each instance; what is left out is not limited.
    Rate {
        /// The plan.
        name: String,
        /// The most requests in a minute.
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<u32>(0))]
        requests_per_minute: Option<u32>,
        /// The most streams at once.
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<u32>(0))]
        concurrent_streams: Option<u32>,
    },
    /// Lists plans with what they allow.
    List,
}

#[derive(Debug, Args)]
pub(super) struct Set {
    /// The plan; made if there is none of that name.
    name: String,
    /// The class of models; made if there is none of that name.
    class: String,
    /// When the limits reset: at midnight UTC, or at the first of the month.
    #[arg(long, default_value = "day", value_name = "day|month")]
    window: WindowKind,
    /// The most requests.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<i64>(0))]
    requests: Option<i64>,
    /// The most tokens, prompt and completion together.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<i64>(0))]
    tokens: Option<i64>,
    /// The most money, in US dollars.
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = dollars)]
    cost_usd: Option<Nanodollars>,
    /// No limits at all.
    #[arg(long, conflicts_with_all = ["requests", "tokens", "cost_usd"])]
    unlimited: bool,
}

/// Reads an amount of dollars, such as `0.15`.
pub(super) fn dollars(text: &str) -> Result<Nanodollars, String> {
    Nanodollars::from_decimal(text).ok_or_else(|| "a number of US dollars, 0 or more, such as 0.15".to_owned())
}

fn shown(limits: &Limits) -> Value {
    json!({"requests": limits.requests, "tokens": limits.tokens, "cost_nanodollars": limits.cost})
}

pub(super) async fn run(desk: &Desk, command: Command) -> Result<Output, Failed> {
    match command {
        Command::Set(set) => {
            let limits = Limits { requests: set.requests, tokens: set.tokens, cost: set.cost_usd };
            if limits == Limits::default() && !set.unlimited {
                return Err(Failed::usage("Give --requests, --tokens or --cost-usd, or else --unlimited."));
            }
            let line = PlanLine { plan: set.name.clone(), class: set.class.clone(), window: set.window, limits };
            desk.store.set_plan_line(line).await?;
            let json = json!({"plan": set.name, "class": set.class, "window": set.window, "limits": shown(&limits)});
            let text = format!("The plan {} allows {} as stated, each {}.", set.name, set.class, set.window.as_str());
            Ok(Output::new(json, text))
        }
        Command::Remove { name, class } => {
            let is_open = desk.store.remove_plan_line(&name, &class).await?;
            let (verb, end) = if is_open { ("allows", " without limits") } else { ("does not allow", "") };
            let json = json!({"plan": name, "class": class, "removed": true});
            Ok(Output::new(json, format!("The plan {name} {verb} {class} from now on{end}.")))
        }
        Command::Rate { name, requests_per_minute: rate, concurrent_streams: streams } => {
            desk.store.set_plan_rates(&name, rate, streams).await?;
            let json = json!({"plan": name, "requests_per_minute": rate, "concurrent_streams": streams});
            Ok(Output::new(json, format!("The plan {name} goes at this rate.")))
        }
        Command::List => list(desk).await,
    }
}

async fn list(desk: &Desk) -> Result<Output, Failed> {
    let catalog = desk.store.catalog().await?;
    let class = |id| catalog.classes.iter().find(|class| class.id == id).map_or("?", |class| &class.name);
    let number = |limit: Option<i64>| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string());
    let mut rows = Vec::new();
    let mut plans = Vec::new();
    for plan in &catalog.plans {
        let lines: Vec<_> = plan
            .lines
            .iter()
            .map(|line| json!({"class": class(line.class), "window": line.window, "limits": shown(&line.limits)}))
            .collect();
        plans.push(json!({
            "plan": plan.name, "open": plan.open, "requests_per_minute": plan.requests_per_minute,
            "concurrent_streams": plan.concurrent_streams, "lines": lines,
        }));
        for line in &plan.lines {
            let Limits { requests, tokens, cost } = line.limits;
            let figures = [requests, tokens, cost.map(|cost| cost.0)].map(number);
            let names = [plan.name.to_string(), class(line.class).to_owned(), line.window.as_str().to_owned()];
            rows.push(names.into_iter().chain(figures).collect());
        }
        if plan.open {
            rows.push([&plan.name, "(any other)", "day", "-", "-", "-"].map(str::to_owned).to_vec());
        }
    }
    let headings = ["plan", "class", "window", "requests", "tokens", "cost (nanodollars)"];
    Ok(Output::new(json!({ "plans": plans }), table(&headings, &rows)))
}
