//! Machines that join the live ISO: its daemon is there without being asked for, again after it was killed, and known again by its key.

use crate::iso::live_iso;
use crate::machine::{Attached, Machine, RunningMachine, job_disk, wwid};
use failback_tests::failback;
use failback_tests::lab::guest::{Firmware, Medium};
use failback_tests::lab::{Place, Program, tool};
use std::path::Path;

const RETENTION: u8 = 8;
const JOB: u8 = 9;
/// The daemon is killed at first: whoever is let in then is let in by the one that was started in its place.
const SCRIPT: &str = "ready() { until [ \"$(grep -c 'the master target is ready' /var/log/failback.log)\" = $1 ]; do sleep 0.5; done; }\n\
                      ready 1\n\
                      kill -KILL $(pidof failback)\n\
                      ready 2\n\
                      echo \"token of it: $(failback enroll token web --json | tr -d '\\n')\"\n\
                      sleep 600\n";

/// `enroll join` to the machine with this token, as a machine whose key is there.
fn join(machine: &RunningMachine, key: &Path, token: &str) -> Program {
    let address = format!("127.0.0.1:{}", machine.data_port);
    failback!("enroll", "join", address, "--state", key).fed(token.as_bytes().to_vec())
}

/// What stands behind these words on the console, in JSON.
fn told(console: &str, words: &str) -> Option<serde_json::Value> {
    let line = console.split_once(words)?.1;
    serde_json::from_str(line.get(..=line.find('}')?)?).ok()
}

#[test]
fn slow_a_machine_joins_the_daemon_of_the_live_iso() {
    let Some(iso) = live_iso() else { return };
    let place = Place::new();
    let retention = place.sparse("retention.img", 64 << 20, &[]);
    let job = job_disk(&place, "job.img", SCRIPT, &[]);
    let arguments = format!("failback.ip=dhcp failback.retention=format:{} failback.run=job", wwid(RETENTION));
    let mut machine = Machine::new(&iso, &arguments, Firmware::Bios, Medium::Cd)
        .disk(Attached::new(&retention, RETENTION).own())
        .disk(Attached::new(&job, JOB).own())
        .start();
    let issued = machine.guest.await_that("a token", |guest| told(&guest.console(), "token of it: "));
    machine.guest.await_printed("network: eth0 has ");
    let token = issued["token"].as_str().unwrap();

    // Whoever has no token for it is a stranger, also one with a token of another machine.
    let stranger = place.path("stranger");
    let other = failback!("enroll", "token", "web", "--state", stranger).json();
    join(&machine, &stranger, other["token"].as_str().unwrap()).refused("this is another machine");
    let source = place.path("source");
    let joined = join(&machine, &source, token).json();
    assert_eq!((&joined["name"], &joined["role"]), (&"web".into(), &"source".into()), "{joined:#}");
    assert_eq!((&joined["server"], &joined["server_fingerprint"]), (&"failback".into(), &issued["fingerprint"]));
    // Once, and not twice.
    join(&machine, &place.path("again"), token).refused("the token has been used");

    machine.press(&["ctrl", "alt", "delete"]);
    let results = machine.guest.await_end();
    let console = results.log();
    assert!(console.contains("failback: failback serve has ended (exit code 137) and is started again"), "{console}");
    assert!(!console.contains("in memory only"), "{console}");
    // It has ended by itself, before the disk was unmounted, and what it knows is there.
    assert!(!console.contains("ending what still uses the retention disk"), "{console}");
    assert!(!tool("dumpe2fs", &["-h".as_ref(), retention.as_os_str()]).contains("needs_recovery"), "{console}");
    let on_disk = |request: &str| tool("debugfs", &["-R".as_ref(), request.as_ref(), retention.as_os_str()]);
    let kept = on_disk("ls -p /appliance/state/control/credentials");
    assert!(kept.contains("/key.pem/") && kept.contains("/trust.json/"), "{kept}");
    let log = on_disk("cat /appliance/log/failback.log");
    for words in ["serve:  INFO the master target is ready", "joined", "serve:  INFO the master target is ending"] {
        assert!(log.contains(words), "{words:?} is not in:\n{log}");
    }
}
