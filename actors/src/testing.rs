//! Fakes of the ports, for tests: in memory, scripted, counted. Behind the feature `testing`.
//!
//! Each does what its port promises and nothing more. [`Faults`] makes one slow, unreachable or defective.

mod cache;
mod clock;
mod faults;
mod ledger;
mod store;
mod verifier;

pub use cache::FakeCache;
pub use clock::{ManualClock, VirtualClock};
pub use faults::Faults;
pub use ledger::{Backup, FakeLedger};
pub use store::{FakeCatalog, FakeDirectory, caller};
pub use verifier::FakeVerifier;
