//! Disks: whether each is known by a name of its own, how they are attached, and who has those that are foreign.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use failback_hostdev::{AttachedDisk, Host, Transport, Use, UuidProblem};

use super::system::CUSTOM_CHANGES;
use crate::finding::Finding;

const IDENTITY: &str = "disk-uuid";
const CONTROLLERS: &str = "controllers";
const FOREIGN: &str = "foreign-disks";

/// Drivers of LSI's old controllers and of `BusLogic`'s, which VMware offers beside PVSCSI. The kernels of CentOS Stream 9 and 10 need
/// not have them.
const OLD_DRIVERS: [&str; 4] = ["mptspi", "mptsas", "mptfc", "BusLogic"];

const ENABLE_UUID: &str = "power this VM off, set disk.EnableUUID = TRUE (vSphere Client: Edit Settings > VM Options > Advanced > \
                           Configuration Parameters) and power it on";

/// Whether every data disk has a name by which it is known again after a restart.
pub(super) fn identity(host: &Host, disks: &[AttachedDisk]) -> Vec<Finding> {
    let data: Vec<_> = disks.iter().filter(|disk| disk.is_data()).collect();
    let vmware = is_vmware(host);
    let found: Vec<_> = data.iter().filter_map(|disk| unknown_disk(disk, vmware)).collect();
    match (found.is_empty(), data.len()) {
        (true, 0) => vec![Finding::ok(IDENTITY, "no data disk is attached")],
        (true, 1) => vec![Finding::ok(IDENTITY, "the data disk has a name of its own")],
        (true, count) => vec![Finding::ok(IDENTITY, format!("{count} data disks have names of their own"))],
        (false, _) => found,
    }
}

fn unknown_disk(disk: &AttachedDisk, vmware: bool) -> Option<Finding> {
    let (path, problem) = (disk.path.display(), disk.uuid_problem()?);
    let text = format!("{path} {problem}");
    let (what, fix) = text.split_once(": ").unwrap_or((&text, ""));
    match problem {
        UuidProblem::Duplicate { .. } => Some(Finding::fail(IDENTITY, what, fix)),
        UuidProblem::Missing if vmware => Some(Finding::fail(IDENTITY, what, ENABLE_UUID)),
        _ if vmware => Some(Finding::warn(IDENTITY, what, fix)),
        // Elsewhere any name will do.
        _ if disk.wwid.is_some() || disk.scsi_uuid.is_some() => None,
        UuidProblem::Missing => Some(Finding::fail(
            IDENTITY,
            format!("{path} shows neither a SCSI UUID nor another name of its own"),
            "give it a serial number or a WWN in the settings of the hypervisor (in VMware: disk.EnableUUID = TRUE)",
        )),
        _ => Some(Finding::warn(
            IDENTITY,
            format!("{path} shows neither a serial number nor another name of its own"),
            "give it a serial number in the settings of the hypervisor, and look twice before it is written",
        )),
    }
}

/// Whether this is a VM of VMware's, by what its firmware says.
pub(super) fn is_vmware(host: &Host) -> bool {
    fs::read_to_string(host.path("/sys/class/dmi/id/sys_vendor")).is_ok_and(|vendor| vendor.starts_with("VMware"))
}

/// Through which controllers the disks come.
pub(super) fn controllers(host: &Host, disks: &[AttachedDisk]) -> Vec<Finding> {
    let present = drivers(host);
    let mut disks_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for disk in disks {
        if let Transport::Scsi { driver } = &disk.transport {
            disks_of.entry(driver).or_default().push(&disk.name);
        }
    }
    let fix = "power this VM off and change the controller's type to VMware Paravirtual; on the system's own disk only after its \
               initramfs has vmw_pvscsi";
    let mut found = Vec::new();
    for driver in present.iter().filter(|driver| OLD_DRIVERS.contains(&driver.as_str())) {
        let carries = match disks_of.get(driver.as_str()) {
            Some(names) => format!("carries {}", names.join(", ")),
            None => "carries no disk".into(),
        };
        let message = format!("a controller with the driver {driver} {carries}; newer kernels may lack that driver");
        found.push(Finding::warn(CONTROLLERS, message, fix));
    }
    let names = present.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    if is_vmware(host) && !present.contains("vmw_pvscsi") {
        let message = "this VM has no PVSCSI controller";
        let fix = "power it off, add a SCSI controller of the type VMware Paravirtual, and attach the disks to that";
        found.push(Finding::warn(CONTROLLERS, message, fix));
    }
    if found.is_empty() {
        let message =
            if names.is_empty() { "there is no SCSI controller".into() } else { format!("SCSI controllers: {names}") };
        found.push(Finding::ok(CONTROLLERS, message));
    }
    found
}

/// The names of the drivers of all SCSI hosts.
fn drivers(host: &Host) -> BTreeSet<String> {
    let entries = fs::read_dir(host.path("/sys/class/scsi_host")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| fs::read_to_string(entry.path().join("proc_name")).ok());
    names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty() && !name.starts_with(['<', '('])).collect()
}

