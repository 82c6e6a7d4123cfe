//! Looking at what is on disks, without writing to them.

use crate::{JobError, SourceDisk, SourceOptions};
use failback_blockio::{Device, Engine};
use failback_hostdev::DiskIdentity;
use failback_units::ByteCount;
use failback_volumes::{DiskLayout, FreeMap};
use std::path::PathBuf;

/// A disk, and what is on it.
#[derive(Debug)]
pub struct SeenDisk {
    /// Which disk it is.
    pub identity: DiskIdentity,
    /// What is on it, and what would be free if nobody wrote to it.
    pub layout: DiskLayout,
    /// Why nothing of it is skipped although its layout is known: clauses that complete "nothing is skipped, because the
    /// disk is …".
    pub moving: Vec<String>,
}

impl SeenDisk {
    /// What can be skipped: its free space, or nothing while somebody may write to it. A map that is read from a moving
    /// disk is no map of any of its moments.
    #[must_use]
    pub fn free(&self) -> FreeMap {
        if self.moving.is_empty() { self.layout.free.clone() } else { FreeMap::nothing() }
    }

    /// How many bytes can be skipped.
    #[must_use]
    pub fn skipped(&self) -> ByteCount {
        if self.moving.is_empty() { self.layout.free.bytes() } else { ByteCount::ZERO }
    }
}

/// Looks at disks together, so that volume groups that lie on several of them are understood.
///
/// # Errors
///
/// When one of them is no disk or image, or cannot be opened. What cannot be read on it is part of its layout.
pub fn look_at(paths: &[PathBuf], engine: Engine) -> Result<Vec<SeenDisk>, JobError> {
    let options = SourceOptions { engine, fuzzy: false };
    let sources = paths.iter().map(|path| SourceDisk::open(path, options)).collect::<Result<Vec<_>, _>>()?;
    let devices: Vec<&dyn Device> = sources.iter().map(|source| source.device() as &dyn Device).collect();
    let layouts = failback_volumes::scan(&devices);
    let seen = sources.iter().zip(layouts).map(|(source, layout)| SeenDisk {
        identity: source.identity().clone(),
        layout,
        moving: moving(source),
    });
    Ok(seen.collect())
}

/// Who may write to a disk, or that somebody did while it was looked at.
fn moving(source: &SourceDisk) -> Vec<String> {
    let mut moving = source.writers().to_vec();
    if moving.is_empty() && source.check_unchanged().is_err() {
        moving.push("being written to by somebody unknown".into());
    }
    moving
}
