//! Streams that are read and written, against `qemu-img` and the crate `vmdk-core`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_image::extent::{Extent, Place};
use failback_image::stream::{GRAIN_BYTES, PackedGrain, StreamExtent, StreamWriter, WriteError};
use failback_tests::fuzz_streams;
use failback_tests::lab::{Place as Room, hash, noise, tool};
use failback_tests::vmdk_made as made;
use failback_tests::vmdk_read::{Damage, by_qemu, by_vmdk_core, check_refusals, content, device, refusal};
use failback_units::ByteCount;
use std::fs;

const SECTOR: usize = 512;
const GRAIN: usize = GRAIN_BYTES as usize;

/// A disk of some sorts of content: noise, what can be packed, and long stretches of zeroes, one of them all that a grain
/// table covers. 74 MiB and a few sectors.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; (74 << 20) + 5 * SECTOR];
    disk[..3 << 20].copy_from_slice(&noise(3 << 20, 1));
    let text = b"all work and no play makes a dull disk\n".iter().cycle();
    for (byte, letter) in disk[4 << 20..6 << 20].iter_mut().zip(text) {
        *byte = *letter;
    }
    disk[(31 << 20) + 7] = 1;
    let end = disk.len();
    disk[end - 70_000..].copy_from_slice(&noise(70_000, 2));
    disk
}

/// A stream of a disk, written grain by grain.
fn written(disk: &[u8]) -> Vec<u8> {
    let descriptor = made::descriptor("streamOptimized", disk.len() / SECTOR, "SPARSE", "written.vmdk");
    let mut writer = StreamWriter::new(Vec::new(), ByteCount::of_memory(disk.len()), &descriptor).unwrap();
    for (index, grain) in (0..).zip(disk.chunks(GRAIN)) {
        if let Some(packed) = PackedGrain::pack(grain) {
            writer.push(index, &packed).unwrap();
        }
    }
    let (bytes, len) = writer.finish().unwrap();
    assert_eq!(len.get(), bytes.len() as u64);
    bytes
}

#[test]
fn streams_of_qemu_are_read() {
    let room = Room::new();
    let disk = disk();
    let (raw, vmdk) = (room.file("disk.raw", &disk), room.path("disk.vmdk"));
    let from = ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"].map(AsRef::as_ref);
    tool("qemu-img", &[&from[..], &[raw.as_os_str(), vmdk.as_os_str()]].concat());
    let extent = StreamExtent::open(device(&vmdk)).unwrap();
    assert_eq!(hash(&content(&extent)), hash(&disk));
    assert!(matches!(extent.place(0).unwrap(), Place::Compressed(_)));
    assert_eq!(extent.place(512 + 100).unwrap(), Place::Absent);
    let descriptor = extent.descriptor().unwrap();
    let at = usize::try_from(descriptor.start().get()).unwrap();
    assert!(fs::read(&vmdk).unwrap()[at..].starts_with(b"# Disk DescriptorFile"));
}

#[test]
fn streams_that_are_written_are_read_by_all() {
    let room = Room::new();
    let disk = disk();
    let vmdk = room.file("written.vmdk", &written(&disk));
    assert_eq!(hash(&by_qemu(&room, &vmdk)), hash(&disk));
    assert_eq!(hash(&by_vmdk_core(&vmdk)), hash(&disk));
    assert_eq!(hash(&content(&StreamExtent::open(device(&vmdk)).unwrap())), hash(&disk));
    tool("qemu-img", &["check", "-f", "vmdk", vmdk.to_str().unwrap()]);
    // What is packed is shorter than what it came from, and zeroes take no room.
    assert!(fs::metadata(&vmdk).unwrap().len() < 3_600_000);
}

#[test]
fn streams_of_small_and_empty_disks_are_read_by_all() {
    let room = Room::new();
    let sizes = [SECTOR, GRAIN, GRAIN + SECTOR, (32 << 20) - SECTOR, 32 << 20, (32 << 20) + SECTOR];
    for (disk, what) in
        sizes.into_iter().flat_map(|size| [(vec![0; size], "empty"), (noise(size.min(1 << 20), 7), "full")])
    {
        let vmdk = room.file("written.vmdk", &written(&disk));
        let size = disk.len();
        assert!(by_qemu(&room, &vmdk) == disk, "qemu, {what}, {size}");
        assert!(by_vmdk_core(&vmdk) == disk, "vmdk-core, {what}, {size}");
        assert!(content(&StreamExtent::open(device(&vmdk)).unwrap()) == disk, "{what}, {size}");
    }
}

