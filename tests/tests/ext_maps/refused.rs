//! What is recognised and not understood: every block is used, and the reason is told.

use super::clean::make;
use failback_tests::lab::{Place, tool};
use failback_tests::proof::{all_mapped, mapped};
use failback_volumes::{Kind, State};
use std::fs::OpenOptions;
use std::path::Path;

const SIZE: &str = "64M";

/// Makes a file system, has debugfs change it, and wants every block to be used, with these words in the reason.
#[track_caller]
fn refuses(options: &str, requests: &[&str], words: &str) -> State {
    let place = Place::new();
    let image = place.path("image");
    make(options, SIZE, None, &image);
    for request in requests {
        tool("debugfs", &["-w".as_ref(), "-R".as_ref(), request.as_ref(), image.as_os_str()]);
    }
    let found = mapped(&image);
    let why = found.map.expect_err(words).to_string();
    assert!(why.contains(words), "{words:?} is not in: {why}");
    found.state
}

#[test]
fn flags_that_forbid() {
    assert_eq!(refuses("-t ext4", &["ssv state 3"], "noted an error"), State::NotUnderstood);
    assert_eq!(refuses("-t ext2", &["ssv state 0"], "not unmounted"), State::NotUnderstood);
    refuses("-t ext4 -O ^has_journal", &["ssv state 0"], "not unmounted");
    refuses("-t ext2", &["feature needs_recovery"], "to have none");
    refuses("-t ext4", &["feature shared_blocks"], "share blocks");
    refuses("-t ext4", &["feature FEATURE_I30"], "incompatible feature 0x40000000 is not known");
    refuses("-t ext4", &["feature FEATURE_R29"], "read-only compatible feature 0x20000000 is not known");
    refuses("-t ext2", &["feature compression"], "incompatible feature 0x1 is not known");
    refuses("-t ext2", &["ssv rev_level 2"], "revision");
    refuses("-t ext4", &["ssv journal_inum 0"], "another device");
    refuses("-t ext4", &["ssv journal_inum 2"], "journal's inode");
    refuses("-t ext4", &["ssv checksum_type 7"], "not known");
}

#[test]
fn superblocks_that_make_no_sense() {
    refuses("-t ext2", &["ssv log_block_size 7"], "the size of a block");
    refuses("-t ext2", &["ssv blocks_per_group 0"], "the number of blocks in a group");
    refuses("-t ext2", &["ssv blocks_per_group 8"], "the number of blocks in a group");
    refuses("-t ext2", &["ssv first_data_block 7"], "the first data block");
    refuses("-t ext2", &["ssv inodes_count 7"], "the number of inodes");
    refuses("-t ext2", &["ssv inode_size 8192"], "the size of an inode");
    refuses("-t ext4 -O bigalloc", &["ssv log_cluster_size 30"], "the size of a cluster");
    refuses("-t ext4", &["ssv desc_size 48"], "the size of a descriptor");
    refuses("-t ext2", &["ssv blocks_count 0"], "the number of blocks");
}

#[test]
fn a_damaged_superblock() {
    let place = Place::new();
    let image = place.path("image");
    make("-t ext4", SIZE, None, &image);
    // The label: nothing that matters, except that somebody wrote there.
    write(&image, 1024 + 0x78, b"x");
    let found = mapped(&image);
    assert_eq!(found.map.unwrap_err().to_string(), "its superblock's checksum is wrong");
}

#[test]
fn larger_than_the_volume() {
    let place = Place::new();
    let image = place.path("image");
    make("-t ext4", SIZE, None, &image);
    OpenOptions::new().write(true).open(&image).unwrap().set_len((64 << 20) - 4096).unwrap();
    let why = mapped(&image).map.unwrap_err().to_string();
    assert_eq!(why, "it says to have 64.0 MiB (67108864 bytes) and the volume has 64.0 MiB (67104768 bytes)",);
    // What is behind its end is used, and does not matter.
    OpenOptions::new().write(true).open(&image).unwrap().set_len(80 << 20).unwrap();
    let found = mapped(&image);
    assert_eq!(found.size.unwrap().get(), 64 << 20);
    assert!(found.map.unwrap().extents().last().unwrap().end().get() <= 64 << 20);
}

#[test]
fn an_external_journal_and_its_file_system() {
    let place = Place::new();
    let image = place.path("journal");
    make("-O journal_dev -b 1024", "16M", None, &image);
    let found = mapped(&image);
    assert_eq!(found.kind, Kind::Other("jbd"));
    assert!(found.map.is_err());
}

#[test]
fn nothing_there() {
    let place = Place::new();
    assert!(all_mapped(&place.sparse("zeroes", 1 << 20, &[])).is_empty());
    assert!(all_mapped(&place.sparse("short", 512, &[])).is_empty());
}

#[test]
fn labels_cannot_speak_to_the_terminal() {
    let place = Place::new();
    let image = place.path("image");
    make("-t ext2 -L a\u{1b}[2J -U 00112233-4455-6677-8899-aabbccddeeff", SIZE, None, &image);
    let found = mapped(&image);
    assert_eq!(found.label.as_deref(), Some("a\\u{1b}[2J"));
    assert_eq!(found.uuid.as_deref(), Some("00112233-4455-6677-8899-aabbccddeeff"));
}

fn write(image: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    OpenOptions::new().write(true).open(image).unwrap().write_all_at(bytes, at).unwrap();
}
