//! Plans lose what they allowed.

use serde_json::json;

use super::commands::beside_a_server;
use crate::harness::app::{chat, complete, run};

#[test]
fn a_class_is_taken_out_of_a_plan_and_what_was_used_stays() {
    beside_a_server(|world, service| {
        world.json(&["plan", "set", "gold", "basic", "--requests", "100000"]);
        world.json(&["plan", "set", "gold", "premium", "--requests", "5"]);
        world.json(&["user", "add", "ann", "--plan", "gold"]);
        let issued = world.json(&["token", "issue", "--user", "ann"]);
        let client = service.anonymous().bearer(issued["token"].as_str().unwrap());
        let ask = || run(async { complete(&client, &chat("sim/basic", "hello")).await.status });
        assert_eq!(ask(), 200);
        let removed = world.json(&["plan", "remove", "gold", "basic"]);
        assert_eq!(removed, json!({"plan": "gold", "class": "basic", "removed": true}));
        let started = hne_load::clock::now();
        let mut answered = 1;
        while ask() == 200 {
            answered += 1;
            assert!(started.elapsed().as_secs() < 5, "it is still allowed");
        }
        assert_eq!(ask(), 403);
        let shown = world.json(&["usage", "show", "ann"])["classes"].clone();
        assert_eq!((shown.as_array().unwrap().len(), &shown[0]["class"]), (1, &json!("premium")), "{shown}");
        world.json(&["plan", "set", "gold", "basic", "--requests", "9"]);
        let used = || world.json(&["usage", "show", "ann"])["classes"][0]["requests"]["used"].clone();
        while used() != answered {
            assert!(started.elapsed().as_secs() < 20, "{} of {answered}", used());
        }
        world.json(&["plan", "set", "unlimited", "basic", "--requests", "5"]);
        let text = world.run(&["plan", "remove", "unlimited", "basic"]).stdout;
        assert!(text.contains("without limits"), "an open plan allows what it says nothing of: {text}");
        for (bad, part) in [
            (["plan", "remove", "silver", "basic"], "There is no plan `silver`"),
            (["plan", "remove", "gold", "own"], "There is no class `own`"),
        ] {
            let said = world.refused(&bad, 64);
            assert!(said.contains(part), "{said}");
        }
        world.json(&["plan", "remove", "gold", "premium"]);
        let said = world.refused(&["plan", "remove", "gold", "premium"], 64);
        assert!(said.contains("The plan gold says nothing of `premium`"), "{said}");
    });
}
