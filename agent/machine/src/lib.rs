//! The machine that failback runs on, as its administrator has to know it.
//!
//! - [`check_system`] and [`check_disks`] say what stands in the way of a master target, each with what mends it.
//! - [`jobs`] finds the other failback programs that run now, [`addresses`] the way to the machine.
//! - [`Bundle`] puts together what support needs to see, with secrets removed by [`without_secrets`].
//! - [`Look`] is a process that looks at what may never answer.
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
mod look;
mod running;
mod secrets;

pub use addresses::addresses;
pub use bundle::{Bundle, MOST_BYTES};
pub use check::{Disks, check_disks, check_system};
pub use command::{Ended, Stays, run_bounded};
pub use failback_hostdev::{Host, Links, plain, read_plain_file};
pub use finding::{CHECKS, Finding, Findings, Level};
pub use jobs::{JOBS_DIRECTORY, Job, JobProgress, jobs};
pub use look::{Heard, LOOK, Look};
pub use running::{has_systemd, is_live};
pub use secrets::without_secrets;
