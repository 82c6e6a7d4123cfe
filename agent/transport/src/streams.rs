//! One link over several connections. `TRANSPORT.md` has the preface and the chunks field by field.

use crate::End;
use crate::bridge::{Bridge, Fate, LAST_BYTES, Wish};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, mpsc};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Streams of one link.
pub(crate) const STREAMS_MAX: u8 = 16;

/// Every stream begins with this.
const MAGIC: [u8; 8] = *b"FBSTREAM";
const VERSION: u16 = 1;

/// Bytes of a preface.
pub(crate) const PREFACE_LEN: usize = 32;
/// Bytes of a chunk, without its head.
const CHUNK_MAX: usize = 64 << 10;

/// What the server says of a stream.
pub(crate) mod verdict {
    pub(crate) const BEGINS: u8 = 0;
    pub(crate) const NOT_UNDERSTOOD: u8 = 1;
    pub(crate) const INCOMPLETE: u8 = 2;
}

/// What a stream begins with, in both directions.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawPreface {
    /// [`MAGIC`].
    magic: [u8; 8],
    /// [`VERSION`].
    version: U16,
    /// 1 to [`STREAMS_MAX`].
    pub(crate) count: u8,
    /// Less than `count`.
    pub(crate) index: u8,
    /// One of [`verdict`]; 0 from the client.
    pub(crate) verdict: u8,
    /// Zero.
    reserved: [u8; 3],
    /// The same on all streams of a link.
    pub(crate) group: [u8; 16],
}

/// What comes before the bytes of a chunk.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawChunk {
    number: U64,
    len: U32,
    reserved: U32,
}

const HEAD: usize = size_of::<RawChunk>();
const _: () = assert!(size_of::<RawPreface>() == PREFACE_LEN);
const _: () = assert!(HEAD == 16);

impl RawPreface {
    /// A client's.
    pub(crate) const fn new(count: u8, index: u8, group: [u8; 16]) -> Self {
        let version = U16::from_bytes(VERSION.to_le_bytes());
        Self { magic: MAGIC, version, count, index, verdict: verdict::BEGINS, reserved: [0; 3], group }
    }

    /// Whether it is one, and does not contradict itself.
    pub(crate) const fn is_understood(&self) -> bool {
        let magic = u64::from_le_bytes(self.magic) == u64::from_le_bytes(MAGIC);
        let fits = self.count >= 1 && self.count <= STREAMS_MAX && self.index < self.count;
        magic && self.version.get() == VERSION && fits
    }
}

/// Sends a preface.
pub(crate) async fn send_preface(to: &mut (impl AsyncWrite + Unpin), preface: &RawPreface) -> io::Result<()> {
    to.write_all(preface.as_bytes()).await?;
    to.flush().await
}

/// Reads a preface, whatever is in it.
pub(crate) async fn read_preface(from: &mut (impl AsyncRead + Unpin)) -> io::Result<RawPreface> {
    let mut preface = RawPreface::new_zeroed();
    from.read_exact(preface.as_mut_bytes()).await?;
    Ok(preface)
}

/// What all streams of a link share.
pub(crate) struct Streams {
    from_near: Mutex<Outward>,
    to_near: Mutex<OwnedWriteHalf>,
    /// The number of the chunk that is due from the other side; `u64::MAX` once it has said all.
    due: watch::Sender<u64>,
    /// How many chunks from the other side were taken by a stream: all before the one that is due, and perhaps that one.
    taken: AtomicU64,
    /// Whether some stream has failed, which ends all.
    down: watch::Sender<bool>,
    wish: watch::Receiver<Wish>,
    fate: Fate,
    /// The link may be gone while the other side still speaks.
    takes: AtomicBool,
    /// Streams on which more may come.
    open: AtomicUsize,
    /// One for each stream; the link waits until all of them are gone.
    leaving: std::sync::Mutex<Vec<mpsc::Sender<()>>>,
}

/// What is read from the link.
struct Outward {
    near: OwnedReadHalf,
    number: u64,
    said_all: bool,
}

const ALL_SAID: u64 = u64::MAX;

/// Why a stream is not followed any further.
enum Broken {
    /// The connection failed.
    Stream(io::Error),
    /// The other side does not keep to this.
    Breach(&'static str),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Stream(error)
    }
}

