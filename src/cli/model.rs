//! `model`: adds, removes and lists models.

use actors::domain::{ModelId, Nanodollars, Price};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{Desk, Failed, Output, at_least, complain, plan::dollars, table};
use crate::store::ModelSpec;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Adds a model, or makes the one of that id what is stated here.
    Add(Add),
    /// Takes a model out of the catalog; one that the configuration states, until the next start.
    Remove {
        /// The model.
        id: ModelId,
    },
    /// Lists the catalog.
    List,
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// What clients call it.
    id: ModelId,
    /// Its quota class; made if there is none of that name.
    #[arg(long)]
    class: String,
    /// The provider that serves it: a name under `[providers]`.
    #[arg(long)]
    provider: String,
    /// What the provider calls it; the id if absent or empty.
    #[arg(long, value_name = "M")]
    upstream_model: Option<String>,
    /// US dollars for a million prompt tokens.
    #[arg(long, value_name = "USD/Mtok", allow_negative_numbers = true, value_parser = dollars, default_value = "0")]
    input_price: Nanodollars,
    /// US dollars for a million completion tokens.
    #[arg(long, value_name = "USD/Mtok", allow_negative_numbers = true, value_parser = dollars, default_value = "0")]
    output_price: Nanodollars,
    /// The most tokens of prompt and completion together.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<u32>(1))]
    context: Option<u32>,
    /// The most tokens of completion.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = at_least::<u32>(1))]
    max_output: Option<u32>,
    /// Another model to try when this one fails; may be given again for the next.
    #[arg(long = "fallback", value_name = "ID")]
    fallbacks: Vec<ModelId>,
}

pub(super) async fn run(desk: &Desk, command: Command) -> Result<Output, Failed> {
    match command {
        Command::Add(add) => put(desk, spec(add)).await,
        Command::Remove { id } => {
            if !desk.store.remove_model(&id).await? {
                return Err(Failed::usage(format!("There is no model {id}.")));
            }
            if desk.config.models.catalog.contains_key(&id) {
                complain(&format!(
                    "The configuration states {id} (models.catalog): unless it is taken out there, the next start brings it back."
                ));
            }
            Ok(Output::new(json!({"model": id, "removed": true}), format!("{id} is out of the catalog.")))
        }
        Command::List => list(desk).await,
    }
}

/// Puts a model into the catalog.
async fn put(desk: &Desk, model: ModelSpec) -> Result<Output, Failed> {
    if !desk.config.providers.contains_key(&model.provider) {
        let known: Vec<_> = desk.config.providers.keys().map(String::as_str).collect();
        let known = known.join(", ");
        return Err(Failed::usage(format!("There is no provider `{}`; there are: {known}.", model.provider)));
    }
    let (id, fallbacks) = (model.id.clone(), model.fallbacks.clone());
    if fallbacks.contains(&id) {
        return Err(Failed::usage(format!("{id} can't be its own fallback.")));
    }
    desk.store.set_model(model).await?;
    let there = desk.store.models().await?;
    let passes = desk.config.pass_through_provider().is_some();
    for fallback in &fallbacks {
        let is_there = there.iter().any(|(model, _)| model.id == *fallback);
        let is_answered = is_there || (passes && fallback.names_vendor());
        if !is_answered {
            complain(&format!("There is no model {fallback}: until it is added, {id} doesn't fall back to it."));
        }
    }
    Ok(Output::new(json!({ "model": id }), format!("{id} is in the catalog.")))
}

fn spec(add: Add) -> ModelSpec {
    let upstream_model = add.upstream_model.filter(|name| !name.is_empty());
    ModelSpec {
        upstream_model: upstream_model.unwrap_or_else(|| add.id.to_string()),
        id: add.id,
        class: add.class,
        provider: add.provider,
        price: Price { input: add.input_price, output: add.output_price },
        context: add.context,
        max_output: add.max_output,
        fallbacks: add.fallbacks,
    }
}

async fn list(desk: &Desk) -> Result<Output, Failed> {
    let models = desk.store.models().await?;
    let json = models.iter().map(|(model, origin)| {
        json!({
            "model": model.id, "class": &*model.class.name, "provider": model.provider,
            "upstream_model": model.upstream_model, "price_nanodollars_per_mtok": model.price,
            "context": model.context, "max_output": model.max_output, "fallbacks": model.fallbacks,
            "origin": origin.as_str(),
        })
    });
    let json = json!({"models": json.collect::<Vec<_>>()});
    let row = |(model, origin): &(actors::domain::Model, crate::store::Origin)| {
        [model.id.as_str(), &model.class.name, &model.provider, origin.as_str()].map(str::to_owned).to_vec()
    };
    let rows: Vec<_> = models.iter().map(row).collect();
    Ok(Output::new(json, table(&["model", "class", "provider", "origin"], &rows)))
}
