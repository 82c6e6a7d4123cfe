//! The system itself: kernel, clock, ports, space, and what was switched off for the sake of foreign disks.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use failback_hostdev::{Host, clock_is_synchronised};
use failback_units::HumanBytes;
use nix::sys::statvfs::statvfs;

use crate::command::{Stays, run_bounded};
use crate::finding::{Finding, Level};
use crate::jobs::runs_failback;
use crate::running::{has_systemd, is_live};

/// What went wrong while this system started, a sentence on each line; written by what starts it.
const PROBLEMS: &str = "/run/failback/problems";
/// What switches off all that would take foreign disks.
pub(super) const CUSTOM_CHANGES: &str = "/usr/libexec/failback/apply-custom-changes";
/// More than any start has.
const MOST_PROBLEMS: usize = 20;
/// More than it ever takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// More than it ever says.
const MOST_SAID: usize = 64 << 10;
/// The oldest kernel that failback is tried on: that of CentOS Stream 9.
const OLDEST_KERNEL: (u32, u32) = (5, 14);
/// 2024-01-01: a clock that is before that was never set.
const SANE_FROM: u64 = 1_704_067_200;
/// 2100-01-01.
const SANE_UNTIL: u64 = 4_102_444_800;
/// Where `failback serve` has its API, and where sources connect to it, unless it is told otherwise.
const PORTS: [u16; 2] = [443, 9443];

/// `refusal` says why it is not used.
pub(super) fn io_uring(host: &Host, refusal: Option<&str>) -> Finding {
    const NAME: &str = "io_uring";
    let setting = fs::read_to_string(host.path("/proc/sys/kernel/io_uring_disabled")).ok();
    let setting = setting.as_deref().map(str::trim);
    let Some(refusal) = refusal else {
        let setting = setting.map(|it| format!(" (kernel.io_uring_disabled = {it})")).unwrap_or_default();
        return Finding::ok(NAME, format!("io_uring is in use{setting}"));
    };
    let allow =
        "run `sysctl kernel.io_uring_disabled=1` as root, and keep that in /etc/sysctl.d; failback runs as root then";
    match setting {
        Some("2") => Finding::warn(
            NAME,
            "io_uring is switched off by kernel.io_uring_disabled = 2; pread and pwrite are used, more slowly",
            allow,
        ),
        // It is left to those with CAP_SYS_ADMIN then, and to the members of a group (Documentation/admin-guide/sysctl/kernel.rst).
        Some("1") if !is_administrator(host) => Finding::warn(
            NAME,
            "kernel.io_uring_disabled = 1 leaves io_uring to root, and this is not root (or lacks CAP_SYS_ADMIN); pread and pwrite are used, \
             more slowly",
            "run failback as root, or make this user a member of the group that kernel.io_uring_group names",
        ),
        Some(setting @ ("0" | "1")) => Finding::warn(
            NAME,
            format!("{refusal}; kernel.io_uring_disabled = {setting} does not forbid it to this user"),
            "look for what else does, such as the system call filter of a container or a service; all else works without it",
        ),
        _ => Finding::warn(NAME, refusal, "use a kernel with io_uring for more speed; all else works without it"),
    }
}

/// Whether this process has `CAP_SYS_ADMIN`, the bit 21 of what `proc_pid_status(5)` calls `CapEff`.
fn is_administrator(host: &Host) -> bool {
    let status = fs::read_to_string(host.path("/proc/self/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> 21 & 1 == 1)
}

pub(super) fn clock(host: &Host) -> Vec<Finding> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let synchronised = clock_is_synchronised().ok();
    clock_at(now, synchronised, has_systemd(host))
}

fn clock_at(now: u64, synchronised: Option<bool>, systemd: bool) -> Vec<Finding> {
    const NAME: &str = "clock";
    let service = if systemd {
        "systemctl enable --now chronyd, and see `chronyc sources`"
    } else {
        "set it by hand (`date -u -s`); this system keeps no clock right by itself"
    };
    if !(SANE_FROM..SANE_UNTIL).contains(&now) {
        let message =
            "the clock shows a year that cannot be: recovery points would get wrong times, and limits by age fail";
        // `timedatectl set-time` refuses while something is to keep the clock right.
        return vec![Finding::fail(NAME, message, "set it with `date -u -s 'YYYY-MM-DD HH:MM:SS'` (in UTC)")];
    }
    vec![match synchronised {
        Some(true) => Finding::ok(NAME, "the clock is synchronised"),
        Some(false) => Finding::warn(NAME, "nothing keeps the clock right", service),
        None => Finding::warn(NAME, "the kernel does not tell whether the clock is kept right", service),
    }]
}

/// Who listens where `failback serve` does unless it is told otherwise.
pub(super) fn ports(host: &Host) -> Vec<Finding> {
    const NAME: &str = "ports";
    let (mut found, mut ours, mut free) = (Vec::new(), Vec::new(), Vec::new());
    for port in PORTS {
        let sockets = listening(host, port);
        if sockets.is_empty() {
            free.push(port);
            continue;
        }
        let holders = holders(host, &sockets);
        match holders.iter().find(|holder| !holder.is_failback) {
            Some(Holder { name, .. }) => found.push(Finding::warn(
                NAME,
                format!("port {port} is taken by {name}, so that failback serve cannot listen there"),
                "stop that program, or start failback serve with other addresses (--listen, --control); it tries again by itself",
            )),
            None if holders.is_empty() => found.push(Finding::warn(
                NAME,
                format!("port {port} is taken by a program that this user may not see"),
                "run this as root, to learn whether that is failback serve",
            )),
            None => ours.push(port),
        }
    }
    let mut ok = |text: &str, ports: &[u16]| {
        if !ports.is_empty() {
            let list = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" and ");
            let ports = if ports.len() == 1 { "port" } else { "ports" };
            found.push(Finding::ok(NAME, format!("{ports} {list}: {text}")));
        }
    };
    ok("failback listens", &ours);
    ok("free, failback does not listen", &free);
    found
}

