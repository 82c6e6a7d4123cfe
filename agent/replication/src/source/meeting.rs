//! The source's side of the common mark of a group.

use super::Connector;
use crate::link::{Receiver, Sender};
use crate::message::{GroupMark, Meet, Message};
use crate::{ALIVE_EVERY, Backoff, Link, Role, SessionError, Traffic};
use failback_orchestrate::{JobError, Progress};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at whether somebody wants this to stop.
const STOP_TICK: Duration = Duration::from_millis(100);

/// What a source does in a meeting.
pub trait Marking {
    /// Comes to rest: nothing is written to the disk from now on, until whoever called [`meet`] lets it go.
    ///
    /// # Errors
    ///
    /// When it cannot: then the meeting is over for all of the group.
    fn quiesce(&mut self) -> Result<(), JobError>;

    /// Takes the mark.
    ///
    /// # Errors
    ///
    /// As [`quiesce`](Self::quiesce).
    fn mark(&mut self) -> Result<(), JobError>;
}

/// Takes part in the common mark of a group. What was done for it is to be taken back afterwards, also if this fails.
///
/// A target that cannot be reached is tried again, as `backoff` says. A connection that breaks once there was one ends the meeting: it may
/// have gone on without this source.
///
/// # Errors
///
/// When the target refuses or cannot be reached, somebody else of the group failed or was late, `marking` fails, or the user stopped it.
/// There is no mark of the group then.
pub fn meet(
    connector: &dyn Connector,
    meet: &Meet,
    marking: &mut dyn Marking,
    backoff: &Backoff,
    progress: &dyn Progress,
) -> Result<GroupMark, SessionError> {
    let link = connect(connector, backoff, progress)?;
    let stopped = AtomicBool::new(false);
    let (sender, mut receiver) = link.open(Role::Source, &Arc::<Traffic>::default())?;
    let ended = thread::scope(|scope| {
        let (end, ended) = channel::<()>();
        let (alive, stopped) = (sender.clone(), &stopped);
        scope.spawn(move || {
            let mut told = Instant::now();
            while ended.recv_timeout(STOP_TICK) == Err(RecvTimeoutError::Timeout) {
                if progress.stop_requested() {
                    stopped.store(true, Ordering::Release);
                    return alive.break_off();
                }
                if told.elapsed() >= ALIVE_EVERY {
                    told = Instant::now();
                    if alive.send(&Message::Alive).is_err() {
                        return;
                    }
                }
            }
        });
        let marked = sender
            .send(&Message::Meet(meet.clone()))
            .map_err(SessionError::from)
            .and_then(|()| take_part(&sender, &mut receiver, marking, progress));
        drop(end);
        marked
    });
    match ended {
        Err(error) if stopped.load(Ordering::Acquire) && error.is_link() => {
            Err(JobError::Interrupted("while the group came together; run this again for its last pass".into()).into())
        }
        Err(SessionError::Job(error)) => {
            // The others need not wait until their time is over.
            let _ = sender.send(&Message::Refuse(error.to_string().into()));
            Err(error.into())
        }
        ended => ended,
    }
}

fn connect(connector: &dyn Connector, backoff: &Backoff, progress: &dyn Progress) -> Result<Link, SessionError> {
    let (mut failed, since) = (0, Instant::now());
    loop {
        let error = match connector.connect() {
            Ok(link) => return Ok(link),
            Err(error) => SessionError::from(error),
        };
        failed += 1;
        let left = backoff.patience.saturating_sub(since.elapsed());
        if !error.is_link() || failed > backoff.attempts || left.is_zero() {
            return Err(error);
        }
        let until = Instant::now() + backoff.wait(failed).min(left);
        while Instant::now() < until {
            if progress.stop_requested() {
                return Err(error);
            }
            thread::sleep(STOP_TICK.min(until.saturating_duration_since(Instant::now())));
        }
    }
}

/// Does what the target says, in the order in which it has to say it.
fn take_part(
    sender: &Sender,
    receiver: &mut Receiver,
    marking: &mut dyn Marking,
    progress: &dyn Progress,
) -> Result<GroupMark, SessionError> {
    progress.phase("waiting for the others of the group", None);
    wait_for(receiver, progress, |message| matches!(message, Message::Quiesce).then_some(()))?;
    marking.quiesce()?;
    sender.send(&Message::Quiesced)?;
    wait_for(receiver, progress, |message| matches!(message, Message::Mark).then_some(()))?;
    marking.mark()?;
    sender.send(&Message::Marked)?;
    let released = |message: &Message<'_>| match message {
        Message::Release(mark) => Some(*mark),
        _ => None,
    };
    wait_for(receiver, progress, released)
}

fn wait_for<T>(
    receiver: &mut Receiver,
    progress: &dyn Progress,
    wanted: impl Fn(&Message<'_>) -> Option<T>,
) -> Result<T, SessionError> {
    loop {
        let message = receiver.receive()?;
        if let Some(found) = wanted(&message) {
            return Ok(found);
        }
        match message {
            Message::Alive => {}
            Message::Waits(sentence) => progress.note(&sentence),
            Message::Refuse(sentence) => return Err(SessionError::Refused(sentence.into_owned())),
            _ => return Err(SessionError::Breach("a message has no place here")),
        }
    }
}
