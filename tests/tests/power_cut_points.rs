//! Power cuts while a disk goes from one recovery point to another, on a real file system and a block device: the disk is at a
//! point or on its way, the program says which, and goes on or back from there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use failback_tests::failback;
use failback_tests::lab::power::{CrashState, Limits, PowerLab, has_power_lab};
use failback_tests::lab::{Place, Program, changed, is_inside, noise, root_of_file, run_inside, tool};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SIZE: usize = 4 << 20;
const RETENTION: u64 = 32 << 20;

/// A disk, its contents one after the other, and a retention drive.
struct Scene {
    lab: PowerLab,
    place: Place,
    /// From each content to the next.
    deltas: Vec<PathBuf>,
    /// Of each content: a point's number is its place here.
    roots: Vec<String>,
    /// Whether free space counts.
    whole: bool,
    target: PathBuf,
    points: PathBuf,
    state: PathBuf,
}

/// Where the disk is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// At a point.
    At(usize),
    /// On its way, next to the point `by`.
    UnderWay {
        by: usize,
        /// Where a resume leads, and where an undo leads.
        ways: (usize, usize),
        /// Whether it holds no content as a whole.
        partly: bool,
    },
}

/// Something that takes the disk from a point to another, and loses its power.
struct Journey {
    program: Program,
    /// How the status calls it while it is under way.
    name: &'static str,
    /// Where it begins; none if it was under way before.
    from: Option<usize>,
    to: usize,
    /// Where a resume may lead then, and an undo.
    ways: Vec<(usize, usize)>,
    /// The number of the delta that is being applied, if it lies in a file: a resume may be told of it, and to apply it again is one.
    applies: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    On,
    Back,
}

/// What was seen in crash states.
#[derive(Debug, Default)]
struct Seen {
    looked_at: u64,
    under_way: u64,
    /// The seeds of those in the middle of writing, and the point that the disk was next to.
    partly: Vec<(u64, usize)>,
    recovered: u64,
}

impl Scene {
    /// A disk of noise that is at the point of this number, and a content beyond it.
    fn of_noise(at: usize) -> Self {
        let place = Place::new();
        let mut contents = vec![noise(SIZE, 1)];
        for seed in 2..at as u64 + 3 {
            contents.push(changed(&contents[contents.len() - 1], SIZE, seed));
        }
        let contents: Vec<_> =
            contents.iter().enumerate().map(|(n, bytes)| place.file(&format!("{n}.img"), bytes)).collect();
        Self::new(place, &contents, at, true)
    }

    /// A small file system, and another state of it: most of it is free space, which does not count.
    fn of_ext4() -> Self {
        let place = Place::new();
        let old = place.noisy("0.img", 2 * SIZE, 1);
        let tree = place.directory("tree");
        for number in 0..100 {
            fs::write(tree.join(number.to_string()), noise(20_000, 100 + number)).unwrap();
        }
        let options = ["-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard", "-d"];
        tool("mkfs.ext4", &[&options.map(AsRef::as_ref)[..], &[tree.as_os_str(), old.as_os_str()]].concat());
        let new = place.path("1.img");
        fs::copy(&old, &new).unwrap();
        let file = place.file("new", &noise(25_000, 3));
        let removed = (0..100).step_by(2).map(|number| format!("rm {number}\n"));
        let added = (0..40).map(|number| format!("write {} new{number}\n", file.display()));
        let requests = place.file("requests", removed.chain(added).collect::<String>().as_bytes());
        tool("debugfs", &["-w".as_ref(), "-f".as_ref(), requests.as_os_str(), new.as_os_str()]);
        Self::new(place, &[old, new], 0, false)
    }

    fn new(place: Place, contents: &[PathBuf], at: usize, whole: bool) -> Self {
        let pairs = contents.windows(2).enumerate();
        let deltas = pairs.map(|(n, pair)| place.delta(&format!("{n}.delta"), &pair[0], &pair[1], "4K")).collect();
        let roots = contents.iter().map(|content| root(&place, content, whole)).collect();
        let lab = PowerLab::new(fs::metadata(&contents[0]).unwrap().len(), RETENTION);
        let (target, retention) = (lab.disks().target().to_owned(), lab.disks().retention());
        let (points, state) = (retention.join("points"), retention.join("state"));
        let scene = Self { lab, place, deltas, roots, whole, target, points, state };
        scene.lab.prepare(|disks| {
            fs::copy(&contents[0], disks.target()).unwrap();
            fs::create_dir(&scene.points).unwrap();
            fs::create_dir(&scene.state).unwrap();
            for number in 0..at {
                scene.apply(number).json();
            }
        });
        scene
    }

