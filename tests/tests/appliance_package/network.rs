//! The menu for addresses, with busybox as on the live ISO and with a stand-in for NetworkManager, on cards of its own.

use failback_tests::lab::{Place, has_devices, has_programs, tool, workspace};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

/// Remembers what it is asked to do, and answers as NetworkManager does on a machine with one card that was never set.
const NMCLI: &str = "#!/bin/sh
case \"$*\" in
*RUNNING*) echo \"${NM_STATE:-running}\" ;;
*GENERAL.CONNECTION*) cat \"$NM_LOG.connection\" 2>/dev/null || echo -- ;;
*)
    for word in \"$@\"; do printf '%s|' \"$word\"; done >>\"$NM_LOG\"
    echo >>\"$NM_LOG\"
    case $* in *' add '*) echo eth0 >\"$NM_LOG.connection\" ;; esac
    ;;
esac
";

/// Runs a script of this directory in a network of its own, which ends with all that runs in it, with this path and the menu as its first argument.
#[track_caller]
fn run(script: &str, place: &Place, path: &str) {
    let here = workspace().join("tests/tests/appliance_package");
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "/bin/bash"])
        .arg(here.join(script))
        .arg(workspace().join("appliance/package/files/network"))
        .arg(place.root())
        .env("MENU_PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{said}");
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn addresses_are_set_with_busybox() {
    if !has_devices() || !has_programs(&["busybox", "unshare", "ip"]) {
        return;
    }
    let place = Place::new();
    let programs = place.directory("bin");
    let busybox = tool("sh", &["-c", "command -v busybox"]);
    for name in tool(&busybox, &["--list"]).lines() {
        symlink(&busybox, programs.join(name)).unwrap();
    }
    run("network-busybox.sh", &place, programs.to_str().unwrap());
}

#[test]
fn addresses_are_given_to_networkmanager() {
    if !has_devices() || !has_programs(&["unshare", "ip"]) {
        return;
    }
    let place = Place::new();
    let programs = place.directory("bin");
    executable(&programs.join("nmcli"), NMCLI);
    run("network-manager.sh", &place, &format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display()));
}
