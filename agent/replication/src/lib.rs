//! Sessions between the source of a disk and its target.
//!
//! A **pass** finds what differs between a source and a target's base, sends it as a delta, and has it applied. The source drives
//! it: it asks for values of the target's tree, and what it sends is kept by the target in a [`Spool`] until the delta is
//! complete, proven and applied. So a pass may take as many connections as it needs, and nothing durable is sent twice.
//!
//! - [`send_pass`] is the source's side, over connections that a [`Connector`] makes; [`send_stored`] is that of a relay, which has
//!   the delta in a file.
//! - [`meet`] takes part in the common mark of a group, so that the last passes of several disks are of one moment; a [`Seat`] is the target's
//!   side of that.
//! - How hard it compresses is chosen by [`Adaptive`], how fast it sends by a [`Throttle`], how often by [`Passes`] and [`Follow`].
//! - [`serve_session`] is the target's side of one connection; what it does to a disk is a [`Replica`]'s business. Whoever is not served is told
//!   so by [`refuse_session`].
//!
//! The protocol is described message by message in `PROTOCOL.md`. Everything that the other side says may be hostile: whatever
//! it is, memory is bounded, and all that ends is the session.
#![forbid(unsafe_code)]

mod adaptive;
mod backoff;
mod clock;
mod error;
mod follow;
mod link;
mod map;
mod meeting;
mod message;
mod passes;
mod peers;
mod schedule;
mod source;
mod spool;
mod target;
mod throttle;
pub mod wire;

pub use adaptive::Adaptive;
pub use backoff::Backoff;
pub use clock::{Clock, SystemClock};
pub use error::SessionError;
pub use follow::{Alarm, Follow};
pub use link::{Link, Role, Traffic};
pub use meeting::{Order, Seat, Stage};
pub use message::{GroupMark, Meet, Offer, Resumed};
pub use passes::{Enough, PassDone, Passes, Plan, Small};
pub use peers::{Standing, required_signer};
pub use schedule::{Schedule, ScheduleError};
pub use source::{
    Connector, Finish, Marking, PassOptions, PassReport, Questions, StoredDelta, StoredOptions, StoredReport,
    ask_target, meet, send_pass, send_stored,
};
pub use spool::{Spool, SpoolError};
pub use target::{Offered, Replica, SessionReport, refuse_session, serve_session};
pub use throttle::Throttle;

use std::time::Duration;

/// How often each side says at least that it is there. Three times that without a byte is a broken connection.
pub const ALIVE_EVERY: Duration = Duration::from_secs(15);
