//! VMDKs whose files are simulated disks.

use failback_blockio::sim::{SimDisk, World};
use failback_blockio::{Action, Buffer, Completion, Device, Extent, IoError, Operation, Queue, Resizable, run};
use failback_image::create::{NewDisk, Subformat, files_of};
use failback_image::{Access, Files};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Files in the directory `/d`.
pub(crate) struct SimFiles {
    pub(crate) world: World,
    pub(crate) disks: BTreeMap<PathBuf, SimDisk>,
    /// Of this many flushes one is not carried out: which one. For tests that must then fail.
    pub(crate) skipped: Option<(u64, u64)>,
    flushes: Arc<AtomicU64>,
}

impl SimFiles {
    pub(crate) fn new(seed: u64) -> Self {
        Self { world: World::new(seed), disks: BTreeMap::new(), skipped: None, flushes: Arc::default() }
    }

    pub(crate) fn add(&mut self, name: &str, length: u64, content: &[(u64, Vec<u8>)]) -> SimDisk {
        let disk = self.world.disk(name, ByteCount::new(length).unwrap(), 512);
        for (at, bytes) in content {
            disk.write_durably(ByteOffset::new(*at).unwrap(), bytes);
        }
        self.disks.insert(Path::new("/d").join(name), disk.clone());
        disk
    }

    /// Makes an empty disk; `edit` may change what stands in its files.
    pub(crate) fn make(&mut self, name: &str, new: &NewDisk, edit: impl Fn(&mut Vec<u8>)) -> PathBuf {
        for file in files_of(new, name).unwrap() {
            let mut content = file.content;
            for (_, bytes) in &mut content {
                edit(bytes);
            }
            self.add(&file.name, file.length.get(), &content);
        }
        Path::new("/d").join(name)
    }
}

pub(crate) fn sparse(capacity: u64, cid: u32, zeroed_grains: bool) -> NewDisk {
    NewDisk {
        subformat: Subformat::MonolithicSparse,
        capacity: ByteCount::new(capacity).unwrap(),
        adapter: "lsilogic".into(),
        hardware_version: 14,
        uuid: None,
        cid,
        zeroed_grains,
    }
}

impl Files for SimFiles {
    fn open(&self, path: &Path, _: Access) -> Result<Box<dyn Resizable>, IoError> {
        let Some(disk) = self.disks.get(path) else {
            return Err(IoError {
                action: Action::Open,
                device: path.to_string_lossy().into(),
                at: ByteOffset::ZERO,
                count: ByteCount::ZERO,
                source: io::Error::from(io::ErrorKind::NotFound),
            });
        };
        let (disk, counted) = (disk.clone(), Arc::clone(&self.flushes));
        Ok(match self.skipped {
            Some(skipped) => Box::new(Skipping { disk, counted, skipped }),
            None => Box::new(disk),
        })
    }

    fn names_in(&self, directory: &Path) -> Result<Vec<OsString>, IoError> {
        let here = self.disks.keys().filter(|path| path.parent() == Some(directory));
        Ok(here.filter_map(|path| path.file_name()).map(Into::into).collect())
    }
}

/// A disk that acknowledges all flushes and carries out most.
struct Skipping {
    disk: SimDisk,
    counted: Arc<AtomicU64>,
    skipped: (u64, u64),
}

impl Device for Skipping {
    fn name(&self) -> &str {
        self.disk.name()
    }
    fn size(&self) -> ByteCount {
        self.disk.size()
    }
    fn logical_block(&self) -> u32 {
        self.disk.logical_block()
    }
    fn engine(&self) -> &'static str {
        self.disk.engine()
    }
    fn queue(&self, depth: usize) -> Result<Box<dyn Queue + '_>, IoError> {
        Ok(Box::new(SkippingQueue { inner: self.disk.queue(depth)?, device: self, done: VecDeque::new() }))
    }
    fn extent_at(&self, from: ByteOffset) -> Result<Option<Extent>, IoError> {
        self.disk.extent_at(from)
    }
}

impl Resizable for Skipping {
    fn resize(&self, to: ByteCount) -> Result<(), IoError> {
        self.disk.resize(to)
    }
}

struct SkippingQueue<'a> {
    inner: Box<dyn Queue + 'a>,
    device: &'a Skipping,
    done: VecDeque<u64>,
}

impl Queue for SkippingQueue<'_> {
    fn depth(&self) -> usize {
        self.inner.depth()
    }
    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.done.len()
    }
    fn submit(&mut self, token: u64, operation: Operation) {
        if matches!(operation, Operation::Flush) {
            let (which, of) = self.device.skipped;
            if self.device.counted.fetch_add(1, Ordering::Relaxed) % of == which {
                return self.done.push_back(token);
            }
        }
        self.inner.submit(token, operation);
    }
    fn wait(&mut self) -> Option<Completion> {
        match self.done.pop_front() {
            Some(token) => Some(Completion { token, buffer: None, result: Ok(()) }),
            None => self.inner.wait(),
        }
    }
}

pub(crate) fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(ByteOffset::new(start).unwrap(), ByteOffset::new(end).unwrap()).unwrap()
}

pub(crate) fn read(device: &dyn Device, at: u64, len: usize) -> Result<Vec<u8>, IoError> {
    let at = ByteOffset::new(at).unwrap();
    Ok(run(device, Operation::Read { at, into: Buffer::zeroed(len) })?.unwrap().to_vec())
}

pub(crate) fn write(device: &dyn Device, at: u64, bytes: &[u8]) -> Result<(), IoError> {
    let at = ByteOffset::new(at).unwrap();
    run(device, Operation::Write { at, from: Buffer::copy_of(bytes) }).map(drop)
}

/// Numbers by chance, the same for the same seed.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
