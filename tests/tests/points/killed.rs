//! SIGKILL at any moment of anything that moves a disk or its recovery points: what is said of the disk is true, and it gets to where it
//! was going, or back.
//!
//! One disk is led back and forth for as long as it takes. Each program is killed a moment after it has come to where it can be
//! hit, and afterwards the files tell where it was.

use crate::world::{Kind, MIB, World, deltas, names_in};
use failback_tests::lab::{Dice, Place, Program, has_devices, root_of_file};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

const SIZE: usize = 40 * MIB;
const SIZE_BYTES: u64 = SIZE as u64;
/// What is compared at a time: the least that a change can be made of.
const PART: usize = 4096;
/// What may be written again: the batch that was under way, of which every frame is written as a whole.
const BATCH: u64 = 16 << 20;

/// Where a program was, as far as the files tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Before it made a file or wrote to the disk.
    Looking,
    /// The delta comes through a pipe and is stored.
    Storing,
    /// What leads back is recorded.
    Recording,
    /// It is on record what is under way, and nothing is written.
    Begun,
    /// The disk is between two points.
    Writing,
    /// All is written, and the catalogue does not say so yet.
    Settling,
    /// Two links are made one.
    Merging,
    /// A point is copied into a file.
    Copying,
    /// It was killed too late.
    Ended,
}

/// What each program has to be killed in.
const AIMS: [(&str, &[Phase]); 8] = [
    ("apply", &[Phase::Recording, Phase::Writing]),
    ("apply -", &[Phase::Storing, Phase::Recording, Phase::Writing]),
    ("point rollback", &[Phase::Recording, Phase::Writing]),
    ("resume", &[Phase::Looking, Phase::Writing]),
    ("undo", &[Phase::Looking, Phase::Writing]),
    ("undo all", &[Phase::Writing]),
    ("point prune", &[Phase::Merging]),
    ("point export", &[Phase::Copying]),
];

/// How often each of these has to be hit.
const HITS: usize = 2;

struct Walk {
    world: World,
    contents: Vec<Vec<u8>>,
    roots: Vec<String>,
    hits: BTreeMap<(&'static str, Phase), usize>,
    kills: usize,
    /// The most that was written twice.
    again: u64,
    finished: usize,
    dice: Dice,
}

/// What was there before a program began.
struct Before {
    files: Vec<(String, (i64, i64))>,
    written: (i64, i64),
}

impl Walk {
    fn new(kind: Kind) -> Self {
        let place = Place::new();
        let states: Vec<_> = (1..4).map(|state| place.noisy(&format!("state-{state}.img"), SIZE, state)).collect();
        let deltas = deltas(&place, &states, "64K");
        let contents: Vec<_> = states.iter().map(|state| fs::read(state).unwrap()).collect();
        let roots = states.iter().map(|state| root_of_file(state)).collect();
        let world = World::new(place, kind, states, deltas, true);
        let hits = AIMS.iter().flat_map(|(name, phases)| phases.iter().map(|phase| ((*name, *phase), 0))).collect();
        Self { world, contents, roots, hits, kills: 0, again: 0, finished: 0, dice: Dice::new(11) }
    }

    /// The files in the directory of the disk, if it has one, and when each was changed last.
    fn files(&self) -> Vec<(String, (i64, i64))> {
        let Some(own) = fs::read_dir(&self.world.retention).unwrap().next() else { return Vec::new() };
        let own = own.unwrap().path();
        let changed = |name: String| {
            // It may be gone by now.
            let about = fs::metadata(own.join(&name)).ok()?;
            Some((name, (about.ctime(), about.ctime_nsec())))
        };
        names_in(&own).into_iter().filter_map(changed).collect()
    }

    /// When the disk was written to last.
    fn written(&self) -> (i64, i64) {
        let about = fs::metadata(self.world.place.path("disk.img")).unwrap();
        (about.mtime(), about.mtime_nsec())
    }

    fn before(&self) -> Before {
        Before { files: self.files(), written: self.written() }
    }

    /// Whether there is a new file with such a name.
    fn is_new(&self, before: &Before, prefix: &str) -> bool {
        self.files().iter().any(|file| file.0.starts_with(prefix) && !before.files.contains(file))
    }

