//! The units, as systemd reads them.

use failback_tests::lab::{Place, has_programs, static_program, tool, try_tool, workspace};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

/// A directory with the units, in which the program has its place in this tree.
fn units() -> Place {
    let place = Place::new();
    fs::set_permissions(place.root(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = static_program();
    for entry in fs::read_dir(workspace().join("appliance/package/units")).unwrap() {
        let entry = entry.unwrap();
        let text = fs::read_to_string(entry.path()).unwrap().replace("/usr/bin/failback", program.to_str().unwrap());
        place.file(entry.file_name().to_str().unwrap(), text.as_bytes());
    }
    place
}

#[test]
fn units_are_without_fault() {
    if !has_programs(&["systemd-analyze"]) {
        return;
    }
    let place = units();
    for unit in ["failback-check.service", "failback-console@.service", "failback-serve.service"] {
        // Pages are installed by packages, and not here.
        let output =
            try_tool("systemd-analyze", &["verify".as_ref(), "--man=no".as_ref(), place.path(unit).as_os_str()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("failback"), "{said}");
    }
}

/// Those that an administrator copies, as they would be read: with what they run in this tree.
#[test]
fn examples_are_without_fault() {
    if !has_programs(&["systemd-analyze"]) {
        return;
    }
    let place = Place::new();
    fs::set_permissions(place.root(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = static_program();
    for (example, unit, verb) in [
        ("failback-send@.service", "failback-send@web1.service", "send"),
        ("failback-relay.service", "failback-relay.service", "relay"),
    ] {
        let text = fs::read_to_string(workspace().join("appliance/package/examples").join(example)).unwrap();
        assert!(text.contains(&format!("\nExecStart=/usr/bin/failback {verb} ")), "{text}");
        let file = place.file(unit, text.replace("/usr/bin/failback", program.to_str().unwrap()).as_bytes());
        let arguments = ["verify".as_ref(), "--man=no".as_ref(), file.as_os_str()];
        let output = try_tool("systemd-analyze", &arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("failback"), "{said}");
    }
}

#[test]
fn the_check_has_no_more_than_it_needs() {
    if !has_programs(&["systemd-analyze"]) {
        return;
    }
    let place = units();
    let unit = place.path("failback-check.service");
    let exposure = |unit: &str| try_tool("systemd-analyze", &["security", "--offline=yes", "--threshold=36", unit]);
    let output = exposure(unit.to_str().unwrap());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let text = fs::read_to_string(&unit).unwrap();
    for line in [
        "ProtectSystem=strict",
        "NoNewPrivileges=yes",
        "DevicePolicy=closed",
        "DeviceAllow=block-sd r",
        "DeviceAllow=block-blkext r",
        "DeviceAllow=block-virtblk r",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    // The disks must stay visible to it, and io_uring usable.
    assert!(!text.contains("\nPrivateDevices="));
    assert!(text.contains("\nCapabilityBoundingSet=CAP_SYS_ADMIN "));
    // The threshold is one: without the setting that weighs most it is missed.
    let open = place.file("open.service", text.replace("CapabilityBoundingSet=", "#").as_bytes());
    assert!(!exposure(open.to_str().unwrap()).status.success());
}

/// What the daemon needs: disks and files wherever pairs have them, the network, and to be told when it hangs.
#[test]
fn the_daemon_has_what_it_needs_and_is_watched() {
    let place = units();
    let unit = place.path("failback-serve.service");
    let text = fs::read_to_string(&unit).unwrap();
    for line in [
        "Type=notify",
        "Restart=on-failure",
        "WatchdogSec=2min",
        "StateDirectory=failback/control",
        "NoNewPrivileges=yes",
        "DevicePolicy=closed",
        "DeviceAllow=block-sd rw",
        "DeviceAllow=block-blkext rw",
        "DeviceAllow=block-virtblk rw",
        "WantedBy=multi-user.target",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    // With one of these, disks would be missing, backups be where nobody finds them, and ports not be those of the machine.
    for taken in ["PrivateDevices=", "PrivateTmp=", "ProtectHome=", "PrivateNetwork="] {
        assert!(!text.contains(&format!("\n{taken}")), "{taken}");
    }
    // It ends within the time that sessions get to end, and is not killed before.
    assert!(text.contains("\nTimeoutStopSec=90s\n"));
    // What the firewall opens is where it listens.
    let firewall = fs::read_to_string(workspace().join("appliance/package/files/firewalld.xml")).unwrap();
    let help = tool(static_program().to_str().unwrap(), &["serve", "--help"]);
    for (option, port) in [("--listen", "9443"), ("--control", "443")] {
        assert!(firewall.contains(&format!("<port protocol=\"tcp\" port=\"{port}\"/>")), "{firewall}");
        assert!(help.contains(option) && help.contains(&format!("[default: [::]:{port}]")), "{help}");
    }
    assert_eq!(firewall.matches("<port ").count(), 2);
    if !has_programs(&["systemd-analyze"]) {
        return;
    }
    let exposure = |unit: &str| try_tool("systemd-analyze", &["security", "--offline=yes", "--threshold=37", unit]);
    let output = exposure(unit.to_str().unwrap());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let open = place.file("open.service", text.replace("CapabilityBoundingSet=", "#").as_bytes());
    assert!(!exposure(open.to_str().unwrap()).status.success());
}

/// systemd takes the console for the login on the screen and on the serial line, wherever that is wanted.
#[test]
fn the_console_stands_in_the_place_of_logins() {
    if !has_programs(&["/lib/systemd/systemd", "setpriv"]) {
        return;
    }
    let place = units();
    let stage = fs::read_to_string(workspace().join("appliance/package/lib/stage.sh")).unwrap();
    let wants = place.directory("getty.target.wants");
    for (name, of) in
        [("getty@tty1.service", "getty@.service"), ("serial-getty@ttyS0.service", "serial-getty@.service")]
    {
        assert!(stage.contains(&format!("ln -s failback-console@.service \"$units/{name}\"")));
        symlink("failback-console@.service", place.path(name)).unwrap();
        // As systemctl and systemd's generator for serial consoles do it.
        symlink(format!("/lib/systemd/system/{of}"), wants.join(name)).unwrap();
    }
    // systemd refuses to plan a start as root.
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "/lib/systemd/systemd"]);
    command.args(["--test", "--system", "--unit=getty.target"]);
    command.env("SYSTEMD_UNIT_PATH", format!("{}:/lib/systemd/system", place.root().display()));
    let output = command.output().unwrap();
    let plan = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (terminal, login) in [("tty1", "getty"), ("ttyS0", "serial-getty")] {
        let named = format!("-> Unit failback-console@{terminal}.service:\n\t\tAlias: {login}@{terminal}.service\n");
        assert!(plan.contains(&named), "{named} is not in the plan");
        assert!(!plan.contains(&format!("-> Unit {login}@{terminal}.service:")));
    }
}
