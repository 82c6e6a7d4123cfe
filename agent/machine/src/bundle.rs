//! What support needs to see, in one file: texts without secrets, each and all of them bounded, in a fixed order.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use failback_hostdev::{Host, plain};
use nix::fcntl::OFlag;

use crate::command::{Stays, run_bounded};
use crate::secrets::without_secrets;

/// The most that a bundle holds before it is compressed.
pub const MOST_BYTES: usize = 32 << 20;
/// The most that one text in it holds: a log of a day or two.
const MOST_OF_ONE: usize = 4 << 20;
/// Every name begins with it, so that unpacking fills one directory.
const DIRECTORY: &str = "failback-support";
/// The list of what is in it, which comes first.
const LIST: &str = "CONTENTS";
/// For each program that is asked.
const PATIENCE: Duration = Duration::from_secs(30);

/// Files that are taken as they are but for secrets.
const FILES: [&str; 27] = [
    "/etc/failback/failback.toml",
    "/etc/failback/own-disks",
    "/etc/fstab",
    "/etc/lvm/devices/system.devices",
    "/etc/mdadm.conf",
    "/etc/os-release",
    "/etc/sysctl.d/60-failback.conf",
    "/proc/cmdline",
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/interrupts",
    "/proc/loadavg",
    "/proc/locks",
    "/proc/mdstat",
    "/proc/meminfo",
    "/proc/modules",
    "/proc/net/dev",
    "/proc/net/route",
    "/proc/net/tcp",
    "/proc/partitions",
    "/proc/self/mountinfo",
    "/proc/swaps",
    "/proc/sys/kernel/io_uring_disabled",
    "/proc/sys/kernel/tainted",
    "/proc/uptime",
    "/proc/version",
    "/run/failback/guard",
];
/// Files whose end matters.
const LOGS: [&str; 2] = ["/var/log/failback.log", "/var/log/anaconda/failback-kickstart.log"];
/// Directories of which names and sizes are told.
const LISTED: [&str; 4] = ["/dev/disk/by-id", "/etc/failback", "/run/failback", "/var/lib/failback"];
/// Programs that are asked, if they are there, under these names. Of a log its end matters.
const COMMANDS: [(&str, Stays, &[&str]); 7] = [
    ("custom-changes", Stays::Beginning, &["/usr/libexec/failback/apply-custom-changes", "--check"]),
    ("dmesg", Stays::End, &["dmesg"]),
    ("ip-address", Stays::Beginning, &["ip", "address"]),
    (
        "journal",
        Stays::End,
        &["journalctl", "--boot", "--no-pager", "--output=short-iso", "--lines=20000", "--unit=failback*"],
    ),
    (
        "journal-errors",
        Stays::End,
        &["journalctl", "--boot", "--no-pager", "--output=short-iso", "--lines=5000", "--priority=warning"],
    ),
    (
        "lsblk",
        Stays::Beginning,
        &["lsblk", "--output", "NAME,MAJ:MIN,SIZE,RO,TYPE,FSTYPE,MOUNTPOINTS,SERIAL,WWN,MODEL"],
    ),
    ("units", Stays::Beginning, &["systemctl", "--no-pager", "--all", "list-units", "failback*"]),
];
/// As much of a text about a program is not what it said: how it was called, and how it ended.
const MOST_ABOUT: usize = 4 << 10;
/// What is told of every block device, from sysfs.
const ATTRIBUTES: [&str; 10] = [
    "size",
    "ro",
    "removable",
    "serial",
    "wwid",
    "queue/logical_block_size",
    "queue/rotational",
    "device/vendor",
    "device/model",
    "device/wwid",
];

/// Texts, by their names.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    texts: BTreeMap<String, Text>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Text {
    content: String,
    /// How many bytes it lacks.
    cut: usize,
    /// How many secrets it lacks.
    removed: usize,
    /// What else is to be known of it, as that somebody did not answer.
    note: String,
}

