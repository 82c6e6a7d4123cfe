//! Who uses a disk, put together from sysfs and procfs.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::attached::Attached;
use crate::guard::Guard;
use crate::proctext::{self, FileLock, Mount};
use crate::topology::{Anchor, DevNum, Host, LoopDevice, Object};
use crate::uses::Use;

/// What cannot be read where a loop device is attached to something that nobody names.
pub(crate) const LOOP_BACKING: &str = "what a loop device is attached to";

/// What the kernel says at one moment about mounts, swaps and loop devices.
pub(crate) struct Lookout<'a> {
    host: &'a Host,
    mounts: Vec<Mount>,
    swaps: Vec<PathBuf>,
    loops: Vec<LoopDevice>,
    btrfs: Vec<(String, Vec<DevNum>)>,
    guard: Guard,
    /// Looked for when first asked for: not every question needs it.
    disks: OnceCell<Vec<Attached>>,
}

/// Something that could not be read, so that nobody can say who uses a disk.
#[derive(Debug)]
pub(crate) struct Blind {
    pub(crate) what: &'static str,
    pub(crate) source: io::Error,
}

impl<'a> Lookout<'a> {
    /// Reads everything once.
    pub(crate) fn new(host: &'a Host) -> Result<Self, Blind> {
        Self::telling(host, &|_| {})
    }

    /// The same, where `tell` gets the path of each loop device before it is opened.
    pub(crate) fn telling(host: &'a Host, tell: &dyn Fn(&Path)) -> Result<Self, Blind> {
        let blind = |what| move |source| Blind { what, source };
        let swaps = match fs::read(host.proc.join("swaps")) {
            // A kernel without swap has no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => proctext::swaps(&other.map_err(blind("/proc/swaps"))?),
        };
        Ok(Self {
            host,
            mounts: host.mounts().map_err(blind("/proc/self/mountinfo"))?,
            swaps,
            loops: host.loops(tell).map_err(blind("/sys/block"))?,
            btrfs: host.btrfs_members().map_err(blind("/sys/fs/btrfs"))?,
            guard: Guard::read(host)?,
            disks: OnceCell::new(),
        })
    }

