//! Protection groups: all of their disks come home at one moment, or none.

use crate::site::{Daemon, MIB, Site, wait_for};
use failback_tests::failback;
use failback_tests::lab::{Dice, Program, Run, Running, noise};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

const SIZE: usize = 4 * MIB;
const PAIRS: [&str; 2] = ["db", "web"];

/// A site whose two pairs are a group, and a daemon.
fn shop() -> (Site, Daemon) {
    let site = Site::new();
    let daemon = site.serve();
    for name in PAIRS {
        site.pair(name, SIZE, None);
    }
    site.on_site(failback!("group", "add", "shop", "db", "web", "--quiesce", "20s")).done();
    (site, daemon)
}

/// A hook of one of the sources, which notes in a common log that it ran.
fn hook(site: &Site, pair: &str, name: &str, script: &str) {
    let directory = site.place.path(&format!("hooks-{pair}"));
    let _ = fs::create_dir(&directory);
    let log = site.place.path("hooks.log");
    let text = format!(
        "#!/bin/sh\nset -eu\necho \"{pair} $FAILBACK_HOOK $FAILBACK_GROUP\" >> '{}'\n{script}\n",
        log.display()
    );
    fs::write(directory.join(name), text).unwrap();
    fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o755)).unwrap();
}

/// The last passes that `send` makes, together.
fn last(site: &Site, pair: &str) -> Program {
    let socket = format!("unix:{}", site.place.path("site/data.sock").display());
    let program = site.send(pair, &socket).args("--final --group shop --threads 1");
    let hooks = site.place.path(&format!("hooks-{pair}"));
    if hooks.exists() { program.arg("--hooks").arg(hooks) } else { program }
}

fn change(site: &Site, seed: u64) {
    for (number, name) in (0_u64..).zip(PAIRS) {
        site.write(name, 40_960 * (seed % 50), &noise(100_000, 100 + 2 * seed + number));
    }
}

/// All sources at once.
fn together(site: &Site) -> [Run; 2] {
    PAIRS.map(|name| last(site, name).start()).map(Running::finish)
}

/// Lets a hook change the disks after the live passes, so that the last ones take time.
fn bring_news(site: &Site) {
    for (number, name) in (0_u64..).zip(PAIRS) {
        let news = site.place.file(&format!("{name}.news"), &noise(2 * MIB, 70 + number));
        let (news, source) = (news.display(), site.source(name));
        let write = format!("dd if='{news}' of='{}' bs=64K conv=notrunc status=none", source.display());
        hook(site, name, "before-final", &write);
    }
}

#[track_caller]
fn all_are_home(site: &Site) {
    for name in PAIRS {
        site.is_home(name);
    }
}

fn marks(site: &Site) -> Vec<Value> {
    site.on_site(failback!("group", "show", "shop")).json()["marks"].as_array().unwrap().clone()
}

fn states(site: &Site) -> Vec<String> {
    marks(site).iter().map(|mark| mark["state"].as_str().unwrap().to_owned()).collect()
}

/// The times of the points of a pair, the oldest first.
fn points(site: &Site, name: &str) -> Vec<Value> {
    let retention = site.place.path("retention");
    let found = failback!("point", "list", site.vmdk(name), "--retention", retention).run();
    if found.code != 0 {
        return Vec::new();
    }
    let listed = failback!("point", "list", site.vmdk(name), "--retention", site.place.path("retention")).json();
    listed["points"].as_array().unwrap().clone()
}

fn is_waiting(site: &Site, pair: &str) -> bool {
    site.jobs().iter().any(|job| {
        job["pair"] == pair && job["state"] == "running" && job["phase"] == "waiting for the other pairs of the group"
    })
}

