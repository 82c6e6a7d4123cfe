//! Two simulated disks, a target and one for the intent record, and a change to be applied.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "shared by several tests; a test fails by panicking"
)]

pub mod crash;
pub mod drive;
pub mod faults;
pub mod judge;
pub mod lab;
pub mod points;

use failback_blockio::sim::{DropFlushes, ReadsFrom, SimDisk, Snapshot, World};
use failback_blockio::{Buffer, Device, Operation, run};
use failback_orchestrate::{
    ApplyOptions, ApplyReport, BlockSize, ByteCount, Compression, DeltaInput, DiffOptions, DiskBinding, FreeMap,
    Intent, IntentError, IntentStore, JobError, Pace, PointKind, Root, ScanReport, SignOptions, SignatureReader,
    Silent, apply, diff, sign,
};
use failback_units::{ByteOffset, ByteRange};
use failback_volumes::FreeMapBuilder;
use std::io::{self, Cursor};

pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("failback test noise").update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A record in two slots that are written in turn: the newer one that is whole counts.
pub struct SlotIntents<D> {
    device: D,
    sequence: u64,
}

const SLOT: usize = 4096;

impl<D: Device> SlotIntents<D> {
    pub const fn new(device: D) -> Self {
        Self { device, sequence: 0 }
    }

    fn slot(&self, number: u64) -> Result<Option<(u64, Option<Intent>)>, IntentError> {
        let at = ByteOffset::new(number * SLOT as u64).unwrap();
        let read = run(&self.device, Operation::Read { at, into: Buffer::copy_of(&[0; 512]) });
        let bytes = read.map_err(|error| failed("read", error))?.unwrap();
        let (sequence, rest) = bytes.split_first_chunk::<8>().unwrap();
        let (hash, rest) = rest.split_first_chunk::<32>().unwrap();
        let whole = *blake3::hash(&[sequence.as_slice(), rest].concat()).as_bytes() == *hash;
        Ok(whole.then(|| (u64::from_le_bytes(*sequence), Intent::from_bytes(&rest[..Intent::LEN]))))
    }

    fn put(&mut self, record: &[u8]) -> Result<(), IntentError> {
        self.sequence += 1;
        let sequence = self.sequence.to_le_bytes();
        let mut rest = vec![0; 512 - 40];
        rest[..record.len()].copy_from_slice(record);
        let hash = blake3::hash(&[sequence.as_slice(), &rest].concat());
        let bytes = [sequence.as_slice(), hash.as_bytes(), &rest].concat();
        let at = ByteOffset::new((self.sequence % 2) * SLOT as u64).unwrap();
        let write = Operation::Write { at, from: Buffer::copy_of(&bytes) };
        run(&self.device, write)
            .and_then(|_| run(&self.device, Operation::Flush))
            .map_err(|error| failed("write", error))?;
        Ok(())
    }
}

fn failed(action: &'static str, error: failback_blockio::IoError) -> IntentError {
    IntentError::Io { action, place: "the simulated disk".into(), source: error.source }
}

impl<D: Device> IntentStore for SlotIntents<D> {
    fn load(&mut self) -> Result<Option<Intent>, IntentError> {
        let slots = [self.slot(0)?, self.slot(1)?];
        let newest = slots.into_iter().flatten().max_by_key(|(sequence, _)| *sequence);
        self.sequence = newest.map_or(0, |(sequence, _)| sequence);
        Ok(newest.and_then(|(_, intent)| intent))
    }

    fn save(&mut self, intent: &Intent) -> Result<(), IntentError> {
        self.put(&intent.to_bytes())
    }

    fn clear(&mut self) -> Result<(), IntentError> {
        if self.load()?.is_some() { self.put(&[]) } else { Ok(()) }
    }

    fn place(&self) -> String {
        "the simulated disk".into()
    }
}

/// What is taken out of the program to see whether the tests notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakenOut {
    Nothing,
    /// Flushes of the target are acknowledged and not done.
    TargetFlush,
    /// Flushes of the intent record are acknowledged and not done.
    IntentFlush,
    /// Old content is not looked at: reads are answered with what is expected.
    OldContentCheck,
}

/// How the delta arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    File,
    Pipe,
}

pub struct Scene {
    pub world: World,
    pub target: SimDisk,
    pub records: SimDisk,
    pub pristine: SimDisk,
    pub base: Vec<u8>,
    pub result: Vec<u8>,
    pub delta: Vec<u8>,
    pub start: Snapshot,
    /// Whether the target can be recognised by its identity.
    pub certain: bool,
}