/// The inodes of the sockets that listen on a TCP port, from the tables of both families.
fn listening(host: &Host, port: u16) -> BTreeSet<u64> {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(host.path(path)).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(|line| listener(line, port)).collect()
}

/// One line of such a table: number, local address, remote one, state (0A listens), …, and the inode in field 10.
fn listener(line: &str, port: u16) -> Option<u64> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let local = fields.get(1)?.rsplit_once(':')?.1;
    let listens = u16::from_str_radix(local, 16) == Ok(port) && *fields.get(3)? == "0A";
    if listens { fields.get(9)?.parse().ok() } else { None }
}

/// A process that has a socket.
struct Holder {
    name: String,
    /// By the file that it runs; the name it may choose itself.
    is_failback: bool,
}

/// The processes that have one of these sockets, as far as this user may see.
fn holders(host: &Host, sockets: &BTreeSet<u64>) -> Vec<Holder> {
    let wanted: BTreeSet<_> = sockets.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let mut found = Vec::new();
    for entry in fs::read_dir(host.path("/proc")).into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let open = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let mut links = open.filter_map(|fd| fs::read_link(fd.path()).ok());
        if links.any(|link| link.to_str().is_some_and(|link| wanted.contains(link))) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let name = format!("{} (process {pid})", name.trim());
            found.push(Holder { name, is_failback: runs_failback(&entry.path()) });
        }
    }
    found
}

pub(super) fn custom_changes(host: &Host) -> Finding {
    const NAME: &str = "custom-changes";
    if is_live(host) {
        return Finding::ok(NAME, "not needed: this is the live system, which has nothing that takes foreign disks");
    }
    let script = host.path(CUSTOM_CHANGES);
    if !script.exists() {
        return Finding::warn(
            NAME,
            "this system was not made an appliance: LVM, mdadm, multipath and others may take foreign disks",
            format!("on a master target, install the package failback-appliance and run `{CUSTOM_CHANGES}`"),
        );
    }
    let fix = format!("run `{CUSTOM_CHANGES}`, then this again");
    let ended = match run_bounded(Command::new(&script).arg("--check"), MOST_SAID, Stays::Beginning, PATIENCE) {
        Ok(ended) => ended,
        Err(error) => {
            return Finding::fail(NAME, format!("{CUSTOM_CHANGES} cannot be run: {error}"), "install it again");
        }
    };
    if let Some(trouble) = ended.trouble(PATIENCE) {
        let fix = "see whether a disk does not answer (`dmesg`), then run this again";
        return Finding::fail(NAME, format!("{CUSTOM_CHANGES} --check: {trouble}"), fix);
    }
    let said = String::from_utf8_lossy(&ended.said).into_owned();
    match ended.code {
        Some(0) => Finding::ok(NAME, "everything that would take foreign disks is switched off"),
        Some(1) => {
            let open = format!("not everything that would take foreign disks is switched off: {}", open_items(&said));
            Finding::fail(NAME, open, format!("{fix}; `{CUSTOM_CHANGES} --check` tells of each"))
        }
        _ => Finding::fail(NAME, format!("{CUSTOM_CHANGES} --check failed: {}", last_lines(&said)), fix),
    }
}

/// What went wrong at the start of this system. Where nothing did, nothing is told.
pub(super) fn start(host: &Host) -> Vec<Finding> {
    let text = fs::read(host.path(PROBLEMS)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).take(MOST_PROBLEMS);
    let fix = "mend that, then start this machine again; the log tells more";
    lines.map(|line| Finding::warn("start", format!("at the start: {line}"), fix)).collect()
}