    fn call(&self, words: &[&str]) -> Program {
        let call = words.iter().fold(Program::new(), Program::arg);
        call.arg(&self.target).arg("--retention").arg(&self.points)
    }

    /// Applies the delta from the point of this number.
    fn apply(&self, from: usize) -> Program {
        let call = failback!("apply", self.deltas[from], self.target, "--retention", self.points);
        call.arg("--state").arg(&self.state).arg("--yes")
    }

    fn resume(&self) -> Program {
        self.call(&["resume"]).arg("--yes")
    }

    fn undo(&self) -> Program {
        self.call(&["undo"]).arg("--yes")
    }

    fn rollback(&self, to: usize) -> Program {
        self.call(&["point", "rollback"]).arg(to.to_string()).arg("--yes")
    }

    /// The content that the disk holds.
    fn holds(&self) -> Option<usize> {
        self.number(&root(&self.place, &self.target, self.whole))
    }

    fn number(&self, root: &str) -> Option<usize> {
        self.roots.iter().position(|known| known == root)
    }

    /// Where the disk is said to be, if that is so; or what is wrong.
    fn look(&self) -> Result<Stand, String> {
        let run = self.call(&["status"]).arg("--state").arg(&self.state).arg("--json").run();
        if run.code != 0 {
            return Err(format!("there is no status: {}", run.sentence()));
        }
        let told: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
        let holds = self.holds();
        // Before the first apply is recorded there are no points, and the disk holds the first content.
        let present = usize::try_from(told["present"].as_u64().unwrap_or(0)).unwrap();
        if told["state"] == "at-rest" {
            let is_there = holds == Some(present) && told["can_resume"] != true;
            return if is_there {
                Ok(Stand::At(present))
            } else {
                Err("the disk is not where it is said to be".into())
            };
        }
        let end = |name: &str| told[name].as_str().and_then(|root| self.number(root));
        let Some(resumed) = end("result_root") else { return Err(format!("nothing is said of the result: {told}")) };
        // An undo goes on to where it goes.
        let undone = end("base_root").unwrap_or(resumed);
        if told["state"] != "interrupted" || told["can_resume"] != true || told["can_undo"] != true {
            return Err(format!("what can be done is not said: {told}"));
        }
        Ok(Stand::UnderWay { by: present, ways: (resumed, undone), partly: holds.is_none() })
    }

    /// The same of a journey: where it may have left the disk.
    fn look_after(&self, journey: &Journey, cut: &CrashState) -> Result<Stand, String> {
        let stand = self.look()?;
        match stand {
            _ if cut.is_after_the_workload() && stand != Stand::At(journey.to) => {
                Err("what was reported is lost".into())
            }
            Stand::At(point) if point != journey.to && Some(point) != journey.from => {
                Err(format!("the disk is at point {point}"))
            }
            Stand::UnderWay { ways, .. } if !journey.ways.contains(&ways) => Err(format!("it leads to {ways:?}")),
            Stand::UnderWay { .. } if self.under_way() != journey.name => Err("something else is under way".into()),
            stand => Ok(stand),
        }
    }

    fn under_way(&self) -> String {
        let told = self.call(&["point", "list"]).json();
        told["under_way"].as_str().unwrap().to_owned()
    }

    /// After every power cut the truth is told. From some of these states the way on is gone, and from the same the way back; all
    /// points are there then.
    fn is_always_right(&self, journey: &Journey, states: u64, seed: u64) -> Seen {
        let mut found = Seen::default();
        let mut stands = BTreeMap::new();
        let limits = Limits { states, time: Duration::from_secs(60), seed };
        // To look costs a fifth of going on.
        let more = Limits { states: 3 * states, ..limits };
        found.looked_at = self.lab.crash_states(more, |cut| {
            let stand = self.look_after(journey, cut).unwrap();
            stands.insert(cut.seed(), stand);
            match stand {
                Stand::At(_) => {}
                Stand::UnderWay { by, partly, .. } => {
                    found.under_way += 1;
                    found.partly.extend(partly.then_some((cut.seed(), by)));
                }
            }
        });
        for way in [Way::On, Way::Back] {
            found.recovered += self.lab.crash_states(limits, |cut| {
                let stand = self.look_after(journey, cut).unwrap();
                let before = *stands.entry(cut.seed()).or_insert(stand);
                assert_eq!(stand, before, "the same state was another one before");
                let at = match way {
                    Way::On => self.goes_on(journey, stand, cut.seed()),
                    Way::Back => self.goes_back(stand),
                };
                self.is_sound(at);
                if way == Way::On {
                    self.goes_everywhere(at);
                }
                self.is_tidy();
            });
        }
        println!(
            "{}: {} states, {} of them under way, {} of these in the middle of writing; went on or back {} times",
            journey.name,
            found.looked_at,
            found.under_way,
            found.partly.len(),
            found.recovered
        );
        found
    }

