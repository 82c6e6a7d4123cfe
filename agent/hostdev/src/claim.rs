//! Claiming a disk for writing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::{AccessFlags, faccessat};

use crate::candidate::Candidate;
use crate::identity::{DiskIdentity, DiskName};
use crate::lookout::Lookout;
use crate::open::{Access, Seen, SourceError, peek};
use crate::sys;
use crate::topology::{DevNum, Host, Object};
use crate::uses::{Refusal, Use};
use crate::writable;

/// How often a claim is tried that someone stands in the way of whom nothing names: udev has a lock on a disk, and others
/// have it opened exclusively, for the moment in which they look at it.
const ATTEMPTS: u32 = 20;
/// How often a lock is tried whose holder is known: it may be someone who only looks.
const ATTEMPTS_NAMED: u32 = 3;
/// How often it is looked whether somebody has a disk: consoles, checks and lists look too, at the same moment.
const ATTEMPTS_LOOK: u32 = 3;
/// How long to wait between two attempts.
const PATIENCE: Duration = Duration::from_millis(50);

/// A disk or image that nobody else may write to, as far as Linux can see to it.
///
/// A block device is opened with `O_EXCL`, and both kinds are locked with `flock`: that keeps udev from looking at a disk
/// that is half written, and two programs of ours off one image. The claim lasts until it and every descriptor cloned of
/// it are closed, and ends with the process however that ends.
///
/// What a loop device is attached to is opened with `O_EXCL` as well if it is a block device, until the claim is released or dropped.
///
/// Where the machine keeps foreign disks read-only, a claimed one is so too until [`make_writable`](Self::make_writable), and
/// again from the moment when the claim is released or dropped, whatever it was before. A program that ends otherwise calls
/// [`protect_claimed_disks`](crate::protect_claimed_disks); if it is killed, the disk stays writable, and the next claim that ends
/// mends that.
#[derive(Debug)]
pub struct Claim {
    file: Arc<File>,
    object: Object,
    identity: DiskIdentity,
    guarded: bool,
    /// What lies under loop devices.
    _beneath: Vec<File>,
}

/// Why a disk cannot be claimed. `uses` holds every reason that was found; the variant is the gravest of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// It cannot be opened at all.
    #[error(transparent)]
    Unusable(#[from] SourceError),
    /// The running system lies on it.
    #[error("{name} {}", Refusal(uses))]
    RunsFrom {
        /// What was named.
        name: DiskName,
        /// Every reason.
        uses: Vec<Use>,
    },
    /// It, or something on it, is mounted.
    #[error("{name} {}", Refusal(uses))]
    Mounted {
        /// What was named.
        name: DiskName,
        /// Every reason.
        uses: Vec<Use>,
    },
    /// It is swapped to.
    #[error("{name} {}", Refusal(uses))]
    Swap {
        /// What was named.
        name: DiskName,
        /// Every reason.
        uses: Vec<Use>,
    },
    /// The kernel made another device of it.
    #[error("{name} {}", Refusal(uses))]
    Held {
        /// What was named.
        name: DiskName,
        /// Every reason.
        uses: Vec<Use>,
    },
    /// The machine has recorded it as its own.
    #[error("{name} {}", Refusal(uses))]
    Own {
        /// What was named.
        name: DiskName,
        /// Every reason.
        uses: Vec<Use>,
    },
    /// It is a part of disks that are kept read-only.
    #[error("{name} {}", Refusal(uses))]
    Guarded {
        /// What was named.
        name: DiskName,
        /// Every reason.
        uses: Vec<Use>,
    },
    /// A loop device shows it a second time.
    #[error("{name} {}", Refusal(uses))]
    Loop {
        /// What was named.
        name: DiskName,
        /// Every reason.
        uses: Vec<Use>,
    },
    /// Another attached disk has the same SCSI UUID.
    #[error("{name} {}", Refusal(uses))]
    Duplicate {
        /// What was named.
        name: DiskName,
        /// Every reason.
        uses: Vec<Use>,
    },
    /// Another program, likely another failback, has locked it.
    #[error("{name} {}", Refusal(uses))]
    Claimed {
        /// What was named.
        name: DiskName,
        /// Every reason.
        uses: Vec<Use>,
    },
    /// Someone unknown has opened it exclusively.
    #[error("{name} {}", Refusal(uses))]
    Busy {
        /// What was named.
        name: DiskName,
        /// Every reason.
        uses: Vec<Use>,
    },
    /// It cannot be written to.
    #[error("{name} {}", Refusal(uses))]
    ReadOnly {
        /// What was named.
        name: DiskName,
        /// Every reason.
        uses: Vec<Use>,
    },
    /// This user may not write to it.
    #[error("{name} {}", Refusal(uses))]
    Forbidden {
        /// What was named.
        name: DiskName,
        /// Every reason.
        uses: Vec<Use>,
    },
}

