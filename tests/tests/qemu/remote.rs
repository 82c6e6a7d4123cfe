//! An administrator at another machine: SSH with the keys that were given, a delta that comes by scp, a disk that is plugged in later.

use crate::iso::live_iso;
use crate::machine::{Attached, Machine, RunningMachine, uuid, wwid};
use failback_tests::lab::guest::{Firmware, Medium};
use failback_tests::lab::{Place, changed, noise, root_of_file, tool, try_tool};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

const SIZE: usize = 4 << 20;
const RETENTION: u8 = 8;
const LATER: u8 = 5;

/// Calls `ssh` or `scp` with a key, for a machine whose own key is in a file, or goes there when it is first seen.
fn ssh(program: &str, port: u16, key: &Path, known: &Path, arguments: &[&str]) -> Output {
    let mut all: Vec<String> = vec![if program == "scp" { "-P" } else { "-p" }.into(), port.to_string()];
    for option in ["StrictHostKeyChecking=accept-new", "BatchMode=yes", "ConnectTimeout=60", "IdentitiesOnly=yes"] {
        all.extend(["-o".into(), option.into()]);
    }
    all.extend(["-o".into(), format!("UserKnownHostsFile={}", known.display())]);
    all.extend(["-F".into(), "none".into(), "-i".into(), key.display().to_string()]);
    all.extend(arguments.iter().map(ToString::to_string));
    try_tool(program, &all)
}

pub(crate) fn new_key(place: &Place, name: &str) -> PathBuf {
    let key = place.path(name);
    tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "somebody at work", "-f", key.to_str().unwrap()]);
    key
}

/// What a command says that an administrator runs there.
#[track_caller]
pub(crate) fn remotely(machine: &RunningMachine, key: &Path, known: &Path, command: &str) -> String {
    let output = ssh("ssh", machine.port, key, known, &["root@127.0.0.1", command]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command}: {told}\n{}", machine.guest.console());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn slow_an_administrator_works_over_ssh() {
    let Some(iso) = live_iso() else { return };
    let place = Place::new();
    let (key, other) = (new_key(&place, "key"), new_key(&place, "other"));
    let known = place.path("known");
    let base = noise(SIZE, 1);
    let (target, result) = (place.file("target.img", &base), place.file("result.img", &changed(&base, SIZE, 2)));
    let delta = place.delta("d", &target, &result, "16K");
    let later = place.file("later.img", &noise(1 << 20, 3));
    let retention = place.ext4("retention.img", 64 << 20, &[]);
    tool("e2label", &[retention.as_os_str(), "KEPT".as_ref()]);
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    let arguments = format!("failback.ip=dhcp failback.retention=LABEL=KEPT failback.sshkey=\"{}\"", public.trim());
    let mut machine = Machine::new(&iso, &arguments, Firmware::Bios, Medium::Stick)
        .disk(Attached::new(&target, 0))
        .disk(Attached::new(&retention, RETENTION).own())
        .disk(Attached::new(&later, LATER).later())
        .start();
    machine.guest.await_printed("ready after");
    // Its menu, or the plain screen with the same facts.
    machine.guest.await_printed(&uuid(0));

    let delta_there = "root@127.0.0.1:/var/lib/failback/retention/d";
    let copied = ssh("scp", machine.port, &key, &known, &[delta.to_str().unwrap(), delta_there]);
    assert!(copied.status.success(), "{}\n{}", String::from_utf8_lossy(&copied.stderr), machine.guest.console());
    let refused = ssh("ssh", machine.port, &other, &known, &["root@127.0.0.1", "true"]);
    assert!(!refused.status.success(), "a key that nobody gave opens the machine");
    let apply = format!(
        "failback apply /var/lib/failback/retention/d $(readlink -f /dev/disk/by-scsi-uuid/{}) --yes --json",
        uuid(0)
    );
    let applied: serde_json::Value = serde_json::from_str(&remotely(&machine, &key, &known, &apply)).unwrap();
    assert_eq!((&applied["point"], &applied["result_root"]), (&1.into(), &root_of_file(&result).into()), "{applied:#}");

    machine.plug_in(LATER);
    let link = format!("/dev/disk/by-scsi-uuid/{}", uuid(LATER));
    let guarded = format!("for i in $(seq 1000); do [ -e {link} ] && break; sleep 0.1; done; blockdev --getro {link}");
    assert_eq!(remotely(&machine, &key, &known, &guarded).trim(), "1", "a disk that is plugged in is not read-only");
    let own = remotely(&machine, &key, &known, "cat /etc/failback/own-disks");
    assert_eq!(own.trim(), format!("retention {}", wwid(RETENTION)));
    // The connection may be gone before its exit code has come.
    ssh("ssh", machine.port, &key, &known, &["root@127.0.0.1", "poweroff"]);
    let results = machine.guest.await_end();
    assert!(!results.log().contains("This is a shell"), "the console has ended, not failed:\n{}", results.log());
    assert_eq!(root_of_file(&target), root_of_file(&result));
    assert_eq!(root_of_file(&later), root_of_file(&place.file("same.img", &noise(1 << 20, 3))));
    // The machine's own key, by which it is known at its next start.
    let kept = tool("debugfs", &["-R".as_ref(), "ls -p /appliance/ssh".as_ref(), retention.as_os_str()]);
    assert!(kept.contains("dropbear_ed25519_host_key"), "{kept}");
}
