//! The proofs can fail: a binary with a mistake is found out by the comparison of the books.
//!
//! | mistake (`actors::mutants`) | found by |
//! | --- | --- |
//! | `CursorApart` | kills on SQLite |
//! | `SettleAfterDone` | kills on SQLite |
//! | `CursorUnconditional` | a commit whose answer is cut off, on PostgreSQL: kills alone never make a batch be tried again by the process that sent it |
//! | `LeaseBeforeDebit` | the model of journal and lease in the engine; here it would take an exchange at the moment of a return |

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use hne_load::chaos::{ChaosProxy, Cut, Direction, Moment};

use super::{
    Chance,
    books::{Findings, rows},
    crash::{start_under_load, users},
    instance::Instance,
    load::Crowd,
    machine_shared, pass, provider,
};
use crate::harness::{
    app::{DEADLINE, Database},
    servers,
};

/// The most kills, or commits cut off, until a mistake must be found, and how many there are before each comparison.
const FAULTS: usize = 100;
const CHUNK: usize = 10;

/// The binary with mistakes: built once, beside the one under test.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let binary = Path::new(env!("CARGO_BIN_EXE_hasnot-engine"));
    let folder = binary.parent().unwrap();
    let arguments = ["build", "--locked", "--workspace", "--features", "mutants", "--example", "hasnot-engine-mutant"];
    let mut build = Command::new(env!("CARGO"));
    build.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).arg("--target-dir").arg(folder.parent().unwrap());
    assert!(build.status().unwrap().success(), "the binary with mistakes can't be built");
    folder.join("examples/hasnot-engine-mutant")
});

fn mutant(name: &str, mut instance: Instance) -> Instance {
    instance.run_by(PROGRAM.clone());
    instance.set("HNE_MUTANT", name);
    instance.set("HNE__LEDGER__FLUSH_INTERVAL", "10ms");
    instance
}

/// A new world, so many kills, and what the books say then.
fn after_kills(name: &str, chance: &mut Chance) -> Findings {
    let provider = provider();
    let mut instance = mutant(name, Instance::on(Database::Sqlite, &provider));
    let crowd = Crowd::busy(instance.address(), users(&instance));
    for _ in 0..CHUNK {
        start_under_load(&mut instance, &provider);
        pass(chance.millis(20, 250));
        instance.kill();
    }
    let answers = crowd.finish();
    instance.start();
    instance.stop();
    Findings::of(&rows(&instance.database_url()), &provider, &answers)
}

/// A new world, so many commits whose answer is cut off, and what the books say then.
fn after_cuts(name: &str, chance: &mut Chance) -> Findings {
    let provider = provider();
    let direct = servers::postgres().fresh_database();
    let target = SocketAddr::from(([127, 0, 0, 1], servers::postgres().port()));
    let proxy = ChaosProxy::start(target).unwrap();
    let url = direct.replace(&target.to_string(), &proxy.addr().to_string());
    let mut instance = mutant(name, Instance::at(&url, &provider));
    let crowd = Crowd::busy(instance.address(), users(&instance));
    start_under_load(&mut instance, &provider);
    for cut in 1..=CHUNK {
        proxy.cut_when(Direction::Up, "COMMIT", Moment::Answered, Cut::Reset);
        assert!(hne_load::block_on(proxy.wait_for_cuts(cut as u64, DEADLINE)).unwrap(), "no commit passed");
        pass(chance.millis(600, 1_400));
    }
    let answers = crowd.finish();
    instance.stop();
    Findings::of(&rows(&direct), &provider, &answers)
}

/// Goes on until the books show the mistake by that figure: which fault meets it is chance.
fn is_found(name: &str, after: impl Fn(&str, &mut Chance) -> Findings, by: impl Fn(&Findings) -> usize) {
    let _busy = machine_shared();
    let mut chance = Chance::new(name);
    for faults in (CHUNK..=FAULTS).step_by(CHUNK) {
        let findings = after(name, &mut chance);
        if by(&findings) > 0 {
            return println!("mutant {name} caught after {faults} faults: {findings}");
        }
    }
    panic!("mutant {name} was not caught by {FAULTS} faults");
}

#[test]
fn a_cursor_in_a_transaction_of_its_own_is_found() {
    is_found("CursorApart", after_kills, |findings| findings.doubled);
}

#[test]
fn a_settlement_after_the_end_is_found() {
    is_found("SettleAfterDone", after_kills, |findings| findings.lost);
}

#[test]
fn an_unconditional_cursor_is_found() {
    is_found("CursorUnconditional", after_cuts, |findings| findings.doubled);
}