    /// Finishes what was interrupted, or does it where it had not begun. Returns where the disk is to be then.
    fn goes_on(&self, journey: &Journey, stand: Stand, seed: u64) -> usize {
        match stand {
            Stand::UnderWay { ways: (resumed, _), .. } => {
                let told = match journey.applies {
                    Some(number) if seed.is_multiple_of(3) => {
                        self.resume().arg("--delta").arg(&self.deltas[number]).json()
                    }
                    Some(number) if seed % 3 == 1 => {
                        let told = self.apply(number).json();
                        assert_eq!(told["resumed"], true, "{told}");
                        told
                    }
                    _ => self.resume().json(),
                };
                assert_eq!(told["point"], resumed, "{told}");
                resumed
            }
            Stand::At(point) if point != journey.to => {
                let told = journey.program.clone().json();
                assert_eq!(told["point"], journey.to, "{told}");
                assert_ne!(told["resumed"], true, "{told}");
                journey.to
            }
            Stand::At(_) => journey.to,
        }
    }

    /// Takes back what was interrupted, or everything. Returns where the disk is to be then.
    fn goes_back(&self, stand: Stand) -> usize {
        let to = match stand {
            Stand::At(0) => {
                self.undo().refused("recovery point");
                return 0;
            }
            Stand::At(_) => 0,
            Stand::UnderWay { ways: (_, undone), .. } => undone,
        };
        assert_eq!(self.undo().json()["point"], to);
        to
    }

    /// Nothing is under way, the disk is at this point, and every point is what its root says.
    fn is_sound(&self, at: usize) {
        assert_eq!(self.look().unwrap(), Stand::At(at));
        for point in self.listed() {
            let checked = self.call(&["verify"]).arg("--point").arg(point.to_string()).json();
            assert_eq!(checked["root"], self.roots[point], "{checked}");
        }
    }

    /// The points that there are. All can be reached.
    fn listed(&self) -> Vec<usize> {
        let told = self.call(&["point", "list"]).json();
        let points = told["points"].as_array().unwrap();
        let number = |point: &serde_json::Value| {
            assert_eq!(point["reachable"], true, "{told}");
            usize::try_from(point["id"].as_u64().unwrap()).unwrap()
        };
        points.iter().map(number).collect()
    }

    /// Every point can be gone to.
    fn goes_everywhere(&self, mut at: usize) {
        for point in self.listed().into_iter().rev() {
            if point != at {
                assert_eq!(self.rollback(point).json()["point"], point);
                assert_eq!(self.look().unwrap(), Stand::At(point));
                at = point;
            }
        }
    }

    /// Whatever changes the points next leaves nothing that no point needs.
    fn is_tidy(&self) {
        let points = self.listed();
        let Some(first) = points.first() else { return };
        self.call(&["point", "unpin"]).arg(first.to_string()).json();
        let directory = fs::read_dir(&self.points).unwrap().next().unwrap().unwrap().path();
        let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let (links, others): (Vec<_>, Vec<_>) = names.partition(|name| name.starts_with("link-"));
        let deltas =
            links.iter().filter(|name| Path::new(name).extension().is_some_and(|kind| kind == "delta")).count();
        assert_eq!((deltas, links.len()), (points.len() - 1, 2 * deltas), "{links:?}");
        let known = |name: &String| ["catalogue", "lock"].contains(&name.as_str()) || name.starts_with("tree-");
        assert!(others.iter().all(known), "{others:?}");
    }
}

/// The root of a disk: a program of others says it, unless free space does not count.
fn root(place: &Place, disk: &Path, whole: bool) -> String {
    if whole {
        return root_of_file(disk);
    }
    let signature = place.path("now.sig");
    let _ = fs::remove_file(&signature);
    let signed = failback!("sign", disk, "-o", signature, "--block-size", "4K").json();
    signed["root"].as_str().unwrap().to_owned()
}

