//! The scanner as its users see it: streams in the forms that providers send, and what they cost.
#![cfg(test)]

mod allocations;
mod golden;
