//! A connection: whole messages over any two streams of bytes.

use crate::SessionError;
use crate::message::Message;
use crate::wire::{MAGIC, MESSAGE_MAX, RawHead, RawPreface, VERSION, role};
use failback_orchestrate::with_causes;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use zerocopy::{FromZeros, IntoBytes};

/// A connection to the other side, not yet used.
///
/// A reader that gives nothing for too long should fail with an error; otherwise a silent other side is waited for without end.
/// Both sides send something at least every [`ALIVE_EVERY`](crate::ALIVE_EVERY).
pub struct Link {
    /// What the other side sends.
    pub reader: Box<dyn Read + Send>,
    /// What is sent to the other side.
    pub writer: Box<dyn Write + Send>,
    /// Breaks the connection, so that a reader or a writer that waits fails at once. May be called more than once.
    pub breaker: Arc<dyn Fn() + Send + Sync>,
}

/// Which side this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It reads a disk.
    Source,
    /// It writes a disk.
    Target,
}

impl Role {
    const fn code(self) -> u8 {
        match self {
            Self::Source => role::SOURCE,
            Self::Target => role::TARGET,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Source => Self::Target,
            Self::Target => Self::Source,
        }
    }
}

/// Bytes that went over connections, in both directions.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes that were handed to connections.
    pub sent: AtomicU64,
    /// Bytes that came from connections.
    pub received: AtomicU64,
}

/// Sends messages; may be shared.
///
/// Whoever waits to send has its turn in the order in which it came: pieces of a delta follow each other without a pause on a slow link, and
/// a question would wait for as long as that lasts.
#[derive(Clone)]
pub(crate) struct Sender {
    turns: Arc<Turns>,
    writer: Arc<Mutex<Box<dyn Write + Send>>>,
    breaker: Arc<dyn Fn() + Send + Sync>,
    broken: Arc<AtomicBool>,
    refused: Arc<AtomicBool>,
    traffic: Arc<Traffic>,
}

/// Receives messages.
pub(crate) struct Receiver {
    reader: Box<dyn Read + Send>,
    traffic: Arc<Traffic>,
    buffer: Vec<u8>,
}

impl Link {
    /// Tells the other side who this is and learns who that is.
    ///
    /// Both sides send their preface before they read one, so that each knows of a mismatch whatever the other does.
    pub(crate) fn open(self, this: Role, traffic: &Arc<Traffic>) -> Result<(Sender, Receiver), SessionError> {
        let writer = Arc::new(Mutex::new(self.writer));
        let sender = Sender {
            turns: Arc::default(),
            writer,
            breaker: self.breaker,
            broken: Arc::default(),
            refused: Arc::default(),
            traffic: Arc::clone(traffic),
        };
        let mut receiver = Receiver { reader: self.reader, traffic: Arc::clone(traffic), buffer: Vec::new() };
        let mut program = [0; 16];
        let name = env!("CARGO_PKG_VERSION").as_bytes();
        let len = name.len().min(program.len());
        program[..len].copy_from_slice(&name[..len]);
        let (oldest, newest) = (VERSION.into(), VERSION.into());
        let ours = RawPreface { magic: MAGIC, oldest, newest, role: this.code(), reserved: [0; 3], program };
        sender.bytes(&[ours.as_bytes()])?;
        let mut theirs = RawPreface::new_zeroed();
        receiver.fill(theirs.as_mut_bytes())?;
        check_preface(&theirs, this)?;
        Ok((sender, receiver))
    }
}

fn check_preface(theirs: &RawPreface, this: Role) -> Result<(), SessionError> {
    if theirs.magic != MAGIC {
        let why = "the other side does not answer as failback does: check address and port, and that nothing prints to standard \
                   output before it";
        return Err(SessionError::Mismatch(why.into()));
    }
    let (oldest, newest) = (theirs.oldest.get(), theirs.newest.get());
    if !(oldest..=newest).contains(&VERSION) {
        let end = theirs.program.iter().position(|byte| *byte == 0).unwrap_or(theirs.program.len());
        let program: String =
            theirs.program[..end].iter().filter(|byte| byte.is_ascii_graphic()).map(|byte| char::from(*byte)).collect();
        let which = if oldest > VERSION { "this side" } else { "the other side" };
        return Err(SessionError::Mismatch(format!(
            "the other side is failback {program} and speaks versions {oldest} to {newest} of the protocol, this side is \
             failback {} and speaks version {VERSION}: install the newer one on {which}",
            env!("CARGO_PKG_VERSION")
        )));
    }
    if theirs.role != this.other().code() {
        let why = match this {
            Role::Source => "the other side is no target: name the address of a master target",
            Role::Target => "the other side is no source: a target is reached with send",
        };
        return Err(SessionError::Mismatch(why.into()));
    }
    Ok(())
}

impl Sender {
    /// Sends a message.
    pub(crate) fn send(&self, message: &Message<'_>) -> io::Result<()> {
        let (kind, payload) = message.to_bytes();
        let len = u32::try_from(payload.len()).expect("messages are short");
        debug_assert!(payload.len() <= MESSAGE_MAX, "messages keep to their limits");
        let head = RawHead { len: len.into(), kind, reserved: [0; 3] };
        self.bytes(&[head.as_bytes(), &payload])
    }

