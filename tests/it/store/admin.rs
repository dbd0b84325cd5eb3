//! Users, keys, plans, models, usage, and the changes that tell of them.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actors::{
    domain::{Limits, ModelId, ModelKey, Nanodollars, Position, Price, Role, Timestamp, TokenHash, UserId, WindowKind},
    ports::{CatalogSource, Change, Directory, LedgerStore, StoreError},
};
use futures_util::future::{join, join_all};
use hasnot_engine::store::{ModelSpec, NewKey, NewUser, Origin, PlanLine, Store};
use uuid::Uuid;

use super::world::{World, amounts, batch, on_both, posting};

on_both!(
    twenty_provision_one_user,
    users_are_added_replaced_and_disabled,
    users_are_listed_by_pages,
    keys_are_found_touched_and_revoked,
    many_touch_the_same_keys,
    tokens_are_revoked_until_their_end,
    the_catalog_comes_back_as_it_was_set,
    configured_models_leave_the_others_alone,
    usage_is_what_the_plan_allows,
    no_change_is_missed,
    recent_changes_say_where_to_go_on,
    old_changes_are_pruned,
    every_call_is_observed,
);

fn user(id: &str) -> UserId {
    id.parse().unwrap()
}

fn model(id: &str) -> ModelId {
    id.parse().unwrap()
}

fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Mistaken(why)) => why,
        other => panic!("{other:?}"),
    }
}

async fn twenty_provision_one_user(world: &World) {
    let store = world.store().await;
    let ann = user("auth0|ann");
    let added = join_all((0..20).map(|_| store.provision(&ann, Some("unlimited")))).await;
    let first = added[0].clone().unwrap();
    assert_eq!((&first.id, first.role, first.disabled), (&ann, Role::User, false));
    assert!(added.into_iter().all(|caller| caller.unwrap() == first));
    let changes = store.changes(0).await.unwrap();
    assert_eq!(changes.items, [(first.as_of, Change::User(ann.clone()))]);
    assert_eq!(first.as_of, Position { seq: first.version, at: changes.mark });
    // The plan of a token counts only once, and one that there isn't is the default.
    assert_eq!(store.provision(&ann, None).await.unwrap(), first);
    let other = store.provision(&user("bob"), Some("no such plan")).await.unwrap();
    assert_ne!(other.plan, first.plan);
    assert_eq!(store.provision(&user("cy"), None).await.unwrap().plan, other.plan);
}

async fn users_are_added_replaced_and_disabled(world: &World) {
    let store = world.store().await;
    let ann = user("ann");
    assert_eq!(store.caller(&ann).await.unwrap(), None);
    let new = |plan: Option<&str>, role| NewUser { id: user("ann"), plan: plan.map(str::to_owned), role };
    let added = store.set_user(new(None, Role::User)).await.unwrap();
    let replaced = store.set_user(new(Some("unlimited"), Role::Admin)).await.unwrap();
    assert_eq!((replaced.key, replaced.role), (added.key, Role::Admin));
    assert!(replaced.version > added.version && replaced.plan != added.plan);
    assert!(store.set_disabled(&ann, true).await.unwrap());
    let disabled = store.caller(&ann).await.unwrap().unwrap();
    assert!(disabled.disabled && disabled.version > replaced.version);
    assert!(store.set_disabled(&ann, false).await.unwrap());
    assert!(!store.caller(&ann).await.unwrap().unwrap().disabled);
    assert!(!store.set_disabled(&user("nobody"), true).await.unwrap());
    assert!(refused(store.set_user(new(Some("gold"), Role::User)).await).contains("`gold`"));
}

async fn users_are_listed_by_pages(world: &World) {
    let store = world.store().await;
    for id in ["b", "d", "a", "c"] {
        store.provision(&user(id), None).await.unwrap();
    }
    let first = store.users(None, 3).await.unwrap();
    assert_eq!(first.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    let rest = store.users(Some(&first[2].id), 3).await.unwrap();
    assert_eq!(rest.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), ["d"]);
    assert_eq!((rest[0].plan.as_str(), rest[0].role, rest[0].disabled), ("default", Role::User, false));
    let now = store.now().await.unwrap();
    assert!(rest[0].created_at <= now && now.since(rest[0].created_at) < Duration::from_secs(60));
}