/// Every marker of a stream: where, which grain or kind, how many sectors of metadata follow.
fn markers(file: &[u8]) -> Vec<(usize, Result<u64, u32>, u64)> {
    let (mut at, mut all) = (128 * SECTOR, Vec::new());
    while at < file.len() {
        let value = u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        let size = u32::from_le_bytes(file[at + 8..at + 12].try_into().unwrap()) as usize;
        let kind = u32::from_le_bytes(file[at + 12..at + 16].try_into().unwrap());
        let len = if size > 0 {
            (12 + size).next_multiple_of(SECTOR)
        } else {
            (1 + usize::try_from(value).unwrap()) * SECTOR
        };
        all.push((at / SECTOR, if size > 0 { Ok(value) } else { Err(kind) }, if size > 0 { 0 } else { value }));
        at += len;
    }
    assert_eq!(at, file.len());
    all
}

#[test]
fn streams_have_their_markers_in_vmwares_order() {
    let file = written(&disk());
    let (header, footer) = (&file[..SECTOR], &file[file.len() - 2 * SECTOR..file.len() - SECTOR]);
    let mut same = header.to_vec();
    assert_eq!(same[56..64], [0xff; 8], "the directory is at the end");
    same[56..64].copy_from_slice(&footer[56..64]);
    assert_eq!(same, footer);
    assert_eq!(header[4..12], [3, 0, 0, 0, 1, 0, 3, 0], "version 3, flags 0x30001");
    let all = markers(&file);
    let kinds: Vec<_> = all.iter().filter_map(|(_, kind, sectors)| kind.err().map(|kind| (kind, *sectors))).collect();
    // Two grain tables, since the second third of the disk has none, then directory, footer and end of stream.
    assert_eq!(kinds, [(1, 4), (1, 4), (2, 1), (3, 1), (0, 0)]);
    let grains: Vec<_> = all.iter().filter_map(|(_, kind, _)| kind.ok()).collect();
    assert!(grains.is_sorted() && grains.iter().all(|sector| sector % 128 == 0));
    let first_table = all.iter().position(|(_, kind, _)| *kind == Err(1)).unwrap();
    assert!(all[..first_table].iter().all(|(_, kind, _)| kind.unwrap() < 512 * 128));
    let directory = u64::from_le_bytes(footer[56..64].try_into().unwrap());
    let (at, ..) = all.iter().find(|(_, kind, _)| *kind == Err(2)).unwrap();
    assert_eq!(directory, *at as u64 + 1);
    // The same bytes as those of the description in `vmdk_made`.
    let descriptor = made::descriptor("streamOptimized", disk().len() / SECTOR, "SPARSE", "written.vmdk");
    assert!(made::stream(&disk(), 128, &descriptor, false) == file);
}

#[test]
fn the_writer_keeps_to_the_format() {
    let new = |size: u64, descriptor: &str| StreamWriter::new(Vec::new(), ByteCount::new(size).unwrap(), descriptor);
    for size in [0, 1, 513] {
        assert!(matches!(new(size, "").err(), Some(WriteError::Capacity(_))), "{size}");
    }
    assert!(matches!(new(512, &"#".repeat(127 * SECTOR + 1)).err(), Some(WriteError::Descriptor(_))));
    assert!(new(512, &"#".repeat(127 * SECTOR)).is_ok());
    let mut writer = new(3 * GRAIN as u64 + 512, "").unwrap();
    let (whole, short) = (PackedGrain::pack(&vec![1; GRAIN]).unwrap(), PackedGrain::pack(&[1; SECTOR]).unwrap());
    writer.push(1, &whole).unwrap();
    for (index, grain) in [(0, &whole), (1, &whole), (2, &short), (3, &whole), (4, &whole), (u64::MAX, &whole)] {
        assert!(matches!(writer.push(index, grain), Err(WriteError::Order(_))), "{index}");
    }
    writer.push(3, &short).unwrap();
    let (bytes, _) = writer.finish().unwrap();
    let disk = content(&StreamExtent::open(fuzz_streams::in_memory(&bytes)).unwrap());
    assert!(disk == [vec![0; GRAIN], vec![1; GRAIN], vec![0; GRAIN], vec![1; SECTOR]].concat());
}

#[test]
fn other_grains_and_a_whole_last_one_are_read() {
    let disk = &disk()[..(5 << 20) + 3 * SECTOR];
    for (sectors, whole_last) in [(8, false), (16, true), (128, true), (2048, true)] {
        let file = made::stream(disk, sectors, "", whole_last);
        let extent = StreamExtent::open(fuzz_streams::in_memory(&file)).unwrap();
        assert!(content(&extent) == disk, "{sectors}");
    }
}

#[test]
fn a_stream_that_is_not_finished_is_refused() {
    let file = written(&disk()[..1 << 20]);
    for len in [
        0,
        1,
        511,
        512,
        1024,
        2048,
        128 * SECTOR,
        file.len() / 2,
        file.len() - 1024,
        file.len() - SECTOR,
        file.len() - 1,
    ] {
        let error = StreamExtent::open(fuzz_streams::in_memory(&file[..len])).err().unwrap().to_string();
        assert!(error.contains("ends before its"), "{len}: {error}");
        assert!(error.ends_with(": copy it again"), "{len}: {error}");
    }
    // One without a footer shows where it is cut when that is read.
    let room = Room::new();
    let (raw, vmdk) = (room.file("disk.raw", &disk()[..1 << 20]), room.path("disk.vmdk"));
    let from = ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"].map(AsRef::as_ref);
    tool("qemu-img", &[&from[..], &[raw.as_os_str(), vmdk.as_os_str()]].concat());
    let whole = fs::read(&vmdk).unwrap();
    let extent = StreamExtent::open(fuzz_streams::in_memory(&whole[..whole.len() - 1500])).unwrap();
    let mut grain = vec![0; GRAIN];
    extent.read_grain(3, &mut grain).unwrap();
    let error = extent.read_grain(15, &mut grain).unwrap_err().to_string();
    assert_eq!(error, "x.vmdk: the file ends within grain 15: copy it again");
}

