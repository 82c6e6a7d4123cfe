//! What the store is for.

use super::*;
use failback_retention::{Copies, FsDirectory, Reader};
use std::io::Read;
use std::time::{Duration, Instant};

#[test]
fn points_come_and_go_and_their_files_with_them() {
    let world = World::new(1);
    let directory = directory(&world);
    let mut store = store(&directory, 3);
    let links = |numbers: &[u64]| {
        let links = numbers.iter().map(|number| FileId(*number).delta_name());
        [vec!["catalogue".to_owned()], links.collect()].concat()
    };
    assert_eq!(names(&*directory), links(&[0, 1, 2]));
    roll_back(&mut store, 1).unwrap();
    assert_eq!(store.catalogue().present().id, PointId(1));
    assert_eq!(names(&*directory), links(&[0, 3, 4]));
    roll_back(&mut store, 3).unwrap();
    assert_eq!(names(&*directory), links(&[0, 5, 6]));
    merge(&mut store, 2).unwrap();
    assert_eq!(names(&*directory), links(&[0, 7]));
    roll_back(&mut store, 1).unwrap();
    assert_eq!(names(&*directory), links(&[0, 8]));
    store.change(|now| now.pin(PointId(0))?.commit()?.unpin(PointId(0))).unwrap();
    assert_eq!(names(&*directory), links(&[0]));
    store.change(|now| now.drop_oldest(PointId(0))).unwrap();
    assert_eq!(names(&*directory), links(&[]));
    assert_eq!(store.catalogue().points().iter().map(|point| point.id.0).collect::<Vec<_>>(), [1]);
    add_point(&mut store).unwrap();
    store.change(Catalogue::commit).unwrap();
    assert_eq!(store.catalogue().points().iter().map(|point| point.id.0).collect::<Vec<_>>(), [4]);
    assert_eq!(look(&directory).unwrap().catalogue(), store.catalogue());
}

#[test]
fn files_of_links_are_opened_and_have_indices() {
    let world = World::new(1);
    let directory = directory(&world);
    let mut store = store(&directory, 2);
    let link = store.catalogue().links()[1];
    let mut bytes = Vec::new();
    Reader::new(store.open_link(&link).unwrap()).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, content(link.file));
    assert!(store.open_index(link.file).unwrap().is_none());
    for text in [b"one".as_slice(), b"other"] {
        store.create_index(link.file).unwrap().append(text).unwrap();
        let index = store.open_index(link.file).unwrap().unwrap();
        assert_eq!(index.len().unwrap(), text.len() as u64);
    }
    // An index goes with its link.
    drop(open(&directory).unwrap());
    assert!(directory.names().unwrap().contains(&link.file.index_name()));
    let mut store = open(&directory).unwrap();
    undo(&mut store).unwrap();
    assert_eq!(names(&*directory), ["catalogue"]);
}

#[test]
fn a_spooled_delta_stays_until_it_was_applied() {
    let world = World::new(1);
    let directory = directory(&world);
    let mut store = store(&directory, 1);
    let (spool, mut file) = store.create_spool().unwrap();
    file.append(b"delta").unwrap();
    file.sync().unwrap();
    let inverse = make_link(&mut store, Direction::Reverse).unwrap();
    let apply = Apply { source: DeltaSource::Spooled(spool), ..apply(&store, inverse) };
    store.change(|now| now.begin_apply(apply)).unwrap();
    let mut store = open(&directory).unwrap();
    assert_eq!(store.open_spool(spool).unwrap().len().unwrap(), 5);
    store.change(|now| now.finish_apply(Proof::WholeDisk, 9)).unwrap();
    assert!(store.open_spool(spool).is_err());
    assert_eq!(store.catalogue().present().proven, Proof::WholeDisk);
}

#[test]
fn what_is_made_and_not_named_can_be_discarded() {
    let world = World::new(1);
    let directory = directory(&world);
    let mut store = store(&directory, 1);
    let link = make_link(&mut store, Direction::Reverse).unwrap();
    store.create_index(link.file).unwrap();
    store.discard(link.file).unwrap();
    assert_eq!(names(&*directory), ["catalogue", "link-0000000000000000.delta"]);
    // Its number is not used again as long as this is open.
    assert_eq!(store.create_link().unwrap().0, FileId(2));
    drop(open(&directory).unwrap());
    assert_eq!(names(&*directory), ["catalogue", "link-0000000000000000.delta"]);
}

#[test]
fn leftovers_are_removed_and_strangers_left_alone() {
    let world = World::new(1);
    let directory = directory(&world);
    drop(store(&directory, 1));
    let leftovers =
        [FileId(9).delta_name(), FileId(0).spool_name() + "x", FileId(7).index_name(), FileId(8).spool_name()];
    for name in leftovers.iter().map(String::as_str).chain(["catalogue.new", "lock", "notes.txt", "link-1.delta"]) {
        directory.create(name).unwrap();
    }
    let before = names(&*directory);
    drop(look(&directory).unwrap());
    assert_eq!(names(&*directory), before);
    let store = open(&directory).unwrap();
    let strangers = ["catalogue", "link-0000000000000000.delta", "link-1.delta", "lock", "notes.txt", &leftovers[1]];
    assert_eq!(names(&*directory), strangers);
    assert_eq!(store.gaps(), []);
}

#[test]
fn two_hundred_points_are_listed_in_milliseconds() {
    let place = tempfile::tempdir().unwrap();
    let directory: Arc<dyn Directory> = Arc::new(FsDirectory::create(&place.path().join("retention")).unwrap());
    let mut store = Store::create(Arc::clone(&directory), disk(), point(0)).unwrap();
    for _ in 0..200 {
        add_point(&mut store).unwrap();
    }
    let fastest = (0..5).map(|_| {
        let began = Instant::now();
        let store = Store::open_for_reading(Arc::clone(&directory)).unwrap();
        assert_eq!((store.gaps().len(), store.catalogue().points().len(), store.copies()), (0, 201, Copies::Intact));
        began.elapsed()
    });
    assert!(fastest.min().unwrap() < Duration::from_millis(50));
    let mut store = Store::open_for_changes(directory, &BINDING).unwrap();
    undo(&mut store).unwrap();
    assert_eq!(std::fs::read_dir(place.path().join("retention")).unwrap().count(), 1);
}
