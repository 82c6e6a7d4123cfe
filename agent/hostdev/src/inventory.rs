//! All disks that are attached: what they are, who uses them, and whether they can be targets.

use std::path::{Path, PathBuf};

use failback_units::ByteCount;

use crate::attached::Attached;
use crate::claim::{ClaimError, look_at};
use crate::identity::{DiskName, model};
use crate::lookout::{Blind, Lookout};
use crate::open::{SourceError, peek};
use crate::topology::{Host, Object};
use crate::transport::{ScsiAddress, Transport};
use crate::uses::Use;
use crate::vpd::ScsiUuid;

/// The unit of the sizes in sysfs, whatever the blocks of the disk.
const SYSFS_SECTOR: u64 = 512;
/// The logical block of a disk whose queue states none.
const USUAL_BLOCK: u32 = 512;

/// A whole disk, or a loop device that is attached to something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedDisk {
    /// The kernel's name, such as `sdb`: good until the disk is detached or the machine restarts.
    pub name: String,
    /// The device node.
    pub path: PathBuf,
    /// Its names in `/dev/disk/by-id` and `/dev/disk/by-path`.
    pub links: Vec<PathBuf>,
    /// Its size; zero where there is no medium.
    pub size: ByteCount,
    /// The logical block size in bytes.
    pub logical_block: u32,
    /// The physical block size in bytes.
    pub physical_block: u32,
    /// The UUID that the hypervisor shows.
    pub scsi_uuid: Option<ScsiUuid>,
    /// The kernel names of the other disks that show the same UUID; multipath's paths to one disk are none.
    pub same_uuid: Vec<String>,
    /// Vendor and model.
    pub model: Option<String>,
    /// How it is attached.
    pub transport: Transport,
    /// Where it is attached, if to a SCSI host.
    pub address: Option<ScsiAddress>,
    /// The file or device behind a loop device.
    pub backing: Option<PathBuf>,
    /// How many partitions the kernel knows on it.
    pub partitions: usize,
    /// Whether the kernel refuses to write to it.
    pub read_only: bool,
    /// Its WWID, or `virtio-` and its serial number, or else its SCSI UUID: what `/etc/failback/own-disks` calls it.
    pub wwid: Option<String>,
    /// What the machine has it for, if it is recorded as its own: `system` or `retention`.
    pub own: Option<String>,
    /// Whether the machine keeps it read-only while it is not claimed. If it is claimable besides, a claim makes it writable.
    pub guarded: bool,
    /// Every reason for which it cannot be a target, as far as there are such, the gravest first.
    pub uses: Vec<Use>,
    /// Why it is no target, in one sentence that says what to do; `None` if it can be claimed for writing now.
    pub refusal: Option<String>,
}

impl AttachedDisk {
    /// Whether the running system lies on it.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.uses.iter().any(|it| matches!(it, Use::RunsFrom { .. }))
    }
}

/// Looks at every attached whole disk, without claiming or writing to any. Empty loop devices, memory disks, CD drives and
/// what the kernel made of disks are left out.
///
/// What is said of each is what [`look`](crate::look) says and what a claim would say at this moment. `tell` gets the path of each before it
/// is opened, which happens more than once: so it is known which one does not answer.
///
/// # Errors
///
/// When what the kernel says about disks and mounts cannot be read. A disk that cannot be opened is no error: its refusal says
/// why.
pub fn inventory(tell: &dyn Fn(&Path)) -> Result<Vec<AttachedDisk>, SourceError> {
    inventory_of(&Host::this(), tell)
}

/// The same for a machine that a directory stands for.
///
/// # Errors
///
/// As [`inventory`].
pub fn inventory_of(host: &Host, tell: &dyn Fn(&Path)) -> Result<Vec<AttachedDisk>, SourceError> {
    let all = DiskName { given: "the attached disks".into(), resolved: None };
    let blind = |it| SourceError::blind(&all, it);
    let lookout = Lookout::telling(host, tell).map_err(blind)?;
    let mut disks = list(&lookout, tell).map_err(blind)?;
    for (disk, object) in &mut disks {
        tell(&disk.path);
        let seen = peek(&disk.path).and_then(|seen| {
            if seen.object == *object { Ok(seen) } else { Err(SourceError::Replaced { name: seen.name }) }
        });
        match seen.and_then(|seen| look_at(&lookout, &seen)) {
            Ok((_, uses)) => disk.refuse_for(uses),
            // Of two reasons the one that is told stays: whoever uses it.
            Err(error) => disk.refusal = disk.refusal.take().or_else(|| Some(sentence(&error))),
        }
    }
    Ok(disks.into_iter().map(|(disk, _)| disk).collect())
}

