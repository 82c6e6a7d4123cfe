//! A client that says what it is told to say, and a disk to talk about.

use failback_blockio::sim::{SimDisk, World};
use failback_nbd::{Export, Limits, SessionError, serve_stream};
use failback_units::{ByteCount, ByteOffset, ByteRange};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISC: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const CACHE: u16 = 5;
pub(crate) const WRITE_ZEROES: u16 = 6;
pub(crate) const BLOCK_STATUS: u16 = 7;

pub(crate) const FUA: u16 = 1;
pub(crate) const DF: u16 = 4;
pub(crate) const REQ_ONE: u16 = 8;

pub(crate) const EPERM: u32 = 1;
pub(crate) const EIO: u32 = 5;
pub(crate) const EINVAL: u32 = 22;
pub(crate) const ENOSPC: u32 = 28;
pub(crate) const EOVERFLOW: u32 = 75;

pub(crate) const ACK: u32 = 1;
pub(crate) const UNSUP: u32 = 0x8000_0001;
pub(crate) const INVALID: u32 = 0x8000_0003;
pub(crate) const UNKNOWN: u32 = 0x8000_0006;

/// More than any answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    cookie: u64,
}

/// What a server says during transmission, but for the data behind a simple reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Simple { error: u32, cookie: u64 },
    Chunk { done: bool, kind: u16, cookie: u64, payload: Vec<u8> },
}

