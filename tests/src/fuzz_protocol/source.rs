//! A hostile target, or relay, before a source.

use super::disks::{SIZE, contents, disk_of, free_map, free_of, leads, root_of, tree_of};
use super::frames::{Frame, Frames, headed, message, preface};
use super::steps::Steps;
use super::{PATIENCE, connections, is_shown, timed};
use failback_blockio::sim::SimDisk;
use failback_delta::{FreeBlocks, write_map};
use failback_hashtree::{Root, Shape};
use failback_orchestrate::{BaseTree, BlockSize, Device, FreeMap, LocalBase, NodeRun, Silent, StoredTree};
use failback_replication::wire::{MAP_MAX, RawAccept, RawEnd, RawOffer, RawPreface, RawQuestion, RawRun, kind, role};
use failback_replication::{Backoff, Connector, Finish, Link, PassOptions, PassReport, SessionError, send_pass};
use failback_units::BlockIndex;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Waits for a source that says nothing, for one input.
const WAITS: u32 = 10;
/// Passes of one input.
const PASSES: u32 = 3;
/// Connections of one input that say nothing in a row.
const ATTEMPTS: u32 = 2;

thread_local! {
    static LAB: Arc<Lab> = Arc::new(Lab::new());
}

/// A target that says these bytes, whose first one tells how the source is. Returns whether a pass was done.
///
/// # Panics
///
/// When something does not hold that must.
#[must_use]
pub fn source(bytes: &[u8]) -> bool {
    says(bytes, PATIENCE)
}

/// The same, for however long it takes until the source has said what the target answers.
pub(super) fn says(bytes: &[u8], patience: Duration) -> bool {
    let (how, says) = bytes.split_first().unwrap_or((&0, &[]));
    let later = connections(says).into_iter().map(<[u8]>::to_vec).collect();
    visit(How(*how), Says::Bytes { now: Vec::new(), has_begun: false, later }, patience).0
}

/// A target that takes these steps. Returns whether a pass was done.
///
/// # Panics
///
/// When something does not hold that must.
#[must_use]
pub fn source_steps(bytes: &[u8]) -> bool {
    let (how, steps) = bytes.split_first().unwrap_or((&0, &[]));
    visit(How(*how), Says::Steps(Steps::new(steps)), PATIENCE).0
}

/// What a target says that takes these steps, and has all the time it needs: an input of [`source`].
pub(super) fn said_in_steps(bytes: &[u8], patience: Duration) -> Vec<u8> {
    let (is_done, said) = visit(How(bytes[0]), Says::Steps(Steps::new(&bytes[1..])), patience);
    assert!(is_done, "an honest target comes to an end");
    [&bytes[..1], &said].concat()
}

/// How the source is, and what it wants: a bit for each.
#[derive(Clone, Copy)]
struct How(u8);

impl How {
    /// It has free space.
    const fn has_free(self) -> bool {
        self.0 & 1 != 0
    }

    /// So has the base of an honest target.
    const fn base_has_free(self) -> bool {
        self.0 & 2 != 0
    }

    const fn finish(self) -> Finish {
        if self.0 & 4 == 0 { Finish::Applied } else { Finish::Stored }
    }

    const fn keeps_journal(self) -> bool {
        self.0 & 8 != 0
    }

    const fn has_moment(self) -> bool {
        self.0 & 16 == 0
    }
}

/// What is the same for all inputs.
struct Lab {
    directory: TempDir,
    base: SimDisk,
    /// Without and with free space.
    trees: [StoredTree; 2],
    source: SimDisk,
    content: Vec<u8>,
    free: FreeMap,
}

impl Lab {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("there is room for two trees");
        let (base, content) = contents();
        let base = disk_of(&base);
        let tree = |name: &str, free: &FreeBlocks| tree_of(&base, free, &directory.path().join(name));
        let all = tree("all", &FreeBlocks::NONE);
        let used = tree("used", &free_of(Some(&free_map(60, 93)), all.shape()));
        let source = disk_of(&content);
        Self { trees: [all, used], directory, base, source, content, free: free_map(20, 41) }
    }

    fn journal(&self) -> PathBuf {
        self.directory.path().join("journal")
    }

    /// The source's free map, if it has one.
    const fn free(&self, how: How) -> Option<&FreeMap> {
        if how.has_free() { Some(&self.free) } else { None }
    }

    /// The root of the source in blocks of this size.
    fn root(&self, how: How, block_size: BlockSize) -> Root {
        let shape = Shape::new(self.source.size(), block_size);
        root_of(&self.content, &free_of(self.free(how), shape), shape)
    }
}

