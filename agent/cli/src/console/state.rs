//! What is to be seen, as looks at the machine tell it. Every text in it is plain.

use super::daemon::DaemonLines;
use crate::files;
use crate::look::Answer;
use crate::points::report;
use failback_machine::{Finding, Findings, Host, Job, Level, addresses, plain};
use failback_orchestrate::{
    AttachedDisk, Directory, FsDirectory, HumanBytes, JobError, LockError, Use, all_points, is_unknown,
};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Where an apply without recovery points leaves its record.
const STATE_DIRECTORY: &str = "/var/lib/failback";

/// The state of the machine, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) host_name: String,
    /// The minute, in UTC.
    pub(super) time: String,
    pub(super) addresses: Vec<String>,
    pub(super) retention: Option<RetentionLines>,
    pub(super) jobs: Option<Vec<Job>>,
    pub(super) daemon: Option<DaemonLines>,
    pub(super) disks: Option<Vec<DiskRow>>,
    /// All that is found, the good with the bad.
    pub(super) findings: Findings,
    /// Why what is shown may be old, or is not known.
    pub(super) unanswered: Option<String>,
}

/// What is told of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskRow {
    pub(super) name: String,
    pub(super) size: String,
    pub(super) uuid: String,
    pub(super) state: String,
}

/// What is told of the retention drive, and of what was begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetentionLines {
    pub(super) lines: Vec<String>,
    /// What was begun and is not finished.
    pub(super) unfinished: Vec<String>,
}

impl State {
    /// Asks what the kernel tells at once, whatever the disks do.
    pub(super) fn ask_kernel(&mut self, host: &Host) {
        let host_name = fs::read_to_string(host.path("/proc/sys/kernel/hostname")).unwrap_or_default();
        self.host_name = plain(host_name.trim());
        self.time = minute(files::now());
        self.addresses = addresses().unwrap_or_default().iter().map(|it| plain(it)).collect();
    }

    /// Takes what a look has found.
    pub(super) fn take(&mut self, answer: Answer) {
        match answer {
            Answer::Jobs(jobs) => self.jobs = Some(jobs),
            Answer::Check(name, found) => self.findings.answer(&name, found),
            Answer::Rows(rows) => self.disks = Some(rows),
            Answer::Retention(lines) => self.retention = Some(lines),
            Answer::At(_) | Answer::Disks(_) | Answer::Points(_) | Answer::Done => {}
        }
    }

    /// What is wrong, the gravest first.
    pub(super) fn problems(&self) -> Vec<&Finding> {
        let mut problems: Vec<_> = self.findings.iter().filter(|finding| finding.level != Level::Ok).collect();
        problems.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        problems
    }
}

/// A moment, to the minute.
pub(super) fn minute(seconds: i64) -> String {
    report::when(seconds).get(..16).unwrap_or_default().to_owned()
}

/// A line for each disk; loop devices over files are none.
pub(crate) fn rows(disks: &[AttachedDisk]) -> Vec<DiskRow> {
    disks.iter().filter(|disk| disk.backing.is_none()).map(row).collect()
}

fn row(disk: &AttachedDisk) -> DiskRow {
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

impl RetentionLines {
    /// Reads them from the retention directory that is configured, and from where applies without recovery points leave their records.
    pub(crate) fn read(directory: &Result<Option<PathBuf>, JobError>, disks: &[AttachedDisk]) -> Self {
        let mut told = match directory {
            Ok(Some(directory)) => Self::of(directory, disks),
            Ok(None) => Self { lines: vec!["none is configured".into()], unfinished: Vec::new() },
            Err(error) => Self { lines: vec![plain(&error.to_string())], unfinished: Vec::new() },
        };
        told.unfinished.extend(intents(Path::new(STATE_DIRECTORY)));
        told
    }

    fn of(directory: &Path, disks: &[AttachedDisk]) -> Self {
        let shown = plain(&directory.to_string_lossy());
        let all = match all_points(directory) {
            Ok(all) => all,
            Err(error) => return Self { lines: vec![plain(&error.to_string())], unfinished: Vec::new() },
        };
        let (mut points, mut of, mut told) = (0, 0, Self::default());
        for (name, store) in &all {
            let store = match store {
                Ok(store) => store,
                Err(error) => {
                    told.lines.push(format!("DAMAGED {}: {}", plain(name), plain(&error.to_string())));
                    continue;
                }
            };
            let catalogue = store.catalogue();
            if is_unknown(catalogue) {
                continue;
            }
            of += 1;
            points += catalogue.points().len();
            if let Some((what, sentence)) = report::under_way(catalogue) {
                let path = disks.iter().find(|disk| disk.scsi_uuid.is_some_and(|uuid| uuid.to_string() == *name));
                let path = path.map_or_else(|| plain(name), |disk| plain(&disk.path.to_string_lossy()));
                told.unfinished.push(if is_running(&directory.join(name)) {
                    format!("{path}: an {what} is under way now")
                } else {
                    format!("{path}: {sentence}; failback status {path} says what to do")
                });
            }
        }
        let space = FsDirectory::open(directory).and_then(|it| it.space()).ok();
        let free =
            space.map(|it| format!(", {} of {} free", it.available.human(), it.total.human())).unwrap_or_default();
        let disks = if of == 1 { "disk" } else { "disks" };
        told.lines.insert(0, format!("{shown}{free}, {points} recovery points of {of} {disks}"));
        told
    }
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
