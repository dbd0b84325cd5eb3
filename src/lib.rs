//! The service around the engine: configuration.

pub mod config;
