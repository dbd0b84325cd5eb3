//! What tests stand on: a world of its own for each test.

pub(crate) mod app;
pub(crate) mod disk;
pub(crate) mod servers;
pub(crate) mod tls;
