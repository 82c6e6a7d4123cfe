//! Full drives, and drives that fail without losing power.

use super::*;
use failback_blockio::sim::FaultOn;
use failback_retention::{Gap, Missing};
use failback_units::ByteRange;

fn everywhere() -> ByteRange {
    ByteRange::whole(count(1 << 20))
}

/// Whether the catalogue is the same but for its generation.
fn same(one: &Catalogue, other: &Catalogue) -> bool {
    let facts = |catalogue: &Catalogue| {
        let (points, links) = (catalogue.points().to_vec(), catalogue.links().to_vec());
        (points, links, catalogue.present_index(), catalogue.committed(), catalogue.pending().cloned())
    };
    facts(one) == facts(other)
}

#[test]
fn after_a_failure_nothing_is_saved_until_it_is_known_what_is_so() {
    for fault in [FaultOn::Writes, FaultOn::Flushes] {
        let world = World::new(1);
        let directory = directory(&world);
        let mut store = store(&directory, 2);
        let before = store.catalogue().clone();
        directory.names_disk().fail(everywhere(), 5, fault, 1);
        let error = store.change(|now| now.pin(PointId(1))).unwrap_err();
        assert!(matches!(&error, StoreError::Io { source, .. } if source.raw_os_error() == Some(5)), "{error}");
        assert_eq!(store.catalogue(), &before);
        for result in [store.change(|now| now.pin(PointId(1))), store.discard(FileId(9)), store.create_link().map(drop)]
        {
            let text = result.unwrap_err().to_string();
            assert!(text.contains("open them again"), "{text}");
        }
        store.reload().unwrap();
        let is_pinned = store.catalogue().point(PointId(1)).unwrap().pinned;
        assert_eq!(is_pinned, fault == FaultOn::Flushes);
        store.change(|now| now.pin(PointId(1))).unwrap();
        assert_eq!(names(&*directory).len(), 3);
    }
}

/// The kernel drops what it cannot write, and says so once. What is found after that is not durable, however often it is
/// synced: only if it is written anew.
#[test]
fn what_a_failed_sync_has_lost_is_written_anew() {
    for seed in 0..200 {
        let world = World::new(seed);
        let directory = directory(&world);
        let mut store = store(&directory, 1);
        directory.names_disk().fail(everywhere(), 5, FaultOn::Flushes, 1);
        store.change(|now| now.pin(PointId(0))).unwrap_err();
        let found = if seed % 2 == 0 {
            store.reload().unwrap();
            store
        } else {
            open(&directory).unwrap()
        };
        assert!(found.catalogue().point(PointId(0)).unwrap().pinned);
        world.reboot();
        assert!(same(look(&directory).unwrap().catalogue(), found.catalogue()), "seed {seed}");
    }
}

#[test]
fn a_reload_that_fails_leaves_the_store_shut() {
    let world = World::new(1);
    let directory = directory(&world);
    let mut store = store(&directory, 1);
    directory.names_disk().fail(everywhere(), 5, FaultOn::Flushes, 2);
    store.change(|now| now.pin(PointId(1))).unwrap_err();
    store.reload().unwrap_err();
    assert!(matches!(store.change(|now| now.pin(PointId(1))), Err(StoreError::NotWritable(_))));
    store.reload().unwrap();
    store.change(|now| now.pin(PointId(0))).unwrap();
}

#[test]
fn a_full_drive_can_be_opened_to_make_room() {
    let world = World::new(1);
    let directory = directory(&world);
    let mut store = store(&directory, 3);
    directory.limit_space(Some(directory.space().unwrap().total.get() - directory.space().unwrap().available.get()));
    let error = store.change(|now| now.pin(PointId(1))).unwrap_err();
    assert!(matches!(&error, StoreError::Io { source, .. } if source.raw_os_error() == Some(28)), "{error}");
    let mut store = open(&directory).unwrap();
    assert_eq!(names(&*directory).len(), 4);
    assert!(!store.catalogue().point(PointId(1)).unwrap().pinned);
    let error = make_link(&mut store, Direction::Reverse).unwrap_err();
    assert!(matches!(&error, StoreError::Io { source, .. } if source.raw_os_error() == Some(28)), "{error}");
    store.discard(FileId(3)).unwrap();
    directory.limit_space(Some(100_000));
    store.change(|now| now.pin(PointId(1))).unwrap();
}

#[test]
fn a_file_that_stays_is_removed_the_next_time() {
    let world = World::new(1);
    let directory = directory(&world);
    let mut store = store(&directory, 1);
    let mutations = world.mutations();
    let before = world.snapshot();
    undo(&mut store).unwrap();
    // The last change of all is the removal of the file.
    let last = world.mutations() - mutations;
    world.restore(&before);
    let mut store = open(&directory).unwrap();
    let more = world.mutations() - mutations;
    world.crash_after(last);
    undo(&mut store).unwrap();
    assert!(world.is_down());
    assert_eq!(more, 6, "opening creates, lengthens, writes, syncs, renames and syncs");
    world.reboot();
    open(&directory).unwrap();
    assert_eq!(names(&*directory), ["catalogue"]);
}

/// A drive that does not answer says nothing of the files: they are not to be restored from a backup because of that.
#[test]
fn a_link_that_cannot_be_read_now_is_not_missing() {
    let world = World::new(1);
    let directory = directory(&world);
    let store = store(&directory, 2);
    let link = store.catalogue().links()[1];
    directory.names_disk().fail(everywhere(), 5, FaultOn::Reads, 1);
    let error = store.open_link(&link).map(drop).unwrap_err();
    assert!(matches!(&error, StoreError::Io { source, .. } if source.raw_os_error() == Some(5)), "{error}");
    assert_eq!(error.to_string(), "cannot open link-0000000000000001.delta in the retention directory retention");
    store.open_link(&link).unwrap();
    directory.names_disk().fail(everywhere(), 5, FaultOn::Reads, 1);
    let gaps = store.gaps();
    assert!(matches!(&gaps[..], [Gap { link: Some(0), what: Missing::Unreadable(_), .. }]), "{gaps:?}");
}