/// The device nodes of all attached disks that show this UUID. More than one is a copy, or a disk that is attached twice.
///
/// # Errors
///
/// When what the kernel says about disks cannot be read.
pub fn disks_with_uuid(uuid: ScsiUuid) -> Result<Vec<PathBuf>, SourceError> {
    let all = DiskName { given: "the attached disks".into(), resolved: None };
    let (host, blind) = (Host::this(), |it| SourceError::blind(&all, it));
    let lookout = Lookout::new(&host).map_err(blind)?;
    let disks = lookout.disks().map_err(blind)?.iter().filter(|disk| disk.uuid == Some(uuid));
    Ok(disks.map(|disk| host.dev.join(&disk.name)).collect())
}

impl AttachedDisk {
    fn refuse_for(&mut self, uses: Vec<Use>) {
        let name = DiskName { given: self.path.clone(), resolved: None };
        self.refusal = (!uses.is_empty()).then(|| ClaimError::refused(&name, uses.clone()).to_string());
        self.uses = uses;
    }
}

/// An error and its cause, as one text.
fn sentence(error: &SourceError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// What sysfs and procfs tell of every attached disk, and the disk itself where they do not tell its UUID.
fn list(lookout: &Lookout, tell: &dyn Fn(&Path)) -> Result<Vec<(AttachedDisk, Object)>, Blind> {
    let links = lookout.host().names_by_udev();
    let mut found = Vec::new();
    for disk in lookout.disks_telling(tell)? {
        tell(&lookout.host().dev.join(&disk.name));
        match describe(lookout, disk, &links) {
            Ok(described) => found.push((described, Object::Block(disk.device))),
            // Detached while we looked.
            Err(_) if !lookout.host().node(disk.device).exists() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn describe(lookout: &Lookout, disk: &Attached, links: &[(PathBuf, String)]) -> Result<AttachedDisk, Blind> {
    let blind = |source| Blind { what: "/sys/dev/block", source };
    let (host, device) = (lookout.host(), disk.device);
    let number = |attribute| host.attribute(device, attribute).and_then(|text| text.parse::<u64>().ok());
    let block = |attribute| number(attribute).and_then(|bytes| u32::try_from(bytes).ok());
    let logical_block = block("queue/logical_block_size").unwrap_or(USUAL_BLOCK);
    let size = number("size").and_then(|sectors| sectors.checked_mul(SYSFS_SECTOR)).and_then(ByteCount::new);
    let read_only = number("ro") == Some(1);
    let guarded = lookout.guards(Object::Block(device))?;
    let mut uses = lookout.uses(Object::Block(device))?;
    uses.extend((read_only && !guarded).then_some(Use::ReadOnly));
    let mut described = AttachedDisk {
        name: disk.name.clone(),
        path: host.dev.join(&disk.name),
        links: links.iter().filter(|(_, name)| *name == disk.name).map(|(path, _)| path.clone()).collect(),
        size: size.unwrap_or(ByteCount::ZERO),
        logical_block,
        physical_block: block("queue/physical_block_size").unwrap_or(logical_block),
        scsi_uuid: disk.uuid,
        same_uuid: host.namesakes(disk, lookout.disks()?).map_err(blind)?,
        model: model(host, device),
        transport: host.transport(device),
        address: host.scsi_address(device),
        backing: lookout.backing_of(device),
        partitions: host.partitions(device).map_err(blind)?.len(),
        read_only,
        wwid: host.wwid(device).or_else(|| Some(disk.uuid?.to_string())),
        own: lookout.role_of(device).map(str::to_owned),
        guarded,
        uses: Vec::new(),
        refusal: None,
    };
    described.refuse_for(uses);
    Ok(described)
}

#[cfg(test)]
mod tests;
