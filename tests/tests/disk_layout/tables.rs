//! Partition tables.

use super::disk::{MIB, SWAP_UUID, all_used, free, layout, peek, poke, put_swap, table};
use failback_tests::lab::{Loop, Place, lone, tool};
use failback_volumes::{Content, TableKind};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const DISK_GUID: &str = "11111111-2222-3333-4444-555555555555";
const SWAP_KIND: &str = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f";
/// An image's sector, where the tool is not told otherwise.
const SECTOR: u64 = 512;

fn resize(disk: &Path, size: u64) {
    File::options().write(true).open(disk).unwrap().set_len(size).unwrap();
}

/// A disk of 64 MiB with a GPT: swap of 8 MiB at 1 MiB, something unknown of 16 MiB behind it.
fn gpt(place: &Place) -> (PathBuf, Range<u64>) {
    let disk = place.sparse("gpt.img", 64 * MIB, &[]);
    make_gpt(&disk);
    let swap = put_swap(&disk, MIB, 8 * MIB);
    (disk, swap)
}

fn make_gpt(disk: &Path) {
    let path = disk.to_str().unwrap();
    let name = "1:sw\u{e4}p\u{7}\u{1f4be}";
    let swap = ["-n", "1:1M:+8M", "-t", "1:8200", "-c", name, "-u", "1:AAAAAAAA-0000-4000-8000-000000000001"];
    let rest = ["-n", "2:9M:+16M", "-t", "2:8300"];
    tool("sgdisk", &[&["-a", "1", "-o", "-U", DISK_GUID], &swap[..], &rest[..], &[path]].concat());
}

/// A disk with the table that a script for sfdisk describes.
fn mbr(place: &Place, name: &str, mib: u64, script: &str) -> PathBuf {
    let disk = place.sparse(name, mib * MIB, &[]);
    let mut command = Command::new("/usr/sbin/sfdisk");
    let mut sfdisk = command.arg("-q").arg(&disk).stdin(Stdio::piped()).spawn().unwrap();
    sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success());
    disk
}

#[test]
fn gpt_with_sectors_of_512_bytes() {
    let place = Place::new();
    let (disk, swap) = gpt(&place);
    let layout = layout(&disk);
    let table = table(&layout);
    assert_eq!((table.table, table.id.as_deref(), &table.because), (TableKind::Gpt, Some(DISK_GUID), &None));
    let [first, second] = table.partitions.as_slice() else { panic!("{table:?}") };
    assert_eq!((first.number, first.start.get(), first.size.get()), (1, MIB, 8 * MIB));
    assert_eq!((first.kind.as_str(), first.type_name), (SWAP_KIND, Some("Linux swap")));
    assert_eq!(first.name.as_deref(), Some("sw\u{e4}p\\u{7}\u{1f4be}"));
    assert_eq!(first.uuid.as_deref(), Some("aaaaaaaa-0000-4000-8000-000000000001"));
    let Some(Content::FileSystem(system)) = &first.content else { panic!("{first:?}") };
    assert_eq!(
        (system.kind, system.uuid.as_deref(), system.label.as_deref()),
        ("swap", Some(SWAP_UUID), Some("spare"))
    );
    assert_eq!((system.used.get(), system.free.get()), (4096, 8 * MIB - 4096));
    assert_eq!((second.number, second.start.get(), second.size.get()), (2, 9 * MIB, 16 * MIB));
    assert!(matches!(second.content, Some(Content::Unclear { .. })));
    assert_eq!(free(&layout), [swap]);
    let identity = layout.identity();
    assert_eq!((identity.partition_table.as_deref(), identity.file_systems), (Some(DISK_GUID), vec![SWAP_UUID.into()]));
}

#[test]
fn gpt_with_sectors_of_4096_bytes() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let disk = place.sparse("4k.img", 64 * MIB, &[]);
    let swap = {
        let device = Loop::attach(&disk, &["--sector-size", "4096"]);
        make_gpt(&device.path);
        let swap = put_swap(&device.path, MIB, 8 * MIB);
        let layout = layout(&device.path);
        assert_eq!((layout.sector_size, free(&layout)), (4096, vec![swap.clone()]));
        assert!(table(&layout).remarks.is_empty());
        swap
    };
    // The same bytes as an image, of which nobody says how large its sectors are.
    let layout = layout(&disk);
    assert_eq!((layout.sector_size, free(&layout)), (512, vec![swap]));
    assert!(table(&layout).remarks[0].contains("sectors of 4096 bytes"));
}

