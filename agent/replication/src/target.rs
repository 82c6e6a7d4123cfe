//! The target's side of a connection.

use crate::link::{Receiver, Sender};
use crate::map::{map_hash, pack};
use crate::meeting::{Seat, hold, let_hang_up};
use crate::message::{Accept, GroupMark, Meet, Message, Offer};
use crate::wire::MAP_MAX;
use crate::{ALIVE_EVERY, Link, Role, SessionError, Spool, SpoolError, Traffic};
use failback_hashtree::Root;
use failback_orchestrate::{BaseTree, JobError, NodeRun};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes that arrive before they are made durable, and so before the source may forget them.
const FLUSH_EVERY: u64 = 8 << 20;
/// Questions that wait to be answered. A source asks no more than it has answers for.
const QUESTIONS: usize = 64;
/// How long a replica waits for something before it is looked whether the source is still there.
const PATIENCE: Duration = Duration::from_millis(500);

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// The delta may come.
    Ready,
    /// The delta that was to go on has been applied already: its root.
    Applied(Root),
    /// A relay has all of the delta that was to go on, and the disk does not have it yet: its root.
    Stored(Root),
}

/// What a session does to a disk. One of it belongs to one replication pair.
pub trait Replica: Send + Sync {
    /// Looks at an offer before anything else is done.
    ///
    /// # Errors
    ///
    /// When it has to be refused: the sentence goes to the source.
    fn offer(&mut self, offer: &Offer) -> Result<Offered, JobError>;

    /// The tree of the base. It does not change as long as the session lasts.
    ///
    /// # Errors
    ///
    /// When there is none, and none can be made.
    fn base(&self) -> Result<&dyn BaseTree, JobError>;

    /// Where the delta is kept until it is complete.
    fn spool(&self) -> &Mutex<Spool>;

    /// Applies the delta in the spool, which is complete and durable, and forgets it. Returns the root that the disk has now.
    ///
    /// # Errors
    ///
    /// When it was not applied.
    fn apply(&mut self, expected: Root) -> Result<Root, JobError>;

    /// Whether this is a relay. What [`apply`](Self::apply) does is to store the delta then, and the base is what the disk will
    /// be once all is applied that is stored. The source is told so.
    fn relays(&self) -> bool {
        false
    }

    /// Whether `more` bytes of the delta may come. Waits for that, but only for about as long as `patience`; `false` if it is
    /// still not so. As long as it is not so nothing is taken from the source, and nothing of what it sent is lost.
    ///
    /// # Errors
    ///
    /// When it will never be so.
    fn room(&self, more: u64, patience: Duration) -> Result<bool, JobError> {
        let _ = (more, patience);
        Ok(true)
    }

    /// Of a relay: whether the disk has the delta that leads to `root`, which was stored. Waits for about as long as `patience`;
    /// `None` if that is not known yet.
    ///
    /// # Errors
    ///
    /// When it will not be applied.
    fn applied(&self, root: Root, patience: Duration) -> Result<Option<Root>, JobError> {
        let _ = patience;
        Ok(Some(root))
    }

    /// The source has compared so many bytes of so many, as it says.
    fn progress(&self, compared: u64, total: u64) {
        let _ = (compared, total);
    }

    /// Lets a source take part in the common mark of a group.
    ///
    /// # Errors
    ///
    /// When it may not, or groups do not meet here: the sentence goes to the source.
    fn meet(&mut self, meet: &Meet) -> Result<Box<dyn Seat>, JobError> {
        let _ = meet;
        Err(JobError::Refused(
            "a group meets at the master target and not at a relay: send its last pass to the address of the master target".into(),
        ))
    }

    /// Nobody waits for values of the base any more: where they are being waited for, that may fail now.
    fn no_more_questions(&self) {}
}

/// What a session did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionReport {
    /// The pass was completed, and the disk has this root.
    Applied(Root),
    /// It had been completed before.
    AppliedBefore(Root),
    /// A relay has the pass, durably. The source did not wait for more.
    Stored(Root),
    /// The group of the source has a common mark.
    Marked(GroupMark),
}

