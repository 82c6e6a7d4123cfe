//! A relay between a source and the master target.

use crate::site::{Daemon, MIB, Site};
use failback_tests::failback;
use failback_tests::lab::{Dice, Port, Program, noise, root_of_file};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// A site that is reached through a relay, which the source joined and which joined the master target.
struct Relayed {
    site: Site,
    master: Daemon,
    relay: Daemon,
    /// Where the two listen, each time that they are started.
    ports: [Port; 2],
    /// Where the relay is.
    address: String,
    /// What else it is started with.
    more: &'static str,
}

impl Relayed {
    fn new(bytes: usize, more: &'static str) -> Self {
        let site = Site::new();
        let ports = [Port::reserve(), Port::reserve()];
        let master = site.serve_on(&ports[0]);
        make_key(&site, "key");
        site.pair_signed("data", bytes, &site.place.path("key.pub"));
        let token = site.on_site(failback!("enroll", "token", "relay", "--role", "relay")).json();
        failback!("enroll", "join", master.data, "--state", site.place.path("relay")).fed(secret(&token)).done();
        let address = ports[1].address();
        let relay = start(&site, &master, &address, more);
        // A source may join after its pair was named.
        let token = failback!("enroll", "token", "web", "--state", site.place.path("relay")).json();
        site.elsewhere(failback!("enroll", "join", address)).fed(secret(&token)).done();
        Self { site, master, relay, ports, address, more }
    }

    fn send(&self) -> Program {
        self.send_signed("key")
    }

    fn send_signed(&self, key: &str) -> Program {
        let key = self.site.place.path(&format!("{key}.pem"));
        self.site.send("data", &self.address).arg("--signing-key").arg(key)
    }

    fn at_relay(&self, command: Program) -> Program {
        command.arg("--state").arg(self.site.place.path("relay"))
    }

    /// What the relay says of the pair.
    fn pair(&self) -> Value {
        let status = self.at_relay(failback!("relay", "--status")).json();
        let pair = &status["pairs"][0];
        assert!(pair.is_null() || pair["pair"] == "data", "{status}");
        pair.clone()
    }