#[test]
fn every_flipped_bit_of_a_gpt_is_seen() {
    let place = Place::new();
    let (disk, swap) = gpt(&place);
    let last = 64 * MIB - SECTOR;
    // The first header: nothing is free. What comes from the second would be a guess.
    for at in SECTOR..SECTOR + 92 {
        let byte = peek(&disk, at, 1);
        poke(&disk, at, &[byte[0] ^ 1 << (at % 8)]);
        all_used(&layout(&disk), "first copy of its GPT");
        poke(&disk, at, &byte);
    }
    // The entries, also those that are not in use.
    for at in (2 * SECTOR..2 * SECTOR + 256).step_by(7).chain([34 * SECTOR - 1]) {
        let byte = peek(&disk, at, 1);
        poke(&disk, at, &[byte[0] ^ 1 << (at % 8)]);
        all_used(&layout(&disk), "checksum of the entries");
        poke(&disk, at, &byte);
    }
    // The second header: the first is still good, and that is said.
    for at in last..last + 92 {
        let byte = peek(&disk, at, 1);
        poke(&disk, at, &[byte[0] ^ 1 << (at % 8)]);
        let layout = layout(&disk);
        assert_eq!(free(&layout), std::slice::from_ref(&swap));
        assert!(table(&layout).remarks[0].contains("second copy"), "{:?}", table(&layout).remarks);
        poke(&disk, at, &byte);
    }
    assert_eq!(free(&layout(&disk)), [swap]);
    // Without the first, whole or broken as the second may be.
    poke(&disk, SECTOR, &[0; 512]);
    all_used(&layout(&disk), "is missing; the second is good");
    poke(&disk, last + 100, &[1]);
    poke(&disk, last + 16, &[0]);
    all_used(&layout(&disk), "is missing; the second is not good either");
}

#[test]
fn a_disk_that_was_enlarged_or_cut() {
    let place = Place::new();
    let (disk, swap) = gpt(&place);
    resize(&disk, 80 * MIB);
    let enlarged = layout(&disk);
    assert_eq!(free(&enlarged), std::slice::from_ref(&swap));
    assert!(table(&enlarged).remarks[0].contains("enlarged"));
    // A second copy at the new end that the first knows nothing of.
    let second = peek(&disk, 64 * MIB - SECTOR, 512);
    poke(&disk, 80 * MIB - SECTOR, &second);
    all_used(&layout(&disk), "not where the first says");
    resize(&disk, 60 * MIB);
    all_used(&layout(&disk), "made for a disk of 67108864 bytes");
    resize(&disk, 2 * MIB);
    all_used(&layout(&disk), "made for a disk of 67108864 bytes");
    // With nothing behind the last partition: cut within it.
    let disk = mbr(&place, "cut.img", 32, "label: dos\nstart=2048, type=82\n");
    put_swap(&disk, MIB, 31 * MIB);
    resize(&disk, 32 * MIB - SECTOR);
    all_used(&layout(&disk), "partition 1 (bytes 1048576..33554432) lies outside of the disk (0..33553920)");
}

#[test]
fn tables_that_contradict_each_other() {
    let place = Place::new();
    let (disk, _) = gpt(&place);
    let (mbr, second) = (peek(&disk, 0, 512), peek(&disk, 64 * MIB - SECTOR, 512));
    let mut hybrid = mbr.clone();
    hybrid[462..478].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
    poke(&disk, 0, &hybrid);
    all_used(&layout(&disk), "hybrid MBR");
    let mut unaware = hybrid.clone();
    unaware[446..462].fill(0);
    poke(&disk, 0, &unaware);
    all_used(&layout(&disk), "an MBR that knows nothing of it");
    poke(&disk, 0, &[0; 512]);
    all_used(&layout(&disk), "no protective MBR");
    poke(&disk, 0, &mbr);
    // A second copy with a right checksum and another disk's GUID.
    let mut other = second.clone();
    other[56] ^= 1;
    seal_header(&mut other);
    poke(&disk, 64 * MIB - SECTOR, &other);
    all_used(&layout(&disk), "contradict each other");
    poke(&disk, 64 * MIB - SECTOR, &second);
    assert!(!layout(&disk).free.is_empty());
    // A header for sectors of 4096 bytes beside that for 512.
    poke(&disk, 4096, b"EFI PART");
    all_used(&layout(&disk), "two GPTs");
    let only_protective = place.sparse("protective.img", 4 * MIB, &[(0, &mbr)]);
    all_used(&layout(&only_protective), "says that it has a GPT, and there is none");
}

