//! The verbs of the control plane: pairs, groups, jobs, and serving replication.

mod args;
mod client;
mod connect;
mod daemon;
mod enroll;
mod jobs;
mod pairs;
mod receive;
mod relay;
mod serve;
mod state;

pub(crate) use args::{
    ConnectArgs, EnrollArgs, GroupArgs, JobsArgs, PairArgs, Place, ReceiveArgs, RelayArgs, ServeArgs, StateArgs,
};
pub(crate) use client::Control;
pub(crate) use connect::connector;
pub(crate) use enroll::{enroll, issue};
pub(crate) use jobs::{jobs, line as job_line};
pub(crate) use pairs::{group, line as pair_line, pair};
pub(crate) use receive::receive;
pub(crate) use relay::relay;
pub(crate) use serve::serve;
pub(crate) use state::state;