impl Streams {
    /// For the link of a bridge.
    pub(crate) fn new(bridge: Bridge, count: usize) -> io::Result<Arc<Self>> {
        let Bridge { near, wish, fate, leaving } = bridge;
        let (from_near, to_near) = tokio::net::UnixStream::from_std(near)?.into_split();
        let outward = Outward { near: from_near, number: 0, said_all: false };
        Ok(Arc::new(Self {
            from_near: Mutex::new(outward),
            to_near: Mutex::new(to_near),
            due: watch::channel(0).0,
            taken: AtomicU64::new(0),
            down: watch::channel(false).0,
            wish,
            fate,
            takes: AtomicBool::new(true),
            open: AtomicUsize::new(count),
            leaving: std::sync::Mutex::new(vec![leaving; count]),
        }))
    }

    /// Carries what goes over one of the streams, until the link has ended.
    pub(crate) async fn carry<S: AsyncRead + AsyncWrite>(self: Arc<Self>, far: S, explain: impl Fn(&io::Error) -> End) {
        let mut down_with_all = Down { streams: &self, armed: true };
        let _leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (mut from_far, mut to_far) = split(far);
        let mut wish = self.wish.clone();
        let mut down = pin!(is_down(self.down.subscribe()));
        let mut outward = pin!(self.outward(&mut to_far));
        let mut inward = pin!(self.inward(&mut from_far));
        let (mut all_sent, mut all_received) = (false, false);
        while !(all_sent && all_received) {
            tokio::select! {
                ended = &mut outward, if !all_sent => match ended {
                    Ok(()) => all_sent = true,
                    Err(error) => {
                        let said = if all_received { None } else { timeout(crate::bridge::LAST_WORDS, &mut inward).await.ok() };
                        let reason = said.and_then(Result::err).unwrap_or(Broken::Stream(error));
                        return self.fail(&reason, &explain);
                    }
                },
                ended = &mut inward, if !all_received => match ended {
                    Ok(()) => all_received = true,
                    Err(reason) => return self.fail(&reason, &explain),
                },
                () = &mut down => return,
                changed = wish.changed() => {
                    let wish = if changed.is_ok() { *wish.borrow_and_update() } else { Wish::Finish };
                    if wish == Wish::Finish {
                        // The others are told the same, and do it by themselves.
                        down_with_all.armed = false;
                        let finish = async {
                            if !all_sent && outward.await.is_err() {
                                return;
                            }
                            if !all_received {
                                drop(inward.await);
                            }
                        };
                        drop(timeout(LAST_BYTES, finish).await);
                    }
                    return;
                }
            }
        }
        down_with_all.armed = false;
    }

