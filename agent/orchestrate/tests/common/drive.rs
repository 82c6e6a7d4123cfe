//! A retention drive that is watched, and that can be made careless.

use failback_blockio::sim::{DropFlushes, SimDisk};
use failback_delta::{Content, DeltaReader, DeltaWriter, Inverter, Item, Proven, Was};
use failback_orchestrate::{Catalogue, Device, Directory, Link, Pending, Point, PointId, Space, Store};
use failback_retention::{
    FileId, StoredFile,
    sim::{DropSyncs, SimDirectory},
};
use failback_units::{ByteOffset, ByteRange};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const CATALOGUE: &str = "catalogue";

/// What is taken out of the program to see whether the tests notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    Nothing,
    /// Syncs of the file in which the way back is recorded are acknowledged and not done.
    RecordSync,
    /// Flushes of the target are acknowledged and not done.
    TargetFlush,
    /// Syncs of the directory are acknowledged and not done.
    NameSync,
    /// That the first record is the only one: an interrupted apply records what it finds then.
    FirstRecord,
}

impl LeftOut {
    /// The target as the program sees it.
    pub fn target(self, target: &SimDisk) -> Box<dyn Device> {
        match self {
            Self::TargetFlush => Box::new(DropFlushes(target.clone())),
            _ => Box::new(target.clone()),
        }
    }
}

/// All that a catalogue says, but for how often it was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub points: Vec<Point>,
    pub links: Vec<Link>,
    pub pending: Option<Pending>,
    pub next: (PointId, FileId),
    pub present: usize,
    pub committed: PointId,
}

impl Facts {
    pub fn of(catalogue: &Catalogue) -> Self {
        Self {
            points: catalogue.points().to_vec(),
            links: catalogue.links().to_vec(),
            pending: catalogue.pending().cloned(),
            next: (catalogue.next_point(), catalogue.next_file()),
            present: catalogue.present_index(),
            committed: catalogue.committed(),
        }
    }

    /// The links that are named, that of what is under way last.
    pub fn all_links(&self) -> impl Iterator<Item = &Link> {
        let pending = match &self.pending {
            Some(Pending::Apply(apply)) => Some(&apply.inverse),
            Some(Pending::Rollback { inverse, .. }) => inverse.as_ref(),
            Some(Pending::Undo { .. }) | None => None,
        };
        self.links.iter().chain(pending)
    }
}

/// A catalogue, and the files of the links that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// None where there is no catalogue yet.
    pub facts: Option<Facts>,
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Seen {
    /// What a reader finds. Nothing is changed.
    pub fn now(directory: &Arc<SimDirectory>) -> Result<Self, String> {
        let opened = Store::open_for_reading(Arc::clone(directory) as Arc<dyn Directory>);
        let store = match opened {
            Ok(store) => store,
            Err(failback_orchestrate::StoreError::Empty(_)) => return Ok(Self { facts: None, files: BTreeMap::new() }),
            Err(error) => return Err(format!("the store cannot be opened: {error:?}")),
        };
        let facts = Facts::of(store.catalogue());
        let mut files = BTreeMap::new();
        for link in facts.all_links() {
            for name in [link.file.delta_name(), link.file.index_name()] {
                let bytes = bytes_of(&**directory, &name).map_err(|error| format!("{name} is named: {error}"))?;
                files.insert(name, bytes);
            }
        }
        Ok(Self { facts: Some(facts), files })
    }
}

pub fn bytes_of(directory: &dyn Directory, name: &str) -> io::Result<Vec<u8>> {
    let file = directory.open(name)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap()];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// How many catalogues a command has put in the place of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Saves {
    /// Of which the program knows nothing yet, the last one included.
    pub begun: usize,
    /// Of which it was told that they are durable.
    pub done: usize,
}

/// What is called when a catalogue has taken the place of another, before that is durable.
type Watcher = Box<dyn FnMut() + Send>;

