//! Maps of `ReiserFS`: of clean ones against `debugreiserfs`, of crashed ones by losing all that they call free.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::lab::{Place, Uml, has_devices, has_programs, has_uml, noise, recovered, tool, try_tool};
use failback_tests::proof::{assert_same_map, free_map, mapped, only_used, real_tree};
use failback_volumes::{Kind, State};
use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

const UUID: &str = "c1b9d5a2-f162-11cf-9ece-0020afc76f16";

/// Makes a file system in a sparse image of so many bytes.
fn made(place: &Place, name: &str, size: u64, options: &str) -> PathBuf {
    let image = place.sparse(name, size, &[]);
    let uuid: &[&str] = if options.contains("3.5") { &[] } else { &["-u", UUID] };
    let options = ["-q", "-f", "-f"].into_iter().chain(uuid.iter().copied()).chain(options.split_ascii_whitespace());
    let mut arguments: Vec<&OsStr> = options.map(OsStr::new).collect();
    arguments.push(image.as_os_str());
    tool("mkreiserfs", &arguments);
    image
}

/// What `debugreiserfs` calls free, in bytes: lines such as `#0: block 17: Busy (0-8211) Free(8212-32767)`.
fn free_by_oracle(image: &Path) -> Vec<Range<u64>> {
    let text = tool("debugreiserfs", &[OsStr::new("-m"), image.as_os_str()]);
    let block_size = text.lines().find_map(|line| line.strip_prefix("Blocksize: ")).unwrap();
    let block_size: u64 = block_size.parse().unwrap();
    let lines = text.lines().filter(|line| line.starts_with('#'));
    let parts = lines.flat_map(|line| line.split("Free(").skip(1));
    let ends = parts.map(|part| part.split_once(')').unwrap().0.split_once('-').unwrap());
    let blocks = ends.map(|(first, last)| first.parse::<u64>().unwrap()..last.parse::<u64>().unwrap() + 1);
    blocks.map(|blocks| blocks.start * block_size..blocks.end * block_size).collect()
}

/// Whether the tools are there that make and check a `ReiserFS`.
fn has_tools() -> bool {
    has_devices() && has_programs(&["mkreiserfs", "debugreiserfs"])
}

#[track_caller]
fn refused(image: &Path, words: &str) {
    let found = mapped(image);
    let reason = found.map.unwrap_err().to_string();
    assert!(reason.contains(words), "{reason}");
}

#[test]
fn clean_maps_are_those_of_the_tools() {
    if !has_tools() {
        return;
    }
    let place = Place::new();
    for (number, (size, options)) in [
        (64 << 20, "-b 4096"),
        (64 << 20, "-b 4096 --format 3.5"),
        // The last bitmap is full, short by one block, and has one block.
        (256 << 20, "-b 4096"),
        ((256 << 20) - 4096, "-b 4096"),
        ((256 << 20) + 4096, "-b 4096"),
        (1 << 30, "-b 4096 --format 3.5"),
        (16 << 20, "-b 512 -s 600"),
        (100 << 20, "-b 512"),
        (100 << 20, "-b 1024 --format 3.5"),
        (100 << 20, "-b 2048"),
        (100 << 20, "-b 8192"),
        (700 << 20, "-b 8192 --format 3.5"),
        (40 << 20, "-s 513"),
        (200 << 20, "-s 32749"),
        (200 << 20, "-s 2000 -t 400"),
        (200 << 20, "-s 2000 -t 400 --format 3.5"),
        (40 << 30, "-b 4096"),
    ]
    .into_iter()
    .enumerate()
    {
        let image = made(&place, &format!("{number}.img"), size, options);
        let found = mapped(&image);
        let map = found.map.unwrap_or_else(|reason| panic!("{size} {options}: {reason}"));
        assert_same_map(&map, free_by_oracle(&image));
        assert_eq!((found.kind, found.state, found.checked), (Kind::ReiserFs, State::Clean, false));
        let is_old = options.contains("3.5");
        assert_eq!(found.version, Some(if is_old { "3.5" } else { "3.6" }));
        assert_eq!(found.uuid.as_deref(), if is_old { None } else { Some(UUID) });
        assert!(map.bytes().get() > 0 && map.bytes().get() < size);
        fs::remove_file(image).unwrap();
    }
}

#[test]
fn names_and_what_lies_behind_the_end() {
    if !has_tools() {
        return;
    }
    let place = Place::new();
    let image = made(&place, "named.img", 64 << 20, "-l two_words");
    fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(65 << 20).unwrap();
    let found = mapped(&image);
    assert_eq!(found.label.as_deref(), Some("two_words"));
    assert_eq!(found.size.unwrap().get(), 64 << 20);
    let map = found.map.unwrap();
    assert_eq!(map.extents().last().unwrap().end().get(), 64 << 20, "what lies behind the end is in use");
    fs::OpenOptions::new().write(true).open(&image).unwrap().set_len((64 << 20) - 1).unwrap();
    refused(&image, "it claims 67108864 bytes of a volume that has 67108863");
}

