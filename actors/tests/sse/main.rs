//! The scanner as its users see it: what streams cost.
#![cfg(test)]

mod allocations;