impl Bundle {
    /// What a machine tells: its configuration, what its kernel says of it, and the logs.
    #[must_use]
    pub fn of(host: &Host) -> Self {
        let mut bundle = Self::default();
        for path in FILES {
            if let Ok(file) = open(&host.path(path)) {
                bundle.take(path.trim_start_matches('/'), file, Stays::Beginning);
            }
        }
        for path in LISTED {
            if let Some(listing) = listing(&host.path(path)) {
                bundle.add(&format!("{}.list", path.trim_start_matches('/')), &listing);
            }
        }
        bundle.add("sys/block", &block_devices(host));
        for path in LOGS {
            if let Ok(file) = open(&host.path(path)) {
                bundle.take(path.trim_start_matches('/'), file, Stays::End);
            }
        }
        if host.is_this() {
            for (name, stays, words) in COMMANDS {
                bundle.ask(name, stays, words, PATIENCE);
            }
        }
        bundle
    }

    /// Adds a text under a name such as `state/check.json`, without its secrets. Of a text that is too long the beginning stays.
    pub fn add(&mut self, name: &str, text: &str) {
        self.keep(name, text, Stays::Beginning, 0);
    }

    /// Says in place of a text why there is none, in the list as well.
    pub fn add_missing(&mut self, name: &str, why: &str) {
        self.add(name, &format!("{}\n", plain(why)));
        self.note(name, why);
    }

    /// Adds what a program says, if it is there.
    fn ask(&mut self, name: &str, stays: Stays, words: &[&str], patience: Duration) {
        let most = MOST_OF_ONE.min(MOST_BYTES.saturating_sub(self.bytes)).saturating_sub(MOST_ABOUT);
        let Ok(ended) = run_bounded(Command::new(words[0]).args(&words[1..]), most, stays, patience) else { return };
        let trouble = ended.trouble(patience);
        let code = ended.code.map_or("none".into(), |code| code.to_string());
        let end = trouble.clone().unwrap_or_else(|| format!("exit code: {code}"));
        let mut said = ended.said.as_slice();
        // A line that begins in the middle may begin in the middle of a secret.
        if ended.cut > 0 && stays == Stays::End {
            let line = said.iter().position(|byte| *byte == b'\n').map_or(said.len(), |at| at + 1);
            said = &said[line..];
        } else if ended.cut > 0 || ended.timed_out {
            said = whole_lines(said);
        }
        let name = format!("commands/{name}");
        // The line of the call is ours, and stays.
        let text = format!("$ {}\n{}[{end}]\n", words.join(" "), String::from_utf8_lossy(said));
        self.keep(&name, &text, Stays::Beginning, 0);
        if let Some(text) = self.texts.get_mut(&name) {
            text.cut = text.cut.saturating_add(ended.cut);
        }
        if let Some(trouble) = trouble {
            self.note(&name, &trouble);
        }
    }

    fn note(&mut self, name: &str, note: &str) {
        if let Some(text) = self.texts.get_mut(&plain(name)) {
            text.note = plain(note);
        }
    }

    fn take(&mut self, name: &str, mut file: File, stays: Stays) {
        // Of a file in procfs nobody knows the length; of a device there is none, and it would never end.
        let Ok(about) = file.metadata() else { return };
        if !about.is_file() {
            return;
        }
        let most = u64::try_from(MOST_OF_ONE).unwrap_or(u64::MAX);
        let before = if stays == Stays::End { about.len().saturating_sub(most) } else { 0 };
        let mut bytes = Vec::new();
        let read = file.seek(SeekFrom::Start(before)).and_then(|_| file.take(most).read_to_end(&mut bytes));
        match read {
            Ok(read) => {
                let bytes = if stays == Stays::Beginning && read >= MOST_OF_ONE { whole_lines(&bytes) } else { &bytes };
                let after = about.len().saturating_sub(before).saturating_sub(u64::try_from(bytes.len()).unwrap_or(0));
                let cut = usize::try_from(before.saturating_add(after)).unwrap_or(usize::MAX);
                self.keep(name, &String::from_utf8_lossy(bytes), stays, cut);
            }
            Err(error) => self.add(name, &format!("cannot be read: {error}\n")),
        }
    }

