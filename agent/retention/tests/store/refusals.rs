//! What is refused, and in which words.

use super::*;
use failback_retention::{CatalogueError, Copies, Gap, Missing};
use std::error::Error;

/// An error with what it comes from.
fn told(result: Result<Store, StoreError>) -> String {
    let error = result.map(drop).unwrap_err();
    let source = error.source().map(ToString::to_string);
    format!("{error}{}", source.map_or_else(String::new, |source| format!(": {source}")))
}

#[test]
fn an_empty_directory_holds_no_points() {
    let world = World::new(1);
    let directory = directory(&world);
    directory.create("catalogue.new").unwrap();
    assert!(told(look(&directory)).starts_with("retention holds no recovery points: "));
    assert!(matches!(open(&directory), Err(StoreError::Empty(_))));
    drop(store(&directory, 0));
    assert_eq!(names(&*directory), ["catalogue"]);
}

#[test]
fn points_are_not_begun_over_others() {
    let world = World::new(1);
    let directory = directory(&world);
    drop(store(&directory, 1));
    let again = || Store::create(Arc::clone(&directory) as Arc<dyn Directory>, disk(), point(0));
    assert_eq!(told(again()), "retention holds recovery points already: name an empty directory");
    overwrite(&*directory, "catalogue", b"damaged");
    assert!(matches!(again(), Err(StoreError::Exists(_))));
    directory.remove("catalogue").unwrap();
    for result in [again(), open(&directory), look(&directory)] {
        let text = told(result);
        assert!(text.contains("has lost its catalogue") && text.contains("remove nothing"), "{text}");
    }
    assert_eq!(names(&*directory), ["link-0000000000000000.delta"]);
}

#[test]
fn a_description_that_is_too_long_begins_nothing() {
    let world = World::new(1);
    let directory = directory(&world);
    let long = Disk { description: "x".repeat(4097), ..disk() };
    let result = Store::create(Arc::clone(&directory) as Arc<dyn Directory>, long, point(0));
    assert!(told(result).contains("longer than 4096 bytes"));
    assert_eq!(names(&*directory), [""; 0]);
}

#[test]
fn points_of_another_disk_are_not_changed() {
    let world = World::new(1);
    let directory = directory(&world);
    drop(store(&directory, 1));
    directory.create("catalogue.new").unwrap();
    let result = Store::open_for_changes(Arc::clone(&directory) as Arc<dyn Directory>, &[4; 32]);
    assert_eq!(
        told(result),
        "retention is the retention directory of another disk (/dev/sdb, 6000c29d\\u{7}): name the directory of this one"
    );
    assert!(names(&*directory).contains(&"catalogue.new".to_owned()));
    let reading = look(&directory).unwrap();
    reading.check_disk(&BINDING).unwrap();
    reading.check_disk(&[4; 32]).unwrap_err();
}

#[test]
fn a_damaged_catalogue_is_refused_and_nothing_is_removed() {
    let world = World::new(1);
    let directory = directory(&world);
    drop(store(&directory, 1));
    let before = names(&*directory);
    overwrite(&*directory, "catalogue", &[b"\x89FBCAT\r\n\x01\0".as_slice(), &[0; 9000]].concat());
    for result in [open(&directory), look(&directory)] {
        let text = told(result);
        assert!(
            text.contains("cannot be used: restore the whole directory from a backup, and remove nothing: both"),
            "{text}"
        );
    }
    overwrite(&*directory, "catalogue", b"\x89FBCAT\r\n\x02\0");
    assert!(matches!(open(&directory), Err(StoreError::Catalogue { source: CatalogueError::Damaged(_), .. })));
    assert_eq!(names(&*directory), before);
}

#[test]
fn one_damaged_copy_is_told_and_made_good() {
    let world = World::new(1);
    let directory = directory(&world);
    drop(store(&directory, 1));
    let catalogue = directory.disk_of("catalogue").unwrap().unwrap();
    catalogue.write_durably(failback_units::ByteOffset::ZERO, &[0; 512]);
    assert_eq!(look(&directory).unwrap().copies(), Copies::FirstDamaged);
    let store = open(&directory).unwrap();
    assert_eq!((store.copies(), store.catalogue().points().len()), (Copies::FirstDamaged, 2));
    assert_eq!(look(&directory).unwrap().copies(), Copies::Intact);
}

