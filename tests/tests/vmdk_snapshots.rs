//! Snapshots as ESXi keeps them, host sparse and space-efficient sparse, against `qemu-img`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_image::cowd::CowdExtent;
use failback_image::extent::{Extent, Place};
use failback_image::sesparse::SeSparseExtent;
use failback_tests::fuzz_streams;
use failback_tests::lab::Place as Room;
use failback_tests::vmdk_made::{self as made, Made, scattered, sesparse_part};
use failback_tests::vmdk_read::{Damage, by_qemu, check_refusals, content, device, refusal};

const SECTOR: usize = 512;

#[test]
fn host_sparse_extents_are_read_as_qemu_reads_them() {
    let room = Room::new();
    for (sectors, grain_sectors, grains) in [
        (10_000, 1, vec![9_999, 0, 4095, 4096, 4097, 17, 8192]),
        (40_007, 8, vec![5000, 3, 4095, 4096, 1]),
        (1, 1, vec![0]),
        (70_000, 128, vec![]),
    ] {
        let (grains, disk) = scattered(sectors, grain_sectors, &grains);
        let file = room.file("x-delta.vmdk", &made::cowd(sectors, grain_sectors, &grains));
        let text = made::descriptor("vmfsSparse", sectors, "VMFSSPARSE", "x-delta.vmdk");
        let vmdk = room.file("x.vmdk", text.as_bytes());
        assert!(by_qemu(&room, &vmdk) == disk, "qemu, {sectors}");
        let extent = CowdExtent::open(device(&file)).unwrap();
        assert!(content(&extent) == disk, "{sectors}");
        let absent = (0..disk.len().div_ceil(grain_sectors * SECTOR) as u64)
            .filter(|index| extent.place(*index).unwrap() == Place::Absent);
        assert_eq!(absent.count(), disk.len().div_ceil(grain_sectors * SECTOR) - grains.len());
    }
}

#[test]
fn zeroes_of_host_sparse_extents_hide_the_parent() {
    let file = made::cowd(100, 1, &[(3, Made::Data(vec![3; SECTOR])), (4, Made::Zero)]);
    let extent = CowdExtent::open(fuzz_streams::in_memory(&file)).unwrap();
    assert_eq!(extent.place(4).unwrap(), Place::Zero);
    assert_eq!(extent.place(5).unwrap(), Place::Absent);
    assert!(matches!(extent.place(3).unwrap(), Place::At(_)));
    assert!(extent.place(100).is_err());
}

#[test]
fn damaged_host_sparse_extents_are_refused() {
    let file = made::cowd(10_000, 1, &[(0, Made::Data(vec![3; SECTOR]))]);
    let (directory, table) = (4 * SECTOR, 5 * SECTOR);
    let damages: &[Damage<'_>] = &[
        (0, b"X", "no host sparse extent"),
        (4, &[2], "version 2"),
        (8, &[7], "flags 0x7"),
        (12, &[0; 4], "cannot be"),
        (12, &[0xff; 4], "needs 1048576"),
        (16, &[3], "cannot be"),
        (20, &[3], "outside"),
        (20, &[0xff; 4], "outside"),
        (24, &[2], "has 2 entries"),
        (1648, &[1], "in use"),
        (directory, &[4, 0, 0, 0], "grain table 0 is said to be at sector 4,"),
        (directory, &[0xff; 4], "grain table 0"),
        (table, &[2, 0, 0, 0], "grain 0 is said to be at sector 2,"),
        (table, &[0xff; 4], "grain 0"),
    ];
    check_refusals(&file, damages, CowdExtent::open);
    for len in [0, 2047, 2048, 5 * SECTOR, file.len() - 1] {
        assert!(
            refusal(&file[..len], CowdExtent::open).ends_with("copy it again")
                || refusal(&file[..len], CowdExtent::open).ends_with("copy the file again"),
            "{len}"
        );
    }
}

#[test]
fn space_efficient_extents_are_read_as_qemu_reads_them() {
    let room = Room::new();
    for (sectors, skip, grains) in [
        (200_003, 0, vec![25_000, 0, 4095, 4096, 12_288, 5]),
        (200_003, 4094, vec![0, 8191, 7, 4096, 20_000]),
        (8, 0, vec![0]),
        (100_000, 0, vec![]),
    ] {
        let (mut grains, disk) = scattered(sectors, 8, &grains);
        let written = grains.len();
        if sectors > 100_000 {
            grains.extend([(100, Made::Zero), (16_000, Made::Unmapped)]);
        }
        let file = room.file("x-sesparse.vmdk", &made::sesparse(sectors as u64, skip, &grains));
        let text = made::descriptor("seSparse", sectors, "SESPARSE", "x-sesparse.vmdk");
        let vmdk = room.file("x.vmdk", text.as_bytes());
        assert!(by_qemu(&room, &vmdk) == disk, "qemu, {sectors}, {skip}");
        let extent = SeSparseExtent::open(device(&file)).unwrap();
        assert!(content(&extent) == disk, "{sectors}, {skip}");
        let count = disk.len().div_ceil(4096);
        let places: Vec<_> = (0..count as u64).map(|index| extent.place(index).unwrap()).collect();
        let of = |place: Place| places.iter().filter(|there| **there == place).count();
        assert_eq!((of(Place::Zero), of(Place::Absent)), (grains.len() - written, count - grains.len()));
    }
}

#[test]
fn damaged_space_efficient_extents_are_refused() {
    let file = made::sesparse(200_003, 0, &[(0, Made::Data(vec![3; 4096]))]);
    let volatile = sesparse_part::VOLATILE * SECTOR;
    let (directory, table) = (sesparse_part::DIRECTORY * SECTOR, sesparse_part::TABLES * SECTOR);
    let damages: &[Damage<'_>] = &[
        (0, b"X", "no seSparse extent"),
        (8, &[2], "not understood"),
        (16, &[0; 8], "cannot be"),
        (16, &[0xff; 8], "cannot be"),
        (24, &[16], "not understood"),
        (32, &[32], "not understood"),
        (40, &[1], "not understood"),
        (48, &[1], "not understood"),
        (80, &[0xff; 8], "volatile header"),
        (128, &[0; 8], "outside"),
        (128, &[0xff; 8], "outside"),
        (136, &[0; 8], "0 entries"),
        (144, &[0; 8], "begin in its header"),
        (144, &[0xff; 8], "entry 0 of its directory"),
        (192, &[0xff; 8], "entry of grain 0"),
        (511, &[1], "not understood"),
        (volatile, b"X", "volatile header is not there"),
        (volatile + 24, &[1], "journal"),
        (volatile + 511, &[1], "not understood"),
        (directory, &[0xff; 4], "entry 0 of its directory"),
        (directory + 7, &[0x20], "entry 0 of its directory"),
        (table, &[0xff; 4], "entry of grain 0"),
        (table + 7, &[0x40], "entry of grain 0"),
        // All but the kind of an absent grain is zero.
        (table, &[1, 0, 0, 0, 0, 0, 0, 0], "entry of grain 0"),
    ];
    check_refusals(&file, damages, SeSparseExtent::open);
}
