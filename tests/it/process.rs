//! What is promised of the process: the real binary, with an empty environment, seen from outside.

mod commands;
mod doctor;
mod drain;
mod exits;
mod folder;
mod ledger;
mod nginx;
mod owner;
mod plans;
mod pooler;
mod providers;
mod reading;
mod ready;
mod replica;
mod rights;
mod start;
mod stuck;
mod tls;
pub(crate) mod world;
mod writes;
