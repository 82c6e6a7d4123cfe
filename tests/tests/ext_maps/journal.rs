//! Journals in every format, written by debugfs: no root is needed, and what they hold is known.

use super::clean::make;
use failback_tests::lab::{Place, noise, tool};
use failback_tests::proof::mapped;
use failback_volumes::{FreeMap, State};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A transaction to be logged.
pub(super) struct Transaction {
    /// Blocks by their numbers, with the content that they get.
    pub(super) blocks: Vec<(usize, Vec<u8>)>,
    pub(super) revoked: Vec<usize>,
}

/// States of one file system: made, with a file, with two, with the second only.
pub(super) struct States {
    pub(super) place: Place,
    pub(super) images: Vec<PathBuf>,
    pub(super) block: usize,
}

impl States {
    pub(super) fn new(options: &str, block: usize) -> Self {
        let place = Place::new();
        let files = [place.file("one", &noise(200_000, 1)), place.file("two", &noise(410_000, 2))];
        let write = |file: &Path| format!("write {} {}", file.display(), file.file_name().unwrap().display());
        let requests = [write(&files[0]), write(&files[1]), "rm one".to_owned()];
        let mut images = vec![place.path("0.img")];
        make(&format!("{options} -b {block} -N 64"), &format!("{}k", 6 * block), None, &images[0]);
        for (number, request) in (1..).zip(requests) {
            let image = place.path(&format!("{number}.img"));
            fs::copy(images.last().unwrap(), &image).unwrap();
            debugfs(&image, &place, &[request]);
            images.push(image);
        }
        Self { place, images, block }
    }

    /// What changed from one state to the next.
    pub(super) fn change(&self, from: usize, to: usize) -> Transaction {
        let (old, new) = (fs::read(&self.images[from]).unwrap(), fs::read(&self.images[to]).unwrap());
        let pairs = old.chunks(self.block).zip(new.chunks(self.block)).enumerate();
        let blocks = pairs.filter(|(_, (old, new))| old != new).map(|(number, (_, new))| (number, new.to_vec()));
        Transaction { blocks: blocks.collect(), revoked: Vec::new() }
    }

    /// The first state with these transactions in its journal.
    pub(super) fn logged(&self, open: &str, transactions: &[Transaction]) -> PathBuf {
        let image = self.place.path("logged.img");
        fs::copy(&self.images[0], &image).unwrap();
        let mut requests = vec![format!("jo {open}")];
        for (number, transaction) in transactions.iter().enumerate() {
            let content: Vec<u8> = transaction.blocks.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            let file = self.place.file(&format!("blocks{number}"), &content);
            let list = |numbers: &mut dyn Iterator<Item = usize>| {
                numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(",")
            };
            let mut request = vec!["jw".to_owned()];
            if !transaction.revoked.is_empty() {
                request.extend(["-r".to_owned(), list(&mut transaction.revoked.iter().copied())]);
            }
            if !transaction.blocks.is_empty() {
                let numbers = list(&mut transaction.blocks.iter().map(|(number, _)| *number));
                request.extend(["-b".to_owned(), numbers, file.display().to_string()]);
            }
            requests.push(request.join(" "));
        }
        requests.push("jc".to_owned());
        debugfs(&image, &self.place, &requests);
        image
    }

    pub(super) fn map(&self, state: usize) -> FreeMap {
        mapped(&self.images[state]).map.unwrap()
    }
}

fn debugfs(image: &Path, place: &Place, requests: &[String]) {
    let script = place.file("requests", (requests.join("\n") + "\n").as_bytes());
    tool("debugfs", &["-w".as_ref(), "-f".as_ref(), script.as_os_str(), image.as_os_str()]);
}

/// Options of a file system, and of its journal as debugfs opens it.
const FORMATS: [(&str, &str); 9] = [
    ("-t ext3", ""),
    ("-t ext3 -O 64bit,extent", ""),
    ("-t ext4 -O ^64bit", "-c -v 2"),
    ("-t ext4", "-c -v 2"),
    ("-t ext4 -O ^64bit", "-c -v 3"),
    ("-t ext4", "-c -v 3"),
    ("-t ext4", ""),
    ("-t ext4 -O ^metadata_csum,uninit_bg", ""),
    ("-t ext4 -O meta_bg,^resize_inode -E desc_size=128", "-c -v 3"),
];

#[test]
fn every_format_of_tags() {
    for (options, open) in FORMATS {
        for block in [1024, 4096] {
            let context = format!("{options}, {open}, {block}");
            let states = States::new(options, block);
            let all = [states.change(0, 1), states.change(1, 2), states.change(2, 3)];
            let found = mapped(&states.logged(open, &all));
            assert_eq!(found.state, State::Replayed { transactions: 3 }, "{context}: {:?}", found.map);
            assert_eq!(found.remarks, Vec::<String>::new(), "{context}");
            assert_eq!(found.checked, !options.contains("^metadata") && open.contains("-c"), "{context}");
            let (made, last) = (states.map(0), states.map(3));
            assert!(last.bytes() < made.bytes(), "{context}");
            assert_eq!(found.map.unwrap(), made.intersection(&last), "{context}");
        }
    }
}