/// Serves one source over one connection.
///
/// # Errors
///
/// When the connection broke, the other side did what it must not do, or what it wants cannot be done. What arrived until then
/// stays in the spool.
pub fn serve_session(
    link: Link,
    traffic: &Arc<Traffic>,
    replica: &mut dyn Replica,
) -> Result<SessionReport, SessionError> {
    let (sender, mut receiver) = link.open(Role::Target, traffic)?;
    let ended = thread::scope(|scope| {
        let (stop, stopped) = channel::<()>();
        let alive = sender.clone();
        scope.spawn(move || {
            // The other side is told that this one is there, also while a disk is being read or written.
            while stopped.recv_timeout(ALIVE_EVERY) == Err(RecvTimeoutError::Timeout) {
                if alive.send(&Message::Alive).is_err() {
                    return;
                }
            }
        });
        let ended = Session { replica, sender: &sender }.run(&mut receiver);
        drop(stop);
        ended
    });
    match &ended {
        // The connection is closed when this goes, and not broken: what was said last would be lost.
        Ok(_) => {}
        Err(error) if error.is_link() => sender.break_off(),
        Err(error) => sender.refuse(error),
    }
    ended
}

/// Tells a source why it is not served here, once it has said what it wants.
///
/// # Errors
///
/// When the connection broke before, or who is there is no source.
pub fn refuse_session(link: Link, traffic: &Arc<Traffic>, why: JobError) -> Result<(), SessionError> {
    let (sender, mut receiver) = link.open(Role::Target, traffic)?;
    // What it says first is taken: a connection that is closed with anything unread may lose what was said last.
    while matches!(receiver.receive()?, Message::Alive) {}
    sender.refuse(&why.into());
    Ok(())
}

struct Session<'a> {
    replica: &'a mut dyn Replica,
    sender: &'a Sender,
}

