//! The world around the engine: HTTP, tokens, Redis, providers, databases, configuration, start-up.

pub mod config;
pub mod io;
pub mod store;
