//! Who uses a disk, in words.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::vpd::ScsiUuid;

/// A reason for which a disk must not be written to: someone who uses it, or something that forbids it.
///
/// Its `Display` is a clause that completes "the disk is …".
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Use {
    /// A file system on the disk, on a partition of it or on something made of it is mounted.
    Mounted {
        /// What was mounted: usually a device path such as `/dev/sdb1`.
        source: String,
        /// The directory it is mounted at.
        at: PathBuf,
        /// Whether the file system may be written to.
        writable: bool,
        /// A process that sees this mount, if it lies in a mount namespace that is not ours, as in a container.
        elsewhere: Option<u32>,
    },
    /// The disk, a partition of it or the image is swapped to.
    Swap {
        /// The device or file that is the swap space.
        on: String,
    },
    /// The kernel made another device of it: LVM, RAID, encryption, multipath; or a file system has it.
    Held {
        /// That device.
        by: String,
    },
    /// A loop device shows the disk or image a second time.
    Loop {
        /// The loop device, such as `/dev/loop3`.
        device: String,
        /// Whether it can be written through.
        writable: bool,
    },
    /// The running system lies on the disk.
    RunsFrom {
        /// What of it: the root file system, or this program.
        what: String,
    },
    /// The machine has recorded the disk as its own, or what is named lies on such a disk.
    Own {
        /// What it has the disk for: `system`, `retention` or `job`.
        role: String,
    },
    /// It is a part of disks that are kept read-only, or made of them; only a whole disk is made writable.
    Guarded {
        /// Those disks, such as `/dev/sdb`.
        disks: Vec<String>,
    },
    /// Other disks show the same SCSI UUID, so that nobody can say which of them is meant by it.
    ///
    /// Paths to one disk that multipath has put together are not told here: such a path is [`Held`](Self::Held).
    Duplicate {
        /// The UUID.
        uuid: ScsiUuid,
        /// The other disks, such as `/dev/sdc`.
        others: Vec<String>,
    },
    /// Another program has locked it: another failback, or a virtual machine that runs on the image.
    Locked {
        /// Its name and number, where the kernel tells.
        by: Option<String>,
    },
    /// Someone has opened the disk exclusively, and the kernel does not tell who.
    Busy,
    /// It cannot be written to: write protection, or a file system mounted read-only.
    ReadOnly,
    /// This user may not write to it.
    Forbidden,
}

impl Use {
    /// How grave it is, and which advice it needs: the smaller number is told first.
    pub(crate) const fn rank(&self) -> u8 {
        match self {
            Self::RunsFrom { .. } => 0,
            Self::Own { .. } => 1,
            Self::Mounted { .. } => 2,
            Self::Swap { .. } => 3,
            Self::Held { .. } => 4,
            Self::Loop { .. } => 5,
            Self::Guarded { .. } => 6,
            Self::Duplicate { .. } => 7,
            Self::Locked { .. } => 8,
            Self::Busy => 9,
            Self::ReadOnly => 10,
            Self::Forbidden => 11,
        }
    }

    /// Whether nothing can be done about it.
    const fn is_final(&self) -> bool {
        matches!(self, Self::RunsFrom { .. } | Self::Own { .. })
    }

