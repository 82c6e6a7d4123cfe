//! A disk that may become a target, before anything about it is changed.

use std::fs::File;
use std::path::Path;

use crate::claim::{Checked, Claim, ClaimError, check, not_writable};
use crate::identity::DiskIdentity;
use crate::open::{Access, Seen, peek};
use crate::topology::Host;

/// A disk or image that was named as a target. It is open for reading only, so that whoever named it can look which one it is before
/// anybody can write to it.
#[derive(Debug)]
pub struct Candidate {
    pub(crate) seen: Seen,
    pub(crate) checked: Checked,
    pub(crate) identity: DiskIdentity,
    /// As long as it is open, its number is not given to another disk.
    _file: File,
}

impl Candidate {
    /// Looks at a block device or image.
    ///
    /// # Errors
    ///
    /// When anybody uses it, it cannot be opened, or nobody can tell.
    pub fn open(path: &Path) -> Result<Self, ClaimError> {
        let host = Host::this();
        let seen = peek(path)?;
        // First without opening it, so that a refusal names the reason.
        let checked = check(&host, &seen)?;
        let file = seen.open(Access::Read).map_err(|error| not_writable(&seen, error))?;
        let identity = seen.identify(&host, &file)?;
        Ok(Self { seen, checked, identity, _file: file })
    }

    /// Which disk it is.
    #[must_use]
    pub const fn identity(&self) -> &DiskIdentity {
        &self.identity
    }

    /// Claims it for writing, and drops what the kernel has cached of it. Of all that is done to a target this is the first
    /// that opens it for writing.
    ///
    /// A disk that the machine keeps read-only is claimed as it is, and becomes writable in a step of its own.
    ///
    /// # Errors
    ///
    /// When anybody uses it, it cannot be written to, it is not the same any more, or nobody can tell. Nothing has been changed
    /// then.
    pub fn claim(self) -> Result<Claim, ClaimError> {
        Claim::of(&self)
    }
}
