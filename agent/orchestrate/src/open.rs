//! From a path to a disk: what hostdev knows of it, and what blockio or a VMDK does with it.

use crate::vmdk::{VmdkDisk, names_vmdk, refusal_of_part};
use crate::{JobError, likeness};
use failback_blockio::{Caching, Device, Engine, FileDevice, Options};
use failback_delta::{Identity, PointKind};
use failback_hashtree::Root;
use failback_hostdev::{Candidate, ChangeMark, Claim, DiskIdentity, Medium, ScsiUuid, Source, Use};
use failback_image::Access;
use failback_volumes::{DiskLayout, FreeMap, scan};
use std::fs::File;
use std::io;
use std::path::Path;

/// How to open a source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SourceOptions {
    /// Which engine reads.
    pub engine: Engine,
    /// Whether what is being written may be read all the same.
    pub fuzzy: bool,
}

/// A disk that is only read.
#[derive(Debug)]
pub struct SourceDisk {
    identity: DiskIdentity,
    content: SourceContent,
    kind: PointKind,
    /// Why the content is fuzzy, in words.
    writers: Vec<String>,
}

/// What is read of a source.
#[derive(Debug)]
enum SourceContent {
    /// The bytes of a block device or an image, and its mark before they were read.
    Plain { source: Source, device: FileDevice, mark: Option<ChangeMark> },
    /// What the files of a VMDK mean.
    Vmdk(VmdkDisk),
}

impl SourceDisk {
    /// Opens a source and finds out whether it may change while it is read.
    ///
    /// # Errors
    ///
    /// When it is no disk or image, or cannot be read.
    pub fn open(path: &Path, options: SourceOptions) -> Result<Self, JobError> {
        let kind = |writers: &[String]| {
            if options.fuzzy || !writers.is_empty() { PointKind::Fuzzy } else { PointKind::Crash }
        };
        if names_vmdk(path) {
            let disk = VmdkDisk::open(path, Access::Read, options.engine)?;
            let (identity, writers) = (disk.identity(path)?, disk.files().writers()?);
            return Ok(Self { identity, kind: kind(&writers), content: SourceContent::Vmdk(disk), writers });
        }
        let source = Source::open(path)?;
        let writers: Vec<_> = source.writable_uses()?.iter().map(ToString::to_string).collect();
        let kind = kind(&writers);
        let mark = match kind {
            PointKind::Fuzzy => None,
            _ => Some(mark_of(&source).map_err(|error| failed(path, error))?),
        };
        let how = Options { engine: options.engine, caching: Caching::Probe };
        let device = device(source.try_clone_fd(), path, how)?;
        let identity = source.identity().clone();
        Ok(Self { identity, content: SourceContent::Plain { source, device, mark }, kind, writers })
    }

    /// The device to read from.
    #[must_use]
    pub fn device(&self) -> &dyn Device {
        match &self.content {
            SourceContent::Plain { device, .. } => device,
            SourceContent::Vmdk(disk) => disk.disk(),
        }
    }

    /// Why another engine is in use than would be best, if one is.
    #[must_use]
    pub fn engine_note(&self) -> Option<&str> {
        match &self.content {
            SourceContent::Plain { device, .. } => device.engine_note(),
            SourceContent::Vmdk(_) => None,
        }
    }

    /// Which disk it is.
    #[must_use]
    pub const fn identity(&self) -> &DiskIdentity {
        &self.identity
    }

    /// What moment its content is from: `fuzzy` while somebody may write to it, else `crash`.
    #[must_use]
    pub const fn kind(&self) -> PointKind {
        self.kind
    }

    /// Who may write to it, in words that complete "the disk is …".
    #[must_use]
    pub fn writers(&self) -> &[String] {
        &self.writers
    }

    /// What is on it. `companions` are disks that volumes of this one may lie on too.
    #[must_use]
    pub fn content(&self, companions: &[Self]) -> DiskLayout {
        let disks: Vec<&dyn Device> = [self].into_iter().chain(companions).map(Self::device).collect();
        scan(&disks).swap_remove(0)
    }

