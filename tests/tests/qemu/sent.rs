//! The whole way: a machine elsewhere sends its disk to the live ISO, which loses its power in the middle, and goes on by itself.

use crate::iso::live_iso;
use crate::machine::{Attached, Machine, RunningMachine, uuid, wwid};
use crate::originals::is_equal;
use crate::remote::{new_key, remotely};
use failback_tests::failback;
use failback_tests::lab::guest::{Firmware, Medium};
use failback_tests::lab::{Place, Program, noise, program, root_of_file, tool};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MIB: usize = 1 << 20;
const SIZE: usize = 24 * MIB;
const RETENTION: u8 = 8;
/// What arrives is made durable after every 8 MiB: this is how much of it counts at least when so much has arrived, since a part that
/// is not whole does not.
const DURABLE: usize = 6 * MIB;
/// How much has arrived of the pass that is under way, durably: a number, or nothing.
const DURABLE_OF_RUNNING: &str = "failback jobs --json | tr -d ' \\n' | tr '{' '\\n' | grep '\"phase\":\"receiving\"' | \
                                  grep '\"state\":\"running\"' | sed -n 's/.*\"durable\":\\([0-9]*\\).*/\\1/p'";
/// What is changed before the power goes: so little that less than those 8 MiB are sent again, whenever that is, and would not be if nothing
/// had been kept.
const CHANGED: usize = 13 * MIB;

/// A machine elsewhere whose disk is to come home, and the one at which it arrives.
struct World {
    place: Place,
    iso: PathBuf,
    ssh: PathBuf,
    source: PathBuf,
    target: PathBuf,
    retention: PathBuf,
}

impl World {
    fn new(iso: PathBuf) -> Self {
        // Built before anything is timed.
        let _ = program();
        let place = Place::new();
        let base = noise(SIZE, 1);
        let (before, source) = (place.file("before.img", &base), place.file("source.img", &base));
        let [target, retention] = ["target.vmdk", "retention.vmdk"].map(|name| place.path(name));
        let convert = ["convert", "-O", "vmdk", "-o", "subformat=monolithicSparse"];
        let arguments = convert.map(AsRef::as_ref).into_iter().chain([before.as_os_str(), target.as_os_str()]);
        tool("qemu-img", &arguments.collect::<Vec<_>>());
        tool("qemu-img", &["create", "-q", "-f", "vmdk", retention.to_str().unwrap(), "128M"]);
        let ssh = new_key(&place, "ssh");
        Self { place, iso, ssh, source, target, retention }
    }

    /// The machine that has the target, at the same ports each time.
    fn machine(&self) -> Machine {
        let public = fs::read_to_string(self.ssh.with_extension("pub")).unwrap();
        let (disk, key) = (wwid(RETENTION), public.trim());
        let arguments = format!("failback.ip=dhcp failback.retention=format:{disk} failback.sshkey=\"{key}\"");
        Machine::new(&self.iso, &arguments, Firmware::Bios, Medium::Cd)
            .disk(Attached::new(&self.target, 0))
            .disk(Attached::new(&self.retention, RETENTION).own())
    }

    /// What a command says on the machine that has the target, `$target`. At its next start it has to be known by the same key.
    #[track_caller]
    fn there(&self, machine: &RunningMachine, command: &str) -> String {
        let target = format!("target=$(readlink -f /dev/disk/by-scsi-uuid/{})", uuid(0));
        remotely(machine, &self.ssh, &self.place.path("known"), &format!("{target}; {command}"))
    }

    #[track_caller]
    fn told_there(&self, machine: &RunningMachine, command: &str) -> Value {
        serde_json::from_str(&self.there(machine, command)).unwrap()
    }

    /// Waits until it has an address, and its daemon is ready.
    fn await_ready(&self, machine: &mut RunningMachine) {
        machine.guest.await_printed("ready after");
        machine.guest.await_printed("network: eth0 has ");
        let ready = "until grep -q 'serve:.*the master target is ready' /var/log/failback.log; do sleep 0.2; done";
        self.there(machine, ready);
    }

    /// A command of the machine elsewhere, whose key is in a directory of its own.
    fn elsewhere(&self, command: Program) -> Program {
        command.arg("--state").arg(self.place.path("elsewhere"))
    }

    fn send(&self, port: u16) -> Program {
        let (to, journal) = (format!("127.0.0.1:{port}"), self.place.path("journal"));
        self.elsewhere(failback!("send", self.source, "--to", to, "--pair", "web", "--journal", journal, "--json"))
            .args("--compression off")
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        OpenOptions::new().write(true).open(&self.source).unwrap().write_all_at(bytes, at as u64).unwrap();
    }

    /// A hook that changes the source before the last pass, as programs that end do.
    fn last_words(&self) -> PathBuf {
        let (words, hooks) = (self.place.file("words", &noise(300_000, 9)), self.place.directory("hooks"));
        let hook = hooks.join("before-final");
        let [words, source] = [&words, &self.source].map(|path| path.display());
        fs::write(
            &hook,
            format!("#!/bin/sh -e\ndd if='{words}' of='{source}' bs=4096 seek=100 conv=notrunc status=none\n"),
        )
        .unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        hooks
    }
}