    /// The status, once nobody has the disk: the kernel lets go of what `io_uring` holds a moment after a killed process.
    fn status(&self) -> Value {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let status = self.world.status();
            let busy = ["running", "in-use"].contains(&status["state"].as_str().unwrap());
            if !busy {
                return status;
            }
            assert!(Instant::now() < end, "{status}");
        }
    }

    /// The state with a root.
    fn state_of(&self, root: &Value) -> usize {
        self.roots.iter().position(|known| root == known.as_str()).unwrap_or_else(|| panic!("nobody knows {root}"))
    }

    /// The bytes of the disk that are those of a state.
    fn bytes_of(&self, state: usize) -> u64 {
        let disk = fs::read(&self.world.disk).unwrap();
        let parts = disk.chunks(PART).zip(self.contents[state].chunks(PART));
        parts.filter(|(found, wanted)| found == wanted).count() as u64 * PART as u64
    }

    /// The states of all points, oldest first.
    fn chain(&self) -> Vec<usize> {
        self.world.list()["points"].as_array().unwrap().iter().map(|point| self.state_of(&point["root"])).collect()
    }

    /// The number of the point that has a state.
    fn id_of(&self, state: usize) -> u64 {
        let list = self.world.list();
        let points = list["points"].as_array().unwrap();
        points.iter().find(|point| self.state_of(&point["root"]) == state).unwrap()["id"].as_u64().unwrap()
    }

    /// The phase of a program that was hit the least, of those that it has to be hit in.
    fn aim(&self, name: &'static str) -> Phase {
        let (_, phases) = AIMS.iter().find(|(known, _)| *known == name).unwrap();
        *phases.iter().min_by_key(|phase| self.hits[&(name, **phase)]).unwrap()
    }

    /// Starts a program, and kills it a moment after it has come to where it is to be hit, unless it has ended. Returns where it was.
    fn kill(&mut self, name: &'static str, call: &Program, feed: Option<&[u8]>) -> Phase {
        let (aim, before) = (self.aim(name), self.before());
        let moments = if aim == Phase::Looking { [0, 10, 30, 60, 90, 120] } else { [0, 0, 1, 3, 9, 27] };
        let moment = Duration::from_millis(moments[self.dice.below(moments.len())]);
        let mut running = call.start();
        let mut stdin = running.stdin();
        let half = aim == Phase::Storing;
        thread::scope(|scope| {
            let feeder = scope.spawn(move || {
                // The pipe breaks when the reader is gone.
                let bytes = feed.unwrap_or_default();
                let _ = stdin.write_all(if half { &bytes[..bytes.len() / 2] } else { bytes });
                // Where more is to come, it stays open.
                half.then_some(stdin)
            });
            running.wait_until(|| self.is_there(aim, &before));
            thread::sleep(moment);
            if running.is_running() {
                running.signal("KILL");
            }
            let _ = running.finish();
            drop(feeder.join());
        });
        self.kills += 1;
        let phase = self.phase(name, &before);
        *self.hits.entry((name, phase)).or_default() += 1;
        phase
    }

    /// Whether there is a sign of this phase.
    fn is_there(&self, aim: Phase, before: &Before) -> bool {
        match aim {
            Phase::Looking => true,
            Phase::Storing => self.is_new(before, "spool-"),
            Phase::Recording | Phase::Merging => self.is_new(before, "link-"),
            Phase::Copying => self.partial().is_some(),
            Phase::Begun | Phase::Writing | Phase::Settling | Phase::Ended => self.written() != before.written,
        }
    }

    /// What an export that was killed has left.
    fn partial(&self) -> Option<PathBuf> {
        let names = names_in(self.world.place.root()).into_iter();
        names.filter(|name| name.ends_with(".partial")).map(|name| self.world.place.path(&name)).next()
    }

