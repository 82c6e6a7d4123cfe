//! File systems that a machine was writing to when it stopped: the map is replayed from the journal, and nothing that the
//! recovered file system needs is free in it.

use super::clean::{dumpe2fs_free, make};
use failback_tests::lab::{Place, lone, tool, try_tool};
use failback_tests::proof::{Live, copy_image, free_map, mapped, real_tree, survives, with_live};
use failback_volumes::{FileSystem, State};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

/// What is free at least, of images of 200 MiB of which less than half is ever written.
const LEAST_FREE: u64 = 50 << 20;

/// In which moment a copy was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Some files were written, others deleted, and every one was synced for itself.
    Synced,
    /// Files are being written, synced and deleted.
    Writing,
    /// The whole file system was synced.
    AllSynced,
    /// It is frozen.
    Frozen,
}

/// A crash copy.
struct Crash {
    moment: Moment,
    image: PathBuf,
    found: FileSystem,
}

/// Crash copies of a file system made so and mounted so.
fn crashes(place: &Place, options: &str, mount: &str) -> Vec<Crash> {
    let image = place.path("image");
    make(options, "200M", None, &image);
    let taken = with_live(&image, "ext4", mount, |live| take(live, place));
    let with_map = taken.into_iter().map(|(moment, image)| Crash { moment, found: mapped(&image), image });
    with_map.collect()
}

/// Works on a file system, and takes copies of it.
fn take(live: &Live, place: &Place) -> Vec<(Moment, PathBuf)> {
    let mut taken = Vec::new();
    let mut take = |moment: Moment| {
        let copy = place.path(&format!("{moment:?}{}", taken.len()));
        live.crash_copy(&copy);
        taken.push((moment, copy));
    };
    real_tree(&live.root().join("first"), 12);
    sync_all(live.root());
    // Freed directories and inodes: their blocks are revoked, and used again for the content of files.
    fs::remove_dir_all(live.root().join("first/texts")).unwrap();
    real_tree(&live.root().join("second"), 12);
    sync_each(live.root());
    let orphan = orphan(live.root());
    take(Moment::Synced);

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writing = scope.spawn(|| churn(&live.root().join("third"), &stop));
        for pause in [60, 170] {
            thread::sleep(Duration::from_millis(pause));
            take(Moment::Writing);
        }
        stop.store(true, Relaxed);
        assert!(writing.join().unwrap() > 10);
    });
    sync_all(live.root());
    take(Moment::AllSynced);
    tool("fsfreeze", &["-f".as_ref(), live.root().as_os_str()]);
    take(Moment::Frozen);
    tool("fsfreeze", &["-u".as_ref(), live.root().as_os_str()]);
    drop(orphan);
    taken
}

/// Writes, syncs and deletes files until it is told to stop; returns how many.
fn churn(directory: &Path, stop: &AtomicBool) -> u32 {
    fs::create_dir(directory).unwrap();
    let mut number = 0;
    while !stop.load(Relaxed) {
        let path = directory.join(number.to_string());
        let mut file = File::create(&path).unwrap();
        let len = 1000 + usize::try_from(number).unwrap() * 7919 % 90_000;
        file.write_all(&failback_tests::lab::noise(len, number.into())).unwrap();
        if number % 3 == 0 {
            file.sync_all().unwrap();
        }
        if number % 4 == 3 {
            fs::remove_file(directory.join((number - 2).to_string())).unwrap();
        }
        number += 1;
    }
    number
}

/// A file that has no name any more, and is open.
fn orphan(directory: &Path) -> File {
    let path = directory.join("orphan");
    let mut file = File::create(&path).unwrap();
    file.write_all(&vec![1; 300_000]).unwrap();
    file.sync_all().unwrap();
    fs::remove_file(path).unwrap();
    File::open(directory).unwrap().sync_all().unwrap();
    file
}

fn sync_all(directory: &Path) {
    tool("sync", &["-f".as_ref(), directory.as_os_str()]);
}

/// Syncs every file, and nothing else.
fn sync_each(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sync_each(&path);
        }
        if !path.is_symlink() {
            File::open(path).unwrap().sync_all().unwrap();
        }
    }
}

/// Proves one map, and returns how many transactions were replayed.
#[track_caller]
fn prove(crash: &Crash, kind: failback_volumes::Kind) -> u64 {
    let Crash { moment, image, found } = crash;
    assert_eq!(found.kind, kind);
    let map = found.map.as_ref().unwrap_or_else(|why| panic!("{moment:?}: every block, because {why}"));
    let transactions = match found.state {
        State::Replayed { transactions } => transactions,
        State::Clean if *moment == Moment::Frozen => 0,
        state => panic!("{moment:?}: {state:?}"),
    };
    assert_eq!(found.remarks, Vec::<String>::new(), "{moment:?}");
    println!("{moment:?}: {transactions} transactions, {} free, checked: {}", map.bytes(), found.checked);
    assert!(map.bytes().get() >= LEAST_FREE, "{moment:?}: {}", map.bytes());
    survives(image, "ext4", map).unwrap_or_else(|lost| panic!("{moment:?}: {lost}"));

    // Nothing that another replay finds in use is free, and not much more is in use.
    let recovered = image.with_extension("recovered");
    copy_image(image, &recovered);
    let done = try_tool("e2fsck", &["-E".as_ref(), "journal_only".as_ref(), "-y".as_ref(), recovered.as_os_str()]);
    assert!(done.status.code().unwrap() <= 1, "{}", String::from_utf8_lossy(&done.stdout));
    let theirs = free_map(dumpe2fs_free(&recovered));
    assert_eq!(map.intersection(&theirs), *map, "{moment:?}");
    assert!(theirs.bytes().get() - map.bytes().get() < 24 << 20, "{moment:?}");
    let done = try_tool("e2fsck", &["-fy".as_ref(), recovered.as_os_str()]);
    assert!(done.status.code().unwrap() <= 1, "{}", String::from_utf8_lossy(&done.stdout));
    let theirs = free_map(dumpe2fs_free(&recovered));
    assert_eq!(map.intersection(&theirs), *map, "{moment:?}");
    fs::remove_file(recovered).unwrap();
    transactions
}

