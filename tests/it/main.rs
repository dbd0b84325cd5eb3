//! The integration tests: one binary, so that all of them share the private servers.

mod harness;
mod store;