    fn keep(&mut self, name: &str, text: &str, stays: Stays, cut: usize) {
        // A line that begins in the middle may begin in the middle of a secret.
        let text =
            if cut > 0 && stays == Stays::End { text.split_once('\n').map_or("", |(_, rest)| rest) } else { text };
        let (mut content, removed) = without_secrets(text);
        let most = MOST_OF_ONE.min(MOST_BYTES.saturating_sub(self.bytes));
        let over = content.len().saturating_sub(most);
        if over > 0 {
            content = match stays {
                Stays::Beginning => content[..floor_boundary(&content, most)].to_owned(),
                Stays::End => content[floor_boundary(&content, over)..].to_owned(),
            };
            content.truncate(floor_boundary(&content, most));
        }
        self.bytes += content.len();
        self.texts.insert(plain(name), Text { content, cut: cut.saturating_add(over), removed, note: String::new() });
    }

    /// The list that comes first in the file: every name, how long it is, and what it lacks.
    #[must_use]
    pub fn contents(&self) -> String {
        let mut list = String::from(
            "Made by failback support-bundle. Passwords, tokens and keys were taken out where a name before them or their form\n\
             shows them, and [removed:...] stands in their place. What nothing shows is still there, and so are names of users,\n\
             hosts and disks, and addresses: look through it before you give it away.\n\n     bytes  secrets  name\n",
        );
        for (name, text) in &self.texts {
            let _ = write!(list, "{:>10}  {:>7}  {name}", text.content.len(), text.removed);
            if text.cut > 0 {
                let _ = write!(list, " ({} bytes left out)", text.cut);
            }
            if !text.note.is_empty() {
                let _ = write!(list, " ({})", text.note);
            }
            list.push('\n');
        }
        list
    }

    /// What did not answer, and why: a line for each.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let silent = self.texts.iter().filter(|(_, text)| !text.note.is_empty());
        silent.map(|(name, text)| format!("{name}: {}", text.note)).collect()
    }

    /// How many secrets were taken out.
    #[must_use]
    pub fn removed(&self) -> usize {
        self.texts.values().map(|text| text.removed).sum()
    }

    /// How many texts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Writes all of it as a tar file compressed with zstd: the list first, then the texts by name. `now` is the time of every
    /// entry, in seconds since 1970. The same texts make the same bytes.
    ///
    /// # Errors
    ///
    /// When `to` cannot be written.
    pub fn write(&self, to: impl Write, now: u64) -> io::Result<()> {
        let mut archive = tar::Builder::new(zstd::Encoder::new(to, 9)?);
        append(&mut archive, LIST, self.contents().as_bytes(), now)?;
        for (name, text) in &self.texts {
            append(&mut archive, name, text.content.as_bytes(), now)?;
        }
        archive.into_inner()?.finish()?.flush()
    }
}

/// Opens a file for reading without waiting for the other end of a FIFO.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_NOCTTY.bits()).open(path)
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, content: &[u8], now: u64) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(content.len()).map_err(io::Error::other)?);
    header.set_mode(0o600);
    header.set_mtime(now);
    header.set_uid(0);
    header.set_gid(0);
    archive.append_data(&mut header, Path::new(DIRECTORY).join(name), content)
}

/// What stands before the last line, if that was cut: a login without its `@` is not known as one.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)]
}