impl ClaimError {
    /// Whether a device or the kernel failed, rather than the disk being in use.
    #[must_use]
    pub fn is_io(&self) -> bool {
        matches!(self, Self::Unusable(error) if error.is_io())
    }

    /// Every reason that was found, the gravest first; empty if the disk cannot be opened at all.
    #[must_use]
    pub fn uses(&self) -> &[Use] {
        match self {
            Self::Unusable(_) => &[],
            Self::RunsFrom { uses, .. }
            | Self::Own { uses, .. }
            | Self::Guarded { uses, .. }
            | Self::Mounted { uses, .. }
            | Self::Swap { uses, .. }
            | Self::Held { uses, .. }
            | Self::Loop { uses, .. }
            | Self::Duplicate { uses, .. }
            | Self::Claimed { uses, .. }
            | Self::Busy { uses, .. }
            | Self::ReadOnly { uses, .. }
            | Self::Forbidden { uses, .. } => uses,
        }
    }

    /// The refusal for these reasons, of which there is at least one.
    pub(crate) fn refused(name: &DiskName, mut uses: Vec<Use>) -> Self {
        uses.sort_by_key(Use::rank);
        let name = name.clone();
        match uses.first() {
            Some(Use::RunsFrom { .. }) => Self::RunsFrom { name, uses },
            Some(Use::Own { .. }) => Self::Own { name, uses },
            Some(Use::Guarded { .. }) => Self::Guarded { name, uses },
            Some(Use::Mounted { .. }) => Self::Mounted { name, uses },
            Some(Use::Swap { .. }) => Self::Swap { name, uses },
            Some(Use::Held { .. }) => Self::Held { name, uses },
            Some(Use::Loop { .. }) => Self::Loop { name, uses },
            Some(Use::Duplicate { .. }) => Self::Duplicate { name, uses },
            Some(Use::Locked { .. }) => Self::Claimed { name, uses },
            Some(Use::ReadOnly) => Self::ReadOnly { name, uses },
            Some(Use::Forbidden) => Self::Forbidden { name, uses },
            Some(Use::Busy) | None => Self::Busy { name, uses },
        }
    }
}

impl Claim {
    /// Claims a block device or image for writing, whichever it is: a [`Candidate`] that was not looked at.
    ///
    /// # Errors
    ///
    /// As [`Candidate::claim`].
    pub fn target(path: &Path) -> Result<Self, ClaimError> {
        Candidate::open(path)?.claim()
    }

    pub(crate) fn of(candidate: &Candidate) -> Result<Self, ClaimError> {
        let host = Host::this();
        let Candidate { seen, checked, identity, .. } = candidate;
        let file = open_alone(&host, seen)?;
        let read_only = match seen.object {
            Object::Block(_) => sys::is_read_only(file.as_fd()).map_err(SourceError::io(&seen.name, "look at"))?,
            Object::File { .. } => false,
        };
        if read_only && !checked.guarded {
            return Err(ClaimError::refused(&seen.name, vec![Use::ReadOnly]));
        }
        lock(&host, seen, &file)?;
        let beneath = open_beneath(&host, seen, &checked.beneath)?;
        // Again, for what came between looking and claiming. From here on only a loop device could still be attached.
        if check(&host, seen)? != *checked || seen.identify(&host, &file)? != *identity {
            return Err(SourceError::Replaced { name: seen.name.clone() }.into());
        }
        drop_caches(&file, seen.object).map_err(SourceError::io(&seen.name, "drop the caches of"))?;
        let (identity, guarded) = (identity.clone(), checked.guarded);
        Ok(Self { file: Arc::new(file), object: seen.object, identity, guarded, _beneath: beneath })
    }

