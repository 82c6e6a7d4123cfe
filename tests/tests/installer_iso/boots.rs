//! Machines of both kinds of firmware boot the installer from a CD and from a stick, and find the kickstart and the packages there.

use crate::isos::{GUARD, Workshop};
use failback_tests::lab::guest::{Firmware, Guest, MEDIUM_ARGUMENTS, Medium, boot, has_firmware};
use failback_tests::lab::tool;
use std::fs;

const MODULES: [&str; 6] = ["ahci", "sr_mod", "sd_mod", "isofs", "xhci_pci", "usb_storage"];

/// Finds the medium as the installer does, by the label in inst.ks.
const SCRIPT: &str = r#"
result arguments cat /proc/cmdline
label=$(sed -n 's/.*inst\.ks=hd:LABEL=\([^:]*\):.*/\1/p' /proc/cmdline)
[ -n "$label" ] || die 'there is no inst.ks'
await 'the medium' sh -c "findfs LABEL=$label >/dev/null 2>&1"
mount -t iso9660 -o ro "$(findfs "LABEL=$label")" /mnt || die 'the medium cannot be mounted'
result kickstart cat /mnt/failback/ks.cfg
result files sh -c 'cd /mnt/failback && find . -type f | sort | xargs sha256sum'
"#;

/// An installer for this release boots from a CD and from a stick. A menu has an entry that checks the medium first, which is the one
/// that starts unasked.
fn boots(release: u32, firmware: Firmware) {
    if !has_firmware(firmware) {
        return;
    }
    let Some(guest) = Guest::new() else { return };
    let Some(workshop) = Workshop::new() else { return };
    let (kernel, initrd) = guest.modules(&MODULES).for_medium(SCRIPT);
    let iso = workshop.boot_iso_with(release, &kernel, &initrd);
    // A key has blanks, and so quotes around it, which GRUB moves to the begin of the word.
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJyOZn9vS4mPpW0hG1Zz4zqk0n7oR7QpBz1tH3uXgZ8k admin@site";
    let installer = workshop.installer(&iso, &format!("{MEDIUM_ARGUMENTS} failback.sshkey=\"{key}\""), "installer.iso");
    let content = workshop.content(&installer, "content").join("failback");
    let files =
        tool("sh", &["-c", &format!("cd {} && find . -type f | LC_ALL=C sort | xargs sha256sum", content.display())]);
    let label = format!("CentOS-Stream-{release}-BaseOS-x86_64");
    for medium in [Medium::Cd, Medium::Stick] {
        let results = boot(&installer, firmware, medium).finish();
        let said = |name: &str| String::from_utf8(results.of(name).stdout.clone()).unwrap();
        let arguments = said("arguments");
        let expected = [
            format!("inst.stage2=hd:LABEL={label} rd.live.check quiet"),
            format!("inst.ks=hd:LABEL={label}:/failback/ks.cfg {GUARD} {MEDIUM_ARGUMENTS}"),
            String::new(),
        ]
        .join(" ");
        let quoted = [format!("failback.sshkey=\"{key}\""), format!("\"failback.sshkey={key}\"")];
        let is_quoted = quoted.iter().any(|quoted| arguments.trim_end().ends_with(&format!("{expected}{quoted}")));
        assert!(is_quoted, "{medium:?}: {arguments}");
        assert_eq!(said("kickstart"), fs::read_to_string(content.join("ks.cfg")).unwrap(), "{medium:?}");
        assert_eq!(said("files").trim_end(), files, "{medium:?}");
    }
}

#[test]
fn slow_an_installer_for_el9_boots_by_bios() {
    boots(9, Firmware::Bios);
}

#[test]
fn slow_an_installer_for_el9_boots_by_uefi() {
    boots(9, Firmware::Uefi);
}

#[test]
fn slow_an_installer_for_el10_boots_by_bios() {
    boots(10, Firmware::Bios);
}

#[test]
fn slow_an_installer_for_el10_boots_by_uefi() {
    boots(10, Firmware::Uefi);
}
