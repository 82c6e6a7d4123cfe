//! What a disk is called, and which are the appliance's own: all who have these rules keep to the same ones.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod copies;
mod live;
mod machine;

use failback_hostdev::{AttachedDisk, Host, inventory_of};
use machine::{Machine, SHELLS, source};
use serde_json::Value;
use std::fs;
use std::process::Command;

const DISKS: &str = include_str!("disks");
const RECORDS: &str = include_str!("records");
const OWN_DISKS: &str = "etc/failback/own-disks";

/// A disk of the table.
#[derive(Default)]
struct Case {
    name: &'static str,
    disk: &'static str,
    files: Vec<(&'static str, Vec<u8>)>,
    wwid: Option<String>,
    uuid: Option<String>,
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in DISKS.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            cases.push(Case { name: name.strip_suffix(']').unwrap(), ..Case::default() });
            continue;
        }
        let case = cases.last_mut().unwrap();
        let (word, rest) = line.split_once(' ').unwrap();
        let text = |rest| String::from_utf8(bytes(rest)).unwrap();
        match word {
            "disk" => case.disk = rest,
            "file" => {
                let (path, content) = rest.split_once(' ').unwrap_or((rest, ""));
                case.files.push((path, bytes(content)));
            }
            "wwid" => case.wwid = Some(text(rest)),
            "uuid" => case.uuid = Some(text(rest)),
            other => panic!("{other} is not understood"),
        }
    }
    cases
}

/// What an escaped text of the table stands for.
fn bytes(text: &str) -> Vec<u8> {
    let mut found = Vec::new();
    let mut rest = text.as_bytes().iter().copied();
    while let Some(byte) = rest.next() {
        match (byte, if byte == b'\\' { rest.next() } else { None }) {
            (b'\\', Some(b's')) => found.push(b' '),
            (b'\\', Some(b'n')) => found.push(b'\n'),
            (b'\\', Some(b'\\')) => found.push(b'\\'),
            (b'\\', Some(b'x')) => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                found.push(u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap());
            }
            (b'\\', other) => panic!("{other:?} is not understood in {text}"),
            (plain, _) => found.push(plain),
        }
    }
    found
}

/// What the agent knows of the one disk.
fn by_agent(machine: &Machine) -> AttachedDisk {
    inventory_of(&Host::below(machine.root()), &|_| ()).unwrap().remove(0)
}

#[test]
fn everybody_calls_a_disk_the_same() {
    let cases = cases();
    assert!(cases.len() > 40 && cases.iter().all(|case| !case.disk.is_empty()));
    for case in &cases {
        let Some(mut machine) = Machine::new() else { return };
        let files: Vec<_> = case.files.iter().map(|(path, content)| (*path, &**content)).collect();
        machine.disk(case.disk, &files);
        let (name, wwid) = (case.name, case.wwid.as_deref().unwrap_or_default());
        let uuid = case.uuid.as_deref().unwrap_or_default();
        let either = if wwid.is_empty() { uuid } else { wwid };

        let agent = by_agent(&machine);
        let told = (agent.wwid.unwrap_or_default(), agent.scsi_uuid.map(|uuid| uuid.to_string()).unwrap_or_default());
        assert_eq!((&*told.0, &*told.1), (either, uuid), "the agent: {name}");

        let library = "/usr/libexec/failback";
        let place = format!("/sys/block/{}", case.disk);
        let find = format!(". {library}/wwid.sh; find_names {place}; printf '%s|%s' \"$wwid\" \"$uuid\"");
        let live = format!(". {library}/common.sh; name_of {0}; scsi_uuid_of {0}", case.disk);
        let kickstart = format!(
            ". {library}/wwid.sh; . {library}/disks.sh; list_disks; printf '%s' \"${{wwid_of[{}]}}\"",
            case.disk
        );
        for shell in SHELLS {
            assert_eq!(machine.run(shell, &["-euc", &find]).0, format!("{wwid}|{uuid}"), "{shell:?}: {name}");
        }
        let told = machine.run(SHELLS[3], &["-c", &live]).0;
        assert_eq!(told.trim_end_matches('\n'), format!("{either}\n{uuid}").trim_end_matches('\n'), "live ISO: {name}");
        assert_eq!(machine.run(SHELLS[1], &["-euc", &kickstart]).0, either, "kickstart: {name}");

        // The disk is its owner's by each of its names, and by none that it has not.
        for (record, role) in [(wwid, "system"), (uuid, "retention")] {
            let own = if record.is_empty() { "system naa.1\n".to_owned() } else { format!("{role} {record}\n") };
            machine.write(OWN_DISKS, own.as_bytes());
            let role = if record.is_empty() { None } else { Some(role) };
            assert_eq!(by_agent(&machine).own.as_deref(), role, "the agent, by {record}: {name}");
            for shell in SHELLS {
                let (owner, said) = machine.owner(shell, &place);
                assert_eq!((&*owner, &*said), (role.unwrap_or("foreign"), ""), "{shell:?}, by {record}: {name}");
            }
        }
    }
}