async fn keys_are_found_touched_and_revoked(world: &World) {
    let store = world.store().await;
    let (ann, hash) = (user("ann"), TokenHash::of("hne_secret"));
    let new = NewKey { user: ann.clone(), hash, expires_at: Some(Timestamp(7)) };
    assert!(refused(store.create_key(new.clone()).await).contains("no user ann"));
    store.provision(&ann, None).await.unwrap();
    assert_eq!(store.key(&hash).await.unwrap(), None);
    let id = store.create_key(new).await.unwrap();
    assert!(id.starts_with("key_"));
    let found = store.key(&hash).await.unwrap().unwrap();
    assert_eq!((found.user, found.expires_at, found.revoked), (ann.clone(), Some(Timestamp(7)), false));
    let unknown = TokenHash::of("else");
    store.touch_keys(&[(hash, Timestamp(5)), (unknown, Timestamp(6)), (hash, Timestamp(9))]).await.unwrap();
    store.touch_keys(&[(hash, Timestamp(8))]).await.unwrap();
    store.touch_keys(&[]).await.unwrap();
    let listed = store.keys(&ann).await.unwrap();
    assert_eq!((listed.len(), &listed[0].id, listed[0].last_used_at), (1, &id, Some(Timestamp(9))));
    assert!(store.revoke_key(&id).await.unwrap());
    assert!(!store.revoke_key(&id).await.unwrap());
    assert!(!store.revoke_key("key_none").await.unwrap());
    assert!(store.key(&hash).await.unwrap().unwrap().revoked);
    assert!(store.keys(&ann).await.unwrap()[0].revoked_at.is_some());
    let told: Vec<_> = store.changes(0).await.unwrap().items.into_iter().map(|(_, change)| change).collect();
    assert_eq!(told, [Change::User(ann), Change::Key(hash), Change::Key(hash)]);
}

async fn many_touch_the_same_keys(world: &World) {
    let store = world.store().await;
    store.provision(&user("ann"), None).await.unwrap();
    let hashes: Vec<_> = (0..30).map(|i| TokenHash::of(&format!("key {i}"))).collect();
    for hash in &hashes {
        store.create_key(NewKey { user: user("ann"), hash: *hash, expires_at: None }).await.unwrap();
    }
    let touch = async |n: usize| {
        for round in 0..10 {
            let mut used: Vec<_> = hashes.iter().map(|hash| (*hash, Timestamp(100 + round))).collect();
            used.rotate_left(n * 7 % 30);
            store.touch_keys(&used).await.unwrap();
        }
    };
    join_all((0..8).map(touch)).await;
    assert!(store.keys(&user("ann")).await.unwrap().iter().all(|key| key.last_used_at >= Some(Timestamp(100))));
}

async fn tokens_are_revoked_until_their_end(world: &World) {
    let store = world.store().await;
    let now = store.now().await.unwrap();
    let (over, live) = (TokenHash::of("over"), TokenHash::of("live"));
    let (past, later) = (Timestamp(now.0 - 1), now.plus(Duration::from_secs(3600)));
    store.revoke_token(over, past).await.unwrap();
    store.revoke_token(live, later).await.unwrap();
    store.revoke_token(live, later).await.unwrap();
    assert_eq!(store.revoked_tokens().await.unwrap(), [(live, later)]);
    let told: Vec<_> = store.changes(0).await.unwrap().items.into_iter().map(|(_, change)| change).collect();
    assert_eq!(told, [Change::Token(over, past), Change::Token(live, later), Change::Token(live, later)]);
}

fn spec(id: &str, class: &str) -> ModelSpec {
    ModelSpec {
        id: model(id),
        class: class.into(),
        provider: "openrouter".into(),
        upstream_model: "vendor/thing".into(),
        price: Price { input: Nanodollars(150_000_000), output: Nanodollars(600_000_000) },
        context: Some(128_000),
        max_output: None,
        fallbacks: vec![model("b"), model("a/c")],
    }
}

