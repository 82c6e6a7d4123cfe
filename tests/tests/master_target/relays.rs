//! A relay between a source and the master target.

use crate::site::{Daemon, MIB, Site};
use failback_tests::failback;
use failback_tests::lab::{Dice, Program, noise};
use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// A site that is reached through a relay, which the source joined and which joined the master target.
struct Relayed {
    site: Site,
    master: Daemon,
    relay: Daemon,
    /// Where the relay listens, each time that it is started.
    address: String,
}

impl Relayed {
    fn new(size: usize) -> Self {
        let site = Site::new();
        let master = site.serve();
        let (private, public) = (site.place.path("key.pem"), site.place.path("key.pub"));
        let openssl = |words: &str, files: [&Path; 2]| {
            let mut command = Command::new("openssl");
            command.args(words.split(' ')).arg("-out").arg(files[1]);
            if words.starts_with("pkey") {
                command.arg("-in").arg(files[0]);
            }
            assert!(command.output().unwrap().status.success());
        };
        openssl("genpkey -algorithm ed25519", [&private, &private]);
        openssl("pkey -pubout", [&private, &public]);
        site.pair_signed("data", size, &public);
        let token = site.on_site(failback!("enroll", "token", "relay", "--role", "relay")).json();
        let token = token["token"].as_str().unwrap().as_bytes().to_vec();
        failback!("enroll", "join", master.data, "--state", site.place.path("relay")).fed(token).done();
        // The machine elsewhere is known before the relay runs, since its pairs are named there.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let token = failback!("enroll", "token", "web", "--state", site.place.path("relay")).json();
        let token = token["token"].as_str().unwrap().as_bytes().to_vec();
        let first = start(&site, &master, &address, &[]);
        site.elsewhere(failback!("enroll", "join", address)).fed(token).done();
        drop(first);
        let relay = start(&site, &master, &address, &["data=web"]);
        Self { site, master, relay, address }
    }

    fn key(&self) -> PathBuf {
        self.site.place.path("key.pem")
    }

    fn send(&self) -> Program {
        self.site.send("data", &self.address).arg("--signing-key").arg(self.key())
    }

    fn status(&self) -> serde_json::Value {
        failback!("relay", "--status", "--state", self.site.place.path("relay")).json()
    }
}

fn start(site: &Site, master: &Daemon, address: &str, pairs: &[&str]) -> Daemon {
    let spool = site.place.path("relayed");
    let mut args = ["relay", "--to", &master.data, "--listen", address, "--spool"].map(OsStr::new).to_vec();
    args.push(spool.as_os_str());
    let nobody = "nothing=".to_owned() + &"00".repeat(32);
    for pair in pairs.iter().copied().chain([nobody.as_str()]) {
        args.extend(["--pair", pair].map(OsStr::new));
    }
    site.start("relay", &args, "the relay is ready")
}

#[test]
fn a_disk_comes_home_through_a_relay_that_cannot_forge() {
    let relayed = Relayed::new(8 * MIB);
    let site = &relayed.site;
    site.write("data", 3 << 20, &noise(100_000, 7));
    let unsigned = site.send("data", &relayed.address).run();
    assert!(unsigned.code != 0 && unsigned.stderr.contains("sign"), "{}", unsigned.stderr);
    relayed.send().done();
    site.is_home("data");
    let status = relayed.status();
    assert_eq!((&status["pairs"][0]["pair"], &status["pairs"][0]["deltas"]), (&"data".into(), &0.into()), "{status}");
    // What is another's, and what is not there.
    let journal = site.place.path("journal");
    for pair in ["nothing", "more"] {
        let send =
            failback!("send", site.source("data"), "--to", relayed.address, "--pair", pair, "--journal", journal);
        site.elsewhere(send).refused("no pair of that name for this source");
    }
    // Straight to the master target it is a stranger.
    assert_ne!(site.send("data", &relayed.master.data).args("--retry 1s").run().code, 0);
    assert!(relayed.site.jobs().iter().all(|job| job["state"] != "running"));
}

/// The relay is killed so often.
const KILLS: usize = 100;

#[test]
fn slow_a_relay_is_killed_at_any_moment() {
    let mut relayed = Relayed::new(4 * MIB);
    let mut dice = Dice::new(3);
    for round in 0..KILLS {
        let len = 1 + dice.below(400_000);
        let at = dice.below(4 * MIB - len);
        relayed.site.write("data", at as u64, &noise(len, round as u64));
        let sending = relayed.send().args("--threads 1 --retry 60s").start();
        thread::sleep(Duration::from_millis(dice.below(300) as u64));
        relayed.relay.running.signal("KILL");
        let began = Instant::now();
        relayed.relay = start(&relayed.site, &relayed.master, &relayed.address, &["data=web"]);
        let run = sending.finish();
        assert_eq!(run.code, 0, "round {round}: {}", run.stderr);
        relayed.site.is_home("data");
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}
