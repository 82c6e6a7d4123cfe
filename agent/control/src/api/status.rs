//! What this master target is.

use super::types::Status;
use super::{Answer, Request, found};
use crate::MasterTarget;

pub(super) fn show(master: &MasterTarget, _: &Request<'_>, _: &str) -> Answer {
    Ok(found(&Status {
        version: env!("CARGO_PKG_VERSION").into(),
        fingerprint: master.fingerprint().map(ToString::to_string),
        uptime_seconds: master.uptime().as_secs(),
        pairs: master.state().pairs()?.len(),
        running_jobs: master.live_jobs().len(),
    }))
}
