//! The store: what it refuses and says, and what a power loss at any moment leaves of it.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod power_loss;
mod refusals;
mod trouble;
mod use_cases;

use failback_blockio::sim::World;
use failback_delta::{Coverage, PointKind};
use failback_hashtree::Root;
use failback_retention::{
    Apply, Catalogue, DeltaSource, Direction, Directory, Disk, FileId, Link, MoveError, Point, PointId, Proof, Store,
    StoreError, sim::SimDirectory,
};
use failback_units::{BlockSize, ByteCount};
use std::sync::Arc;

pub(crate) const BINDING: [u8; 32] = [3; 32];

pub(crate) fn count(bytes: usize) -> ByteCount {
    ByteCount::of_memory(bytes)
}

pub(crate) fn disk() -> Disk {
    Disk { binding: BINDING, description: "/dev/sdb, 6000c29d\u{7}".into(), size: count(1 << 30) }
}

pub(crate) fn point(id: u64) -> Point {
    Point {
        id: PointId(id),
        root: Root::of(&id.to_le_bytes()),
        size: count(1 << 30),
        block_size: BlockSize::MIN,
        coverage: Coverage::Whole,
        kind: PointKind::Crash,
        time: 1_700_000_000,
        recorded: 1_700_000_000,
        pinned: false,
        proven: Proof::ChangedBlocks,
        delta: [7; 32],
    }
}

pub(crate) fn directory(world: &World) -> Arc<SimDirectory> {
    Arc::new(SimDirectory::new(world, "retention", 160))
}

/// What the file of a link holds: it depends on its number, so that another file is noticed.
pub(crate) fn content(file: FileId) -> Vec<u8> {
    let byte = file.0.to_le_bytes()[0].wrapping_add(1);
    vec![byte; 300 + 10 * usize::from(byte)]
}

/// Makes the file of a new link, durable but for its name.
pub(crate) fn make_link(store: &mut Store, direction: Direction) -> Result<Link, StoreError> {
    let (file, mut stored) = store.create_link()?;
    let content = content(file);
    let written = stored.append(&content).and_then(|()| stored.sync());
    written.map_err(|source| StoreError::Io {
        action: "write",
        name: file.delta_name(),
        place: store.directory().place(),
        source,
    })?;
    Ok(Link { file, direction, bytes: count(content.len()), content_bytes: count(content.len()), key: [9; 32] })
}

/// A delta of a path, to the next point.
pub(crate) fn apply(store: &Store, inverse: Link) -> Apply {
    let result = point(store.catalogue().next_point().0);
    Apply { delta: [7; 32], source: DeltaSource::Path("/x.delta".into()), result, inverse, started: 5 }
}

/// Makes a new point.
pub(crate) fn add_point(store: &mut Store) -> Result<(), StoreError> {
    let inverse = make_link(store, Direction::Reverse)?;
    let apply = apply(store, inverse);
    store.change(|now| now.begin_apply(apply))?;
    store.change(|now| now.finish_apply(Proof::ChangedBlocks, 1_700_000_001))
}

/// Takes the disk to another point.
pub(crate) fn roll_back(store: &mut Store, goal: u64) -> Result<(), StoreError> {
    store.change(|now| now.begin_rollback(PointId(goal), 6))?;
    while let Some(next) = store.catalogue().next_link() {
        let direction = next.direction.opposite();
        let inverse = make_link(store, direction)?;
        store.change(|now| now.begin_step(inverse))?;
        store.change(Catalogue::finish_step)?;
    }
    Ok(())
}

/// Takes the disk back to the committed point.
pub(crate) fn undo(store: &mut Store) -> Result<(), StoreError> {
    store.change(|now| now.begin_undo(now.committed(), 7))?;
    while store.catalogue().pending().is_some() {
        store.change(Catalogue::begin_undo_step)?;
        store.change(Catalogue::finish_undo_step)?;
    }
    Ok(())
}

/// Merges a point.
pub(crate) fn merge(store: &mut Store, id: u64) -> Result<(), StoreError> {
    let index = store.catalogue().index_of(PointId(id)).ok_or(MoveError::NoSuchPoint(PointId(id)))?;
    let direction = store.catalogue().links()[index].direction;
    let link = make_link(store, direction)?;
    store.change(|now| now.merge(PointId(id), link))
}

/// A new store with points after its first one.
pub(crate) fn store(directory: &Arc<SimDirectory>, points: usize) -> Store {
    let mut store = Store::create(Arc::clone(directory) as Arc<dyn Directory>, disk(), point(0)).unwrap();
    for _ in 0..points {
        add_point(&mut store).unwrap();
    }
    store
}

pub(crate) fn open(directory: &Arc<SimDirectory>) -> Result<Store, StoreError> {
    Store::open_for_changes(Arc::clone(directory) as Arc<dyn Directory>, &BINDING)
}

pub(crate) fn look(directory: &Arc<SimDirectory>) -> Result<Store, StoreError> {
    Store::open_for_reading(Arc::clone(directory) as Arc<dyn Directory>)
}

pub(crate) fn names(directory: &dyn Directory) -> Vec<String> {
    let mut names = directory.names().unwrap();
    names.sort();
    names
}

/// Writes something over a file, as somebody might who knows nothing of us.
pub(crate) fn overwrite(directory: &dyn Directory, name: &str, content: &[u8]) {
    directory.remove(name).unwrap();
    directory.create(name).unwrap().append(content).unwrap();
}
