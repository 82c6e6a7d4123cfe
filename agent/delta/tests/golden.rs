//! Files that were written once and never change: the formats cannot change without one of these tests failing.
//!
//! The disks are made of noise that `b3sum` makes as well, so their roots can be confirmed without any code of ours:
//!
//! ```text
//! noise() { printf "\\$1\0\0\0\0\0\0\0" | b3sum --derive-key 'failback test noise' --length "$2" --raw; }
//! zero()  { head -c "$1" /dev/zero; }
//! noise 1 40960 > all
//! (head -c 16384 all; zero 16384; tail -c 8192 all)                                        > base
//! (head -c 4096 base; noise 2 4096; tail -c +8193 base | head -c 24576; zero 8192; noise 3 1000) > result
//! (head -c 8192 base; yes 'failback' | head -c 4096; tail -c +12289 base)                  > text
//! b3sum base result text
//! ```
//!
//! With `FAILBACK_WRITE_GOLDEN=1` in the environment the files are written anew. That is right only where the format's
//! version changes with them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{apply, counted, diff_used, noise, sign, sign_used, signed_blocks};
use failback_delta::{Before, Content, Coverage, DeltaReader, Item, PointKind, SignatureReader, SigningKey};
use failback_hashtree::Root;
use std::io::Cursor;
use std::path::PathBuf;

const BLOCK: usize = 4096;

// What `b3sum` prints for the three disks.
const BASE_ROOT: &str = "e2f2c783a77692d792eb289dc083bb15cba4b795cc6741829f894a7eaaf4adb6";
const RESULT_ROOT: &str = "86653b6637a21ee317051702ec51a5e77b975bf770aea551ff8f89bb91df3287";
const TEXT_ROOT: &str = "893d1d8e12bf6fd66700f9479eb28fd46bf40ba182a974b6b44c23b2fe12a308";

// Made with `openssl genpkey -algorithm ed25519`; the public key is what `openssl pkey -pubout` makes of it.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
const PUBLIC: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

/// Ten blocks, of which those from 4 to 7 are zero.
fn base() -> Vec<u8> {
    let mut disk = noise(1, 10 * BLOCK);
    disk[4 * BLOCK..8 * BLOCK].fill(0);
    disk
}

/// Block 1 is new, 5 was zero and is free, 8 becomes zero, 9 becomes free, 10 is added and has 1000 bytes.
fn result() -> (Vec<u8>, [bool; 11]) {
    let mut disk = base();
    disk[BLOCK..2 * BLOCK].copy_from_slice(&noise(2, BLOCK));
    disk[8 * BLOCK..9 * BLOCK].fill(0);
    disk.extend(noise(3, 1000));
    let mut free = [false; 11];
    (free[5], free[9]) = (true, true);
    (disk, free)
}

/// Block 2 becomes text, which can be compressed.
fn text() -> Vec<u8> {
    let mut disk = base();
    let lines = b"failback\n".iter().cycle().copied();
    disk[2 * BLOCK..3 * BLOCK].copy_from_slice(&lines.take(BLOCK).collect::<Vec<_>>());
    disk
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|error| panic!("{}: {error}", path(name).display()))
}

/// Compares with the file, or writes it where that was asked for.
fn same(name: &str, written: &[u8]) {
    if std::env::var_os("FAILBACK_WRITE_GOLDEN").is_some() {
        std::fs::write(path(name), written).unwrap();
    }
    assert!(golden(name) == written, "{name} is written otherwise than it was: the format has changed");
}

