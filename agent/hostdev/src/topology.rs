//! How block devices lie on each other: partitions, holders, slaves and loop devices, as sysfs tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::sys::statfs::{SYSFS_MAGIC, statfs};

use crate::proctext::unescape;
use crate::sys;

/// The number of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DevNum {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl DevNum {
    /// From the `st_dev` or `st_rdev` of `stat`.
    pub(crate) fn new(number: u64) -> Self {
        Self { major: libc::major(number), minor: libc::minor(number) }
    }

    /// Whether this is no block device but the number that a file system without one was given.
    pub(crate) const fn is_anonymous(self) -> bool {
        self.major == 0
    }
}

impl fmt::Display for DevNum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for DevNum {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (major, minor) = text.trim().split_once(':').ok_or(())?;
        Ok(Self { major: major.parse().map_err(|_| ())?, minor: minor.parse().map_err(|_| ())? })
    }
}

/// What can hold the bytes of a disk: a block device or a file, told apart by number and never by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Object {
    Block(DevNum),
    File { device: DevNum, inode: u64 },
}

impl Object {
    /// What this is the metadata of; `None` for what holds no disk.
    pub(crate) fn of(metadata: &Metadata) -> Option<Self> {
        let kind = metadata.file_type();
        if kind.is_block_device() {
            Some(Self::Block(DevNum::new(metadata.rdev())))
        } else if kind.is_file() {
            Some(Self::File { device: DevNum::new(metadata.dev()), inode: metadata.ino() })
        } else {
            None
        }
    }

    /// The number of a block device.
    pub(crate) const fn device(self) -> Option<DevNum> {
        match self {
            Self::Block(device) => Some(device),
            Self::File { .. } => None,
        }
    }

    /// What a path names, if it names something that holds a disk.
    pub(crate) fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().and_then(Self::of)
    }
}

/// A loop device that is attached to something.
#[derive(Clone, Debug)]
pub(crate) struct LoopDevice {
    pub(crate) device: DevNum,
    pub(crate) name: String,
    /// What it is attached to; `None` if that cannot be told.
    pub(crate) backing: Option<Object>,
    /// The path it was attached by, for names only.
    pub(crate) backing_path: PathBuf,
    pub(crate) writable: bool,
}

/// A file or directory that the running system lives on, and what to call it.
#[derive(Clone, Debug)]
pub(crate) struct Anchor {
    pub(crate) what: &'static str,
    pub(crate) device: DevNum,
    pub(crate) path: PathBuf,
}

/// A machine, by the files in which its kernel and its configuration speak: the one that this runs on, or a directory that
/// stands for one.
#[derive(Clone, Debug)]
pub struct Host {
    pub(crate) sys: PathBuf,
    pub(crate) proc: PathBuf,
    pub(crate) dev: PathBuf,
    /// What every other path begins with.
    base: PathBuf,
    /// Where the root file system is; tests have none.
    pub(crate) root: Option<PathBuf>,
}

impl Host {
    /// The machine we run on.
    #[must_use]
    pub fn this() -> Self {
        Self { root: Some("/".into()), ..Self::below(Path::new("/")) }
    }

    /// A machine whose `/proc`, `/sys`, `/dev`, `/etc` and others are directories below `base`, as in a test. What only a running
    /// kernel answers is asked of the one that we run on.
    #[must_use]
    pub fn below(base: &Path) -> Self {
        let at = |name| base.join(name);
        Self { sys: at("sys"), proc: at("proc"), dev: at("dev"), base: base.to_owned(), root: None }
    }

    /// Where the file of an absolute path is on this machine.
    #[must_use]
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        self.base.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    /// Whether it is the machine we run on.
    #[must_use]
    pub const fn is_this(&self) -> bool {
        self.root.is_some()
    }

    /// The entries of `/sys/block`. That it is empty may be so; that it is no part of sysfs means that nobody knows of any disk.
    pub(crate) fn block_entries(&self) -> io::Result<Vec<PathBuf>> {
        let place = self.sys.join("block");
        let entries = fs::read_dir(&place)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        if entries.is_empty() && self.is_this() && statfs(&place)?.filesystem_type() != SYSFS_MAGIC {
            return Err(io::Error::new(io::ErrorKind::NotFound, "sysfs is not mounted there"));
        }
        Ok(entries)
    }

