//! Boot arguments that are refused: which, and that a disk stays as it is where two of them say two things about it.

use crate::image::KEY;
use crate::iso::{live_iso, top};
use crate::machine::{Attached, Machine, job_disk, uuid};
use failback_tests::lab::guest::{Firmware, Medium};
use failback_tests::lab::{Place, has_programs, root_of_file};
use std::process::Command;

const JOB: u8 = 9;

/// What a shell makes of a command line: for each argument that is refused its name and why.
fn refused(shell: &[&str], line: &str) -> Vec<(String, String)> {
    let place = Place::new();
    let line = place.file("cmdline", format!("{line}\n").as_bytes());
    // As the scripts of the live ISO do it, with their own files.
    let script = "cd \"$1\"; . appliance/lib/keys-and-names.sh; . appliance/live/root/usr/libexec/failback/arguments.sh
        eval \"$(sed -n '/^command_line()/,/^}/p' appliance/live/root/usr/libexec/failback/common.sh | sed \"s,/proc/cmdline,$2,\")\"
        command_line | refused_arguments";
    let mut command = Command::new(shell[0]);
    let output = command.args(&shell[1..]).args(["-c", script, "sh"]).arg(top()).arg(line).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    told.lines().map(|line| line.split_once('\t').unwrap()).map(|(name, why)| (name.into(), why.into())).collect()
}

#[test]
fn what_is_refused_of_a_command_line() {
    if !has_programs(&["dash", "busybox"]) {
        return;
    }
    let key = format!("failback.sshkey=\"{KEY}\"");
    let longest = format!("failback.hostname={}", "a".repeat(63));
    let (retention, host) = ("failback.retention", "failback.hostname");
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("quiet root=x failback", &[]),
        (&format!("{key} \"failback.sshkey={KEY}\" failback.sshkey=disk failback.ip=dhcp {longest}"), &[]),
        (
            "failback.retention=format:naa.1 failback.then=shell failback.nic=a failback.run=j failback.hostname=a-1.b",
            &[],
        ),
        ("failback.retention=LABEL=KEPT failback.retention=format:1", &[(retention, "stands there twice")]),
        ("failback.retention=LABEL=KEPT quiet \"failback.retention=LABEL=KEPT\"", &[(retention, "stands there twice")]),
        ("failback.retention", &[(retention, "has no value")]),
        ("failback.retention=\"\"", &[(retention, "has no value")]),
        (
            "failback.retention=UUID=1 failback.retention",
            &[(retention, "stands there twice"), (retention, "has no value")],
        ),
        ("failback.retention=format:", &[(retention, "is not understood")]),
        ("failback.retention=sda", &[(retention, "is not understood")]),
        ("failback.retenton=LABEL=x", &[("failback.retenton", "is not known")]),
        ("failbackxretention=LABEL=x failback.", &[("failback.", "is not known")]),
        ("failback.ip=dhcp failback.ip=dhcp", &[("failback.ip", "stands there twice")]),
        ("failback.then=dance", &[("failback.then", "is not understood")]),
        ("failback.sshkey=junk", &[("failback.sshkey", "is no public ssh key")]),
        (&format!("failback.sshkey={KEY}"), &[("failback.sshkey", "is no public ssh key")]),
        (&format!("failback.sshkey=\"# {KEY}\""), &[("failback.sshkey", "is no public ssh key")]),
        (&format!("{longest}a"), &[(host, "is no host name")]),
        ("failback.hostname=a_b", &[(host, "is no host name")]),
        ("failback.hostname=a.", &[(host, "is no host name")]),
        ("failback.hostname=a.-b", &[(host, "is no host name")]),
    ];
    for shell in [&["dash"][..], &["bash"], &["busybox", "sh"]] {
        for (line, expected) in cases {
            let found = refused(shell, line);
            assert_eq!(found.len(), expected.len(), "{shell:?} {line}: {found:?}");
            for ((name, why), (expected, words)) in found.iter().zip(*expected) {
                assert!(name == expected && why.contains(words), "{shell:?} {line}: {found:?}");
            }
        }
    }
}

/// Two that name a retention disk, as typed in GRUB's menu, where nobody checks them: neither is taken, and the empty disk that the last
/// one would have formatted is not touched.
#[test]
fn slow_two_retention_disks_are_none() {
    let Some(iso) = live_iso() else { return };
    let place = Place::new();
    let blank = place.sparse("blank.img", 32 << 20, &[]);
    let job = job_disk(
        &place,
        "job.img",
        &format!(
            "result guarded blockdev --getro $(disk {})\n\
             result problems cat /run/failback/problems\n\
             result check failback check\n\
             result name hostname\n\
             result keys cat /root/.ssh/authorized_keys\n\
             result address ip -o -4 addr show scope global\n",
            uuid(1)
        ),
        &[],
    );
    let untouched = [root_of_file(&blank), root_of_file(&job)];
    let typed = format!(
        "failback.retention=LABEL=KEPT failback.retention=format:{} failback.retenton=x failback.hostname=a_b \
         failback.sshkey=junk failback.ip=dhcp failback.ip=192.0.2.7/24",
        uuid(1)
    );
    let results = Machine::new(&iso, "failback.run=job failback.then=poweroff", Firmware::Bios, Medium::Cd)
        .typed(&typed)
        .disk(Attached::new(&blank, 1))
        .disk(Attached::new(&job, JOB).own())
        .run();
    let console = results.log();
    let of = |name: &str| String::from_utf8_lossy(&results.of(name).stdout).into_owned();
    for words in [
        "failback.retention stands there twice",
        "failback.retenton is not known",
        "failback.hostname=a_b is no host name",
        "a failback.sshkey is no public ssh key",
        "failback.ip stands there twice",
    ] {
        for told in [console, &of("problems"), &of("check")] {
            assert!(told.contains(words), "{words:?} is not in:\n{told}");
        }
    }
    assert!(console.contains("no disk is made or taken as retention disk"), "{console}");
    assert_eq!(of("guarded"), "1\n", "{console}");
    assert_eq!(of("name"), "failback\n", "{console}");
    assert_eq!(of("keys") + &of("address"), "", "{console}");
    assert_eq!([root_of_file(&blank), root_of_file(&job)], untouched);
}
