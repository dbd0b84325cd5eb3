//! Models, administered: those of the command line (`table`) and those of the configuration (`config`).
//!
//! What the command line sets stays: the configuration changes only its own rows. A removed model keeps its row and
//! its id, which postings name, and gets them back when it is added again.

use actors::{
    domain::{CatalogRows, Model, ModelId, Price},
    ports::{Change, StoreError},
};
use diesel::{ExpressionMethods, QueryDsl};

use super::{
    Store, catalog, catalog::ModelRow, changes, fault::Fault, link::Link, plans::ensure_class, schema::models,
};

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
            let CatalogRows { models, .. } = catalog::read(link).await?;
            let origins: Vec<String> = link
                .load(models::table.filter(models::removed.eq(false)).order(models::name).select(models::origin))
                .await?;
            let origin = |name: String| if name == Origin::Config.as_str() { Origin::Config } else { Origin::Table };
            Ok(models.into_iter().zip(origins.into_iter().map(origin)).collect())
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
            let classes = catalog::read(link).await?.classes;
            let rows: Vec<ModelRow> = link.load(models::table).await?;
            let mut differs = false;
            let mut gone = Vec::new();
            let mut kept = Vec::new();
            for row in rows {
                let spec = stated.iter().find(|spec| spec.id.as_str() == row.name);
                let ours = row.origin == Origin::Config.as_str();
                match spec {
                    _ if !ours => kept.push(row.name),
                    Some(spec) if !row.removed => {
                        let name = row.name.clone();
                        if states(spec, &row.into_model(&classes)?) {
                            kept.push(name);
                        }
                    }
                    None if !row.removed => gone.push(row.name),
                    Some(_) | None => {}
                }
            }
            for spec in stated.iter().filter(|spec| !kept.iter().any(|name| name == spec.id.as_str())) {
                put(link, spec, Origin::Config).await?;
                differs = true;
            }
            for name in gone {
                let row = models::table.filter(models::name.eq(name));
                link.execute(diesel::update(row).set(models::removed.eq(true))).await?;
                differs = true;
            }
            if differs { Ok(()) } else { Err(Fault::Superfluous) }
        };
        match self.write("model.sync", sync).await {
            Err(Fault::Superfluous) => Ok(()),
            synced => Ok(synced?),
        }
    }
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