async fn the_catalog_comes_back_as_it_was_set(world: &World) {
    let store = world.store().await;
    let seeded = store.catalog().await.unwrap();
    assert_eq!(seeded.classes.iter().map(|class| &*class.name).collect::<Vec<_>>(), ["basic", "premium"]);
    let default = seeded.plans.iter().find(|plan| &*plan.name == "default").unwrap();
    assert_eq!(default.lines.len(), 1);
    assert_eq!(default.lines[0].limits, Limits { requests: Some(1000), tokens: None, cost: None });
    assert!(seeded.plans.iter().any(|plan| &*plan.name == "unlimited" && plan.open));

    let limits = Limits { requests: None, tokens: Some(5), cost: Some(Nanodollars(6)) };
    let line = |window, limits| PlanLine { plan: "gold".into(), class: "vision".into(), window, limits };
    store.set_plan_line(line(WindowKind::Day, Limits::default())).await.unwrap();
    store.set_plan_line(line(WindowKind::Month, limits)).await.unwrap();
    store.set_plan_rates("gold", Some(60), Some(4)).await.unwrap();
    store.set_model(ModelSpec { class: "x".into(), ..spec("a/b", "x") }).await.unwrap();
    store.set_model(spec("a/b", "vision")).await.unwrap();
    let rows = store.catalog().await.unwrap();
    let gold = rows.plans.iter().find(|plan| &*plan.name == "gold").unwrap();
    assert_eq!((gold.open, gold.requests_per_minute, gold.concurrent_streams), (false, Some(60), Some(4)));
    assert_eq!((gold.lines.len(), gold.lines[0].window, gold.lines[0].limits), (1, WindowKind::Month, limits));
    let [ref only] = rows.models[..] else { panic!() };
    let stated = spec("a/b", "vision");
    assert_eq!((&only.id, &*only.class.name, &*only.provider), (&stated.id, "vision", "openrouter"));
    assert_eq!((only.price, only.context, only.max_output), (stated.price, stated.context, None));
    assert_eq!(only.fallbacks, stated.fallbacks);
    assert_eq!(only.class.id, gold.lines[0].class);
    assert_ne!(only.key, ModelKey::PASSED_THROUGH);
    assert!(refused(store.set_plan_rates("silver", None, None).await).contains("no plan `silver`"));
    let unnamed = PlanLine { plan: "no spaces".into(), ..line(WindowKind::Day, limits) };
    assert!(refused(store.set_plan_line(unnamed).await).contains("128 characters"));
    assert!(store.changes(0).await.unwrap().items.iter().all(|(_, change)| *change == Change::Catalog));
}

async fn configured_models_leave_the_others_alone(world: &World) {
    let store = world.store().await;
    let names = async |store: &Store| {
        let models = store.models().await.unwrap();
        models.into_iter().map(|(model, origin)| (model.id.as_str().to_owned(), origin)).collect::<Vec<_>>()
    };
    let (table, config) = (Origin::Table, Origin::Config);
    store.set_model(spec("mine", "basic")).await.unwrap();
    let configured = || vec![spec("one", "basic"), spec("two", "premium"), spec("mine", "premium")];
    store.sync_configured_models(configured()).await.unwrap();
    assert_eq!(names(&store).await, [("mine".into(), table), ("one".into(), config), ("two".into(), config)]);
    assert_eq!(&*store.models().await.unwrap()[0].0.class.name, "basic");
    let ids = store.models().await.unwrap();
    let before = store.changes(0).await.unwrap().last;
    store.sync_configured_models(configured()).await.unwrap();
    assert_eq!(store.changes(0).await.unwrap().last, before, "nothing differs, nobody is told");

    store.sync_configured_models(vec![spec("two", "basic")]).await.unwrap();
    assert_eq!(names(&store).await, [("mine".into(), table), ("two".into(), config)]);
    assert!(store.remove_model(&model("mine")).await.unwrap());
    assert!(!store.remove_model(&model("mine")).await.unwrap());
    // A model that comes back is the one that the postings name.
    store.sync_configured_models(configured()).await.unwrap();
    assert_eq!(names(&store).await, [("mine".into(), config), ("one".into(), config), ("two".into(), config)]);
    let keys = |models: &[(actors::domain::Model, Origin)]| models.iter().map(|(m, _)| m.key).collect::<HashSet<_>>();
    assert_eq!(keys(&ids), keys(&store.models().await.unwrap()));
}

async fn usage_is_what_the_plan_allows(world: &World) {
    let store = world.store().await;
    assert_eq!(store.usage(&user("ann")).await.unwrap(), None);
    let ann = store.provision(&user("ann"), None).await.unwrap();
    let now = store.now().await.unwrap();
    let used = vec![
        posting(ann.key.0, 1, now, amounts(1, 10, 20, 300)),
        posting(ann.key.0, 2, now, amounts(1, 1, 1, 1)),
        posting(ann.key.0, 1, Timestamp(0), amounts(9, 9, 9, 9)),
    ];
    store.apply(Arc::new(batch(Uuid::new_v4(), 0, used))).await.unwrap();
    let usage = store.usage(&user("ann")).await.unwrap().unwrap();
    assert_eq!((&*usage.plan, usage.classes.len()), ("default", 1));
    assert_eq!((&*usage.classes[0].class, usage.classes[0].used), ("basic", amounts(1, 10, 20, 300)));
    assert_eq!(usage.classes[0].limits.requests, Some(1000));
    assert_eq!(usage.classes[0].window, WindowKind::Day.at(now));
    store.set_user(NewUser { id: ann.id, plan: Some("unlimited".into()), role: Role::User }).await.unwrap();
    let usage = store.usage(&user("ann")).await.unwrap().unwrap();
    let classes: Vec<_> = usage.classes.iter().map(|class| (&*class.class, class.used.requests)).collect();
    assert_eq!(classes, [("basic", 1), ("premium", 1)]);
}