/// Whether the test runs where it may mount; otherwise it is run there.
fn inside(test: &str) -> bool {
    if !is_inside() && has_power_lab() {
        run_inside(test);
    }
    is_inside()
}

impl Journey {
    fn apply(scene: &Scene, from: usize) -> Self {
        let (to, applies) = (from + 1, Some(from));
        Self { program: scene.apply(from), name: "apply", from: Some(from), to, ways: vec![(to, from)], applies }
    }

    /// What is left of it when it was interrupted and this is done about it.
    fn then(self, program: Program, to: usize) -> Self {
        Self { program, from: None, to, ..self }
    }
}

fn record(scene: &mut Scene, journey: &Journey) {
    scene.lab.record(|_| {
        let told = journey.program.clone().json();
        assert_eq!(told["point"], journey.to, "{told}");
    });
}

#[test]
fn slow_an_apply_goes_on_or_back_after_any_power_cut() {
    if !inside("slow_an_apply_goes_on_or_back_after_any_power_cut") {
        return;
    }
    let mut scene = Scene::of_noise(0);
    let journey = Journey::apply(&scene, 0);
    record(&mut scene, &journey);
    let seen = scene.is_always_right(&journey, 45, 1);
    assert!(!seen.partly.is_empty(), "{seen:?}");
}

/// What is stored first is what it goes on with. At its end a point goes, for there is a limit.
#[test]
fn slow_an_apply_of_a_pipe_goes_on_or_back_after_any_power_cut() {
    if !inside("slow_an_apply_of_a_pipe_goes_on_or_back_after_any_power_cut") {
        return;
    }
    let mut scene = Scene::of_noise(1);
    let piped = failback!("apply", "-", scene.target, "--retention", scene.points, "--state", scene.state, "--yes");
    let program = piped.arg("--keep-points").arg("2").fed(fs::read(&scene.deltas[1]).unwrap());
    let journey = Journey { program, applies: None, ..Journey::apply(&scene, 1) };
    record(&mut scene, &journey);
    scene.lab.prepare(|_| assert_eq!(scene.listed(), [0, 2]));
    let seen = scene.is_always_right(&journey, 40, 1000);
    assert!(!seen.partly.is_empty(), "{seen:?}");
}

/// Free space is neither carried nor kept.
#[test]
fn slow_an_apply_to_a_file_system_goes_on_or_back_after_any_power_cut() {
    if !inside("slow_an_apply_to_a_file_system_goes_on_or_back_after_any_power_cut") {
        return;
    }
    let mut scene = Scene::of_ext4();
    let journey = Journey::apply(&scene, 0);
    record(&mut scene, &journey);
    let seen = scene.is_always_right(&journey, 50, 2000);
    assert!(!seen.partly.is_empty(), "{seen:?}");
}

#[test]
fn slow_a_rollback_goes_on_or_back_after_any_power_cut() {
    if !inside("slow_a_rollback_goes_on_or_back_after_any_power_cut") {
        return;
    }
    let mut scene = Scene::of_noise(2);
    let journey = Journey {
        program: scene.rollback(0),
        name: "rollback",
        from: Some(2),
        to: 0,
        ways: vec![(0, 2)],
        applies: None,
    };
    record(&mut scene, &journey);
    let seen = scene.is_always_right(&journey, 30, 3000);
    assert!(seen.partly.iter().any(|(_, by)| *by == 2) && seen.partly.iter().any(|(_, by)| *by == 1), "{seen:?}");
    // To take it back is a rollback too, the other way.
    let (cut, _) = *seen.partly.iter().find(|(_, by)| *by == 1).unwrap();
    scene.lab.continue_from(cut);
    let back = Journey { ways: vec![(0, 2), (2, 1)], ..journey }.then(scene.undo(), 2);
    record(&mut scene, &back);
    let seen = scene.is_always_right(&back, 15, 3500);
    assert!(!seen.partly.is_empty(), "{seen:?}");
}

