//! `/v1/models` and `/api/usage`: what a caller may use, and has used.

use serde_json::{Value, json};

use super::{holding, post, settle, valid};
use crate::harness::app::{TestApp, run};

#[test]
fn models_are_listed_as_openai_does_and_by_plan() {
    let app = TestApp::start();
    let add = |id: &str, class: &str, more: &[&str]| {
        app.cli(&[&["model", "add", id, "--class", class, "--provider", "openrouter"][..], more].concat());
    };
    add("vendor/family/model:free", "basic", &["--context", "8192", "--max-output", "1024"]);
    add("a-model", "basic", &[]);
    add("dear", "premium", &[]);
    app.user("ann", "default");
    app.user("rich", "unlimited");
    settle(&app);
    let ids = |body: &Value| -> Vec<String> {
        body["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
    };
    run(async {
        let (ann, rich) = (app.anonymous().bearer(&holding("ann")), app.anonymous().bearer(&holding("rich")));
        assert_eq!(ann.get("/v1/models/a-model").await.unwrap().status, 200);
        for path in ["/v1/models/vendor/family/model:free", "/v1/models/vendor%2Ffamily%2Fmodel%3Afree"] {
            let mut response = ann.get(path).await.unwrap();
            let model = response.json().await.unwrap();
            assert_eq!(response.status, 200, "{path}: {model}");
            let expected = json!({
                "id": "vendor/family/model:free", "object": "model", "created": 0, "owned_by": "openrouter",
                "class": "basic", "context_length": 8192, "max_output_tokens": 1024,
            });
            assert_eq!(model, expected);
        }
        let mut response = ann.get("/v1/models").await.unwrap();
        let list = response.json().await.unwrap();
        assert_eq!(list["object"], "list");
        assert_eq!(ids(&list), ["a-model", "settled", "vendor/family/model:free"]);
        let list = rich.get("/v1/models").await.unwrap().json().await.unwrap();
        assert_eq!(ids(&list), ["a-model", "dear", "settled", "vendor/family/model:free"]);
        let dear = rich.get("/v1/models/dear").await.unwrap().json().await.unwrap();
        assert_eq!((&dear["class"], &dear["context_length"]), (&json!("premium"), &Value::Null));
    });
}

#[test]
fn usage_is_told_by_class_and_from_the_numbers_that_enforcement_uses() {
    let app = TestApp::start();
    app.cli(&["plan", "set", "both", "basic", "--requests", "10", "--tokens", "1000000"]);
    app.cli(&["plan", "set", "both", "premium", "--window", "month", "--cost-usd", "2.5"]);
    app.user("ann", "both");
    settle(&app);
    let client = app.anonymous().bearer(&holding("ann"));
    run(async {
        assert_eq!(client.send(&post(&valid())).await.unwrap().status, 200);
        let mut response = client.get("/api/usage").await.unwrap();
        assert_eq!(response.header("cache-control"), Some("no-store"));
        let usage = response.json().await.unwrap();
        assert_eq!((&usage["user"], &usage["plan"]), (&json!("ann"), &json!("both")));
        let class = |name: &str| {
            let classes = usage["classes"].as_array().unwrap();
            classes.iter().find(|class| class["class"] == name).unwrap().clone()
        };
        let (basic, premium) = (class("basic"), class("premium"));
        assert_eq!((&basic["window"], &premium["window"]), (&json!("day"), &json!("month")));
        assert!(basic["resets_at"].as_str().unwrap().ends_with("T00:00:00Z"), "{basic}");
        for (dimension, limit) in [("requests", 10), ("tokens", 1_000_000)] {
            let figure = &basic[dimension];
            let number = |key: &str| figure[key].as_i64().unwrap();
            assert_eq!(number("limit"), limit);
            assert_eq!(number("remaining"), limit - number("used") - number("reserved"), "{basic}");
            assert!(number("used") + number("reserved") > 0, "{basic}");
        }
        let tokens = &basic["tokens"];
        let sum = tokens["prompt_tokens"].as_i64().unwrap() + tokens["completion_tokens"].as_i64().unwrap();
        assert_eq!(tokens["used"], sum);
        assert_eq!(basic["cost_nanodollars"]["limit"], Value::Null);
        assert_eq!(basic["cost_nanodollars"]["remaining"], Value::Null);
        assert_eq!(premium["cost_nanodollars"]["limit"], 2_500_000_000_i64);
        assert_eq!(premium["requests"]["used"], 0);
    });
    app.wait_for_postings(1);
    // The caller is told what this instance lends out of; operators see all that is leased as reserved.
    let mut told: Value = run(async { client.get("/api/usage").await.unwrap().json().await.unwrap() });
    let mut shown = app.cli(&["usage", "show", "ann"]);
    for class in [&mut told, &mut shown].into_iter().flat_map(|usage| usage["classes"].as_array_mut().unwrap()) {
        for dimension in ["requests", "tokens", "cost_nanodollars"] {
            let figure = class[dimension].as_object_mut().unwrap();
            let [reserved, remaining] = ["reserved", "remaining"].map(|key| figure.remove(key).unwrap());
            figure.insert("left".into(), remaining.as_i64().map(|left| left + reserved.as_i64().unwrap()).into());
        }
    }
    assert_eq!(told, shown);
}
