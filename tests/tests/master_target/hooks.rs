//! Programs of the administrator's around what a master target receives and applies.

use crate::site::{Daemon, MIB, Site, wait_for};
use failback_tests::failback;
use failback_tests::lab::{Dice, Run, Running, noise, program};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const SIZE: usize = 4 * MIB;
/// What a change brings.
const NEWS: usize = MIB;
const ALL: [&str; 4] = ["before-receive", "after-receive", "before-apply", "after-apply"];

/// A site with a directory of hooks, each of which notes that it ran.
fn hooked() -> Site {
    let site = Site::new();
    site.place.directory("hooks");
    for name in ALL {
        hook(&site, name, "");
    }
    site
}

/// A hook that notes that it begins, and then does something.
fn hook(site: &Site, name: &str, script: &str) {
    let (path, log) = (site.place.path("hooks").join(name), site.place.path("hooks.log"));
    let note = r#"echo "$FAILBACK_HOOK|$FAILBACK_PAIR|$FAILBACK_KIND|$FAILBACK_GROUP|${FAILBACK_OUTCOME-}|${FAILBACK_ROOT-}|${FAILBACK_ERROR-}|$FAILBACK_DISK""#;
    let new = path.with_file_name(".new");
    fs::write(&new, format!("#!/bin/sh\nset -eu\n{note} >> '{}'\n{script}\n", log.display())).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, path).unwrap();
}

/// What the hooks noted, a list of fields for each that ran.
fn noted(site: &Site) -> Vec<Vec<String>> {
    let text = fs::read_to_string(site.place.path("hooks.log")).unwrap_or_default();
    text.lines().map(|line| line.splitn(8, '|').map(str::to_owned).collect()).collect()
}

/// The names of those that ran, with the outcome that they were told, and forgets them.
fn ran(site: &Site) -> Vec<String> {
    let lines = noted(site);
    fs::write(site.place.path("hooks.log"), "").unwrap();
    lines.iter().map(|fields| format!("{} {}", fields[0], fields[4]).trim_end().to_owned()).collect()
}

fn serve(site: &Site) -> Daemon {
    serve_with(site, &[])
}

fn serve_with(site: &Site, more: &[&str]) -> Daemon {
    let hooks = site.place.path("hooks");
    let hooks = hooks.to_str().unwrap();
    let args = [&["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--hooks", hooks], more].concat();
    site.start("site", &args.iter().map(AsRef::as_ref).collect::<Vec<_>>(), "the master target is ready")
}

fn socket(site: &Site) -> String {
    format!("unix:{}", site.place.path("site/data.sock").display())
}

fn change(site: &Site, name: &str, seed: u64) {
    site.write(name, 65_536 * (seed % 40), &noise(NEWS, 1000 + seed));
}

fn send(site: &Site, name: &str) -> failback_tests::lab::Program {
    site.send(name, &socket(site)).args("--threads 1")
}

/// What a script does to show that it, or what it started, is still there: a file appears that nobody may make once the hook has ended.
fn lasting(site: &Site) -> (PathBuf, String) {
    let alive = site.place.path("alive");
    let script = format!("(sleep 9; touch '{}') & sleep 600", alive.display());
    (alive, script)
}

#[track_caller]
fn never_appears(file: &Path, began: Instant) {
    thread::sleep(Duration::from_secs(11).saturating_sub(began.elapsed()));
    assert!(!file.exists(), "what the hook started is still there");
}

/// Waits until a hook runs, and the job says so.
#[track_caller]
fn wait_for_hook(site: &Site, name: &str) {
    wait_for("the hook runs", || noted(site).iter().any(|fields| fields[0] == name));
    let is_told = || site.jobs().iter().any(|job| job["state"] == "running" && job["phase"] == "running a hook");
    wait_for("the job says that it runs", is_told);
}

fn cancel(site: &Site) {
    let jobs = site.jobs();
    let job = jobs.iter().find(|job| job["state"] == "running").unwrap();
    site.on_site(failback!("jobs", "--cancel", job["id"].to_string())).done();
}