    /// Waits until the relay says this of the pair.
    fn wait_for(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        let began = Instant::now();
        loop {
            let pair = self.pair();
            if is_so(&pair) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{what}: {pair}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn kill_relay(&mut self) {
        self.relay.running.signal("KILL");
        while self.relay.running.is_running() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn start_relay(&mut self) {
        self.relay = start(&self.site, &self.master, &self.address, self.more);
    }

    /// The files that the relay has of the pair, with their lengths.
    fn spooled(&self) -> Vec<(String, u64)> {
        let entries = fs::read_dir(self.site.place.path("spool/pair-data"));
        let entries = entries.into_iter().flatten().map(Result::unwrap);
        entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())).collect()
    }
}

fn secret(token: &Value) -> Vec<u8> {
    token["token"].as_str().unwrap().as_bytes().to_vec()
}

/// Makes a key to sign with, and its public half.
fn make_key(site: &Site, name: &str) {
    let (private, public) = (site.place.path(&format!("{name}.pem")), site.place.path(&format!("{name}.pub")));
    let openssl = |words: &str, from: Option<&Path>, to: &Path| {
        let mut command = Command::new("openssl");
        command.args(words.split(' ')).arg("-out").arg(to);
        from.map(|from| command.arg("-in").arg(from));
        assert!(command.output().unwrap().status.success());
    };
    openssl("genpkey -algorithm ed25519", None, &private);
    openssl("pkey -pubout", Some(&private), &public);
}

fn start(site: &Site, master: &Daemon, address: &str, more: &str) -> Daemon {
    let spool: PathBuf = site.place.path("spool");
    let nobody = "nothing=".to_owned() + &"00".repeat(32);
    let args = ["relay", "--to", &master.data, "--listen", address, "--pair", "data=web", "--pair", &nobody, "--spool"];
    let mut args = args.map(OsStr::new).to_vec();
    args.push(spool.as_os_str());
    args.extend(more.split_ascii_whitespace().map(OsStr::new));
    site.start("relay", &args, "the relay is ready")
}

#[test]
fn a_disk_comes_home_through_a_relay_that_cannot_forge() {
    let relayed = Relayed::new(8 * MIB, "");
    let site = &relayed.site;
    let before = root_of_file(&site.target("data"));
    site.write("data", 3 << 20, &noise(100_000, 7));
    site.send("data", &relayed.address).refused("is not signed");
    relayed.send().done();
    site.is_home("data");
    assert_ne!(root_of_file(&site.target("data")), before);
    let pair = relayed.pair();
    assert_eq!((&pair["deltas"], &pair["aside_deltas"], &pair["last_error"]), (&0.into(), &0.into(), &Value::Null));
    let text = String::from_utf8(relayed.at_relay(failback!("relay", "--status")).done()).unwrap();
    assert!(text.contains("0 deltas wait"), "{text}");
    // What is another's, and what is not there.
    let journal = site.place.path("journal");
    for pair in ["nothing", "more"] {
        let send =
            failback!("send", site.source("data"), "--to", relayed.address, "--pair", pair, "--journal", journal);
        let sentence = site.elsewhere(send).fails(3, "");
        let words = ["no pair of that name for this source", "knows no pair"];
        assert!(words.iter().any(|words| sentence.contains(words)), "{sentence}");
    }
    // Straight to the master target it is a stranger: what it knows is the key of the relay.
    assert_ne!(site.send("data", &relayed.master.data).args("--retry 1s").run().code, 0);
    // Nothing of all that is left at work.
    site.ended_jobs();
}

#[test]
fn who_is_on_the_relays_machine_is_told_that_it_has_to_join() {
    let relayed = Relayed::new(MIB, "");
    let socket = format!("unix:{}", relayed.site.place.path("relay/data.sock").display());
    let sentence =
        relayed.site.send("data", &socket).args("--retry 1s").refused("the other side says: this is a relay");
    assert!(sentence.contains("join it with failback enroll join"), "{sentence}");
    assert!(relayed.pair().is_null(), "nothing was begun for it");
}

#[test]
fn what_the_master_target_refuses_is_told_to_the_source_and_can_be_given_up() {
    let relayed = Relayed::new(4 * MIB, "");
    let site = &relayed.site;
    make_key(site, "other");
    let before = root_of_file(&site.target("data"));
    site.write("data", 1 << 20, &noise(50_000, 7));
    let began = Instant::now();
    relayed.send_signed("other").refused("signed by another key");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    // It is not tried again by the source, but by the relay, which says so.
    let pair = relayed.pair();
    assert_eq!(pair["deltas"], 1, "{pair}");
    assert!(pair["last_error"].as_str().unwrap().contains("signed by another key"), "{pair}");
    // While it is being tried, it is not given up.
    let began = Instant::now();
    let given_up = loop {
        let run = relayed.at_relay(failback!("relay", "--give-up", "data", "--json")).run();
        if run.code == 0 {
            break serde_json::from_slice::<Value>(&run.stdout).unwrap();
        }
        assert!(run.stderr.contains("speaking to its target") && began.elapsed() < Duration::from_secs(30), "{run:?}");
    };
    assert_eq!((&given_up["deltas"], &relayed.pair()["aside_deltas"]), (&1.into(), &1.into()));
    relayed.at_relay(failback!("relay", "--drop-aside", "none")).refused("has nothing of a pair none");
    assert_eq!(relayed.at_relay(failback!("relay", "--drop-aside", "data")).json()["deltas"], 1);
    assert_eq!((&relayed.pair()["deltas"], &relayed.pair()["aside_deltas"]), (&0.into(), &0.into()));
    assert_eq!(root_of_file(&site.target("data")), before);
    relayed.send().done();
    site.is_home("data");
}

#[test]
fn a_full_relay_holds_its_source_until_the_master_target_is_back() {
    let mut relayed = Relayed::new(4 * MIB, "--space 400K --pair-space 400K");
    let change = |relayed: &Relayed, seed| relayed.site.write("data", 1 << 20, &noise(300_000, seed));
    // The blocks there are known to the relay from here on.
    change(&relayed, 1);
    relayed.send().done();
    relayed.site.is_home("data");
    let before = root_of_file(&relayed.site.target("data"));
    relayed.master.running.signal("KILL");
    while relayed.master.running.is_running() {
        thread::sleep(Duration::from_millis(1));
    }
    change(&relayed, 2);
    let waiting = relayed.send().start();
    relayed.wait_for("the first delta", |pair| pair["deltas"] == 1);
    waiting.signal("TERM");
    let run = waiting.finish();
    assert_eq!(run.code, 130, "{}", run.stderr);
    change(&relayed, 3);
    let mut waiting = relayed.send().start();
    relayed.wait_for("a full spool", |pair| pair["held"].is_string());
    let text = String::from_utf8(relayed.at_relay(failback!("relay", "--status")).done()).unwrap();
    assert!(text.contains("1 delta waits") && text.contains("is held until there is room"), "{text}");
    // It is held across a crash of the relay, whatever was on its way.
    relayed.kill_relay();
    relayed.start_relay();
    relayed.wait_for("a full spool again", |pair| pair["held"].is_string());
    let pair = relayed.pair();
    assert_eq!(pair["deltas"], 1, "{pair}");
    assert!(waiting.is_running());
    assert_eq!(root_of_file(&relayed.site.target("data")), before);
    let kept: u64 = relayed.spooled().iter().filter(|(name, _)| is_delta(name)).map(|(_, len)| len).sum();
    assert!((300_000..400 << 10).contains(&kept), "{kept}");
    relayed.master = relayed.site.serve_on(&relayed.ports[0]);
    let run = waiting.finish();
    assert_eq!(run.code, 0, "{}", run.stderr);
    relayed.site.is_home("data");
    assert_eq!((&relayed.pair()["deltas"], &relayed.pair()["held"]), (&0.into(), &Value::Null));
}

fn is_delta(name: &str) -> bool {
    name == "arriving" || waits(name)
}

fn waits(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "delta")
}

