//! `[models]`: the models of the configuration.

use std::collections::BTreeMap;

use actors::domain::{ModelId, Nanodollars, Price};
use serde::Deserialize;

use super::{
    error::Problems,
    layers::Layers,
    providers::{Provider, Providers},
    schema::dotted,
    values,
};

/// Which models there are: `[models]`.
#[derive(Debug, Clone)]
pub struct ModelsConfig {
    /// Whether a model that is in no catalog but named like `vendor/model` goes to OpenRouter under that name.
    pub pass_through: bool,
    /// The class in which such models are counted.
    pub pass_through_class: String,
    /// The models of the configuration; the store may have more, and one of the same id there wins.
    pub catalog: BTreeMap<ModelId, ModelConfig>,
}

/// A model: `[models.catalog.ID]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The quota class in which it is counted.
    pub class: String,
    /// The name under `[providers]` that serves it.
    pub provider: String,
    /// What that provider calls it; `None` = as here.
    #[serde(default, deserialize_with = "values::text")]
    pub upstream_model: Option<String>,
    /// For a million prompt tokens.
    #[serde(default, deserialize_with = "values::dollars")]
    pub input_price: Nanodollars,
    /// For a million completion tokens.
    #[serde(default, deserialize_with = "values::dollars")]
    pub output_price: Nanodollars,
    /// The most tokens of prompt and completion together, where known.
    #[serde(default, deserialize_with = "values::nonzero")]
    pub context: Option<u32>,
    /// The most tokens of completion, where known.
    #[serde(default, deserialize_with = "values::nonzero")]
    pub max_output: Option<u32>,
    /// Models to try, in this order, when the provider fails before the first frame.
    #[serde(default)]
    pub fallbacks: Vec<ModelId>,
}

impl ModelConfig {
    /// Returns what its tokens cost.
    #[must_use]
    pub fn price(&self) -> Price {
        Price { input: self.input_price, output: self.output_price }
    }
}

/// Reads `[models]`, without the simulator's models where it isn't there.
pub(super) fn read(layers: &mut Layers, providers: &Providers) -> Option<ModelsConfig> {
    let pass_through = layers.section(&["models", "pass_through"]);
    let pass_through_class = layers.section(&["models", "pass_through_class"]);
    let mut catalog = BTreeMap::new();
    for name in layers.names(&["models", "catalog"]) {
        let path = ["models", "catalog", name.as_str()];
        let Some(model) = layers.section::<ModelConfig>(&path) else { continue };
        if name.starts_with("sim/") && providers.dropped.contains(&model.provider) {
            continue;
        }
        match name.parse::<ModelId>() {
            Ok(id) => {
                model.check(&id, &dotted(&path), providers, &mut layers.problems);
                catalog.insert(id, model);
            }
            Err(error) => layers.problems.say(format!("`{}` is no model's id: {error}.", dotted(&path))),
        }
    }
    Some(ModelsConfig { pass_through: pass_through?, pass_through_class: pass_through_class?, catalog })
}

impl ModelsConfig {
    pub(super) fn check(&self, problems: &mut Problems) {
        check_class("models.pass_through_class", &self.pass_through_class, problems);
    }
}

impl ModelConfig {
    fn check(&self, id: &ModelId, key: &str, providers: &Providers, problems: &mut Problems) {
        check_class(&format!("{key}.class"), &self.class, problems);
        let provider = format!("{key}.provider");
        match providers.usable.get(&self.provider) {
            Some(Provider::Simulator(_)) if !id.as_str().starts_with("sim/") => {
                problems.refuse(&provider, "a simulator", "another, or the model be named sim/…");
            }
            Some(_) => {}
            None => {
                let names = providers.usable.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                let allowed = format!("one of those under [providers] that are in use: {names}");
                problems.refuse(&provider, format_args!("{:?}", self.provider), allowed);
            }
        }
        if self.fallbacks.contains(id) {
            problems.refuse(&format!("{key}.fallbacks"), "a list with the model itself", "a list of other models");
        }
        if let (Some(context), Some(most)) = (self.context, self.max_output)
            && most > context
        {
            problems.refuse(&format!("{key}.max_output"), most, format_args!("at most `context`, {context}"));
        }
    }
}

/// Refuses a class that is no id: classes are named like models and plans.
fn check_class(key: &str, class: &str, problems: &mut Problems) {
    if let Err(error) = class.parse::<ModelId>() {
        problems.refuse(key, format_args!("{class:?}"), format_args!("the name of a class: {error}"));
    }
}
