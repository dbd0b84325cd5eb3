//! The program: allocator, command line, exit code.

use std::process::ExitCode;

/// Chosen for memory (`load/results/profile.md`): a minute after 9,500 streams 33 MiB are left, with glibc 210; at the peak
/// mimalloc takes half as much again. In CPU time they are alike.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    hasnot_engine::cli::run()
}