/// The directory of a trail, as a command sees it.
pub struct Drive {
    inner: Arc<SimDirectory>,
    left_out: LeftOut,
    saves: Mutex<Saves>,
    watcher: Mutex<Option<Watcher>>,
}

impl Drive {
    pub fn new(inner: &Arc<SimDirectory>, left_out: LeftOut) -> Arc<Self> {
        Arc::new(Self { inner: Arc::clone(inner), left_out, saves: Mutex::default(), watcher: Mutex::default() })
    }

    pub fn watched(inner: &Arc<SimDirectory>, left_out: LeftOut, watcher: impl FnMut() + Send + 'static) -> Arc<Self> {
        let drive = Self::new(inner, left_out);
        *drive.watcher.lock().unwrap() = Some(Box::new(watcher));
        drive
    }

    pub fn saves(&self) -> Saves {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Saves> {
        self.saves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory for Drive {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.inner.names()
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StoredFile>> {
        let file = self.inner.create(name)?;
        let is_record = name.strip_prefix("link-").is_some_and(|rest| rest.strip_suffix(".delta").is_some());
        Ok(if self.left_out == LeftOut::RecordSync && is_record { Box::new(DropSyncs(file)) } else { file })
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn StoredFile>> {
        self.inner.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if to != CATALOGUE {
            return self.inner.rename(from, to);
        }
        self.lock().begun += 1;
        self.inner.rename(from, to)?;
        if let Some(watcher) = &mut *self.watcher.lock().unwrap() {
            watcher();
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        if self.left_out != LeftOut::NameSync {
            self.inner.sync()?;
        }
        let mut saves = self.lock();
        saves.done = saves.begun;
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
}

/// Records the way back of an interrupted apply of `delta` once more, from what the target holds then, in the place of the first
/// record: everything else is as the program does it.
pub fn record_again(directory: &SimDirectory, target: &SimDisk, delta: &[u8], record: &Link) {
    let name = record.file.delta_name();
    let first = bytes_of(directory, &name).unwrap();
    let first = DeltaReader::open(first.as_slice()).unwrap();
    let (header, free, key) = (first.header().clone(), first.free().clone(), *first.key());
    let mut bytes = Vec::new();
    let mut writer = DeltaWriter::new(&mut bytes, header, &free).unwrap();
    let content = target.content();
    let mut reader = DeltaReader::open(delta).unwrap();
    let (base_root, shapes) = (reader.header().base_root, reader.header().shapes);
    let mut inverter = Inverter::new(&shapes);
    let trailer = loop {
        let frame = match reader.next_item().unwrap() {
            Item::Frame(frame) => frame,
            Item::Trailer(trailer) => break trailer,
        };
        for extent in &frame.table.extents {
            let there = |bytes: ByteRange| &content[place(bytes.start())..place(bytes.end())];
            let uncounted = matches!(extent.old, Content::Free | Content::Absent) && extent.new.is_written();
            let was = if extent.old.has_values() {
                Was::Stated(there(extent.old_bytes(&shapes)))
            } else if uncounted && extent.is_weighty() {
                Was::Kept(there(shapes.larger().bytes_of(extent.blocks)))
            } else {
                Was::Stated(&[])
            };
            assert!(inverter.push(&frame.table, extent, extent.blocks, was).is_none(), "it is one small frame");
        }
    };
    let last = inverter.finish().unwrap();
    writer.frame(&last.table, &last.seal_in_pieces(&key, 1)).unwrap();
    let proven = Proven { base: trailer.result_root, result: base_root };
    writer.finish(trailer.values(), proven, None).unwrap();
    assert_eq!(bytes.len() as u64, record.bytes.get(), "noise takes the same room, whatever it says");
    directory.remove(&name).unwrap();
    let mut file = directory.create(&name).unwrap();
    file.append(&bytes).unwrap();
    file.sync().unwrap();
    directory.sync().unwrap();
}

fn place(at: ByteOffset) -> usize {
    usize::try_from(at.get()).unwrap()
}
