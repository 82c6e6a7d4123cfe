//! Disks that a careless system takes hold of: as they come from machines that lost their power.

use failback_tests::lab::{Loop, Place, noise, tool};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// A disk with a partition table, an ext4 and swap space.
pub(crate) fn partitioned(place: &Place) -> PathBuf {
    let path = place.sparse("partitioned.img", 24 * MIB, &[]);
    tool("sgdisk", &["-o", "-n", "1:1M:+12M", "-t", "1:8300", "-n", "2:0:+8M", "-t", "2:8200", path.to_str().unwrap()]);
    let file_system = place.ext4("partitioned.ext4", 12 * MIB, &[]);
    let swap = place.sparse("partitioned.swap", 8 * MIB, &[]);
    tool("mkswap", &[&swap]);
    put(&path, MIB, &fs::read(file_system).unwrap());
    put(&path, 13 * MIB, &fs::read(swap).unwrap());
    path
}

/// A physical volume of LVM's, with the logical volume `data` of the group `strange`, which holds an ext4.
pub(crate) fn physical_volume(place: &Place) -> PathBuf {
    let path = place.sparse("physical.img", 24 * MIB, &[]);
    let device = Loop::attach(&path, &[]);
    let name = device.path.to_str().unwrap();
    let config =
        format!("devices {{ filter=[\"a|^{name}$|\",\"r|.*|\"] use_devicesfile=0 }} backup {{ backup=0 archive=0 }}");
    let lvm = |arguments: &[&str]| {
        tool("lvm", &[arguments, &["--config", &config, "--driverloaded", "n", "--quiet"]].concat())
    };
    lvm(&["vgcreate", "-s", "1M", "strange", name]);
    lvm(&["lvcreate", "-an", "-Zn", "-Wn", "-l", "12", "-n", "data", "strange"]);
    let start = lvm(&["pvs", "--noheadings", "--nosuffix", "--units", "b", "-o", "pe_start", name]);
    let file_system = place.ext4("physical.ext4", 12 * MIB, &[]);
    put(&path, start.parse().unwrap(), &fs::read(file_system).unwrap());
    path
}

/// A btrfs, over the whole disk.
pub(crate) fn btrfs(place: &Place) -> PathBuf {
    let path = place.sparse("btrfs.img", 128 * MIB, &[]);
    tool("mkfs.btrfs", &["-q", path.to_str().unwrap()]);
    path
}

/// A copy of another disk: with all of its UUIDs and labels.
pub(crate) fn copy(of: &Path) -> PathBuf {
    let path = of.with_extension("copy");
    fs::copy(of, &path).unwrap();
    path
}

/// The two members of a mirror that was not stopped, so that whoever assembles it writes to it at once.
///
/// Superblocks of version 1.2 (`linux/raid/md_p.h`), made here since the machine that tests run on may have no software RAID.
pub(crate) fn mirror(place: &Place) -> [PathBuf; 2] {
    [0, 1].map(|member| {
        let path = place.noisy(&format!("member{member}.img"), 16 << 20, 7);
        put(&path, 4096, &superblock(member));
        path
    })
}

fn superblock(member: u8) -> Vec<u8> {
    const DATA_OFFSET: u64 = 2048;
    const DATA_SIZE: u64 = (16 << 11) - DATA_OFFSET;
    let mut block = vec![0; 260];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &0xa92b_4efc_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes()); // major version
    put(16, &noise(16, 1)); // UUID of the array
    put(32, b"strange:mirror"); // name
    put(64, &1_700_000_000_u64.to_le_bytes()); // made
    put(72, &1_u32.to_le_bytes()); // level
    put(80, &DATA_SIZE.to_le_bytes()); // sectors of each member that are used
    put(92, &2_u32.to_le_bytes()); // members
    put(128, &DATA_OFFSET.to_le_bytes());
    put(136, &DATA_SIZE.to_le_bytes());
    put(144, &8_u64.to_le_bytes()); // where this block is
    put(160, &u32::from(member).to_le_bytes());
    put(168, &noise(16, 2 + u64::from(member))); // UUID of the member
    put(192, &1_700_000_000_u64.to_le_bytes()); // changed
    put(200, &5_u64.to_le_bytes()); // events
    put(208, &0_u64.to_le_bytes()); // in sync up to here: not stopped
    put(220, &2_u32.to_le_bytes()); // roles that follow
    put(256, &[0, 0, 1, 0]); // member n has role n
    let words = block.chunks(4).map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap())));
    let sum: u64 = words.sum();
    let sum = u32::try_from((sum & 0xffff_ffff) + (sum >> 32)).unwrap();
    block[216..220].copy_from_slice(&sum.to_le_bytes());
    block
}

/// Writes bytes into an image.
pub(crate) fn put(image: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(image).unwrap().write_all_at(bytes, at).unwrap();
}
