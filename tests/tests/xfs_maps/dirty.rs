//! File systems that were in use when they were copied.

use crate::fixtures::{SIZE, fill, made, punch, punched, remove_every_third, write_synced};
use crate::oracle::on_disk;
use failback_tests::lab::{Place, lone, noise, tool};
use failback_tests::proof::{Live, copy_image, mapped, real_tree, survives, with_live, with_mounted};
use failback_volumes::{FreeMap, State};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

/// Bytes that must at least be skipped: far more than half of what is free.
const LEAST: u64 = 100 << 20;

/// Bytes that recovery itself may put to use: it also frees what was staged for copies on write and what was removed while
/// it was open, and where that makes more free extents, trees grow.
const TAKEN_BY_RECOVERY: u64 = 64 << 10;

/// The whole proof for one crash copy; returns what our map calls free.
#[track_caller]
fn prove(place: &Place, name: &str, crashed: &Path) -> FreeMap {
    let found = mapped(crashed);
    assert!(matches!(found.state, State::Replayed { .. }), "{name}: {found:?}");
    assert!(found.checked && found.remarks.is_empty(), "{name}: {:?}", found.remarks);
    let map = found.map.unwrap();
    assert!(map.bytes().get() > LEAST, "{name}: only {} bytes are free", map.bytes());
    survives(crashed, "xfs", &map).unwrap_or_else(|error| panic!("{name}: {error}"));
    // What the kernel makes of it; nothing that it then uses may be free here, but for what recovery takes itself.
    let recovered = place.path("recovered");
    copy_image(crashed, &recovered);
    with_mounted(&recovered, "xfs", "rw", |_| ());
    let after = mapped(&recovered);
    assert_eq!(after.state, State::Clean, "{name}");
    let after = after.map.unwrap();
    let wrong = map.bytes().get() - map.intersection(&after).bytes().get();
    println!("{name}: {:?}, {} free here, {} after recovery", found.state, map.bytes(), after.bytes());
    let allowed = if after.extents().len() > map.extents().len() { TAKEN_BY_RECOVERY } else { 0 };
    assert!(wrong <= allowed, "{name}: {wrong} bytes that are free here are used after recovery");
    fs::remove_file(recovered).unwrap();
    map
}

/// Makes a file system, uses it, and proves each copy that was taken meanwhile.
#[track_caller]
fn proven(options: &[&str], mount: &str, size: u64, run: impl FnOnce(&Live, &mut dyn FnMut(&str)) + Send) {
    let place = Place::new();
    let image = made(&place, "image", size, options);
    let mut copies: Vec<(String, PathBuf)> = Vec::new();
    with_live(&image, "xfs", mount, |live| {
        let mut copy = |name: &str| {
            let path = place.path(name);
            live.crash_copy(&path);
            copies.push((name.to_owned(), path));
        };
        run(live, &mut copy);
    });
    for (name, path) in copies {
        prove(&place, &name, &path);
        fs::remove_file(path).unwrap();
    }
}

fn sync(root: &Path) {
    tool("sync", &["-f".as_ref(), root.as_os_str()]);
}

/// Makes, changes and removes files until it is told to stop.
fn churn(root: &Path, seed: u64, stop: &AtomicBool) {
    let directory = root.join(format!("churn{seed}"));
    fs::create_dir_all(&directory).unwrap();
    let bytes = noise(64 << 10, seed);
    let mut round = 0_usize;
    while !stop.load(Relaxed) {
        let path = directory.join(format!("{}", round % 400));
        let len = 1 + (round * 7919) % bytes.len();
        match round % 7 {
            0..4 => write_synced_now_and_then(&path, &bytes[..len], round),
            4 => drop(fs::remove_file(directory.join(format!("{}", (round * 31) % 400)))),
            5 => {
                if let Ok(file) = OpenOptions::new().write(true).open(directory.join(format!("{}", (round * 17) % 400)))
                {
                    file.set_len(u64::try_from(len / 2).unwrap()).unwrap();
                }
            }
            _ => {
                if let Ok(file) = OpenOptions::new().write(true).open(directory.join(format!("{}", (round * 13) % 400)))
                {
                    file.write_all_at(&bytes, 0).unwrap();
                    punch(&file, 4096, 8192);
                }
            }
        }
        round += 1;
    }
}

fn write_synced_now_and_then(path: &Path, bytes: &[u8], round: usize) {
    fs::write(path, bytes).unwrap();
    if round.is_multiple_of(23) {
        File::open(path).unwrap().sync_all().unwrap();
    }
}

/// Some threads that change files while `run` runs.
fn under_load(root: &Path, run: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 1..=2 {
            let stop = &stop;
            scope.spawn(move || churn(root, seed, stop));
        }
        run();
        stop.store(true, Relaxed);
    });
}

