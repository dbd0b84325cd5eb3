//! Who may look into the data folder: nobody else on the machine.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::world::World;
use crate::harness::app::{Database, chat, complete, run};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Returns all that is in a folder and below.
fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { [below(&path), vec![path]].concat() } else { vec![path] }).collect()
}

/// Serves a request, and looks at what was made meanwhile.
fn is_closed_to_others(world: &World) {
    let service = world.serve();
    let client = service.client(world, "ann");
    assert_eq!(run(async { complete(&client, &chat("sim/basic", "hello")).await.status }), 200);
    let made = below(&world.path("data"));
    for name in ["instance", "jwt-secret", "hasnot-engine.db", "hasnot-engine.db-wal", "hasnot-engine.db.lock"] {
        assert!(made.contains(&world.path("data").join(name)), "{name}: {made:?}");
    }
    assert!(made.iter().any(|path| path.is_dir()), "journals: {made:?}");
    for path in made {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(&path), expected, "{}: {:o}", path.display(), mode(&path));
    }
    assert_eq!(service.stop("TERM").0.code, 0);
}

#[test]
fn a_fresh_folder_is_closed_to_others() {
    let world = World::on(Database::Sqlite);
    is_closed_to_others(&world);
    assert_eq!(mode(&world.path("data")), 0o700);
    let world = World::on(Database::Sqlite);
    world.json(&["user", "add", "ann"]);
    assert_eq!(mode(&world.path("data")), 0o700, "whoever is the first to make it");
}

#[test]
fn a_folder_that_is_there_keeps_its_mode_and_what_is_made_in_it_is_closed() {
    let world = World::on(Database::Sqlite);
    fs::create_dir(world.path("data")).unwrap();
    fs::set_permissions(world.path("data"), Permissions::from_mode(0o755)).unwrap();
    is_closed_to_others(&world);
    assert_eq!(mode(&world.path("data")), 0o755);
}

#[test]
fn whoever_waits_for_the_database_s_lock_is_told_so() {
    let world = World::on(Database::Sqlite);
    world.json(&["user", "add", "ann"]);
    let held = File::open(world.path("data")).unwrap();
    held.lock().unwrap();
    let said = world.refused(&["user", "list"], 69);
    assert!(said.contains("another process holds the lock") && said.contains("data"), "{said}");
    drop(held);
    world.json(&["user", "list"]);
}
