//! What a simulated directory loses and what it keeps.

use super::suite::{content, make};
use failback_blockio::sim::{FaultOn, POWER_LOSS, World};
use failback_retention::{Directory, sim::SimDirectory};
use failback_units::ByteRange;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What several reboots, each with other luck, leave of some names.
fn outcomes(world: &World, directory: &SimDirectory, names: &[&str]) -> BTreeSet<Vec<Option<Vec<u8>>>> {
    let before = world.snapshot();
    let left = (0..300).map(|seed| {
        world.reseed(seed);
        world.reboot();
        let left = names.iter().map(|name| content(directory, name)).collect();
        world.restore(&before);
        left
    });
    left.collect()
}

#[test]
fn content_and_name_are_made_durable_each_by_its_own_sync() {
    let world = World::new(1);
    let directory = SimDirectory::new(&world, "retention", 8);
    make(&directory, "a", b"a");
    assert_eq!(outcomes(&world, &directory, &["a"]), [vec![None], vec![Some(b"a".to_vec())]].into());
    directory.sync().unwrap();
    let mut file = directory.create("b").unwrap();
    file.append(b"b").unwrap();
    directory.sync().unwrap();
    let left = outcomes(&world, &directory, &["a", "b"]);
    // An unsynced file may be empty, or have its length and not its content.
    assert_eq!(left, [b"".as_slice(), b"\0", b"b"].map(|b| vec![Some(b"a".to_vec()), Some(b.to_vec())]).into());
    file.sync().unwrap();
    assert_eq!(outcomes(&world, &directory, &["a", "b"]), [vec![Some(b"a".to_vec()), Some(b"b".to_vec())]].into());
}

#[test]
fn an_unsynced_rename_is_old_or_new_and_never_neither() {
    let world = World::new(1);
    let directory = SimDirectory::new(&world, "retention", 8);
    make(&directory, "old", b"old");
    directory.sync().unwrap();
    make(&directory, "new", b"new");
    directory.sync().unwrap();
    directory.rename("new", "old").unwrap();
    let left = outcomes(&world, &directory, &["old", "new"]);
    assert_eq!(left, [vec![Some(b"old".to_vec()), Some(b"new".to_vec())], vec![Some(b"new".to_vec()), None]].into());
    directory.sync().unwrap();
    assert_eq!(outcomes(&world, &directory, &["old", "new"]), [vec![Some(b"new".to_vec()), None]].into());
}

#[test]
fn unsynced_changes_of_names_come_about_each_for_itself() {
    let world = World::new(1);
    let directory = SimDirectory::new(&world, "retention", 8);
    make(&directory, "a", b"a");
    make(&directory, "b", b"b");
    directory.sync().unwrap();
    directory.remove("a").unwrap();
    directory.rename("b", "c").unwrap();
    let left = outcomes(&world, &directory, &["a", "b", "c"]);
    let renamed = [vec![Some(b"b".to_vec()), None], vec![None, Some(b"b".to_vec())]];
    let all = [Some(b"a".to_vec()), None]
        .into_iter()
        .flat_map(|a| renamed.clone().map(|rest| [vec![a.clone()], rest].concat()));
    assert_eq!(left, all.collect());
}

