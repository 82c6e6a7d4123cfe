//! What is recognised and no further, and what contradicts itself.

use super::disk::{MIB, SWAP_UUID, all_used, free, layout, poke, put_swap};
use failback_tests::lab::{Place, has_programs, tool};
use failback_volumes::Content;
use std::path::{Path, PathBuf};

fn empty(place: &Place, name: &str, mib: u64) -> PathBuf {
    place.sparse(name, mib * MIB, &[])
}

/// What a whole disk is found to hold.
#[track_caller]
fn kind(disk: &Path) -> String {
    let layout = layout(disk);
    assert!(layout.free.is_empty());
    match layout.content {
        Content::FileSystem(system) => {
            assert!(system.because.is_some());
            system.kind.to_owned()
        }
        Content::PhysicalVolume(_) => "LVM2".to_owned(),
        other => panic!("{}: {other:?}", disk.display()),
    }
}

/// Programs, their arguments before the image, its size in MiB, and what they make. They are not on every machine; those
/// that are not are said.
const MAKERS: [(&str, &[&str], u64, &str); 13] = [
    ("mkfs.btrfs", &["-q"], 128, "btrfs"),
    ("mkntfs", &["-q", "-F", "-f"], 16, "NTFS"),
    ("mkfs.vfat", &["-F", "12"], 2, "FAT"),
    ("mkfs.vfat", &["-F", "16"], 16, "FAT"),
    ("mkfs.vfat", &["-F", "32"], 64, "FAT"),
    ("mkfs.exfat", &[], 16, "exFAT"),
    ("mkfs.f2fs", &["-q"], 64, "F2FS"),
    ("mkfs.jfs", &["-q"], 32, "JFS"),
    ("mkfs.nilfs2", &["-q"], 160, "NILFS2"),
    ("mkfs.minix", &["-3"], 8, "minix"),
    ("mkfs.minix", &["-1"], 8, "minix"),
    ("mkfs.cramfs", &["/etc/default"], 0, "cramfs"),
    ("mksquashfs", &["/etc/default"], 0, "SquashFS"),
];

#[test]
fn what_other_tools_make_is_recognised() {
    let place = Place::new();
    for (number, (program, arguments, mib, wanted)) in MAKERS.into_iter().enumerate() {
        if !has_programs(&[program]) {
            continue;
        }
        let disk = place.path(&format!("{number}.img"));
        if mib > 0 {
            empty(&place, &format!("{number}.img"), mib);
        }
        let mut all: Vec<_> = arguments.to_vec();
        all.push(disk.to_str().unwrap());
        tool(program, &all);
        assert_eq!(kind(&disk), wanted, "{program} {arguments:?}");
    }
}