fn wait() {
    thread::sleep(std::time::Duration::from_millis(700));
}

#[test]
fn after_syncs_and_freezes() {
    let Some(_lone) = lone() else { return };
    proven(&[], "rw", SIZE, |live, copy| {
        let root = live.root();
        fs::create_dir(root.join("synced")).unwrap();
        for number in 0..150_u64 {
            write_synced(&root.join(format!("synced/{number}")), &noise(40_000, number));
        }
        copy("fsync");
        fill(root, 6);
        sync(root);
        copy("syncfs");
        remove_every_third(root);
        tool("fsfreeze", &["-f".as_ref(), root.as_os_str()]);
        copy("frozen");
        tool("fsfreeze", &["-u".as_ref(), root.as_os_str()]);
    });
}

#[test]
fn under_load_in_many_groups() {
    let Some(_lone) = lone() else { return };
    proven(&["-d", "agcount=15", "-m", "rmapbt=1"], "rw", SIZE, |live, copy| {
        fill(live.root(), 6);
        under_load(live.root(), || {
            for number in 0..3 {
                wait();
                copy(&format!("loaded {number}"));
            }
        });
    });
}

#[test]
fn a_small_log_that_goes_around() {
    let Some(_lone) = lone() else { return };
    proven(&["-l", "size=10m", "-b", "size=1024", "-i", "nrext64=1"], "rw,wsync,logbsize=16k", SIZE, |live, copy| {
        let root = live.root();
        for round in 0..8_u64 {
            let directory = root.join(format!("{}", round % 3));
            fs::create_dir_all(&directory).unwrap();
            for number in 0..1200_u64 {
                fs::write(
                    directory.join(format!("{number}")),
                    noise(200 + 3 * usize::try_from(number).unwrap(), number),
                )
                .unwrap();
            }
            remove_every_third(&directory);
            if round >= 5 {
                copy(&format!("around {round}"));
            }
        }
    });
}

#[test]
fn large_records_and_stripes() {
    let Some(_lone) = lone() else { return };
    proven(&["-l", "su=256k", "-s", "size=4096"], "rw,logbsize=256k", SIZE, |live, copy| {
        real_tree(&live.root().join("tree"), 12);
        sync(live.root());
        remove_every_third(live.root());
        punched(&live.root().join("holes"), 200);
        copy("large records");
        under_load(live.root(), || {
            wait();
            copy("large records under load");
        });
    });
}

#[test]
fn shared_extents_and_holes() {
    let Some(_lone) = lone() else { return };
    proven(&["-m", "reflink=1,rmapbt=1", "-b", "size=1024", "-l", "su=32k"], "rw,logbsize=64k", SIZE, |live, copy| {
        let root = live.root();
        punched(&root.join("first"), 256);
        for number in 0..8_u64 {
            let to = root.join(format!("copy{number}"));
            tool("cp", &["--reflink=always".as_ref(), root.join("first").as_os_str(), to.as_os_str()]);
            let file = OpenOptions::new().write(true).open(&to).unwrap();
            for at in 0..100 {
                file.write_all_at(&noise(3000, at), (at * 9 + number) << 14).unwrap();
            }
            file.sync_all().unwrap();
        }
        copy("shared");
        for number in 0..5 {
            fs::remove_file(root.join(format!("copy{number}"))).unwrap();
        }
        sync(root);
        copy("no longer shared");
    });
}

#[test]
fn grown_while_in_use() {
    let Some(_lone) = lone() else { return };
    proven(&["-d", "size=302m,agsize=76m"], "rw", 500 << 20, |live, copy| {
        fill(live.root(), 4);
        tool("xfs_growfs", &[live.root()]);
        fill(&live.root().join("tree"), 4);
        copy("grown");
    });
}

#[test]
fn large_blocks() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    if !crate::fixtures::can_mount(&made(&place, "probe", SIZE, &["-b", "size=65536"])) {
        println!("skipped: this kernel cannot mount blocks larger than a page");
        return;
    }
    proven(&["-b", "size=65536"], "rw", SIZE, |live, copy| {
        fill(live.root(), 4);
        copy("large blocks");
    });
}

/// The proof itself can fail: a map from the disk alone loses files.
#[test]
fn the_disk_alone_is_not_enough() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let (image, crashed) = (made(&place, "image", SIZE, &[]), place.path("crashed"));
    with_live(&image, "xfs", "rw", |live| {
        for number in 0..100_u64 {
            write_synced(&live.root().join(format!("{number}")), &noise(100_000, number));
        }
        live.crash_copy(&crashed);
    });
    survives(&crashed, "xfs", &on_disk(&crashed)).unwrap_err();
    prove(&place, "with the log", &crashed);
}
