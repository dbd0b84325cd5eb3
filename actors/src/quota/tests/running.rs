//! What running requests need beyond what they were granted.

use super::*;

/// A wish under a limit of tokens.
fn under(tokens: i64) -> Wish {
    let Wish { caller, model, line, ask } = wish(1, None);
    let limits = Limits { tokens: Some(tokens), ..Limits::default() };
    Wish { caller, model, line: PlanLimit { limits, ..line }, ask }
}

async fn admitted(world: &World, tokens: i64) -> Reservation {
    world.gate.ask_admit(&plan(), under(tokens)).await.unwrap().1
}

/// Asks for what is lacking, while another instance sees what is recalled.
async fn fill(world: &World, other: &World, lack: Lack) -> bool {
    let mut asking = std::pin::pin!(world.gate.ask_more(lack));
    loop {
        tokio::select! {
            known = &mut asking => break known,
            () = tokio::time::sleep(Duration::from_millis(5)) => obey(other),
        }
    }
}

/// Two instances, of which the first has leased more than it needs. Returns what is granted at the second.
async fn beside_an_idle_lease() -> (Rc<World>, Rc<World>, Reservation) {
    let one = World::start(1_000);
    let two = World::instance(one.store.clone(), 1_000);
    drop(admitted(&one, 1_000).await);
    assert!(one.store.leased(one.accounts.instance, key(1)).tokens > 100);
    let running = admitted(&two, 1_000).await;
    (one, two, running)
}

#[actix_rt::test]
async fn a_stream_waits_for_what_others_hold_unspent() {
    let (one, two, mut running) = beside_an_idle_lease().await;
    assert_eq!(running.cover(950), Cover::Ask);
    assert!(fill(&two, &one, running.lack(950)).await);
    assert_eq!(running.cover(950), Cover::Yes);
    assert!(fill(&two, &one, running.lack(998)).await);
    assert_eq!(running.cover(998), Cover::No, "three are the prompt's");
}

#[actix_rt::test]
async fn so_does_a_fallback() {
    let (one, two, mut running) = beside_an_idle_lease().await;
    let mut dearer = under(1_000);
    dearer.ask.prompt_tokens = 900;
    assert_eq!(running.exchange(&dearer), Some(false));
    assert!(fill(&two, &one, running.lack_of(&dearer.ask)).await);
    assert_eq!(running.exchange(&dearer), Some(true));
}

#[actix_rt::test]
async fn whether_there_is_more_is_unknown_without_an_answer() {
    let (one, two, mut running) = beside_an_idle_lease().await;
    assert_eq!(running.cover(950), Cover::Ask);
    // Nobody returns anything.
    assert!(!two.gate.ask_more(running.lack(950)).await);
    one.store.reads.set_down(true);
    assert!(!two.gate.ask_more(running.lack(950)).await);
    assert_eq!(running.cover(950), Cover::Ask);
}