/// Something else took the volume, and what it wrote so far left superblock, bitmap and journal alone.
#[test]
fn what_is_left_under_something_else_is_not_believed() {
    if !has_tools() {
        return;
    }
    let place = Place::new();
    let image = made(&place, "stale.img", 64 << 20, "-b 4096");
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    // All but the blocks 16 (superblock), 17 (bitmap), 18 to 8209 (journal) and 8210 (its header).
    file.write_all_at(&noise(16 * 4096, 1), 0).unwrap();
    assert!(mapped(&image).map.is_ok(), "what lies before the superblock is nothing of it");
    file.write_all_at(&noise((64 << 20) - 8211 * 4096, 2), 8211 * 4096).unwrap();
    refused(&image, "block 8211 is not the node of its tree that it should be");
}

#[test]
fn a_journal_elsewhere_leaves_every_block_in_use() {
    if !has_tools() {
        return;
    }
    let place = Place::new();
    for (number, offset) in ["", " -o 100", " -o 18"].into_iter().enumerate() {
        for format in ["3.5", "3.6"] {
            let journal = place.sparse(&format!("{number}{format}.journal"), 40 << 20, &[]);
            let options = format!("--format {format} -j {}{offset} -s 8193", journal.display());
            let image = made(&place, &format!("{number}{format}.img"), 200 << 20, &options);
            refused(&image, "its journal is on another device");
        }
    }
}

/// Ways to leave a file system behind: its name, how it is made, and what is done with it before the power goes.
struct Crash {
    name: &'static str,
    size: u64,
    options: &'static str,
    /// A script for a first life, which ends with a clean unmount; none if empty.
    before: &'static str,
    /// A script after which some files are synchronised and the power goes; one that says "under load" is killed from
    /// outside after that.
    script: &'static str,
    /// Transactions that are replayed, and MiB that are free, at least.
    transactions: u64,
    free: u64,
}

/// Makes and synchronises a few files: what was done before is then in the journal, and some of it nowhere else.
const COMMIT: &str = "for i in 1 2 3; do echo $i > /mnt/committed$i; sync /mnt/committed$i; sleep 0.1; done";

