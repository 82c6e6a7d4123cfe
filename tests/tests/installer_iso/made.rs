//! What is on an installer, and what of CentOS's ISO stays as it is.

use crate::isos::{GUARD, Workshop, label, names_below};
use failback_tests::lab::{hash_of, tool, try_tool};
use std::fs;
use std::path::Path;
use std::process::Command;

fn menus(release: u32) -> &'static [&'static str] {
    if release == 9 {
        &["EFI/BOOT/grub.cfg", "isolinux/isolinux.cfg"]
    } else {
        &["EFI/BOOT/grub.cfg", "boot/grub2/grub.cfg"]
    }
}

/// The EFI system partition of an ISO, as the boot record for UEFI names it.
fn esp(workshop: &Workshop, iso: &Path, name: &str) -> String {
    let to = workshop.place.path(name);
    // Its report of what is missing in other boot records is none of ours.
    try_tool(
        "xorriso",
        &["-indev", iso.to_str().unwrap(), "-osirrox", "on", "-extract_boot_images", to.to_str().unwrap()],
    );
    to.join("eltorito_img2_uefi.img").to_str().unwrap().to_owned()
}

/// Whether one of the first volume descriptors is one for a second tree of names (ECMA-119, 8.5).
fn has_joliet(iso: &Path) -> bool {
    let bytes = fs::read(iso).unwrap();
    (17..20).any(|sector| bytes[sector * 2048..].starts_with(b"\x02CD001"))
}

#[test]
fn the_installer_has_the_kickstart_and_the_packages_and_all_that_was_there() {
    let Some(workshop) = Workshop::new() else { return };
    for release in [9, 10] {
        let iso = workshop.boot_iso(release);
        let installer = workshop.installer(&iso, "failback.ip=10.0.0.1/8", "installer.iso");
        assert_eq!(label(&installer), format!("CentOS-Stream-{release}-BaseOS-x86_64"));
        tool("checkisomd5", &[&installer]);
        assert!(has_joliet(&iso) && has_joliet(&installer), "the names for Windows are lost");
        let (before, after) = (workshop.content(&iso, "before"), workshop.content(&installer, "after"));
        let mut ours: Vec<_> = names_below(&after);
        ours.retain(|path| path.starts_with("failback/"));
        let repodata = ["filelists.xml.gz", "other.xml.gz", "primary.xml.gz", "repomd.xml"]
            .map(|name| format!("failback/repodata/{name}"));
        let packages =
            ["failback/failback-1.0-1.x86_64.rpm", "failback/failback-appliance-1.0-1.noarch.rpm", "failback/ks.cfg"];
        assert_eq!(ours, [&packages.map(str::to_owned)[..], &repodata].concat());
        // Written anew: what the boot loader of el9 is patched with, where files lie.
        let patched = ["images/efiboot.img", "isolinux/isolinux.bin", "isolinux/boot.cat", "images/eltorito.img"];
        for path in names_below(&before) {
            let (old, new) = (before.join(&path), after.join(&path));
            if !menus(release).contains(&&*path) && !patched.contains(&&*path) {
                assert_eq!(hash_of(&old, None), hash_of(&new, None), "{path}");
            }
        }
        let kickstart = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("kickstart/flatten");
        let flat = tool("bash", &[kickstart.as_os_str(), format!("el{release}").as_ref()]);
        assert_eq!(fs::read_to_string(after.join("failback/ks.cfg")).unwrap().trim(), flat);
        for directory in [before, after] {
            fs::remove_dir_all(directory).unwrap();
        }
    }
}