#[test]
fn disks_of_a_group_come_home_at_one_moment() {
    let (site, _daemon) = shop();
    change(&site, 1);
    for name in PAIRS {
        let (source, snapshot) = (site.source(name), site.place.path(&format!("{name}.snapshot")));
        for noting in ["quiesce", "release", "unmark"] {
            hook(&site, name, noting, "");
        }
        hook(&site, name, "mark", &format!("cp '{}' '{1}'; echo '{1}'", source.display(), snapshot.display()));
    }
    let runs = together(&site);
    assert!(runs.iter().all(|run| run.code == 0), "{runs:?}");
    all_are_home(&site);
    // All were at rest before anybody took a mark, and had their marks before anybody went on.
    let log = fs::read_to_string(site.place.path("hooks.log")).unwrap();
    let in_group: Vec<_> = log.lines().filter_map(|line| line.strip_suffix(" shop")).collect();
    let place = |what: &str| {
        let places = (0..in_group.len()).filter(|at| in_group[*at].ends_with(what));
        places.collect::<Vec<_>>()
    };
    let (quiesced, marked, released) = (place(" quiesce"), place(" mark"), place(" release"));
    assert_eq!((quiesced.len(), marked.len(), released.len(), place(" unmark").len()), (2, 2, 2, 2), "{log}");
    assert!(quiesced.iter().max() < marked.iter().min() && marked.iter().max() < released.iter().min(), "{log}");
    // One point of one time for all, and it is told which.
    let [mark] = &marks(&site)[..] else { panic!() };
    assert_eq!(mark["state"], "whole");
    for (number, name) in PAIRS.into_iter().enumerate() {
        let points = points(&site, name);
        let newest = points.last().unwrap();
        assert_eq!(newest["time"], mark["time"], "{newest}");
        assert_eq!(newest["id"], mark["pairs"][number]["point"], "{mark} {newest}");
    }
    // With nothing new there is a common point all the same.
    let runs = together(&site);
    assert!(runs.iter().all(|run| run.code == 0), "{runs:?}");
    assert_eq!(states(&site), ["whole", "whole"]);
    let shown = String::from_utf8(site.on_site(failback!("group", "show", "shop")).done()).unwrap();
    assert!(shown.contains("whole: db at "), "{shown}");
}

#[test]
fn one_that_fails_or_is_late_leaves_no_mark_at_all() {
    let (site, _daemon) = shop();
    change(&site, 2);
    for name in PAIRS {
        hook(&site, name, "release", "");
        hook(&site, name, "quiesce", "");
    }
    hook(&site, "web", "quiesce", "if [ -n \"$FAILBACK_GROUP\" ]; then echo 'the shop is open' >&2; exit 1; fi");
    let [db, web] = together(&site);
    // The live passes were made; the last ones were not.
    assert!(web.code == 3 && web.stderr.contains("the shop is open"), "{web:?}");
    assert!(
        db.code == 3 && db.stderr.contains("the source of \"web\" left") && db.stderr.contains("the shop is open"),
        "{db:?}"
    );
    let log = fs::read_to_string(site.place.path("hooks.log")).unwrap();
    assert_eq!(log.lines().filter(|line| *line == "db release shop").count(), 1, "{log}");
    assert_eq!(log.lines().filter(|line| *line == "web release shop").count(), 1, "{log}");
    site.on_site(failback!("group", "remove", "shop")).done();
    site.on_site(failback!("group", "add", "shop", "db", "web", "--quiesce", "1s")).done();
    hook(&site, "web", "quiesce", "if [ -n \"$FAILBACK_GROUP\" ]; then sleep 5; fi");
    let [db, web] = together(&site);
    for run in [&db, &web] {
        assert!(run.code == 3 && run.stderr.contains("within 1 s"), "{run:?}");
    }
    assert!(states(&site).is_empty());
    for name in PAIRS {
        let kinds: Vec<_> = points(&site, name).iter().map(|point| point["kind"].clone()).collect();
        assert_eq!(kinds.iter().filter(|kind| **kind == "crash").count(), kinds.len(), "{kinds:?}");
    }
}

#[test]
fn whoever_is_alone_waits_and_whoever_is_wrong_is_refused() {
    let (site, daemon) = shop();
    let waiting = last(&site, "db").start();
    wait_for("it waits", || {
        site.on_site(failback!("group", "show", "shop")).json()["waiting"] == serde_json::json!(["db"])
    });
    waiting.signal("INT");
    let run = waiting.finish();
    assert!(run.code == 130 && run.stderr.contains("the group \"shop\" waits for \"web\""), "{run:?}");
    wait_for("it is gone", || {
        site.on_site(failback!("group", "show", "shop")).json()["waiting"] == serde_json::json!([])
    });
    site.pair("alone", SIZE, None);
    let refused = |program: Program, words: &str| {
        let run = program.run();
        // What is printed is the live pass, where there was one.
        assert!(run.code == 3 && run.stderr.contains(words), "{run:?}");
    };
    refused(last(&site, "alone"), "the pair \"alone\" is not in the group \"shop\"");
    let socket = format!("unix:{}", site.place.path("site/data.sock").display());
    refused(site.send("db", &socket).args("--final --group other"), "there is no group \"other\"");
    site.enroll(&daemon, "web");
    refused(site.send("db", &daemon.data).args("--final --group shop"), "no pair of that name for this source");
    site.send("db", &socket).args("--group shop").misused();
}