    /// Makes a disk that the machine keeps read-only writable, for as long as the claim lasts. Of any other there is nothing to be
    /// done, and nothing is.
    ///
    /// # Errors
    ///
    /// When this user may not do that, or the disk is write-protected by itself. It is read-only then as before.
    pub fn make_writable(&mut self) -> Result<(), ClaimError> {
        if !self.guarded {
            return Ok(());
        }
        let name = self.identity.name();
        match writable::make_writable(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(ClaimError::refused(&name, vec![Use::Forbidden]));
            }
            done => done.map_err(SourceError::io(&name, "make writable"))?,
        }
        // The kernel has a second mark, for what a driver says of its medium, and that one stays.
        if sys::is_read_only(self.file.as_fd()).map_err(SourceError::io(&name, "look at"))? {
            return Err(ClaimError::refused(&name, vec![Use::ReadOnly]));
        }
        Ok(())
    }

    /// Which disk it is.
    #[must_use]
    pub const fn identity(&self) -> &DiskIdentity {
        &self.identity
    }

    /// Another descriptor of the same open file, close-on-exec, for reading and writing. The claim lasts as long as any of
    /// them is open.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.file.try_clone().map(OwnedFd::from)
    }

    /// Flushes, drops what the kernel has cached, and closes: whoever opens the disk next reads what it holds. Descriptors that were
    /// cloned are to be closed before: through them a guarded disk cannot be written any more.
    ///
    /// Dropping a claim closes without either.
    ///
    /// # Errors
    ///
    /// When the flush fails, which may mean that what was written is not there, or the disk cannot be made read-only again. It is
    /// closed all the same.
    pub fn release(mut self) -> io::Result<()> {
        let flushed = drop_caches(&self.file, self.object);
        let guarded = std::mem::take(&mut self.guarded);
        let set = if guarded { writable::make_read_only(&self.file) } else { Ok(()) };
        flushed.and(set)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.guarded {
            // If this fails, the disk is writable and idle; nobody who could mend it better can be told here.
            let _ = writable::make_read_only(&self.file);
        }
    }
}

/// The same look without claiming or opening for writing: which disk it is, and every reason for which a claim would be
/// refused now, the gravest first.
///
/// Where nothing else is found, a block device is opened for reading with `O_EXCL` for a moment: whether someone has it
/// whom the kernel does not name can be found out in no other way. For the same reason an image on btrfs or overlayfs,
/// whose locks procfs shows under another device number, is locked for a moment.
///
/// # Errors
///
/// As [`Source::open`](crate::Source::open), and [`SourceError::Blind`] when procfs or sysfs cannot be read.
pub fn look(path: &Path) -> Result<(DiskIdentity, Vec<Use>), SourceError> {
    let host = Host::this();
    let seen = peek(path)?;
    let lookout = Lookout::new(&host).map_err(|it| SourceError::blind(&seen.name, it))?;
    look_at(&lookout, &seen)
}

/// [`look`] for one of many disks: what the kernel says of all of them was read once.
pub(crate) fn look_at(lookout: &Lookout, seen: &Seen) -> Result<(DiskIdentity, Vec<Use>), SourceError> {
    let host = lookout.host();
    let file = seen.open(Access::Read)?;
    let identity = seen.identify(host, &file)?;
    let mut uses = lookout.uses(seen.object).map_err(|it| SourceError::blind(&seen.name, it))?;
    uses.extend(host.locked(&seen.metadata, matches!(seen.object, Object::Block(_))));
    // Whether one that is guarded is write-protected besides shows only when it is claimed.
    if let Object::Block(_) = seen.object
        && sys::is_read_only(file.as_fd()).map_err(SourceError::io(&seen.name, "look at"))?
        && !lookout.guards(seen.object).map_err(|it| SourceError::blind(&seen.name, it))?
    {
        uses.push(Use::ReadOnly);
    } else {
        uses.extend(may_not_write(&seen.name.given));
    }
    if let Object::Block(_) = seen.object
        && uses.is_empty()
    {
        let beneath = lookout.devices_under_loops(seen.object).map_err(|it| SourceError::blind(&seen.name, it))?;
        if is_taken(seen) || nodes(host, &beneath)?.iter().any(is_taken) {
            uses.push(Use::Busy);
        }
    }
    if let Object::File { device, .. } = seen.object
        && uses.is_empty()
        && device.is_anonymous()
        && sys::try_lock(&file).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    {
        uses.push(Use::Locked { by: None });
    }
    uses.sort_by_key(Use::rank);
    Ok((identity, uses))
}