/// CRC-32, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ 0xedb8_8320 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

fn seal_header(header: &mut [u8]) {
    header[16..20].fill(0);
    let crc = crc32(&header[..92]);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
}

/// Changes the entries of both copies of a GPT, with right checksums.
fn change_entries(disk: &Path, change: impl Fn(&mut [u8])) {
    let mut entries = peek(disk, 2 * SECTOR, 128 * 128);
    change(&mut entries);
    for (header_at, entries_at) in [(SECTOR, 2 * SECTOR), (64 * MIB - SECTOR, 64 * MIB - 33 * SECTOR)] {
        let mut header = peek(disk, header_at, 512);
        header[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
        seal_header(&mut header);
        poke(disk, header_at, &header);
        poke(disk, entries_at, &entries);
    }
}

#[test]
fn gpt_partitions_that_cannot_be() {
    let place = Place::new();
    let (disk, swap) = gpt(&place);
    let number = |entries: &mut [u8], at: usize, value: u64| entries[at..at + 8].copy_from_slice(&value.to_le_bytes());
    let second = 128;
    let cases: [(u64, u64, &str); 5] = [
        (9 * 2048 - 1, 25 * 2048 - 1, "partition 1 and partition 2 overlap"),
        (4096, 4096, "partition 1 and partition 2 overlap"),
        (9 * 2048, 64 * 2048 - 1, "outside of the space for partitions"),
        (33, 40, "outside of the space for partitions"),
        (9 * 2048, 9 * 2048 - 2, "partition 2 ends before it begins"),
    ];
    for (first, last, words) in cases {
        change_entries(&disk, |entries| {
            number(entries, second + 32, first);
            number(entries, second + 40, last);
        });
        all_used(&layout(&disk), words);
    }
    change_entries(&disk, |entries| number(entries, second + 40, u64::MAX));
    all_used(&layout(&disk), "partition 2 ends before it begins");
    // And one that can: up to the last sector there is.
    change_entries(&disk, |entries| number(entries, second + 40, 64 * 2048 - 34));
    assert_eq!(free(&layout(&disk)), [swap]);
}

/// Primaries, an extended partition and three logical ones; swap in partitions 2 and 6.
const LOGICAL: &str = "label: dos\nlabel-id: 0xcafe1234\nstart=2048, size=8M, type=83, bootable\nsize=8M, type=82\n\
                       3 : size=40M, type=5\n5 : size=4M, type=83\n6 : size=8M, type=82\n7 : size=4M, type=8e\n";

#[test]
fn mbr_with_logical_partitions() {
    let place = Place::new();
    let disk = mbr(&place, "mbr.img", 64, LOGICAL);
    let partitions: Vec<_> = table(&layout(&disk)).partitions.iter().map(|it| (it.number, it.start.get())).collect();
    assert_eq!(partitions.iter().map(|it| it.0).collect::<Vec<_>>(), [1, 2, 3, 5, 6, 7]);
    let start = |number| partitions.iter().find(|it| it.0 == number).unwrap().1;
    let wanted = [put_swap(&disk, start(2), 8 * MIB), put_swap(&disk, start(6), 8 * MIB)];
    let layout = layout(&disk);
    assert_eq!(free(&layout), wanted);
    let table = table(&layout);
    assert_eq!((table.table, table.id.as_deref()), (TableKind::Mbr, Some("cafe1234")));
    assert_eq!(table.partitions[4].uuid.as_deref(), Some("cafe1234-06"));
    assert!(matches!(table.partitions[2].content, Some(Content::Extended)));
    // What sfdisk says of the same disk.
    let told = tool("sfdisk", &["-d", disk.to_str().unwrap()]);
    for partition in &table.partitions {
        let (start, size) = (partition.start.get() / SECTOR, partition.size.get() / SECTOR);
        let line = told.lines().find(|line| line.contains(&format!("img{} :", partition.number))).unwrap();
        let words: Vec<_> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        assert!(words.contains(&start.to_string().as_str()) && words.contains(&size.to_string().as_str()), "{line}");
    }
}

#[test]
fn chains_of_logical_partitions_that_cannot_be() {
    let place = Place::new();
    let disk = mbr(&place, "mbr.img", 64, LOGICAL);
    let extended = table(&layout(&disk)).partitions[2].start.get();
    put_swap(&disk, 9 * MIB, 8 * MIB);
    assert!(!layout(&disk).free.is_empty());
    let record = peek(&disk, extended, 512);
    let number = |at: usize, value: u32| {
        let mut bytes = record.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let mut no_signature = record.clone();
    no_signature[511] = 0;
    let mut two_links = record.clone();
    two_links.copy_within(462..478, 478);
    let mut nonsense = record.clone();
    nonsense[446] = 0x7f;
    let (entry, link) = (446, 462);
    for (bytes, words) in [
        (number(link + 8, 0), "is a loop"),
        (number(link + 8, u32::MAX), "leaves the extended partition"),
        (number(link + 8, 40 * 2048), "leaves the extended partition"),
        (number(entry + 8, 0), "the record before partition 5 and partition 5 overlap"),
        (number(entry + 8, 1 << 20), "outside of the extended partition"),
        (number(entry + 12, 8 * 2048), "overlap"),
        (number(entry + 12, 0), "partition 5 is empty"),
        (no_signature, "is broken"),
        (two_links, "entries that it cannot have"),
        (nonsense, "makes no sense"),
    ] {
        poke(&disk, extended, &bytes);
        all_used(&layout(&disk), words);
    }
    poke(&disk, extended, &record);
    assert!(!layout(&disk).free.is_empty());
}

/// A chain in which each record leads to the next sector, without end.
#[test]
fn a_chain_without_end() {
    let place = Place::new();
    let disk = mbr(&place, "mbr.img", 64, "label: dos\nstart=2048, size=8M, type=82\nsize=40M, type=f\n");
    put_swap(&disk, MIB, 8 * MIB);
    assert!(!layout(&disk).free.is_empty());
    let extended = table(&layout(&disk)).partitions[1].start.get();
    for number in 0_u32..300 {
        let mut record = vec![0; 512];
        record[446 + 4] = 5;
        record[446 + 8..446 + 12].copy_from_slice(&(number + 1).to_le_bytes());
        record[446 + 12..446 + 16].copy_from_slice(&1_u32.to_le_bytes());
        record[510..].copy_from_slice(&[0x55, 0xaa]);
        poke(&disk, extended + u64::from(number) * SECTOR, &record);
    }
    all_used(&layout(&disk), "more than 256 logical partitions");
}

#[test]
fn mbr_partitions_that_cannot_be() {
    let place = Place::new();
    let script = "label: dos\nstart=2048, size=8M, type=82\nsize=8M, type=83\n";
    let disk = mbr(&place, "mbr.img", 32, script);
    put_swap(&disk, MIB, 8 * MIB);
    let record = peek(&disk, 0, 512);
    let second = 462;
    for (at, value, words) in [
        (second + 8, 2048_u32, "partition 1 and partition 2 overlap"),
        (second + 8, 9 * 2048 - 1, "partition 1 and partition 2 overlap"),
        (second + 8, 0, "the boot record and partition 2 overlap"),
        (second + 12, u32::MAX, "outside of the disk"),
        (second + 12, 24 * 2048, "outside of the disk"),
        (second + 12, 0, "partition 2 is empty"),
        (second, 0x8300_0001, "makes no sense"),
        (446 + 4, 0xee, "says that it has a GPT"),
    ] {
        let mut bytes = record.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        poke(&disk, 0, &bytes);
        all_used(&layout(&disk), words);
    }
    let mut two = record.clone();
    (two[446 + 4], two[second + 4]) = (5, 15);
    poke(&disk, 0, &two);
    all_used(&layout(&disk), "more than one extended partition");
    poke(&disk, 0, &record);
    assert!(!layout(&disk).free.is_empty());
}
