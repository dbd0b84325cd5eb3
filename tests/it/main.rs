//! The integration tests: one binary, so that all of them share the private servers.

#[cfg(test)]
mod harness;
#[cfg(test)]
mod store;