    fn bytes(&self, parts: &[&[u8]]) -> io::Result<()> {
        let all = parts.concat();
        let _turn = self.turns.wait();
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = writer.write_all(&all).and_then(|()| writer.flush());
        self.traffic.sent.fetch_add(all.len() as u64, Ordering::Relaxed);
        if sent.is_err() {
            // Half a message may be on its way: nothing can follow it.
            self.break_off();
        }
        sent
    }

    /// Tells the other side why this one will not go on: the first reason, and nothing after it. If the reason is the connection itself, nobody
    /// is there to be told.
    pub(crate) fn refuse(&self, why: &SessionError) {
        if !why.is_link() && !self.refused.swap(true, Ordering::AcqRel) {
            let _ = self.send(&Message::Refuse(with_causes(why).into()));
        }
    }

    /// Breaks the connection.
    pub(crate) fn break_off(&self) {
        self.broken.store(true, Ordering::Release);
        (self.breaker)();
    }

    /// Whether it is known that the connection is no more: it was broken off, or something could not be sent.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

/// Turns that are given in the order in which they are asked for.
#[derive(Default)]
struct Turns {
    /// The number of the next one who asks, and of the one whose turn it is.
    numbers: Mutex<(u64, u64)>,
    changed: Condvar,
}

/// A turn; it ends when this goes.
struct Turn<'a>(&'a Turns);

impl Turns {
    fn lock(&self) -> MutexGuard<'_, (u64, u64)> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) -> Turn<'_> {
        let mut numbers = self.lock();
        let mine = numbers.0;
        numbers.0 += 1;
        while numbers.1 != mine {
            numbers = self.changed.wait(numbers).unwrap_or_else(PoisonError::into_inner);
        }
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().1 += 1;
        self.0.changed.notify_all();
    }
}

impl Receiver {
    /// Waits for the next message.
    pub(crate) fn receive(&mut self) -> Result<Message<'_>, SessionError> {
        let mut head = RawHead::new_zeroed();
        self.fill(head.as_mut_bytes())?;
        let len = usize::try_from(head.len.get()).unwrap_or(usize::MAX);
        if head.reserved != [0; 3] || len > Message::limit(head.kind)? {
            return Err(SessionError::Breach("a message is longer than its kind allows"));
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(len, 0);
        self.fill(&mut buffer)?;
        self.buffer = buffer;
        Message::from_bytes(head.kind, &self.buffer)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.reader.read_exact(buffer)?;
        self.traffic.received.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use std::thread;

    fn link(stream: &UnixStream) -> Link {
        let broken = stream.try_clone().unwrap();
        Link {
            reader: Box::new(stream.try_clone().unwrap()),
            writer: Box::new(stream.try_clone().unwrap()),
            breaker: Arc::new(move || drop(broken.shutdown(std::net::Shutdown::Both))),
        }
    }

    /// What a source says of a preface.
    fn answered(preface: &[u8]) -> String {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(preface).unwrap();
        drop(far.shutdown(std::net::Shutdown::Write));
        let error = link(&near).open(Role::Source, &Arc::default()).err().map(|error| error.to_string());
        let mut sent = [0; 32];
        far.read_exact(&mut sent).unwrap();
        assert_eq!(&sent[..8], b"\x89FBREP\r\n", "a preface is sent before one is read");
        error.unwrap_or_default()
    }

    #[test]
    fn a_mismatch_is_told_by_the_first_bytes() {
        let preface = |oldest: u16, newest: u16, role: u8| {
            let (oldest, newest) = (oldest.to_le_bytes(), newest.to_le_bytes());
            [b"\x89FBREP\r\n".as_slice(), &oldest, &newest, &[role, 9, 9, 9], b"9.9.9\x1b[2J\0\0\0\0\0\0\0"].concat()
        };
        assert_eq!(answered(&preface(1, 1, 2)), "");
        assert_eq!(answered(&preface(0, 7, 2)), "", "what is reserved is passed over");
        let newer = answered(&preface(2, 3, 2));
        assert!(
            newer.contains("failback 9.9.9[2J and speaks versions 2 to 3") && newer.ends_with("on this side"),
            "{newer}"
        );
        assert!(answered(&preface(0, 0, 2)).ends_with("on the other side"));
        assert!(answered(&preface(1, 1, 1)).contains("no target"));
        assert!(answered(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n").contains("does not answer as failback does"));
        assert!(answered(&preface(1, 1, 2)[..31]).contains("broke"));
    }

    #[test]
    fn turns_come_in_the_order_in_which_they_are_asked_for() {
        let turns = Turns::default();
        let order = Mutex::new(Vec::new());
        thread::scope(|scope| {
            let first = turns.wait();
            for name in [1, 2] {
                let (turns, order) = (&turns, &order);
                scope.spawn(move || {
                    let _turn = turns.wait();
                    order.lock().unwrap().push(name);
                });
                while turns.lock().0 != name + 1 {
                    thread::yield_now();
                }
            }
            thread::sleep(std::time::Duration::from_millis(20));
            assert!(order.lock().unwrap().is_empty(), "nobody has a turn before the one before has ended");
            // Who had the last turn asks again at once, and comes last.
            drop(first);
            let _again = turns.wait();
            order.lock().unwrap().push(3);
        });
        assert_eq!(order.into_inner().unwrap(), [1, 2, 3]);
    }

    #[test]
    fn two_sides_meet() {
        let (near, far) = UnixStream::pair().unwrap();
        let target = thread::spawn(move || link(&far).open(Role::Target, &Arc::default()).map(drop));
        link(&near).open(Role::Source, &Arc::default()).map(drop).unwrap();
        target.join().unwrap().unwrap();
    }
}
