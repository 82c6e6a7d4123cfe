//! Power cuts under the program, on a real file system and a block device: whatever it left behind, the same command finishes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::power::{CrashState, Limits, PowerLab, has_power_lab};
use failback_tests::lab::{Place, Program, changed, hash, is_inside, noise, root_of_file, run_inside};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const SIZE: usize = 8 << 20;

/// A target at the base of a delta, and a retention drive for the record of what is done to it.
struct Scene {
    lab: PowerLab,
    /// Holds the delta.
    _place: Place,
    base: String,
    result: String,
    delta: PathBuf,
    target: PathBuf,
    state: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let place = Place::new();
        let base = noise(SIZE, 1);
        let result = changed(&base, SIZE, 2);
        let delta = place.delta("d", &place.file("base.img", &base), &place.file("result.img", &result), "4K");
        let lab = PowerLab::new(SIZE as u64, 32 << 20);
        let (target, state) = (lab.disks().target().to_owned(), lab.disks().retention().join("state"));
        lab.prepare(|disks| {
            fs::write(disks.target(), &base).unwrap();
            fs::create_dir(&state).unwrap();
        });
        Self { lab, _place: place, base: hash(&base), result: hash(&result), delta, target, state }
    }

    fn apply(&self) -> Program {
        failback!("apply", self.delta, self.target, "--no-undo", "--yes", "--state", self.state)
    }

    fn status(&self) -> String {
        let told = failback!("status", self.target, "--state", self.state).json();
        told["state"].as_str().unwrap().to_owned()
    }

    /// What is said of the target after a power cut, and whether it holds neither base nor result; or why what is said is wrong.
    fn look(&self, cut: &CrashState) -> Result<(String, bool), String> {
        let (status, root) = (self.status(), root_of_file(&self.target));
        let partly = root != self.base && root != self.result;
        match status.as_str() {
            "at-rest" if cut.is_after_the_workload() && root != self.result => Err("what was reported is lost".into()),
            "at-rest" if partly => Err("a part of the change is on the disk, and no record says so".into()),
            "interrupted" if cut.is_after_the_workload() => Err("the record is still there".into()),
            "at-rest" | "interrupted" => Ok((status, partly)),
            _ => Err(format!("the status is {status}")),
        }
    }

    /// After every power cut the truth is told, and the command finishes what an apply began that was recorded. Returns the seeds of
    /// power cuts in the middle of writing.
    fn is_always_finished(&self, limits: Limits) -> Vec<u64> {
        let (mut interrupted, mut changed) = (0, Vec::new());
        self.lab.crash_states(limits, |cut| {
            let (before, partly) = self.look(cut).unwrap();
            interrupted += u32::from(before == "interrupted");
            changed.extend(partly.then(|| cut.seed()));
            assert_eq!(self.apply().json()["resumed"], before == "interrupted");
            assert_eq!(root_of_file(&self.target), self.result);
            assert_eq!(self.status(), "at-rest");
        });
        println!("{interrupted} were interrupted, {} of them in the middle of writing", changed.len());
        assert!(!changed.is_empty(), "no power cut was one in the middle of writing");
        changed
    }
}

/// Runs the test where it may mount; `None` where that has been done.
fn scene(test: &str) -> Option<Scene> {
    if is_inside() {
        return Some(Scene::new());
    }
    if has_power_lab() {
        run_inside(test);
    }
    None
}

#[test]
fn slow_an_apply_is_finished_after_any_power_cut() {
    let Some(mut scene) = scene("slow_an_apply_is_finished_after_any_power_cut") else { return };
    let apply = scene.apply();
    scene.lab.record(|_| {
        apply.json();
    });
    scene.is_always_finished(Limits { states: 200, time: Duration::from_secs(60), seed: 1 });
}

/// Who reads a pipe does not know where it leads when it begins to write.
#[test]
fn slow_an_apply_of_a_pipe_is_finished_after_any_power_cut() {
    let Some(mut scene) = scene("slow_an_apply_of_a_pipe_is_finished_after_any_power_cut") else { return };
    let apply = failback!("apply", "-", scene.target, "--no-undo", "--yes", "--state", scene.state);
    let apply = apply.fed(fs::read(&scene.delta).unwrap());
    scene.lab.record(|_| {
        apply.json();
    });
    scene.is_always_finished(Limits { states: 100, time: Duration::from_secs(40), seed: 1000 });
}

/// The apply that finishes an interrupted one loses its power as well.
#[test]
fn slow_an_apply_is_finished_after_a_second_power_cut() {
    let Some(mut scene) = scene("slow_an_apply_is_finished_after_a_second_power_cut") else { return };
    let apply = scene.apply();
    scene.lab.record(|_| {
        apply.json();
    });
    let limits = |states, seed| Limits { states, time: Duration::from_secs(25), seed };
    let cuts = scene.is_always_finished(limits(30, 3000));
    scene.lab.continue_from(*cuts.last().unwrap());
    let again = scene.apply();
    scene.lab.record(|_| assert_eq!(again.json()["resumed"], true));
    scene.is_always_finished(limits(100, 4000));
}

/// What the tests above can see: the same program on a kernel that forgets all flushes is caught.
#[test]
fn slow_an_apply_without_flushes_is_caught() {
    let Some(mut scene) = scene("slow_an_apply_without_flushes_is_caught") else { return };
    let apply = scene.apply().arg("--engine").arg("blocking");
    scene.lab.record(|_| {
        let run = apply.run_without_flushes();
        assert_eq!(run.code, 0, "{}", run.stderr);
    });
    let mut wrong = BTreeMap::new();
    scene.lab.crash_states(Limits { states: 100, time: Duration::from_secs(40), seed: 2000 }, |cut| {
        if let Err(why) = scene.look(cut) {
            *wrong.entry(why).or_insert(0) += 1;
        }
    });
    println!("{wrong:?}");
    assert!(wrong.contains_key("what was reported is lost"), "{wrong:?}");
    assert!(wrong.contains_key("a part of the change is on the disk, and no record says so"), "{wrong:?}");
}
