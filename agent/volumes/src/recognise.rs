//! What is known by its signature and no further: everything it lies on is in use.
//!
//! Places and signatures are those of the formats' own headers (Linux's `include/uapi/linux/magic.h` and file systems, md, DRBD,
//! cryptsetup, the UEFI and ECMA standards), checked in tests against what the formats' own tools write. A signature
//! that is old and stands for nothing any more only costs time; so the checks are short.

use crate::volume::bytes;
use crate::{ReadError, Volume};

/// A signature at a fixed place from the start.
struct Signature {
    name: &'static str,
    at: u64,
    magic: &'static [u8],
}

const fn signature(name: &'static str, at: u64, magic: &'static [u8]) -> Signature {
    Signature { name, at, magic }
}

/// Whether something that has no fixed signature is there.
type Check = fn(&dyn Volume) -> Result<bool, ReadError>;

/// Both magics of bcache's family stand in the superblock in sector 8.
const BCACHE_AT: u64 = 4096 + 24;

const SIGNATURES: &[Signature] = &[
    signature("btrfs", 0x1_0040, b"_BHRfS_M"),
    signature("NTFS", 3, b"NTFS    "),
    signature("exFAT", 3, b"EXFAT   "),
    signature("FAT", 54, b"FAT12   "),
    signature("FAT", 54, b"FAT16   "),
    signature("FAT", 82, b"FAT32   "),
    signature("ReFS", 3, b"ReFS\0\0\0\0"),
    signature("BitLocker", 3, b"-FVE-FS-"),
    signature("LUKS", 0, b"LUKS\xba\xbe"),
    signature("LUKS", 0x4000, b"SKUL\xba\xbe"),
    signature("bcache", BCACHE_AT, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    signature("bcachefs", BCACHE_AT, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
    signature("F2FS", 1024, b"\x10\x20\xf5\xf2"),
    signature("F2FS", 4096 + 1024, b"\x10\x20\xf5\xf2"),
    signature("EROFS", 1024, b"\xe2\xe1\xf5\xe0"),
    signature("SquashFS", 0, b"hsqs"),
    signature("SquashFS", 0, b"sqsh"),
    signature("cramfs", 0, b"\x45\x3d\xcd\x28"),
    signature("ISO 9660", 32_769, b"CD001"),
    signature("VMFS", 0x10_0000, b"\x0d\xd0\x01\xc0"),
    signature("VMFS", 0x20_0000, b"\x5e\xf1\xab\x2f"),
    signature("JFS", 32_768, b"JFS1"),
    signature("Reiser4", 0x1_0000, b"ReIsEr4"),
    signature("OCFS2", 1024, b"OCFSV2"),
    signature("OCFS2", 2048, b"OCFSV2"),
    signature("OCFS2", 4096, b"OCFSV2"),
    signature("OCFS2", 8192, b"OCFSV2"),
    signature("GFS2", 0x1_0000, b"\x01\x16\x19\x70\0\0\0\x01"),
    signature("HFS+", 1024, b"H+\0\x04"),
    signature("HFS+", 1024, b"HX\0\x05"),
    signature("APFS", 32, b"NXSB"),
    signature("UFS", 8192 + 1372, b"\x54\x19\x01\0"),
    signature("UFS", 65_536 + 1372, b"\x19\x01\x54\x19"),
    signature("VxFS", 1024, b"\xf5\xfc\x01\xa5"),
    signature("VxFS", 8192, b"\xa5\x01\xfc\xf5"),
    signature("Ceph BlueStore", 0, b"bluestore block device"),
    signature("Oracle ASM", 32, b"ORCLDISK"),
    signature("VDO", 0, b"dmvdo001"),
    signature("Stratis", 516, b"!Stra0tis\x86\xff\x02^\x41rh"),
    signature("Storage Spaces", 4096, b"SPACEDB "),
    signature("Windows dynamic disk", 6 * 512, b"PRIVHEAD"),
    signature("LVM1", 0, b"HM\x01\0"),
    signature("dm-snapshot", 0, b"SnAp"),
    signature("dm-integrity", 0, b"integrt\0"),
    signature("dm-verity", 0, b"verity\0\0"),
];

/// A boot sector of DOS or Windows has a program where an MBR has its table.
const BOOT_SECTORS: [&str; 5] = ["NTFS", "exFAT", "FAT", "ReFS", "BitLocker"];

/// Whether the first sector of what has this name is a boot sector with a program.
pub(crate) fn has_boot_program(name: &str) -> bool {
    BOOT_SECTORS.contains(&name)
}

/// The names of everything that is recognised, each once.
pub(crate) fn others(volume: &dyn Volume) -> Result<Vec<&'static str>, ReadError> {
    let mut found = Vec::new();
    for it in SIGNATURES {
        if has(volume, it.at, it.magic)? {
            found.push(it.name);
        }
    }
    let checks: [(_, Check); 7] = [
        ("md (Linux software RAID)", is_md),
        ("DRBD", is_drbd),
        ("ZFS", is_zfs),
        ("UDF", is_udf),
        ("NILFS2", is_nilfs),
        ("firmware RAID", is_firmware_raid),
        ("minix", is_minix),
    ];
    for (name, check) in checks {
        if check(volume)? {
            found.push(name);
        }
    }
    found.dedup();
    Ok(found)
}

/// Whether these bytes are there; not if the volume ends before.
fn has(volume: &dyn Volume, at: u64, magic: &[u8]) -> Result<bool, ReadError> {
    Ok(read(volume, at, magic.len())?.is_some_and(|read| read == magic))
}

/// Bytes, or `None` where the volume ends before.
fn read(volume: &dyn Volume, at: u64, len: usize) -> Result<Option<Vec<u8>>, ReadError> {
    match bytes(volume, at, len) {
        Ok(read) => Ok(Some(read)),
        Err(ReadError::Beyond) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The last multiple of `unit` bytes that has `behind` bytes of the volume behind it.
fn from_end(volume: &dyn Volume, unit: u64, behind: u64) -> Option<u64> {
    volume.size().get().checked_sub(behind).map(|at| at / unit * unit)
}

/// Linux software RAID: superblocks 0.90, 1.0, 1.1 and 1.2 (`drivers/md/md.c`, `uapi/linux/raid/md_p.h`).
fn is_md(volume: &dyn Volume) -> Result<bool, ReadError> {
    const MAGIC: u32 = 0xa92b_4efc;
    /// 0.90 lies in the last whole 64 KiB.
    const RESERVED: u64 = 64 << 10;
    let [magic, swapped] = [MAGIC.to_le_bytes(), MAGIC.to_be_bytes()];
    let oldest = volume.size().get() / RESERVED * RESERVED;
    if let Some(at) = oldest.checked_sub(RESERVED)
        && (has(volume, at, &magic)? || has(volume, at, &swapped)?)
    {
        return Ok(true);
    }
    // Version 1 begins with the magic and the number 1; 1.0 lies at least 8 KiB before the end, on 4 KiB.
    let version_1 = [magic, 1_u32.to_le_bytes()].concat();
    let at_end = from_end(volume, 4096, 8192);
    for at in [Some(0), Some(4096), at_end].into_iter().flatten() {
        if has(volume, at, &version_1)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// DRBD with its metadata on the same volume, versions 8 and 9: in the last 4 KiB (`drbd_int.h`, `drbdmeta.c`).
fn is_drbd(volume: &dyn Volume) -> Result<bool, ReadError> {
    const MAGIC_AT: u64 = 60;
    let Some(at) = from_end(volume, 4096, 4096) else { return Ok(false) };
    for magic in [0x8374_026b_u32, 0x8374_026c, 0x8374_026d] {
        if has(volume, at + MAGIC_AT, &magic.to_be_bytes())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A member of a ZFS pool: an uberblock in one of the four labels (`vdev_impl.h`, `uberblock_impl.h`).
fn is_zfs(volume: &dyn Volume) -> Result<bool, ReadError> {
    const LABEL: u64 = 256 << 10;
    /// The second half of a label is a ring of uberblocks, each at a multiple of 1 KiB at least.
    const RING: usize = 128 << 10;
    const STEP: usize = 1024;
    let magic = 0x00ba_b10c_u64;
    let [little, big] = [magic.to_le_bytes(), magic.to_be_bytes()];
    let labels = [Some(0), Some(LABEL), from_end(volume, LABEL, 2 * LABEL), from_end(volume, LABEL, LABEL)];
    for label in labels.into_iter().flatten() {
        let Some(ring) = read(volume, label + (LABEL - RING as u64), RING)? else { continue };
        if ring.chunks_exact(STEP).any(|block| block.starts_with(&little) || block.starts_with(&big)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// UDF: one of the descriptors that begin at 32 KiB, in sectors of 2 KiB (ECMA-167, part 2), perhaps behind those of ISO 9660.
fn is_udf(volume: &dyn Volume) -> Result<bool, ReadError> {
    const FROM: u64 = 32 << 10;
    const SECTOR: usize = 2048;
    /// Enough for every program that writes them.
    const DESCRIPTORS: usize = 32;
    let Some(read) = read(volume, FROM, DESCRIPTORS * SECTOR)? else { return Ok(false) };
    Ok(read.chunks_exact(SECTOR).any(|descriptor| descriptor[1..].starts_with(b"NSR0")))
}

/// NILFS2: a short magic, so that the revision and the length of the superblock are looked at too.
fn is_nilfs(volume: &dyn Volume) -> Result<bool, ReadError> {
    const AT: u64 = 1024;
    let Some(header) = read(volume, AT, 10)? else { return Ok(false) };
    Ok(header[..4] == 2_u32.to_le_bytes() && header[6..8] == *b"\x34\x34" && header[8..10] != [0, 0])
}

/// What a controller or firmware leaves at the end of a member: Intel's, and the common format DDF.
fn is_firmware_raid(volume: &dyn Volume) -> Result<bool, ReadError> {
    const INTEL: &[u8] = b"Intel Raid ISM Cfg Sig. ";
    const DDF: &[u8] = b"\xde\x11\xde\x11";
    let (Some(intel), Some(ddf)) = (from_end(volume, 512, 1024), from_end(volume, 512, 512)) else { return Ok(false) };
    Ok(has(volume, intel, INTEL)? || has(volume, ddf, DDF)?)
}

/// minix, versions 1 to 3. The magic is two bytes, so that the state, or the block size, must be possible too.
fn is_minix(volume: &dyn Volume) -> Result<bool, ReadError> {
    const AT: u64 = 1024;
    let Some(header) = read(volume, AT, 32)? else { return Ok(false) };
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let old = matches!(word(16), 0x137f | 0x138f | 0x2468 | 0x2478) && word(18) <= 3 && word(10) == 0;
    let new = word(24) == 0x4d5a && matches!(word(28), 1024 | 2048 | 4096);
    Ok(old || new)
}
