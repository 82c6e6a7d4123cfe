//! The verbs of the control plane: pairs, groups, jobs, and serving replication.

mod args;
mod client;
mod jobs;
mod pairs;
mod serve;

pub(crate) use args::{GroupArgs, JobsArgs, PairArgs, ServeArgs};
pub(crate) use jobs::jobs;
pub(crate) use pairs::{group, pair};
pub(crate) use serve::serve;
