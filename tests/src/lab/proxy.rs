//! A stretch of network between two sides that does what networks do: it takes its time, breaks, and falls silent.

use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::VecDeque;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two looks at whether a connection is still wanted.
const TICK: Duration = Duration::from_millis(5);
/// Bytes that are taken at once, and how many such pieces are on their way at most.
const PIECE: usize = 16 << 10;
const ON_THE_WAY: usize = 256;

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the side that connects.
    Up,
    /// To the side that connects.
    Down,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Both sides are sent a reset.
    Reset,
    /// Both sides are sent the end of TCP.
    Close,
    /// Nothing moves any more in either direction, and no side is told, whatever the other one does.
    Stall,
}

/// What happens to a connection, and when.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What.
    pub what: What,
    /// The direction that is counted.
    pub way: Way,
    /// How many bytes pass in that direction before.
    pub after: u64,
}

/// A proxy at a port of loopback, until it is dropped.
#[must_use]
pub struct Proxy {
    /// Where it is connected to.
    pub address: String,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    to: SocketAddr,
    delay: Duration,
    faults: Mutex<VecDeque<Fault>>,
    met: AtomicUsize,
    connections: AtomicUsize,
    passed: [AtomicU64; 2],
    unread: AtomicU64,
    over: AtomicBool,
}

impl Proxy {
    /// Leads to an address, each way in so much time.
    pub fn new(to: &str, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            to: to.parse().unwrap(),
            delay,
            faults: Mutex::default(),
            met: AtomicUsize::default(),
            connections: AtomicUsize::default(),
            passed: Default::default(),
            unread: AtomicU64::default(),
            over: AtomicBool::default(),
        });
        let own = Arc::clone(&shared);
        let accepting = Some(thread::spawn(move || accept(&listener, &own)));
        Self { address, shared, accepting }
    }

    /// What the next connections meet, each one of these.
    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.faults.lock().unwrap().extend(faults);
    }

    /// How many faults happened.
    pub fn met(&self) -> usize {
        self.shared.met.load(Ordering::Acquire)
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// How many bytes have passed.
    pub fn passed(&self, way: Way) -> u64 {
        self.shared.passed[way as usize].load(Ordering::Acquire)
    }

    /// How many of the bytes that passed to the far side it had not read when their connection ended. A side that the machine gives no
    /// time has megabytes before it, which a reset takes away.
    pub fn unread(&self) -> u64 {
        self.shared.unread.load(Ordering::Acquire)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        let ended = self.accepting.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the proxy failed");
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut carrying: Vec<JoinHandle<()>> = Vec::new();
    while !shared.over.load(Ordering::Acquire) {
        match listener.accept() {
            Ok((near, _)) => {
                shared.connections.fetch_add(1, Ordering::AcqRel);
                let fault = shared.faults.lock().unwrap().pop_front();
                let own = Arc::clone(shared);
                carrying.push(thread::spawn(move || {
                    // Without the other side it is closed, as where nobody listens.
                    if let Ok(far) = TcpStream::connect(own.to) {
                        carry(&own, near, far, fault);
                    }
                }));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(TICK),
            Err(error) => panic!("{error}"),
        }
    }
    for one in carrying {
        one.join().unwrap();
    }
}

/// A connection under way.
struct Carried<'a> {
    shared: &'a Shared,
    sides: [TcpStream; 2],
    fault: Option<Fault>,
    stalled: AtomicBool,
    ended: AtomicBool,
}

fn carry(shared: &Shared, near: TcpStream, far: TcpStream, fault: Option<Fault>) {
    for side in [&near, &far] {
        side.set_nonblocking(false).unwrap();
        side.set_read_timeout(Some(TICK)).unwrap();
        side.set_write_timeout(Some(TICK)).unwrap();
        side.set_nodelay(true).unwrap();
    }
    let carried =
        Carried { shared, sides: [near, far], fault, stalled: AtomicBool::default(), ended: AtomicBool::default() };
    thread::scope(|scope| {
        for (way, from, to) in [(Way::Up, 0, 1), (Way::Down, 1, 0)] {
            let (carried, (pieces, coming)) = (&carried, sync_channel(ON_THE_WAY));
            scope.spawn(move || carried.take(&carried.sides[from], &pieces));
            scope.spawn(move || carried.give(&carried.sides[to], way, &coming));
        }
    });
    let far = &carried.sides[1];
    if let (Ok(here), Ok(there)) = (far.local_addr(), far.peer_addr()) {
        shared.unread.fetch_add(waiting(here, there), Ordering::AcqRel);
    }
    // The sockets go with this, and where that was asked for, with a reset.
}

/// The bytes that one end of a connection on this machine has written and the other has not read: those that the one end still has, and
/// those that the other has. proc(5), `/proc/net/tcp`: addresses as they lie in memory, and the two queues.
fn waiting(here: SocketAddr, there: SocketAddr) -> u64 {
    let text = fs::read_to_string("/proc/net/tcp").unwrap();
    let queue = |local: SocketAddr, remote: SocketAddr, number: usize| -> u64 {
        let ends = [local, remote].map(in_memory);
        let fields = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
        let found = fields.into_iter().find(|fields| fields[1..3] == ends);
        let queue = found.and_then(|fields| fields[4].split(':').nth(number).map(str::to_owned));
        queue.map_or(0, |bytes| u64::from_str_radix(&bytes, 16).unwrap())
    };
    queue(here, there, 0) + queue(there, here, 1)
}

fn in_memory(address: SocketAddr) -> String {
    let IpAddr::V4(ip) = address.ip() else { panic!("{address} is not IPv4") };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port())
}