fn number(report: &Value, name: &str) -> usize {
    report[name].as_u64().and_then(|number| number.try_into().ok()).unwrap_or_else(|| panic!("{name} in {report:#}"))
}

#[test]
fn slow_a_disk_comes_home_though_its_target_loses_its_power() {
    let Some(iso) = live_iso() else { return };
    let world = World::new(iso);
    let mut machine = world.machine().start();
    let (ports, port) = (Arc::clone(&machine.ports), machine.data_port);
    world.await_ready(&mut machine);
    let token = world.told_there(&machine, "failback enroll token web --json");
    let token = token["token"].as_str().unwrap().as_bytes().to_vec();
    world.elsewhere(failback!("enroll", "join", format!("127.0.0.1:{port}"))).fed(token).done();
    let bind =
        format!("failback pair add web --source '{}' --target $target --peer web --json", world.source.display());
    world.there(&machine, &bind);

    world.write(3 * MIB, &noise(MIB, 2));
    let first: Value = serde_json::from_slice(&world.send(port).done()).unwrap();
    let first_root = root_of_file(&world.source);
    assert_eq!((&first[0]["root"], number(&first[0], "connections")), (&first_root.as_str().into(), 1), "{first:#}");

    world.write(8 * MIB, &noise(CHANGED, 3));
    let second_root = root_of_file(&world.source);
    let hooks = world.last_words();
    let mut sending = world.send(port).args("--final --retry 5m --limit 500K --hooks").arg(&hooks).start();
    world.there(
        &machine,
        &format!("until [ \"$({DURABLE_OF_RUNNING})\" -ge {DURABLE} ] 2>/dev/null; do sleep 0.2; done"),
    );
    machine.guest.cut_power();
    assert!(sending.is_running(), "it was through before the power went: {:?}", sending.finish());

    let mut machine = world.machine().at(ports).start();
    world.await_ready(&mut machine);
    machine.guest.await_that("pass that is done", |_| (!sending.is_running()).then_some(()));
    let run = sending.finish();
    assert_eq!(run.code, 0, "{}\n{}", run.stderr, machine.guest.log());
    let reports: Value = serde_json::from_slice(&run.stdout).unwrap();
    let [resumed, last] = reports.as_array().unwrap().as_slice() else { panic!("{reports:#}") };
    println!("{} of {} bytes were sent again", resumed["bytes_sent_again"], resumed["delta_bytes"]);
    assert!(number(resumed, "connections") > 1 && number(resumed, "delta_bytes") > CHANGED, "{resumed:#}");
    // More than that had arrived, and less was sent again: the rest was kept through the loss of power.
    assert!((1..8 * MIB).contains(&number(resumed, "bytes_sent_again")), "{resumed:#}");
    let last_root = root_of_file(&world.source);
    assert_eq!((&resumed["root"], &resumed["final"]), (&second_root.as_str().into(), &false.into()), "{resumed:#}");
    assert_eq!((&last["root"], &last["final"]), (&last_root.as_str().into(), &true.into()), "{last:#}");
    assert_eq!((&last["kind"], number(last, "bytes_sent_again")), (&"crash".into(), 0), "{last:#}");

    has_arrived(
        &world,
        &machine,
        &[&root_of_file(&world.place.path("before.img")), &first_root, &second_root, &last_root],
    );
    world.there(&machine, "(sleep 1; poweroff) >/dev/null 2>&1 &");
    let results = machine.guest.await_end();
    assert!(!results.log().contains("ending what still uses the retention disk"), "{}", results.log());
    is_equal(&world.target, &world.source);
    is_sound(&world.target);
    is_sound(&world.retention);
}

/// Each moment that was sent is a recovery point there, and its pair and its jobs are known.
fn has_arrived(world: &World, machine: &RunningMachine, roots: &[&str]) {
    let told = world.told_there(machine, "failback point list $target --json");
    let points: Vec<_> =
        told["points"].as_array().unwrap().iter().map(|point| point["root"].as_str().unwrap()).collect();
    assert_eq!(points, roots, "{told:#}");
    let checked = world.told_there(machine, &format!("failback verify $target --point {} --json", roots.len() - 1));
    assert_eq!(checked["matches"], true, "{checked:#}");
    let jobs = world.told_there(machine, "failback jobs --json");
    let states: Vec<_> = jobs["jobs"].as_array().unwrap().iter().map(|job| job["state"].as_str().unwrap()).collect();
    assert_eq!(states.iter().filter(|state| **state == "done").count(), 3, "{jobs:#}");
    assert!(!states.contains(&"running"), "{jobs:#}");
}

/// QEMU finds nothing wrong with a VMDK that went through the loss of power.
fn is_sound(vmdk: &Path) {
    tool("qemu-img", &["check".as_ref(), "-q".as_ref(), "-f".as_ref(), "vmdk".as_ref(), vmdk.as_os_str()]);
}