    /// The free space that may be left out: none while somebody may write to the disk, since a map can lie then.
    #[must_use]
    pub fn free_space<'a>(&self, content: &'a DiskLayout) -> &'a FreeMap {
        static NOTHING: FreeMap = FreeMap::nothing();
        if self.kind == PointKind::Fuzzy { &NOTHING } else { &content.free }
    }

    /// What a signature or a delta says of this disk.
    #[must_use]
    pub fn identity_with(&self, content: &DiskLayout) -> Identity {
        Identity {
            name: Some(self.identity.path.to_string_lossy().into_owned()),
            scsi_uuid: self.identity.scsi_uuid.map(|uuid| *uuid.as_bytes()),
            ..likeness::of(content)
        }
    }

    /// What tells the state that the disk had when it was opened from any other, for as long as the machine runs: a hash to be compared with a
    /// later one, also by another process. `None` while somebody may write to it, and where nobody can tell.
    #[must_use]
    pub fn moment(&self) -> Option<[u8; 32]> {
        let marks = match &self.content {
            _ if self.kind == PointKind::Fuzzy => return None,
            SourceContent::Plain { mark, .. } => mark.as_ref()?.record()?,
            SourceContent::Vmdk(disk) => disk.files().record()?,
        };
        Some(Root::of(format!("{:?} {marks}", self.identity).as_bytes()).0)
    }

    /// To be called after the last read: fails if the disk was written to although it seemed at rest.
    ///
    /// # Errors
    ///
    /// When it was, or when nobody can tell.
    pub fn check_unchanged(&self) -> Result<(), JobError> {
        let (source, before) = match &self.content {
            SourceContent::Plain { source, mark: Some(mark), .. } => (source, mark),
            SourceContent::Vmdk(disk) if self.kind != PointKind::Fuzzy => return disk.files().check_unchanged(),
            _ => return Ok(()),
        };
        let path = &self.identity.path;
        let after = source.change_mark().map_err(|error| failed(path, error))?;
        if *before == after {
            return Ok(());
        }
        Err(JobError::Refused(format!(
            "{} was written to while it was read, so what was read is no state of it: stop what writes to it, or add \
             --fuzzy to take it as it is",
            path.display()
        )))
    }
}

/// A disk that is claimed, before anything is written: what needs no writing is asked now.
#[derive(Debug)]
pub struct ClaimedTarget(TargetDisk);

impl ClaimedTarget {
    /// The device to read from.
    #[must_use]
    pub fn device(&self) -> &dyn Device {
        self.0.device()
    }

    /// Which disk it is.
    #[must_use]
    pub const fn identity(&self) -> &DiskIdentity {
        &self.0.identity
    }

    /// Claims a target, if it is the disk that was looked at and has the SCSI UUID that is expected. Until that is known, it is open
    /// for reading only.
    ///
    /// # Errors
    ///
    /// When it is another disk, anybody uses it, or it cannot be written.
    pub fn claim(
        path: &Path,
        engine: Engine,
        seen: &DiskIdentity,
        expected: Option<ScsiUuid>,
    ) -> Result<Self, JobError> {
        let is_right = |found: &DiskIdentity| {
            check_uuid(found, expected)?;
            if found == seen { Ok(()) } else { Err(became_another(path)) }
        };
        let content = if names_vmdk(path) {
            let found = VmdkDisk::open(path, Access::Read, engine)?;
            is_right(&found.identity(path)?)?;
            let disk = found.open_for_writing(path, engine)?;
            is_right(&disk.identity(path)?)?;
            TargetContent::Vmdk(disk)
        } else {
            if let Some(refusal) = refusal_of_part(path)? {
                return Err(JobError::Refused(refusal));
            }
            let found = Candidate::open(path)?;
            is_right(found.identity())?;
            let claim = found.claim()?;
            let device = device(claim.try_clone_fd(), path, Options { engine, caching: Caching::Direct })?;
            TargetContent::Plain { device, claim }
        };
        Ok(Self(TargetDisk { identity: seen.clone(), content }))
    }

    /// Makes a disk that the machine keeps read-only writable.
    ///
    /// # Errors
    ///
    /// When that is not possible.
    pub fn make_writable(self) -> Result<TargetDisk, JobError> {
        let Self(mut target) = self;
        if let TargetContent::Plain { claim, .. } = &mut target.content {
            claim.make_writable()?;
        }
        Ok(target)
    }
}

fn became_another(path: &Path) -> JobError {
    JobError::Refused(format!("{} became another disk while it was looked at: run this again", path.display()))
}

/// A disk that is written.
#[derive(Debug)]
pub struct TargetDisk {
    identity: DiskIdentity,
    content: TargetContent,
}

/// What is written of a target.
#[derive(Debug)]
enum TargetContent {
    Plain { device: FileDevice, claim: Claim },
    Vmdk(VmdkDisk),
}

