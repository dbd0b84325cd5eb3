//! Which models there are, what they cost, and what each plan allows.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{ClassId, ModelId, ModelKey, Nanodollars, PlanId, Price, WindowKind};

/// The quota class of a model: what limits are counted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// The store's id.
    pub id: ClassId,
    /// The name, such as `basic` or `premium`.
    pub name: Arc<str>,
}

/// A model that clients may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// The store's id.
    pub key: ModelKey,
    /// What clients call it.
    pub id: ModelId,
    /// Its quota class.
    pub class: Class,
    /// The provider that serves it: a name under `[providers]`.
    pub provider: Arc<str>,
    /// What that provider calls it.
    pub upstream_model: Arc<str>,
    /// What its tokens cost, where the provider doesn't say.
    pub price: Price,
    /// The most tokens of prompt and completion together, where known.
    pub context: Option<u32>,
    /// The most tokens of completion, where known.
    pub max_output: Option<u32>,
    /// Models to try, in this order, when this one's provider fails before its first frame.
    pub fallbacks: Vec<ModelId>,
}

/// Ceilings for one class and window; an absent one is unlimited, but still counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// The most requests.
    pub requests: Option<i64>,
    /// The most tokens, prompt and completion together.
    pub tokens: Option<i64>,
    /// The most money.
    pub cost: Option<Nanodollars>,
}

/// A line of a plan: what it allows for one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanLimit {
    /// The class.
    pub class: ClassId,
    /// How often it resets.
    pub window: WindowKind,
    /// The ceilings.
    pub limits: Limits,
}

/// What a group of users may use. A class without a line is not allowed, unless the plan is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The store's id.
    pub id: PlanId,
    /// Its name.
    pub name: Arc<str>,
    /// The most requests in any 60 s by one user, on each instance.
    pub requests_per_minute: Option<u32>,
    /// The most streams at once by one user, on each instance.
    pub concurrent_streams: Option<u32>,
    /// Whether classes without a line are allowed too, without limits (the plan `unlimited`).
    pub open: bool,
    /// A line for each class that is limited or, in a plan that isn't open, allowed.
    pub lines: Vec<PlanLimit>,
}

impl Plan {
    /// Returns the line for a class, if the plan allows it.
    #[must_use]
    pub fn line(&self, class: ClassId) -> Option<PlanLimit> {
        let unlimited = PlanLimit { class, window: WindowKind::Day, limits: Limits::default() };
        self.lines.iter().find(|line| line.class == class).copied().or(self.open.then_some(unlimited))
    }
}

/// The catalog as the store holds it, read in one go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CatalogRows {
    /// The models.
    pub models: Vec<Model>,
    /// The plans with their lines.
    pub plans: Vec<Plan>,
    /// The classes, also those that no model is in.
    pub classes: Vec<Class>,
}

/// The immutable snapshot that the registry publishes: every look-up of a request goes to one and the same.
#[derive(Debug, Default)]
pub struct Catalog {
    models: HashMap<ModelId, Arc<Model>>,
    plans: HashMap<PlanId, Arc<Plan>>,
    classes: Vec<Class>,
    withheld: HashSet<ModelId>,
    pass_through: Option<PassThrough>,
}

/// How models that are in no catalog reach a provider under the name that the client gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassThrough {
    /// The provider that takes them.
    pub provider: Arc<str>,
    /// The class in which they are counted.
    pub class: Class,
}

impl Catalog {
    /// Makes a snapshot of these rows, with the models to keep. A name of another one is nobody's: it has a class and a
    /// price, with which it isn't passed through.
    #[must_use]
    pub fn new(rows: CatalogRows, keep: impl Fn(&Model) -> bool, pass_through: Option<PassThrough>) -> Self {
        let (kept, others): (Vec<_>, Vec<_>) = rows.models.into_iter().partition(keep);
        Self {
            models: kept.into_iter().map(|model| (model.id.clone(), Arc::new(model))).collect(),
            withheld: others.into_iter().map(|model| model.id).collect(),
            plans: rows.plans.into_iter().map(|plan| (plan.id, Arc::new(plan))).collect(),
            classes: rows.classes,
            pass_through,
        }
    }

    /// Finds the model that a client named, or makes one of a `vendor/model` name where those are passed through.
    #[must_use]
    pub fn model(&self, id: &ModelId) -> Option<Arc<Model>> {
        self.models.get(id).cloned().or_else(|| self.passed_through(id).filter(|_| !self.withheld.contains(id)))
    }

    fn passed_through(&self, id: &ModelId) -> Option<Arc<Model>> {
        let way = self.pass_through.as_ref()?;
        id.names_vendor().then(|| {
            Arc::new(Model {
                key: ModelKey::PASSED_THROUGH,
                id: id.clone(),
                class: way.class.clone(),
                provider: way.provider.clone(),
                upstream_model: Arc::from(id.as_str()),
                price: Price::default(),
                context: None,
                max_output: None,
                fallbacks: Vec::new(),
            })
        })
    }

    /// Finds a plan.
    #[must_use]
    pub fn plan(&self, id: PlanId) -> Option<&Arc<Plan>> {
        self.plans.get(&id)
    }

    /// Iterates over the models of the catalog, in no order.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values()
    }

    /// Returns the classes, also those that no model is in.
    #[must_use]
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// Returns the name of a class; an unknown one is `?`.
    #[must_use]
    pub fn class_name(&self, id: ClassId) -> &str {
        self.classes.iter().find(|class| class.id == id).map_or("?", |class| &class.name)
    }
}