    /// Where a program was, as the files tell.
    fn phase(&self, name: &str, before: &Before) -> Phase {
        let status = self.status();
        let under_way = status["under_way"].as_str();
        assert_eq!(status["state"], if under_way.is_some() { "interrupted" } else { "at-rest" }, "{status}");
        if status["present"].is_null() {
            // The first apply did not come as far as to say what the disk held before.
            assert_eq!(under_way, None, "{status}");
        } else {
            let can_undo = under_way.is_some() || status["present"] != status["committed"];
            assert_eq!(status["can_resume"], under_way.is_some(), "{status}");
            assert_eq!(status["can_undo"], can_undo, "{status}");
        }
        if under_way.is_some() {
            let (old, new) = self.step();
            let writing = match (self.bytes_of(old), self.bytes_of(new)) {
                (SIZE_BYTES, 0) if self.is_new(before, "link-") => Phase::Recording,
                (SIZE_BYTES, 0) => Phase::Begun,
                (0, SIZE_BYTES) => Phase::Settling,
                _ => Phase::Writing,
            };
            // Who finishes what others began looks at all of it before it writes.
            let untouched = self.written() == before.written;
            return if untouched && ["resume", "undo"].contains(&name) { Phase::Looking } else { writing };
        }
        let present = status["root"].as_str().map(|_| self.state_of(&status["root"]));
        if let Some(present) = present {
            assert_eq!(self.bytes_of(present), SIZE_BYTES, "the disk is not at state {present}");
        }
        match name {
            "point export" if self.partial().is_some() => Phase::Copying,
            "point prune" if self.is_new(before, "link-") && self.chain().len() == 3 => Phase::Merging,
            _ if self.written() != before.written => Phase::Ended,
            _ if self.is_new(before, "link-") => Phase::Recording,
            _ if self.is_new(before, "spool-") => Phase::Storing,
            _ => Phase::Looking,
        }
    }

    /// The states between which the disk is: that of the present point, and the next one on the way.
    fn step(&self) -> (usize, usize) {
        let (status, chain) = (self.status(), self.chain());
        let present = self.present(&status);
        let goal = self.state_of(&status["result_root"]);
        let place = chain.iter().position(|state| *state == present).unwrap();
        let next = match (status["under_way"].as_str().unwrap(), chain.iter().position(|state| *state == goal)) {
            ("apply", _) => goal,
            (_, Some(to)) if to < place => chain[place - 1],
            (_, Some(to)) if to > place => chain[place + 1],
            other => panic!("nothing leads from {present} to {goal}: {other:?}"),
        };
        (present, next)
    }

    /// The state of the present point.
    fn present(&self, status: &Value) -> usize {
        let points = status["points"].as_array().unwrap();
        let present = points.iter().find(|point| point["present"] == true).unwrap();
        self.state_of(&present["root"])
    }

    /// Finishes what is under way, or takes it back, by turns; on the way it is killed again. What it writes is what is missing, and
    /// no more than a batch again.
    fn finish(&mut self) {
        for round in 0.. {
            let status = self.status();
            let Some(under_way) = status["under_way"].as_str() else { return };
            let name = if self.finished.is_multiple_of(2) { "resume" } else { "undo" };
            let call = self.world.call(name, "--yes");
            if round < 2 {
                self.kill(name, &call, None);
                continue;
            }
            self.finished += 1;
            let (old, new) = self.step();
            let (goal, from) = match (name, under_way) {
                ("undo", "apply") => (old, old),
                ("undo", "rollback") => (self.state_of(&status["base_root"]), old),
                _ => (self.state_of(&status["result_root"]), new),
            };
            // The rest of this step, and all further ones.
            let chain = self.chain();
            let place = |state: usize| chain.iter().position(|known| *known == state).unwrap_or(chain.len());
            let missing = SIZE_BYTES - self.bytes_of(from) + (place(from).abs_diff(place(goal)) * SIZE) as u64;
            let report = call.json();
            self.is_exactly_at(goal);
            let written = report["bytes_written"].as_u64().unwrap();
            let again =
                written.checked_sub(missing).unwrap_or_else(|| panic!("{missing} bytes were missing: {report}"));
            assert!(again <= BATCH, "{again} bytes were written again: {report}");
            self.again = self.again.max(again);
        }
    }