/// Whether somebody has it opened exclusively, for longer than it takes to look at it as this does.
fn is_taken(seen: &Seen) -> bool {
    open_patiently(seen, ATTEMPTS_LOOK).is_err_and(|error| is_busy(&error))
}

/// Opens it for reading, alone; tries again while somebody has it exclusively.
fn open_patiently(seen: &Seen, attempts: u32) -> Result<File, SourceError> {
    let mut left = attempts;
    loop {
        left = left.saturating_sub(1);
        match seen.open(Access::ReadAlone) {
            Err(error) if is_busy(&error) && left > 0 => thread::sleep(PATIENCE),
            opened => return opened,
        }
    }
}

/// The nodes of block devices, looked at.
fn nodes(host: &Host, devices: &[DevNum]) -> Result<Vec<Seen>, SourceError> {
    let looked_at = devices.iter().map(|device| {
        let seen = peek(&host.dev.join(host.kernel_name(*device).unwrap_or_else(|| device.to_string())))?;
        if seen.object == Object::Block(*device) { Ok(seen) } else { Err(SourceError::Replaced { name: seen.name }) }
    });
    looked_at.collect()
}

/// Opens what lies under the loop devices that `seen` consists of, so that nobody else gets it meanwhile.
fn open_beneath(host: &Host, seen: &Seen, devices: &[DevNum]) -> Result<Vec<File>, ClaimError> {
    let opened = nodes(host, devices)?.into_iter().map(|under| match open_patiently(&under, ATTEMPTS) {
        Err(error) if is_busy(&error) => Err(ClaimError::refused(&seen.name, vec![Use::Busy])),
        opened => Ok(opened?),
    });
    opened.collect()
}

/// Everyone who uses it, those with a lock on it among them.
fn uses(host: &Host, seen: &Seen) -> Result<Vec<Use>, SourceError> {
    let mut found = named_uses(host, seen)?;
    found.extend(host.locked(&seen.metadata, matches!(seen.object, Object::Block(_))));
    Ok(found)
}

fn named_uses(host: &Host, seen: &Seen) -> Result<Vec<Use>, SourceError> {
    let blind = |it| SourceError::blind(&seen.name, it);
    Lookout::new(host).map_err(blind)?.uses(seen.object).map_err(blind)
}

/// What is to be known of a disk that nobody uses.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Whether the machine keeps it read-only.
    guarded: bool,
    /// The block devices that lie under it by way of loop devices.
    beneath: Vec<DevNum>,
}

/// Refuses what is in use; locks on it are left to [`lock`], since ours is among them later.
pub(crate) fn check(host: &Host, seen: &Seen) -> Result<Checked, ClaimError> {
    let blind = |it| SourceError::blind(&seen.name, it);
    let lookout = Lookout::new(host).map_err(blind)?;
    let found = lookout.uses(seen.object).map_err(blind)?;
    if !found.is_empty() {
        return Err(ClaimError::refused(&seen.name, found));
    }
    let beneath = lookout.devices_under_loops(seen.object).map_err(blind)?;
    Ok(Checked { guarded: lookout.guards(seen.object).map_err(blind)?, beneath })
}

fn open_alone(host: &Host, seen: &Seen) -> Result<File, ClaimError> {
    for attempt in 1.. {
        match seen.open(Access::WriteAlone) {
            Ok(file) => return Ok(file),
            Err(error) if is_busy(&error) => {
                let found = uses(host, seen)?;
                if !found.is_empty() {
                    return Err(ClaimError::refused(&seen.name, found));
                }
                if attempt >= ATTEMPTS {
                    break;
                }
                thread::sleep(PATIENCE);
            }
            Err(error) => return Err(not_writable(seen, error)),
        }
    }
    Err(ClaimError::refused(&seen.name, vec![Use::Busy]))
}

fn is_busy(error: &SourceError) -> bool {
    matches!(error, SourceError::Io { source, .. } if matches!(source.raw_os_error(), Some(libc::EBUSY | libc::ETXTBSY)))
}

