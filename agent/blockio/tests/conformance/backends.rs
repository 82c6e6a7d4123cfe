//! The devices that the suite is run on.

use crate::{CACHINGS, ENGINES, SIZES, suite::conforms};
use failback_blockio::{Caching, Device, Engine, FileDevice, Options};
use std::{
    fs::{File, OpenOptions},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::NamedTempFile;

/// Opens what is there, for reading and writing, and never creates it.
pub(crate) fn open(path: &Path) -> OwnedFd {
    OpenOptions::new().read(true).write(true).open(path).expect("a device or file that exists").into()
}

pub(crate) fn device(path: &Path, engine: Engine, caching: Caching) -> FileDevice {
    let name = path.to_str().expect("a name in UTF-8");
    FileDevice::new(open(path), name, Options { engine, caching }).expect("a device")
}

/// An image of `bytes`, all hole, in `directory`.
pub(crate) fn image(directory: &Path, bytes: u64) -> NamedTempFile {
    let file = NamedTempFile::new_in(directory).expect("a temporary file");
    file.as_file().set_len(bytes).expect("its size");
    file
}

/// A loop device, detached when dropped.
pub(crate) struct Loop {
    pub(crate) path: PathBuf,
    _backing: NamedTempFile,
}

impl Loop {
    /// `None`, with the reason printed, where there are none to have.
    pub(crate) fn new(directory: &Path, bytes: u64, block: u32) -> Option<Self> {
        let backing = image(directory, bytes);
        let output = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &block.to_string()])
            .arg(backing.path())
            .output();
        let skip = |reason: &dyn std::fmt::Display| eprintln!("SKIPPED loop device with {block}-byte blocks: {reason}");
        match output {
            Ok(output) if output.status.success() => {
                let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
                Some(Self { path, _backing: backing })
            }
            Ok(output) => {
                skip(&String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                skip(&error);
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("--detach").arg(&self.path).status();
        if !detached.is_ok_and(|status| status.success()) {
            eprintln!("cannot detach {}", self.path.display());
        }
    }
}

fn files_conform(directory: &Path, engine: Engine) {
    for caching in CACHINGS {
        for size in SIZES {
            let image = image(directory, size);
            let device = device(image.path(), engine, caching);
            eprintln!("{device:?}, {size} bytes in {}", directory.display());
            assert_eq!((device.size().get(), device.logical_block()), (size, 512));
            conforms(&device);
            drop(device);
            assert_eq!(image.as_file().metadata().expect("metadata").len(), size, "an image keeps its size");
        }
    }
}

#[test]
fn files_on_disk_with_io_uring() {
    files_conform(&std::env::temp_dir(), Engine::IoUring);
}

#[test]
fn files_on_disk_with_blocking_calls() {
    files_conform(&std::env::temp_dir(), Engine::Blocking);
}

#[test]
fn files_in_memory() {
    for engine in ENGINES {
        files_conform(Path::new("/dev/shm"), engine);
    }
}

fn loops_conform(directory: &Path, block: u32) {
    // Whole blocks, and not whole pages where the block allows it.
    let Some(disk) = Loop::new(directory, (1 << 20) + u64::from(block), block) else { return };
    for engine in ENGINES {
        for caching in CACHINGS {
            let device = device(&disk.path, engine, caching);
            eprintln!("{device:?} with {block}-byte blocks in {}", directory.display());
            assert_eq!((device.size().get(), device.logical_block()), ((1 << 20) + u64::from(block), block));
            assert_eq!(device.caching(), caching);
            conforms(&device);
        }
    }
}

#[test]
fn loop_devices_with_512_byte_blocks() {
    loops_conform(Path::new("/dev/shm"), 512);
    loops_conform(&std::env::temp_dir(), 512);
}

#[test]
fn loop_devices_with_4096_byte_blocks() {
    loops_conform(Path::new("/dev/shm"), 4096);
    loops_conform(&std::env::temp_dir(), 4096);
}

#[test]
fn a_claimed_block_device() {
    use std::os::unix::fs::OpenOptionsExt;
    let Some(disk) = Loop::new(Path::new("/dev/shm"), 1 << 20, 512) else { return };
    for direct in [0, libc::O_DIRECT] {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_EXCL | direct);
        let fd = options.open(&disk.path).expect("a claim");
        let device = FileDevice::new(fd.into(), "claimed", Options { caching: Caching::Direct, ..Options::default() });
        let device = device.expect("a device");
        conforms(&device);
        assert!(options.open(&disk.path).is_err(), "the claim holds as long as the device");
        drop(device);
    }
}

#[test]
fn a_file_opened_directly() {
    use std::os::unix::fs::OpenOptionsExt;
    let image = image(&std::env::temp_dir(), 1_000_001);
    for caching in CACHINGS {
        let fd = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(image.path());
        let device = FileDevice::new(fd.expect("O_DIRECT").into(), "direct", Options { caching, ..Options::default() });
        conforms(&device.expect("a device"));
    }
}

#[test]
fn unusable_descriptors_are_refused() {
    let image = image(&std::env::temp_dir(), 4096);
    let refuse = |fd: File, word: &str| {
        let error = FileDevice::new(fd.into(), "x", Options::default()).expect_err(word);
        assert!(error.source.to_string().contains(word), "{}", error.source);
    };
    refuse(File::open("/dev/null").expect("null"), "neither");
    refuse(File::open("/tmp").expect("a directory"), "neither");
    refuse(OpenOptions::new().write(true).open(image.path()).expect("open"), "writing only");
    refuse(OpenOptions::new().read(true).append(true).open(image.path()).expect("open"), "appending");
}

#[cfg(feature = "sim")]
#[test]
fn simulated_disks() {
    use failback_blockio::sim::World;
    for size in SIZES.into_iter().chain([1 << 20]) {
        for (block, short) in [(512, 0), (4096, 0), (512, 60)] {
            let world = World::new(size + u64::from(block));
            let disk = world.disk("simulated", crate::suite::count(size), block);
            disk.short_transfers(short);
            conforms(&disk);
            assert_eq!(disk.logical_block(), block);
        }
    }
}