    /// Fails unless the disk is at rest at a point with this state, and nothing is left over.
    #[track_caller]
    fn is_exactly_at(&self, state: usize) {
        let status = self.status();
        assert_eq!((&status["state"], &status["under_way"]), (&"at-rest".into(), &Value::Null), "{status}");
        assert_eq!(self.state_of(&status["root"]), state);
        self.world.is_at(state);
        self.world.has_links(self.chain().len() - 1);
    }

    /// Kills a program that brings the disk to a state until it has done so, or as often as is reasonable; then it may.
    fn bring(&mut self, name: &'static str, call: &Program, feed: Option<&[u8]>, goal: usize) {
        for _ in 0..3 {
            self.kill(name, call, feed);
            self.finish();
            let status = self.status();
            if !status["present"].is_null() && self.present(&status) == goal {
                return;
            }
        }
        match feed {
            Some(bytes) => Program::clone(call).fed(bytes.to_vec()).done(),
            None => call.done(),
        };
        self.is_exactly_at(goal);
    }

    fn rollback(&mut self, goal: usize) {
        let call = self.world.call("point rollback", &format!("{} --yes", self.id_of(goal)));
        self.bring("point rollback", &call, None, goal);
    }

    /// The oldest point, copied while the disk is elsewhere.
    fn export(&mut self) {
        let output = self.world.place.path("out.img");
        let call = self.world.call("point export", &self.id_of(0).to_string()).arg("-o").arg(&output);
        for _ in 0..2 {
            self.kill("point export", &call, None);
            // It bears no name that anybody could take for a copy.
            if let Some(partial) = self.partial() {
                assert!(!output.exists());
                fs::remove_file(partial).unwrap();
            }
            let _ = fs::remove_file(&output);
        }
        call.done();
        self.world.is_state(&output, 0);
        fs::remove_file(output).unwrap();
    }

    /// The point in the middle is taken out.
    fn merge(&mut self) {
        let call = self.world.call("point prune", &format!("{} --yes", self.id_of(1)));
        for _ in 0..3 {
            self.kill("point prune", &call, None);
            if self.chain().len() == 2 {
                return;
            }
            self.world.all_are_right();
        }
        call.done();
        self.is_exactly_at(2);
    }

    /// There, back and forth, and away with all of it.
    fn round(&mut self, merging: bool) {
        let first = self.world.apply(0);
        self.bring("apply", &first, None, 1);
        let second = self.world.apply_of("-");
        let delta = fs::read(&self.world.deltas[1]).unwrap();
        self.bring("apply -", &second, Some(&delta), 2);
        if merging {
            self.merge();
            self.rollback(0);
        } else {
            self.rollback(0);
            self.rollback(2);
            self.export();
        }
        if self.present(&self.status()) != 0 {
            self.kill("undo all", &self.world.call("undo", "--yes"), None);
            self.finish();
        }
        if self.present(&self.status()) != 0 {
            self.world.call("undo", "--yes").done();
        }
        // What is newer than the committed point goes with an undo, and else with a commit.
        self.world.call("commit", "--yes").done();
        self.is_exactly_at(0);
        assert_eq!(self.chain(), [0]);
    }

    /// As many rounds as it takes.
    fn rounds(&mut self, kills: usize) {
        let start = Instant::now();
        for round in 0..30 {
            self.round(round % 2 == 1);
            let hit = |name: &'static str, phase: Phase| self.hits[&(name, phase)] >= HITS;
            if self.kills >= kills && AIMS.iter().all(|(name, phases)| phases.iter().all(|phase| hit(name, *phase))) {
                break;
            }
        }
        println!(
            "{} kills in {:.0?}, {} bytes written again at most: {:?}",
            self.kills,
            start.elapsed(),
            self.again,
            self.hits
        );
        assert!(self.kills >= kills, "{} kills", self.kills);
        for (name, phases) in AIMS {
            for phase in phases {
                assert!(self.hits[&(name, *phase)] >= HITS, "{name} was never where it should be hit: {phase:?}");
            }
        }
    }
}

#[test]
fn slow_killed_on_an_image() {
    Walk::new(Kind::Raw).rounds(60);
}

#[test]
fn slow_killed_on_a_device() {
    if has_devices() {
        Walk::new(Kind::Device).rounds(50);
    }
}