/// Every entry of every menu but that of the rescue system, also in the partition that UEFI reads from a stick.
#[test]
fn every_menu_starts_the_kickstart() {
    let Some(workshop) = Workshop::new() else { return };
    for release in [9, 10] {
        let iso = workshop.boot_iso(release);
        let installer = workshop.installer(&iso, "failback.ip=10.0.0.1/8", "installer.iso");
        let content = workshop.content(&installer, &format!("content{release}"));
        let arguments = format!(
            " inst.ks=hd:LABEL=CentOS-Stream-{release}-BaseOS-x86_64:/failback/ks.cfg {GUARD} failback.ip=10.0.0.1/8"
        );
        for menu in menus(release) {
            let text = fs::read_to_string(content.join(menu)).unwrap();
            let starting: Vec<_> = text.lines().filter(|line| line.contains("inst.stage2=")).collect();
            let edited = starting.iter().filter(|line| line.ends_with(&arguments)).count();
            let rescue: Vec<_> = starting.iter().filter(|line| !line.ends_with(&arguments)).collect();
            assert_eq!((starting.len(), edited), (3, 2), "{menu}\n{text}");
            assert!(rescue.iter().all(|line| line.contains("inst.rescue") && !line.contains("inst.ks")), "{rescue:?}");
        }
        let (old, new) =
            (esp(&workshop, &iso, &format!("old{release}")), esp(&workshop, &installer, &format!("new{release}")));
        let on_esp = |image: &str, path: &str| tool("mtype", &["-i", image, &format!("::{path}")]);
        assert_eq!(
            on_esp(&new, "EFI/BOOT/grub.cfg"),
            fs::read_to_string(content.join("EFI/BOOT/grub.cfg")).unwrap().trim()
        );
        let listed = |image: &str| tool("mdir", &["-i", image, "-/", "-b", "::"]);
        assert_eq!(listed(&old), listed(&new));
        let about = |image: &str| tool("mlabel", &["-s", "-i", image, "::"]);
        assert_eq!(about(&new), "Volume label is ANACONDA");
        let serial = |image: &str| {
            tool("minfo", &["-i", image, "::"]).lines().find(|line| line.starts_with("serial")).unwrap().to_owned()
        };
        assert_eq!(serial(&old), serial(&new));
        if release == 9 {
            assert_eq!(hash_of(Path::new(&new), None), hash_of(&content.join("images/efiboot.img"), None));
        }
    }
}

#[test]
fn boot_records_stay_what_they_were() {
    let Some(workshop) = Workshop::new() else { return };
    for release in [9, 10] {
        let iso = workshop.boot_iso(release);
        let installer = workshop.installer(&iso, "quiet", "installer.iso");
        // Without places and sizes, and without the identities of a GPT.
        let records = |iso: &Path| {
            let arguments =
                ["-indev", iso.to_str().unwrap(), "-report_el_torito", "plain", "-report_system_area", "plain"];
            let report = tool("xorriso", &arguments);
            let kept = |line: &&str| {
                ["System area summary", "El Torito img opts", "GPT type GUID", "MBR partition path"]
                    .iter()
                    .any(|start| line.starts_with(start))
            };
            let mut lines: Vec<_> = report.lines().filter(kept).map(str::to_owned).collect();
            // xorriso fills what is left after the last partition with one of its own; where nothing is left there is none.
            lines.retain(|line| !line.starts_with("GPT type GUID      :   3"));
            let torito = report.lines().filter(|line| line.starts_with("El Torito boot img"));
            lines.extend(torito.map(|line| line.split_ascii_whitespace().take(10).collect::<Vec<_>>().join(" ")));
            lines
        };
        assert_eq!(records(&iso), records(&installer));
        assert_eq!(records(&iso).iter().filter(|line| line.starts_with("El Torito boot img")).count(), 2);
    }
}

#[test]
fn two_builds_give_the_same_bytes() {
    let Some(workshop) = Workshop::new() else { return };
    for release in [9, 10] {
        let iso = workshop.boot_iso(release);
        let first = workshop.installer(&iso, "quiet", "first.iso");
        // What the clock says, and when packages were copied, is in nothing.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        tool("sh", &["-c", &format!("touch {}/*", workshop.rpms().display())]);
        let second = workshop.installer(&iso, "quiet", "second.iso");
        assert_eq!(hash_of(&first, None), hash_of(&second, None));
    }
}

/// A menu that is longer than the free space of its partition: the partition grows.
#[test]
fn a_partition_that_is_too_small_for_its_menu_grows() {
    let Some(workshop) = Workshop::new() else { return };
    for release in [9, 10] {
        let iso = workshop.boot_iso(release);
        let long = format!("failback.note={}", "x".repeat(100_000));
        let installer = workshop.installer(&iso, &long, "installer.iso");
        tool("checkisomd5", &[&installer]);
        let image = esp(&workshop, &installer, &format!("esp{release}"));
        assert!(tool("mtype", &["-i", &image, "::EFI/BOOT/grub.cfg"]).contains(&long));
        assert!(Command::new("fsck.vfat").args(["-n", &image]).output().is_ok_and(|checked| checked.status.success()));
    }
}
