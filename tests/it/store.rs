//! The store: one suite, run against SQLite and against PostgreSQL.

mod admin;
mod books;
mod crowd;
mod faults;
mod leases;
mod schema;
mod upkeep;
mod world;
