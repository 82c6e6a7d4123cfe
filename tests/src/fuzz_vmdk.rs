//! What must hold of any bytes that claim to be a descriptor, or a sparse extent with one.
//!
//! Called by the fuzzer and by a test on the stable toolchain, as in [`crate::fuzz`].

use failback_blockio::sim::{SimDisk, World};
use failback_blockio::{Action, Buffer, Device, IoError, Operation, Resizable, run};
use failback_image::descriptor::{Descriptor, ExtentKind};
use failback_image::{Access, Disk, Files, OpenError, Severity, check, open};
use failback_units::{ByteCount, ByteOffset};
use std::ffi::OsString;
use std::io;
use std::path::Path;

/// A descriptor. Returns whether it is accepted.
#[must_use]
pub fn descriptor(bytes: &[u8]) -> bool {
    let found = match Descriptor::parse(bytes) {
        Ok(found) => found,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let sum = found.extents.iter().map(|extent| extent.size.get()).sum::<u64>();
    assert_eq!(found.capacity.get(), sum);
    for extent in &found.extents {
        assert_eq!(extent.file.is_none(), extent.kind == ExtentKind::Zero);
        let name = extent.file.as_deref().unwrap_or("zero");
        assert!(!name.contains(['/', '\0', '\n']) && !matches!(name, "" | "." | ".."), "{name:?} leads away");
    }
    // Another content ID, and all else as it was.
    let (place, digits) = found.next_cid(0xffff_fffe);
    assert_eq!(place.len(), digits.len());
    let mut text = found.bytes().to_vec();
    text[place].copy_from_slice(digits.as_bytes());
    let mut again = Descriptor::parse(&text).expect("only the content ID is another");
    assert!(again.cid != found.cid && again.cid < 0xffff_fffe);
    assert_eq!(text.len(), found.bytes().len());
    again.cid = found.cid;
    assert_eq!((again.extents, again.parent_cid, again.uuid), (found.extents, found.parent_cid, found.uuid));
    true
}

/// The one file `x.vmdk` there is.
struct OneFile(SimDisk);

impl Files for OneFile {
    fn open(&self, path: &Path, _: Access) -> Result<Box<dyn Resizable>, IoError> {
        if path == Path::new("/d/x.vmdk") {
            return Ok(Box::new(self.0.clone()));
        }
        assert_eq!(path.parent(), Some(Path::new("/d")), "nothing outside of the directory is asked for");
        Err(IoError {
            action: Action::Open,
            device: "another".into(),
            at: ByteOffset::ZERO,
            count: ByteCount::ZERO,
            source: io::Error::from(io::ErrorKind::NotFound),
        })
    }

    fn names_in(&self, _: &Path) -> Result<Vec<OsString>, IoError> {
        Ok(vec!["x.vmdk".into()])
    }
}

/// How much of a disk is read from each of its ends.
const LOOKED_AT: usize = 3 << 20;

/// A file that is opened as a disk, checked, read, and written if that is not refused. Returns whether it could be read.
#[must_use]
pub fn disk(bytes: &[u8]) -> bool {
    let file = World::new(1).disk("x.vmdk", ByteCount::of_memory(bytes.len()), 512);
    file.write_durably(ByteOffset::ZERO, bytes);
    let (path, files) = (Path::new("/d/x.vmdk"), OneFile(file));
    let report = check(path, &files);
    let disk = match open(path, Access::Read, &files) {
        Ok(disk) => disk,
        Err(error) => return refusal(&error),
    };
    let Ok(before) = looked_at(&disk) else { return false };
    drop(disk);
    let sound = report.is_ok_and(|report| report.findings.worst() != Some(Severity::Error));
    match open(path, Access::Write, &files) {
        Ok(disk) => {
            assert!(sound, "what a check finds damaged is not written");
            written(&files, path, disk, before);
        }
        Err(error) => {
            let _ = refusal(&error);
        }
    }
    true
}

/// Writes a sector, closes the disk, and finds it sound and otherwise unchanged.
fn written(files: &OneFile, path: &Path, disk: Disk, mut before: Vec<u8>) {
    let len = before.len().min(512);
    before[..len].fill(0x5a);
    run(&disk, Operation::Write { at: ByteOffset::ZERO, from: Buffer::copy_of(&before[..len]) })
        .expect("it is written");
    disk.close().expect("it is closed");
    let disk = open(path, Access::Read, files).expect("it is still a disk");
    assert!(looked_at(&disk).expect("it is read") == before, "something else changed");
    let report = check(path, files).expect("it is still a disk");
    assert!(report.findings.worst().is_none_or(|worst| worst == Severity::Note), "{:?}", report.findings.list);
}

/// The beginning of a disk and its end.
fn looked_at(disk: &Disk) -> Result<Vec<u8>, IoError> {
    let size = disk.size().to_usize().unwrap_or(usize::MAX);
    let first = size.min(LOOKED_AT);
    let last = (size - first).min(LOOKED_AT);
    let mut content = Vec::new();
    for (at, len) in [(0, first), (size - last, last)] {
        let at = ByteOffset::new(at as u64).expect("it lies on the disk");
        let read = run(disk, Operation::Read { at, into: Buffer::zeroed(len) })?;
        content.extend_from_slice(&read.expect("a read has a buffer"));
        // What a hole is, reads as zeroes.
        if let Some(extent) = disk.extent_at(at)?.filter(|extent| extent.hole) {
            let hole = usize::try_from(extent.range.count().get()).unwrap_or(usize::MAX).min(len);
            let start = content.len() - len;
            assert!(content[start..start + hole].iter().all(|byte| *byte == 0), "a hole is not zero");
        }
    }
    Ok(content)
}

fn refusal(error: &OpenError) -> bool {
    assert!(error.to_string().len() > 10, "{error}");
    false
}
