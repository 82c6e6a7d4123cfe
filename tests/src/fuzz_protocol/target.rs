//! A hostile source before a target.

use super::disks::{Leads, SIZE, contents, delta, disk_of, free_map, leads, root_of, shape_of, tree_of};
use super::frames::{Frames, headed, message, preface};
use super::steps::Steps;
use super::{connections, timed};
use crate::fuzz::reseal_delta;
use failback_blockio::sim::SimDisk;
use failback_delta::{DeltaReader, FreeBlocks, trailing_root};
use failback_hashtree::{Root, Shape};
use failback_orchestrate::{
    ApplyOptions, BaseTree, DeltaInput, DiskBinding, Intent, IntentError, IntentStore, JobError, LocalBase, Silent,
    StoredTree, advance_tree, apply,
};
use failback_replication::wire::{DATA_MAX, RawAccept, RawEnd, RawOffer, RawQuestion, RawRun, kind, role};
use failback_replication::{Link, Offer, Offered, Replica, SessionError, SessionReport, Spool, serve_session};
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// The pair that there is.
const PAIR: &str = "pair";
/// The longest delta that is sent in steps.
const DELTA_MAX: usize = 64 << 10;

thread_local! {
    static LAB: RefCell<Lab> = RefCell::new(Lab::new());
}

/// A source that says these bytes. Returns whether the target came to another state of its disk.
///
/// # Panics
///
/// When something does not hold that must.
#[must_use]
pub fn target(bytes: &[u8]) -> bool {
    LAB.with_borrow_mut(|lab| {
        timed(|| {
            let mut visit = Visit::new(lab);
            for says in connections(bytes) {
                visit.connection(says.to_vec());
            }
            visit.is_done()
        })
    })
}

/// A source that takes these steps. Returns whether the target came to another state of its disk.
///
/// # Panics
///
/// When something does not hold that must.
#[must_use]
pub fn target_steps(bytes: &[u8]) -> bool {
    LAB.with_borrow_mut(|lab| {
        timed(|| {
            let (mut steps, mut sends) = (Steps::new(bytes), lab.deltas[0].clone());
            let mut visit = Visit::new(lab);
            while !steps.is_over() {
                let says = visit.says(&mut steps, &mut sends);
                visit.connection(says);
            }
            visit.is_done()
        })
    })
}

/// What an honest source says that sends the first delta, after asking this and that.
pub(super) fn honest() -> Vec<u8> {
    LAB.with_borrow(|lab| {
        let delta = &lab.deltas[0];
        let questions = [question(1, &[run(0, 1, 6), run(0, 65, 0)]), message(kind::ASK_MAP, &[])];
        [preface(role::SOURCE), offer(None).to_bytes(), questions.concat(), data(0, delta), end(delta)].concat()
    })
}

/// What is the same for all inputs.
struct Lab {
    directory: TempDir,
    base: Vec<u8>,
    tree: StoredTree,
    spool: Mutex<Spool>,
    deltas: Vec<Vec<u8>>,
}

impl Lab {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("there is room for a spool");
        let (base, result) = contents();
        let tree = tree_of(&disk_of(&base), &FreeBlocks::NONE, &directory.path().join("tree"));
        let spool = Spool::open(&directory.path().join("spool")).expect("it can be made");
        let free = free_map(20, 41);
        // Both disks differ from those that there are in one place that does not change.
        let elsewhere = |content: &[u8]| {
            let mut other = content.to_vec();
            other[100_000] ^= 1;
            other
        };
        let deltas = vec![
            delta(&base, &result, None),
            delta(&base, &result, Some(&free)),
            delta(&base, &base, None),
            delta(&base, &result[..150_000], None),
            delta(&base, &[&base[..], &result[..9000]].concat(), None),
            delta(&result, &base, None),
            delta(&elsewhere(&base), &elsewhere(&result), None),
        ];
        Self { directory, base, tree, spool: Mutex::new(spool), deltas }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn lock(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A target and its disk, for all connections of an input.
struct Visit<'a> {
    lab: &'a Lab,
    disk: SimDisk,
    /// What the disk has to hold.
    content: Vec<u8>,
    applied: Option<([u8; 32], Root)>,
}

impl<'a> Visit<'a> {
    fn new(lab: &'a Lab) -> Self {
        if !lab.lock().is_empty() {
            lab.lock().cut(0).expect("a spool can be emptied");
        }
        Self { lab, disk: disk_of(&lab.base), content: lab.base.clone(), applied: None }
    }

