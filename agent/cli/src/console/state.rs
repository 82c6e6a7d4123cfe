//! What is to be seen, read from the machine. Every text in it is plain.

use crate::check;
use crate::config::Config;
use crate::files;
use crate::points::{open, report};
use failback_machine::{Finding, Host, Job, Level, addresses, jobs, plain};
use failback_orchestrate::{AttachedDisk, Directory, FsDirectory, HumanBytes, LockError, Use, inventory};
use std::fs;
use std::path::Path;

/// Where an apply without recovery points leaves its record.
const STATE_DIRECTORY: &str = "/var/lib/failback";

/// The state of the machine.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) host_name: String,
    /// The minute, in UTC.
    pub(super) time: String,
    pub(super) addresses: Vec<String>,
    pub(super) retention: Vec<String>,
    /// What was begun and is not finished.
    pub(super) unfinished: Vec<String>,
    pub(super) jobs: Vec<Job>,
    /// The disks, or why they are not known.
    pub(super) disks: Vec<DiskRow>,
    /// All that is found, the good with the bad.
    pub(super) findings: Vec<Finding>,
}

/// What is told of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiskRow {
    pub(super) name: String,
    pub(super) size: String,
    pub(super) uuid: String,
    pub(super) state: String,
}

impl State {
    /// Looks at the machine. `findings` are those of a check that was made before; without them a new one is made.
    pub(super) fn read(host: &Host, findings: Option<Vec<Finding>>) -> Self {
        let disks = inventory().unwrap_or_default();
        let (retention, mut unfinished) = retention(&disks);
        unfinished.extend(intents(Path::new(STATE_DIRECTORY)));
        let host_name = fs::read_to_string(host.path("/proc/sys/kernel/hostname")).unwrap_or_default();
        Self {
            host_name: plain(host_name.trim()),
            time: report::when(files::now()).get(..16).unwrap_or_default().to_owned(),
            addresses: addresses().unwrap_or_default().iter().map(|it| plain(it)).collect(),
            retention,
            unfinished,
            jobs: jobs(host),
            disks: disks.iter().filter(|disk| disk.backing.is_none()).map(row).collect(),
            findings: findings.unwrap_or_else(check::findings),
        }
    }

    /// What is wrong, the gravest first.
    pub(super) fn problems(&self) -> Vec<&Finding> {
        let mut problems: Vec<_> = self.findings.iter().filter(|finding| finding.level != Level::Ok).collect();
        problems.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        problems
    }
}

pub(super) fn row(disk: &AttachedDisk) -> DiskRow {
    let uuid = disk.scsi_uuid.map(|uuid| uuid.to_string()).or_else(|| disk.wwid.as_deref().map(plain));
    DiskRow {
        name: plain(&disk.name),
        size: HumanBytes(disk.size.get()).to_string(),
        uuid: uuid.unwrap_or_else(|| "no UUID".into()),
        state: state_of(disk),
    }
}

fn state_of(disk: &AttachedDisk) -> String {
    match (&disk.own, disk.uses.first()) {
        (Some(role), _) => format!("own: {}", plain(role)),
        (None, Some(Use::RunsFrom { .. })) => "the system runs from it".into(),
        (None, Some(used)) => used.to_string(),
        (None, None) if disk.refusal.is_some() => "unusable: see failback disks".into(),
        (None, None) if disk.guarded && !disk.read_only => "WRITABLE while idle".into(),
        (None, None) if disk.guarded => "usable, kept read-only".into(),
        (None, None) => "usable".into(),
    }
}