#[test]
fn a_full_drive_takes_what_fits_and_counts_all_files() {
    let world = World::new(1);
    let directory = SimDirectory::new(&world, "retention", 3);
    make(&directory, "a", &[1; 600]);
    directory.limit_space(Some(1000));
    assert_eq!(directory.space().unwrap().available.get(), 400);
    let mut file = directory.create("b").unwrap();
    file.append(&[2; 300]).unwrap();
    let error = file.append(&[2; 200]).unwrap_err();
    assert_eq!((error.kind(), file.len().unwrap()), (std::io::ErrorKind::StorageFull, 400));
    directory.remove("a").unwrap();
    file.append(&[2; 600]).unwrap();
    directory.limit_space(None);
    file.append(&[2; 600]).unwrap();
    // There is room for three creations, and the third is the last.
    directory.create("c").unwrap();
    assert_eq!(directory.create("d").map(drop).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn faults_of_disks_are_errors_of_files() {
    let world = World::new(1);
    let directory = SimDirectory::new(&world, "retention", 8);
    make(&directory, "a", b"one");
    let flushes = directory.flushes();
    directory.disk_of("a").unwrap().unwrap().fail(ByteRange::default(), 5, FaultOn::Flushes, 1);
    assert_eq!(directory.open("a").unwrap().sync().unwrap_err().raw_os_error(), Some(5));
    directory.names_disk().fail(ByteRange::default(), 5, FaultOn::Flushes, 1);
    assert_eq!(directory.sync().unwrap_err().raw_os_error(), Some(5));
    directory.sync().unwrap();
    assert_eq!(directory.flushes() - flushes, 3);
    assert!(directory.disk_of("b").unwrap().is_none());
    assert_eq!(directory.disks().count(), 9);
    let file = directory.open("a").unwrap();
    world.crash_now();
    for result in [directory.names().map(drop), directory.create("b").map(drop), file.len().map(drop)] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(POWER_LOSS));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Create { name: usize, synced: bool },
    Rename(usize, usize),
    Remove(usize),
    Sync,
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0..NAMES.len();
    let step = prop_oneof![
        3 => (name.clone(), any::<bool>()).prop_map(|(name, synced)| Step::Create { name, synced }),
        3 => (name.clone(), name.clone()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => name.prop_map(Step::Remove),
        1 => Just(Step::Sync),
    ];
    prop::collection::vec(step, 1..30)
}

/// A file, by the number that is its content; none if there is no such file.
type File = Option<u8>;

/// What each name stood for at the last sync, and every time since.
#[derive(Default)]
struct Model {
    now: BTreeMap<usize, u8>,
    since: BTreeMap<usize, BTreeSet<File>>,
    /// Files whose content is durable.
    synced: BTreeSet<u8>,
}

impl Model {
    fn set(&mut self, name: usize, file: File) {
        let before = self.now.get(&name).copied();
        self.since.entry(name).or_default().extend([before, file]);
        match file {
            Some(file) => self.now.insert(name, file),
            None => self.now.remove(&name),
        };
    }

    /// Does a step in the model and in the directory; an error of the latter is that of a power loss.
    fn step(&mut self, directory: &dyn Directory, step: &Step, number: u8) -> std::io::Result<()> {
        match *step {
            Step::Create { name, .. } if self.now.contains_key(&name) => Ok(()),
            Step::Create { name, synced } => {
                self.set(name, Some(number));
                let mut file = directory.create(NAMES[name])?;
                file.append(&[number])?;
                if synced {
                    file.sync()?;
                    self.synced.insert(number);
                }
                Ok(())
            }
            Step::Rename(from, to) => {
                let Some(file) = self.now.get(&from).copied() else { return Ok(()) };
                if from != to {
                    self.set(from, None);
                    self.set(to, Some(file));
                }
                directory.rename(NAMES[from], NAMES[to])
            }
            Step::Remove(name) if !self.now.contains_key(&name) => Ok(()),
            Step::Remove(name) => {
                self.set(name, None);
                directory.remove(NAMES[name])
            }
            Step::Sync => {
                directory.sync()?;
                self.since.clear();
                Ok(())
            }
        }
    }

    /// Whether a name may stand for a file with this content, or for none.
    fn allows(&self, name: usize, content: Option<&[u8]>) -> bool {
        let now = self.now.get(&name).copied();
        let possible = self.since.get(&name).cloned().unwrap_or_else(|| [now].into());
        possible.iter().any(|file| match (file, content) {
            (None, None) => true,
            (Some(file), Some(content)) if self.synced.contains(file) => content == [*file],
            (Some(file), Some(content)) => content.is_empty() || content == [0] || content == [*file],
            _ => false,
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_a_power_loss_every_name_stands_for_something_it_stood_for(
        steps in steps(), crash in 1_u64..60, seed: u64,
    ) {
        let world = World::new(seed);
        let directory = SimDirectory::new(&world, "retention", 32);
        let mut model = Model::default();
        world.crash_after(crash);
        for (number, step) in (1..).zip(&steps) {
            if let Err(error) = model.step(&directory, step, number) {
                prop_assert_eq!(error.raw_os_error(), Some(POWER_LOSS));
                break;
            }
            prop_assert_eq!(directory.names().unwrap().len(), model.now.len());
        }
        world.reboot();
        let names = directory.names().unwrap();
        for (number, name) in NAMES.iter().enumerate() {
            let content = content(&directory, name);
            prop_assert_eq!(names.iter().any(|listed| listed == name), content.is_some());
            prop_assert!(model.allows(number, content.as_deref()), "{}: {:?}", name, content);
        }
    }
}
