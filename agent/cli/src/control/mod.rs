//! The verbs of the control plane: pairs, groups, jobs, and serving replication.

mod args;
mod client;
mod connect;
mod enroll;
mod jobs;
mod pairs;
mod serve;
mod state;

pub(crate) use args::{ConnectArgs, EnrollArgs, GroupArgs, JobsArgs, PairArgs, ServeArgs, StateArgs};
pub(crate) use connect::connector;
pub(crate) use enroll::enroll;
pub(crate) use jobs::jobs;
pub(crate) use pairs::{group, pair};
pub(crate) use serve::serve;
pub(crate) use state::state;