/// Lines about the retention drive, and about what its recovery points say was interrupted.
fn retention(disks: &[AttachedDisk]) -> (Vec<String>, Vec<String>) {
    let directory = match Config::load().map(|config| config.retention.directory) {
        Ok(Some(directory)) => directory,
        Ok(None) => return (vec!["none is configured".into()], Vec::new()),
        Err(error) => return (vec![plain(&error.to_string())], Vec::new()),
    };
    let shown = plain(&directory.to_string_lossy());
    let all = match open::all(&directory) {
        Ok(all) => all,
        Err(error) => return (vec![plain(&error.to_string())], Vec::new()),
    };
    let (mut points, mut of, mut lines, mut unfinished) = (0, 0, Vec::new(), Vec::new());
    for (name, store) in &all {
        let store = match store {
            Ok(store) => store,
            Err(error) => {
                lines.push(format!("DAMAGED {}: {}", plain(name), plain(&error.to_string())));
                continue;
            }
        };
        let catalogue = store.catalogue();
        if report::is_unknown(catalogue) {
            continue;
        }
        of += 1;
        points += catalogue.points().len();
        if let Some((what, sentence)) = report::under_way(catalogue) {
            let path = disks.iter().find(|disk| disk.scsi_uuid.is_some_and(|uuid| uuid.to_string() == *name));
            let path = path.map_or_else(|| plain(name), |disk| plain(&disk.path.to_string_lossy()));
            unfinished.push(if is_running(&directory.join(name)) {
                format!("{path}: an {what} is under way now")
            } else {
                format!("{path}: {sentence}; failback status {path} says what to do")
            });
        }
    }
    let space = FsDirectory::open(&directory).and_then(|it| it.space()).ok();
    let free = space.map(|it| format!(", {} of {} free", it.available.human(), it.total.human())).unwrap_or_default();
    lines.insert(0, format!("{shown}{free}, {points} recovery points of {of} disk{}", if of == 1 { "" } else { "s" }));
    (lines, unfinished)
}

/// Whether somebody has locked the recovery points of a disk to change them.
fn is_running(place: &Path) -> bool {
    FsDirectory::open(place).is_ok_and(|opened| matches!(opened.lock(false), Err(LockError::Held { .. })))
}

/// Records of applies without recovery points that were not removed: they run, or were interrupted.
fn intents(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.strip_suffix(".intent")).map(plain))
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| {
            format!("{name}: an apply without recovery points is not finished; failback status of that disk tells more")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use failback_orchestrate::{ByteCount, Transport};

    pub(in crate::console) fn disk(name: &str) -> AttachedDisk {
        AttachedDisk {
            name: name.into(),
            path: format!("/dev/{name}").into(),
            links: vec![],
            size: ByteCount::new(40 << 30).unwrap(),
            logical_block: 512,
            physical_block: 512,
            scsi_uuid: None,
            same_uuid: vec![],
            model: None,
            transport: Transport::Scsi { driver: "vmw_pvscsi".into() },
            address: None,
            backing: None,
            partitions: 0,
            read_only: true,
            wwid: None,
            own: None,
            guarded: true,
            uses: vec![],
            refusal: None,
        }
    }

    #[test]
    fn states_of_disks() {
        assert_eq!(row(&disk("sdb")).state, "usable, kept read-only");
        assert_eq!(row(&AttachedDisk { read_only: false, ..disk("sdb") }).state, "WRITABLE while idle");
        assert_eq!(row(&AttachedDisk { guarded: false, ..disk("sdb") }).state, "usable");
        assert_eq!(row(&AttachedDisk { own: Some("retention".into()), ..disk("sdb") }).state, "own: retention");
        let held = Use::Held { by: "the LVM volume \x1b[31mvg-x\u{202e}".into() };
        let held = AttachedDisk { uses: vec![held], wwid: Some("naa.\x1b]0;x\x07".into()), ..disk("sdb\x1b[2J") };
        let row = row(&held);
        for text in [&row.name, &row.uuid, &row.state] {
            assert!(!text.contains(|c: char| c.is_control() || c == '\u{202e}'), "{text:?}");
        }
        assert!(row.state.starts_with("in use by the LVM volume"));
    }

    #[test]
    fn records_of_intent() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("6000c29.intent"), "").unwrap();
        fs::write(directory.path().join("other"), "").unwrap();
        let found = intents(directory.path());
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("6000c29: an apply"), "{found:?}");
        assert_eq!(intents(Path::new("/nonexistent")), Vec::<String>::new());
    }
}