impl Session<'_> {
    fn run(&mut self, receiver: &mut Receiver) -> Result<SessionReport, SessionError> {
        let offer = loop {
            match receiver.receive()? {
                Message::Offer(offer) => break offer,
                Message::Meet(meet) => return hold(&*self.replica.meet(&meet)?, self.sender, receiver),
                Message::Alive => {}
                other => return Err(unexpected(&other)),
            }
        };
        match self.replica.offer(&offer)? {
            Offered::Ready => {}
            Offered::Applied(root) => {
                self.sender.send(&Message::Done { root })?;
                return Ok(SessionReport::AppliedBefore(root));
            }
            Offered::Stored(root) => return self.stored(receiver, root),
        }
        let base = self.replica.base()?;
        let durable = self.resume(&offer, base)?;
        self.sender.send(&Message::Accept(Accept {
            size: base.shape().size(),
            block_size: base.shape().block_size(),
            coverage: base.coverage(),
            root: base.root(),
            map: map_hash(base.free()),
            durable,
            relayed: self.replica.relays(),
        }))?;
        let arrived = self.receive_delta(receiver, &offer, base);
        if let Err(error) = &arrived {
            // All that has arrived counts when the source comes back, but for what can be no delta. What failed is told, and not that
            // this fails too.
            let _ = if is_worthless(error) { self.lock_spool().cut(0) } else { self.keep() };
        }
        let (len, root) = arrived?;
        self.complete(len, root)?;
        let reached = self.replica.apply(root).map_err(|error| self.judged(error))?;
        if self.replica.relays() {
            return self.stored(receiver, reached);
        }
        self.sender.send(&Message::Done { root: reached })?;
        Ok(SessionReport::Applied(reached))
    }

    /// Says that the delta is stored, and waits for the disk to have it, as long as the source waits for that.
    fn stored(&self, receiver: &mut Receiver, root: Root) -> Result<SessionReport, SessionError> {
        self.sender.send(&Message::Stored { root })?;
        let gone = AtomicBool::new(false);
        thread::scope(|scope| {
            let left = &gone;
            let (hung_up, has_hung_up) = channel::<()>();
            scope.spawn(move || {
                // A source that has nothing more to say hangs up. How far it has compared may have been under way behind its end.
                while matches!(receiver.receive(), Ok(Message::Alive | Message::Progress { .. })) {}
                left.store(true, Ordering::Release);
                drop(hung_up);
            });
            let ended = loop {
                if gone.load(Ordering::Acquire) || self.sender.is_broken() {
                    break Ok(SessionReport::Stored(root));
                }
                match self.replica.applied(root, PATIENCE) {
                    Ok(None) => {}
                    Ok(Some(root)) => {
                        let told = self.sender.send(&Message::Done { root });
                        break told.map(|()| SessionReport::Applied(root)).map_err(SessionError::Link);
                    }
                    Err(error) => {
                        let error = SessionError::Job(error);
                        self.sender.refuse(&error);
                        break Err(error);
                    }
                }
            };
            let_hang_up(self.sender, &has_hung_up);
            ended
        })
    }

    /// Keeps of the spool what the offer goes on with. Returns how much that is.
    fn resume(&self, offer: &Offer, base: &dyn BaseTree) -> Result<u64, SessionError> {
        let mut spool = self.lock_spool();
        let is_of_these = check_header(&spool, offer, base).is_ok();
        let keep = match offer.resumed {
            Some(resumed) if spool.key() == Some(resumed.delta) && is_of_these => spool.durable().min(resumed.until),
            _ => 0,
        };
        if keep < spool.len() {
            spool.cut(keep)?;
        }
        Ok(spool.len())
    }

    /// Takes in pieces of the delta and answers questions, until the source says that the delta is complete.
    fn receive_delta(
        &self,
        receiver: &mut Receiver,
        offer: &Offer,
        base: &dyn BaseTree,
    ) -> Result<(u64, Root), SessionError> {
        let failed: Mutex<Option<SessionError>> = Mutex::new(None);
        let broken = AtomicBool::new(false);
        let over = AtomicBool::new(false);
        let ended = thread::scope(|scope| {
            let give_up = |error: SessionError| {
                // The source may be waiting for just what will not come now, and this side for the source: both are told.
                self.sender.refuse(&error);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                broken.store(true, Ordering::Release);
                self.sender.break_off();
            };
            let (ask, asked) = sync_channel::<(u32, Vec<NodeRun>)>(QUESTIONS);
            let over = &over;
            scope.spawn(move || {
                for (id, runs) in asked {
                    let answered = base
                        .values(&runs)
                        .map_err(SessionError::from)
                        .and_then(|values| Ok(self.sender.send(&Message::Values { id, values: values.into() })?));
                    if let Err(error) = answered {
                        if !over.load(Ordering::Acquire) {
                            give_up(error);
                        }
                        return;
                    }
                }
            });
            let flusher = self.lock_spool().flusher()?;
            // One flush may wait while another is under way; a third would have nothing more to say.
            let (flush, to_flush) = sync_channel::<u64>(1);
            scope.spawn(move || {
                for len in to_flush {
                    if let Err(error) = self.flush(&flusher, len) {
                        give_up(error);
                        return;
                    }
                }
            });
            let ended = loop {
                let next = self.message(receiver, offer, base, &ask, &flush);
                if broken.load(Ordering::Acquire) {
                    let error = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
                    break Err(error.unwrap_or(SessionError::Breach("it was given up")));
                }
                match next {
                    Ok(None) => {}
                    Ok(Some(end)) => break Ok(end),
                    Err(error) => {
                        if error.is_link() {
                            // Nobody may go on waiting for a connection that is no more.
                            self.sender.break_off();
                        }
                        break Err(error);
                    }
                }
            };
            over.store(true, Ordering::Release);
            self.replica.no_more_questions();
            ended
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            // What failed here is the reason, and not what came of it.
            Some(error) => Err(error),
            None => ended,
        }
    }

    fn message(
        &self,
        receiver: &mut Receiver,
        offer: &Offer,
        base: &dyn BaseTree,
        ask: &SyncSender<(u32, Vec<NodeRun>)>,
        flush: &SyncSender<u64>,
    ) -> Result<Option<(u64, Root)>, SessionError> {
        match receiver.receive()? {
            Message::Data { at, bytes } => {
                self.make_room(bytes.len() as u64)?;
                let mut spool = self.lock_spool();
                if at != spool.len() {
                    return Err(SessionError::Breach("a piece of the delta does not follow the last one"));
                }
                let is_named = spool.key().is_some();
                spool.append(&bytes)?;
                if !is_named {
                    check_header(&spool, offer, base)?;
                }
                let is_due = at / FLUSH_EVERY != spool.len() / FLUSH_EVERY;
                let len = spool.whole();
                drop(spool);
                if is_due {
                    // If one is waiting already, the next one will speak for this too.
                    let _ = flush.try_send(len);
                }
            }
            Message::AskValues { id, runs } => {
                // The thread that answers is gone if it failed, which is looked at next.
                let _ = ask.send((id, runs.into_owned()));
            }
            Message::Progress { compared, total } => self.replica.progress(compared, total),
            Message::AskMap => {
                let packed = pack(base.free()).map_err(SessionError::Link)?;
                let mut pieces = packed.chunks(MAP_MAX).peekable();
                while let Some(piece) = pieces.next() {
                    self.sender.send(&Message::Map { last: pieces.peek().is_none(), packed: piece.into() })?;
                }
            }
            Message::End { len, root } => return Ok(Some((len, root))),
            Message::Alive => {}
            Message::Refuse(sentence) => return Err(SessionError::Refused(sentence.into_owned())),
            other => return Err(unexpected(&other)),
        }
        Ok(None)
    }

    /// What cannot be applied since of what it is itself is of no use. If it stayed, the source's next offer would go on behind it, and come
    /// to the same end: it may have been damaged here, or on its way by somebody who wants just that.
    fn judged(&self, error: JobError) -> JobError {
        if is_worthless_job(&error) {
            // If this fails too, the first error is the one to be told.
            let _ = self.lock_spool().cut(0);
        }
        error
    }

    /// Waits until more of the delta may come. The source sees that nothing is taken from it, and hears that this side is there.
    fn make_room(&self, more: u64) -> Result<(), SessionError> {
        while !self.replica.room(more, PATIENCE)? {
            if self.sender.is_broken() {
                return Err(SessionError::Link(io::ErrorKind::BrokenPipe.into()));
            }
        }
        Ok(())
    }

    /// Makes durable what has arrived, of a delta that is not complete.
    fn keep(&self) -> Result<(), SpoolError> {
        let mut spool = self.lock_spool();
        let whole = spool.whole();
        spool.flusher()?.sync_data().map_err(|source| SpoolError::Io {
            action: "write",
            path: spool.path().to_owned(),
            source,
        })?;
        spool.made_durable(whole);
        Ok(())
    }

    /// Makes what has arrived durable, and says so.
    fn flush(&self, file: &File, len: u64) -> Result<(), SessionError> {
        file.sync_data().map_err(|source| {
            let path = self.lock_spool().path().to_owned();
            JobError::File { action: "write", path, source }
        })?;
        self.lock_spool().made_durable(len);
        Ok(self.sender.send(&Message::Durable { len })?)
    }

    /// Makes all of the delta durable, if it is what its end says.
    fn complete(&self, len: u64, root: Root) -> Result<(), SessionError> {
        let spool = self.lock_spool();
        if spool.len() != len || !spool.is_complete() {
            return Err(SessionError::Breach("the delta is longer or shorter than its end says"));
        }
        // What a damaged trailer says is found when the delta is proven.
        if spool.said_root()?.is_some_and(|said| said != root) {
            return Err(SessionError::Breach("the delta leads to another root than its end says"));
        }
        let file = spool.flusher()?;
        drop(spool);
        self.flush(&file, len)
    }

    fn lock_spool(&self) -> std::sync::MutexGuard<'_, Spool> {
        self.replica.spool().lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The delta that arrives, once its header is here, has to lead from what the target has to a disk as large as was offered: how long it can be
/// depends on both.
fn check_header(spool: &Spool, offer: &Offer, base: &dyn BaseTree) -> Result<(), SessionError> {
    let Some(header) = spool.header() else { return Ok(()) };
    let starts_here = header.shapes.base == base.shape()
        && header.base_root == base.root()
        && header.base_coverage == base.coverage();
    if starts_here && header.shapes.result.size() == offer.size {
        return Ok(());
    }
    Err(SessionError::NotOffered)
}

/// Whether what has arrived can never be applied, because of what it is itself.
fn is_worthless(error: &SessionError) -> bool {
    match error {
        SessionError::NotOffered => true,
        SessionError::Job(error) => is_worthless_job(error),
        _ => false,
    }
}

fn is_worthless_job(error: &JobError) -> bool {
    match error {
        JobError::Format(error) => !error.is_io(),
        JobError::Untrusted(_) => true,
        _ => false,
    }
}

fn unexpected(message: &Message<'_>) -> SessionError {
    match message {
        Message::Refuse(sentence) => SessionError::Refused(sentence.to_string()),
        _ => SessionError::Breach("a message has no place here"),
    }
}
