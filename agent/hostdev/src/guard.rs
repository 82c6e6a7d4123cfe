//! The guard of an appliance: its own disks, which are never targets, and foreign ones, which are read-only until they are
//! claimed.
//!
//! Whoever keeps foreign disks read-only (a udev rule, or the init of the live ISO) does so when a disk appears. Here is what it
//! says about that, and how a disk that is claimed comes to be written: only the disk itself, only between claim and release.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use crate::topology::{DevNum, Host, LoopDevice};
use crate::vpd::ScsiUuid;

/// The machine's own disks. Where this file is, all other disks are guarded.
pub(crate) const OWN_DISKS: &str = "/etc/failback/own-disks";
/// Says that disks are guarded where none is recorded as the machine's own.
const MARKER: &str = "/run/failback/guard";

/// Whether disks are guarded, and which are the machine's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Guard {
    active: bool,
    own: Vec<OwnDisk>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct OwnDisk {
    role: String,
    wwid: String,
    /// The same, where it is a SCSI UUID: that stays what it is whether the kernel makes a WWID of it or not.
    uuid: Option<ScsiUuid>,
}

impl Guard {
    /// Reads what is recorded. That neither file is there means that nothing is guarded; a line that is not understood is an
    /// error: an own disk that is overlooked is one that is overwritten.
    pub(crate) fn read(host: &Host) -> io::Result<Self> {
        let own = match fs::read(host.path(OWN_DISKS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            text => Some(own_disks(&String::from_utf8_lossy(&text?))?),
        };
        Ok(Self { active: own.is_some() || host.path(MARKER).try_exists()?, own: own.unwrap_or_default() })
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

/// Parses lines of `ROLE WWID`; a WWID may hold blanks. Where a disk has none, its SCSI UUID stands in its place.
fn own_disks(text: &str) -> io::Result<Vec<OwnDisk>> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        // A serial number may have such a sign in it; a comment has a blank before it.
        let line = [" #", "\t#"].iter().filter_map(|sign| line.find(sign)).min().map_or(line, |at| &line[..at]).trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (role, wwid) = line.split_once(char::is_whitespace).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("line {} has one word only", index + 1))
        })?;
        let wwid = single_spaced(wwid);
        let uuid = wwid.parse().ok();
        if !is_wwid(&wwid) && (uuid.is_none() || !is_plain_uuid(&wwid)) {
            let text = format!("line {} names what is neither a WWID of the kernel's nor a SCSI UUID", index + 1);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        found.push(OwnDisk { role: role.to_owned(), uuid, wwid });
    }
    Ok(found)
}

/// Whether a text has the form of a WWID: one of those that Linux makes for SCSI (`scsi_vpd_lun_id`) and `NVMe` (`wwid_show`), or
/// what stands for one with virtio.
fn is_wwid(text: &str) -> bool {
    const FORMS: [&str; 7] = ["naa.", "eui.", "t10.", "iqn.", "uuid.", "nvme.", "virtio-"];
    let rest = FORMS.iter().find_map(|form| text.strip_prefix(form));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(' '))
}

/// Whether a text that is a SCSI UUID is written without what tools put before it: other readers of the file know no such form.
fn is_plain_uuid(text: &str) -> bool {
    text.chars().filter(|c| !matches!(c, ' ' | '-')).count() == 32
}

/// Names of the form `t10` are padded with blanks, which are easily lost where they are copied.
fn single_spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
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
    fn lines_of_every_shape() {
        let text = "# the disks of this machine\n\nsystem naa.6000c291\n  retention\tt10.ATA     QEMU  HARDDISK\t# big #1\n \
                    \t # indented\nretention virtio-a#1\n";
        let own = own_disks(text).unwrap();
        let words: Vec<_> = own.iter().map(|own| (&*own.role, &*own.wwid)).collect();
        assert_eq!(
            words,
            [("system", "naa.6000c291"), ("retention", "t10.ATA QEMU HARDDISK"), ("retention", "virtio-a#1")]
        );
        assert_eq!(own_disks("").unwrap(), []);
        let error = own_disks("system naa.1\nnaa.6000c291\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2 has one word only");
        // Forms that others who read the file would take for no disk at all.
        for unclear in ["wwn-0x6000c2999176dd776e0123456789abcd", "sda", "naa.", "6000c2999176dd77"] {
            let error = own_disks(&format!("system {unclear}\n")).unwrap_err();
            assert!(error.to_string().starts_with("line 1 names what is neither"), "{error}");
        }
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

    #[test]
    fn a_marker_guards_too() {
        let machine = Machine::new();
        let disk = machine.disk("sda", "8:0");
        let marker = machine.host.path(MARKER);
        fs::create_dir_all(marker.parent().unwrap()).unwrap();
        fs::write(marker, "").unwrap();
        assert!(guarded(&machine, disk));
    }

    #[test]
    fn a_record_that_is_not_understood_blinds() {
        let machine = Machine::new();
        record(&machine, "naa.1\n");
        let blind = Lookout::new(&machine.host).err().unwrap();
        assert_eq!(blind.what, OWN_DISKS);
    }
}
