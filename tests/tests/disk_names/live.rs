//! The guard of the live ISO: once for each disk and each medium, also by a kernel that does not count them.

use crate::machine::Machine;
use failback_tests::lab::{Loop, Place, has_devices, tool};
use std::fs;

/// A machine with a reader of cards, sda, that the kernel has given this number, if it counts disks.
struct Reader {
    machine: Machine,
    gone: u32,
    _device: Loop,
}

impl Reader {
    fn new(number: Option<&str>) -> Option<Self> {
        if !has_devices() {
            return None;
        }
        let machine = Machine::new()?;
        // Something that can be opened.
        let device = Loop::attach(&Place::new().noisy("disk.img", 1 << 20, 1), &[]);
        tool("cp", &["-a".as_ref(), device.path.as_os_str(), machine.path("dev/sda").as_os_str()]);
        let mut reader = Self { machine, gone: 0, _device: device };
        let counted: Vec<_> = number.map(|number| ("diskseq", number.as_bytes())).into_iter().collect();
        reader.machine.disk("sda", &counted);
        Some(reader)
    }

    /// Another disk takes the name.
    fn exchange(&mut self, number: Option<&str>) {
        self.gone += 1;
        let place = self.machine.path("sys/devices/sda");
        fs::rename(&place, self.machine.path(&format!("gone{}", self.gone))).unwrap();
        self.machine.write("sys/devices/sda/size", b"2048\n");
        if let Some(number) = number {
            self.machine.write("sys/devices/sda/diskseq", number.as_bytes());
        }
    }

    /// Whether the guard makes it read-only when the kernel calls for this reason.
    #[track_caller]
    fn is_guarded(&self, reason: &[&str]) -> bool {
        self.machine.write("files/called", b"");
        let shell = [&["env", "DEVNAME=sda"], reason, &["sh"]].concat();
        self.machine.run(&shell, &["/usr/libexec/failback/guard"]);
        let called = fs::read_to_string(self.machine.path("files/called")).unwrap();
        assert!(called.is_empty() || called == "--setro /dev/sda\n", "{called}");
        !called.is_empty()
    }
}

const ADDED: &[&str] = &["ACTION=add"];
const CHANGED: &[&str] = &["ACTION=change"];
const MEDIUM: &[&str] = &["ACTION=change", "DISK_MEDIA_CHANGE=1"];

#[test]
fn a_disk_that_takes_the_name_of_another_is_guarded() {
    for (first, second) in [(Some("7"), Some("8")), (None, None)] {
        let Some(mut reader) = Reader::new(first) else { return };
        assert!(reader.is_guarded(ADDED), "{first:?}");
        assert!(!reader.is_guarded(ADDED) && !reader.is_guarded(CHANGED), "{first:?}: it is looked at again");
        reader.exchange(second);
        assert!(reader.is_guarded(ADDED), "{second:?}");
        assert!(!reader.is_guarded(CHANGED), "{second:?}: it is looked at again");
    }
}

#[test]
fn another_medium_is_guarded() {
    let Some(reader) = Reader::new(None) else { return };
    assert!(reader.is_guarded(ADDED) && !reader.is_guarded(CHANGED));
    assert!(reader.is_guarded(MEDIUM) && !reader.is_guarded(CHANGED));
    // Where the kernel counts, it counts media too.
    let Some(reader) = Reader::new(Some("7")) else { return };
    assert!(reader.is_guarded(MEDIUM) && !reader.is_guarded(MEDIUM));
    reader.machine.write("sys/devices/sda/diskseq", b"8\n");
    assert!(reader.is_guarded(MEDIUM) && !reader.is_guarded(CHANGED));
}
