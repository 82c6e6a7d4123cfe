//! The guard of an appliance: its own disks, which are never targets, and foreign ones, which are read-only until they are
//! claimed.
//!
//! Whoever keeps foreign disks read-only (a udev rule, or the init of the live ISO) does so when a disk appears. Here is what it
//! says about that, and how a disk that is claimed comes to be written: only the disk itself, only between claim and release.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use crate::lookout::Blind;
use crate::own_disks::{self, OWN_DISKS, OwnDisk, is_wwid, single_spaced};
use crate::topology::{DevNum, Host, LoopDevice};

/// Says that disks are guarded where none is recorded as the machine's own. Anything of that name says so, a link that leads nowhere too.
pub(crate) const MARKER: &str = "/run/failback/guard";

/// Whether disks are guarded, and which are the machine's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guard {
    active: bool,
    own: Vec<OwnDisk>,
}

impl Guard {
    /// Reads what is recorded. Only that neither name is there means that nothing is guarded: whatever cannot be read stops every
    /// claim.
    pub(crate) fn read(host: &Host) -> Result<Self, Blind> {
        let own = own_disks::recorded(host).map_err(|source| Blind { what: OWN_DISKS, source })?;
        let marked = match fs::symlink_metadata(host.path(MARKER)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            marker => marker.map(|_| true).map_err(|source| Blind { what: MARKER, source })?,
        };
        Ok(Self { active: own.is_some() || marked, own: own.unwrap_or_default() })
    }

    /// Whether foreign disks are kept read-only.
    pub(crate) const fn is_active(&self) -> bool {
        self.active
    }

    /// What the machine has a whole disk for, if it is its own.
    pub(crate) fn role(&self, host: &Host, disk: DevNum) -> Option<&str> {
        if self.own.is_empty() {
            return None;
        }
        let wwid = host.wwid(disk);
        let uuid = host.kernel_name(disk).and_then(|name| host.uuid_of(disk, &name));
        let is_it = |own: &&OwnDisk| wwid.as_ref() == Some(&own.wwid) || uuid.is_some() && uuid == own.uuid;
        self.own.iter().find(is_it).map(|own| own.role.as_str())
    }
}

impl Host {
    /// The name by which a whole disk is recorded as the machine's own: its WWID, or of a virtio disk `virtio-` and its serial
    /// number; `None` for a disk that has neither.
    ///
    /// The appliance's scripts have the same rule, in `wwid.sh`; `tests/tests/disk_names` holds all of them to one table.
    pub(crate) fn wwid(&self, disk: DevNum) -> Option<String> {
        let named = |attribute| self.first_line(disk, attribute);
        let of_kernel = |attribute| named(attribute).filter(|text| is_wwid(text));
        let virtio = || {
            let is_virtio = self.kernel_name(disk)?.starts_with("vd");
            is_virtio.then(|| named("serial")).flatten().map(|serial| format!("virtio-{serial}"))
        };
        of_kernel("device/wwid").or_else(|| of_kernel("wwid")).or_else(virtio)
    }

    /// The first line of an attribute with single blanks. `None` if it is not of plain text: two names that are not must not become one
    /// by what is put in the place of such characters; or if the end of it would be a comment where own disks are recorded.
    fn first_line(&self, disk: DevNum, attribute: &str) -> Option<String> {
        let bytes = fs::read(self.node(disk).join(attribute)).ok()?;
        let line: Vec<u8> =
            bytes.split(|byte| *byte == b'\n').next()?.iter().copied().filter(|byte| *byte != 0).collect();
        let line = String::from_utf8(line).ok()?;
        let is_name = line.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !line.contains(" #");
        (is_name && !line.trim().is_empty()).then(|| single_spaced(&line))
    }

