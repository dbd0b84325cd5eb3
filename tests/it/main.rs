//! The service from outside: one test binary, so that all tests share the private servers.
#![cfg(test)]

mod cache;
mod chat;
mod config;
mod doors;
mod harness;
mod process;
mod proofs;
mod store;
mod streams;
mod tidy;
mod token;
