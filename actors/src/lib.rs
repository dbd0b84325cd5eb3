//! The engine of hasNotEngine: domain types, ports, actors and their pure logic.
//!
//! | actor | owns | asks | told by | mailbox | scope |
//! | --- | --- | --- | --- | --- | --- |
//! | [`auth`] AuthCache | tokens and users it has seen, flights for others | verifier, shared cache, store | the change feed (pulled), the shutdown | 1,024 | worker thread |
//! | [`registry`] ModelRegistry | the catalog's snapshot, the change feed | store | nobody | 4,096 | process |
//! | [`quota`] QuotaGate | nothing of its own: the accounts are shared | accounts, store for leases | nobody | 1,024 | worker thread |
//! | [`stream`] UpstreamStream | one request's provider, deadlines, exit | upstream, QuotaGate for fallbacks | its relay | 16 | request |
//! | [`ledger`] UsageLedger | the journals' readers, the batch on its way to the store | store | a full batch, recalls of leases, start and shutdown | 16 | process |
//! | [`repeats`] Broadcast | one answer with an idempotency key, for all its readers | nobody | its readers | 16 | such a request |
//! | [`stats`] Stats | windows and alerts of the report | gauges | every finished request | queue of its own | process |

pub mod auth;
mod complaints;
pub mod domain;
pub mod ledger;
mod lock;
pub mod metrics;
pub mod mutants;
pub mod outcome;
pub mod ports;
pub mod private;
pub mod quota;
pub mod registry;
pub mod repeats;
mod reply;
pub mod stats;
pub mod stream;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