    /// The whole disks, or the loop devices over files, that a block device consists of: itself, if it is one.
    pub(crate) fn disks_below(&self, device: DevNum, loops: &[LoopDevice]) -> io::Result<BTreeSet<DevNum>> {
        let below = self.floors_below(device, loops)?.into_iter();
        let disks = below.filter(|(_, below)| below.iter().all(|object| object.device().is_none()));
        Ok(disks.map(|(device, _)| device).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookout::Lookout;
    use crate::synthetic::Machine;
    use crate::topology::Object;
    use crate::uses::Use;
    use nix::sys::stat::Mode;
    use std::os::unix::fs::symlink;

    fn record(machine: &Machine, text: &str) {
        let path = machine.host.path(OWN_DISKS);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn uses(machine: &Machine, device: DevNum) -> Vec<Use> {
        Lookout::new(&machine.host).unwrap().uses(Object::Block(device)).unwrap()
    }

    fn guarded(machine: &Machine, device: DevNum) -> bool {
        Lookout::new(&machine.host).unwrap().guards(Object::Block(device)).unwrap()
    }

    #[test]
    fn without_a_record_nothing_is_guarded() {
        let machine = Machine::new();
        let disk = machine.disk("sda", "8:0");
        machine.write(disk, "device/wwid", b"naa.1\n");
        assert_eq!((uses(&machine, disk), guarded(&machine, disk)), (vec![], false));
    }

    #[test]
    fn own_disks_are_no_targets_and_others_are_guarded() {
        let machine = Machine::new();
        record(&machine, "system naa.1\nretention virtio-R1\nsystem eui.3\nsystem t10.A B\n");
        let own: Vec<_> = [("sda", "8:0", "device/wwid", "naa.1"), ("vda", "253:0", "serial", "R1")]
            .into_iter()
            .chain([("nvme0n1", "259:0", "wwid", "eui.3"), ("sdb", "8:16", "device/wwid", "t10.A     B  ")])
            .map(|(name, number, attribute, value)| {
                let disk = machine.disk(name, number);
                machine.write(disk, attribute, value.as_bytes());
                disk
            })
            .collect();
        for (disk, role) in own.iter().zip(["system", "retention", "system", "system"]) {
            assert_eq!(uses(&machine, *disk), [Use::Own { role: role.into() }]);
            assert!(!guarded(&machine, *disk));
        }
        let foreign = machine.disk("sdc", "8:32");
        machine.write(foreign, "device/wwid", b"naa.2\n");
        let nameless = machine.disk("sdd", "8:48");
        for disk in [foreign, nameless] {
            assert_eq!((uses(&machine, disk), guarded(&machine, disk)), (vec![], true));
        }
    }

    #[test]
    fn a_scsi_uuid_is_a_name_too() {
        const UUIDS: [&str; 3] = [
            "6000c2999176dd776e0123456789abcd",
            "6000c29aaa76dd776e0123456789abce",
            "6000c29bbb76dd776e0123456789abcf",
        ];
        let machine = Machine::new();
        record(&machine, &format!("system {}\nretention naa.{}\n", UUIDS[0], UUIDS[1]));
        let disks = [("sda", "8:0"), ("sdb", "8:16"), ("sdc", "8:32")].into_iter().zip(UUIDS);
        let disks: Vec<_> = disks
            .map(|((name, number), uuid)| machine.scsi(name, number, "2:0:0:0", "vmw_pvscsi", Some(uuid)))
            .collect();
        assert_eq!(uses(&machine, disks[0]), [Use::Own { role: "system".into() }]);
        assert_eq!(uses(&machine, disks[1]), [Use::Own { role: "retention".into() }]);
        assert!(guarded(&machine, disks[2]));
    }

    #[test]
    fn what_lies_on_a_disk_goes_with_it() {
        let machine = Machine::new();
        record(&machine, "system naa.1\n");
        let own = machine.disk("sda", "8:0");
        machine.write(own, "device/wwid", b"naa.1\n");
        let foreign = machine.disk("sdb", "8:16");
        for (disk, name, number, volume, wanted) in [
            (own, "sda", "8:1", "253:0", Use::Own { role: "system".into() }),
            (foreign, "sdb", "8:17", "253:1", Use::Guarded { disks: vec!["/dev/sdb".into()] }),
        ] {
            let partition = machine.partition(name, &format!("{name}1"), number);
            assert_eq!(uses(&machine, partition), std::slice::from_ref(&wanted));
            let volume = machine.disk(&format!("dm-{}", &volume[4..]), volume);
            machine.stack(partition, volume);
            assert_eq!(uses(&machine, volume), [wanted]);
            assert!(!guarded(&machine, partition) && !guarded(&machine, volume));
            assert_eq!(machine.host.disks_below(volume, &[]).unwrap(), BTreeSet::from([disk]));
        }
    }

    fn blind(machine: &Machine) -> (&'static str, String) {
        let blind = Lookout::new(&machine.host).err().unwrap();
        (blind.what, blind.source.to_string())
    }

    #[test]
    fn a_marker_guards_too() {
        let machine = Machine::new();
        let disk = machine.disk("sda", "8:0");
        let marker = machine.host.path(MARKER);
        fs::create_dir_all(marker.parent().unwrap()).unwrap();
        fs::write(&marker, "").unwrap();
        assert!(guarded(&machine, disk));
        fs::remove_file(&marker).unwrap();
        assert!(!guarded(&machine, disk));
        symlink("nowhere", &marker).unwrap();
        assert!(guarded(&machine, disk), "a name is enough");
        // Nobody can tell whether it is there.
        fs::remove_file(&marker).unwrap();
        fs::remove_dir(marker.parent().unwrap()).unwrap();
        fs::write(marker.parent().unwrap(), "").unwrap();
        assert_eq!(blind(&machine).0, MARKER);
    }

    #[test]
    fn a_record_that_is_not_understood_blinds() {
        let machine = Machine::new();
        record(&machine, "naa.1\n");
        let (what, why) = blind(&machine);
        assert_eq!(what, OWN_DISKS);
        assert!(why.starts_with("line 1 begins with 'naa.1'"), "{why}");
        record(&machine, &"#".repeat(70_000));
        assert!(blind(&machine).1.contains("larger than 65536 bytes"));
    }

    #[test]
    fn whatever_has_the_name_of_the_record_does_not_switch_the_guard_off() {
        let machine = Machine::new();
        record(&machine, "");
        let path = machine.host.path(OWN_DISKS);
        for to in ["nowhere", "own-disks", "/dev/zero", "/etc/passwd"] {
            fs::remove_file(&path).unwrap();
            symlink(to, &path).unwrap();
            let (what, why) = blind(&machine);
            assert!(what == OWN_DISKS && why.contains("it is a symbolic link"), "{to}: {why}");
        }
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        assert!(blind(&machine).1.contains("no plain file"));
        fs::remove_file(&path).unwrap();
        fs::remove_dir(path.parent().unwrap()).unwrap();
        fs::write(path.parent().unwrap(), "").unwrap();
        assert_eq!(blind(&machine).0, OWN_DISKS);
    }
}