/// The last place at or before `index` where a character begins.
fn floor_boundary(text: &str, index: usize) -> usize {
    (0..=index.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The names in a directory, with sizes and where links lead; `None` if there is no such directory.
fn listing(directory: &Path) -> Option<String> {
    let mut lines: Vec<_> = fs::read_dir(directory)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let name = plain(&entry.file_name().to_string_lossy());
            // A directory may be where a drive is mounted that does not answer.
            if entry.file_type().ok()?.is_dir() {
                return Some(format!("{:>12} {name}/\n", "-"));
            }
            let about = entry.metadata().ok()?;
            let link = fs::read_link(entry.path()).map(|to| format!(" -> {}", plain(&to.to_string_lossy())));
            Some(format!("{:>12} {name}{}\n", about.len(), link.unwrap_or_default()))
        })
        .collect();
    lines.sort();
    Some(lines.concat())
}

/// The block devices, with what sysfs says of each; loop devices and memory that are not in use are left out.
fn block_devices(host: &Host) -> String {
    let mut names: Vec<_> =
        fs::read_dir(host.path("/sys/block")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    names.sort();
    let mut text = String::new();
    for place in names {
        let read = |name: &str| fs::read(place.join(name)).ok().map(|it| plain(String::from_utf8_lossy(&it).trim()));
        if read("size").as_deref() == Some("0") {
            continue;
        }
        let _ = write!(text, "{}", plain(&place.file_name().unwrap_or_default().to_string_lossy()));
        for name in ATTRIBUTES {
            if let Some(value) = read(name) {
                let _ = write!(text, " {name}={value:?}");
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(base: &Path, path: &str, content: impl AsRef<[u8]>) {
        let path = base.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn unpacked(bundle: &Bundle) -> Vec<(String, String)> {
        let mut bytes = Vec::new();
        bundle.write(&mut bytes, 1_700_000_000).unwrap();
        let mut archive = tar::Archive::new(zstd::Decoder::new(&*bytes).unwrap());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mode().unwrap(), header.mtime().unwrap()), (0o600, 1_700_000_000));
            let name = entry.path().unwrap().strip_prefix(DIRECTORY).unwrap().to_str().unwrap().to_owned();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (name, text)
        });
        entries.collect()
    }

    #[test]
    fn a_machine_in_a_file_without_its_secrets() {
        let base = tempfile::tempdir().unwrap();
        let key = "AAAAC3NzaC1lZDI1NTE5AAAAIJd0secret";
        write(base.path(), "/proc/cmdline", format!("quiet failback.sshkey=\"ssh-ed25519 {key} me\" root=x\n"));
        write(
            base.path(),
            "/etc/failback/failback.toml",
            "[retention]\ndirectory = '/mnt'\n[relay]\ntoken = '''\nabc\n123'''\n",
        );
        write(base.path(), "/etc/failback/server.key", "-----BEGIN PRIVATE KEY-----\nabc123\n");
        write(base.path(), "/var/log/failback.log", format!("{}last line\n", "a line of the log\n".repeat(300_000)));
        write(base.path(), "/sys/block/sda/device/model", "evil\x1b[2J disk\n");
        write(base.path(), "/sys/block/sda/size", "2048\n");
        let cut = format!("{}https://abcdef", "x\n".repeat((MOST_OF_ONE - 18) / 2));
        write(base.path(), "/proc/modules", format!("{cut}123456@host\n"));
        write(base.path(), "/sys/block/loop0/size", "0\n");
        let mut bundle = Bundle::of(&Host::below(base.path()));
        bundle.add("state/check.json", "{\"checks\": []}\n");
        let found = unpacked(&bundle);
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        let wanted = [
            "CONTENTS",
            "etc/failback.list",
            "etc/failback/failback.toml",
            "proc/cmdline",
            "proc/modules",
            "state/check.json",
            "sys/block",
            "var/log/failback.log",
        ];
        assert_eq!(names, wanted);
        let all: String = found.iter().map(|(_, text)| text.as_str()).collect();
        assert!(!all.contains(key) && !all.contains("abc") && !all.contains('\x1b'));
        let text = |name: &str| &found.iter().find(|(found, _)| found == name).unwrap().1;
        assert!(text("proc/cmdline").contains("root=x") && text("etc/failback.list").contains(" server.key\n"));
        assert!(text("sys/block").starts_with("sda size=\"2048\"") && !text("sys/block").contains("loop0"));
        let log = text("var/log/failback.log");
        assert!(log.len() <= MOST_OF_ONE && log.starts_with("a line") && log.ends_with("last line\n"));
        assert_eq!(bundle.removed(), 2);
        assert!(text("CONTENTS").contains("bytes left out)\n") && text("CONTENTS").contains("state/check.json\n"));
    }

    #[test]
    fn the_same_texts_are_the_same_bytes_in_any_order() {
        let bytes = |names: [&str; 3]| {
            let mut bundle = Bundle::default();
            for name in names {
                bundle.add(name, name);
            }
            let mut bytes = Vec::new();
            bundle.write(&mut bytes, 5).unwrap();
            bytes
        };
        assert_eq!(bytes(["a", "b/c", "b/a"]), bytes(["b/a", "b/c", "a"]));
    }

    #[test]
    fn it_is_bounded_as_a_whole() {
        let mut bundle = Bundle::default();
        let long = "ä line with an umlaut\n".repeat(250_000);
        for number in 0..12 {
            bundle.add(&format!("{number:02}"), &long);
        }
        assert!(bundle.bytes <= MOST_BYTES, "{}", bundle.bytes);
        assert_eq!(bundle.len(), 12);
        assert!(bundle.contents().ends_with(&format!(" ({} bytes left out)\n", long.len())), "{}", bundle.contents());
        assert_eq!((floor_boundary("aä", 2), floor_boundary("aä", 9), floor_boundary("", 1)), (1, 3, 0));
    }

    #[test]
    fn of_a_log_the_newest_lines_stay() {
        let mut bundle = Bundle::default();
        let script = "yes 'an old line of the log' | head -n 300000; echo the newest line";
        bundle.ask("log", Stays::End, &["sh", "-c", script], PATIENCE);
        let found = unpacked(&bundle);
        assert!(found[1].1.starts_with("$ sh -c yes"), "{}", &found[1].1[..100]);
        assert!(found[1].1.len() <= MOST_OF_ONE && found[1].1.len() > MOST_OF_ONE / 2, "{}", found[1].1.len());
        assert!(found[1].1.ends_with("\nthe newest line\n[exit code: 0]\n"));
        assert!(found[0].1.ends_with("bytes left out)\n"), "{}", found[0].1);
        assert!(found[1].1.lines().skip(1).all(|line| !line.starts_with("n old")), "a line is whole or not there");
    }

    #[test]
    fn what_does_not_answer_is_named_in_the_list() {
        let mut bundle = Bundle::default();
        bundle.ask("slow", Stays::Beginning, &["sh", "-c", "echo begun; exec sleep 60"], Duration::from_secs(2));
        bundle.ask("none", Stays::Beginning, &["/nonexistent/program"], PATIENCE);
        bundle.add_missing("state/disks.json", "no answer after 30 s: /dev/sdb\x1b[2J");
        let found = unpacked(&bundle);
        assert!(found[0].1.contains("  commands/slow (no answer after 2 s; it was killed)\n"), "{}", found[0].1);
        assert!(
            found[0].1.contains("  state/disks.json (no answer after 30 s: /dev/sdb\\u{1b}[2J)\n"),
            "{}",
            found[0].1
        );
        assert_eq!((found.len(), found[1].1.contains("begun\n[no answer")), (3, true));
        assert_eq!(found[2].1, "no answer after 30 s: /dev/sdb\\u{1b}[2J\n");
    }

    #[test]
    fn a_full_disk_is_told() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut bundle = Bundle::default();
        bundle.add("a", "text");
        assert!(bundle.write(full, 0).is_err());
    }
}