/// Proves the maps of all moments.
#[track_caller]
fn prove_all(options: &str, mount: &str, kind: failback_volumes::Kind) {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let replayed: u64 = crashes(&place, options, mount).iter().map(|crash| prove(crash, kind)).sum();
    assert!(replayed > 3, "{replayed} transactions");
}

/// Whether the log goes around the end of the journal, as debugfs reads it.
fn is_wrapped(image: &Path) -> bool {
    let log = tool("debugfs", &["-R".as_ref(), "logdump".as_ref(), image.as_os_str()]);
    let blocks = log.lines().filter(|line| line.contains("expected sequence"));
    let blocks: Vec<u64> = blocks.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect();
    !blocks.is_sorted()
}

mod survives_a_crash {
    use super::{crashes, is_wrapped, lone, prove, prove_all};
    use failback_tests::lab::Place;
    use failback_volumes::Kind;

    #[test]
    fn ext3() {
        prove_all("-t ext3 -b 4096", "rw", Kind::Ext3);
    }

    #[test]
    fn ext3_1k() {
        prove_all("-t ext3 -b 1024 -J size=16", "rw,data=journal", Kind::Ext3);
    }

    #[test]
    fn ext4() {
        prove_all("-t ext4 -b 4096", "rw", Kind::Ext4);
    }

    #[test]
    fn ext4_1k_without_64bit() {
        prove_all("-t ext4 -b 1024 -O ^64bit", "rw", Kind::Ext4);
    }

    #[test]
    fn ext4_without_checksums() {
        prove_all("-t ext4 -O ^metadata_csum,uninit_bg,^flex_bg -g 4096", "rw,nodelalloc", Kind::Ext4);
    }

    #[test]
    fn ext4_with_many_groups() {
        prove_all("-t ext4 -b 1024 -g 2048 -O meta_bg,^resize_inode,orphan_file", "rw", Kind::Ext4);
    }

    #[test]
    fn bigalloc() {
        prove_all("-t ext4 -O bigalloc -C 16384", "rw", Kind::Ext4);
    }

    #[test]
    fn a_small_journal_that_wraps() {
        let Some(_lone) = lone() else { return };
        let place = Place::new();
        let crashes = crashes(&place, "-t ext4 -b 1024 -J size=1", "rw");
        assert!(crashes.iter().any(|crash| is_wrapped(&crash.image)), "no journal wraps");
        for crash in &crashes {
            prove(crash, Kind::Ext4);
        }
    }
}

/// The map as it stands on the disk is wrong, and the proof sees that: it can fail.
#[test]
fn without_a_replay_files_are_lost() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let crashes = crashes(&place, "-t ext4 -O ^metadata_csum", "rw");
    let synced = &crashes[0];
    let on_disk = free_map(dumpe2fs_free(&synced.image));
    assert!(on_disk.bytes() > synced.found.map.as_ref().unwrap().bytes());
    let lost = survives(&synced.image, "ext4", &on_disk).unwrap_err();
    assert!(lost.contains("are lost"), "{lost}");
}

/// Without a journal nobody knows what was written.
#[test]
fn mounted_without_a_journal_every_block_is_used() {
    let Some(_lone) = lone() else { return };
    for (options, kind) in [("-t ext2", "ext2"), ("-t ext4 -O ^has_journal", "ext4")] {
        let place = Place::new();
        let (image, copy) = (place.path("image"), place.path("copy"));
        make(options, "64M", None, &image);
        with_live(&image, kind, "rw", |live| {
            real_tree(&live.root().join("tree"), 4);
            sync_all(live.root());
            live.crash_copy(&copy);
        });
        let found = mapped(&copy);
        assert_eq!(found.state, State::NotUnderstood);
        assert!(found.map.unwrap_err().to_string().contains("not unmounted"));
    }
}

/// Fast commits are not followed; where there may be some, nothing is known.
#[test]
fn with_fast_commits_every_block_is_used() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    for crash in crashes(&place, "-t ext4 -O fast_commit", "rw") {
        if crash.moment != Moment::Frozen {
            assert_eq!(crash.found.state, State::NotUnderstood);
            assert!(crash.found.map.unwrap_err().to_string().contains("fast commits"));
        }
    }
}