impl Client {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, cookie: 0x1122_3344_5566_0000 }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn receive(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn number16(&mut self) -> u16 {
        u16::from_be_bytes(self.receive(2).try_into().unwrap())
    }

    fn number32(&mut self) -> u32 {
        u32::from_be_bytes(self.receive(4).try_into().unwrap())
    }

    fn number64(&mut self) -> u64 {
        u64::from_be_bytes(self.receive(8).try_into().unwrap())
    }

    /// Whether the server has closed the connection without another word.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// Takes the greeting, and sends flags.
    pub(crate) fn greet(&mut self, flags: u32) {
        assert_eq!(self.receive(16), b"NBDMAGICIHAVEOPT");
        assert_eq!(self.number16(), 3);
        self.send(&flags.to_be_bytes());
    }

    /// Sends an option; for those without replies.
    pub(crate) fn say_option(&mut self, option: u32, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        self.send(&[b"IHAVEOPT", &option.to_be_bytes()[..], &length.to_be_bytes(), data].concat());
    }

    /// Sends an option and takes all replies to it: kinds and data.
    pub(crate) fn option(&mut self, option: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.say_option(option, data);
        let mut replies = Vec::new();
        loop {
            assert_eq!(self.number64(), 0x0003_e889_0455_65a9);
            assert_eq!(self.number32(), option);
            let kind = self.number32();
            let length = usize::try_from(self.number32()).unwrap();
            replies.push((kind, self.receive(length)));
            if kind == ACK || kind >= 1 << 31 {
                return replies;
            }
        }
    }

    /// Goes into transmission, and knows what kind of replies it wants.
    pub(crate) fn go(&mut self, structured: bool) {
        self.greet(3);
        if structured {
            assert_eq!(self.option(8, &[]), [(ACK, vec![])]);
            let replies = self.option(10, &contexts(b"", &[b"base:allocation"]));
            assert_eq!(replies, [(4, [&[0, 0, 0, 1], &b"base:allocation"[..]].concat()), (ACK, vec![])]);
        }
        let replies = self.option(7, &info(b"", &[]));
        assert_eq!(replies.last(), Some(&(ACK, vec![])));
    }

    /// Sends a request, and says with which cookie.
    pub(crate) fn request(&mut self, flags: u16, command: u16, offset: u64, length: u32) -> u64 {
        self.cookie += 1;
        let cookie = self.cookie;
        self.send(&request(flags, command, cookie, offset, length));
        cookie
    }

    pub(crate) fn reply(&mut self) -> Reply {
        match self.number32() {
            0x6744_6698 => Reply::Simple { error: self.number32(), cookie: self.number64() },
            0x668e_33ef => {
                let flags = self.number16();
                assert!(flags <= 1, "{flags:#x}");
                let (kind, cookie) = (self.number16(), self.number64());
                let length = usize::try_from(self.number32()).unwrap();
                Reply::Chunk { done: flags == 1, kind, cookie, payload: self.receive(length) }
            }
            other => panic!("{other:#x} is no reply"),
        }
    }

    /// Asks for something that has a reply without content, and says which error came.
    pub(crate) fn ask(&mut self, flags: u16, command: u16, offset: u64, length: u32) -> u32 {
        let cookie = self.request(flags, command, offset, length);
        self.outcome(cookie)
    }

    /// The error that the next reply, which is the last one to `cookie`, tells; 0 for none.
    pub(crate) fn outcome(&mut self, cookie: u64) -> u32 {
        match self.reply() {
            Reply::Simple { error, cookie: other } => {
                assert_eq!(other, cookie);
                error
            }
            Reply::Chunk { done, kind, cookie: other, payload } => {
                assert_eq!((other, done), (cookie, true));
                assert!(kind >= 1 << 15, "{kind:#x}");
                error_of(kind, &payload).0
            }
        }
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> u32 {
        let cookie = self.request(0, WRITE, offset, u32::try_from(bytes.len()).unwrap());
        self.send(bytes);
        self.outcome(cookie)
    }

    /// Reads without structured replies.
    pub(crate) fn read_simply(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, u32> {
        let cookie = self.request(0, READ, offset, length);
        match self.reply() {
            Reply::Simple { error: 0, cookie: other } if other == cookie => {
                Ok(self.receive(usize::try_from(length).unwrap()))
            }
            Reply::Simple { error, cookie: other } if other == cookie => Err(error),
            other => panic!("{other:?}"),
        }
    }

    /// Reads with structured replies, and puts them together.
    pub(crate) fn read(&mut self, flags: u16, offset: u64, length: u32) -> Assembly {
        let cookie = self.request(flags, READ, offset, length);
        let mut assembly = Assembly::new(offset, length);
        loop {
            let reply = self.reply();
            let Reply::Chunk { done, kind, cookie: other, payload } = reply else { panic!("{reply:?}") };
            assert_eq!(other, cookie);
            assembly.add(kind, &payload);
            if done {
                return assembly;
            }
        }
    }

    /// Holes and data: lengths and states.
    pub(crate) fn status(&mut self, flags: u16, offset: u64, length: u32) -> Vec<(u32, u32)> {
        let cookie = self.request(flags, BLOCK_STATUS, offset, length);
        let reply = self.reply();
        let Reply::Chunk { done: true, kind: 5, cookie: other, payload } = reply else { panic!("{reply:?}") };
        assert_eq!(other, cookie);
        assert_eq!(payload[..4], [0, 0, 0, 1]);
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        payload[4..].chunks(8).map(|pair| (number(&pair[..4]), number(&pair[4..]))).collect()
    }

    /// Leaves as one should.
    pub(crate) fn leave(&mut self) {
        self.request(0, DISC, 0, 0);
        assert!(self.is_closed());
    }
}

/// A read that came in chunks.
#[derive(Debug)]
pub(crate) struct Assembly {
    offset: u64,
    pub(crate) bytes: Vec<u8>,
    /// What each byte came from: `.` nothing yet, `d` data, `h` a hole.
    seen: Vec<u8>,
    pub(crate) errors: Vec<(u32, Option<u64>, String)>,
    pub(crate) content_chunks: usize,
}

impl Assembly {
    pub(crate) fn new(offset: u64, length: u32) -> Self {
        let length = usize::try_from(length).unwrap();
        let (bytes, seen) = (vec![0xee; length], vec![b'.'; length]);
        Self { offset, bytes, seen, errors: Vec::new(), content_chunks: 0 }
    }

    pub(crate) fn add(&mut self, kind: u16, payload: &[u8]) {
        let number = |range: std::ops::Range<usize>| {
            payload[range].iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte))
        };
        match kind {
            0 => assert!(payload.is_empty()),
            1 => {
                self.put(number(0..8), &payload[8..], b'd');
            }
            2 => {
                assert_eq!(payload.len(), 12);
                let zeroes = vec![0; usize::try_from(number(8..12)).unwrap()];
                self.put(number(0..8), &zeroes, b'h');
            }
            _ => self.errors.push(error_of(kind, payload)),
        }
    }

    fn put(&mut self, at: u64, bytes: &[u8], source: u8) {
        assert!(!bytes.is_empty());
        self.content_chunks += 1;
        let start = usize::try_from(at.checked_sub(self.offset).unwrap()).unwrap();
        let range = start..start + bytes.len();
        assert!(self.seen[range.clone()].iter().all(|seen| *seen == b'.'), "content came twice");
        self.bytes[range.clone()].copy_from_slice(bytes);
        self.seen[range].fill(source);
    }

    /// All bytes, if nothing is missing and nothing went wrong.
    pub(crate) fn whole(self) -> Vec<u8> {
        assert_eq!(self.errors, []);
        assert!(!self.seen.contains(&b'.'), "content is missing");
        self.bytes
    }

    fn count(&self, source: u8) -> usize {
        self.seen.split(|seen| *seen != source).map(<[u8]>::len).sum()
    }

    /// How many bytes came as holes.
    pub(crate) fn holes(&self) -> usize {
        self.count(b'h')
    }

    /// How many bytes never came.
    pub(crate) fn missing(&self) -> usize {
        self.count(b'.')
    }
}