impl Carried<'_> {
    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire) || self.shared.over.load(Ordering::Acquire)
    }

    /// Reads, and sends on with the time at which it arrives. An empty piece is the end.
    fn take(&self, mut from: &TcpStream, pieces: &SyncSender<(Instant, Vec<u8>)>) {
        let mut buffer = vec![0; PIECE];
        while !self.has_ended() {
            if self.stalled.load(Ordering::Acquire) {
                thread::sleep(TICK);
                continue;
            }
            match from.read(&mut buffer) {
                Ok(len) => {
                    let piece = (Instant::now() + self.shared.delay, buffer[..len].to_vec());
                    if pieces.send(piece).is_err() || len == 0 {
                        return;
                    }
                }
                Err(error) if is_late(&error) => {}
                Err(_) => return self.meet(What::Reset),
            }
        }
    }

    /// Writes what arrives, up to where something happens.
    fn give(&self, to: &TcpStream, way: Way, coming: &Receiver<(Instant, Vec<u8>)>) {
        let fault = self.fault.filter(|fault| fault.way == way);
        let mut passed = 0;
        let meets = |passed: u64| fault.filter(|fault| fault.after <= passed);
        while let Ok((due, piece)) = coming.recv() {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if piece.is_empty() {
                let _ = to.shutdown(Shutdown::Write);
            }
            let left = fault.map_or(u64::MAX, |fault| fault.after - passed);
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            self.write(to, way, &piece[..now]);
            passed += now as u64;
            if let Some(fault) = meets(passed) {
                self.shared.met.fetch_add(1, Ordering::AcqRel);
                self.meet(fault.what);
            }
            while self.stalled.load(Ordering::Acquire) && !self.has_ended() {
                thread::sleep(TICK);
            }
            if self.has_ended() {
                return;
            }
        }
    }

    fn write(&self, mut to: &TcpStream, way: Way, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.has_ended() && !self.stalled.load(Ordering::Acquire) {
            match to.write(bytes) {
                Ok(len) => {
                    self.shared.passed[way as usize].fetch_add(len as u64, Ordering::AcqRel);
                    bytes = &bytes[len..];
                }
                Err(error) if is_late(&error) => {}
                Err(_) => return self.meet(What::Reset),
            }
        }
    }

    fn meet(&self, what: What) {
        match what {
            What::Stall => return self.stalled.store(true, Ordering::Release),
            What::Reset => {
                // It is sent in the place of the end when the socket is closed: SO_LINGER in socket(7).
                let at_once = linger { l_onoff: 1, l_linger: 0 };
                self.sides.iter().for_each(|side| setsockopt(side, sockopt::Linger, &at_once).unwrap());
            }
            What::Close => self.sides.iter().for_each(|side| drop(side.shutdown(Shutdown::Both))),
        }
        self.ended.store(true, Ordering::Release);
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
