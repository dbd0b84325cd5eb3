//! The world around the engine: HTTP, tokens, Redis, the provider client, the databases, configuration, start-up.

pub mod cache;
pub mod token;
