//! The integration tests: one binary.

#[cfg(test)]
mod cache;
#[cfg(test)]
mod token;