/// Who has the disks that are not the machine's own, nor the one that recovery points lie on.
pub(super) fn foreign(retention: Option<&AttachedDisk>, disks: &[AttachedDisk]) -> Vec<Finding> {
    let retention = retention.map(|disk| disk.name.as_str());
    let foreign: Vec<_> = disks.iter().filter(|disk| disk.is_data() && Some(disk.name.as_str()) != retention).collect();
    let guarding = disks.iter().any(|disk| disk.guarded || disk.own.is_some());
    if !guarding {
        return vec![unguarded(&foreign)];
    }
    let found: Vec<_> = copies(disks).into_iter().chain(foreign.iter().flat_map(|disk| taken(disk))).collect();
    match (found.is_empty(), foreign.len()) {
        (true, 0) => vec![Finding::ok(FOREIGN, "no foreign disk is attached")],
        (true, _) => {
            let claimed = foreign.iter().filter(|disk| is_claimed(disk)).count();
            let message = format!(
                "of {} foreign disk{}, {claimed} claimed by failback, none mounted or held, and all others read-only",
                foreign.len(),
                if foreign.len() == 1 { "" } else { "s" },
            );
            vec![Finding::ok(FOREIGN, message)]
        }
        (false, _) => found,
    }
}

/// Disks that show the name of one of the machine's own: nothing can tell which of them is foreign.
fn copies(disks: &[AttachedDisk]) -> Vec<Finding> {
    let own: Vec<_> = disks.iter().filter(|disk| disk.own.is_some()).collect();
    // By either name, as udev's helper has it: the kernel does not make a WWID of every SCSI UUID.
    let by_uuid = sharing(&own, |disk| disk.scsi_uuid.map(|uuid| uuid.to_string()));
    let mut found = by_uuid.clone();
    for (wwid, names) in sharing(&own, |disk| disk.wwid.clone()) {
        if !by_uuid.iter().any(|(_, others)| names.iter().all(|name| others.contains(name))) {
            found.push((wwid, names));
        }
    }
    let finding = |(shown, names): (String, Vec<&str>)| {
        let message = format!(
            "{} all show {shown}, the name of a disk of this machine's own: those of them that are not in use are foreign",
            names.join(", ")
        );
        Finding::fail(FOREIGN, message, "detach the copies, or give each a UUID of its own (vmkfstools -J setuuid)")
    };
    found.into_iter().map(finding).collect()
}

/// The names that several of the disks show, each with these disks.
fn sharing<'a>(
    disks: &[&'a AttachedDisk],
    name: impl Fn(&AttachedDisk) -> Option<String>,
) -> Vec<(String, Vec<&'a str>)> {
    let mut shown: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for disk in disks {
        if let Some(name) = name(disk) {
            shown.entry(name).or_default().push(&disk.name);
        }
    }
    shown.into_iter().filter(|(_, names)| names.len() > 1).collect()
}

/// Where nothing says which disks are foreign, what is in use may be so by right.
fn unguarded(others: &[&AttachedDisk]) -> Finding {
    if others.is_empty() {
        return Finding::ok(FOREIGN, "no foreign disk is attached");
    }
    let used = others.iter().filter(|disk| !disk.uses.is_empty()).count();
    let message = format!(
        "this machine does not say which disks are its own, so no other is kept read-only: {used} of {} in use",
        others.len(),
    );
    let fix =
        "on a master target, record the disks of the system and of the retention drive in /etc/failback/own-disks";
    Finding::warn(FOREIGN, message, fix)
}

fn is_claimed(disk: &AttachedDisk) -> bool {
    disk.uses.iter().any(|used| matches!(used, Use::Locked { .. }))
}

/// What is wrong with one foreign disk.
fn taken(disk: &AttachedDisk) -> Vec<Finding> {
    let path = disk.path.display();
    let held: Vec<_> = disk
        .uses
        .iter()
        .filter_map(|used| match used {
            Use::Mounted { at, .. } => Some((used, format!("umount {}", at.display()))),
            Use::Swap { on } => Some((used, format!("swapoff {on}"))),
            Use::Held { .. } => {
                let fix = "take that down (`vgchange -an`, `mdadm --stop`, `cryptsetup close`, `multipath -f`)";
                Some((used, fix.to_owned()))
            }
            Use::Loop { device, .. } => Some((used, format!("losetup -d {device}"))),
            Use::Busy => Some((used, format!("stop the program that has it open (`fuser -v {path}` shows which)"))),
            _ => None,
        })
        .map(|(used, fix)| {
            let fix = format!("{fix}, then find out what did that: `{CUSTOM_CHANGES} --check`");
            Finding::fail(FOREIGN, format!("{path} is foreign and {used}"), fix)
        })
        .collect();
    if held.is_empty() && disk.guarded && !disk.read_only && !is_claimed(disk) {
        let message = format!("{path} is foreign, idle and writable, as after a failback that was killed");
        return vec![Finding::warn(FOREIGN, message, format!("blockdev --setro {path}"))];
    }
    held
}
