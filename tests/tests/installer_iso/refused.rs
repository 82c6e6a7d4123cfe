//! What no installer is made of. Whatever stands in the place of the output stays, and nothing else is left.

use crate::isos::Workshop;
use failback_tests::lab::tool;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

/// Building from this ISO fails with a sentence that has these words in it.
#[track_caller]
fn refused(workshop: &Workshop, iso: &Path, rpms: &str, words: &str) {
    let output = workshop.place.file("output.iso", b"what was there");
    let before = workshop.place.names();
    let built = workshop.build("installer", &["--boot-iso", iso.to_str().unwrap(), "--rpms", rpms, "-o", "output.iso"]);
    assert_eq!(built.code, 1, "{}", built.stderr);
    assert!(
        built.stderr.starts_with("build: ") && built.stderr.contains(words),
        "{words:?} is not in: {}",
        built.stderr
    );
    assert!(built.stdout.is_empty(), "{}", built.stdout);
    assert_eq!(built.stderr.lines().count(), 1, "{}", built.stderr);
    assert_eq!(fs::read(output).unwrap(), b"what was there");
    assert_eq!(workshop.place.names(), before);
}

#[test]
fn what_is_no_iso_of_centos() {
    let Some(workshop) = Workshop::new() else { return };
    let place = &workshop.place;
    refused(&workshop, &place.path("missing.iso"), "rpms", "there is no file ");
    refused(&workshop, place.root(), "rpms", "there is no file ");
    refused(&workshop, &place.file("empty.iso", b""), "rpms", "is no ISO image");
    refused(&workshop, &place.noisy("noise.iso", 100_000, 1), "rpms", "is no ISO image");
    let tree = place.directory("tree");
    // The checker of media fails with very small ones.
    fs::write(tree.join("file"), vec![1; 4 << 20]).unwrap();
    let made = |name: &str, label: &str| {
        let iso = place.path(name);
        tool("xorrisofs", &["-quiet", "-R", "-V", label, "-o", iso.to_str().unwrap(), tree.to_str().unwrap()]);
        tool("implantisomd5", &[&iso]);
        iso
    };
    for label in [
        "Fedora-S-dvd-x86_64-40",
        "CentOS-Stream-8-x86_64-dvd",
        "CentOS-Stream-9-BaseOS-aarch64",
        "RHEL-9-4-0-BaseOS-x86_64",
    ] {
        refused(&workshop, &made("other.iso", label), "rpms", &format!("its label is \"{label}\""));
    }
    // The label alone makes no installer.
    refused(&workshop, &made("data.iso", "CentOS-Stream-9-BaseOS-x86_64"), "rpms", "has no /EFI/BOOT/grub.cfg");
}

#[test]
fn what_is_damaged() {
    let Some(workshop) = Workshop::new() else { return };
    for release in [9, 10] {
        let iso = workshop.boot_iso(release);
        let whole = fs::read(&iso).unwrap();
        let place = &workshop.place;
        for length in [40_000, whole.len() / 2, whole.len() - 512] {
            refused(&workshop, &place.file("short.iso", &whole[..length]), "rpms", "is truncated");
        }
        let flipped = place.file("flipped.iso", &whole);
        let at = whole.len() as u64 / 2;
        File::options().write(true).open(&flipped).unwrap().write_all_at(&[whole[whole.len() / 2] ^ 1], at).unwrap();
        refused(&workshop, &flipped, "rpms", "is damaged: it does not have its media checksum");
        // The directory of the volume.
        let mut broken = whole.clone();
        broken[32768 + 156..32768 + 190].fill(0xff);
        refused(&workshop, &place.file("broken.iso", &broken), "rpms", "is damaged");
        // A volume without a checksum is none of CentOS's: the bytes of the descriptor that are for applications.
        let mut unchecked = whole.clone();
        unchecked[32768 + 883..32768 + 883 + 512].fill(b' ');
        refused(&workshop, &place.file("unchecked.iso", &unchecked), "rpms", "has no media checksum");
    }
}

