//! The machine that failback runs on, as its administrator has to know it.
//!
//! - [`check`] says what stands in the way of a master target, each with what mends it.
//! - [`jobs`] finds the other failback programs that run now, [`addresses`] the way to the machine.
//! - [`Bundle`] puts together what support needs to see, with secrets removed by [`without_secrets`].
//!
//! # Rules
//!
//! Nothing here changes anything. What others have named, a disk, a volume or a process, is printed with [`plain`], so that it
//! cannot drive a terminal. What cannot be read is a finding, never silence.
#![forbid(unsafe_code)]

mod addresses;
mod bundle;
mod check;
mod command;
mod finding;
mod jobs;
mod running;
mod secrets;

pub use addresses::addresses;
pub use bundle::{Bundle, MOST_BYTES};
pub use check::{Facts, check};
pub use command::{Ended, run_bounded};
pub use failback_hostdev::{Host, plain};
pub use finding::{Finding, Level};
pub use jobs::{JOBS_DIRECTORY, Job, JobProgress, jobs};
pub use running::{has_systemd, is_live};
pub use secrets::without_secrets;