#[test]
fn slow_an_undo_goes_on_after_any_power_cut() {
    if !inside("slow_an_undo_goes_on_after_any_power_cut") {
        return;
    }
    let mut scene = Scene::of_noise(2);
    let journey =
        Journey { program: scene.undo(), name: "undo", from: Some(2), to: 0, ways: vec![(0, 0)], applies: None };
    record(&mut scene, &journey);
    let seen = scene.is_always_right(&journey, 40, 4000);
    assert!(seen.partly.iter().any(|(_, by)| *by == 2) && seen.partly.iter().any(|(_, by)| *by == 1), "{seen:?}");
}

/// What goes on or back after a power cut loses its power as well, and what is done then once more.
#[test]
fn slow_a_recovery_goes_on_or_back_after_any_power_cut() {
    if !inside("slow_a_recovery_goes_on_or_back_after_any_power_cut") {
        return;
    }
    let mut scene = Scene::of_noise(0);
    let apply = Journey::apply(&scene, 0);
    record(&mut scene, &apply);
    let first = scene.is_always_right(&apply, 15, 5000);
    scene.lab.continue_from(first.partly.last().unwrap().0);
    let resume = apply.then(scene.resume(), 1);
    record(&mut scene, &resume);
    let second = scene.is_always_right(&resume, 15, 6000);
    scene.lab.continue_from(second.partly.last().unwrap().0);
    let undo = resume.then(scene.undo(), 0);
    record(&mut scene, &undo);
    let third = scene.is_always_right(&undo, 15, 7000);
    assert!(!third.partly.is_empty(), "{third:?}");
}

/// Points are removed one after the other, and the disk is not touched.
#[test]
fn slow_points_are_removed_one_by_one_whenever_the_power_goes() {
    if !inside("slow_points_are_removed_one_by_one_whenever_the_power_goes") {
        return;
    }
    let mut scene = Scene::of_noise(3);
    // The committed point is never dropped: it is to be the newest one, and a pin keeps the older ones meanwhile.
    scene.lab.prepare(|_| {
        scene.call(&["point", "pin"]).arg("0").json();
        scene.call(&["commit"]).arg("--yes").json();
        scene.call(&["point", "unpin"]).arg("0").json();
        assert_eq!(scene.listed(), [0, 1, 2, 3]);
    });
    let merge = scene.call(&["point", "prune"]).arg("1").arg("--yes");
    let drop = scene.call(&["point", "prune"]).arg("0").arg("--yes");
    let commit = scene.call(&["commit"]).arg("--yes");
    scene.lab.record(|_| {
        for program in [merge, drop, commit] {
            program.json();
        }
    });
    let mut seen = BTreeMap::new();
    let limits = Limits { states: 80, time: Duration::from_secs(60), seed: 8000 };
    scene.lab.crash_states(limits, |cut| {
        let points = scene.listed();
        let is_known = [&[0, 1, 2, 3][..], &[0, 2, 3], &[2, 3], &[3]].contains(&points.as_slice());
        assert!(is_known && (!cut.is_after_the_workload() || points == [3]), "{points:?}");
        scene.is_sound(3);
        scene.goes_everywhere(3);
        scene.is_tidy();
        *seen.entry(points).or_insert(0) += 1;
    });
    println!("{seen:?}");
    assert_eq!(seen.len(), 4, "{seen:?}");
}

/// What the tests above can see: the same program on a kernel that forgets the flushes of files, and of devices too, is caught.
#[test]
fn slow_an_apply_without_flushes_is_caught_with_its_points() {
    if !inside("slow_an_apply_without_flushes_is_caught_with_its_points") {
        return;
    }
    // io_uring flushes the target without a call that could be taken away: then the retention drive is what is not flushed.
    for engine in ["io_uring", "blocking"] {
        let mut scene = Scene::of_noise(0);
        let journey = Journey::apply(&scene, 0);
        let apply = journey.program.clone().arg("--engine").arg(engine).arg("--json");
        scene.lab.record(|_| {
            let run = apply.run_without_flushes();
            assert_eq!(run.code, 0, "{}", run.stderr);
        });
        let mut wrong = BTreeMap::new();
        scene.lab.crash_states(Limits { states: 60, time: Duration::from_secs(25), seed: 9000 }, |cut| {
            if let Err(why) = scene.look_after(&journey, cut) {
                *wrong.entry(why).or_insert(0) += 1;
            }
        });
        println!("{engine}: {wrong:?}");
        assert!(wrong.contains_key("what was reported is lost"), "{engine}: {wrong:?}");
        assert!(wrong.contains_key("the disk is not where it is said to be"), "{engine}: {wrong:?}");
    }
}
