//! Measuring: the same work against several targets, in rounds of random order, each answer checked.
//!
//! | module | does |
//! | --- | --- |
//! | [`target`] | what is measured: an address, its processes, whose tokens it takes |
//! | [`scenario`] | what is done to each target, by its letter |
//! | [`job`] | one request and its answer, with every frame checked |
//! | [`check`] | whether a stream is complete and in order (pure) |
//! | [`figures`] | percentiles and medians (pure) |
//! | [`process`] | CPU time, memory and descriptors of other processes, from `/proc` |
//! | [`closed`] | so many connections, each with one request after the other |
//! | [`alone`] | streams whose frames come alone: CPU time and delay of a frame |
//! | [`many`] | thousands of slow streams, begun on a schedule |
//! | [`crowd`] | a thousand unknown users at once |
//! | [`overload`] | five times as much as is admitted |
//! | [`growth`] | more and more connections, users, models |
//! | [`soak`] | the same for a long time, and whether anything grew |
//! | [`starting`] | how long a process takes to be ready, and to end |
//! | [`wrk`] | wrk's part |
//! | [`leaving`] | clients that connect and vanish, and what must not be left of them |
//! | [`record`] | what one measurement says; one line of JSON |
//! | [`report`], [`plot`] | medians and ratios as JSON, Markdown and SVG (pure) |
//! | [`instructions`] | what callgrind counted, beside what was recorded (pure) |
//! | [`token`] | the callers' tokens |
//! | [`progress`] | a line on standard error for long runs |
//!
//! The load runs on one thread: a client that takes more of two cores than it needs would measure itself. Where a rate is
//! given, requests leave on a schedule and are timed from the moment at which they were due, so that a slow answer delays
//! nobody else's clock (no coordinated omission).

pub mod alone;
pub mod check;
pub mod closed;
pub mod crowd;
pub mod figures;
pub mod growth;
pub mod instructions;
pub mod job;
pub mod leaving;
pub mod many;
pub mod overload;
pub mod plot;
pub mod process;
pub mod progress;
pub mod record;
pub mod report;
pub mod scenario;
pub mod soak;
pub mod starting;
pub mod target;
pub mod token;
pub mod wrk;
