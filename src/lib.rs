//! The world around the engine: HTTP, tokens, Redis, providers, databases, configuration, start-up.

pub mod boot;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod http;
pub mod io;
pub mod store;
pub mod telemetry;
pub mod token;
pub mod upstream;
mod values;
pub mod vitals;
pub mod worker;