#[test]
fn what_a_relay_is_not_told_is_refused() {
    let site = Site::new();
    let state = site.place.path("relay");
    let asked = |call: Program| call.arg("--state").arg(&state);
    asked(failback!("relay", "--status")).refused("no relay runs with this state");
    asked(failback!("relay", "--to", "127.0.0.1:1")).misused();
    asked(failback!("relay", "--pair", "a=b")).misused();
    asked(failback!("relay", "--status", "--to", "127.0.0.1:1")).misused();
    asked(failback!("relay", "--give-up", "a", "--drop-aside", "a")).misused();
    let spool = site.place.path("spool");
    let start = |pair: &str| asked(failback!("relay", "--to", "unix:/nowhere", "--spool", spool, "--pair", pair));
    start("data").refused("write NAME=VALUE");
    start("data=no/name").refused("name");
    start("a=b").args("--pair a=c").refused("named twice");
    make_key(&site, "key");
    let key = |name: &str| format!("{name}={}", site.place.path("key.pub").display());
    start("a=b").arg("--trusted-key").arg(key("c")).refused("which is no pair");
    let twice = start("a=b").arg("--trusted-key").arg(key("a")).arg("--trusted-key").arg(key("a"));
    twice.refused("--trusted-key is given twice for the pair \"a\"");
    // Where there is one pair only, there is one key.
    let add = |command: Program| command.arg("--trusted-key").arg("one.pub").arg("--trusted-key").arg("two.pub");
    add(failback!("pair", "add", "a", "--source", "s", "--target", "t")).misused();
    add(failback!("receive", "t", "--source", "s")).misused();
    add(failback!("apply", "d", "t")).misused();
    start("a=b").args("--space 1M --pair-space 2M").refused("raise the one or lower the other");
}

/// The relay is killed so often in the middle of a pass.
const KILLS: usize = 100;

#[test]
fn slow_a_relay_is_killed_at_any_moment() {
    const SIZE: usize = 4 * MIB;
    // Slow enough that a kill may land while a delta arrives, and while it is sent on.
    let mut relayed = Relayed::new(SIZE, "--limit 1M");
    let send = |relayed: &Relayed| relayed.send().args("--threads 1 --retry 60s --limit 1M");
    let mut dice = Dice::new(3);
    let change = |relayed: &Relayed, dice: &mut Dice, round: usize| {
        let len = 200_000 + dice.below(200_000);
        let at = dice.below(SIZE - len);
        relayed.site.write("data", at as u64, &noise(len, round as u64));
    };
    let (mut landed, mut arriving, mut waiting) = (0, 0, 0);
    let mut takes = Duration::ZERO;
    for round in 0..3 * KILLS {
        if round % 10 == 0 {
            // How long a whole pass takes on this machine and now: the second one, since the first one asks for the tree, or brings home what was
            // left unfinished.
            for number in 0..2 {
                change(&relayed, &mut dice, 1000 + 2 * round + number);
                let began = Instant::now();
                send(&relayed).done();
                takes = began.elapsed();
            }
        }
        change(&relayed, &mut dice, round);
        let mut sending = send(&relayed).start();
        thread::sleep(takes * u32::try_from(dice.below(1000)).unwrap() / 1000);
        let is_under_way = sending.is_running();
        relayed.kill_relay();
        if is_under_way {
            landed += 1;
            let spooled = relayed.spooled();
            arriving += usize::from(spooled.iter().any(|(name, len)| name == "arriving" && *len > 0));
            waiting += usize::from(spooled.iter().any(|(name, _)| waits(name)));
        }
        relayed.start_relay();
        if round % 4 == 0 {
            // The source outlives the relay, and goes on by itself.
            let run = sending.finish();
            assert_eq!(run.code, 0, "round {round}: {}", run.stderr);
            relayed.site.is_home("data");
        } else {
            // It is killed as well, and the next one begins at once, with another change on top.
            if sending.is_running() {
                sending.signal("KILL");
            }
            let _ = sending.finish();
        }
        if landed == KILLS {
            break;
        }
    }
    send(&relayed).done();
    relayed.site.is_home("data");
    assert_eq!(landed, KILLS, "kills in the middle of a pass of {takes:?}");
    assert!(arriving > 5 && waiting > 5, "{arriving} while a delta arrived, {waiting} while one waited");
    let pair = relayed.pair();
    assert_eq!((&pair["deltas"], &pair["aside_deltas"]), (&0.into(), &0.into()), "{pair}");
}