/// Error, offset if there is one, and sentence of an error chunk.
pub(crate) fn error_of(kind: u16, payload: &[u8]) -> (u32, Option<u64>, String) {
    let error = u32::from_be_bytes(payload[..4].try_into().unwrap());
    let length = usize::from(u16::from_be_bytes(payload[4..6].try_into().unwrap()));
    let sentence = String::from_utf8(payload[6..6 + length].to_vec()).unwrap();
    let rest = &payload[6 + length..];
    let at = match kind {
        0x8001 => {
            assert!(rest.is_empty());
            None
        }
        0x8002 => Some(u64::from_be_bytes(rest.try_into().unwrap())),
        _ => panic!("{kind:#x} is no error"),
    };
    assert_ne!(error, 0);
    (error, at, sentence)
}

pub(crate) fn request(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let magic = 0x2560_9513_u32.to_be_bytes();
    let (cookie, offset) = (cookie.to_be_bytes(), offset.to_be_bytes());
    [&magic[..], &flags.to_be_bytes(), &command.to_be_bytes(), &cookie, &offset, &length.to_be_bytes()].concat()
}

pub(crate) fn string(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat()
}

/// The data of INFO and GO.
pub(crate) fn info(name: &[u8], facts: &[u16]) -> Vec<u8> {
    let count = u16::try_from(facts.len()).unwrap().to_be_bytes();
    let facts: Vec<u8> = facts.iter().flat_map(|fact| fact.to_be_bytes()).collect();
    [string(name), count.to_vec(), facts].concat()
}

/// The data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
pub(crate) fn contexts(name: &[u8], queries: &[&[u8]]) -> Vec<u8> {
    let count = u32::try_from(queries.len()).unwrap().to_be_bytes();
    let queries: Vec<u8> = queries.iter().flat_map(|query| string(query)).collect();
    [string(name), count.to_vec(), queries].concat()
}

/// Serves an export to a client on a connection of its own; returns what the client does, and how the server ended.
pub(crate) fn talk<R>(export: &Export<'_>, say: impl FnOnce(&mut Client) -> R) -> (R, Result<(), SessionError>) {
    talk_within(export, &Limits::default(), say)
}

pub(crate) fn talk_within<R>(
    export: &Export<'_>,
    limits: &Limits,
    say: impl FnOnce(&mut Client) -> R,
) -> (R, Result<(), SessionError>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        let serving = scope.spawn(move || serve_stream(&theirs, export, limits));
        let mut client = Client::new(ours);
        let result = say(&mut client);
        drop(client);
        (result, serving.join().unwrap())
    })
}

/// The same with a client that is content in the end.
pub(crate) fn well<R>(export: &Export<'_>, say: impl FnOnce(&mut Client) -> R) -> R {
    let (result, ended) = talk(export, say);
    ended.unwrap();
    result
}

/// Bytes that look like content, and differ from place to place.
pub(crate) fn pattern(at: u64, count: usize) -> Vec<u8> {
    let mixed = |at: u64| (at / 512).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) ^ at;
    (at..).take(count).map(|at| mixed(at).to_le_bytes()[0] | 1).collect()
}

/// A disk in memory with data at some places and holes between.
pub(crate) fn disk(size: u64, data: &[(u64, usize)]) -> SimDisk {
    let disk = World::new(7).disk("simulated", ByteCount::new(size).unwrap(), 512);
    for (at, count) in data {
        disk.write_durably(offset(*at), &pattern(*at, *count));
    }
    disk
}

pub(crate) fn offset(at: u64) -> ByteOffset {
    ByteOffset::new(at).unwrap()
}

pub(crate) fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::between(offset(start), offset(end)).unwrap()
}
