//! From a source to a master target's disk, both as programs: what the target has afterwards.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::{Place, Program, noise, program, root_of_file};
use std::fs;
use std::path::PathBuf;

const MIB: usize = 1 << 20;

/// A source, and a master target with a pair for it.
struct Site {
    place: Place,
    source: PathBuf,
    target: PathBuf,
}

impl Site {
    fn new() -> Self {
        let place = Place::new();
        let source = place.noisy("source.img", 8 * MIB, 1);
        let target = place.path("target.vmdk");
        failback!("vmdk", "create", target, "--size", "8M").done();
        let (state, retention) = (place.path("state"), place.directory("retention"));
        let pair = failback!("pair", "add", "web-01", "--source", source, "--target", target, "--new-disk");
        pair.arg("--state").arg(state).arg("--retention").arg(retention).done();
        Self { place, source, target }
    }

    fn send(&self) -> Program {
        let to =
            format!("exec:'{}' serve --stdio --state '{}'", program().display(), self.place.path("state").display());
        let journal = self.place.path("journal");
        failback!("send", self.source, "--to", to, "--pair", "web-01", "--journal", journal)
    }

    #[track_caller]
    fn is_home(&self) {
        failback!("verify", self.target, "--root", root_of_file(&self.source)).done();
    }

    fn points(&self) -> Vec<String> {
        let listed = failback!("point", "list", self.target, "--retention", self.place.path("retention")).json();
        let points = listed["points"].as_array().unwrap();
        points.iter().map(|point| point["root"].as_str().unwrap().to_owned()).collect()
    }

    /// What the target says of the sessions that it had: how each ended, the newest first.
    fn jobs(&self) -> String {
        String::from_utf8(failback!("jobs", "--state", self.place.path("state")).done()).unwrap()
    }
}

#[test]
fn each_pass_makes_a_recovery_point() {
    let site = Site::new();
    let first = site.send().json();
    site.is_home();
    fs::write(&site.source, [noise(4 * MIB, 1), noise(4 * MIB, 2)].concat()).unwrap();
    let second = site.send().args("--final").json();
    site.is_home();
    assert_eq!(second.as_array().unwrap().len(), 2, "{second}");
    let points = site.points();
    assert!(points.contains(&first[0]["root"].as_str().unwrap().to_owned()), "{points:?}");
    assert_eq!(points.last().map(String::as_str), second[1]["root"].as_str());
    // And what came can be taken back.
    failback!("undo", site.target, "--retention", site.place.path("retention"), "--yes").done();
    let empty = failback_tests::lab::hash(&vec![0; 8 * MIB]);
    failback!("verify", site.target, "--root", empty).done();
}

/// A source that has its answer leaves the target the time to write down how the session ended.
#[test]
fn a_session_that_went_well_ends_well() {
    let site = Site::new();
    for _ in 0..3 {
        site.send().done();
    }
    let jobs = site.jobs();
    assert!(!jobs.contains("interrupted") && !jobs.contains("running"), "{jobs}");
    assert_eq!(jobs.matches("web-01").count(), 3, "{jobs}");
}

#[test]
fn a_source_of_another_pair_is_refused() {
    let site = Site::new();
    let other = site.place.noisy("other.img", 8 * MIB, 3);
    let to = format!("exec:'{}' serve --stdio --state '{}'", program().display(), site.place.path("state").display());
    let journal = site.place.path("journal");
    let said =
        failback!("send", other, "--to", to, "--pair", "web-01", "--journal", journal).refused("the other side says: ");
    assert!(said.contains("other.img"), "{said}");
    assert_eq!(site.points().len(), 0, "{said}");
}

#[test]
fn a_killed_source_goes_on() {
    let site = Site::new();
    let retention = site.place.path("retention");
    let spooled =
        || files_of(&retention).iter().filter_map(|path| fs::metadata(path).ok()).map(|about| about.len()).max();
    let mut running = site.send().args("--limit 2M").start();
    assert!(running.wait_until(|| spooled().is_some_and(|len| len > 3 << 20)));
    running.signal("KILL");
    running.finish();
    let report = site.send().json();
    assert_eq!(report[0]["went_on"], true, "{report}");
    // At least two whole frames had arrived.
    assert!(report[0]["bytes_sent"].as_u64().unwrap() < 13 << 19, "{report}");
    site.is_home();
}

fn files_of(directory: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files_of(&path)) } else { found.push(path) }
    }
    found
}
