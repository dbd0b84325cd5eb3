//! The journal and the ledger, over books in memory.

mod damage;
mod histories;
mod refusals;
mod speed;
mod threads;
mod upkeep;
mod world;