/// Blocks of the first state that matter: they are logged with nonsense, and that is revoked.
#[test]
fn what_is_revoked_is_not_replayed() {
    for (options, open) in FORMATS {
        let states = States::new(options, 1024);
        let change = || states.change(0, 1);
        let mut nonsense = change();
        nonsense.blocks.iter_mut().for_each(|(_, bytes)| bytes.fill(0x5A));
        let numbers: Vec<_> = nonsense.blocks.iter().map(|(number, _)| *number).collect();
        let revoke = || Transaction { blocks: Vec::new(), revoked: numbers.clone() };

        let found = mapped(&states.logged(open, &[nonsense, revoke()]));
        assert_eq!(found.state, State::Replayed { transactions: 2 }, "{options}: {:?}", found.map);
        assert_eq!(found.map.unwrap(), states.map(0), "{options}");

        // What is logged after it was revoked counts again.
        let found = mapped(&states.logged(open, &[change(), revoke(), states.change(0, 2)]));
        assert_eq!(found.map.unwrap(), states.map(0).intersection(&states.map(2)), "{options}");
    }
}

/// A logged block that begins like one of the journal's own is escaped, and neither ends the log nor is taken for it.
#[test]
fn escaped_blocks() {
    let states = States::new("-t ext4", 1024);
    let mut change = states.change(0, 1);
    let (_, content) = change.blocks.last_mut().unwrap();
    // It looks like a commit block of a later transaction.
    content[..12].copy_from_slice(&[0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 2, 0, 0, 0, 9]);
    for open in ["", "-c -v 2", "-c -v 3"] {
        let again = Transaction { blocks: change.blocks.clone(), revoked: Vec::new() };
        let found = mapped(&states.logged(open, &[again]));
        assert_eq!(found.state, State::Replayed { transactions: 1 }, "{:?}", found.map);
        assert_eq!(found.map.unwrap(), states.map(1), "{open}");
    }
}

/// Behind the end of the log lie blocks that jbd2 could not have written if it ended there.
#[test]
fn an_end_that_is_none() {
    let states = States::new("-t ext3", 1024);
    let all = [states.change(0, 1), states.change(1, 2)];
    let image = states.logged("", &all);
    let bytes = fs::read(&image).unwrap();
    // Transaction 1's commit block, made into nothing.
    let head = [0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 2, 0, 0, 0, 1];
    let at = bytes.chunks(1024).position(|block| block.starts_with(&head)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.write_all_at(&[0; 12], at as u64 * 1024).unwrap();
    let why = mapped(&image).map.unwrap_err().to_string();
    assert_eq!(why, "its journal is damaged: later transactions follow the place where it ends");
    // Where nothing follows it was torn: the kernel would not replay it either.
    let image = states.logged("", &all[..1]);
    fs::OpenOptions::new().write(true).open(&image).unwrap().write_all_at(&[0; 12], at as u64 * 1024).unwrap();
    let found = mapped(&image);
    assert_eq!(found.state, State::Replayed { transactions: 0 });
    assert_eq!(found.map.unwrap(), states.map(0));
}

/// A power cut can leave the first sector of a commit block and an old rest. Linux takes that for committed and e2fsck does not.
#[test]
fn a_commit_block_that_is_half_there() {
    let states = States::new("-t ext4", 1024);
    let head = [0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 2, 0, 0, 0, 1];
    for (at_byte, bytes) in [(512, [0x5A; 512].as_slice()), (56, &[0xFF; 2])] {
        let image = states.logged("-c -v 3", &[states.change(0, 1)]);
        let content = fs::read(&image).unwrap();
        let at = content.chunks(1024).position(|block| block.starts_with(&head)).unwrap() as u64 * 1024;
        fs::OpenOptions::new().write(true).open(&image).unwrap().write_all_at(bytes, at + at_byte).unwrap();
        let why = mapped(&image).map.unwrap_err().to_string();
        assert!(why.contains("half written"), "{why}");
    }
}

/// Checksums over whole transactions, as `journal_checksum` makes them on a file system without checksums.
#[test]
fn checksums_of_the_first_kind() {
    let states = States::new("-t ext4 -O ^metadata_csum", 1024);
    let found = mapped(&states.logged("-c", &[states.change(0, 1)]));
    assert!(found.map.unwrap_err().to_string().contains("checksums of an old kind"));
}

/// The flag that says so was cleared, and the journal says otherwise.
#[test]
fn recovery_that_is_denied() {
    let states = States::new("-t ext3", 1024);
    let image = states.logged("", &[states.change(0, 1)]);
    debugfs(&image, &states.place, &["feature -needs_recovery".to_owned()]);
    let found = mapped(&image);
    assert_eq!(found.state, State::NotUnderstood);
    assert!(found.map.unwrap_err().to_string().contains("says that it needs none"));
}

/// A log without a beginning that is not empty.
#[test]
fn a_beginning_that_is_lost() {
    let states = States::new("-t ext3", 1024);
    let image = states.logged("", &[states.change(0, 1)]);
    let bytes = fs::read(&image).unwrap();
    let at = bytes.chunks(1024).position(|block| block.starts_with(&[0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 4])).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.write_all_at(&[0; 4], at as u64 * 1024 + 0x1C).unwrap();
    assert!(mapped(&image).map.unwrap_err().to_string().contains("its journal is damaged"));
    // Mounted and not written to yet: nothing is in the journal, and the flag is set.
    debugfs(&states.images[0], &states.place, &["feature needs_recovery".to_owned()]);
    assert_eq!(mapped(&states.images[0]).state, State::Clean);
}