fn written() -> [(&'static str, Vec<u8>); 3] {
    let (disk, free) = result();
    let base = sign(&base(), 12);
    let key = SigningKey::from_pem(PRIVATE).unwrap();
    let delta = diff_used(&base, &disk, Some(&free), Some(&key));
    [("base.signature", base), ("result.signature", sign_used(&disk, 12, Some(&free))), ("change.delta", delta)]
}

#[test]
fn the_same_is_written_as_ever() {
    for (name, bytes) in written() {
        same(name, &bytes);
    }
    // What zstd makes of a text depends on its version, so this one is not written again to compare.
    if std::env::var_os("FAILBACK_WRITE_GOLDEN").is_some() {
        same("compressed.delta", &diff_used(&sign(&base(), 12), &text(), None, None));
    }
}

#[test]
fn roots_are_those_of_b3sum() {
    let (disk, free) = result();
    assert_eq!(Root::of(&base()).to_string(), BASE_ROOT);
    assert_eq!(Root::of(&counted(&disk, 12, Some(&free))).to_string(), RESULT_ROOT);
    assert_eq!(Root::of(&text()).to_string(), TEXT_ROOT);
}

#[test]
fn signatures_are_read_as_ever() {
    let (shape, root, blocks) = signed_blocks(&golden("base.signature")).unwrap();
    assert_eq!((shape.size().get(), shape.block_size().bytes()), (40_960, 4096));
    assert_eq!(root.to_string(), BASE_ROOT);
    assert!((0..10).all(|block| (blocks[block] == Before::Zero) == (4..8).contains(&block)));
    let (shape, root, blocks) = signed_blocks(&golden("result.signature")).unwrap();
    assert_eq!(shape.size().get(), 41_960);
    assert_eq!(root.to_string(), RESULT_ROOT);
    assert!((0..11).all(|block| (blocks[block] == Before::Free) == [5, 9].contains(&block)));
    let file = golden("result.signature");
    let reader = SignatureReader::open(Cursor::new(&file)).unwrap();
    let header = reader.header();
    assert_eq!((header.coverage, header.kind, header.created), (Coverage::Used, PointKind::Crash, 1_700_000_000));
    assert_eq!(header.identity.name.as_deref(), Some("/dev/sda"));
    assert_eq!(header.identity.scsi_uuid, Some([0x60; 16]));
}

#[test]
fn deltas_are_read_as_ever() {
    let delta = golden("change.delta");
    let (disk, free) = result();
    let mut patched = base();
    let (header, trailer) = apply(&delta, &mut patched).unwrap();
    assert_eq!(Root::of(&counted(&patched, 12, Some(&free))).to_string(), RESULT_ROOT);
    assert_eq!(patched.len(), disk.len());
    assert_eq!((header.base_root.to_string(), trailer.result_root.to_string()), (BASE_ROOT.into(), RESULT_ROOT.into()));
    assert_eq!((header.base_coverage, header.result_coverage), (Coverage::Whole, Coverage::Used));
    assert_eq!((header.kind, header.created), (PointKind::Filesystem, 1_700_000_001));
    assert_eq!(blake3::Hash::from(*trailer.signed_by.unwrap().bytes()).to_hex().as_str(), PUBLIC);
    let mut reader = DeltaReader::open(&delta[..]).unwrap();
    let Item::Frame(frame) = reader.next_item().unwrap() else { panic!("a frame comes first") };
    let extents: Vec<_> =
        frame.table.extents.iter().map(|extent| (extent.blocks.to_string(), extent.old, extent.new)).collect();
    let expected = [
        ("1..2", Content::Data, Content::Data),
        ("5..6", Content::Zero, Content::Free),
        ("8..9", Content::Data, Content::Zero),
        ("9..10", Content::Data, Content::Free),
        ("10..11", Content::Absent, Content::Data),
    ];
    assert_eq!(extents, expected.map(|(blocks, old, new)| (blocks.to_owned(), old, new)));

    let mut patched = base();
    let (_, trailer) = apply(&golden("compressed.delta"), &mut patched).unwrap();
    assert!(patched == text());
    assert_eq!(trailer.result_root.to_string(), TEXT_ROOT);
    assert_eq!((trailer.totals.data_bytes, trailer.signed_by), (4096, None));
    assert!(trailer.totals.stored_bytes < 100);
}

/// What `FORMAT.md` says stands where, found in the files; and what is said when it is something else.
#[test]
fn documented_offsets() {
    let (signature, delta) = (golden("result.signature"), golden("change.delta"));
    let u32_at = |file: &[u8], at: usize| u32::from_le_bytes(*file[at..].first_chunk().unwrap());
    let u64_at = |file: &[u8], at: usize| u64::from_le_bytes(*file[at..].first_chunk().unwrap());
    let hex =
        |file: &[u8], at: usize| blake3::Hash::from(*file[at..].first_chunk::<32>().unwrap()).to_hex().to_string();

    assert_eq!(&signature[..12], b"\x89FBSIG\r\n\x01\0\x50\0");
    assert_eq!(&signature[16..20], &[12, 2, 3, 0]);
    assert_eq!((u32_at(&signature, 20), u64_at(&signature, 24), u64_at(&signature, 32)), (32, 41_960, 1_700_000_000));
    // Five values, one free block, three values, one free block, one value.
    let pages = [(112, 1, 0, 5, 5), (336, 3, 5, 1, 1), (432, 1, 6, 3, 3), (592, 3, 9, 1, 1), (688, 1, 10, 1, 1)];
    for (at, kind, first, blocks, values) in pages {
        assert_eq!((&signature[at..at + 4], signature[at + 4]), (&b"FBPG"[..], kind));
        let counts = (u64_at(&signature, at + 8), u64_at(&signature, at + 16), u32_at(&signature, at + 24));
        assert_eq!(counts, (first, blocks, values));
    }
    let end = signature.len() - 80;
    assert_eq!((end, &signature[end..end + 4], u64_at(&signature, end + 8)), (784, &b"FBSE"[..], 5));
    assert_eq!(hex(&signature, end + 16), RESULT_ROOT);

    assert_eq!(&delta[..12], b"\x89FBDLT\r\n\x01\0\x80\0");
    assert_eq!(&delta[16..20], &[12, 1, 2, 2]);
    assert_eq!((u32_at(&delta, 20), u64_at(&delta, 24), u64_at(&delta, 32)), (12, 40_960, 41_960));
    assert_eq!(hex(&delta, 64), BASE_ROOT);
    // One page of the map: one free block from block 5 on, and another three blocks behind it.
    let map = 128 + 12;
    assert_eq!((&delta[map..map + 8], u64_at(&delta, map + 8)), (&b"FBFM\x01\0\0\0"[..], 0));
    assert_eq!((u64_at(&delta, map + 16), u32_at(&delta, map + 24)), (5, 2));
    assert_eq!([64, 68, 72, 76].map(|at| u32_at(&delta, map + at)), [0, 1, 3, 1]);
    let frame = map + 64 + 2 * 8;
    assert_eq!((&delta[frame..frame + 4], delta[frame + 4], u64_at(&delta, frame + 24)), (&b"FBFR"[..], 0, 1));
    assert_eq!([32, 36, 40, 44].map(|at| u32_at(&delta, frame + at)), [5, 9, 5096, 5096]);
    // Of the second extent: its gap, count, new and old.
    assert_eq!(&delta[frame + 88..frame + 96], &[3, 0, 0, 0, 1, 0, 3, 2]);
    let payload = frame + 80 + 5 * 8 + 9 * 32;
    assert_eq!(&delta[payload..payload + 4096], &result().0[4096..8192]);
    let end = payload + 5096;
    assert_eq!((&delta[end..end + 4], delta[end + 4], delta.len() - end), (&b"FBDE"[..], 1, 216));
    assert_eq!([8, 16, 24, 32, 40].map(|at| u64_at(&delta, end + at)), [1, 5, 5096, 4096, 5096]);
    assert_eq!((hex(&delta, end + 56), hex(&delta, end + 88)), (RESULT_ROOT.into(), PUBLIC.into()));

    let poked = |file: &[u8], at: usize| {
        let mut file = file.to_vec();
        file[at] ^= 0x40;
        file
    };
    let said = |at: usize| apply(&poked(&delta, at), &mut base()).unwrap_err().to_string();
    for (at, says) in [
        (0, "not a failback delta"),
        (8, "format version 65"),
        (10, "header: its length"),
        (12, "flags 0x40"),
        (21, "identity is too long"),
        (40, "header: its hash"),
        (map, "page 0 of the map: it begins as no such page"),
        (map + 8, "page 0 of the map: its hash"),
        (map + 64, "page 0 of the map: its hash"),
        (frame, "it begins as nothing"),
        (frame + 8, "does not follow the frame before it"),
        (frame + 16, "does not follow the frame before it"),
        (frame + 33, "larger than a frame may be"),
        (frame + 48, "frame 0: its hash"),
        (payload, "frame 0: its hash"),
        (end + 51, "more values than there can be"),
        (end + 184, "trailer: its hash"),
    ] {
        assert!(said(at).contains(says), "{at}: {}", said(at));
    }
    let said = |at: usize| signed_blocks(&poked(&signature, at)).unwrap_err().to_string();
    for (at, says) in [
        (0, "not a failback signature"),
        (8, "format version 65"),
        (24, "header: its hash"),
        (112 + 8, "page 0: its blocks do not follow"),
        (112 + 24, "page 0: the number of its values"),
        (112 + 64, "page 0: its hash"),
        (784, "ends in the middle of the values"),
        (784 + 16, "trailer: its hash"),
    ] {
        assert!(said(at).contains(says), "{at}: {}", said(at));
    }
}

/// The text in `FORMAT.md` that checks a delta with `b3sum` and `openssl`, where those are installed.
#[test]
fn other_tools_agree() {
    let text = include_str!("../FORMAT.md");
    let script = text.split_once("```python\n").unwrap().1.split_once("```").unwrap().0;
    let folder = std::env::temp_dir().join(format!("failback-golden-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        std::process::Command::new(program).args(arguments).current_dir(&folder).output().ok()
    };
    let installed = [("python3", "--version"), ("b3sum", "--version"), ("openssl", "version")]
        .iter()
        .all(|(program, argument)| run(program, &[argument]).is_some_and(|output| output.status.success()));
    if installed {
        let said = run("python3", &["-c", script, path("change.delta").to_str().unwrap()]).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&said.stdout),
            format!("base {BASE_ROOT}\nresult {RESULT_ROOT}\n"),
            "{said:?}"
        );
        let command = text.lines().find_map(|line| line.strip_prefix("openssl pkeyutl")).unwrap();
        let arguments: Vec<_> = ["pkeyutl"].into_iter().chain(command.split_whitespace()).collect();
        let said = run("openssl", &arguments).unwrap();
        assert!(said.status.success(), "{said:?}");
    } else {
        println!("skipped: python3, b3sum and openssl are not all installed");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