/// Bytes of the target behind the result, which nobody may touch.
const TAIL: usize = 8192;

impl Scene {
    /// A base, and a result of `frames` MiB of changes scattered over it.
    pub fn new(seed: u64, frames: usize) -> Self {
        let len = (frames << 21) + 777;
        let base = noise(seed, len);
        let mut result = base.clone();
        // Every other 4 KiB block, some of them zero, and the ragged end.
        for (number, block) in result.chunks_mut(4096).enumerate().filter(|(number, _)| number % 2 == 0) {
            if number % 64 == 0 { block.fill(0) } else { block.copy_from_slice(&noise(number as u64, block.len())) }
        }
        let world = World::new(seed);
        let size = |len: usize| ByteCount::of_memory(len);
        let (target, records) =
            (world.disk("target", size(len + TAIL), 512), world.disk("records", size(2 * SLOT), 512));
        let pristine = world.disk("pristine", size(len + TAIL), 512);
        let delta = delta_between(&base, &result);
        for disk in [&target, &pristine] {
            disk.write_durably(ByteOffset::ZERO, &base);
            disk.write_durably(ByteOffset::new(len as u64).unwrap(), &[0xEE; TAIL]);
        }
        let start = world.snapshot();
        Self { world, target, records, pristine, base, result, delta, start, certain: true }
    }

    pub fn apply(&self, way: Way, out: TakenOut) -> Result<ApplyReport, JobError> {
        self.apply_delta(&self.delta, way, out, false)
    }

    pub fn apply_delta(
        &self,
        delta: &[u8],
        way: Way,
        out: TakenOut,
        discard_intent: bool,
    ) -> Result<ApplyReport, JobError> {
        let target: Box<dyn Device> = match out {
            TakenOut::TargetFlush => Box::new(DropFlushes(self.target.clone())),
            TakenOut::OldContentCheck => {
                Box::new(ReadsFrom { device: self.target.clone(), reads: self.pristine.clone() })
            }
            TakenOut::Nothing | TakenOut::IntentFlush => Box::new(self.target.clone()),
        };
        let mut intents: Box<dyn IntentStore> = match out {
            TakenOut::IntentFlush => Box::new(SlotIntents::new(DropFlushes(self.records.clone()))),
            _ => Box::new(SlotIntents::new(self.records.clone())),
        };
        let pace = Pace { frames_in_batch: 1, batches_in_window: 2 };
        let disk = DiskBinding { id: [7; 32], certain: self.certain };
        let options = ApplyOptions { pace, discard_intent, disk, ..ApplyOptions::default() };
        let mut cursor = Cursor::new(delta);
        let mut pipe: &[u8] = delta;
        let input = match way {
            Way::File => DeltaInput::File(&mut cursor),
            Way::Pipe => DeltaInput::Stream(&mut pipe),
        };
        apply(target.as_ref(), input, intents.as_mut(), &options, &Silent)
    }

    pub fn intent(&self) -> Option<Intent> {
        SlotIntents::new(self.records.clone()).load().unwrap()
    }

    /// Puts a record in the place of the one that is there.
    pub fn keep(&self, intent: &Intent) {
        let mut records = SlotIntents::new(self.records.clone());
        records.load().unwrap();
        records.save(intent).unwrap();
    }

    /// What is wrong with the target if it should hold the result.
    pub fn wrong_at_result(&self) -> Option<String> {
        let content = self.target.content();
        let (disk, tail) = content.split_at(self.result.len());
        if disk != self.result {
            return Some("the target does not hold the result".into());
        }
        (tail != [0xEE; TAIL]).then(|| "bytes behind the result were touched".into())
    }

    /// What is wrong with the target in the middle: outside of the recorded window every block is old or new.
    pub fn wrong_in_the_middle(&self) -> Option<String> {
        let content = self.target.content();
        let window = self.intent().map(|intent| (intent.window.start().get(), intent.window.end().get()));
        let blocks =
            content[..self.result.len()].chunks(4096).zip(self.base.chunks(4096).zip(self.result.chunks(4096)));
        for (number, (now, (old, new))) in (0_u64..).zip(blocks) {
            let in_window = window.is_some_and(|(start, end)| (start..end).contains(&number));
            if now != old && now != new && !in_window {
                return Some(format!("block {number} is torn and no record tells so"));
            }
        }
        None
    }
}

