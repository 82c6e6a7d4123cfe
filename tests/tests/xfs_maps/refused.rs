//! What is not understood: every block of it is in use, and the reason is said.

use crate::fixtures::{SIZE, V4, made};
use failback_tests::lab::{Place, lone, tool};
use failback_tests::proof::mapped;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

#[track_caller]
fn refused(image: &Path, reason: &str) {
    let found = mapped(image).map.unwrap_err().to_string();
    assert!(found.contains(reason), "{found}");
}

fn put(image: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(image).unwrap().write_all_at(bytes, at).unwrap();
}

/// Sets a field of the superblock, and its checksum.
fn set(image: &Path, field: &str, value: &str) {
    let command = format!("write -d {field} {value}");
    tool(
        "xfs_db",
        &["-x".as_ref(), "-c".as_ref(), "sb 0".as_ref(), "-c".as_ref(), command.as_ref(), image.as_os_str()],
    );
}

#[test]
fn features_and_places() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    for (field, value, reason) in [
        ("inprogress", "1", "inprogress"),
        ("features_incompat", "0x1b", "needsrepair"),
        ("features_incompat", "0x10b", "metadir"),
        ("features_incompat", "0x20b", "zoned"),
        ("features_incompat", "0x4000000b", "incompat 0x40000000"),
        ("features_ro_compat", "0x8d", "ro_compat 0x80"),
        ("features_log_incompat", "4", "log_incompat 0x4"),
        ("dblocks", "99999999", "superblock is damaged"),
        ("logstart", "0", "another device"),
        ("agcount", "0", "superblock is damaged"),
    ] {
        let image = made(&place, "image", SIZE, &[]);
        set(&image, field, value);
        refused(&image, reason);
    }
    let image = made(&place, "image", SIZE, &[]);
    OpenOptions::new().write(true).open(&image).unwrap().set_len(SIZE - (8 << 20)).unwrap();
    refused(&image, "there are only");
    put(&image, 130, b"x");
    refused(&image, "checksum");
    let image = made(&place, "image", SIZE, V4);
    put(&image, 126, &[1]);
    refused(&image, "inprogress");
}

#[test]
fn a_log_elsewhere() {
    let Some(_lone) = lone() else { return };
    let place = Place::new();
    let log = place.sparse("log", 64 << 20, &[]);
    let image = made(&place, "image", SIZE, &["-l", &format!("logdev={},size=32m", log.display())]);
    refused(&image, "another device");
}