    /// The directory of a block device in sysfs.
    pub(crate) fn node(&self, device: DevNum) -> PathBuf {
        self.sys.join("dev/block").join(device.to_string())
    }

    /// One attribute of a block device, without blanks around it; `None` if it has none such.
    pub(crate) fn attribute(&self, device: DevNum, name: &str) -> Option<String> {
        let bytes = fs::read(self.node(device).join(name)).ok()?;
        let text = String::from_utf8_lossy(&bytes).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// The kernel's name of a block device, such as `sdb` or `loop3`.
    pub(crate) fn kernel_name(&self, device: DevNum) -> Option<String> {
        let place = fs::canonicalize(self.node(device)).ok()?;
        // A slash in a name (cciss/c0d0) is an exclamation mark in sysfs.
        Some(place.file_name()?.to_string_lossy().replace('!', "/"))
    }

    /// A name for messages: what the administrator gave it, else the kernel's name.
    pub(crate) fn spoken_name(&self, device: DevNum) -> String {
        let kernel = self.kernel_name(device).unwrap_or_else(|| device.to_string());
        let Some(name) = self.attribute(device, "dm/name") else {
            return if self.attribute(device, "md/level").is_some() {
                format!("the RAID array {kernel}")
            } else {
                kernel
            };
        };
        let uuid = self.attribute(device, "dm/uuid").unwrap_or_default();
        let kind = match uuid.split('-').next() {
            Some("LVM") => "the LVM volume",
            Some("CRYPT") => "the encrypted volume",
            Some("mpath") => "the multipath device",
            _ => "the device-mapper device",
        };
        format!("{kind} {name}")
    }

    /// The disk that a partition is part of; `None` for what is no partition.
    pub(crate) fn whole_disk(&self, device: DevNum) -> Option<DevNum> {
        self.attribute(device, "partition")?;
        let place = fs::canonicalize(self.node(device)).ok()?;
        fs::read_to_string(place.parent()?.join("dev")).ok()?.parse().ok()
    }

    /// The partitions that the kernel knows on a disk.
    pub(crate) fn partitions(&self, disk: DevNum) -> io::Result<Vec<DevNum>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.node(disk))? {
            let place = entry?.path();
            if place.join("partition").exists()
                && let Some(device) = number_in(&place)?
            {
                found.push(device);
            }
        }
        Ok(found)
    }

    /// Devices made of this one: device mapper, RAID arrays, bcache.
    pub(crate) fn holders(&self, device: DevNum) -> io::Result<Vec<DevNum>> {
        self.links(device, "holders")
    }

    /// Devices that this one is made of.
    pub(crate) fn slaves(&self, device: DevNum) -> io::Result<Vec<DevNum>> {
        self.links(device, "slaves")
    }

    fn links(&self, device: DevNum, kind: &str) -> io::Result<Vec<DevNum>> {
        Self::numbers_in(&self.node(device).join(kind))
    }

    /// The devices whose sysfs directories are entries of `directory`, which may be absent.
    fn numbers_in(directory: &Path) -> io::Result<Vec<DevNum>> {
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            found.extend(number_in(&entry?.path())?);
        }
        Ok(found)
    }

    /// The devices of every mounted btrfs file system, and its UUID: its own sysfs directory names all of them, while
    /// mountinfo names one and the kernel keeps no holder for any.
    pub(crate) fn btrfs_members(&self) -> io::Result<Vec<(String, Vec<DevNum>)>> {
        let entries = match fs::read_dir(self.sys.join("fs/btrfs")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let members = Self::numbers_in(&entry.path().join("devices"))?;
            if !members.is_empty() {
                found.push((entry.file_name().to_string_lossy().into_owned(), members));
            }
        }
        Ok(found)
    }

    /// All attached loop devices. `tell` gets the path of each before it is opened.
    pub(crate) fn loops(&self, tell: &dyn Fn(&Path)) -> io::Result<Vec<LoopDevice>> {
        let mut found = Vec::new();
        for place in self.block_entries()? {
            let Ok(text) = fs::read(place.join("loop/backing_file")) else { continue };
            let Some(device) = number_in(&place)? else { continue };
            let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let text = text.strip_suffix(b"\n").unwrap_or(&text);
            // d_path marks a file whose name is gone; sysfs does not escape, but a blank may come as an octal escape.
            let backing_path = unescape(text.strip_suffix(b" (deleted)").unwrap_or(text));
            tell(&self.dev.join(&name));
            let backing = self.loop_backing(&name, device).or_else(|| Object::at(&backing_path));
            let writable = fs::read_to_string(place.join("ro")).is_ok_and(|ro| ro.trim() == "0");
            found.push(LoopDevice { device, name, backing, backing_path, writable });
        }
        Ok(found)
    }

    /// What the loop driver itself says it is attached to. The path in sysfs may by now name another file, or lie in
    /// another mount namespace.
    fn loop_backing(&self, name: &str, device: DevNum) -> Option<Object> {
        let node = open_node(&self.dev.join(name), device)?;
        let info = sys::loop_status(node.as_fd()).ok()?;
        // Over a block device, st_rdev is that device's number; over a file it is 0 (loop_get_status).
        Some(match DevNum::new(info.rdevice) {
            backing if !backing.is_anonymous() => Object::Block(backing),
            _ => Object::File { device: DevNum::new(info.device), inode: info.inode },
        })
    }

    /// What a block device directly consists of: what it is made of, the disk that it is a part of, and what it is attached to if it
    /// is a loop device.
    fn directly_below(&self, device: DevNum, loops: &[LoopDevice]) -> io::Result<Vec<Object>> {
        let devices = self.slaves(device)?.into_iter().chain(self.whole_disk(device)).map(Object::Block);
        let attached = loops.iter().filter(|it| it.device == device).filter_map(|it| it.backing);
        Ok(devices.chain(attached).collect())
    }

    /// Everything that `start` consists of, itself included, down to the disks and to the files under loop devices; each block device
    /// with what is directly below it.
    pub(crate) fn floors_below(
        &self,
        start: DevNum,
        loops: &[LoopDevice],
    ) -> io::Result<BTreeMap<DevNum, Vec<Object>>> {
        let mut found = BTreeMap::new();
        let mut todo = vec![start];
        while let Some(device) = todo.pop() {
            if found.contains_key(&device) {
                continue;
            }
            let below = self.directly_below(device, loops)?;
            todo.extend(below.iter().filter_map(|object| object.device()));
            found.insert(device, below);
        }
        Ok(found)
    }

    /// Everything that lies on `start`, itself included: its partitions, what holds it or them, loop devices over any of
    /// these, and so on upwards. Of a partition also the disk it is part of, but none of its siblings.
    pub(crate) fn above(&self, start: Object, loops: &[LoopDevice]) -> io::Result<BTreeSet<DevNum>> {
        let mut seen = BTreeSet::new();
        let mut todo = Vec::new();
        let over = |object| loops.iter().filter(move |it| it.backing == Some(object)).map(|it| it.device);
        match start {
            Object::File { .. } => todo.extend(over(start)),
            Object::Block(device) => {
                todo.push(device);
                if let Some(disk) = self.whole_disk(device) {
                    seen.insert(disk);
                    todo.extend(self.holders(disk)?);
                    todo.extend(over(Object::Block(disk)));
                }
            }
        }
        while let Some(device) = todo.pop() {
            if seen.insert(device) {
                todo.extend(self.partitions(device)?);
                todo.extend(self.holders(device)?);
                todo.extend(over(Object::Block(device)));
            }
        }
        Ok(seen)
    }
}

/// Opens a device node if it is the block device of that number.
pub(crate) fn open_node(path: &Path, device: DevNum) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    if Object::at(path) != Some(Object::Block(device)) {
        return None;
    }
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()?;
    (file.metadata().ok().as_ref().and_then(Object::of) == Some(Object::Block(device))).then_some(file)
}

/// The number of the device whose sysfs directory this is; `None` if it went away just now or is none.
pub(crate) fn number_in(place: &Path) -> io::Result<Option<DevNum>> {
    match fs::read_to_string(place.join("dev")) {
        Ok(text) => text.parse().map(Some).map_err(|()| {
            let text = format!("{} holds no device number", place.join("dev").display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        }),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENOTDIR)) => Ok(None),
        Err(error) => Err(error),
    }
}
