//! The power fails at every change of a long life, and every time the store is the one before or the one after.

use super::*;
use failback_retention::{Pending, Space, StoredFile, sim::DropSyncs};
use std::io;

type Step = fn(&mut Store) -> Result<(), StoreError>;

/// A life with everything in it.
const LIFE: &[Step] = &[
    add_point,
    add_point,
    |store| store.change(|now| now.pin(PointId(1))),
    add_point,
    |store| roll_back(store, 1),
    |store| roll_back(store, 3),
    |store| merge(store, 2),
    add_point,
    |store| store.change(Catalogue::commit),
    add_point,
    undo,
    |store| store.change(|now| now.unpin(PointId(1))),
    |store| store.change(|now| now.drop_oldest(PointId(1))),
];

/// Begins the store and lives its life; tells each catalogue that was saved.
fn live(directory: &Arc<dyn Directory>, saved: &mut Vec<Catalogue>) -> Result<(), StoreError> {
    let mut store = Store::create(Arc::clone(directory), disk(), point(0))?;
    saved.push(store.catalogue().clone());
    for step in LIFE {
        // What a step was saving when it failed is not told; `check` knows it from a life without a power loss.
        let result = step(&mut store);
        saved.push(store.catalogue().clone());
        result?;
    }
    Ok(())
}

/// What counts of a catalogue: all but how often it was saved.
fn facts(catalogue: &Catalogue) -> String {
    let (points, links, pending) = (catalogue.points(), catalogue.links(), catalogue.pending());
    let (next_point, next_file) = (catalogue.next_point(), catalogue.next_file());
    let (present, committed) = (catalogue.present_index(), catalogue.committed());
    format!("{points:?} {links:?} {pending:?} {next_point} {next_file} {present} {committed}")
}

/// Every catalogue of a whole life in the order in which they were saved, also those within a step.
fn history() -> Vec<String> {
    let world = World::new(1);
    let inner = directory(&world);
    let seen = Arc::new(Watched { inner: Arc::clone(&inner), seen: std::sync::Mutex::default() });
    live(&(Arc::clone(&seen) as Arc<dyn Directory>), &mut Vec::new()).unwrap();
    let seen = seen.seen.lock().unwrap();
    assert!(seen.len() > 25, "{} catalogues", seen.len());
    seen.clone()
}

/// Looks at the catalogue whenever one was put in its place.
struct Watched {
    inner: Arc<SimDirectory>,
    seen: std::sync::Mutex<Vec<String>>,
}

/// Does everything as the directory inside, but for what is said otherwise.
macro_rules! as_inside {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)+) => { $(
        fn $name(&self $(, $argument: $type)*) -> $result {
            self.inner.$name($($argument),*)
        }
    )+ };
}

impl Directory for Watched {
    as_inside! {
        place() -> String;
        names() -> io::Result<Vec<String>>;
        create(name: &str) -> io::Result<Box<dyn StoredFile>>;
        open(name: &str) -> io::Result<Box<dyn StoredFile>>;
        remove(name: &str) -> io::Result<()>;
        sync() -> io::Result<()>;
        space() -> io::Result<Space>;
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)?;
        let found = facts(look(&self.inner).unwrap().catalogue());
        self.seen.lock().unwrap().push(found);
        Ok(())
    }
}

/// Which sync a careless directory leaves out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum LeftOut {
    Nothing,
    Content,
    NamesBeforeTheRename,
    NamesAfterTheRename,
}

/// A directory that forgets to sync.
struct Careless {
    inner: Arc<SimDirectory>,
    left_out: LeftOut,
}