    const fn is_done(&self) -> bool {
        self.applied.is_some()
    }

    /// One connection, from its first to its last byte.
    fn connection(&mut self, says: Vec<u8>) {
        let said = Said::default();
        let (most, was_done) = (says.len() as u64, self.is_done());
        let broken = said.clone();
        let link = Link {
            reader: Box::new(Says { bytes: Cursor::new(says), said: said.clone() }),
            writer: Box::new(said.clone()),
            breaker: Arc::new(move || broken.lock().is_broken = true),
        };
        let tree = LocalBase { tree: &self.lab.tree, device: &self.disk };
        let mut replica =
            Served { lab: self.lab, disk: &self.disk, tree, content: &mut self.content, applied: &mut self.applied };
        let ended = serve_session(link, &Arc::default(), &mut replica);
        let heard = said.lock();
        match &ended {
            Ok(SessionReport::Applied(root)) => assert!(!was_done && heard.done == Some(*root)),
            Ok(SessionReport::AppliedBefore(root)) => assert!(was_done && heard.done == Some(*root)),
            Ok(SessionReport::Stored(_)) => panic!("this is no relay"),
            Ok(SessionReport::Marked(_)) => panic!("there is no group"),
            Err(error) => {
                assert_eq!((heard.done, was_done), (None, self.is_done()), "what failed is not done: {error}");
                let is_told = !error.is_link() && !matches!(error, SessionError::Mismatch(_));
                // What fails while the source hangs up is told to nobody.
                assert!(heard.refused || heard.has_hung_up || !is_told, "it is not told why: {error}");
            }
        }
        heard.look(&self.lab.tree, most);
        assert!(self.disk.content() == self.content, "the disk is what was proven, and nothing else");
        self.look_at_spool();
    }

    /// What is told to be durable is there, whatever becomes of the machine.
    fn look_at_spool(&self) {
        let spool = self.lab.lock();
        let (durable, len, key) = (spool.durable(), spool.len(), spool.key());
        assert!(durable <= len && !(self.is_done() && len > 0));
        if durable > 0 {
            let copy = self.lab.path("copy");
            std::fs::copy(spool.path(), &copy).expect("a spool can be copied");
            let again = Spool::open(&copy).expect("a spool can be opened");
            // A part that is whole and was damaged is found only when the delta is proven.
            assert!(again.len() <= len && (again.is_empty() || again.key() == key));
        }
    }

