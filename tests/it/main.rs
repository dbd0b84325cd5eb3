//! The service from outside: one test binary, so that all tests share the private servers.
#![cfg(test)]

mod cache;
mod chat;
mod config;
mod harness;
mod process;
mod store;
mod tidy;
mod token;
