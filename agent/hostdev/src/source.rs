//! A disk or image that is read.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::identity::{DiskIdentity, DiskName};
use crate::lookout::Lookout;
use crate::open::{Access, SourceError, peek};
use crate::topology::{DevNum, Host, Object};
use crate::uses::Use;

/// A disk or image opened for reading; it claims nothing and hinders nobody.
#[derive(Debug)]
pub struct Source {
    file: File,
    object: Object,
    identity: DiskIdentity,
}

/// A mark that differs between two moments if the disk was written to in between.
///
/// For a block device it is the kernel's count of completed writes and discards. Not counted are what lies in the page
/// cache of a mounted file system and was not yet written back, commands that a program passes to the disk past the block
/// layer, and, for a partition, what is written through the node of its disk.
///
/// For an image it is size, modification and change time; two writes within one tick of the file system's clock (up to
/// 10 ms on kernels before 6.13) may leave the same mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeMark(Mark);

impl ChangeMark {
    /// The mark as a text that may be kept, and compared with one that is made later, also by another process. `None` where a later start of
    /// the machine could not be told from this one.
    #[must_use]
    pub fn record(&self) -> Option<String> {
        let boot = match self.0 {
            // The kernel's counters begin anew with it.
            Mark::Device { .. } => fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?,
            Mark::Image { .. } => String::new(),
        };
        Some(format!("{boot}{:?}", self.0))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mark {
    Device { sequence: Option<String>, size: Option<String>, writes: Counters },
    Image { size: u64, modified: (i64, i64), changed: (i64, i64) },
}

/// What `/sys/dev/block/M:m/stat` counts of writing (Documentation/block/stat.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    writes: u64,
    sectors_written: u64,
    discards: u64,
    sectors_discarded: u64,
}

impl Source {
    /// Opens a block device or image for reading.
    ///
    /// # Errors
    ///
    /// When there is none at `path`, it is no block device or regular file, it cannot be opened, or it has no medium.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let seen = peek(path)?;
        let file = seen.open(Access::Read)?;
        let identity = seen.identify(&Host::this(), &file)?;
        Ok(Self { file, object: seen.object, identity })
    }

    /// Which disk it is.
    #[must_use]
    pub const fn identity(&self) -> &DiskIdentity {
        &self.identity
    }

    /// Another descriptor of the same open file, close-on-exec, for reading.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.file.try_clone().map(OwnedFd::from)
    }

    /// Who could write to it while it is read: file systems mounted writable on it, on its partitions or on anything made
    /// of them (for an image: through loop devices), and swap. Empty if nobody is known to.
    ///
    /// # Errors
    ///
    /// [`SourceError::Blind`] when procfs or sysfs cannot be read.
    pub fn writable_uses(&self) -> Result<Vec<Use>, SourceError> {
        let host = Host::this();
        let blind = |it| SourceError::blind(&self.name(), it);
        Lookout::new(&host).map_err(blind)?.writers(self.object).map_err(blind)
    }

    /// How many 512-byte sectors were written to the block device since it appeared; `None` for images, and for devices
    /// whose requests are not counted.
    #[must_use]
    pub fn write_counter(&self) -> Option<u64> {
        let Object::Block(device) = self.object else { return None };
        Host::this().counters(device).map(|it| it.sectors_written)
    }

    /// A mark to compare with a later one: if both are equal, then nothing was written in between, as far as the kernel
    /// counts (see [`ChangeMark`]).
    ///
    /// # Errors
    ///
    /// When the kernel does not count the writes to this device, or the image cannot be looked at.
    pub fn change_mark(&self) -> io::Result<ChangeMark> {
        match self.object {
            Object::Block(device) => Host::this().device_mark(device).map(ChangeMark),
            Object::File { .. } => {
                let metadata = self.file.metadata()?;
                Ok(ChangeMark(Mark::Image {
                    size: metadata.len(),
                    modified: (metadata.mtime(), metadata.mtime_nsec()),
                    changed: (metadata.ctime(), metadata.ctime_nsec()),
                }))
            }
        }
    }

    fn name(&self) -> DiskName {
        self.identity.name()
    }
}

impl Host {
    fn device_mark(&self, device: DevNum) -> io::Result<Mark> {
        let writes = self.counters(device).ok_or_else(|| {
            let name = self.kernel_name(device).unwrap_or_else(|| device.to_string());
            io::Error::other(format!("the kernel does not count the writes to {name}: set queue/iostats to 1 in sysfs"))
        })?;
        let disk = self.whole_disk(device).unwrap_or(device);
        Ok(Mark::Device {
            // Counts the disks that ever had this name (5.15 and later): another medium is another disk.
            sequence: self.attribute(disk, "diskseq"),
            size: self.attribute(device, "size"),
            writes,
        })
    }

    fn counters(&self, device: DevNum) -> Option<Counters> {
        // With iostats off the counters stand still, which would look like silence.
        let disk = self.whole_disk(device).unwrap_or(device);
        if self.attribute(disk, "queue/iostats").as_deref() == Some("0") {
            return None;
        }
        counters(&self.attribute(device, "stat")?)
    }
}

/// Parses the line of numbers; kernels before 4.18 had none for discards.
fn counters(stat: &str) -> Option<Counters> {
    let fields: Vec<u64> = stat.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let optional = |index: usize| fields.get(index).copied().unwrap_or_default();
    Some(Counters {
        writes: *fields.get(4)?,
        sectors_written: *fields.get(6)?,
        discards: optional(11),
        sectors_discarded: optional(13),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_counters() {
        let line = "  10 1 80 3  7 2 56 9  0 12 12  4 0 4096 1  0 0";
        let wanted = Counters { writes: 7, sectors_written: 56, discards: 4, sectors_discarded: 4096 };
        assert_eq!(counters(line), Some(wanted));
        let old = "10 1 80 3 7 2 56 9 0 12 12";
        assert_eq!(counters(old), Some(Counters { discards: 0, sectors_discarded: 0, ..wanted }));
        for bad in ["", "1 2 3 4 5 6", "1 2 3 4 x 6 7 8 9 10 11", "-1 0 0 0 0 0 0 0 0 0 0"] {
            assert_eq!(counters(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_image_that_grows_has_another_mark() {
        use std::io::Write;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[0; 4096]).unwrap();
        let source = Source::open(file.path()).unwrap();
        let before = source.change_mark().unwrap();
        assert_eq!(before, source.change_mark().unwrap());
        file.write_all(b"more").unwrap();
        assert_ne!(before, source.change_mark().unwrap());
        assert_eq!(before.record(), before.clone().record());
        assert!(before.record().is_some() && before.record() != source.change_mark().unwrap().record());
        assert_eq!(source.write_counter(), None);
    }
}
