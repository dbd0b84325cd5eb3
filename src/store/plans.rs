//! Plans, their lines, and the classes that these are about.

use std::collections::HashMap;

use actors::{
    domain::{Class, ClassId, Limits, PlanId, WindowKind},
    ports::{Change, StoreError},
};
use diesel::{ExpressionMethods, QueryDsl};

use super::{
    Store, changes,
    fault::Fault,
    link::Link,
    schema::{classes, plan_limits, plans},
};

/// What an operator says that a plan allows for a class. No limit at all: unlimited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanLine {
    /// The plan; made if there is none of that name.
    pub plan: String,
    /// The class; made if there is none of that name.
    pub class: String,
    /// How often the limits reset.
    pub window: WindowKind,
    /// The limits.
    pub limits: Limits,
}

impl Store {
    /// Sets what a plan allows for a class, in place of what it allowed before.
    ///
    /// # Errors
    /// [`StoreError::Mistaken`]: the plan or the class would have no valid name.
    pub async fn set_plan_line(&self, line: PlanLine) -> Result<(), StoreError> {
        let set = async move |link: &mut Link| {
            changes::note(link, &Change::Catalog).await?;
            let plan = ensure(link, &line.plan).await?;
            let class = ensure_class(link, &line.class).await?;
            let limits = (
                plan_limits::window_kind.eq(window_code(line.window)),
                plan_limits::requests.eq(line.limits.requests),
                plan_limits::tokens.eq(line.limits.tokens),
                plan_limits::cost_nanodollars.eq(line.limits.cost.map(|cost| cost.0)),
            );
            link.execute(
                diesel::insert_into(plan_limits::table)
                    .values((plan_limits::plan_id.eq(plan.0), plan_limits::class_id.eq(class.id.0), limits))
                    .on_conflict((plan_limits::plan_id, plan_limits::class_id))
                    .do_update()
                    .set(limits),
            )
            .await?;
            Ok(())
        };
        Ok(self.write("plan.set", set).await?)
    }

    /// Takes a class out of a plan, and returns whether the plan allows it all the same, being open. What was used stays
    /// in the books.
    ///
    /// # Errors
    /// [`StoreError::Mistaken`]: there is no such plan or class, or the plan says nothing of it.
    pub async fn remove_plan_line(&self, plan: &str, class: &str) -> Result<bool, StoreError> {
        let (name, class) = (plan.to_owned(), class.to_owned());
        let remove = async move |link: &mut Link| {
            changes::note(link, &Change::Catalog).await?;
            let plan = named(link, &name).await?;
            let id = named_class(link, &class).await?;
            let line = plan_limits::table.find((plan.0, id.0));
            if link.execute(diesel::delete(line)).await? == 0 {
                return Err(Fault::Mistaken(format!("The plan {name} says nothing of `{class}`.")));
            }
            Ok(link.get(plans::table.filter(plans::id.eq(plan.0)).select(plans::open)).await?)
        };
        Ok(self.write("plan.remove", remove).await?)
    }

    /// Sets how fast a plan's users may go on each instance; `None` is as fast as they like.
    ///
    /// # Errors
    /// [`StoreError::Mistaken`]: there is no such plan.
    pub async fn set_plan_rates(
        &self,
        plan: &str,
        requests_per_minute: Option<u32>,
        concurrent_streams: Option<u32>,
    ) -> Result<(), StoreError> {
        let plan = plan.to_owned();
        let set = async move |link: &mut Link| {
            changes::note(link, &Change::Catalog).await?;
            let plan = named(link, &plan).await?;
            let rates = (
                plans::requests_per_minute.eq(requests_per_minute.map(i64::from)),
                plans::concurrent_streams.eq(concurrent_streams.map(i64::from)),
            );
            link.execute(diesel::update(plans::table.filter(plans::id.eq(plan.0))).set(rates)).await?;
            Ok(())
        };
        Ok(self.write("plan.rates", set).await?)
    }
}

/// Finds a plan.
pub(super) async fn find(link: &mut Link, name: &str) -> Result<Option<PlanId>, Fault> {
    let name = name.to_owned();
    Ok(link.find(plans::table.filter(plans::name.eq(name)).select(plans::id)).await?.map(PlanId))
}

/// Returns all plans by their names: there are as few as in a catalog.
pub(super) async fn by_name(link: &mut Link) -> Result<HashMap<String, PlanId>, Fault> {
    let rows: Vec<(String, i32)> = link.load(plans::table.select((plans::name, plans::id))).await?;
    Ok(rows.into_iter().map(|(name, id)| (name, PlanId(id))).collect())
}

/// Finds a plan that somebody named.
pub(super) async fn named(link: &mut Link, name: &str) -> Result<PlanId, Fault> {
    find(link, name).await?.ok_or_else(|| Fault::Mistaken(format!("There is no plan `{name}`.")))
}

/// Finds a plan or makes it.
async fn ensure(link: &mut Link, name: &str) -> Result<PlanId, Fault> {
    if let Some(plan) = find(link, name).await? {
        return Ok(plan);
    }
    check_name(name)?;
    link.execute(diesel::insert_into(plans::table).values(plans::name.eq(name))).await?;
    named(link, name).await
}

/// Finds a class that somebody named.
pub(super) async fn named_class(link: &mut Link, name: &str) -> Result<ClassId, Fault> {
    let id = link.find(classes::table.filter(classes::name.eq(name.to_owned())).select(classes::id)).await?;
    id.map(ClassId).ok_or_else(|| Fault::Mistaken(format!("There is no class `{name}`.")))
}

/// Finds a class or makes it.
pub(super) async fn ensure_class(link: &mut Link, name: &str) -> Result<Class, Fault> {
    let find = || classes::table.filter(classes::name.eq(name.to_owned())).select(classes::id);
    let id = match link.find(find()).await? {
        Some(id) => id,
        None => {
            check_name(name)?;
            link.execute(diesel::insert_into(classes::table).values(classes::name.eq(name))).await?;
            link.get(find()).await?
        }
    };
    Ok(Class { id: ClassId(id), name: name.into() })
}

/// Plans and classes are named like users and models are.
fn check_name(name: &str) -> Result<(), Fault> {
    match name.parse::<actors::domain::ModelId>() {
        Ok(_) => Ok(()),
        Err(error) => Err(Fault::Mistaken(format!("Nothing can be called `{name}`: {error}."))),
    }
}

/// Returns the code of a kind of window, as the tables have it.
pub(super) fn window_code(kind: WindowKind) -> i16 {
    match kind {
        WindowKind::Day => 0,
        WindowKind::Month => 1,
    }
}

/// Returns the kind of window of a code.
pub(super) fn window_kind(code: i16) -> Result<WindowKind, Fault> {
    let kind = WindowKind::ALL.into_iter().find(|kind| window_code(*kind) == code);
    kind.ok_or_else(|| Fault::Refused(format!("{code} is no kind of window")))
}