fn warnings(site: &Site) -> Vec<String> {
    let lines = site.log();
    let warnings = lines.iter().filter(|line| line["level"] == "WARN");
    warnings.map(|line| line["message"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn hooks_run_around_a_pass_and_are_told_of_it() {
    let site = hooked();
    let _daemon = serve(&site);
    let found = "hooks that run here: after-apply, after-receive, before-apply, before-receive";
    assert!(site.log().iter().any(|line| line["message"] == found), "{:?}", site.log());
    site.pair("data", SIZE, None);
    change(&site, "data", 1);
    let report = send(&site, "data").json();
    site.is_home("data");
    let root = report[0]["root"].as_str().unwrap().to_owned();
    let noted_then = noted(&site);
    let disk = site.vmdk("data").to_str().unwrap().to_owned();
    let told = |hook: &str, kind: &str, outcome: &str, root: &str| {
        [hook, "data", kind, "", outcome, root, "", &disk].map(str::to_owned).to_vec()
    };
    wait_for("the session is over", || noted(&site).len() == 4);
    assert_eq!(noted_then[..3], noted(&site)[..3], "after-apply has run when the source is told");
    assert_eq!(
        noted(&site),
        [
            told("before-receive", "crash", "", ""),
            told("before-apply", "crash", "", ""),
            told("after-apply", "crash", "done", &root),
            told("after-receive", "crash", "done", &root),
        ]
    );
    // Where there is nothing new, nothing is applied.
    ran(&site);
    send(&site, "data").done();
    wait_for("the session is over", || noted(&site).len() == 2);
    assert_eq!(ran(&site), ["before-receive", "after-receive done"]);
    // A hook that tells of something, and fails, is told of itself.
    change(&site, "data", 2);
    hook(&site, "after-apply", "echo 'nobody listens' >&2; exit 7");
    hook(&site, "after-receive", "exit 8");
    let report = send(&site, "data").arg("--fuzzy").json();
    site.is_home("data");
    wait_for("both are told", || warnings(&site).len() == 2);
    let said = warnings(&site);
    assert!(said[0].contains("the hook after-apply failed (exit status: 7): nobody listens"), "{said:?}");
    assert!(said[1].contains("the hook after-receive failed (exit status: 8)"), "{said:?}");
    wait_for("its job is done", || site.jobs()[0]["state"] == "done");
    assert_eq!(noted(&site)[2][2], report[0]["kind"].as_str().unwrap());
}

#[test]
fn what_is_no_hook_is_refused_at_the_start() {
    let site = hooked();
    let hooks = site.place.path("hooks");
    let refused = |words: &str| {
        let serve = failback!("serve", "--local", "--hooks", &hooks);
        site.on_site(serve).refused(words);
        site.on_site(failback!("serve", "--stdio", "--hooks", &hooks)).fed(Vec::new()).refused(words);
    };
    fs::write(hooks.join("before_apply"), "").unwrap();
    refused("is no hook: call it one of before-receive, after-receive, before-apply, after-apply,");
    fs::rename(hooks.join("before_apply"), hooks.join("before-pass")).unwrap();
    refused("before-pass is no hook");
    fs::remove_file(hooks.join("before-pass")).unwrap();
    fs::set_permissions(hooks.join("after-apply"), fs::Permissions::from_mode(0o644)).unwrap();
    refused("cannot be run: chmod +x");
    fs::set_permissions(hooks.join("after-apply"), fs::Permissions::from_mode(0o777)).unwrap();
    refused("others can write to");
    failback!("relay", "--to", "example.com", "--pair", "a=b", "--hooks", &hooks).misused();
}

#[test]
fn before_receive_refuses_an_offer() {
    let site = hooked();
    let _daemon = serve(&site);
    site.pair("data", SIZE, None);
    change(&site, "data", 1);
    let before = fs::read(site.target("data")).unwrap();
    hook(&site, "before-receive", "echo busy >&2; echo 'the VM still runs' >&2; exit 1");
    let words = "the hook before-receive failed (exit status: 1): the VM still runs";
    send(&site, "data").refused(words);
    assert!(fs::read(site.target("data")).unwrap() == before);
    assert_eq!(fs::read_dir(site.place.path("retention")).unwrap().count(), 0, "nothing is changed");
    wait_for("its job says so", || {
        let job = &site.jobs()[0];
        job["state"] == "failed" && job["error"].as_str().unwrap().contains(words)
    });
    assert_eq!(ran(&site), ["before-receive"], "what did not begin has no end");
    hook(&site, "before-receive", "");
    send(&site, "data").done();
    site.is_home("data");
}

#[test]
fn before_apply_refuses_a_pass_which_stays() {
    let site = hooked();
    let _daemon = serve(&site);
    site.pair("data", SIZE, None);
    change(&site, "data", 1);
    let before = fs::read(site.target("data")).unwrap();
    hook(&site, "before-apply", "echo 'the VM still runs' >&2; exit 1");
    let words = "the hook before-apply failed (exit status: 1): the VM still runs";
    for _ in 0..2 {
        send(&site, "data").refused(words);
        assert!(fs::read(site.target("data")).unwrap() == before);
        wait_for("the session is over", || noted(&site).len() == 3);
        assert!(noted(&site)[2][6].contains(words), "{:?}", noted(&site));
        assert_eq!(ran(&site), ["before-receive", "before-apply", "after-receive failed"]);
        wait_for("its job says so", || {
            let job = &site.jobs()[0];
            job["state"] == "failed" && job["error"].as_str().unwrap().contains(words)
        });
    }
    hook(&site, "before-apply", "");
    let report = send(&site, "data").json();
    site.is_home("data");
    let sent = report[0]["bytes_sent"].as_u64().unwrap();
    assert!(report[0]["went_on"] == true && sent < NEWS as u64 / 20, "{report}");
    wait_for("the session is over", || noted(&site).len() == 4);
    assert_eq!(ran(&site), ["before-receive", "before-apply", "after-apply done", "after-receive done"]);
}

#[test]
fn one_hook_holds_a_whole_group_back() {
    let site = hooked();
    let _daemon = serve(&site);
    let pairs = ["db", "web"];
    for name in pairs {
        site.pair(name, SIZE, None);
    }
    site.on_site(failback!("group", "add", "shop", "db", "web", "--quiesce", "20s")).done();
    // The live passes bring nothing, and the last ones do.
    let write = |name: &str, seed: u64| {
        let news = site.place.file(&format!("{name}.news"), &noise(NEWS, seed));
        let hooks = site.place.path(&format!("sent-{name}"));
        let _ = fs::create_dir(&hooks);
        let text = format!(
            "#!/bin/sh\ndd if='{}' of='{}' bs=64K conv=notrunc status=none\n",
            news.display(),
            site.source(name).display()
        );
        fs::write(hooks.join("before-final"), text).unwrap();
        fs::set_permissions(hooks.join("before-final"), fs::Permissions::from_mode(0o755)).unwrap();
    };
    let last = |name: &str| {
        let hooks = site.place.path(&format!("sent-{name}"));
        send(&site, name).args("--final --group shop --hooks").arg(hooks).start()
    };
    for (name, seed) in pairs.into_iter().zip([5, 6]) {
        write(name, seed);
    }
    let before = pairs.map(|name| fs::read(site.target(name)).unwrap());
    hook(
        &site,
        "before-apply",
        "if [ \"$FAILBACK_PAIR$FAILBACK_GROUP\" = webshop ]; then echo 'web still runs' >&2; exit 1; fi",
    );
    let [db, web] = pairs.map(last);
    let web = web.finish();
    assert!(
        web.code == 3 && web.stderr.contains("the hook before-apply failed (exit status: 1): web still runs"),
        "{web:?}"
    );
    let is_waiting = |job: &serde_json::Value| {
        job["pair"] == "db" && job["state"] == "running" && job["phase"] == "waiting for the other pairs of the group"
    };
    wait_for("db waits", || site.jobs().iter().any(is_waiting));
    assert!(pairs.map(|name| fs::read(site.target(name)).unwrap()) == before, "nothing is applied");
    let asked = |name: &str| {
        noted(&site).iter().any(|fields| fields[0] == "before-apply" && fields[1] == name && fields[3] == "shop")
    };
    assert!(asked("db") && asked("web"), "{:?}", noted(&site));
    // It was held back, and so comes again as a whole.
    hook(&site, "before-apply", "");
    let web = last("web");
    let db = db.finish();
    assert!(db.code == 3 && db.stderr.contains("was given up"), "{db:?}");
    assert!(fs::read(site.target("db")).unwrap() == before[0], "nothing is applied");
    let given_up = |fields: &Vec<String>| fields[0] == "after-apply" && fields[1] == "db" && fields[4] == "failed";
    assert!(noted(&site).iter().any(given_up), "what before-apply let begin has an end: {:?}", noted(&site));
    let runs = [last("db"), web].map(Running::finish);
    assert!(runs.iter().all(|run| run.code == 0), "{runs:?}");
    for name in pairs {
        site.is_home(name);
        let is_done = |fields: &Vec<String>| {
            fields[..5] == ["after-apply", name, "crash", "shop", "done"] && !fields[5].is_empty()
        };
        assert!(noted(&site).iter().any(is_done), "{:?}", noted(&site));
    }
}

#[test]
fn a_job_that_is_cancelled_ends_its_hook() {
    let site = hooked();
    let _daemon = serve(&site);
    site.pair("data", SIZE, None);
    change(&site, "data", 1);
    let before = fs::read(site.target("data")).unwrap();
    let (alive, script) = lasting(&site);
    for name in ["before-receive", "before-apply"] {
        hook(&site, name, &script);
        let sending = send(&site, "data").args("--retry 60s").start();
        wait_for_hook(&site, name);
        let began = Instant::now();
        cancel(&site);
        let run = sending.finish();
        assert!(run.code == 3 && run.stderr.contains("this pass was cancelled on the master target"), "{run:?}");
        wait_for("the job is cancelled", || site.jobs()[0]["state"] == "cancelled");
        never_appears(&alive, began);
        assert!(fs::read(site.target("data")).unwrap() == before);
        assert!(!ran(&site).iter().any(|line| line.starts_with("after-apply")));
        hook(&site, name, "");
    }
}

#[test]
fn a_source_that_comes_again_ends_the_hook_that_it_waited_for() {
    let site = hooked();
    let _daemon = serve(&site);
    site.pair("data", SIZE, None);
    change(&site, "data", 1);
    let (alive, script) = lasting(&site);
    hook(&site, "before-receive", &script);
    let sending = send(&site, "data").start();
    wait_for_hook(&site, "before-receive");
    let began = Instant::now();
    sending.signal("KILL");
    let _ = sending.finish();
    hook(&site, "before-receive", "");
    send(&site, "data").done();
    site.is_home("data");
    assert!(began.elapsed() < Duration::from_secs(60));
    never_appears(&alive, began);
}

/// Ends a daemon in the way that systemd does.
fn end(daemon: Daemon) -> Run {
    daemon.running.signal("TERM");
    daemon.running.finish()
}

#[test]
fn a_daemon_that_is_ended_ends_what_may_refuse_and_waits_for_what_is_told() {
    let site = hooked();
    let mut daemon = serve(&site);
    site.pair("data", SIZE, None);
    let (alive, script) = lasting(&site);
    for (seed, name) in [(1, "before-receive"), (2, "before-apply")] {
        change(&site, "data", seed);
        ran(&site);
        let before = fs::read(site.target("data")).unwrap();
        hook(&site, name, &script);
        let sending = send(&site, "data").args("--retry 60s").start();
        wait_for_hook(&site, name);
        let began = Instant::now();
        let run = end(daemon);
        assert!(run.code == 0 && began.elapsed() < Duration::from_secs(20), "{run:?} {:?}", began.elapsed());
        never_appears(&alive, began);
        assert!(fs::read(site.target("data")).unwrap() == before);
        assert!(!ran(&site).iter().any(|line| line.starts_with("after-apply")));
        hook(&site, name, "");
        daemon = serve(&site);
        let run = sending.finish();
        assert_eq!(run.code, 0, "{run:?}");
        site.is_home("data");
    }
    let told = site.place.path("told");
    for name in ["after-apply", "after-receive"] {
        change(&site, "data", 3 + name.len() as u64);
        ran(&site);
        hook(&site, name, &format!("sleep 3; touch '{}'", told.display()));
        let sending = send(&site, "data").args("--retry 60s").start();
        wait_for_hook(&site, name);
        let run = end(daemon);
        assert!(run.code == 0 && told.exists(), "{run:?}");
        fs::remove_file(&told).unwrap();
        hook(&site, name, "");
        daemon = serve(&site);
        let run = sending.finish();
        assert_eq!(run.code, 0, "{run:?}");
        site.is_home("data");
    }
}

#[test]
fn after_apply_is_not_forgotten_by_a_daemon_that_is_killed() {
    let site = hooked();
    let mut daemon = serve(&site);
    site.pair("data", SIZE, None);
    let once = site.place.path("once");
    let kill = format!("if [ ! -e '{0}' ]; then touch '{0}'; kill -9 $PPID; fi", once.display());
    let expected = [
        // Nothing of it was applied, so it is asked again when the source comes back.
        ("before-apply", ["before-apply", "after-apply failed", "before-apply", "after-apply done"].as_slice()),
        // It may not have got to its end.
        ("after-apply", ["before-apply", "after-apply done", "after-apply done"].as_slice()),
    ];
    for (seed, (name, expected)) in (1..).zip(expected) {
        change(&site, "data", seed);
        hook(&site, name, &kill);
        let sending = send(&site, "data").args("--retry 60s").start();
        wait_for("it is killed", || once.exists());
        let _ = daemon.running.finish();
        daemon = serve(&site);
        let run = sending.finish();
        assert_eq!(run.code, 0, "{run:?}");
        site.is_home("data");
        let of_apply = || -> Vec<String> {
            let lines = noted(&site);
            let of = lines.iter().filter(|fields| fields[0].ends_with("-apply"));
            of.map(|fields| format!("{} {}", fields[0], fields[4]).trim_end().to_owned()).collect()
        };
        wait_for("all have run", || of_apply().len() >= expected.len());
        assert_eq!(of_apply(), expected, "{name}");
        ran(&site);
        fs::remove_file(&once).unwrap();
        hook(&site, name, "");
        let jobs = site.jobs();
        assert!(jobs.iter().all(|job| job["state"] != "waiting"), "{jobs:#?}");
    }
    // Nor is it without the source.
    change(&site, "data", 9);
    hook(&site, "before-apply", &kill);
    let sending = send(&site, "data").args("--retry 60s").start();
    wait_for("it is killed", || once.exists());
    sending.signal("KILL");
    let _ = (sending.finish(), daemon.running.finish());
    let before = fs::read(site.target("data")).unwrap();
    let _daemon = serve(&site);
    wait_for("it is told", || noted(&site).last().is_some_and(|fields| fields[0] == "after-apply"));
    let last = noted(&site).pop().unwrap();
    assert!(last[4] == "failed" && last[6].contains("ended before the pass was applied"), "{last:?}");
    wait_for("its job waits", || site.jobs()[0]["state"] == "waiting");
    assert!(fs::read(site.target("data")).unwrap() == before);
    let report = send(&site, "data").json();
    assert_eq!(report[0]["went_on"], true, "{report}");
    site.is_home("data");
}

#[test]
fn slow_every_before_apply_has_an_end_whenever_the_daemon_is_killed() {
    const LANDED: usize = 5;
    let site = hooked();
    let mut daemon = serve(&site);
    site.pair("data", 8 * MIB, None);
    let mut dice = Dice::new(5);
    let (mut landed, mut round) = (0, 0);
    let retention = site.place.path("retention");
    while landed < LANDED {
        round += 1;
        assert!(round < 200, "{landed} of {round} were killed while a disk was written");
        ran(&site);
        site.write("data", 0, &noise(6 * MIB, round));
        let mut sending = send(&site, "data").args("--retry 60s").start();
        wait_for("it is asked", || noted(&site).iter().any(|fields| fields[0] == "before-apply"));
        thread::sleep(Duration::from_millis(dice.below(150) as u64));
        daemon.running.signal("KILL");
        let _ = daemon.running.finish();
        let status = failback!("status", site.vmdk("data"), "--retention", &retention).json();
        let is_applying = status["state"] == "interrupted";
        landed += usize::from(is_applying && sending.is_running());
        let noted_before = noted(&site).len();
        daemon = serve(&site);
        let run = sending.finish();
        assert_eq!(run.code, 0, "round {round}: {run:?}");
        site.is_home("data");
        if is_applying {
            let told = noted(&site)[noted_before..].iter().find(|fields| fields[0] == "after-apply").cloned();
            assert!(told.is_some_and(|fields| fields[4] == "done"), "round {round}: {:?}", noted(&site));
        }
        // Each that was let begin has ended, and none has begun before the one before had ended.
        let lines = ran(&site);
        let of_apply: Vec<_> = lines.iter().filter(|line| line.contains("-apply")).collect();
        assert!(of_apply.last().unwrap().as_str() == "after-apply done", "round {round}: {lines:?}");
        let unfinished = of_apply.windows(2).find(|two| two[0] == "before-apply" && two[1] == "before-apply");
        assert!(unfinished.is_none(), "round {round}: {lines:?}");
    }
    println!("{landed} of {round} were killed while the disk was written");
}

#[test]
fn slow_a_source_with_little_patience_waits_for_a_hook() {
    let site = hooked();
    let daemon = serve(&site);
    site.enroll(&daemon, "web");
    site.pair("data", SIZE, Some("web"));
    change(&site, "data", 1);
    for name in ["before-receive", "before-apply"] {
        hook(&site, name, "sleep 25");
    }
    let report = site.send("data", &daemon.data).args("--threads 1 --silence 20s --retry 1s").json();
    assert_eq!(report[0]["connections"], 1, "{report}");
    site.is_home("data");
}

#[test]
fn a_hook_that_takes_too_long_refuses() {
    let site = hooked();
    let _daemon = serve_with(&site, &["--hook-timeout", "3s"]);
    site.pair("data", SIZE, None);
    change(&site, "data", 1);
    let (alive, script) = lasting(&site);
    hook(&site, "before-apply", &script);
    let began = Instant::now();
    send(&site, "data").refused("the hook before-apply did not end within 3 s and was ended");
    never_appears(&alive, began);
    hook(&site, "before-apply", "");
    hook(&site, "after-apply", &script);
    let began = Instant::now();
    send(&site, "data").done();
    site.is_home("data");
    never_appears(&alive, began);
    assert!(warnings(&site).iter().any(|line| line.contains("after-apply did not end within 3 s")));
}

#[test]
fn a_source_that_is_trusted_no_longer_when_a_hook_ends_changes_nothing() {
    let site = hooked();
    let daemon = serve(&site);
    site.enroll(&daemon, "web");
    site.pair("data", SIZE, Some("web"));
    change(&site, "data", 1);
    let before = fs::read(site.target("data")).unwrap();
    let state = site.place.path("site");
    hook(
        &site,
        "before-apply",
        &format!("'{}' enroll revoke web --state '{}' >&2", program().display(), state.display()),
    );
    let run = site.send("data", &daemon.data).args("--retry 2s").run();
    assert_ne!(run.code, 0, "{run:?}");
    wait_for("its job failed", || {
        let job = &site.jobs()[0];
        job["state"] == "failed" && job["error"].as_str().unwrap().contains("the trust in this source has ended")
    });
    assert!(fs::read(site.target("data")).unwrap() == before);
    assert!(ran(&site).iter().any(|line| line == "after-apply failed"));
}

#[test]
fn a_session_without_a_daemon_has_its_hooks() {
    let site = hooked();
    site.pair("data", SIZE, None);
    change(&site, "data", 1);
    let to = format!("{} --hooks '{}'", site.by_command(), site.place.path("hooks").display());
    site.send("data", &to).args("--threads 1").done();
    site.is_home("data");
    assert_eq!(ran(&site)[..3], ["before-receive", "before-apply", "after-apply done"]);
}
