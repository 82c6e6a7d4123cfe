//! The power goes off at every single change of a workload, and the disk is there, with everything that was flushed.
#![allow(
    clippy::unwrap_used,
    clippy::large_stack_arrays,
    reason = "a test fails by panicking, and has small disks on its stack"
)]

mod simulated;

use failback_blockio::{Buffer, Device, Operation};
use failback_image::{Access, Severity, check, open};
use failback_units::ByteOffset;
use simulated::{Chance, SimFiles, range, read, sparse, write};
use std::path::{Path, PathBuf};

const SECTOR: u64 = 512;
/// 20 grains, and a last one that is short.
const CAPACITY: u64 = 20 * 65_536 + 7 * SECTOR;

/// A length, which is small here.
fn len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap()
}

const ROUNDS: u64 = 24;

/// What each sector may hold: every sector is filled with one byte.
#[derive(Clone)]
struct Model {
    durable: Vec<u8>,
    /// What was written since the last flush that succeeded.
    since: Vec<Vec<u8>>,
}

impl Model {
    fn write(&mut self, start: u64, end: u64, byte: u8) {
        for sector in start / SECTOR..end / SECTOR {
            self.since[len(sector)].push(byte);
        }
    }

    fn flushed(&mut self) {
        for (durable, since) in self.durable.iter_mut().zip(&mut self.since) {
            *durable = since.pop().unwrap_or(*durable);
            since.clear();
        }
    }

    fn wrong(&self, content: &[u8]) -> Option<String> {
        content.chunks(len(SECTOR)).enumerate().find_map(|(index, sector)| {
            let byte = sector[0];
            let whole = sector.iter().all(|other| *other == byte);
            let known = self.durable[index] == byte || self.since[index].contains(&byte);
            let since = &self.since[index];
            (!whole || !known).then(|| format!("sector {index} is {byte}, not {} or {since:?}", self.durable[index]))
        })
    }
}

struct Scene {
    files: SimFiles,
    path: PathBuf,
    start: failback_blockio::sim::Snapshot,
    base: Model,
}

impl Scene {
    fn new(seed: u64, with_parent: bool, zeroed_grains: bool) -> Self {
        Self::make(seed, with_parent, zeroed_grains, |_| {})
    }

    /// The same, where `edit` changes what stands in the new disk's file.
    fn make(seed: u64, with_parent: bool, zeroed_grains: bool, edit: impl Fn(&mut Vec<u8>)) -> Self {
        let mut files = SimFiles::new(seed);
        let sectors = len(CAPACITY / SECTOR);
        let mut base = Model { durable: vec![0; sectors], since: vec![Vec::new(); sectors] };
        let new = sparse(CAPACITY, 0x11, zeroed_grains);
        if !with_parent {
            let path = files.make("disk.vmdk", &new, edit);
            return Self { start: files.world.snapshot(), files, path, base };
        }
        let parent = files.make("base.vmdk", &sparse(CAPACITY, 0x7f, false), |_| {});
        let disk = open(&parent, Access::Write, &files).unwrap();
        for grain in [0_u64, 1, 4, 5, 6, 11, 19, 20] {
            let (at, length) = (grain * 65_536, (CAPACITY - grain * 65_536).min(65_536));
            write(&disk, at, &vec![200; len(length)]).unwrap();
            base.write(at, at + length, 200);
        }
        disk.close().unwrap();
        base.flushed();
        let cid = open(&parent, Access::Read, &files).unwrap().facts().cid;
        let path = files.make("disk.vmdk", &new, |bytes| {
            let from = "parentCID=ffffffff";
            let to = format!("parentCID={cid:08x}\nparentFileNameHint=\"base.vmdk\"");
            if let Ok(text) = String::from_utf8(bytes.clone())
                && text.contains(from)
            {
                *bytes = text.replace(from, &to).into_bytes();
            }
        });
        files.world.reboot();
        Self { start: files.world.snapshot(), files, path, base }
    }

    /// Writes, zeroes and flushes until it is done or the power goes off. What may be there then is in the model.
    fn work(&self, seed: u64, model: &mut Model) -> Result<(), String> {
        let mut chance = Chance(seed);
        let disk = open(&self.path, Access::Write, &self.files).map_err(|error| error.to_string())?;
        let mut tag = 1;
        for _ in 0..ROUNDS {
            let mut queue = disk.queue(4).map_err(|error| error.to_string())?;
            let mut used: Vec<(u64, u64)> = Vec::new();
            for token in 0..=chance.below(3) {
                let length = if chance.below(3) == 0 {
                    65_536 * (1 + chance.below(3))
                } else {
                    (1 + chance.below(150)) * SECTOR
                };
                let unit = if chance.below(2) == 0 { 65_536 } else { SECTOR };
                let start = chance.below(CAPACITY / unit) * unit;
                let end = (start + length).min(CAPACITY);
                if used.iter().any(|(from, to)| start < *to && *from < end) {
                    continue;
                }
                used.push((start, end));
                let zero = chance.below(4) == 0;
                model.write(start, end, if zero { 0 } else { tag });
                if zero {
                    queue.submit(token, Operation::Zero { range: range(start, end) });
                } else {
                    let mut from = Buffer::zeroed(len(end - start));
                    from.fill(tag);
                    queue.submit(token, Operation::Write { at: ByteOffset::new(start).unwrap(), from });
                }
                tag = tag % 190 + 1;
            }
            while let Some(done) = queue.wait() {
                done.result.map_err(|error| error.to_string())?;
            }
            if chance.below(3) == 0 {
                queue.submit(9, Operation::Flush);
                queue.wait().unwrap().result.map_err(|error| error.to_string())?;
                model.flushed();
            }
        }
        disk.close().map_err(|error| error.to_string())?;
        model.flushed();
        Ok(())
    }

