//! Models, administered: those of the command line (`table`) and those of the configuration (`config`).
//!
//! What the command line sets stays: the configuration changes only its own rows. A removed model keeps its row and
//! its id, which postings name, and gets them back when it is added again.

use actors::{
    domain::{Model, ModelId, Price},
    ports::{Change, StoreError},
};
use diesel::{ExpressionMethods, QueryDsl};

use super::{Store, catalog, changes, fault::Fault, link::Link, plans::ensure_class, schema::models};

/// A model as an operator or the configuration states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// What clients call it.
    pub id: ModelId,
    /// Its class; made if there is none of that name.
    pub class: String,
    /// The provider: a name under `[providers]`.
    pub provider: String,
    /// What the provider calls it.
    pub upstream_model: String,
    /// What its tokens cost, where the provider doesn't say.
    pub price: Price,
    /// The most tokens of prompt and completion together, where known.
    pub context: Option<u32>,
    /// The most tokens of completion, where known.
    pub max_output: Option<u32>,
    /// Models to try when this one fails.
    pub fallbacks: Vec<ModelId>,
}

/// Who stated a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Table,
    /// The configuration.
    Config,
}

impl Origin {
    /// Returns the name, as the table has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Config => "config",
        }
    }
}

impl Store {
    /// Adds a model, or makes the one of that id what is stated here.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_model(&self, model: ModelSpec) -> Result<(), StoreError> {
        let set = async move |link: &mut Link| {
            changes::note(link, &Change::Catalog).await?;
            put(link, &model, Origin::Table).await
        };
        Ok(self.write("model.set", set).await?)
    }

    /// Takes a model out of the catalog; `false` if it isn't there. One that the configuration has comes back at the
    /// next start.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_model(&self, id: &ModelId) -> Result<bool, StoreError> {
        let id = id.clone();
        let remove = async move |link: &mut Link| {
            changes::note(link, &Change::Catalog).await?;
            // From now on it is the configuration's, if that has it.
            let there = models::table.filter(models::name.eq(id.as_str())).filter(models::removed.eq(false));
            let gone = (models::removed.eq(true), models::origin.eq(Origin::Config.as_str()));
            let removed = link.execute(diesel::update(there).set(gone)).await?;
            if removed == 1 { Ok(true) } else { Err(Fault::Superfluous) }
        };
        match self.write("model.remove", remove).await {
            Err(Fault::Superfluous) => Ok(false),
            removed => Ok(removed?),
        }
    }

    /// Lists the models with who stated them, by id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn models(&self) -> Result<Vec<(Model, Origin)>, StoreError> {
        let list = async |link: &mut Link| {
            let classes = catalog::read_classes(link).await?;
            catalog::read_models(link, &classes).await
        };
        Ok(self.snapshot("model.list", &self.0.read, None, list).await?)
    }

    /// Makes the configuration's models what is stated here; those that it no longer states are removed. Nothing is
    /// written, and nobody told, where nothing differs.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sync_configured_models(&self, stated: Vec<ModelSpec>) -> Result<(), StoreError> {
        let sync = async move |link: &mut Link| {
            changes::note(link, &Change::Catalog).await?;
            let classes = catalog::read_classes(link).await?;
            let there = catalog::read_models(link, &classes).await?;
            let (put_in, taken_out) = difference(&stated, &there);
            for spec in &put_in {
                put(link, spec, Origin::Config).await?;
            }
            for name in &taken_out {
                let row = models::table.filter(models::name.eq(name.as_str()));
                link.execute(diesel::update(row).set(models::removed.eq(true))).await?;
            }
            if put_in.is_empty() && taken_out.is_empty() { Err(Fault::Superfluous) } else { Ok(()) }
        };
        match self.write("model.sync", sync).await {
            Err(Fault::Superfluous) => Ok(()),
            synced => Ok(synced?),
        }
    }
}

/// Returns what the configuration states anew, and which of its models it no longer states.
fn difference<'a>(stated: &'a [ModelSpec], there: &'a [(Model, Origin)]) -> (Vec<&'a ModelSpec>, Vec<&'a ModelId>) {
    let settled = |spec: &ModelSpec| {
        let found = there.iter().find(|(model, _)| model.id == spec.id);
        found.is_some_and(|(model, origin)| *origin == Origin::Table || states(spec, model))
    };
    let forgotten = |(model, origin): &&(Model, Origin)| {
        *origin == Origin::Config && !stated.iter().any(|spec| spec.id == model.id)
    };
    let put_in = stated.iter().filter(|spec| !settled(spec)).collect();
    let taken_out = there.iter().filter(forgotten).map(|(model, _)| &model.id).collect();
    (put_in, taken_out)
}

/// Says whether a model is what a statement says.
fn states(spec: &ModelSpec, model: &Model) -> bool {
    *spec.class == *model.class.name
        && *spec.provider == *model.provider
        && *spec.upstream_model == *model.upstream_model
        && spec.price == model.price
        && spec.context == model.context
        && spec.max_output == model.max_output
        && spec.fallbacks == model.fallbacks
}

async fn put(link: &mut Link, model: &ModelSpec, origin: Origin) -> Result<(), Fault> {
    let class = ensure_class(link, &model.class).await?;
    let fallbacks = serde_json::json!(model.fallbacks).to_string();
    let stated = (
        models::class_id.eq(class.id.0),
        models::provider.eq(&model.provider),
        models::upstream_model.eq(&model.upstream_model),
        models::input_price.eq(model.price.input.0),
        models::output_price.eq(model.price.output.0),
        models::context.eq(model.context.map(i64::from)),
        models::max_output.eq(model.max_output.map(i64::from)),
        models::fallbacks.eq(&fallbacks),
        models::origin.eq(origin.as_str()),
        models::removed.eq(false),
    );
    link.execute(
        diesel::insert_into(models::table)
            .values((models::name.eq(model.id.as_str()), stated))
            .on_conflict(models::name)
            .do_update()
            .set(stated),
    )
    .await?;
    Ok(())
}
