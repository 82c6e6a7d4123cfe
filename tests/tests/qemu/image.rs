//! The ISO itself: how large it is, what it starts with, that it can be made again, and what its builder refuses.

use crate::iso::{builder, live_iso, with_arguments};
use failback_tests::lab::{Place, has_programs, noise, program, root_of_file, tool};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A key as it stands in a .pub file.
pub(crate) const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJyOZn9vS4mPpW0hG1Zz4zqk0n7oR7QpBz1tH3uXgZ8k admin@site";
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
    with_arguments(&iso, &format!("failback.ip=dhcp failback.sshkey=\"{KEY}\""), &other);
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
    assert!(text.contains(&format!("'failback.ip=dhcp' 'failback.sshkey={KEY}'")), "{text}");
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
    let long = format!("failback.sshkey=\"{KEY} {}\"", "A".repeat(5000));
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--from", nothing, "--arguments", "failback.ip=dhcp"], 1, "is no live ISO of failback"),
        (&["--from", "/nowhere", "--arguments", ""], 1, "is no file"),
        (&["--from", nothing], 2, "lacks --arguments"),
        (&["--from", nothing, "--arguments", "", "--no-ssh"], 2, "changes the boot arguments only"),
        (&["--from", nothing, "--arguments", "", "--binary", "x"], 2, "changes the boot arguments only"),
        (&["--from", nothing, "--arguments", "", "--kernel-rpm", "x"], 2, "changes the boot arguments only"),
        (&["--from", nothing, "--arguments", "", "--kernel-deb", "x"], 2, "changes the boot arguments only"),
        (&["--arguments", "failback.retenton=x"], 1, "failback.retenton is not known"),
        (&["--arguments", "failback.retention"], 1, "failback.retention has no value"),
        (&["--arguments", "failback.sshkey=\"ssh-ed25519"], 1, "has no end"),
        (&["--arguments", "failback.run=it's"], 1, "single quotes"),
        (&["--arguments", "failback.run=$kernel"], 1, "dollars"),
        (&["--arguments", &long], 1, "too long"),
        (&["--kernel-rpm", "a", "--kernel-deb", "b"], 2, "not as both"),
        (&["--binary", nothing], 1, "is no program"),
        (&["--binary", "/bin/ls"], 1, "not \"failback "),
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

/// What has the name of the output and is no file stays as it is: a stick whose node were replaced would get nothing.
#[test]
fn its_builder_replaces_nothing_but_a_file() {
    let place = Place::new();
    let (pipe, link, dangling) = (place.path("pipe"), place.path("link"), place.path("dangling"));
    tool("mkfifo", &[&pipe]);
    symlink(place.file("behind", b"content"), &link).unwrap();
    symlink("nowhere", &dangling).unwrap();
    let before = place.names();
    for out in [&pipe, &link, &dangling] {
        let kind = fs::symlink_metadata(out).unwrap().file_type();
        for arguments in [&["--from", "/nowhere", "--arguments", ""][..], &[]] {
            let output = builder().arg("-o").arg(out).args(arguments).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{told}");
            assert!(told.contains("is no regular file, so it is not replaced"), "{told}");
            assert_eq!(fs::symlink_metadata(out).unwrap().file_type(), kind);
            assert_eq!(place.names(), before);
        }
    }
}

/// An ISO made by hand as a live one is: with this label and, in a file, these boot arguments.
fn small_iso(place: &Place, name: &str, label: &str, arguments: &str) -> PathBuf {
    let (tree, iso) = (place.directory(&format!("{name}.tree")), place.path(name));
    fs::write(tree.join("arguments.cfg"), arguments).unwrap();
    fs::write(tree.join("vmlinuz"), noise(100_000, 1)).unwrap();
    let command =
        ["-as", "mkisofs", "-quiet", "-no-pad", "-V", label, "-o", iso.to_str().unwrap(), tree.to_str().unwrap()];
    tool("xorriso", &command);
    iso
}

/// What is no live ISO, or not all of one, is not taken for one: it would be found out when it is to be started.
#[test]
fn only_a_whole_live_iso_gets_other_arguments() {
    if !has_programs(&["xorriso"]) {
        return;
    }
    let place = Place::new();
    let block = |text: &str| format!("{text:4095}\n");
    let mark = "# Boot arguments of this ISO, padded to 4096 bytes\n";
    let plain = block(&format!("{mark}function linux_with_arguments {{\n    linux $kernel 'quiet'\n}}\n"));
    let make = |name, label, arguments: &str| small_iso(&place, name, label, arguments);
    let out = place.path("out.iso");
    let change = |iso: &Path| {
        let output = builder().arg("--from").arg(iso).args(["--arguments", "failback.run=j", "-o"]).arg(&out).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let whole = make("whole.iso", "FAILBACK_LIVE", &plain);
    assert_eq!(change(&whole), (Some(0), String::new()));
    assert!(String::from_utf8_lossy(&fs::read(&out).unwrap()).contains("linux $kernel 'failback.run=j'\n}\n"));
    fs::remove_file(&out).unwrap();
    let bytes = fs::read(&whole).unwrap();
    let cut = place.file("cut.iso", &bytes[..bytes.len() - 1]);
    let text = place.file("text.iso", plain.as_bytes());
    for (iso, words) in [
        (cut, "is cut off"),
        (text, "nor another ISO"),
        (make("label.iso", "OTHER", &plain), "its label is \"OTHER\""),
        (make("none.iso", "FAILBACK_LIVE", "nothing"), "once and whole"),
        (make("twice.iso", "FAILBACK_LIVE", &plain.repeat(2)), "once and whole"),
        (make("short.iso", "FAILBACK_LIVE", &plain[..4000]), "once and whole"),
        (make("late.iso", "FAILBACK_LIVE", &format!("\n{plain}")), "once and whole"),
        (make("other.iso", "FAILBACK_LIVE", &plain.replace("\n}\n", "\n]\n")), "once and whole"),
    ] {
        let (code, told) = change(&iso);
        assert!(code == Some(1) && told.contains(words), "{words:?} is not in: {told}");
        assert!(!out.exists(), "{}", iso.display());
    }
}
