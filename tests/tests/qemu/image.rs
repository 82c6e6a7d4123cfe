//! The ISO itself: how large it is, what it starts with, that it can be made again, and what its builder refuses.

use crate::iso::{builder, live_iso, with_arguments};
use failback_tests::lab::{Place, program, root_of_file, tool};
use std::fs::{self, File};
use std::io::Read;

/// The most that it may have.
const MOST_BYTES: u64 = 64 << 20;

#[test]
fn slow_it_is_small_and_starts_with_bios_and_uefi() {
    let Some(iso) = live_iso() else { return };
    let size = fs::metadata(&iso).unwrap().len();
    println!("{} MiB", size >> 20);
    assert!(size <= MOST_BYTES, "{size} bytes");
    let name = iso.to_str().unwrap();
    let told = tool("xorriso", &["-indev", name, "-report_el_torito", "plain", "-report_system_area", "plain"]);
    for words in ["El Torito boot img :   1  BIOS  y", "El Torito boot img :   2  UEFI  y", "grub2-mbr", "GPT"] {
        assert!(told.contains(words), "{words:?} is not in:\n{told}");
    }
    assert_eq!(tool("blkid", &["-p", "-o", "value", "-s", "LABEL", name]), "FAILBACK_LIVE");
}

#[test]
fn slow_two_builds_have_the_same_bytes() {
    let Some(iso) = live_iso() else { return };
    let place = Place::new();
    let again = place.path("again.iso");
    let built = builder().arg("-o").arg(&again).arg("--binary").arg(program()).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    assert_eq!(root_of_file(&iso), root_of_file(&again));
}

#[test]
fn slow_only_the_arguments_change() {
    let Some(iso) = live_iso() else { return };
    let place = Place::new();
    let (other, same) = (place.path("other.iso"), place.path("same.iso"));
    with_arguments(&iso, "failback.ip=dhcp failback.sshkey=\"ssh-ed25519 AAAA somebody\"", &other);
    let read = |path| {
        let mut bytes = Vec::new();
        File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    };
    let (before, after) = (read(&iso), read(&other));
    assert_eq!(before.len(), after.len());
    let differ: Vec<_> = (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
    assert!(!differ.is_empty() && differ[differ.len() - 1] - differ[0] < 4096);
    let text = String::from_utf8_lossy(&after[differ[0] - 100..=differ[differ.len() - 1]]).into_owned();
    assert!(text.contains("'failback.ip=dhcp' 'failback.sshkey=ssh-ed25519 AAAA somebody'"), "{text}");
    with_arguments(&other, "", &same);
    assert_eq!(root_of_file(&same), root_of_file(&iso));
}

/// What is refused, with what is said.
#[test]
fn its_builder_refuses_what_it_cannot_do() {
    let place = Place::new();
    let out = place.path("out.iso");
    let nothing = place.file("nothing", b"no ISO of ours");
    let nothing = nothing.to_str().unwrap();
    let long = format!("failback.sshkey={}", "A".repeat(5000));
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--from", nothing, "--arguments", "failback.ip=dhcp"], 1, "is no live ISO of failback"),
        (&["--from", "/nowhere", "--arguments", ""], 1, "is no file"),
        (&["--arguments", "failback.sshkey=\"ssh-ed25519"], 1, "has no end"),
        (&["--arguments", "failback.run=it's"], 1, "single quotes"),
        (&["--arguments", "failback.run=$kernel"], 1, "dollars"),
        (&["--arguments", &long], 1, "too long"),
        (&["--kernel-rpm", "a", "--kernel-deb", "b"], 2, "not as both"),
        (&["--binary", nothing], 1, "is no program"),
        (&["--frob", "x"], 2, "is not understood"),
    ];
    for (arguments, code, words) in cases {
        let output = builder().arg("-o").arg(&out).args(*arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {told}");
        assert!(told.contains(words), "{words:?} is not in: {told}");
        assert!(!out.exists(), "{arguments:?} made something");
    }
    let without = builder().output().unwrap();
    assert!(String::from_utf8_lossy(&without.stderr).contains("-o is missing"));
}
