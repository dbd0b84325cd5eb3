//! The engine of hasNotEngine: domain types, ports, actors and their pure logic.
//!
//! | actor | owns | asks | told by | mailbox | scope |
//! | --- | --- | --- | --- | --- | --- |
//! | [`stats::Stats`] | sliding windows, alerts | vitals | everyone, through a queue of 8,192 | 16 | process, own thread |

pub mod auth;
pub mod domain;
pub mod ledger;
pub mod metrics;
pub mod outcome;
pub mod ports;
pub mod quota;
pub mod stats;
pub mod stream;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
