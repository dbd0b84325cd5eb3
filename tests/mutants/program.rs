//! The program with a mistake, which the variable `HNE_MUTANT` chooses.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    hasnot_engine::cli::run()
}