impl TargetDisk {
    /// The device to write to.
    #[must_use]
    pub fn device(&self) -> &dyn Device {
        match &self.content {
            TargetContent::Plain { device, .. } => device,
            TargetContent::Vmdk(disk) => disk.disk(),
        }
    }

    /// What the user should know before it is written.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        match &self.content {
            TargetContent::Plain { device, .. } => device.engine_note().map(str::to_owned).into_iter().collect(),
            TargetContent::Vmdk(disk) => disk.notes(),
        }
    }

    /// Which disk it is.
    #[must_use]
    pub const fn identity(&self) -> &DiskIdentity {
        &self.identity
    }

    /// Drops the kernel's caches of the disk and gives it back.
    ///
    /// # Errors
    ///
    /// When the last flush fails.
    pub fn release(self) -> Result<(), JobError> {
        match self.content {
            TargetContent::Plain { device, claim } => {
                drop(device);
                claim.release().map_err(|error| failed(&self.identity.path, error))
            }
            TargetContent::Vmdk(disk) => disk.close(),
        }
    }
}

/// A disk that may become a target, as it is before it is claimed.
#[derive(Clone, Debug)]
pub struct SeenTarget {
    /// Which disk it is.
    pub identity: DiskIdentity,
    /// Why it cannot be a target now.
    pub reasons: Vec<String>,
    /// Whether another program has claimed it.
    pub claimed: bool,
}

impl SeenTarget {
    pub(crate) const fn new(identity: DiskIdentity) -> Self {
        Self { identity, reasons: Vec::new(), claimed: false }
    }

    /// Takes in who uses the disk, or a file of it.
    pub(crate) fn add(&mut self, path: &Path, uses: &[Use]) {
        self.claimed |= uses.iter().any(|used| matches!(used, Use::Locked { .. } | Use::Busy));
        self.reasons.extend(uses.iter().map(|used| format!("{} is {used}", path.display())));
    }
}

/// Which disk a path names, and why it cannot be a target now.
///
/// # Errors
///
/// When it is no disk or image, or cannot be read.
pub fn look_at_target(path: &Path) -> Result<SeenTarget, JobError> {
    if names_vmdk(path) {
        return crate::vmdk::look(path);
    }
    let (identity, uses) = failback_hostdev::look(path)?;
    let mut seen = SeenTarget::new(identity);
    seen.add(path, &uses);
    seen.reasons.extend(refusal_of_part(path)?);
    Ok(seen)
}

/// Refuses a disk that has not the SCSI UUID that is expected.
///
/// # Errors
///
/// When it has another one, or none.
pub fn check_uuid(disk: &DiskIdentity, expected: Option<ScsiUuid>) -> Result<(), JobError> {
    let Some(expected) = expected else { return Ok(()) };
    let path = disk.path.display();
    match (disk.scsi_uuid, disk.medium) {
        (Some(uuid), _) if uuid == expected => Ok(()),
        (Some(uuid), _) => Err(JobError::Refused(format!(
            "{path} is the disk with the SCSI UUID {uuid} and not {expected}: choose the right one, failback disks lists them"
        ))),
        (None, Medium::Image) => Err(JobError::Refused(format!(
            "{path} is an image without a UUID, so nobody can tell whether it is {expected}: leave out --expect-uuid if you \
             know that it is the right one"
        ))),
        (None, Medium::BlockDevice { .. }) => Err(JobError::Refused(format!(
            "{path} shows no SCSI UUID, so nobody can tell whether it is {expected}: set disk.EnableUUID = TRUE on this VM, or \
             leave out --expect-uuid if you know that it is the right disk"
        ))),
    }
}

/// The mark of a source that is about to be read.
fn mark_of(source: &Source) -> io::Result<ChangeMark> {
    if let Medium::BlockDevice { .. } = source.identity().medium {
        // What lies unwritten in the page cache is content already. Reading past the cache writes it back, which counts as a
        // write; so that comes first. If it fails the mark will tell.
        let _ = File::from(source.try_clone_fd()?).sync_data();
    }
    source.change_mark()
}

fn device(fd: io::Result<std::os::fd::OwnedFd>, path: &Path, options: Options) -> Result<FileDevice, JobError> {
    let fd = fd.map_err(|error| failed(path, error))?;
    Ok(FileDevice::new(fd, &path.to_string_lossy(), options)?)
}

fn failed(path: &Path, source: io::Error) -> JobError {
    JobError::File { action: "use", path: path.to_owned(), source }
}