    /// What to do about it.
    fn advice(&self) -> String {
        match self {
            Self::RunsFrom { .. } | Self::Own { .. } => {
                "name another disk, this one can never be written from here".into()
            }
            Self::Guarded { disks } => format!("name {} as a whole", plain(&disks.join(" or "))),
            Self::Mounted { elsewhere: Some(_), .. } => "stop the container or service that mounted it first".into(),
            Self::Mounted { .. } => "unmount it first".into(),
            Self::Swap { on } => format!("switch that off with `swapoff {}` first", plain(on)),
            Self::Held { .. } => {
                "take that down first (`vgchange -an`, `mdadm --stop`, `cryptsetup close`, `multipath -f`)".into()
            }
            Self::Loop { device, .. } => format!("detach it with `losetup -d {}` first", plain(device)),
            Self::Duplicate { .. } => "detach all but one of them, or give the copy of a VMDK a UUID of its own \
                 (on the ESXi host, VM powered off: `vmkfstools -J setuuid DISK.vmdk`)"
                .into(),
            Self::Locked { .. } => "wait until that has finished, or stop it first".into(),
            Self::Busy => "stop that program first (`fuser -v` and `lsof` show who has it open)".into(),
            Self::ReadOnly => "remove the write protection first".into(),
            Self::Forbidden => {
                "become root, or lift what else forbids it (`lsattr`, a container's device list), first".into()
            }
        }
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { source, at, elsewhere, .. } => {
                write!(f, "mounted at {}", plain_path(at))?;
                if !source.is_empty() {
                    write!(f, " (from {})", plain(source))?;
                }
                elsewhere.map_or(Ok(()), |pid| write!(f, " in the mount namespace of process {pid}"))
            }
            Self::Swap { on } => write!(f, "in use as swap space ({})", plain(on)),
            Self::Held { by } => write!(f, "in use by {}", plain(by)),
            Self::Loop { device, .. } => write!(f, "attached as loop device {}", plain(device)),
            Self::Duplicate { uuid, others } => {
                write!(f, "of the same SCSI UUID ({uuid}) as {}", plain(&others.join(" and ")))
            }
            Self::RunsFrom { what } => write!(f, "the disk that {} runs from", plain(what)),
            Self::Own { role } => write!(f, "the machine's own {} disk by /etc/failback/own-disks", plain(role)),
            Self::Guarded { disks } => write!(f, "a part of {}, which is kept read-only", plain(&disks.join(" and "))),
            Self::Locked { by: Some(by) } => write!(f, "claimed by another program, {}", plain(by)),
            Self::Locked { by: None } => f.write_str("claimed by another program"),
            Self::Busy => f.write_str("in use by the kernel or by another program"),
            Self::ReadOnly => f.write_str("read-only"),
            Self::Forbidden => f.write_str("not writable for this user"),
        }
    }
}

/// "is mounted at /srv (from /dev/sdb1): unmount it first, then run this again".
pub(crate) struct Refusal<'a>(pub(crate) &'a [Use]);

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut advice: Vec<String> = Vec::new();
        for (index, it) in self.0.iter().enumerate() {
            let joint = match index {
                0 => "is ",
                _ if index + 1 == self.0.len() => " and ",
                _ => ", ",
            };
            write!(f, "{joint}{it}")?;
            let next = it.advice();
            if !advice.contains(&next) {
                advice.push(next);
            }
        }
        // Where nothing helps, other advice would only lead astray.
        if let Some(never) = self.0.iter().find(|it| it.is_final()) {
            return write!(f, ": {}", never.advice());
        }
        write!(f, ": {}, then run this again", advice.join(", "))
    }
}

/// A text that others chose, with escapes in place of control characters and of those that change the order of what is read: it
/// must not move the cursor of a terminal, nor look like what it is not.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_invisible(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Separators of lines, marks of direction, and characters without width.
const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A path for messages.
pub(crate) fn plain_path(path: &Path) -> String {
    plain(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(source: &str, at: &str) -> Use {
        Use::Mounted { source: source.into(), at: at.into(), writable: true, elsewhere: None }
    }

    #[test]
    fn one_use_is_one_sentence() {
        let refusal = Refusal(&[mounted("/dev/sdb1", "/srv")]).to_string();
        assert_eq!(refusal, "is mounted at /srv (from /dev/sdb1): unmount it first, then run this again");
        let swap = Refusal(&[Use::Swap { on: "/dev/sdb2".into() }]).to_string();
        let wanted =
            "is in use as swap space (/dev/sdb2): switch that off with `swapoff /dev/sdb2` first, then run this again";
        assert_eq!(swap, wanted);
    }

    #[test]
    fn several_uses_are_all_named_and_advice_is_not_repeated() {
        let uses = [
            mounted("/dev/sdb1", "/srv"),
            mounted("/dev/sdb2", "/var"),
            Use::Held { by: "the LVM volume vg-home".into() },
        ];
        let text = Refusal(&uses).to_string();
        assert!(text.starts_with(
            "is mounted at /srv (from /dev/sdb1), mounted at /var (from /dev/sdb2) and in use by the LVM volume vg-home: unmount"
        ));
        assert_eq!(text.matches("unmount").count(), 1);
    }

    #[test]
    fn the_system_disk_gets_no_other_advice() {
        let uses = [Use::RunsFrom { what: "the root file system".into() }, mounted("/dev/sda1", "/")];
        let text = Refusal(&uses).to_string();
        assert!(text.ends_with("name another disk, this one can never be written from here"), "{text}");
        assert!(!text.contains("unmount"), "{text}");
    }

    #[test]
    fn names_cannot_drive_the_terminal() {
        let text = mounted("/dev/sdb1\u{1b}[2J", "/srv\nall is well").to_string();
        assert!(!text.contains(|c: char| c.is_control()), "{text}");
        assert_eq!(plain("disk\u{202e}ksid\u{9b}2J\u{feff}ä"), r"disk\u{202e}ksid\u{9b}2J\u{feff}ä");
    }
}
