//! Who gets in, and how far.

use crate::site::{MIB, Site};
use failback_tests::failback;
use failback_tests::lab::noise;
use std::fs;
use std::time::{Duration, Instant};

#[test]
fn strangers_and_those_without_a_pair_are_refused_before_anything_is_kept() {
    let site = Site::new();
    let daemon = site.serve();
    fs::write(site.source("data"), noise(MIB, 1)).unwrap();
    site.send("data", &daemon.data).refused("failback enroll join");
    site.enroll(&daemon, "web");
    site.send("data", &daemon.data).refused("no pair of that name for this source");
    site.pair("data", 4 * MIB, None);
    site.send("data", &daemon.data).refused("no pair of that name for this source");
    // For another machine.
    site.on_site(failback!("pair", "remove", "data")).done();
    fs::remove_file(site.vmdk("data")).unwrap();
    fs::remove_file(site.target("data")).unwrap();
    site.pair("data", 4 * MIB, Some(&"00".repeat(32)));
    site.send("data", &daemon.data).refused("no pair of that name for this source");
    assert!(!site.place.path("retention/replication").exists(), "nothing was kept for it");
    assert!(site.jobs().is_empty());
}

#[test]
fn tokens_are_good_once_and_those_who_are_revoked_are_out() {
    let site = Site::new();
    let daemon = site.serve();
    let token = site.on_site(failback!("enroll", "token", "web")).json();
    let token = token["token"].as_str().unwrap().to_owned();
    let join = |state: &str, token: &str| {
        failback!("enroll", "join", daemon.data, "--state", site.place.path(state)).fed(token.as_bytes().to_vec())
    };
    join("elsewhere", &token).done();
    join("another", &token).refused("used");
    join("another", &token.replace("failback1-", "failback1-A")).refused("failback1-");
    site.pair("data", 16 * MIB, Some("web"));
    site.write("data", 0, &noise(8 * MIB, 5));
    // Slow enough to be revoked on the way.
    let sending = site.send("data", &daemon.data).args("--limit 1M --compression off --retry 5s").start();
    let began = Instant::now();
    while !site.jobs().iter().any(|job| job["state"] == "running") {
        assert!(began.elapsed() < Duration::from_secs(30));
    }
    site.on_site(failback!("enroll", "revoke", "web")).done();
    let run = sending.finish();
    assert!(run.code != 0, "{}", run.stderr);
    assert!(run.stderr.contains("revoked"), "{}", run.stderr);
    assert!(fs::read(site.target("data")).unwrap() == noise(16 * MIB, 4), "nothing was written");
    site.send("data", &daemon.data).refused("revoked this machine's key");
}

#[test]
fn two_daemons_do_not_share_a_state_and_secrets_stay_secret() {
    let site = Site::new();
    let daemon = site.serve();
    let state = site.place.path("site");
    failback!("serve", "--local", "--state", state).refused("site");
    // Neither in the log nor in what is asked: the key's own text.
    let key = fs::read_to_string(state.join("credentials/key.pem")).unwrap();
    let secret = key.lines().nth(1).unwrap().to_owned();
    site.enroll(&daemon, "web");
    let told = [
        fs::read_to_string(site.place.path("site.log")).unwrap(),
        site.on_site(failback!("enroll", "list")).json().to_string(),
        site.on_site(failback!("enroll", "show")).json().to_string(),
    ];
    assert!(secret.len() > 40 && told.iter().all(|text| !text.contains(&secret)));
    assert!(told.iter().all(|text| !text.contains("failback1-")), "tokens are shown once");
}
