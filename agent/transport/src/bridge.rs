//! What carries bytes between a blocking link and a stream of the runtime: a pair of sockets, and two loops.

use crate::link::{Behind, link_over};
use crate::{End, Limits, Link, Runtime};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

/// Bytes that are moved at once, in each direction: four records of TLS.
const BUFFER: usize = 64 << 10;

/// How long what was written last may take to leave, once the link is gone.
pub(crate) const LAST_BYTES: Duration = Duration::from_secs(5);

/// How long the other side's reason is waited for, once it has closed the connection for writing.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(500);

/// What a link wants of its bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Carry,
    /// Reader and writer are gone: what was written still goes out.
    Finish,
    BreakOff,
}

/// Why the connection ended, once it has.
#[derive(Clone, Default)]
pub(crate) struct Fate(Arc<Mutex<Option<End>>>);

impl Fate {
    /// The first reason is the one.
    pub(crate) fn set(&self, end: End) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(end);
    }

    fn get(&self) -> Option<End> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The link's side of a bridge.
struct Carried {
    wish: watch::Sender<Wish>,
    fate: Fate,
    /// Closed when all that was written has left and the other side has closed, too.
    left: Mutex<mpsc::Receiver<()>>,
    /// What the bridge runs on, if that is to live as long as the link.
    _runtimes: Vec<Arc<Runtime>>,
}

impl Behind for Carried {
    fn break_off(&self) {
        self.wish.send_replace(Wish::BreakOff);
    }

    fn why(&self) -> Option<End> {
        self.fate.get()
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        let finish = |wish: &mut Wish| *wish == Wish::Carry && std::mem::replace(wish, Wish::Finish) == Wish::Carry;
        if self.wish.send_if_modified(finish) && Handle::try_current().is_err() {
            // The process may end next, and what was written last is not to be lost by that.
            let left = self.left.get_mut().unwrap_or_else(PoisonError::into_inner);
            let _ = left.recv_timeout(LAST_BYTES);
        }
    }
}

/// The runtime's side of a bridge, not yet carrying.
pub(crate) struct Bridge {
    pub(crate) near: UnixStream,
    pub(crate) wish: watch::Receiver<Wish>,
    pub(crate) fate: Fate,
    /// Dropped when the bridge has ended.
    pub(crate) leaving: mpsc::Sender<()>,
}

/// A link, and the bridge that it needs.
///
/// Runtimes that are given live as long as the link does.
pub(crate) fn bridged(limits: Limits, runtimes: Vec<Arc<Runtime>>) -> io::Result<(Link, Bridge)> {
    let (ours, near) = UnixStream::pair()?;
    near.set_nonblocking(true)?;
    let (wish, wishes) = watch::channel(Wish::Carry);
    let fate = Fate::default();
    let (leaving, left) = mpsc::channel();
    let carried = Carried { wish, fate: fate.clone(), left: Mutex::new(left), _runtimes: runtimes };
    let link = link_over(ours, limits, Box::new(carried))?;
    Ok((link, Bridge { near, wish: wishes, fate, leaving }))
}

impl Bridge {
    /// Carries bytes both ways until both sides have said all, the link is gone or broken off, or the stream fails; of that
    /// `explain` makes a sentence.
    pub(crate) async fn carry<S: AsyncRead + AsyncWrite>(self, far: S, explain: impl Fn(&io::Error) -> End) {
        // A link that is dropped waits for this: its runtime may go next, and with it what has not left.
        let Self { near, mut wish, fate, leaving: _leaving } = self;
        let near = match tokio::net::UnixStream::from_std(near) {
            Ok(near) => near,
            Err(error) => return fate.set(explain(&error)),
        };
        let (mut from_far, mut to_far) = split(far);
        let (mut from_near, mut to_near) = near.into_split();
        let wishes = wish.clone();
        let outward = outward(&mut from_near, &mut to_far, || *wishes.borrow() == Wish::BreakOff);
        let inward = inward(&mut from_far, &mut to_near);
        tokio::pin!(outward, inward);
        let (mut all_sent, mut all_received) = (false, false);
        while !(all_sent && all_received) {
            tokio::select! {
                ended = &mut outward, if !all_sent => match ended {
                    Ok(()) => all_sent = true,
                    Err(error) => {
                        // Whoever refuses says why and then takes nothing more: what it said tells more than that.
                        let said = if all_received { None } else { timeout(LAST_WORDS, &mut inward).await.ok() };
                        return fate.set(explain(&said.and_then(Result::err).unwrap_or(error)));
                    }
                },
                ended = &mut inward, if !all_received => match ended {
                    Ok(()) => all_received = true,
                    Err(error) => return fate.set(explain(&error)),
                },
                changed = wish.changed() => {
                    let wish = if changed.is_ok() { *wish.borrow_and_update() } else { Wish::Finish };
                    if wish == Wish::Finish {
                        // What the other side still says is read: to close with something unread would reset the connection,
                        // and take back what has not arrived yet.
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
    }
}

/// From the link to the stream, and then its end.
async fn outward(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    is_broken: impl Fn() -> bool,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        to.write_all(&buffer[..len]).await?;
        to.flush().await?;
    }
    // A link that was broken off is not one that has said all.
    if !is_broken() {
        // It fails where the other side has gone first, which says nothing of what was sent.
        drop(to.shutdown().await);
    }
    Ok(())
}

/// From the stream to the link, and then its end. What a link that is gone does not take is thrown away.
async fn inward(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut takes = true;
    loop {
        match from.read(&mut buffer).await? {
            0 => break,
            len => takes = takes && to.write_all(&buffer[..len]).await.is_ok(),
        }
    }
    drop(to.shutdown().await);
    Ok(())
}
