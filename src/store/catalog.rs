//! [`CatalogSource`]: models, classes and plans, read in one go.

use std::{collections::HashMap, sync::Arc};

use actors::{
    domain::{
        CatalogRows, Class, ClassId, Limits, Model, ModelId, ModelKey, Nanodollars, Plan, PlanId, PlanLimit, Price,
    },
    ports::{CatalogSource, StoreError},
};
use diesel::{ExpressionMethods, QueryDsl, Queryable};
use futures_util::future::BoxFuture;

use super::{
    Store,
    fault::Fault,
    link::Link,
    models::Origin,
    plans::window_kind,
    schema::{classes, models, plan_limits, plans},
};

impl CatalogSource for Store {
    fn catalog(&self) -> BoxFuture<'_, Result<CatalogRows, StoreError>> {
        let read = async |link: &mut Link| read(link).await;
        Box::pin(async move { Ok(self.snapshot("catalog", &self.0.read, None, read).await?) })
    }
}

/// Reads the catalog. Several statements: belongs in a snapshot.
pub(super) async fn read(link: &mut Link) -> Result<CatalogRows, Fault> {
    let classes = read_classes(link).await?;
    let models = read_models(link, &classes).await?.into_iter().map(|(model, _)| model).collect();
    Ok(CatalogRows { models, plans: read_plans(link).await?, classes })
}

/// Reads the classes, by id.
pub(super) async fn read_classes(link: &mut Link) -> Result<Vec<Class>, Fault> {
    let rows: Vec<(i32, String)> = link.load(classes::table.order(classes::id)).await?;
    Ok(rows.into_iter().map(|(id, name)| Class { id: ClassId(id), name: name.into() }).collect())
}

/// Reads the models and who stated them, by id.
pub(super) async fn read_models(link: &mut Link, classes: &[Class]) -> Result<Vec<(Model, Origin)>, Fault> {
    let rows: Vec<ModelRow> = link.load(models::table.filter(models::removed.eq(false)).order(models::name)).await?;
    rows.into_iter().map(|row| row.read(classes)).collect()
}

async fn read_plans(link: &mut Link) -> Result<Vec<Plan>, Fault> {
    let rows: Vec<LineRow> = link.load(plan_limits::table.order((plan_limits::plan_id, plan_limits::class_id))).await?;
    let mut lines: HashMap<i32, Vec<PlanLimit>> = HashMap::new();
    for (plan, class, window, requests, tokens, cost) in rows {
        lines.entry(plan).or_default().push(PlanLimit {
            class: ClassId(class),
            window: window_kind(window)?,
            limits: Limits { requests, tokens, cost: cost.map(Nanodollars) },
        });
    }
    let rows: Vec<PlanRow> = link.load(plans::table.order(plans::name)).await?;
    rows.into_iter()
        .map(|(id, name, open, requests_per_minute, concurrent_streams)| {
            Ok(Plan {
                id: PlanId(id),
                requests_per_minute: small(requests_per_minute)?,
                concurrent_streams: small(concurrent_streams)?,
                name: name.into(),
                open,
                lines: lines.remove(&id).unwrap_or_default(),
            })
        })
        .collect()
}

/// A row of `plans`, in the order of its columns.
type PlanRow = (i32, String, bool, Option<i64>, Option<i64>);

/// A row of `plan_limits`, in the order of its columns.
type LineRow = (i32, i32, i16, Option<i64>, Option<i64>, Option<i64>);

/// A row of `models`, in the order of its columns.
#[derive(Queryable)]
struct ModelRow {
    id: i64,
    name: String,
    class_id: i32,
    provider: String,
    upstream_model: String,
    input_price: i64,
    output_price: i64,
    context: Option<i64>,
    max_output: Option<i64>,
    fallbacks: String,
    origin: String,
    _removed: bool,
}

impl ModelRow {
    fn read(self, classes: &[Class]) -> Result<(Model, Origin), Fault> {
        let wrong = |what: &str| Fault::Refused(format!("the store's model `{}` has no valid {what}", self.name));
        let class = classes.iter().find(|class| class.id == ClassId(self.class_id)).ok_or_else(|| wrong("class"))?;
        let fallbacks: Vec<ModelId> = match serde_json::from_str(&self.fallbacks) {
            Ok(fallbacks) => fallbacks,
            Err(_) => return Err(wrong("fallbacks")),
        };
        let origin = if self.origin == Origin::Config.as_str() { Origin::Config } else { Origin::Table };
        let model = Model {
            key: ModelKey(self.id),
            id: self.name.parse().map_err(|_invalid| wrong("name"))?,
            class: class.clone(),
            provider: Arc::from(self.provider),
            upstream_model: Arc::from(self.upstream_model),
            price: Price { input: Nanodollars(self.input_price), output: Nanodollars(self.output_price) },
            context: small(self.context)?,
            max_output: small(self.max_output)?,
            fallbacks,
        };
        Ok((model, origin))
    }
}

/// Reads a number that was written as `u32`.
fn small(number: Option<i64>) -> Result<Option<u32>, Fault> {
    let small = |number| u32::try_from(number).map_err(|_range| Fault::Refused(format!("{number} is no ceiling")));
    number.map(small).transpose()
}
