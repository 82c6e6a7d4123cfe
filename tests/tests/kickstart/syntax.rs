//! What the installer's own parser, bash and shellcheck say about the kickstart.

use crate::prepared::{GIB, KEY, Machine, flattened, script};
use failback_tests::lab::{Place, is_installed, try_tool};
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where the parser is: in the directory that cargo builds into, where it is put if it is not there; or why it is not.
fn parser() -> Option<PathBuf> {
    let test = env::current_exe().unwrap();
    // target/debug/deps/test-0123
    let directory = test.ancestors().nth(3).unwrap().join("pykickstart");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("scripts/lib/pykickstart");
    let made = Command::new("bash").arg(script).arg(&directory).output().unwrap();
    let told = String::from_utf8_lossy(&made.stderr);
    if !made.status.success() {
        println!("skipped: {}", told.lines().last().unwrap_or("there is no parser of kickstarts"));
        let demanded = env::var_os("FAILBACK_REQUIRE_ROOT_TESTS").is_some_and(|value| value == "1");
        assert!(!demanded, "FAILBACK_REQUIRE_ROOT_TESTS is set, but: {told}");
        return None;
    }
    Some(directory)
}

fn parse(parser: &Path, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("python3");
    command.arg(parser.join("bin").join(program)).args(arguments);
    command.env("PYTHONPATH", parser).output().unwrap()
}

/// The validator takes a warning for an error; a test below makes sure of it.
#[track_caller]
fn is_valid(parser: &Path, release: u32, file: &Path, includes: bool) {
    let (version, file) = (format!("RHEL{release}"), file.to_str().unwrap());
    let mut arguments = vec!["-v", &version, file];
    if includes {
        arguments.push("-i");
    }
    let checked = parse(parser, "ksvalidator", &arguments);
    let told = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && !told.contains("arning"), "{told}");
}

#[test]
fn each_release_has_a_valid_kickstart() {
    let Some(parser) = parser() else { return };
    let place = Place::new();
    for release in [9, 10] {
        let text = flattened(release);
        is_valid(&parser, release, &place.file("one.ks", text.as_bytes()), false);
        // With the commands that the script before the installation writes.
        let Some(machine) = Machine::new(release) else { return };
        let machine = machine.disk("sda", 40 * GIB, Some("naa.6000c2990000000000000000000000aa"));
        let arguments =
            "failback.system=naa.6000c2990000000000000000000000aa failback.ip=10.0.0.5/24,10.0.0.1,10.0.0.2";
        let answers = machine.arguments(&format!("{arguments} failback.sshkey=\"{KEY}\"")).chosen().answers;
        let answers = place.file("answers.ks", answers.as_bytes());
        let text = text.replace("/tmp/failback/answers.ks", answers.to_str().unwrap());
        let whole = place.file("whole.ks", text.as_bytes());
        is_valid(&parser, release, &whole, true);
        let flat = place.path("flat.ks");
        let version = format!("RHEL{release}");
        let names = ["-c", whole.to_str().unwrap(), "-v", &version, "-o", flat.to_str().unwrap()];
        let flattening = parse(&parser, "ksflatten", &names);
        assert!(flattening.status.success(), "{}", String::from_utf8_lossy(&flattening.stderr));
        is_valid(&parser, release, &flat, false);
        let flat = std::fs::read_to_string(flat).unwrap();
        for command in ["rootpw --lock", "selinux --enforcing", "ignoredisk --only-use=sda", "lang en_US.UTF-8"] {
            assert!(flat.lines().any(|line| line.trim() == command), "{command} is not in\n{flat}");
        }
    }
}

#[test]
fn a_warning_of_the_parser_is_an_error() {
    let Some(parser) = parser() else { return };
    let place = Place::new();
    // A command that is gone, an option that is deprecated, and one that is gone.
    for (release, line) in [(9, "multipath"), (10, "network --device=a --teamslaves=b"), (10, "timezone UTC --isUtc")] {
        let file = place.file("bad.ks", format!("{}{line}\n", flattened(release)).as_bytes());
        let version = format!("RHEL{release}");
        let checked = parse(&parser, "ksvalidator", &["-v", &version, file.to_str().unwrap()]);
        let told = String::from_utf8_lossy(&checked.stdout);
        assert!(!checked.status.success() || told.contains("arning"), "{line}: {told}");
    }
}

#[test]
fn scripts_are_sound() {
    let place = Place::new();
    let has_shellcheck = is_installed("shellcheck");
    for release in [9, 10] {
        for header in ["%pre ", "%post --nochroot ", "%post --interpreter"] {
            let file = place.file("script.sh", format!("#!/usr/bin/bash\n{}", script(release, header)).as_bytes());
            let checked = try_tool("bash", &["-n".as_ref(), file.as_os_str()]);
            assert!(checked.status.success(), "{header}: {}", String::from_utf8_lossy(&checked.stderr));
            if has_shellcheck {
                let checked = try_tool("shellcheck", &[&file]);
                assert!(checked.status.success(), "{header}: {}", String::from_utf8_lossy(&checked.stdout));
            } else {
                println!("not looked at by shellcheck, which is not installed");
            }
        }
    }
}

#[test]
fn releases_differ_in_what_has_to_differ() {
    let packages = |release| -> Vec<String> {
        let text = flattened(release);
        let section = text.split_once("%packages").unwrap().1.split_once("%end").unwrap().0.to_owned();
        section.lines().skip(1).filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    let (el9, el10) = (packages(9), packages(10));
    let both =
        "xfsprogs perl lsscsi rsync wget kexec-tools lvm2 open-vm-tools chrony sg3_utils failback failback-appliance";
    for package in both.split_ascii_whitespace() {
        assert!(el9.iter().any(|line| line == package) && el10.iter().any(|line| line == package), "{package}");
    }
    assert!(!el9.contains(&"kdump-utils".to_owned()) && el10.contains(&"kdump-utils".to_owned()));
    for unwanted in ["udisks2", "device-mapper-multipath", "os-prober", "autofs", "stratisd"] {
        assert!(el10.contains(&format!("-{unwanted}")), "{unwanted}");
    }
}
