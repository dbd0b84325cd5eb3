//! Types that are parsed once, at the door, and trusted afterwards.
//!
//! Pure: no actix, no clock, no I/O. Money is integer nano-dollars, tokens and requests are integers, time is an
//! argument. Whatever reached one of these types is valid; nothing downstream checks it again.

mod amounts;
mod catalog;
mod code;
mod finished;
mod identity;
mod posting;
mod window;

pub use amounts::{Amounts, Nanodollars, Portion, Price, Usage};
pub use catalog::{Catalog, CatalogRows, Class, Limits, Model, PassThrough, Plan, PlanLimit};
pub use code::ErrorCode;
pub use finished::{Finished, Timings};
pub use identity::{
    Caller, CallerRecord, Claims, ClassId, InvalidId, ModelId, ModelKey, PlanId, Position, RequestId, Role, TokenHash,
    UserId, UserKey,
};
pub use posting::{AccountKey, Outcome, Posting};
pub use window::{Timestamp, Window, WindowKind};
