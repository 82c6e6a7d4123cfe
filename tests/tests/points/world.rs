//! A disk with states that follow each other, and a place for its recovery points.

use failback_tests::failback;
use failback_tests::lab::{Dice, Loop, Place, Program, hash_of, noise, root_of_file, tool};
use failback_tests::proof::ext_files;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub(crate) const MIB: usize = 1 << 20;

/// The size of small states: no whole number of blocks.
pub(crate) const SMALL: usize = 2 * MIB + 1536;

/// What a disk is kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Raw,
    Vmdk,
    Device,
}

/// A disk that holds the first of its states, the deltas from each to the next, and a retention directory.
pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) states: Vec<PathBuf>,
    pub(crate) deltas: Vec<PathBuf>,
    pub(crate) retention: PathBuf,
    pub(crate) disk: PathBuf,
    kind: Kind,
    /// Whether free space counts, so that a state is one of bytes and not of files.
    exact: bool,
    /// All that the disk held when it was at a state for the first time, also behind the end of that: where states end with a
    /// block. In a block in which a state ends, nobody keeps what lies behind that.
    seen: RefCell<BTreeMap<usize, String>>,
    /// Given back in the end.
    _device: Option<Loop>,
}

impl World {
    /// Four states of an ext4 of 24 MiB.
    pub(crate) fn of_files(kind: Kind) -> Self {
        let place = Place::new();
        let states = file_systems(&place);
        let deltas = deltas(&place, &states, "16K");
        Self::new(place, kind, states, deltas, false)
    }

    /// Four states of noise in which all bytes count, of `size` bytes or a little more.
    pub(crate) fn of_bytes(kind: Kind, size: usize) -> Self {
        Self::of_bytes_in(Place::new(), kind, size)
    }

    /// The same in another place.
    pub(crate) fn of_bytes_in(place: Place, kind: Kind, size: usize) -> Self {
        let states = noises(&place, size);
        let deltas = deltas(&place, &states, "4K");
        Self::new(place, kind, states, deltas, true)
    }

    /// Small states of noise on an image, the last of which the disk is at.
    pub(crate) fn at_the_end() -> Self {
        let world = Self::of_bytes(Kind::Raw, SMALL);
        world.apply_all();
        world
    }

    pub(crate) fn new(place: Place, kind: Kind, states: Vec<PathBuf>, deltas: Vec<PathBuf>, exact: bool) -> Self {
        let image = place.path("disk.img");
        fs::copy(&states[0], &image).unwrap();
        // Room for the largest of the states, and something there; nothing in the block that the first one ends in.
        let (first, size) = (length(&states[0]), states.iter().map(|state| length(state)).max().unwrap());
        let mut behind = noise(usize::try_from(size.next_multiple_of(512) - first).unwrap(), 5);
        let same_block = usize::try_from(first.next_multiple_of(4096) - first).unwrap().min(behind.len());
        behind[..same_block].fill(0);
        File::options().write(true).open(&image).unwrap().write_all_at(&behind, first).unwrap();
        let (disk, device) = match kind {
            Kind::Raw => (image, None),
            Kind::Device => {
                let device = Loop::attach(&image, &[]);
                (device.path.clone(), Some(device))
            }
            Kind::Vmdk => {
                let vmdk = place.path("disk.vmdk");
                failback!("vmdk", "convert", image, vmdk, "--subformat", "monolithicSparse").done();
                fs::remove_file(image).unwrap();
                (vmdk, None)
            }
        };
        let retention = place.directory("retention");
        Self { place, states, deltas, retention, disk, kind, exact, seen: RefCell::default(), _device: device }
    }

    /// A verb for this disk: its words, the disk, and what else there is to say, separated by spaces.
    pub(crate) fn call(&self, verb: &str, rest: &str) -> Program {
        Program::new().args(verb).arg(&self.disk).arg("--retention").arg(&self.retention).args(rest)
    }