    /// What the next connection says, by some steps.
    fn says(&self, steps: &mut Steps, sends: &mut Vec<u8>) -> Vec<u8> {
        let mut says = preface(role::SOURCE);
        // An honest source knows from ACCEPT what is here.
        let here = usize::try_from(self.lab.lock().durable()).unwrap_or(usize::MAX);
        let (mut at, mut has_offered) = (here.min(sends.len()), false);
        while !steps.is_over() && says.len() < 4 * DELTA_MAX {
            match steps.below(20) {
                0 => {
                    says.extend(offer(Some(sends)).to_bytes());
                    has_offered = true;
                }
                1 => {
                    says.extend(offer(None).to_bytes());
                    (at, has_offered) = (0, true);
                }
                2 => says.extend(hostile_offer(steps)),
                3 => says.extend(message(kind::ASK_MAP, &[])),
                4 => says.extend(hostile_question(steps)),
                5 => says.extend(question(steps.byte().into(), &[run(0, 1 + u32::from(steps.byte()) % 65, 0)])),
                6 => {
                    let to = (at + 1 + usize::from(steps.byte()) * 64).min(sends.len());
                    says.extend(data(at as u64, &sends[at..to]));
                    at = to;
                }
                7 => says.extend(message(kind::DATA, &[&steps.number().to_le_bytes()[..], &steps.bytes()].concat())),
                8 => says.extend(end(sends)),
                9 => {
                    let (len, mut root) = (steps.number(), [0; 32]);
                    steps.alter(&mut root);
                    let len = if steps.below(2) == 0 { sends.len() as u64 } else { len };
                    says.extend(message(kind::END, RawEnd { len: len.into(), root }.as_bytes()));
                }
                10 => {
                    let numbers = [steps.number().to_le_bytes(), steps.number().to_le_bytes()].concat();
                    says.extend(message(kind::PROGRESS, &numbers));
                }
                11 => says.extend(message(kind::ALIVE, &[])),
                12 => says.extend(message(kind::REFUSE, &steps.bytes())),
                13 => says.extend(message(steps.byte(), &steps.bytes())),
                14 => says.extend(steps.bytes()),
                15 => {
                    let len = u32::try_from(steps.number()).unwrap_or(u32::MAX);
                    says.extend(headed(len, steps.byte(), &steps.bytes()));
                }
                16 => {
                    sends.clone_from(&self.lab.deltas[steps.below(self.lab.deltas.len())]);
                    at = at.min(sends.len());
                }
                17 => {
                    steps.alter(sends);
                    let _ = reseal_delta(sends);
                }
                18 => return says,
                _ => {
                    if !has_offered {
                        says.extend(offer(Some(sends)).to_bytes());
                        has_offered = true;
                    }
                    says.extend(data(at as u64, &sends[at..]));
                    says.extend(end(sends));
                    at = sends.len();
                }
            }
        }
        says
    }
}

/// The offer of an honest source, as it stands in a message.
struct Offering(RawOffer);

/// An offer of a new delta, or of one that is to go on.
fn offer(goes_on: Option<&[u8]>) -> Offering {
    let mut raw = RawOffer::new_zeroed();
    (raw.size, raw.pair_len, raw.coverage, raw.kind) = ((SIZE as u64).into(), 4, 1, 3);
    if let Some((delta, reader)) = goes_on.and_then(|delta| Some((delta, DeltaReader::open(delta).ok()?))) {
        (raw.delta, raw.until) = (*reader.key(), (delta.len() as u64).into());
    }
    Offering(raw)
}

impl Offering {
    fn to_bytes(&self) -> Vec<u8> {
        message(kind::OFFER, &[self.0.as_bytes(), PAIR.as_bytes()].concat())
    }
}

fn hostile_offer(steps: &mut Steps) -> Vec<u8> {
    let Offering(mut raw) = offer(None);
    match steps.below(6) {
        0 => raw.size = steps.number().into(),
        1 => (raw.pair_len, raw.source_len) = (steps.byte(), steps.byte()),
        2 => (raw.coverage, raw.kind) = (steps.byte(), steps.byte()),
        3 => (raw.delta, raw.until) = ([steps.byte(); 32], steps.number().into()),
        4 => steps.alter(raw.as_mut_bytes()),
        _ => {}
    }
    let names = if steps.below(2) == 0 { PAIR.as_bytes().to_vec() } else { steps.bytes() };
    message(kind::OFFER, &[raw.as_bytes(), &names].concat())
}

fn run(first: u64, count: u32, level: u8) -> RawRun {
    RawRun { first: first.into(), count: count.into(), level, reserved: [0; 3] }
}

fn question(id: u32, runs: &[RawRun]) -> Vec<u8> {
    let count = u32::try_from(runs.len()).expect("questions are short");
    let head = RawQuestion { id: id.into(), count: count.into() };
    message(kind::ASK_VALUES, &[head.as_bytes(), runs.as_bytes()].concat())
}

fn hostile_question(steps: &mut Steps) -> Vec<u8> {
    let runs: Vec<_> = (0..steps.below(40))
        .map(|_| run(steps.number(), u32::try_from(steps.number()).unwrap_or(u32::MAX), steps.byte() % 72))
        .collect();
    let mut asked = question(steps.byte().into(), &runs);
    if steps.below(4) == 0 {
        steps.alter(&mut asked[8..]);
    }
    asked
}

/// A delta from some place to its end, in pieces.
fn data(at: u64, bytes: &[u8]) -> Vec<u8> {
    let piece = |(number, piece): (usize, &[u8])| {
        message(kind::DATA, &[&(at + (number * DATA_MAX) as u64).to_le_bytes()[..], piece].concat())
    };
    bytes.chunks(DATA_MAX).enumerate().flat_map(piece).collect()
}

fn end(delta: &[u8]) -> Vec<u8> {
    let root = DeltaReader::open(delta).ok().and_then(|reader| trailing_root(delta, reader.key()));
    let root = root.map_or([0; 32], |root| root.0);
    message(kind::END, RawEnd { len: (delta.len() as u64).into(), root }.as_bytes())
}

/// What the target says.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    frames: Frames,
    accepted: Option<RawAccept>,
    durable: u64,
    /// Values that were sent.
    values: u64,
    done: Option<Root>,
    refused: bool,
    is_broken: bool,
    /// The source has said everything.
    has_hung_up: bool,
}