/// Passes of a source before a target until either has nothing more to say. Returns whether the last one was done, and what the target
/// said.
fn visit(how: How, says: Says, patience: Duration) -> (bool, Vec<u8>) {
    let lab = LAB.with(Arc::clone);
    let journal = lab.journal();
    let _ = std::fs::remove_file(&journal);
    let talk = Talk { says, waits: WAITS, patience, is_honest: false, said: Vec::new(), heard: Heard::default() };
    let world = World { how, lab: Arc::clone(&lab) };
    let shared = Arc::new(Shared { talk: Mutex::new(talk), changed: Condvar::new(), world });
    let (first, longest) = (Duration::ZERO, Duration::ZERO);
    let options = PassOptions {
        pair: "pair".into(),
        diff: super::disks::how(lab.free(how)),
        adaptive: None,
        backoff: Backoff { first, longest, attempts: ATTEMPTS, patience: Duration::MAX },
        journal: how.keeps_journal().then_some(&*journal),
        moment: how.has_moment().then_some([1; 32]),
        finish: how.finish(),
        mark: None,
    };
    let near = Near(Arc::clone(&shared));
    let mut is_done = false;
    for _ in 0..PASSES {
        is_done = shared.look(timed(|| send_pass(&near, &lab.source, &options, &Silent)));
        if is_done || shared.lock().says.is_over() {
            break;
        }
    }
    let said = std::mem::take(&mut shared.lock().said);
    (is_done, said)
}

/// Connects to the target as long as it has anything to say.
struct Near(Arc<Shared>);

impl Connector for Near {
    fn connect(&self) -> io::Result<Link> {
        let mut talk = self.0.lock();
        if talk.says.is_over() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let begins = talk.begin();
        drop(talk);
        let far = || Far { shared: Arc::clone(&self.0), rest: VecDeque::new() };
        let broken = Arc::clone(&self.0);
        Ok(Link {
            reader: Box::new(Far { rest: begins.into(), ..far() }),
            writer: Box::new(far()),
            breaker: Arc::new(move || {
                broken.lock().heard.is_broken = true;
                broken.changed.notify_all();
            }),
        })
    }
}

/// The other end of the connection.
struct Far {
    shared: Arc<Shared>,
    rest: VecDeque<u8>,
}

impl Read for Far {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            self.rest.extend(self.shared.says_next());
        }
        self.rest.read(buffer)
    }
}

impl Write for Far {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut talk = self.shared.lock();
        if talk.heard.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        talk.heard.take(bytes, &self.shared.world);
        drop(talk);
        self.shared.changed.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the two ends of all connections of an input share.
struct Shared {
    talk: Mutex<Talk>,
    changed: Condvar,
    world: World,
}

/// How the source is, and what an honest target would have.
struct World {
    how: How,
    lab: Arc<Lab>,
}

struct Talk {
    says: Says,
    /// How often the source is still waited for, and how long.
    waits: u32,
    patience: Duration,
    /// It does what an honest target does until the source has ended.
    is_honest: bool,
    /// All that was said.
    said: Vec<u8>,
    heard: Heard,
}

/// What the target is going to say.
enum Says {
    /// What is left of this connection, whether its preface is, and what is said over the next ones.
    Bytes {
        now: Vec<u8>,
        has_begun: bool,
        later: VecDeque<Vec<u8>>,
    },
    Steps(Steps),
}

/// What the target does next.
enum Step {
    HangUp,
    Say(Vec<u8>),
    /// Once the source has said something.
    SayAfter(Condition, Vec<u8>),
    /// Answers what was asked.
    Answer,
}

/// What a source says before an honest target answers.
enum Condition {
    Offer,
    Map,
    Question(u32),
    Data(u64),
    End,
    Any,
}

impl Condition {
    /// What a message of a target follows; `None` if it may come at any time.
    fn before(frame: &Frame) -> Option<Self> {
        match frame.kind {
            kind::ACCEPT => Some(Self::Offer),
            kind::MAP => Some(Self::Map),
            kind::VALUES => frame.start::<RawQuestion>().map(|(head, _)| Self::Question(head.id.get())),
            kind::DURABLE => frame.payload.as_slice().try_into().ok().map(|len| Self::Data(u64::from_le_bytes(len))),
            kind::DONE | kind::STORED => Some(Self::End),
            _ => None,
        }
    }