/// Tells write protection and missing permission from other failures to open.
pub(crate) fn not_writable(seen: &Seen, error: SourceError) -> ClaimError {
    match error {
        SourceError::Io { source, .. } if source.raw_os_error() == Some(libc::EROFS) => {
            ClaimError::refused(&seen.name, vec![Use::ReadOnly])
        }
        // A write-protected device answers EACCES too (blkdev_open), even to root.
        SourceError::Denied { .. } => {
            let protected = seen.open(Access::Read).is_ok_and(|file| {
                matches!(seen.object, Object::Block(_)) && sys::is_read_only(file.as_fd()).unwrap_or(false)
            });
            ClaimError::refused(&seen.name, vec![if protected { Use::ReadOnly } else { Use::Forbidden }])
        }
        other => ClaimError::Unusable(other),
    }
}

/// What faccessat(2) says about writing, if that is no.
fn may_not_write(path: &Path) -> Option<Use> {
    match faccessat(AT_FDCWD, path, AccessFlags::W_OK, AtFlags::AT_EACCESS) {
        Ok(()) => None,
        Err(nix::Error::EROFS) => Some(Use::ReadOnly),
        Err(nix::Error::ETXTBSY) => Some(Use::Busy),
        Err(_) => Some(Use::Forbidden),
    }
}

/// Takes the lock, or names who has it.
fn lock(host: &Host, seen: &Seen, file: &File) -> Result<(), ClaimError> {
    let is_device = matches!(seen.object, Object::Block(_));
    for attempt in 1.. {
        // Locks of ranges do not exclude ours: a virtual machine that runs on the image has such.
        if host.locks_on(&seen.metadata).iter().any(|lock| !lock.whole) {
            break;
        }
        match sys::try_lock(file) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(SourceError::io(&seen.name, "lock")(error).into()),
        }
        let named = !host.locked(&seen.metadata, is_device).is_empty();
        if attempt >= if named { ATTEMPTS_NAMED } else { ATTEMPTS } {
            break;
        }
        thread::sleep(PATIENCE);
    }
    let mut found = host.locked(&seen.metadata, is_device);
    if found.is_empty() {
        found.push(Use::Locked { by: None });
    }
    Err(ClaimError::refused(&seen.name, found))
}

/// Writes back and forgets what the kernel has cached.
fn drop_caches(file: &File, object: Object) -> io::Result<()> {
    // fdatasync first: it reports a failed write-back, which the cache dropping calls do not.
    file.sync_data()?;
    if let Object::Block(_) = object {
        match sys::drop_device_cache(file.as_fd()) {
            // Without CAP_SYS_ADMIN, advice is what is left.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            other => return other,
        }
    }
    posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{FileExt, PermissionsExt};

    #[test]
    fn an_image_needs_no_root() {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(4096).unwrap();
        assert_eq!(look(image.path()).unwrap().1, []);
        let claim = Claim::target(image.path()).unwrap();
        File::from(claim.try_clone_fd().unwrap()).write_all_at(b"written", 0).unwrap();
        let error = Claim::target(image.path()).unwrap_err();
        assert!(matches!(error, ClaimError::Claimed { .. }), "{error}");
        claim.release().unwrap();
        let mut read = [0; 7];
        image.as_file().read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"written");
    }

    #[test]
    fn what_this_user_may_not_write_is_refused() {
        if nix::unistd::geteuid().is_root() {
            println!("skipped: root may write to everything");
            return;
        }
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_permissions(Permissions::from_mode(0o444)).unwrap();
        assert_eq!(look(image.path()).unwrap().1, [Use::Forbidden]);
        let error = Claim::target(image.path()).unwrap_err();
        assert!(matches!(error, ClaimError::Forbidden { .. }), "{error}");
    }

    #[test]
    fn the_gravest_reason_comes_first() {
        let name = DiskName { given: "/dev/sda".into(), resolved: None };
        let swap = Use::Swap { on: "/dev/sda2".into() };
        let root = Use::RunsFrom { what: "the root file system".into() };
        let error = ClaimError::refused(&name, vec![Use::ReadOnly, swap.clone(), root.clone()]);
        assert!(matches!(error, ClaimError::RunsFrom { .. }));
        assert_eq!(error.uses(), [root, swap, Use::ReadOnly]);
        assert!(error.to_string().starts_with("/dev/sda is the disk that the root file system runs from, "), "{error}");
    }
}