#[test]
fn what_was_changed_before() {
    let Some(workshop) = Workshop::new() else { return };
    let iso = workshop.boot_iso(10);
    let installer = workshop.installer(&iso, "quiet", "installer.iso");
    refused(&workshop, &installer, "rpms", "has the packages of failback already");
    // By somebody else.
    let other = workshop.place.path("other.iso");
    let menu =
        workshop.place.file("grub.cfg", b"menuentry a {\n\tlinux /vmlinuz inst.ks=http://example.org/ks.cfg\n}\n");
    let (from, to) = (iso.to_str().unwrap(), other.to_str().unwrap());
    let update = ["-update", menu.to_str().unwrap(), "/boot/grub2/grub.cfg"];
    tool("xorriso", &[&["-indev", from, "-outdev", to, "-boot_image", "any", "replay"][..], &update].concat());
    tool("implantisomd5", &["--force", to]);
    refused(&workshop, &other, "rpms", "starts a kickstart of its own already");
}

#[test]
fn packages_that_are_not_ours() {
    let Some(workshop) = Workshop::new() else { return };
    let iso = workshop.boot_iso(9);
    refused(&workshop, &iso, "no-rpms", "there is no directory ");
    workshop.place.directory("empty");
    refused(&workshop, &iso, "empty", "there must be one package failback-[0-9]*.x86_64.rpm");
    let package = workshop.rpms().join("failback-appliance-1.0-1.noarch.rpm");
    let whole = fs::read(&package).unwrap();
    fs::write(&package, &whole[..whole.len() - 100]).unwrap();
    refused(&workshop, &iso, "rpms", "is damaged, or no package");
    fs::write(&package, whole).unwrap();
    workshop.package("failback", "x86_64", "1.1");
    refused(&workshop, &iso, "rpms", "and there are 2");
}

/// The output gets its name when it is complete, however late building fails.
#[test]
fn half_an_output_is_never_left() {
    let Some(workshop) = Workshop::new() else { return };
    let iso = workshop.boot_iso(9);
    let programs = workshop.place.directory("programs");
    let before = workshop.place.names();
    for (program, words) in [
        ("implantisomd5", "the media checksum cannot be written"),
        ("createrepo_c", "no repository can be made"),
        ("mformat", "no EFI system partition"),
    ] {
        let stub = programs.join(program);
        fs::write(&stub, "#!/bin/sh\nexit 1\n").unwrap();
        fs::set_permissions(&stub, Permissions::from_mode(0o755)).unwrap();
        let built = workshop.build_with(
            "installer",
            &["--boot-iso", iso.to_str().unwrap(), "--rpms", "rpms", "-o", "output.iso"],
            Some(&programs),
        );
        fs::remove_file(&stub).unwrap();
        assert_eq!(built.code, 1, "{}", built.stderr);
        assert!(built.stderr.contains(words), "{}", built.stderr);
        assert_eq!(workshop.place.names(), before);
    }
}

#[test]
fn calls_that_are_wrong() {
    let Some(workshop) = Workshop::new() else { return };
    let iso = workshop.boot_iso(9);
    let iso = iso.to_str().unwrap();
    for (arguments, words) in [
        (&[][..], "--boot-iso is missing"),
        (&["--boot-iso"], "--boot-iso lacks its value"),
        (&["--iso", iso], "--iso is not understood"),
        (&["--boot-iso", iso, "--append", "a\nb"], "--append has more than one line"),
        (&["--boot-iso", iso, "--append", "a=$b"], "--append has a character that boot menus take for themselves"),
        (&["--boot-iso", iso, "--append", "it's"], "--append has a character that boot menus take for themselves"),
    ] {
        let built = workshop.build("installer", arguments);
        assert_eq!(built.code, 2, "{}", built.stderr);
        assert!(
            built.stderr.contains(words) && built.stderr.contains("usage: appliance/build installer"),
            "{}",
            built.stderr
        );
    }
    for (output, words) in
        [(iso, "the output would replace "), ("none/out.iso", "there is no directory "), ("rpms", "is a directory")]
    {
        let built = workshop.build("installer", &["--boot-iso", iso, "--rpms", "rpms", "-o", output]);
        assert_eq!(built.code, 1, "{}", built.stderr);
        assert!(built.stderr.contains(words), "{}", built.stderr);
    }
    assert!(workshop.build("installer", &["--help"]).stdout.starts_with("usage: "));
}