    fn holds(&self, heard: &Heard) -> bool {
        let is_asked = |id: &u32| heard.asked.iter().any(|(asked, _)| asked == id);
        match self {
            Self::Offer => heard.offer.is_some(),
            Self::Map => heard.map_is_wanted,
            Self::Question(id) => is_asked(id),
            Self::Data(len) => heard.sent.is_some_and(|sent| sent >= *len),
            Self::End => heard.end.is_some(),
            Self::Any => heard.end.is_some() || heard.map_is_wanted || !heard.asked.is_empty(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next bytes for the source; none when the target hangs up.
    fn says_next(&self) -> Vec<u8> {
        let mut talk = self.lock();
        loop {
            if talk.heard.is_broken {
                return Vec::new();
            }
            let (condition, bytes) = match talk.step(&self.world) {
                Step::HangUp => return Vec::new(),
                Step::Say(bytes) => (None, Some(bytes)),
                Step::SayAfter(condition, bytes) => (Some(condition), Some(bytes)),
                Step::Answer => (Some(Condition::Any), None),
            };
            let came;
            (talk, came) = self.wait(talk, condition.as_ref());
            let bytes = bytes.unwrap_or_else(|| talk.answer(&self.world));
            talk.is_honest &= came;
            if !bytes.is_empty() {
                talk.say(&bytes);
                return bytes;
            }
        }
    }

    /// Waits until the source has said what is expected, or for a while. Returns whether it has.
    fn wait<'a>(&self, mut talk: MutexGuard<'a, Talk>, condition: Option<&Condition>) -> (MutexGuard<'a, Talk>, bool) {
        let until = Instant::now() + talk.patience;
        loop {
            if condition.is_none_or(|condition| condition.holds(&talk.heard)) {
                return (talk, true);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                talk.waits = talk.waits.saturating_sub(1);
            }
            if talk.heard.is_broken || talk.waits == 0 || left.is_zero() {
                return (talk, false);
            }
            talk = self.changed.wait_timeout(talk, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Looks at how a pass ended. Returns whether it is done.
    fn look(&self, ended: Result<PassReport, SessionError>) -> bool {
        let talk = self.lock();
        match ended {
            Ok(report) => {
                let World { how, lab } = &self.world;
                let accept = talk.heard.accept.as_ref().expect("a pass is made with somebody who accepted");
                let root = lab.root(*how, block_size_of(accept));
                assert_eq!(report.root, root, "a pass that is done leads to what the source has");
                let told = if report.reached == Finish::Applied { &talk.heard.done } else { &talk.heard.stored };
                assert!(told.contains(&root.0), "nothing is done before the target says so");
                assert!(report.reached == Finish::Applied || (how.finish() == Finish::Stored && accept.relayed == 1));
                assert!(!lab.journal().exists(), "a pass that is done does not go on");
                true
            }
            Err(error) => {
                is_shown(&error.to_string());
                false
            }
        }
    }
}

fn block_size_of(accept: &RawAccept) -> BlockSize {
    BlockSize::from_shift(accept.block_shift).expect("a source has taken it")
}

impl Says {
    fn is_over(&self) -> bool {
        match self {
            Self::Bytes { later, .. } => later.is_empty(),
            Self::Steps(steps) => steps.is_over(),
        }
    }
}

impl Talk {
    /// A connection begins. Returns what is said at once.
    fn begin(&mut self) -> Vec<u8> {
        self.heard.begin();
        self.is_honest = false;
        match &mut self.says {
            Says::Bytes { now, has_begun, later } => {
                (*now, *has_begun) = (later.pop_front().unwrap_or_default(), false);
                Vec::new()
            }
            Says::Steps(steps) => {
                let mut begins = preface(role::TARGET);
                if steps.below(32) == 31 {
                    steps.alter(&mut begins);
                }
                self.say(&begins);
                begins
            }
        }
    }

    /// This is going to be read by the source.
    fn say(&mut self, bytes: &[u8]) {
        self.said.extend_from_slice(bytes);
        self.heard.answers(bytes);
    }

    fn step(&mut self, world: &World) -> Step {
        if self.is_honest {
            return Step::Answer;
        }
        match &mut self.says {
            Says::Bytes { now, has_begun, .. } => next_of(now, has_begun),
            Says::Steps(steps) if steps.is_over() => Step::HangUp,
            Says::Steps(steps) => match steps.below(20) {
                // To the end, from wherever it is.
                0 => {
                    self.is_honest = true;
                    Step::SayAfter(
                        Condition::Offer,
                        if self.heard.accept.is_some() { Vec::new() } else { world.accept() },
                    )
                }
                which => world.step(which, steps, &mut self.heard),
            },
        }
    }

    /// What an honest target answers.
    fn answer(&mut self, world: &World) -> Vec<u8> {
        let heard = &mut self.heard;
        let mut says = Vec::new();
        for (id, runs) in heard.asked.drain(..) {
            says.extend(world.values(id, &runs));
        }
        if std::mem::take(&mut heard.map_is_wanted) {
            says.extend(world.map());
        }
        if let Some(end) = heard.end.filter(|_| self.is_honest) {
            self.is_honest = false;
            says.extend(message(kind::DURABLE, end.len.as_bytes()));
            says.extend(message(kind::DONE, &end.root));
        }
        says
    }
}

/// What comes next of the bytes of a connection: a message when it has its place, or what is no message.
fn next_of(now: &mut Vec<u8>, has_begun: &mut bool) -> Step {
    if now.is_empty() {
        return Step::HangUp;
    }
    let len = if *has_begun { Frame::first_of(now).map(|(_, len)| len) } else { Some(size_of::<RawPreface>()) };
    let condition = Frame::first_of(now).filter(|_| *has_begun).and_then(|(frame, _)| Condition::before(&frame));
    *has_begun = true;
    let said = now.drain(..len.unwrap_or(now.len()).min(now.len())).collect();
    match condition {
        Some(condition) => Step::SayAfter(condition, said),
        None => Step::Say(said),
    }
}

impl World {
    /// A step that may be honest or not.
    fn step(&self, which: usize, input: &mut Steps, heard: &mut Heard) -> Step {
        let end = heard.end.map_or([0; 32], |end| end.root);
        match which {
            1 => {
                let mut accept = self.accept();
                match input.below(6) {
                    0 => {}
                    1 => input.alter(&mut accept[8..]),
                    2 => accept[8..16].copy_from_slice(&input.number().to_le_bytes()),
                    3 => accept[16] = 12 + input.byte() % 9,
                    4 => accept[18] = 1,
                    _ => (accept[17], accept[56]) = (2, input.byte()),
                }
                let durable = match input.below(3) {
                    0 => 0,
                    1 => heard.offer.map_or(0, |offer| offer.until.get()).min(heard.delta.len() as u64),
                    _ => input.number(),
                };
                accept[88..96].copy_from_slice(&durable.to_le_bytes());
                Step::SayAfter(Condition::Offer, accept)
            }
            2 => Step::Answer,
            3 => {
                let mut answer = heard.asked.pop_front().map_or_else(Vec::new, |(id, runs)| self.values(id, &runs));
                if answer.len() > 16 {
                    input.alter(&mut answer[16..]);
                }
                Step::Say(answer)
            }
            4 => {
                let (id, count) = (u32::from(input.byte()), u32::try_from(input.number()).unwrap_or(u32::MAX));
                let start = RawQuestion { id: id.into(), count: count.into() };
                let values = vec![input.byte(); 32 * usize::from(input.byte())];
                Step::Say(message(kind::VALUES, &[start.as_bytes(), &values].concat()))
            }
            5 => {
                let mut map = if input.below(2) == 0 { self.map() } else { message(kind::MAP, &input.bytes()) };
                if map.len() > 8 {
                    input.alter(&mut map[8..]);
                }
                Step::SayAfter(Condition::Map, map)
            }
            6 => Step::Say(message(kind::DURABLE, &(heard.delta.len() as u64).to_le_bytes())),
            7 => Step::Say(message(kind::DURABLE, &input.number().to_le_bytes())),
            8 => Step::SayAfter(Condition::Data(1 + u64::from(input.byte()) * 16), Vec::new()),
            9 => Step::SayAfter(Condition::End, Vec::new()),
            10 => Step::Say(message(kind::DONE, &end)),
            11 => Step::Say(message(kind::STORED, &end)),
            12 => {
                let mut root = self.lab.root(self.how, BlockSize::MIN).0;
                if input.below(2) == 0 {
                    input.alter(&mut root);
                }
                Step::Say(message([kind::DONE, kind::STORED][input.below(2)], &root))
            }
            13 => Step::Say(message(kind::ALIVE, &[])),
            14 => Step::Say(message(kind::REFUSE, &input.bytes())),
            15 => Step::Say(message(input.byte(), &input.bytes())),
            16 => Step::Say(input.bytes()),
            17 => {
                let len = u32::try_from(input.number()).unwrap_or(u32::MAX);
                Step::Say(headed(len, input.byte(), &input.bytes()))
            }
            _ => Step::HangUp,
        }
    }

    fn base(&self) -> LocalBase<'_> {
        LocalBase { tree: &self.lab.trees[usize::from(self.how.base_has_free())], device: &self.lab.base }
    }

    /// What an honest target answers to a new offer.
    fn accept(&self) -> Vec<u8> {
        let base = self.base();
        let mut raw = RawAccept::new_zeroed();
        (raw.size, raw.block_shift) = (base.shape().size().get().into(), base.shape().block_size().shift());
        (raw.coverage, raw.root) = (base.coverage().code(), base.root().0);
        if !base.free().is_empty() {
            raw.map = blake3::hash(&unpacked_map(base.free())).into();
        }
        message(kind::ACCEPT, raw.as_bytes())
    }

    fn values(&self, id: u32, runs: &[NodeRun]) -> Vec<u8> {
        // What a source asks that was told of another disk need not lie on this one.
        let values = self.base().values(runs).unwrap_or_default();
        let count = u32::try_from(values.len()).expect("answers are short");
        let head = RawQuestion { id: id.into(), count: count.into() };
        let values: Vec<u8> = values.iter().flat_map(|value| value.0).collect();
        message(kind::VALUES, &[head.as_bytes(), &values].concat())
    }

    fn map(&self) -> Vec<u8> {
        let packed = zstd::encode_all(&unpacked_map(self.base().free())[..], 3).expect("memory can be packed");
        assert!(packed.len() < MAP_MAX, "it is one piece");
        message(kind::MAP, &[&[1], &packed[..]].concat())
    }
}

fn unpacked_map(free: &FreeBlocks) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_map(free, &[0; 32], &mut bytes).expect("memory takes all");
    bytes
}

/// What was said over a connection, by both sides, and what the source has sent over all of them.
#[derive(Default)]
struct Heard {
    of_source: Frames,
    of_target: Frames,
    is_broken: bool,
    offer: Option<RawOffer>,
    accept: Option<RawAccept>,
    asked: VecDeque<(u32, Vec<NodeRun>)>,
    map_is_wanted: bool,
    end: Option<RawEnd>,
    /// Up to where this connection has sent.
    sent: Option<u64>,
    /// What the target has said, over any connection: roots.
    done: Vec<[u8; 32]>,
    stored: Vec<[u8; 32]>,
    delta: Vec<u8>,
    /// The target has said that it has what it was not sent.
    has_gap: bool,
}

impl Heard {
    fn begin(&mut self) {
        let (delta, has_gap) = (std::mem::take(&mut self.delta), self.has_gap);
        let (done, stored) = (std::mem::take(&mut self.done), std::mem::take(&mut self.stored));
        *self = Self { done, stored, delta, has_gap, ..Self::default() };
    }

    /// What the target says, as far as it is understood.
    fn answers(&mut self, bytes: &[u8]) {
        self.of_target.take(bytes);
        while let Some(frame) = self.of_target.next(None) {
            match (frame.kind, <[u8; 32]>::try_from(frame.payload.as_slice())) {
                (kind::ACCEPT, _) if self.accept.is_none() => {
                    self.accept = RawAccept::read_from_bytes(&frame.payload).ok();
                    self.sent = self.accept.as_ref().map(|accept| accept.durable.get());
                }
                (kind::DONE, Ok(root)) => self.done.push(root),
                (kind::STORED, Ok(root)) => self.stored.push(root),
                _ => {}
            }
        }
    }

    /// What the source says.
    fn take(&mut self, bytes: &[u8], world: &World) {
        self.of_source.take(bytes);
        while let Some(frame) = self.of_source.next(Some(role::SOURCE)) {
            let (kind, both) = (frame.kind, frame.kind >= kind::ALIVE);
            assert!(both || kind < kind::ACCEPT, "a source does not say {kind}");
            assert!(both || self.offer.is_some() != (kind == kind::OFFER), "an offer comes first, and once");
            assert!(both || kind == kind::OFFER || self.accept.is_some(), "nothing is said before it is accepted");
            assert!(kind != kind::ASK_VALUES || self.end.is_none(), "nothing is asked behind the end");
            match kind {
                kind::OFFER => {
                    let (offer, _) = frame.start::<RawOffer>().expect("it has a head");
                    self.offer = Some(offer);
                }
                kind::ASK_MAP => self.map_is_wanted = true,
                kind::ASK_VALUES => {
                    let (head, rest) = frame.start::<RawQuestion>().expect("it has a head");
                    let runs = <[RawRun]>::ref_from_bytes(rest).expect("it has whole runs");
                    assert_eq!(runs.len(), head.count.get() as usize);
                    let runs = runs.iter().map(|run| NodeRun {
                        first: BlockIndex::new(run.first.get()),
                        level: run.level,
                        count: run.count.get().into(),
                    });
                    self.asked.push_back((head.id.get(), runs.collect()));
                }
                kind::DATA => {
                    let (at, piece) = frame.payload.split_first_chunk().expect("it says where it stands");
                    self.data(u64::from_le_bytes(*at), piece);
                }
                kind::END => {
                    let end = RawEnd::read_from_bytes(&frame.payload).expect("it is as long as it has to be");
                    assert!(self.end.replace(end).is_none(), "it ends once");
                    self.look_at_delta(world);
                }
                _ => {}
            }
        }
    }

    /// A piece of the delta follows what the target has, and says of what was sent before the same as then.
    fn data(&mut self, at: u64, piece: &[u8]) {
        assert_eq!(self.sent, Some(at), "pieces follow each other");
        self.sent = Some(at + piece.len() as u64);
        let at = usize::try_from(at).expect("it is in memory");
        if at == 0 {
            // It may be another delta than before.
            self.delta.clear();
            self.has_gap = false;
        }
        self.has_gap |= at > self.delta.len();
        self.delta.resize(self.delta.len().max(at), 0);
        let old = &self.delta[at..];
        let common = old.len().min(piece.len());
        assert!(old[..common] == piece[..common], "a delta does not change on its way");
        self.delta.extend_from_slice(&piece[common..]);
    }

    /// What was sent leads from what the target has said that it has to what the source has.
    fn look_at_delta(&self, world: &World) {
        let (Some(accept), Some(end)) = (&self.accept, &self.end) else { panic!("it ends what was accepted") };
        assert_eq!((end.len.get(), self.sent), (self.delta.len() as u64, Some(end.len.get())));
        let root = world.lab.root(world.how, block_size_of(accept));
        assert_eq!(Root(end.root), root, "it says what the source has");
        if !self.has_gap && accept.size.get() <= 2 * SIZE as u64 {
            let led = leads(&self.delta, &[]).expect("it is proven");
            assert_eq!((led.base.0, led.result), (accept.root, root));
        }
    }
}
