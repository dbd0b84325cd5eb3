//! LEAD'S API SKETCH for part 3: the stream actor is being built on exactly these signatures; implement them (docs and
//! internals are yours; add what you need, e.g. proptest/golden tests, keep the names).
//!
//! ```ignore
//! /// A run of whole frames, in the order in which they came. Each `Bytes` is a slice of a chunk, not a copy,
//! /// unless a frame was spread over several chunks. Concatenating all runs gives the provider's bytes up to the last whole frame.
//! pub enum Run {
//!     /// Comments and data frames to forward unchanged: as many as came together, in one slice.
//!     Frames(Bytes),
//!     /// A usage-only chunk (`choices: []` with a usage object).
//!     UsageOnly(Bytes),
//!     /// `data: [DONE]`.
//!     Done(Bytes),
//!     /// A data frame whose object has `error` at its top level (and no choices).
//!     Error(Bytes),
//! }
//! #[derive(Debug, thiserror::Error)] pub struct FrameTooLong;
//! /// What was seen so far.
//! #[derive(Debug, Clone, Copy, Default)] pub struct Seen {
//!     pub data_frames: u64,        // data frames that are no error and not [DONE] (UsageOnly included)
//!     pub content_frames: u64,     // those with a delta that has content (content, reasoning, tool call arguments)
//!     pub content_bytes: u64,      // bytes of that content
//!     pub usage: Option<Usage>,    // the last valid one
//!     pub finished: bool,          // a finish_reason was seen
//!     pub done: bool,              // [DONE] was seen
//! }
//! impl Scanner {
//!     pub fn new(max_frame_bytes: usize, max_tokens: u32 /* usage above this is absurd */) -> Self;
//!     pub fn push(&mut self, chunk: Bytes);                                  // after next() returned None
//!     pub fn next(&mut self) -> Result<Option<Run>, FrameTooLong>;           // None: feed more
//!     pub fn seen(&self) -> &Seen;
//!     pub fn tail_len(&self) -> usize;                                       // bytes of an unfinished frame
//! }
//! // usage.rs
//! pub fn read_usage(json: &[u8], max_tokens: u32) -> Option<Usage>;          // of a `usage` object's bytes
//! /// A whole non-streamed answer: is it one complete JSON object; its usage, bytes of content, top-level `error`, whether it has choices.
//! pub struct Answer { pub usage: Option<Usage>, pub content_bytes: u64, pub is_error: bool, pub has_choices: bool }
//! pub fn read_answer(json: &[u8], max_tokens: u32) -> Option<Answer>;       // None: not one complete JSON object
//! pub fn estimate_prompt(message_bytes: usize, context: Option<u32>) -> i64;
//! pub fn estimate_completion(content_frames: u64, content_bytes: u64) -> i64;
//! ```