#[test]
fn everybody_reads_the_list_of_own_disks_the_same() {
    let lines = RECORDS.lines().filter(|line| !line.starts_with('#'));
    let records: Vec<_> = lines.map(|line| (line[..8].trim_end(), &line[8..])).collect();
    let verdicts = ["own", "other", "live", "name", "role", "unclean", "twice"];
    assert!(verdicts.iter().all(|wanted| records.iter().any(|(verdict, _)| verdict == wanted)));
    for (verdict, record) in records {
        let Some(mut machine) = Machine::new() else { return };
        machine.disk("sda", &[("device/wwid", b"naa.6000c2999176dd776e0123456789abcd\n")]);
        machine.write(
            "sys/devices/sda/device/vpd_pg83",
            &bytes(r"\x00\x83\x00\x14\x01\x03\x00\x10\x60\x00\xc2\x99\x91\x76\xdd\x77\x6e\x01\x23\x45\x67\x89\xab\xcd"),
        );
        let line = bytes(record);
        machine.write(OWN_DISKS, &[b"system virtio-first\n", &line[..], b"\n"].concat());
        let text = String::from_utf8_lossy(&line);
        let role = text.split_ascii_whitespace().next().filter(|_| matches!(verdict, "own" | "live"));
        let refused = match verdict {
            "name" => Some("which is neither a WWID of the kernel's nor a SCSI UUID"),
            "role" => Some("which is neither system nor retention"),
            "unclean" => Some("holds a character that is no plain text"),
            "twice" => Some("names virtio-first once more"),
            _ => None,
        };

        let agent = inventory_of(&Host::below(machine.root()), &|_| ());
        assert_eq!(agent.is_err(), refused.is_some(), "the agent: {record}");
        if let Err(error) = agent {
            let cause = std::error::Error::source(&error).unwrap().to_string();
            assert!(cause.starts_with("line 2 ") && cause.contains(refused.unwrap()), "{record}: {cause}");
        } else {
            assert_eq!(by_agent(&machine).own.as_deref(), role, "the agent: {record}");
        }
        // Shells leave out a byte that is zero.
        for shell in SHELLS.iter().filter(|_| !line.contains(&0)) {
            let owner = machine.owner(shell, "/sys/block/sda").0;
            assert_eq!(owner, role.filter(|role| *role != "job").unwrap_or("foreign"), "{shell:?}: {record}");
        }
        let (state, problem) = by_changes(&machine);
        let refused = if verdict == "live" { Some("begins with 'job'") } else { refused };
        assert_eq!(state, if refused.is_some() { "open" } else { "ok" }, "{record}: {problem}");
        let refused = if line.contains(&0) { Some("holds bytes that are no text") } else { refused };
        assert!(refused.is_none_or(|refused| problem.contains(refused)), "{record}: {problem}");
    }
}

/// Nobody waits for what never ends, or takes that there is none for one that cannot be read.
#[test]
fn a_list_that_is_no_plain_file_is_refused_by_everybody() {
    for to in ["nowhere", "/dev/zero", "other", ""] {
        let Some(mut machine) = Machine::new() else { return };
        machine.disk("sda", &[("device/wwid", b"naa.6000c2999176dd776e0123456789abcd\n")]);
        machine.write("etc/failback/other", b"system naa.6000c2999176dd776e0123456789abcd\n");
        let list = machine.path(OWN_DISKS);
        if to.is_empty() {
            nix::unistd::mkfifo(&list, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
        } else {
            std::os::unix::fs::symlink(to, list).unwrap();
        }
        assert!(inventory_of(&Host::below(machine.root()), &|_| ()).is_err(), "the agent: {to}");
        for shell in SHELLS {
            let owner = machine.owner(shell, "/sys/block/sda").0;
            assert_eq!(owner, if to == "other" { "system" } else { "foreign" }, "{shell:?}: {to}");
        }
        let (state, problem) = by_changes(&machine);
        assert!(state == "open" && problem.contains("is no plain file"), "{to}: {problem}");
    }
}

/// What apply-custom-changes says of the list: the state of that item, and its problem.
fn by_changes(machine: &Machine) -> (String, String) {
    let mut command = Command::new(source("scripts/apply-custom-changes"));
    command.arg("--root").arg(machine.root()).args(["--check", "--json"]);
    let told = command.output().unwrap().stdout;
    let report: Value = serde_json::from_slice(&told).unwrap();
    let item = &report["items"][0];
    assert_eq!(item["name"], "own-disks");
    (item["state"].as_str().unwrap().to_owned(), item["problems"].to_string())
}

/// The installer's and the live ISO's programs are made of the file that this test reads.
#[test]
fn there_is_one_script_for_all() {
    let script = fs::read_to_string(source("appliance/custom/files/usr/libexec/failback/wwid.sh")).unwrap();
    let lines: Vec<_> = script.lines().filter(|line| !line.starts_with("# shellcheck ")).collect();
    let body = lines.join("\n") + "\n";
    for release in ["el9", "el10"] {
        let output = Command::new("bash").arg(source("kickstart/flatten")).arg(release).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.matches(&body).count(), 2, "before the installation, and after it");
    }
}