#[test]
fn none_is_applied_before_all_have_arrived() {
    let (site, _daemon) = shop();
    let runs = together(&site);
    assert!(runs.iter().all(|run| run.code == 0), "{runs:?}");
    bring_news(&site);
    let before = PAIRS.map(|name| fs::read(site.target(name)).unwrap());
    let db = last(&site, "db").start();
    // Its last pass takes seconds.
    let web = last(&site, "web").args("--limit 150K --compression off").start();
    wait_for("the first one has arrived", || is_waiting(&site, "db"));
    web.signal("KILL");
    let _ = web.finish();
    assert!(PAIRS.map(|name| fs::read(site.target(name)).unwrap()) == before, "nothing is written");
    assert_eq!(states(&site), ["marked", "whole"]);
    // It comes again, to a new mark: the one before is given up for all.
    let web = last(&site, "web").start();
    let db = db.finish();
    assert!(
        db.code == 3
            && db.stderr.contains("was given up")
            && db.stderr.contains("begin the last pass of the whole group"),
        "{db:?}"
    );
    assert!(fs::read(site.target("db")).unwrap() == before[0], "nothing is written");
    last(&site, "db").done();
    let web = web.finish();
    assert_eq!(web.code, 0, "{web:?}");
    assert_eq!(states(&site), ["whole", "given up", "whole"]);
    all_are_home(&site);
}

#[test]
fn what_was_decided_is_applied_without_its_source() {
    let (site, _daemon) = shop();
    bring_news(&site);
    let db = last(&site, "db").start();
    let web = last(&site, "web").args("--limit 150K --compression off").start();
    wait_for("the first one has arrived", || is_waiting(&site, "db"));
    db.signal("KILL");
    let _ = db.finish();
    let web = web.finish();
    assert_eq!(web.code, 0, "{web:?}");
    wait_for("it is applied", || states(&site) == ["whole"]);
    all_are_home(&site);
}

#[test]
fn a_job_that_is_cancelled_gives_the_mark_up() {
    let (site, _daemon) = shop();
    bring_news(&site);
    let db = last(&site, "db").start();
    let web = last(&site, "web").args("--limit 150K --compression off").start();
    wait_for("the first one has arrived", || is_waiting(&site, "db"));
    let jobs = site.jobs();
    let job = jobs.iter().find(|job| job["pair"] == "db" && job["state"] == "running").unwrap();
    site.on_site(failback!("jobs", "--cancel", job["id"].to_string())).done();
    let [db, web] = [db, web].map(Running::finish);
    assert!(db.code == 3 && db.stderr.contains("cancelled"), "{db:?}");
    assert!(web.code == 3 && web.stderr.contains("was given up"), "{web:?}");
    assert_eq!(states(&site), ["given up"]);
}

/// Makes the last pass of a pair, again if its meeting was broken off or its mark given up.
fn until_home(site: &Site, pair: &str) {
    for _ in 0..10 {
        let run = last(site, pair).args("--retry 60s").run();
        match run.code {
            0 => return,
            3 | 5 => {}
            _ => panic!("{pair}: {run:?}"),
        }
    }
    panic!("{pair} does not come home");
}

#[test]
fn slow_a_master_target_is_killed_while_a_group_comes_home() {
    let (site, daemon) = shop();
    let mut daemon = Some(daemon);
    let mut dice = Dice::new(11);
    let (mut landed, mut round) = (0, 0);
    let mut takes = Duration::ZERO;
    while landed < 40 {
        assert!(round < 160, "{landed} of {round} were killed before they were done");
        if round % 10 == 0 {
            // How long it takes on this machine and now, for both of them.
            change(&site, round + 1000);
            let began = Instant::now();
            assert!(together(&site).iter().all(|run| run.code == 0));
            takes = began.elapsed();
        }
        round += 1;
        change(&site, round);
        thread::scope(|scope| {
            let site = &site;
            let sending = PAIRS.map(|name| scope.spawn(move || until_home(site, name)));
            thread::sleep(takes * u32::try_from(dice.below(1000)).unwrap() / 1000);
            landed += usize::from(sending.iter().any(|sending| !sending.is_finished()));
            let killed = daemon.take().unwrap();
            killed.running.signal("KILL");
            let _ = killed.running.finish();
            daemon = Some(site.serve());
        });
        wait_for("the mark is whole", || states(&site)[0] == "whole");
        all_are_home(&site);
    }
    assert!(states(&site).iter().all(|state| state == "whole" || state == "given up"), "{:?}", states(&site));
}
