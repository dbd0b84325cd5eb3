//! x

pub mod io;
pub mod store;