/// What the source says.
struct Says {
    bytes: Cursor<Vec<u8>>,
    said: Said,
}

impl Read for Says {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            self.said.lock().has_hung_up = true;
        }
        Ok(read)
    }
}

impl Said {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut heard = self.lock();
        if heard.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        heard.take(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Heard {
    fn take(&mut self, bytes: &[u8]) {
        self.frames.take(bytes);
        while let Some(frame) = self.frames.next(Some(role::TARGET)) {
            assert!(frame.kind >= kind::ACCEPT, "a target does not say {}", frame.kind);
            assert!(self.done.is_none(), "nothing follows DONE: {}", frame.kind);
            match frame.kind {
                kind::ACCEPT => {
                    let accept = RawAccept::read_from_bytes(&frame.payload).expect("it is as long as it has to be");
                    assert!(self.accepted.replace(accept).is_none(), "it accepts once");
                    self.durable = accept.durable.get();
                }
                kind::VALUES => {
                    let (head, rest) = frame.start::<RawQuestion>().expect("it has a head");
                    assert_eq!(rest.len() as u64, 32 * u64::from(head.count.get()));
                    self.values += u64::from(head.count.get());
                }
                kind::DURABLE => {
                    let len = u64::from_le_bytes(frame.payload.try_into().expect("it is a length"));
                    assert!(self.accepted.is_some() && len >= self.durable, "{len} after {}", self.durable);
                    self.durable = len;
                }
                kind::DONE => self.done = Some(Root(frame.payload.try_into().expect("it is a root"))),
                kind::STORED => panic!("this is no relay"),
                kind::REFUSE => self.refused = true,
                _ => {}
            }
        }
    }

    /// Holds what was said against what there is, and against what the source had said: not more than `most` bytes.
    fn look(&self, tree: &StoredTree, most: u64) {
        if let Some(accept) = &self.accepted {
            assert_eq!(accept.root, tree.root().0);
            assert_eq!((accept.size.get(), accept.relayed), (tree.shape().size().get(), 0));
            assert!(self.durable <= accept.durable.get() + most);
        }
        // A run of 16 bytes asks for no more than 4096 values.
        assert!(self.values <= most / 16 * 4096);
    }
}

#[derive(Default)]
struct MemoryIntents(Option<Intent>);

impl IntentStore for MemoryIntents {
    fn load(&mut self) -> Result<Option<Intent>, IntentError> {
        Ok(self.0)
    }

    fn save(&mut self, intent: &Intent) -> Result<(), IntentError> {
        self.0 = Some(*intent);
        Ok(())
    }

    fn clear(&mut self) -> Result<(), IntentError> {
        self.0 = None;
        Ok(())
    }

    fn place(&self) -> String {
        "memory".into()
    }
}

/// A target that applies what a delta proves to lead away from what it has, as one with recovery points does.
struct Served<'a> {
    lab: &'a Lab,
    disk: &'a SimDisk,
    tree: LocalBase<'a>,
    content: &'a mut Vec<u8>,
    applied: &'a mut Option<([u8; 32], Root)>,
}

impl Replica for Served<'_> {
    fn offer(&mut self, offer: &Offer) -> Result<Offered, JobError> {
        if offer.pair != PAIR {
            return Err(JobError::Refused(format!("there is no pair {}: add it", offer.pair)));
        }
        match (offer.resumed, *self.applied) {
            (Some(resumed), Some((key, root))) if resumed.delta == key => Ok(Offered::Applied(root)),
            (_, Some(_)) => Err(JobError::Refused("one pass is enough: come again later".into())),
            _ => Ok(Offered::Ready),
        }
    }

