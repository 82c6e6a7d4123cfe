//! A copy of the state.

use super::types::Backup;
use super::{Answer, Refused, Request, body, found};
use crate::MasterTarget;
use std::path::Path;

pub(super) fn make(master: &MasterTarget, request: &Request<'_>, _: &str) -> Answer {
    if !request.local {
        return Err(Refused::new(403, "a backup is made on the master target itself: run failback state backup there"));
    }
    let backup: Backup = body(request)?;
    master.state().backup(Path::new(&backup.path))?;
    Ok(found(&backup))
}
