//! The target's side of a connection that takes part in the common mark of a group.

use crate::link::{Receiver, Sender};
use crate::message::{GroupMark, Message};
use crate::{SessionError, SessionReport};
use failback_orchestrate::JobError;
use std::sync::mpsc::{Receiver as Receiving, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// How long a seat waits for something before it is looked whether the source is still there.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a source has to hang up once it was told the last thing.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// How far a source is that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It is there.
    Here,
    /// Nothing is written to its disk.
    Quiesced,
    /// It has its mark.
    Marked,
}

/// What a source is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// What the group waits for, in a sentence.
    Waits(String),
    /// Come to rest.
    Quiesce,
    /// Take the mark.
    Mark,
    /// Go on: all have their marks.
    Release(GroupMark),
}

/// The place of one source in a meeting. The source has left when it goes.
pub trait Seat: Send + Sync {
    /// The source says that it is so far.
    ///
    /// # Errors
    ///
    /// When it was not told to be.
    fn reached(&self, stage: Stage) -> Result<(), SessionError>;

    /// The source says nothing more; `why`, if it told that.
    fn left(&self, why: Option<&str>);

    /// What the source is to be told next. Waits for that for about as long as `patience`; `None` if there is nothing yet. Each order
    /// is given once; behind a [`Release`](Order::Release) nothing is asked.
    ///
    /// # Errors
    ///
    /// When the meeting is over without a mark: the sentence goes to the source.
    fn next(&self, patience: Duration) -> Result<Option<Order>, JobError>;
}

/// Holds a source's seat until the meeting is over.
pub(crate) fn hold(seat: &dyn Seat, sender: &Sender, receiver: &mut Receiver) -> Result<SessionReport, SessionError> {
    thread::scope(|scope| {
        let (hung_up, has_hung_up) = channel::<()>();
        scope.spawn(move || {
            match listen(seat, receiver) {
                Err(SessionError::Refused(why)) => seat.left(Some(&why)),
                _ => seat.left(None),
            }
            drop(hung_up);
        });
        let ended = lead(seat, sender);
        if let Err(error) = &ended {
            sender.refuse(error);
        }
        let_hang_up(sender, &has_hung_up);
        ended
    })
}

/// Lets the source hang up, so that it has heard the last thing. One that does not is hung up on.
pub(crate) fn let_hang_up(sender: &Sender, has_hung_up: &Receiving<()>) {
    if has_hung_up.recv_timeout(LAST_WORDS) == Err(RecvTimeoutError::Timeout) {
        sender.break_off();
    }
}

/// Tells the source what it is to do, until there is nothing more.
fn lead(seat: &dyn Seat, sender: &Sender) -> Result<SessionReport, SessionError> {
    loop {
        match seat.next(PATIENCE)? {
            None => {}
            Some(Order::Waits(sentence)) => sender.send(&Message::Waits(sentence.into()))?,
            Some(Order::Quiesce) => sender.send(&Message::Quiesce)?,
            Some(Order::Mark) => sender.send(&Message::Mark)?,
            Some(Order::Release(mark)) => {
                sender.send(&Message::Release(mark))?;
                return Ok(SessionReport::Marked(mark));
            }
        }
    }
}

/// Hears how far the source is, until it says anything else or hangs up.
fn listen(seat: &dyn Seat, receiver: &mut Receiver) -> Result<(), SessionError> {
    loop {
        match receiver.receive()? {
            Message::Alive => {}
            Message::Quiesced => seat.reached(Stage::Quiesced)?,
            Message::Marked => seat.reached(Stage::Marked)?,
            Message::Refuse(sentence) => return Err(SessionError::Refused(sentence.into_owned())),
            _ => return Err(SessionError::Breach("a message has no place here")),
        }
    }
}