    /// As [`Self::carry`], once the other side has been told that the link begins.
    pub(crate) async fn begin<S>(self: Arc<Self>, mut far: S, preface: RawPreface, explain: impl Fn(&io::Error) -> End)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match send_preface(&mut far, &preface).await {
            Ok(()) => self.carry(far, explain).await,
            Err(error) => self.fail(&Broken::Stream(error), &explain),
        }
    }

    fn fail(&self, reason: &Broken, explain: &impl Fn(&io::Error) -> End) {
        self.fate.set(match reason {
            Broken::Stream(error) => explain(error),
            Broken::Breach(what) => End::Because(format!(
                "the other side does not keep to the protocol of several streams: {what}; use the same version on both"
            )),
        });
        self.down.send_replace(true);
    }

    /// Takes the next chunk of the link whenever this stream can take one.
    async fn outward(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut buffer = vec![0; HEAD + CHUNK_MAX];
        loop {
            let (number, len) = {
                let mut link = self.from_near.lock().await;
                if link.said_all {
                    break;
                }
                let len = link.near.read(&mut buffer[HEAD..]).await.unwrap_or_default();
                if len == 0 {
                    link.said_all = true;
                    if *self.wish.borrow() == Wish::BreakOff {
                        // A link that was broken off is not one that has said all.
                        return Ok(());
                    }
                }
                let number = link.number;
                link.number += 1;
                (number, len)
            };
            let told = u32::try_from(len).unwrap_or(u32::MAX);
            let head = RawChunk { number: number.into(), len: told.into(), reserved: 0.into() };
            buffer[..HEAD].copy_from_slice(head.as_bytes());
            to.write_all(&buffer[..HEAD + len]).await?;
            to.flush().await?;
        }
        if *self.wish.borrow() != Wish::BreakOff {
            drop(to.shutdown().await);
        }
        Ok(())
    }

    /// Hands on what comes over this stream, each chunk when it is due.
    async fn inward(&self, from: &mut (impl AsyncRead + Unpin)) -> Result<(), Broken> {
        let mut due = self.due.subscribe();
        let mut buffer = vec![0; CHUNK_MAX];
        let mut last = None;
        while let Some(head) = next_head(from).await? {
            let (number, len) = (head.number.get(), usize::try_from(head.len.get()).unwrap_or(usize::MAX));
            if head.reserved.get() != 0 || len > CHUNK_MAX {
                return Err(Broken::Breach("a chunk is longer than it may be"));
            }
            if last.is_some_and(|last| number <= last) {
                return Err(Broken::Breach("the chunks of a stream are not in order"));
            }
            last = Some(number);
            from.read_exact(&mut buffer[..len]).await?;
            drop(due.wait_for(|due| *due >= number).await);
            // Two streams may both have the chunk that is due, and see that at the same moment.
            let next = number.checked_add(1).ok_or(Broken::Breach("a chunk has no number"))?;
            if self.taken.compare_exchange(number, next, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                return Err(Broken::Breach("a chunk comes twice, or behind the end"));
            }
            self.hand_on(&buffer[..len]).await;
            if len == 0 {
                self.taken.store(ALL_SAID, Ordering::SeqCst);
            }
            self.due.send_replace(if len == 0 { ALL_SAID } else { next });
        }
        let others = self.open.fetch_sub(1, Ordering::SeqCst) - 1;
        if others == 0 && *self.due.borrow() != ALL_SAID {
            return Err(Broken::Stream(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    /// To the link; what one that is gone does not take is thrown away. Nothing is the end.
    async fn hand_on(&self, bytes: &[u8]) {
        if self.takes.load(Ordering::SeqCst) {
            let mut near = self.to_near.lock().await;
            let taken = if bytes.is_empty() { near.shutdown().await } else { near.write_all(bytes).await };
            self.takes.store(taken.is_ok(), Ordering::SeqCst);
        }
    }
}

/// Waits until some stream has failed.
async fn is_down(mut down: watch::Receiver<bool>) {
    drop(down.wait_for(|down| *down).await);
}

/// The head of the next chunk; `None` where a stream ends between two.
async fn next_head(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<RawChunk>> {
    let mut head = RawChunk::new_zeroed();
    let bytes = head.as_mut_bytes();
    let first = from.read(bytes).await?;
    if first == 0 {
        return Ok(None);
    }
    from.read_exact(&mut bytes[first..]).await?;
    Ok(Some(head))
}

/// Takes the whole link down, if one of its streams is dropped in the middle.
struct Down<'a> {
    streams: &'a Streams,
    armed: bool,
}

impl Drop for Down<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.streams.down.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn the_document_says_the_same() {
        let document = include_str!("../TRANSPORT.md");
        let rows: Vec<(usize, usize, &str)> = document
            .lines()
            .filter_map(|line| {
                let cells: Vec<&str> = line.split('|').map(str::trim).collect();
                let [_, offset, size, _, field, _, _] = cells.as_slice() else { return None };
                Some((offset.parse().ok()?, size.parse().ok()?, field.trim_matches('`')))
            })
            .collect();
        macro_rules! fields {
            ($raw:ident: $($name:ident)*) => {
                [$((offset_of!($raw, $name), size_of_val(&$raw::new_zeroed().$name), stringify!($name))),*].to_vec()
            };
        }
        let preface = fields!(RawPreface: magic version count index verdict reserved group);
        let chunk = fields!(RawChunk: number len reserved);
        assert_eq!(rows, [preface, chunk].concat());
        assert!(document.contains(std::str::from_utf8(&MAGIC).unwrap()));
        assert!(document.contains(&format!("at most {CHUNK_MAX}")) && document.contains("1 to 16 streams"));
    }
}