#[test]
fn encryption_and_images_are_recognised() {
    let place = Place::new();
    if has_programs(&["cryptsetup"]) {
        let key = place.file("key", b"a key");
        for version in ["luks1", "luks2"] {
            let disk = empty(&place, version, 32);
            let paths = [disk.to_str().unwrap(), key.to_str().unwrap()];
            let fast = ["--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
            tool("cryptsetup", &[&["luksFormat", "--type", version], &fast[..], &paths[..]].concat());
            assert_eq!(kind(&disk), "LUKS", "{version}");
        }
    }
    if has_programs(&["genisoimage"]) {
        let (image, udf) = (place.path("iso"), place.path("udf"));
        let directory = place.directory("content");
        tool("genisoimage", &["-quiet", "-o", image.to_str().unwrap(), directory.to_str().unwrap()]);
        assert_eq!(kind(&image), "ISO 9660");
        tool("genisoimage", &["-quiet", "-udf", "-o", udf.to_str().unwrap(), directory.to_str().unwrap()]);
        all_used(&layout(&udf), "it could be ISO 9660 or UDF");
    }
}

/// What no tool here makes without a kernel driver or a licence: its signature where its format has it.
#[test]
fn bare_signatures_are_recognised() {
    const SIZE: u64 = 16 * MIB + 512;
    let md = [&0xa92b_4efc_u32.to_le_bytes()[..], &1_u32.to_le_bytes()].concat();
    let at_end = (SIZE - 8192) / 4096 * 4096;
    let cases: [(u64, &[u8], &str); 24] = [
        (0, &md, "md (Linux software RAID)"),
        (4096, &md, "md (Linux software RAID)"),
        (at_end, &md, "md (Linux software RAID)"),
        (SIZE / 65_536 * 65_536 - 65_536, &md[..4], "md (Linux software RAID)"),
        ((SIZE - 4096) / 4096 * 4096 + 60, b"\x83\x74\x02\x6d", "DRBD"),
        ((128 << 10) + 3072, b"\x0c\xb1\xba\0\0\0\0\0", "ZFS"),
        (SIZE / (256 << 10) * (256 << 10) - (128 << 10), b"\0\0\0\0\0\xba\xb1\x0c", "ZFS"),
        (4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"),
        (MIB, b"\x0d\xd0\x01\xc0", "VMFS"),
        (3, b"-FVE-FS-", "BitLocker"),
        (3, b"ReFS\0\0\0\0", "ReFS"),
        (SIZE - 1024, b"Intel Raid ISM Cfg Sig. ", "firmware RAID"),
        (SIZE - 512, b"\xde\x11\xde\x11", "firmware RAID"),
        (3072, b"PRIVHEAD", "Windows dynamic disk"),
        (0x1_0000, b"\x01\x16\x19\x70\0\0\0\x01", "GFS2"),
        (2048, b"OCFSV2", "OCFS2"),
        (32, b"ORCLDISK", "Oracle ASM"),
        (0, b"HM\x01\0", "LVM1"),
        (512, b"LABELONE", "LVM2"),
        (32, b"NXSB", "APFS"),
        (1024, b"H+\0\x04", "HFS+"),
        (0, b"dmvdo001", "VDO"),
        (1024, b"\xf5\xfc\x01\xa5", "VxFS"),
        (8192, b"\xa5\x01\xfc\xf5", "VxFS"),
    ];
    let place = Place::new();
    for (at, magic, wanted) in cases {
        let disk = place.sparse("disk.img", SIZE, &[(at, magic)]);
        assert_eq!(kind(&disk), wanted);
        // Beside swap space that alone would be understood, it takes everything.
        if at >= 4096 {
            put_swap(&disk, 0, 12 * MIB);
            all_used(&layout(&disk), &format!("it could be swap or {wanted}"));
        }
    }
}

#[test]
fn a_whole_disk_without_a_table() {
    let place = Place::new();
    let disk = empty(&place, "swap.img", 16);
    all_used(&layout(&disk), "nothing that failback knows");
    let swap = put_swap(&disk, 0, 12 * MIB);
    let seen = layout(&disk);
    assert_eq!(free(&seen), [swap]);
    assert_eq!(seen.identity().file_systems, [SWAP_UUID]);
    // A boot block with a table, or with what another system may take for one.
    let mut boot = vec![0; 512];
    boot[510..].copy_from_slice(&[0x55, 0xaa]);
    poke(&disk, 0, &boot);
    assert_eq!(layout(&disk).free, seen.free);
    boot[446] = 0x33;
    poke(&disk, 0, &boot);
    all_used(&layout(&disk), "it could be swap or MBR partition table");
    boot[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
    poke(&disk, 0, &boot);
    all_used(&layout(&disk), "it could be swap or MBR partition table");
    poke(&disk, 0, &[0; 512]);
    poke(&disk, 16 * MIB - 512, b"EFI PART");
    all_used(&layout(&disk), "it could be swap or GPT partition table");
}

#[test]
fn a_disk_that_hibernates_or_is_cut_is_in_use() {
    let place = Place::new();
    let disk = empty(&place, "swap.img", 16);
    put_swap(&disk, 0, 16 * MIB);
    poke(&disk, 4086, b"S1SUSPEND\0");
    all_used(&layout(&disk), "hibernated");
    put_swap(&disk, 0, 16 * MIB);
    std::fs::File::options().write(true).open(&disk).unwrap().set_len(16 * MIB - 4096).unwrap();
    all_used(&layout(&disk), "it says that it has 16777216 bytes, and there are 16773120");
}

#[test]
fn a_disk_that_is_too_small_for_anything() {
    let place = Place::new();
    for size in [1, 511, 512, 513, 1024, 4096, 65_536] {
        let disk = place.sparse("small.img", size, &[]);
        all_used(&layout(&disk), "nothing that failback knows");
    }
}