/// Flips a bit in the payload of a delta's last frame and repairs the frame's hash. Offsets are those of `FORMAT.md`.
pub fn resealed_with_a_flipped_bit(delta: &[u8]) -> Vec<u8> {
    let mut delta = delta.to_vec();
    let u32_at = |delta: &[u8], at: usize| u32::from_le_bytes(*delta[at..].first_chunk().unwrap()) as usize;
    let mut at = 128 + u32_at(&delta, 20);
    let key = *delta[96..].first_chunk::<32>().unwrap();
    loop {
        let stored = u32_at(&delta, at + 44);
        let end = at + 80 + 8 * u32_at(&delta, at + 32) + 32 * u32_at(&delta, at + 36) + stored;
        if &delta[end..end + 4] == b"FBFR" {
            at = end;
            continue;
        }
        assert_eq!(stored, u32_at(&delta, at + 40), "noise is stored as it is");
        delta[end - 1] ^= 1;
        delta[at + 48..at + 80].fill(0);
        let hash = blake3::keyed_hash(&key, &delta[at..end]);
        delta[at + 48..at + 80].copy_from_slice(hash.as_bytes());
        return delta;
    }
}

pub fn signature_of(disk: &[u8]) -> Vec<u8> {
    signature_used(disk, None)
}

/// A signature of a disk of which these blocks of 4 KiB are free.
pub fn signature_used(disk: &[u8], free: Option<&[bool]>) -> Vec<u8> {
    let world = World::new(0);
    let device = world.disk("base", ByteCount::of_memory(disk.len()), 512);
    device.write_durably(ByteOffset::ZERO, disk);
    let free_map = free.map(|free| map_of(free, disk.len()));
    let options = SignOptions {
        block_size: BlockSize::MIN,
        free: free_map.as_ref(),
        kind: PointKind::Crash,
        created: 0,
        identity: failback_delta::Identity::default(),
        threads: 1,
        before_end: &|| Ok(()),
    };
    let mut signature = Vec::new();
    let report = sign(&device, &mut signature, &options, &Silent).unwrap();
    assert_eq!(report.root, Root::of(&counted(disk, free)));
    signature
}

/// The disk with its free blocks zero.
pub fn counted(disk: &[u8], free: Option<&[bool]>) -> Vec<u8> {
    let mut disk = disk.to_vec();
    for (block, _) in disk.chunks_mut(4096).zip(free.unwrap_or_default()).filter(|(_, free)| **free) {
        block.fill(0);
    }
    disk
}

/// These blocks of 4 KiB as free bytes of a disk of `len` bytes.
pub fn map_of(free: &[bool], len: usize) -> FreeMap {
    let mut map = FreeMapBuilder::new();
    for (block, _) in free.iter().enumerate().filter(|(_, free)| **free) {
        let offset = |at: usize| ByteCount::of_memory(at.min(len)).as_end();
        map.push(ByteRange::between(offset(block * 4096), offset(block * 4096 + 4096)).unwrap());
    }
    map.finish()
}

pub fn delta_between(base: &[u8], result: &[u8]) -> Vec<u8> {
    delta_used(&signature_of(base), result, None)
}

/// The delta from a signed disk to one of which these blocks are free.
pub fn delta_used(signature: &[u8], result: &[u8], free: Option<&[bool]>) -> Vec<u8> {
    let world = World::new(0);
    let device = world.disk("source", ByteCount::of_memory(result.len()), 512);
    device.write_durably(ByteOffset::ZERO, result);
    let signature = SignatureReader::open(Cursor::new(signature)).unwrap();
    let free_map = free.map(|free| map_of(free, result.len()));
    let options = diff_options(free_map.as_ref(), result);
    let mut delta = Vec::new();
    let report = diff(signature, &device, &mut delta, &options, &Silent).unwrap();
    assert_eq!(report.result_root, Root::of(&counted(result, free)));
    let ScanReport { bytes_read, bytes_hole, bytes_free } = report.scan;
    assert_eq!(bytes_read + bytes_hole + bytes_free, result.len() as u64);
    assert_eq!(bytes_free, free_map.map_or(0, |map| map.bytes().get()), "free space is not read");
    delta
}

/// How the tests compare: the same disk gives the same delta.
pub fn diff_options<'a>(free: Option<&'a FreeMap>, result: &[u8]) -> DiffOptions<'a> {
    DiffOptions {
        free,
        kind: PointKind::Crash,
        created: 0,
        id: *blake3::hash(result).as_bytes().first_chunk().unwrap(),
        identity: failback_delta::Identity::default(),
        compression: &Compression::LIGHTEST,
        threads: 1,
        signer: None,
        before_end: &|| Ok(()),
    }
}

/// For assertions on the kind of an error that crosses `io`.
pub fn errno_of(error: &JobError) -> Option<i32> {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        cause = error.source();
    }
    None
}
