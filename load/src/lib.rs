//! What hasNotEngine is tested and loaded with: the far ends of every wire, made to misbehave on demand.
//!
//! | module | stands for | runs |
//! | --- | --- | --- |
//! | [`mock`] | a provider: OpenAI-compatible, with faults at byte level and books of its own | on threads of its own; bin `mock-provider` |
//! | [`client`] | a caller: raw HTTP/1.1 and server-sent events, frame by frame | on the caller's runtime |
//! | [`chaos`] | the network: a TCP proxy in front of a provider, PostgreSQL or Redis | on a thread of its own |
//! | [`measure`] | a crowd of callers: the load of `load/run`, each answer checked | on the caller's runtime; bin `hne-load` |
//!
//! Each part binds port 0, shares nothing with another one and stops when it is dropped, so that tests run in parallel.
//! Nothing here needs a sleep: what has to happen is awaited ([`mock::MockProvider::wait_for`],
//! [`chaos::ChaosProxy::wait_for_cuts`]), and streams can be held at a frame until the test lets them go
//! (`hold-after-N`, [`mock::MockProvider::release`]).

mod body;
pub mod chaos;
pub mod client;
pub mod clock;
mod host;
pub mod measure;
pub mod mock;

use std::{future::Future, io};

/// Runs one future to its end on a runtime of its own: for programs and for tests without a runtime.
///
/// # Errors
/// When the operating system refuses an event queue.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(future))
}