    /// The call that applies a delta.
    pub(crate) fn apply_of(&self, delta: impl AsRef<OsStr>) -> Program {
        let state = self.place.path("state");
        let call = failback!("apply", delta, self.disk, "--yes", "--state", state);
        call.arg("--retention").arg(&self.retention)
    }

    /// The call that applies the delta from state `number` to the next.
    pub(crate) fn apply(&self, number: usize) -> Program {
        self.apply_of(&self.deltas[number])
    }

    pub(crate) fn apply_all(&self) {
        for number in 0..self.deltas.len() {
            self.apply(number).done();
        }
    }

    pub(crate) fn status(&self) -> Value {
        self.call("status", "").json()
    }

    pub(crate) fn list(&self) -> Value {
        self.call("point list", "").json()
    }

    /// The numbers of the points that are listed.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.list()["points"].as_array().unwrap().iter().map(|point| point["id"].as_u64().unwrap()).collect()
    }

    #[track_caller]
    pub(crate) fn rollback(&self, id: u64) -> Value {
        let report = self.call("point rollback", &format!("{id} --yes")).json();
        assert_eq!(report["point"], id, "{report}");
        report
    }

    /// What the disk holds, as a raw image or device.
    fn content(&self) -> PathBuf {
        if self.kind != Kind::Vmdk {
            return self.disk.clone();
        }
        let raw = self.place.path("disk.raw");
        let formats = ["convert", "-f", "vmdk", "-O", "raw"].map(OsStr::new);
        tool("qemu-img", &[&formats[..], &[self.disk.as_os_str(), raw.as_os_str()]].concat());
        raw
    }

    /// Fails unless the disk holds this state.
    #[track_caller]
    pub(crate) fn is_at(&self, state: usize) {
        let content = self.content();
        self.is_state(&content, state);
        if self.exact && length(&self.states[0]).is_multiple_of(4096) {
            let all = root_of_file(&content);
            let first = self.seen.borrow_mut().entry(state).or_insert_with(|| all.clone()).clone();
            assert_eq!(all, first, "what lies behind the end of state {state} is not what it was");
        }
    }

    /// Fails unless an image or device holds this state: its bytes, or its files where free space does not count.
    #[track_caller]
    pub(crate) fn is_state(&self, image: &Path, state: usize) {
        let wanted = &self.states[state];
        if self.exact {
            assert_eq!(hash_of(image, Some(length(wanted))), root_of_file(wanted), "state {state}");
        } else {
            assert_eq!(ext_files(image), ext_files(wanted), "state {state}");
        }
    }

    /// BLAKE3 of all that the disk holds.
    pub(crate) fn hash(&self) -> String {
        root_of_file(&self.content())
    }

    /// The root of the state, as its point has it.
    pub(crate) fn root(&self, state: usize) -> String {
        let (delta, name) = match state {
            0 => (&self.deltas[0], "base_root"),
            state => (&self.deltas[state - 1], "result_root"),
        };
        failback!("inspect", delta).json()[name].as_str().unwrap().to_owned()
    }

    /// Fails unless every point is what its root says, read from wherever the disk is.
    #[track_caller]
    pub(crate) fn all_are_right(&self) {
        let list = self.list();
        for point in list["points"].as_array().unwrap() {
            let report = self.call("verify", &format!("--point {}", point["id"])).json();
            assert_eq!((&report["matches"], &report["root"]), (&true.into(), &point["root"]), "{report}");
            assert_eq!(report["coverage"], point["coverage"], "{report}");
        }
    }

    /// The directory of this disk.
    pub(crate) fn own(&self) -> PathBuf {
        PathBuf::from(self.list()["place"].as_str().expect("there are recovery points"))
    }

    /// The names in the directory of this disk, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        names_in(&self.own())
    }

    /// The file of the link between a point and the next one, by their places in the chain.
    pub(crate) fn link(&self, place: usize) -> PathBuf {
        self.own().join(self.links()[place].clone() + ".delta")
    }

    /// The names of the links, oldest first, without what follows the dot. Only right while nothing was rolled back.
    fn links(&self) -> Vec<String> {
        let names = self.files().into_iter();
        names.filter_map(|name| name.strip_suffix(".delta").map(str::to_owned)).collect()
    }

    /// Fails unless there is nothing but the catalogue, the lock, and so many links with their indices.
    #[track_caller]
    pub(crate) fn has_links(&self, links: usize) {
        let files = self.files();
        let of = |suffix: &str| files.iter().filter(|name| name.starts_with("link-") && name.ends_with(suffix)).count();
        // A hash tree is kept where a point was verified.
        let trees = files.iter().filter(|name| name.starts_with("tree-")).count();
        assert_eq!((of(".delta"), of(".index"), files.len() - trees), (links, links, 2 * links + 2), "{files:?}");
        assert!(files.iter().any(|name| name == "catalogue") && files.iter().any(|name| name == "lock"), "{files:?}");
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// The names in a directory, sorted.
pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The delta from each state to the next.
pub(crate) fn deltas(place: &Place, states: &[PathBuf], block_size: &str) -> Vec<PathBuf> {
    let pairs = states.windows(2).enumerate();
    pairs.map(|(number, pair)| place.delta(&format!("{number}.delta"), &pair[0], &pair[1], block_size)).collect()
}

/// States of noise that have much in common, with zeroes in them. Each is somewhat longer than the one before, but the last.
fn noises(place: &Place, size: usize) -> Vec<PathBuf> {
    let mut dice = Dice::new(7);
    let mut bytes = noise(size, 1);
    let state = |number: usize| {
        // Whole blocks, where the first one has whole blocks.
        let longer = if size.is_multiple_of(4096) { [0, 4096, 12_288, 8192] } else { [0, 700, 5000, 4200] }[number];
        bytes.resize(size + longer, 0xA5);
        for stretch in 0..if number == 0 { 0 } else { 16 } {
            let len = 1 + dice.below(size / 20);
            let at = dice.below(bytes.len() - len);
            let new = if stretch % 4 == 3 { vec![0; len] } else { noise(len, dice.roll()) };
            bytes[at..at + len].copy_from_slice(&new);
        }
        place.file(&format!("state-{number}.img"), &bytes)
    };
    (0..4).map(state).collect()
}

/// States of an ext4 whose free space holds noise: files come, go and are replaced.
fn file_systems(place: &Place) -> Vec<PathBuf> {
    const UUID: &str = "6f1d2c3b-0a49-4f58-8e67-7d8c9bafbecd";
    let first = place.noisy("state-0.img", 24 * MIB, 3);
    let tree = place.directory("tree");
    for file in 0..16_u64 {
        fs::write(tree.join(format!("file-{file}")), noise(200_000, file + 10)).unwrap();
    }
    let options = "lazy_itable_init=0,nodiscard,hash_seed=00000000-0000-0000-0000-000000000001";
    let how = ["-q", "-F", "-t", "ext4", "-U", UUID, "-E", options, "-d"].map(OsStr::new);
    tool("mke2fs", &[&how[..], &[tree.as_os_str(), first.as_os_str()]].concat());
    let mut states = vec![first];
    for number in 1..4_u64 {
        let state = place.path(&format!("state-{number}.img"));
        fs::copy(states.last().unwrap(), &state).unwrap();
        let new = place.file("new", &noise(600_000, 100 + number));
        let mut requests = format!("rm file-{number}\nrm file-{}\nwrite {} new-{number}\n", number + 4, new.display());
        if number > 1 {
            writeln!(requests, "rm new-{}", number - 1).unwrap();
        }
        let requests = place.file("requests", requests.as_bytes());
        tool("debugfs", &["-w".as_ref(), "-f".as_ref(), requests.as_os_str(), state.as_os_str()]);
        states.push(state);
    }
    states
}

/// Turns one bit of a file over. A place behind the end is counted from it: -1 is the last byte.
pub(crate) fn flip(path: &Path, at: i64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    let at = if at < 0 { len - at.unsigned_abs() } else { at.unsigned_abs() };
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, at).unwrap();
}