    /// The machine that is looked at.
    pub(crate) const fn host(&self) -> &'a Host {
        self.host
    }

    /// The whole disks that are attached.
    pub(crate) fn disks(&self) -> Result<&[Attached], Blind> {
        self.disks_telling(&|_| {})
    }

    /// The same, where `tell` gets the path of each before it is opened, if they were not looked for yet.
    pub(crate) fn disks_telling(&self, tell: &dyn Fn(&Path)) -> Result<&[Attached], Blind> {
        if let Some(disks) = self.disks.get() {
            return Ok(disks);
        }
        let disks = self.host.attached(tell).map_err(|source| Blind { what: "/sys/block", source })?;
        Ok(self.disks.get_or_init(|| disks))
    }

    /// Everyone who uses `disk` or what lies under it, and the other disks that go by its UUID; the gravest first. Of locks only
    /// those on what lies under it are told.
    pub(crate) fn uses(&self, disk: Object) -> Result<Vec<Use>, Blind> {
        let family = self.family(disk)?;
        let mut uses = self.runs_from(&family)?;
        uses.extend(self.mounted(&family));
        uses.extend(self.swapped(&family));
        uses.extend(self.held(&family)?);
        for device in self.loops.iter().filter(|it| family.is_shown_by(it)) {
            uses.push(Use::Loop { device: format!("/dev/{}", device.name), writable: device.writable });
        }
        uses.extend(self.kept_from(disk)?);
        for root in &family.roots {
            uses.extend(self.duplicated(*root)?);
        }
        for root in family.beneath() {
            uses.extend(self.host.locked_under_loops(root));
        }
        Ok(uses)
    }

    /// What the loop devices that `disk` consists of are attached to, block devices only: whoever has one of them exclusively has this disk.
    ///
    /// # Errors
    ///
    /// Also when nobody can tell what one of them is attached to.
    pub(crate) fn devices_under_loops(&self, disk: Object) -> Result<Vec<DevNum>, Blind> {
        let family = self.family(disk)?;
        let unknown = |it: &&LoopDevice| family.through.contains(&it.device) && it.backing.is_none();
        if self.loops.iter().find(unknown).is_some() {
            let source = io::Error::new(io::ErrorKind::NotFound, "neither its driver nor its path tells");
            return Err(Blind { what: LOOP_BACKING, source });
        }
        Ok(family.beneath().filter_map(Object::device).collect())
    }

    /// What the guard of this machine has against writing to `disk`.
    fn kept_from(&self, disk: Object) -> Result<Option<Use>, Blind> {
        let Object::Block(device) = disk else { return Ok(None) };
        if !self.guard.is_active() {
            return Ok(None);
        }
        let below = self.below_of(device)?;
        if let Some(role) = below.iter().find_map(|disk| self.guard.role(self.host, *disk)) {
            return Ok(Some(Use::Own { role: role.to_owned() }));
        }
        let name = |disk: &DevNum| self.host.kernel_name(*disk).unwrap_or_else(|| disk.to_string());
        let disks = || below.iter().map(|disk| format!("/dev/{}", name(disk))).collect();
        Ok((!below.contains(&device)).then(|| Use::Guarded { disks: disks() }))
    }

    /// Whether `disk` is one that is kept read-only until it is claimed: a whole one that is not the machine's own.
    pub(crate) fn guards(&self, disk: Object) -> Result<bool, Blind> {
        let Object::Block(device) = disk else { return Ok(false) };
        Ok(self.guard.is_active() && self.below_of(device)?.contains(&device) && self.role_of(device).is_none())
    }

    /// What the machine has a whole disk for, if it is recorded as its own.
    pub(crate) fn role_of(&self, disk: DevNum) -> Option<&str> {
        self.guard.role(self.host, disk)
    }

    fn below_of(&self, device: DevNum) -> Result<BTreeSet<DevNum>, Blind> {
        self.host.disks_below(device, &self.loops).map_err(|source| Blind { what: "/sys/dev/block", source })
    }

    /// The path that a loop device was attached by.
    pub(crate) fn backing_of(&self, device: DevNum) -> Option<PathBuf> {
        self.loops.iter().find(|it| it.device == device).map(|it| it.backing_path.clone())
    }

    /// Whether `disk`, or the one that it is a partition of, has a SCSI UUID by which it cannot be told from another.
    fn duplicated(&self, disk: Object) -> Result<Option<Use>, Blind> {
        let Object::Block(device) = disk else { return Ok(None) };
        let whole = self.host.whole_disk(device).unwrap_or(device);
        let disks = self.disks()?;
        let Some(own) = disks.iter().find(|it| it.device == whole) else { return Ok(None) };
        let others = self.host.namesakes(own, disks).map_err(|source| Blind { what: "/sys/dev/block", source })?;
        let Some(uuid) = own.uuid.filter(|_| !others.is_empty()) else { return Ok(None) };
        Ok(Some(Use::Duplicate { uuid, others: others.iter().map(|name| format!("/dev/{name}")).collect() }))
    }

    /// Those who could write to `disk` of their own accord: file systems mounted writable, and swap.
    pub(crate) fn writers(&self, disk: Object) -> Result<Vec<Use>, Blind> {
        let family = self.family(disk)?;
        let mounted = self.mounted(&family).into_iter().filter(|it| matches!(it, Use::Mounted { writable: true, .. }));
        Ok(mounted.chain(self.swapped(&family)).collect())
    }

    /// All that shares bytes with `disk`: what lies on it, and on that which the loop devices it consists of are attached to.
    ///
    /// A device that others are made of has a holder, and nobody but that writes to it; so such floors are passed by on the way
    /// down. A loop device leaves what it is attached to open to everybody.
    fn family(&self, disk: Object) -> Result<Family, Blind> {
        let blind = |source| Blind { what: "/sys/dev/block", source };
        let below = match disk {
            Object::Block(device) => self.host.floors_below(device, &self.loops).map_err(blind)?,
            Object::File { .. } => BTreeMap::new(),
        };
        let (through, others): (Vec<_>, Vec<_>) =
            self.loops.iter().cloned().partition(|it| below.contains_key(&it.device));
        let mut family = Family {
            roots: vec![disk],
            devices: self.host.above(disk, &self.loops).map_err(blind)?,
            through: through.iter().map(|it| it.device).collect(),
        };
        for root in through.iter().filter_map(|it| it.backing) {
            family.roots.push(root);
            // A disk that was pulled out has nothing on it any more; its node is missed when it is to be opened.
            if root.device().is_none_or(|device| self.host.node(device).exists()) {
                // Without the loop devices on the way: what lies on them and is no part of this disk does not disturb it.
                family.devices.extend(self.host.above(root, &others).map_err(blind)?);
            }
        }
        Ok(family)
    }

    /// The block devices that a mounted file system lies on.
    fn devices_of(&self, mount: &Mount) -> BTreeSet<DevNum> {
        if !mount.device.is_anonymous() {
            return BTreeSet::from([mount.device]);
        }
        // btrfs and others show a number of their own; what was mounted still names the device. Other sources may lie on
        // a dead network file system, where merely looking would hang.
        let named = mount.source.starts_with(&self.host.dev).then(|| Object::at(&mount.source)).flatten();
        let Some(Object::Block(source)) = named else { return BTreeSet::new() };
        let others =
            self.btrfs.iter().filter(|(_, members)| members.contains(&source)).flat_map(|(_, members)| members);
        others.copied().chain([source]).collect()
    }

    fn mounted(&self, family: &Family) -> Vec<Use> {
        let mut found: Vec<Use> = Vec::new();
        let mut seen = BTreeSet::new();
        for mount in &self.mounts {
            if self.devices_of(mount).is_disjoint(&family.devices) || !seen.insert((mount.device, &mount.at)) {
                continue;
            }
            found.push(Use::Mounted {
                source: mount.source.to_string_lossy().into_owned(),
                at: mount.at.clone(),
                writable: mount.writable,
                elsewhere: mount.elsewhere,
            });
        }
        found
    }

    fn swapped(&self, family: &Family) -> Vec<Use> {
        let on_disk = |path: &&PathBuf| match Object::at(path) {
            Some(Object::Block(device)) => family.devices.contains(&device),
            other => other.is_some_and(|file| family.roots.contains(&file)),
        };
        self.swaps.iter().filter(on_disk).map(|path| Use::Swap { on: path.to_string_lossy().into_owned() }).collect()
    }

    fn held(&self, family: &Family) -> Result<Vec<Use>, Blind> {
        let mut holders = BTreeSet::new();
        for device in &family.devices {
            holders.extend(self.host.holders(*device).map_err(|source| Blind { what: "/sys/dev/block", source })?);
        }
        let mut found: Vec<Use> =
            holders.into_iter().map(|device| Use::Held { by: self.host.spoken_name(device) }).collect();
        let mounted: BTreeSet<DevNum> = self.mounts.iter().flat_map(|mount| self.devices_of(mount)).collect();
        for (uuid, members) in &self.btrfs {
            if members.iter().any(|it| family.devices.contains(it)) && !members.iter().any(|it| mounted.contains(it)) {
                found.push(Use::Held { by: format!("the btrfs file system {uuid}") });
            }
        }
        Ok(found)
    }

    /// What of the running system lies there.
    fn runs_from(&self, family: &Family) -> Result<Vec<Use>, Blind> {
        let mut found = Vec::new();
        for anchor in self.host.anchors()? {
            let below = self.below(&anchor)?;
            if family.roots.iter().any(|root| below.contains(root)) {
                found.push(Use::RunsFrom { what: anchor.what.to_owned() });
            }
        }
        Ok(found)
    }

    /// All block devices and files below the file system that holds `anchor`: through partitions, slaves, the backing
    /// files of loop devices and the layers of overlays, down to the disks.
    pub(crate) fn below(&self, anchor: &Anchor) -> Result<BTreeSet<Object>, Blind> {
        let mut seen = BTreeSet::new();
        let mut walked = BTreeSet::new();
        let mut file_systems = vec![(anchor.device, anchor.path.clone())];
        while let Some((device, path)) = file_systems.pop() {
            if !walked.insert((device, path.clone())) {
                continue;
            }
            for base in self.base_of(device, &path, &mut file_systems) {
                let below = self.host.floors_below(base, &self.loops);
                let below = below.map_err(|source| Blind { what: "/sys/dev/block", source })?;
                for it in self.loops.iter().filter(|it| below.contains_key(&it.device)) {
                    if let Some(Object::File { device, .. }) = it.backing {
                        file_systems.push((device, it.backing_path.clone()));
                    }
                }
                seen.insert(Object::Block(base));
                seen.extend(below.into_values().flatten());
            }
        }
        Ok(seen)
    }

    /// The block devices directly below the file system that holds `path`; the layers of an overlay go to `layers`.
    fn base_of(&self, device: DevNum, path: &Path, layers: &mut Vec<(DevNum, PathBuf)>) -> Vec<DevNum> {
        if !device.is_anonymous() {
            return vec![device];
        }
        // A btrfs subvolume has in stat another number than in mountinfo; then the path tells the mount.
        let own = || self.mounts.iter().filter(|mount| mount.elsewhere.is_none());
        let by_path = || own().filter(|it| path.starts_with(&it.at)).max_by_key(|it| it.at.components().count());
        let Some(mount) = own().find(|it| it.device == device).or_else(by_path) else { return Vec::new() };
        for layer in &mount.layers {
            if let Ok(metadata) = fs::metadata(layer) {
                layers.push((DevNum::new(metadata.dev()), layer.clone()));
            }
        }
        self.devices_of(mount).into_iter().collect()
    }
}

