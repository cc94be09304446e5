//! The Sluice data plane: a Gateway API implementation that splits traffic exactly.
//!
//! Objects become an immutable table ([`table`], pure), requests are matched ([`matcher`]) and drawn
//! ([`pick`]) against it, and the rest moves bytes. What a request sees is one table from start to
//! end: a change of weight is one pointer swap.

pub mod admin;
pub mod args;
pub mod budget;
pub mod drain;
pub mod evidence;
pub mod forwarded;
pub mod lead;
pub mod matcher;
pub mod metrics;
pub mod mirror;
pub mod pick;
pub mod pool;
pub mod proxy;
pub mod served;
pub mod state_dir;
pub mod status;
pub mod table;
pub mod trips;
pub mod watch;
