//! What an actor for each request costs: started with a future of its own that waits, as `UpstreamStream` is, told that its
//! reader has left, and gone.
//!
//! `cargo bench -p hasnot-actors --features testing --bench actor`
#![expect(clippy::unwrap_used, reason = "a measurement of what failed is none")]
#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, WrapFuture};
use actix_rt::System;
use criterion::{Criterion, criterion_group, criterion_main};
use tokio::sync::oneshot;

struct OneRequest(Option<oneshot::Sender<()>>);

impl Actor for OneRequest {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.spawn(std::future::pending().into_actor(self));
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.0.take().unwrap().send(()).unwrap();
    }
}

struct Left;

impl Message for Left {
    type Result = ();
}

impl Handler<Left> for OneRequest {
    type Result = ();

    fn handle(&mut self, _: Left, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

async fn lives() {
    let (gone, until_gone) = oneshot::channel();
    let actor = OneRequest(Some(gone)).start();
    actor.try_send(Left).unwrap();
    until_gone.await.unwrap();
}

/// The same without an actor: a task that waits for a message.
async fn task() {
    let (gone, until_gone) = oneshot::channel();
    let (left, until_left) = oneshot::channel::<()>();
    actix_rt::spawn(async move {
        until_left.await.unwrap();
        gone.send(()).unwrap();
    });
    left.send(()).unwrap();
    until_gone.await.unwrap();
}

async fn timed<F: Future<Output = ()> + 'static>(times: u64, work: fn() -> F) -> Duration {
    let begun = Instant::now();
    for _ in 0..times {
        work().await;
    }
    begun.elapsed()
}

fn actor(criterion: &mut Criterion) {
    let system = System::new();
    let mut group = criterion.benchmark_group("one request's");
    group.bench_function("actor: started, told, gone", |bench| {
        bench.iter_custom(|times| system.block_on(async move { actix_rt::spawn(timed(times, lives)).await.unwrap() }));
    });
    group.bench_function("task: started, told, gone", |bench| {
        bench.iter_custom(|times| system.block_on(async move { actix_rt::spawn(timed(times, task)).await.unwrap() }));
    });
    group.finish();
}

criterion_group!(benches, actor);
criterion_main!(benches);