/// What is open by what the script says, an item on each line that begins with its state.
fn open_items(said: &str) -> String {
    let items: Vec<_> = said.lines().filter_map(|line| Some(line.strip_prefix("open ")?.trim())).collect();
    if items.is_empty() { last_lines(said) } else { items.join(", ") }
}

/// The last lines of what a program said, as one line.
fn last_lines(said: &str) -> String {
    let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

pub(super) fn kernel(host: &Host) -> Finding {
    const NAME: &str = "kernel";
    let release = fs::read_to_string(host.path("/proc/sys/kernel/osrelease")).unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().ok());
    let (major, minor) = (numbers.next().flatten(), numbers.next().flatten());
    match major.zip(minor) {
        Some(version) if version >= OLDEST_KERNEL => Finding::ok(NAME, format!("Linux {release}")),
        Some(_) => Finding::warn(
            NAME,
            format!("Linux {release} is older than any that failback is tried on"),
            "use CentOS Stream 9 or 10, or another system with Linux 5.14 or newer",
        ),
        None => Finding::warn(NAME, "the kernel does not tell its version", "make sure that /proc is mounted"),
    }
}

/// The space of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) total: u64,
    /// What is free for root.
    pub(super) free: u64,
}

impl Space {
    /// Below a tenth is little, below a hundredth is nothing.
    pub(super) const fn level(self) -> Level {
        if self.free < self.total / 100 {
            Level::Fail
        } else if self.free < self.total / 10 {
            Level::Warn
        } else {
            Level::Ok
        }
    }
}

/// The space of the file system that is mounted at a place; `None` for one that has none of its own, as the root of a live system.
pub(super) fn space_of(host: &Host, at: &Path) -> Option<Space> {
    let told = statvfs(&host.path(at)).ok()?;
    let bytes = |blocks: u64| blocks.checked_mul(told.fragment_size());
    let space = Space { total: bytes(told.blocks())?, free: bytes(told.blocks_free())? };
    (space.total > 0).then_some(space)
}

/// Room for the system, its logs and the records of what is under way.
pub(super) fn free_space(host: &Host) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for path in ["/", "/var/lib/failback", "/var/log", "/run"] {
        let Ok(Some(mounted)) = host.mounted_at(Path::new(path)) else { continue };
        if seen.insert(mounted.at.clone())
            && let Some(space) = space_of(host, &mounted.at)
        {
            found.push(space_finding(&mounted.at, space));
        }
    }
    if found.is_empty() {
        found.push(Finding::ok("free-space", "this system has no file system of a limited size"));
    }
    found
}

fn space_finding(at: &Path, space: Space) -> Finding {
    const NAME: &str = "free-space";
    let message = format!("{} of {} are free at {}", HumanBytes(space.free), HumanBytes(space.total), at.display());
    let fix = format!("remove what is not needed at {}; `du -xh {0} | sort -h` finds what is large", at.display());
    match space.level() {
        Level::Ok => Finding::ok(NAME, message),
        Level::Warn => Finding::warn(NAME, message, fix),
        Level::Fail => Finding::fail(NAME, message, fix),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks() {
        let level = |now, synchronised| clock_at(now, synchronised, true)[0].level;
        assert_eq!(level(SANE_FROM, Some(true)), Level::Ok);
        assert_eq!(level(SANE_FROM, Some(false)), Level::Warn);
        assert_eq!(level(SANE_FROM, None), Level::Warn);
        for wrong in [0, SANE_FROM - 1, SANE_UNTIL] {
            assert_eq!(level(wrong, Some(true)), Level::Fail, "{wrong}");
        }
        for systemd in [false, true] {
            assert!(clock_at(0, None, systemd)[0].fix.as_ref().unwrap().contains("`date -u -s '"));
        }
    }

    #[test]
    fn space() {
        let level = |free| Space { total: 1000, free }.level();
        assert_eq!(
            (level(1000), level(100), level(99), level(10), level(9)),
            (Level::Ok, Level::Ok, Level::Warn, Level::Warn, Level::Fail)
        );
    }

    #[test]
    fn lines_of_the_table_of_sockets() {
        let line = "   0: 00000000:24E3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31337 1 0 100 0";
        assert_eq!(listener(line, 9443), Some(31_337));
        assert_eq!(listener(line, 443), None);
        assert_eq!(listener(&line.replace(" 0A ", " 01 "), 9443), None, "a connection is no listener");
        for broken in ["", "x", "0: zz:24E3 y 0A", "0: 1:24E3 2:3 0A 4 5 6 7 8"] {
            assert_eq!(listener(broken, 9443), None, "{broken}");
        }
    }
}