const CRASHES: [Crash; 7] = [
    Crash {
        name: "the first mount, after fsync",
        size: 96 << 20,
        options: "",
        before: "",
        script: "cp -a /share/tree /mnt/",
        transactions: 2,
        free: 45,
    },
    Crash {
        name: "files deleted and made again",
        size: 200 << 20,
        options: "-s 1000",
        before: "cp -a /share/tree /mnt/one; cp -a /share/tree /mnt/two",
        script: "rm -r /mnt/one; cp -a /share/tree /mnt/three; rm -r /mnt/two/texts; cp -a /share/tree/texts /mnt/four",
        transactions: 2,
        free: 140,
    },
    Crash {
        name: "killed under load",
        size: 200 << 20,
        options: "",
        before: "",
        script: "cp -a /share/tree/texts /mnt/kept; sync; n=0
            while :; do
                n=$((n + 1)); cp -a /share/tree/texts /mnt/$n; sync /mnt/$n/*; rm -rf /mnt/$((n - 2))
                if [ $n = 3 ]; then echo under load; fi
            done",
        transactions: 20,
        free: 130,
    },
    Crash {
        name: "the second mount, with old transactions behind the new ones",
        size: 96 << 20,
        options: "-s 1000",
        before: "cp -a /share/tree /mnt/old; n=0
            while [ $n -lt 3 ]; do n=$((n + 1)); cp -a /share/tree/texts /mnt/$n; sync; rm -r /mnt/$n; done",
        script: "cp -a /share/tree/texts /mnt/new; rm -r /mnt/old",
        transactions: 2,
        free: 40,
    },
    Crash {
        name: "a small journal that went round and round",
        size: 96 << 20,
        options: "-s 513 -t 256",
        before: "",
        script: "cp -a /share/tree /mnt/; n=0
            while [ $n -lt 140 ]; do
                n=$((n + 1)); dd if=/dev/zero of=/mnt/f$n bs=9000 count=1 2>/dev/null; sync /mnt/f$n
            done
            rm /mnt/f*0",
        transactions: 2,
        free: 70,
    },
    Crash {
        name: "small blocks, two bitmaps and more",
        size: 96 << 20,
        options: "-b 1024",
        before: "cp -a /share/tree/texts /mnt/",
        script: "cp -a /share/tree/programs /mnt/; rm -r /mnt/texts",
        transactions: 2,
        free: 70,
    },
    Crash {
        name: "version 3.5",
        size: 96 << 20,
        options: SAYS_3_5,
        before: "",
        // Linux 6.1 takes a leaf for damaged in which the first directory of this version has its two short names alone, as when it is
        // split behind them: so that one has few names, and all files are in it.
        script: "n=0
            while [ $n -lt 120 ]; do
                n=$((n + 1)); head -c $((n * 79190 % 900000 + 1)) /dev/urandom >/mnt/a-file-with-a-long-name-$((n % 16))
                if [ $((n % 3)) = 0 ]; then rm /mnt/a-file-with-a-long-name-$(((n - 1) % 16)); fi
            done",
        transactions: 2,
        free: 45,
    },
];

/// A 3.6 file system that says it is a 3.5 one: those that `mkreiserfs` makes are refused by Linux 6.1, see below.
const SAYS_3_5: &str = "--format 3.6";

/// Leaves a crashed file system behind.
fn crashed(place: &Place, number: usize, crash: &Crash) -> PathBuf {
    let image = made(place, &format!("crash{number}.img"), crash.size, crash.options);
    if crash.options == SAYS_3_5 {
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        // `s_magic` of the superblock.
        file.write_all_at(b"ReIsErFs\0\0", (64 << 10) + 52).unwrap();
    }
    let uml = Uml::new();
    real_tree(&uml.share().join("tree"), 6);
    let mount = "mount -t reiserfs /dev/ubda /mnt";
    let before =
        if crash.before.is_empty() { String::new() } else { format!("{mount}\n{}\numount /mnt\n", crash.before) };
    let script = format!("{before}{mount}\n{}", crash.script);
    if crash.script.contains("under load") {
        let mut guest = uml.start(&[&image], &script);
        guest.wait_for("under load");
        thread::sleep(Duration::from_millis(700));
        guest.kill();
    } else {
        uml.cut(&[&image], &format!("{script}\n{COMMIT}\npower_cut"));
    }
    image
}

#[test]
fn crashed_file_systems_lose_nothing() {
    if !has_tools() || !has_uml() {
        return;
    }
    let place = Place::new();
    let place = &place;
    let images: Vec<_> = thread::scope(|scope| {
        let crashes = CRASHES.iter().enumerate();
        let threads: Vec<_> =
            crashes.map(|(number, crash)| scope.spawn(move || crashed(place, number, crash))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut copies = Vec::new();
    for (crash, image) in CRASHES.iter().zip(&images) {
        let found = mapped(image);
        let State::Replayed { transactions } = found.state else { panic!("{}: {found:?}", crash.name) };
        assert!(transactions >= crash.transactions, "{}: {transactions} transactions", crash.name);
        assert_eq!(found.version == Some("3.5"), crash.options == SAYS_3_5);
        let map = found.map.unwrap_or_else(|reason| panic!("{}: {reason}", crash.name));
        let (free, least) = (map.bytes().get() >> 20, crash.free);
        assert!(free >= least, "{}: {free} MiB are skipped, and {least} could be", crash.name);
        let used = image.with_extension("used");
        only_used(image, &map, &used);
        copies.push([image.clone(), used]);
    }
    // A map as it stands on the disk, which is wrong.
    let unreplayed = images[0].with_extension("wrong");
    only_used(&images[0], &free_map(free_by_oracle(&images[0])), &unreplayed);
    let kinds = |kind: usize| copies.iter().map(move |copies| copies[kind].clone());
    let (used, whole) = thread::scope(|scope| {
        let whole = scope.spawn(|| recovered("reiserfs", &kinds(0).collect::<Vec<_>>()));
        (recovered("reiserfs", &kinds(1).chain([unreplayed]).collect::<Vec<_>>()), whole.join().unwrap())
    });
    for ((crash, whole), used) in CRASHES.iter().zip(&whole).zip(&used) {
        assert!(whole.lines().count() > 10, "{}: without files this proves nothing: {whole}", crash.name);
        assert!(whole == used, "{}: {whole}\n{used}", crash.name);
    }
    // Recovering has left clean ones behind, with files in them.
    for (crash, image) in CRASHES.iter().zip(kinds(0)) {
        let found = mapped(&image);
        assert_eq!(found.state, State::Clean, "{}", crash.name);
        assert_same_map(&found.map.unwrap(), free_by_oracle(&image));
    }
    for (crash, image) in CRASHES.iter().zip(kinds(1)) {
        let output = try_tool("reiserfsck", &["--check".as_ref(), "-y".as_ref(), image.as_os_str()]);
        assert!(output.status.success(), "{}: {}", crash.name, String::from_utf8_lossy(&output.stdout));
    }
    let unreplayed = &used[CRASHES.len()];
    assert!(*unreplayed != whole[0], "without its journal a map loses nothing here, so this test proves nothing");
}

#[test]
fn a_superblock_in_the_old_place() {
    if !has_tools() {
        return;
    }
    let place = Place::new();
    let image = made(&place, "old.img", 64 << 20, "");
    let file = fs::OpenOptions::new().read(true).write(true).open(&image).unwrap();
    let mut superblock = [0; 204];
    file.read_exact_at(&mut superblock, 64 << 10).unwrap();
    file.write_all_at(&superblock, 8 << 10).unwrap();
    refused(&image, "it has two superblocks, at 8 KiB and at 64 KiB");
    file.write_all_at(&[0; 204], 64 << 10).unwrap();
    refused(&image, "it is older than version 3.5.11, with its superblock at 8 KiB");
}