#[test]
fn a_missing_file_of_a_link_costs_only_what_lies_behind_it() {
    let world = World::new(1);
    let directory = directory(&world);
    let mut store = store(&directory, 4);
    roll_back(&mut store, 2).unwrap();
    assert_eq!(store.gaps(), []);
    let [first, .., last] = store.catalogue().links() else { panic!("four links") };
    let (first, last) = (*first, *last);
    overwrite(&*directory, &first.file.delta_name(), b"short");
    directory.remove(&last.file.delta_name()).unwrap();
    let store = look(&directory).unwrap();
    let what = Missing::Length { wanted: first.bytes.get(), found: 5 };
    let shorter = Gap { link: Some(0), name: first.file.delta_name(), what, unreachable: vec![PointId(0)] };
    let name = last.file.delta_name();
    let gone = Gap { link: Some(3), name, what: Missing::Gone, unreachable: vec![PointId(4)] };
    assert_eq!(store.gaps(), [shorter.clone(), gone]);
    let text = store.open_link(&first).map(drop).unwrap_err().to_string();
    assert!(text.contains("has 5 bytes instead of 310"), "{text}");
    store.open_link(&store.catalogue().links()[1]).unwrap();
    assert!(shorter.to_string().contains(": restore it from a backup; the points"), "{shorter}");
    // All else goes on.
    let mut store = open(&directory).unwrap();
    roll_back(&mut store, 3).unwrap();
    assert_eq!(store.gaps().len(), 2);
}

#[test]
fn the_inverse_of_what_is_under_way_may_be_missing_too() {
    let world = World::new(1);
    let directory = directory(&world);
    let mut store = store(&directory, 1);
    let inverse = make_link(&mut store, Direction::Reverse).unwrap();
    let apply = apply(&store, inverse);
    store.change(|now| now.begin_apply(apply)).unwrap();
    directory.remove(&inverse.file.delta_name()).unwrap();
    let gaps = look(&directory).unwrap().gaps();
    assert_eq!(gaps.iter().map(|gap| (gap.link, gap.unreachable.len())).collect::<Vec<_>>(), [(None, 0)]);
}

#[test]
fn a_file_that_is_not_there_is_not_named() {
    let world = World::new(1);
    let directory = directory(&world);
    let mut store = store(&directory, 1);
    let good = make_link(&mut store, Direction::Reverse).unwrap();
    let before = store.catalogue().clone();
    let longer = Link { bytes: count(1), ..good };
    let missing = Link { file: FileId(77), ..good };
    for wrong in [longer, missing] {
        let apply = apply(&store, wrong);
        let error = store.change(|now| now.begin_apply(apply)).unwrap_err();
        assert!(matches!(error, StoreError::Gap(_)), "{error}");
    }
    let unspooled = Apply { source: DeltaSource::Spooled(FileId(50)), ..apply(&store, good) };
    store.change(|now| now.begin_apply(unspooled)).unwrap_err();
    assert_eq!((store.catalogue(), look(&directory).unwrap().catalogue()), (&before, &before));
    // Nothing was tried, so that the store can go on.
    let apply = apply(&store, good);
    store.change(|now| now.begin_apply(apply)).unwrap();
}

#[test]
fn what_is_open_for_reading_is_not_changed() {
    let world = World::new(1);
    let directory = directory(&world);
    let mut writing = store(&directory, 1);
    let mut reading = look(&directory).unwrap();
    let link = reading.catalogue().links()[0];
    for result in [
        reading.change(|now| now.pin(PointId(1))),
        reading.create_link().map(drop),
        reading.create_spool().map(drop),
        reading.create_index(link.file).map(drop),
        reading.discard(FileId(9)),
    ] {
        assert!(matches!(result, Err(StoreError::NotWritable(_))));
    }
    writing.change(|now| now.pin(PointId(1))).unwrap();
    reading.reload().unwrap();
    assert_eq!(reading.catalogue(), writing.catalogue());
    assert!(matches!(reading.change(|now| now.pin(PointId(0))), Err(StoreError::NotWritable(_))));
}

#[test]
fn a_change_that_cannot_be_made_leaves_everything_as_it_is() {
    let world = World::new(1);
    let directory = directory(&world);
    let mut store = store(&directory, 1);
    let mutations = world.mutations();
    let error = store.change(|now| now.pin(PointId(8))).unwrap_err();
    assert!(matches!(error, StoreError::Move(MoveError::NoSuchPoint(PointId(8)))), "{error}");
    assert_eq!(world.mutations(), mutations);
}

#[test]
#[should_panic(expected = "file 0 is in use")]
fn what_is_named_is_not_discarded() {
    let world = World::new(1);
    let _ = store(&directory(&world), 1).discard(FileId(0));
}
