//! Machines that boot from a medium of the test's, by their own firmware and the boot loader that is on it.

use super::{Limits, QEMU, RunningGuest, which};
use crate::lab::{has_programs, skipped};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Firmware and boot loader are emulated too, and read the kernel block by block: what takes half a minute on an idle machine takes
/// minutes on a busy one, much of it in silence.
const LIMITS: Limits = Limits { total: Duration::from_secs(240), silence: Duration::from_secs(150) };

/// What UEFI is in QEMU: its code, and its variables as they leave the factory.
const OVMF: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"];

/// What the kernel of a medium must be started with. Where everything is emulated on a busy machine, the timer's interrupts can be so late
/// that the kernel takes the timer for broken, and gives up.
pub const ARGUMENTS: &str = "console=ttyS0 no_timer_check panic=-1";

/// What a machine boots by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// `SeaBIOS`.
    Bios,
    /// OVMF, without secure boot.
    Uefi,
}

/// What an ISO is to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// In a drive; modules `ahci`, `sr_mod` and `isofs`.
    Cd,
    /// Written to a USB stick; modules `xhci_pci`, `usb_storage`, `sd_mod` and `isofs`.
    Stick,
}

/// Whether machines with this firmware can be had here; says why not.
pub fn has_firmware(firmware: Firmware) -> bool {
    let missing = OVMF.into_iter().find(|path| firmware == Firmware::Uefi && !Path::new(path).exists());
    match missing {
        Some(path) => skipped(&format!("there is no {path}: apt-get install ovmf")),
        None => has_programs(&[QEMU]),
    }
}

/// Starts a machine that boots from this ISO, which must hold the files of [`Guest::for_medium`](super::Guest::for_medium) and start
/// them with [`ARGUMENTS`].
pub fn boot(iso: &Path, firmware: Firmware, medium: Medium) -> RunningGuest {
    let place = tempfile::tempdir().unwrap();
    let mut command = Command::new(which(QEMU));
    command.args(["-machine", "q35", "-cpu", "max", "-accel", "tcg", "-smp", "1", "-m", "512", "-vga", "std"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    boots_from(&mut command, iso, firmware, medium, place.path());
    RunningGuest::start(command, place, LIMITS)
}

/// Has a machine boot from this ISO. What the firmware keeps is in a directory that has to live as long as it.
pub fn boots_from(command: &mut Command, iso: &Path, firmware: Firmware, medium: Medium, place: &Path) {
    if firmware == Firmware::Uefi {
        let ([code, factory], variables) = (OVMF, place.join("variables"));
        fs::copy(factory, &variables).unwrap();
        command.args(["-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={code}")]);
        command.args(["-drive", &format!("if=pflash,format=raw,unit=1,file={}", variables.display())]);
    }
    command.args(["-drive", &format!("if=none,id=medium,format=raw,readonly=on,file={}", iso.display())]);
    command.args(match medium {
        Medium::Cd => &["-device", "ide-cd,bus=ide.0,drive=medium,bootindex=0"][..],
        Medium::Stick => &["-device", "qemu-xhci", "-device", "usb-storage,drive=medium,bootindex=0"],
    });
}
