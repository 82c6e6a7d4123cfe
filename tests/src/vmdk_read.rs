//! Reading extents in tests, whole and damaged, with our code and that of others.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crate::fuzz_streams::in_memory;
use crate::lab::{Place as Room, noise, tool};
use failback_blockio::{Device, Engine, FileDevice, Options};
use failback_image::extent::{Extent, ExtentError};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

const SECTOR: usize = 512;

/// How a kind of extent is opened.
pub type Open<E> = fn(Box<dyn Device>) -> Result<E, ExtentError>;

/// A file, opened for reading.
#[must_use]
pub fn device(path: &Path) -> Box<dyn Device> {
    let options = Options { engine: Engine::Blocking, ..Options::default() };
    let file = File::open(path).unwrap();
    Box::new(FileDevice::new(file.into(), path.to_str().unwrap(), options).unwrap())
}

/// The whole disk of an extent that has no parent.
#[must_use]
pub fn content(extent: &dyn Extent) -> Vec<u8> {
    let mut disk = vec![0xA5; extent.capacity().to_usize().unwrap()];
    for (index, grain) in (0..).zip(disk.chunks_mut(extent.grain_size() as usize)) {
        extent.read_grain(index, grain).unwrap();
    }
    disk
}

/// What `qemu-img` reads in a VMDK.
#[must_use]
pub fn by_qemu(room: &Room, vmdk: &Path) -> Vec<u8> {
    let raw = room.path("by-qemu.raw");
    tool(
        "qemu-img",
        &[
            "convert".as_ref(),
            "-f".as_ref(),
            "vmdk".as_ref(),
            "-O".as_ref(),
            "raw".as_ref(),
            vmdk.as_os_str(),
            raw.as_os_str(),
        ],
    );
    fs::read(raw).unwrap()
}

/// What `vmdk-core` reads in a VMDK.
#[must_use]
pub fn by_vmdk_core(vmdk: &Path) -> Vec<u8> {
    let mut reader = vmdk::VmdkReader::open_path(vmdk).unwrap();
    let mut disk = Vec::new();
    reader.read_to_end(&mut disk).unwrap();
    disk
}

/// A change of bytes in a file, and a part of the sentence with which it is refused.
pub type Damage<'a> = (usize, &'a [u8], &'a str);

/// Opens, and where that succeeds reads grain 0: why that fails, or nothing.
#[must_use]
pub fn refusal<E: Extent>(file: &[u8], open: Open<E>) -> String {
    let read = |extent: E| {
        let mut grain = vec![0; extent.grain_size().min(u32::try_from(extent.capacity().get()).unwrap()) as usize];
        extent.read_grain(0, &mut grain)
    };
    open(in_memory(file)).and_then(read).err().map_or_else(String::new, |error| error.to_string())
}

/// Wants a sound file to be read, and each damage to be refused with its sentence.
pub fn check_refusals<E: Extent>(file: &[u8], damages: &[Damage<'_>], open: Open<E>) {
    assert_eq!(refusal(file, open), "");
    for (at, bytes, sentence) in damages {
        let mut file = file.to_vec();
        file[*at..*at + bytes.len()].copy_from_slice(bytes);
        let said = refusal(&file, open);
        assert!(said.starts_with("x.vmdk: ") && said.contains(sentence), "{at}: {said:?} and not {sentence:?}");
    }
}

/// A file with one to three changes, the same for the same seed.
#[must_use]
pub fn mutated(bytes: &[u8], seed: u64) -> Vec<u8> {
    let dice: Vec<usize> = noise(64, seed)
        .chunks(8)
        .map(|word| usize::try_from(u64::from_le_bytes(word.try_into().unwrap()) >> 8).unwrap())
        .collect();
    let mut bytes = bytes.to_vec();
    for change in 0..=dice[0] % 3 {
        // Mostly where structures are: in front, at the end, and at the beginnings of sectors.
        let at = match dice[1 + change] % 4 {
            0 => dice[1 + change] / 4 % bytes.len(),
            1 => dice[1 + change] / 4 % bytes.len().min(256),
            2 => bytes.len() - 1 - dice[1 + change] / 4 % bytes.len().min(2100),
            _ => (dice[1 + change] / 4 % bytes.len() / SECTOR * SECTOR + dice[7] % 24).min(bytes.len() - 1),
        };
        match dice[4 + change] % 6 {
            0 => bytes.truncate(at.max(1)),
            1 => bytes[at] ^= 1 << (dice[7] % 8),
            2 => bytes[at] = 0xff,
            3 => bytes[at] = 0,
            4 => bytes[at] = bytes[at].wrapping_add(1),
            _ => {
                let end = bytes.len().min(at + 4);
                bytes[at..end].fill(dice[7].to_le_bytes()[1]);
            }
        }
    }
    bytes
}