/// All that shares bytes with a disk.
struct Family {
    /// The disk itself, and what the loop devices that it consists of are attached to.
    roots: Vec<Object>,
    /// The block devices that lie on any of these.
    devices: BTreeSet<DevNum>,
    /// The loop devices that it consists of.
    through: BTreeSet<DevNum>,
}

impl Family {
    /// What the loop devices that the disk consists of are attached to.
    fn beneath(&self) -> impl Iterator<Item = Object> {
        self.roots.iter().skip(1).copied()
    }

    /// Whether a loop device that the disk does not consist of shows a part of it.
    fn is_shown_by(&self, device: &LoopDevice) -> bool {
        let is_here = |backing: Object| match backing {
            Object::Block(under) => self.devices.contains(&under),
            file @ Object::File { .. } => self.roots.contains(&file),
        };
        !self.through.contains(&device.device) && device.backing.is_some_and(is_here)
    }
}

impl Host {
    /// The mounts of our namespace, then those of the others that we may look into.
    fn mounts(&self) -> io::Result<Vec<Mount>> {
        let mut all = proctext::mounts(&fs::read(self.proc.join("self/mountinfo"))?)?;
        let mut namespaces = BTreeSet::new();
        namespaces.extend(fs::read_link(self.proc.join("self/ns/mnt")).ok());
        let mut processes: Vec<u32> =
            fs::read_dir(&self.proc)?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        processes.sort_unstable();
        for pid in processes {
            let place = self.proc.join(pid.to_string());
            // Not permitted, or ended meanwhile: what we cannot see here, the exclusive open still refuses.
            let Ok(namespace) = fs::read_link(place.join("ns/mnt")) else { continue };
            if namespaces.contains(&namespace) {
                continue;
            }
            let Ok(text) = fs::read(place.join("mountinfo")) else { continue };
            // A process that is ending has an empty one; another of that namespace may follow.
            if !text.is_empty() {
                namespaces.insert(namespace);
                all.extend(proctext::mounts(&text)?.into_iter().map(|it| Mount { elsewhere: Some(pid), ..it }));
            }
        }
        Ok(all)
    }

