//! The service from outside: one test binary.
#![cfg(test)]

mod config;
mod tidy;