    fn base(&self) -> Result<&dyn BaseTree, JobError> {
        Ok(&self.tree)
    }

    fn spool(&self) -> &Mutex<Spool> {
        &self.lab.spool
    }

    fn apply(&mut self, expected: Root) -> Result<Root, JobError> {
        let path = self.lab.path("spool");
        let bytes = std::fs::read(&path).expect("a spool can be read");
        let reader = DeltaReader::open(&bytes[..])?;
        let header = reader.header().clone();
        let shape = self.lab.tree.shape();
        if header.base_root != self.lab.tree.root() || header.shapes.base != shape {
            return Err(JobError::Refused("the delta does not start from the present point: begin again".into()));
        }
        if trailing_root(&bytes, reader.key()) != Some(expected) {
            return Err(JobError::Mismatch("the delta leads elsewhere: begin the pass again".into()));
        }
        let led = leads(&bytes, &self.lab.base);
        let disk = DiskBinding { id: [7; 32], certain: true };
        let options = ApplyOptions { disk, ..ApplyOptions::default() };
        let mut file = File::open(&path).expect("a spool can be opened");
        let report = apply(self.disk, DeltaInput::File(&mut file), &mut MemoryIntents::default(), &options, &Silent)?;
        let led = led.expect("what is applied was proven");
        is_at(self.disk, &led, report.result_root, header.shapes.result);
        *self.content = self.disk.content();
        let advanced = advance_tree(&self.lab.tree, &bytes[..], &self.lab.path("next"));
        assert_eq!(advanced.expect("the tree of the result follows"), report.result_root);
        let mut spool = self.lab.lock();
        let key = spool.key().expect("it holds a delta");
        spool.cut(0).expect("a spool can be emptied");
        *self.applied = Some((key, report.result_root));
        Ok(report.result_root)
    }
}

/// The disk is at the root, by its own bytes, and holds what the delta said.
fn is_at(disk: &SimDisk, led: &Leads, root: Root, shape: Shape) {
    assert_eq!((led.base, led.result), (root_of_base(), root));
    let content = disk.content();
    let size = shape.size().to_usize().expect("it is in memory");
    assert_eq!(root_of(&content[..size], &led.free, shape), root, "the disk has the root that is told");
    assert_eq!(root_of(&led.content[..size], &led.free, shape), root);
    assert!(content[size..] == contents().0[size..], "behind the result nothing changes");
}

fn root_of_base() -> Root {
    let base = contents().0;
    root_of(&base, &FreeBlocks::NONE, shape_of(&base))
}