impl Directory for Careless {
    as_inside! {
        place() -> String;
        names() -> io::Result<Vec<String>>;
        open(name: &str) -> io::Result<Box<dyn StoredFile>>;
        rename(from: &str, to: &str) -> io::Result<()>;
        remove(name: &str) -> io::Result<()>;
        space() -> io::Result<Space>;
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn StoredFile>> {
        let file = self.inner.create(name)?;
        Ok(if self.left_out == LeftOut::Content { Box::new(DropSyncs(file)) } else { file })
    }

    fn sync(&self) -> io::Result<()> {
        let before = self.inner.open("catalogue.new").is_ok();
        let left_out = match self.left_out {
            LeftOut::NamesBeforeTheRename => before,
            LeftOut::NamesAfterTheRename => !before,
            LeftOut::Nothing | LeftOut::Content => false,
        };
        if left_out { Ok(()) } else { self.inner.sync() }
    }
}

/// What is wrong after a power loss, if something is. `saved` is what was known to be so when it happened.
fn verdict(directory: &Arc<SimDirectory>, saved: &[Catalogue], history: &[String]) -> Result<(), String> {
    let store = match open(directory) {
        Err(StoreError::Empty(_)) if saved.is_empty() => return Ok(()),
        other => other.map_err(|error| format!("{error:?}"))?,
    };
    let found = facts(store.catalogue());
    let place = |facts: &String| history.iter().rposition(|known| known == facts);
    let now = place(&found).ok_or("a catalogue that never was")?;
    // What was told to be saved is so, or what came after it.
    let known = saved.last().map(|catalogue| place(&facts(catalogue)).unwrap());
    if known.is_some_and(|known| now < known || now > known + 1) {
        return Err(format!("catalogue {now} of the history instead of {known:?} or the one after"));
    }
    check_files(directory, &store)?;
    // It was opened for changes, so it is durable now.
    directory.names_disk().world().reboot();
    let again = look(directory).map_err(|error| format!("{error:?}"))?;
    if facts(again.catalogue()) != found {
        return Err("the second power loss brought an older catalogue back".into());
    }
    check_files(directory, &again)
}

/// Whether all files that are named are there with their content, and no others.
fn check_files(directory: &Arc<SimDirectory>, store: &Store) -> Result<(), String> {
    if let Some(gap) = store.gaps().first() {
        return Err(gap.to_string());
    }
    let catalogue = store.catalogue();
    let pending = match catalogue.pending() {
        Some(Pending::Apply(apply)) => Some(apply.inverse),
        Some(Pending::Rollback { inverse, .. }) => *inverse,
        Some(Pending::Undo { .. }) | None => None,
    };
    let links: Vec<_> = catalogue.links().iter().chain(&pending).collect();
    let named = links.iter().map(|link| link.file.delta_name()).chain(["catalogue".to_owned()]);
    let (mut named, there) = (named.collect::<Vec<_>>(), names(&**directory));
    named.sort();
    if named != there {
        return Err(format!("{there:?} instead of {named:?}"));
    }
    for link in links {
        let mut bytes = vec![0; link.bytes.to_usize().unwrap()];
        store.open_link(link).unwrap().read_at(0, &mut bytes).unwrap();
        if bytes != content(link.file) {
            return Err(format!("the content of file {} is another", link.file));
        }
    }
    Ok(())
}

/// Lets the power fail at every change of a life, and counts how often something was wrong.
fn violations(left_out: LeftOut, seeds: u64) -> (usize, usize, String) {
    let history = history();
    let (mut states, mut wrong, mut first) = (0, 0, String::new());
    for crash in 1.. {
        let world = World::new(crash);
        let inner = directory(&world);
        let careless: Arc<dyn Directory> = Arc::new(Careless { inner: Arc::clone(&inner), left_out });
        let mut saved = Vec::new();
        world.crash_after(crash);
        if live(&careless, &mut saved).is_ok() && !world.is_down() {
            return (states, wrong, first);
        }
        let down = world.snapshot();
        for seed in 0..seeds {
            world.restore(&down);
            world.reseed(seed);
            world.reboot();
            if seed % 3 == 1 {
                // The power fails once more while the points are opened.
                world.crash_after(1 + seed / 3);
                let _ = open(&inner);
                world.reboot();
            }
            states += 1;
            if let Err(why) = verdict(&inner, &saved, &history) {
                wrong += 1;
                if first.is_empty() {
                    first = format!("power loss at change {crash}, seed {seed}: {why}");
                }
            }
        }
    }
    unreachable!("a life ends")
}

#[test]
fn a_power_loss_at_any_moment_leaves_the_old_or_the_new() {
    let (states, wrong, first) = violations(LeftOut::Nothing, 24);
    assert!(states > 5000, "{states} states");
    assert_eq!(wrong, 0, "of {states}: {first}");
}

#[test]
fn each_sync_that_is_left_out_is_noticed() {
    for left_out in [LeftOut::Content, LeftOut::NamesBeforeTheRename, LeftOut::NamesAfterTheRename] {
        let (states, wrong, _) = violations(left_out, 6);
        assert!(wrong > 0, "{left_out:?}: {states} states without a violation");
    }
}