#[test]
fn damaged_streams_are_refused() {
    let file = written(&disk()[..1 << 20]);
    let (footer, grain) = (file.len() - 2 * SECTOR, 128 * SECTOR);
    let table = markers(&file).iter().find(|(_, kind, _)| *kind == Err(1)).unwrap().0 * SECTOR + SECTOR;
    let other_grain = markers(&file)[1].0;
    let damages: &[Damage<'_>] = &[
        (0, b"X", "it is no VMDK"),
        (4, &[4], "version 4"),
        (4, &[0], "version 0"),
        (8, &[9], "flags"),
        (10, &[1], "no stream"),
        (12, &[0; 8], "cannot be"),
        (12, &[0xff; 8], "cannot be"),
        (12, &[1, 8], "another disk"),
        (20, &[4], "cannot be"),
        (20, &[129], "cannot be"),
        (20, &[0, 16], "cannot be"),
        (36, &[0xff; 8], "descriptor"),
        (44, &[0, 4], "1024 entries"),
        (72, &[1], "never finished"),
        (75, b"\n", "text mode"),
        (77, &[2], "no stream"),
        (footer, b"X", "end-of-stream"),
        (footer + 4, &[9], "in its footer"),
        (footer + 8, &[5], "another disk"),
        (footer + 56, &[0xff; 8], "neither"),
        (footer + 56, &[0; 8], "directory lies"),
        (footer + 56, &[0xff; 4], "directory lies"),
        (footer - SECTOR + 12, &[2], "end-of-stream"),
        (footer + SECTOR + 12, &[1], "end-of-stream"),
        (grain, &[128], "sector 128 is"),
        (grain + 8, &[0; 4], "cannot be 0 bytes"),
        (grain + 8, &[0xff; 4], "cannot be 4294967295 bytes"),
        (grain + 8, &[1, 0, 0, 0], "does not unpack"),
        (grain + 100, &[0xAA; 8], "does not unpack"),
        (table, &[1, 0, 0, 0], "at sector 1,"),
        (table, &[0xff; 4], "at sector 4294967295,"),
        (table, &u32::try_from(other_grain).unwrap().to_le_bytes(), "sector 128 is"),
    ];
    check_refusals(&file, damages, StreamExtent::open);
}

/// A stream of one grain, which unpacks to `unpacked` bytes, of a disk of `disk` bytes.
fn unpacking_to(disk: usize, unpacked: usize) -> Vec<u8> {
    let packed = PackedGrain::pack(&vec![7; unpacked]).unwrap();
    let mut file = made::stream(&vec![7; disk], 128, "", false);
    // The end is far enough away: what follows is moved.
    let tail = file.split_off(129 * SECTOR);
    file.truncate(128 * SECTOR + 8);
    file.extend_from_slice(&u32::try_from(packed.packed_len()).unwrap().to_le_bytes());
    file.extend_from_slice(packed.as_bytes());
    let moved = file.len().next_multiple_of(SECTOR) - 129 * SECTOR;
    file.resize(129 * SECTOR + moved, 0);
    file.extend_from_slice(&tail);
    let moved = u32::try_from(moved / SECTOR).unwrap();
    for at in [file.len() - 2 * SECTOR + 56, file.len() - 4 * SECTOR] {
        let sector = u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) + moved;
        file[at..at + 4].copy_from_slice(&sector.to_le_bytes());
    }
    file
}

/// A byte too few, one too many, and a bomb that is as long as a grain may be when packed.
#[test]
fn grains_unpack_to_a_grain_and_no_more() {
    for (disk, unpacked) in
        [(GRAIN, GRAIN - 1), (GRAIN, GRAIN + 1), (GRAIN, 64 << 20), (SECTOR, 511), (SECTOR, 513), (SECTOR, GRAIN + 1)]
    {
        let said = refusal(&unpacking_to(disk, unpacked), StreamExtent::open);
        assert!(said.contains("grain 0 does not unpack"), "{disk} {unpacked}: {said:?}");
    }
    for (disk, unpacked) in [(GRAIN, GRAIN), (SECTOR, SECTOR), (SECTOR, GRAIN)] {
        assert_eq!(refusal(&unpacking_to(disk, unpacked), StreamExtent::open), "", "{disk} {unpacked}");
    }
}