    /// What must stay: the root file system and the program itself.
    fn anchors(&self) -> Result<Vec<Anchor>, Blind> {
        let mut found = Vec::new();
        if let Some(root) = &self.root {
            let metadata = fs::metadata(root).map_err(|source| Blind { what: "/", source })?;
            found.push(Anchor {
                what: "the root file system",
                device: DevNum::new(metadata.dev()),
                path: root.clone(),
            });
        }
        let exe = self.proc.join("self/exe");
        let metadata = fs::metadata(&exe).map_err(|source| Blind { what: "/proc/self/exe", source })?;
        let path = fs::read_link(&exe).map_err(|source| Blind { what: "/proc/self/exe", source })?;
        found.push(Anchor { what: "this program", device: DevNum::new(metadata.dev()), path });
        Ok(found)
    }

    /// The locks that others have on an opened file or device node.
    pub(crate) fn locks_on(&self, metadata: &fs::Metadata) -> Vec<FileLock> {
        self.locks_on_inode(DevNum::new(metadata.dev()), metadata.ino())
    }

    fn locks_on_inode(&self, device: DevNum, inode: u64) -> Vec<FileLock> {
        let text = fs::read(self.proc.join("locks")).unwrap_or_default();
        let mut found = proctext::locks(&text);
        found.retain(|lock| lock.device == device && lock.inode == inode);
        found
    }

    /// The holders of such locks, as uses of a disk.
    pub(crate) fn locked(&self, metadata: &fs::Metadata, block_device: bool) -> Vec<Use> {
        self.holders_of(self.locks_on(metadata), block_device)
    }

    /// The same of what a loop device is attached to.
    fn locked_under_loops(&self, object: Object) -> Vec<Use> {
        match object {
            Object::File { device, inode } => self.holders_of(self.locks_on_inode(device, inode), false),
            Object::Block(device) => {
                let node = self.kernel_name(device).map(|name| self.dev.join(name));
                let node = node.and_then(|node| fs::metadata(node).ok());
                node.map(|node| self.locked(&node, true)).unwrap_or_default()
            }
        }
    }

    fn holders_of(&self, locks: Vec<FileLock>, block_device: bool) -> Vec<Use> {
        let mut found = BTreeMap::new();
        for lock in locks {
            // udev takes a shared lock on a whole disk for the moment in which it looks at it.
            let passing = block_device && lock.whole && !lock.exclusive;
            if !passing {
                found.entry((lock.pid, lock.whole)).or_insert_with(|| Use::Locked { by: self.process(lock.pid) });
            }
        }
        found.into_values().collect()
    }

    fn process(&self, pid: Option<u32>) -> Option<String> {
        let pid = pid?;
        let name = fs::read(self.proc.join(pid.to_string()).join("comm")).ok()?;
        Some(format!("{} (process {pid})", String::from_utf8_lossy(name.trim_ascii())))
    }
}

#[cfg(test)]
mod tests;
