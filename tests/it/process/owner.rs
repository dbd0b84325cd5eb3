//! The service as a user of its own, as the image runs it. Skipped, with a line that says so, unless root runs the tests:
//! nobody else may become somebody else.

use std::{
    fs::Permissions,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::Command,
};

use super::world::{SETPRIV, World};
use crate::harness::app::{Database, chat, complete, run};

/// Debian's `nobody` and `nogroup`.
const NOBODY: u32 = 65_534;

fn may_become_nobody() -> bool {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    let may = is_root && Path::new(SETPRIV).exists();
    if !may {
        println!("skipped: only root can run the service as somebody else, by {SETPRIV}");
    }
    may
}

/// Makes a world that nobody may look into, with a data folder of that owner.
fn world(owner: u32) -> World {
    let world = World::on(Database::Sqlite).unprivileged(NOBODY);
    let folder = world.path("data");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    chown(&folder, Some(owner), Some(owner)).unwrap();
    world
}

#[test]
fn nobody_serves_from_a_folder_of_its_own() {
    if !may_become_nobody() {
        return;
    }
    let world = world(NOBODY);
    let service = world.serve();
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.process.id())).unwrap();
    let uid = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert_eq!(uid.split_whitespace().nth(1), Some("65534"), "{status}");
    let client = service.client(&world, "ann");
    run(async {
        let mut response = complete(&client, &chat("sim/basic", "hello")).await;
        assert_eq!((response.status, response.text().await.unwrap().is_empty()), (200, false));
    });
    assert_eq!(service.stop("TERM").0.code, 0);
    for file in ["data/hasnot-engine.db", "data/jwt-secret"] {
        assert_eq!(world.path(file).metadata().unwrap().uid(), NOBODY, "{file}");
    }
    assert_eq!(world.json(&["ledger", "verify"])["postings"], 1);
}

#[test]
fn a_folder_of_somebody_elses_exits_69() {
    if !may_become_nobody() {
        return;
    }
    let world = world(0);
    let said = world.refused(&["serve"], 69);
    assert!(said.contains("HNE_DATA_DIR") && said.contains("data"), "{said}");
    assert_eq!(std::fs::read_dir(world.path("data")).unwrap().count(), 0, "and nothing is left in it");
}
