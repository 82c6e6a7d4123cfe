//! The verb `serve`: the master target.

use super::args::ServeArgs;
use super::client::open_master;
use crate::config::Config;
use crate::points::open::policy;
use anyhow::Result;
use failback_control::{Caller, Settings};
use failback_orchestrate::JobError;
use failback_transport::{Limits, stdio_link};
use std::process::ExitCode;

pub(crate) fn serve(args: &ServeArgs) -> Result<ExitCode> {
    let settings = Settings {
        engine: args.common.engine.into(),
        threads: args.threads,
        policy: policy(&args.keeping, &Config::load()?)?,
        trust: None,
    };
    if !args.stdio {
        return Err(JobError::Refused("serve runs over standard input and output only: add --stdio".into()).into());
    }
    let link = stdio_link(Limits::default()).map_err(|error| JobError::Refused(error.to_string()))?;
    let master = open_master(&args.place, settings)?;
    master.session(link, &Caller::Local)?;
    Ok(ExitCode::SUCCESS)
}
