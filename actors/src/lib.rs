//! The engine of hasNotEngine: domain types, ports, actors and their pure logic.
//!
//! | actor | owns | asks | told by | mailbox | scope |
//! | --- | --- | --- | --- | --- | --- |
//! | [`auth`] AuthCache | tokens and users it has seen, flights for others | verifier, shared cache, store | the change feed (pulled) | 1,024 | worker thread |
//! | [`registry`] ModelRegistry | the catalog's snapshot, the change feed | store | nobody | 4,096 | process |

pub mod auth;
pub mod domain;
pub mod ledger;
pub mod metrics;
pub mod outcome;
pub mod ports;
pub mod quota;
pub mod registry;
mod reply;
pub mod stream;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