async fn no_change_is_missed(world: &World) {
    const WRITERS: usize = 8;
    const EACH: usize = 12;
    let (store, reader) = (world.store().await, world.connect().await.unwrap());
    let writing = AtomicUsize::new(WRITERS);
    let write = async |writer: usize| {
        for n in 0..EACH {
            store.provision(&user(&format!("user-{writer}-{n}")), None).await.unwrap();
        }
        writing.fetch_sub(1, Ordering::Relaxed);
    };
    let poll = async {
        let mut seen = Vec::new();
        let mut after = 0;
        loop {
            let last_poll = writing.load(Ordering::Relaxed) == 0;
            let changes = reader.changes(after).await.unwrap();
            assert!(changes.items.iter().all(|(known, _)| (after + 1..=changes.last).contains(&known.seq)));
            after = changes.last;
            seen.extend(changes.items);
            if last_poll {
                return seen;
            }
        }
    };
    let (_, seen) = join(join_all((0..WRITERS).map(write)), poll).await;
    assert!(seen.is_sorted_by(|a, b| a.0.seq < b.0.seq), "in order, none twice");
    let users: HashSet<_> = seen.iter().map(|(_, change)| format!("{change:?}")).collect();
    assert_eq!((seen.len(), users.len()), (WRITERS * EACH, WRITERS * EACH));
}

async fn recent_changes_say_where_to_go_on(world: &World) {
    let store = world.store().await;
    assert_eq!(store.recent_changes().await.unwrap(), Default::default());
    for id in ["a", "b", "c"] {
        store.provision(&user(id), None).await.unwrap();
    }
    let recent = store.recent_changes().await.unwrap();
    assert_eq!((recent.last, &recent.items), (3, &store.changes(0).await.unwrap().items));
    // More than one poll returns: the youngest count, up to the last one.
    world.execute(
        "INSERT INTO changes (seq, kind, subject, at)
         WITH RECURSIVE numbers (seq) AS (SELECT 4 UNION ALL SELECT seq + 1 FROM numbers WHERE seq < 10002)
         SELECT numbers.seq, 3, '', changes.at FROM numbers, changes WHERE changes.seq = 3",
    );
    world.execute("UPDATE change_counter SET seq = 10002");
    let recent = store.recent_changes().await.unwrap();
    let first = Position { seq: 3, at: recent.mark };
    assert_eq!((recent.last, recent.items.len()), (10_002, 10_000));
    assert_eq!(recent.items[0], (first, Change::User(user("c"))));
    assert!(recent.items.is_sorted_by(|a, b| a.0.seq < b.0.seq));
    assert_eq!(store.changes(10_002).await.unwrap().asked, recent.mark);
}

async fn old_changes_are_pruned(world: &World) {
    let store = world.store().await;
    for id in ["a", "b", "c"] {
        store.provision(&user(id), None).await.unwrap();
    }
    world.execute("UPDATE changes SET at = at - 90000000000 WHERE seq <= 2");
    store.provision(&user("d"), None).await.unwrap();
    let left: Vec<i64> = store.changes(0).await.unwrap().items.into_iter().map(|(known, _)| known.seq).collect();
    assert_eq!(left, [3, 4]);
}

async fn every_call_is_observed(world: &World) {
    let store = world.store().await;
    let calls = Arc::new(Mutex::new(Vec::new()));
    let log = calls.clone();
    store.observe(Box::new(move |op, took, ok| log.lock().unwrap().push((op, took < Duration::from_secs(9), ok))));
    store.caller(&user("a")).await.unwrap();
    store.revoke_key("key_none").await.unwrap();
    world.execute("DROP TABLE revoked_tokens");
    store.revoked_tokens().await.unwrap_err();
    let calls = calls.lock().unwrap().clone();
    assert_eq!(calls, [("user.find", true, true), ("key.revoke", true, true), ("token.revoked", true, false)]);
    let pool = store.pool_state();
    assert!((1..=pool.max).contains(&pool.connections) && pool.idle <= pool.connections, "{pool:?}");
}