    /// Looks at what a power loss left, then goes on with it as if nothing had been.
    fn examine(&self, model: &Model) -> Result<(), String> {
        let text = |error: failback_image::OpenError| error.to_string();
        let report = check(&self.path, &self.files).map_err(text)?;
        if let Some(finding) = report.findings.first(Severity::Error) {
            return Err(finding.sentence.clone());
        }
        let content = |access| -> Result<Vec<u8>, String> {
            let disk = open(&self.path, access, &self.files).map_err(text)?;
            let content = read(&disk, 0, len(CAPACITY)).map_err(|error| error.to_string())?;
            if access == Access::Write {
                write(&disk, 0, &content[..512]).map_err(|error| error.to_string())?;
                disk.close().map_err(|error| error.to_string())?;
            }
            Ok(content)
        };
        for access in [Access::Read, Access::Write, Access::Read] {
            if let Some(wrong) = model.wrong(&content(access)?) {
                return Err(format!("{access:?}: {wrong}"));
            }
        }
        let report = check(&self.path, &self.files).map_err(text)?;
        match report.findings.list.first() {
            Some(finding) => Err(format!("after the repair: {}", finding.sentence)),
            None => Ok(()),
        }
    }

    fn cut(&self, n: u64, seed: u64) -> Result<(), String> {
        self.files.world.restore(&self.start);
        self.files.world.reseed(n * 7919 + seed);
        self.files.world.crash_after(n);
        let mut model = self.base.clone();
        let done = self.work(seed, &mut model);
        if done.is_err() && !self.files.world.is_down() {
            return done;
        }
        self.files.world.crash_now();
        self.files.world.reboot();
        self.examine(&model)
    }

    fn mutations(&self, seed: u64) -> u64 {
        self.files.world.restore(&self.start);
        let before = self.files.world.mutations();
        self.work(seed, &mut self.base.clone()).unwrap();
        self.files.world.mutations() - before
    }

    fn violations(&self, seed: u64) -> Vec<String> {
        let total = self.mutations(seed);
        assert!(total > 50, "{total} changes are too few to say anything");
        let cut =
            |n| self.cut(n, seed).err().map(|wrong| format!("cut at change {n} of {total}, seed {seed}: {wrong}"));
        (1..=total + 1).filter_map(cut).collect()
    }
}

#[test]
fn power_cuts_anywhere_lose_nothing_that_was_flushed() {
    for seed in 0..6 {
        let scene = Scene::new(seed, seed % 2 == 1, seed % 3 == 1);
        let violations = scene.violations(seed);
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

/// `VirtualBox` makes tables when they are needed: the directory has none at first.
#[test]
fn tables_are_made_where_there_are_none() {
    for seed in 30..33 {
        // A directory of one entry is the only thing of four bytes.
        let scene = Scene::make(seed, false, false, |bytes| {
            if bytes.len() == 4 {
                bytes.fill(0);
            }
        });
        let violations = scene.violations(seed);
        assert!(violations.is_empty(), "{violations:#?}");
    }
}

/// Every flush is needed: without one of three, whichever, a power cut is noticed.
#[test]
fn without_a_flush_a_power_cut_is_noticed() {
    for which in 0..3 {
        let noticed = (0..12).any(|seed| {
            let mut scene = Scene::new(seed, seed % 2 == 1, false);
            scene.files.skipped = Some((which, 3));
            !scene.violations(seed).is_empty()
        });
        assert!(noticed, "flush {which}");
    }
}

#[test]
fn what_was_done_is_there_and_the_extent_is_closed_cleanly() {
    for seed in 10..20 {
        let scene = Scene::new(seed, seed % 2 == 1, seed % 3 == 1);
        let mut model = scene.base.clone();
        scene.work(seed, &mut model).unwrap();
        scene.examine(&model).unwrap();
        let file = scene.files.disks[Path::new("/d/disk.vmdk")].content();
        assert_eq!(file[72], 0, "the mark is gone");
        // One byte of the identifier of the content in 2^32 cases is as it was; a whole one never.
        assert_ne!(open(&scene.path, Access::Read, &scene.files).unwrap().facts().cid, 0x11);
    }
}
