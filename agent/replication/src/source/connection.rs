//! Keeping a connection to the target, and moving messages over it.

use super::Connector;
use super::state::{Next, Pass};
use crate::link::{Receiver, Sender};
use crate::message::{Accept, Message};
use crate::{ALIVE_EVERY, Backoff, Role, SessionError, Traffic};
use failback_hashtree::Root;
use failback_orchestrate::Progress;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How often the target is told how far this is.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Connects, and connects again, until the pass has ended.
pub(super) fn keep_connected(
    connector: &dyn Connector,
    pass: &Pass<'_>,
    backoff: &Backoff,
    traffic: &Arc<Traffic>,
    progress: &dyn Progress,
) {
    let mut failed = 0;
    let mut before = pass.moved();
    let mut since = Instant::now();
    loop {
        let ended = one_connection(connector, pass, traffic);
        pass.disconnected();
        let error = match ended {
            Ok(()) => return,
            Err(error) if error.is_link() => error,
            Err(error) => return pass.fail(error),
        };
        // This side has ended it: there is nothing to tell, and nobody to connect for.
        if pass.pause(Duration::ZERO) {
            return;
        }
        if progress.stop_requested() {
            return pass.interrupt();
        }
        // A connection that moved nothing on counts as one that was not made.
        let now = pass.moved();
        if now == before {
            failed += 1;
        } else {
            (failed, since) = (1, Instant::now());
        }
        before = now;
        let left = backoff.patience.saturating_sub(since.elapsed());
        if failed > backoff.attempts || left.is_zero() {
            return pass.fail(error);
        }
        let wait = backoff.wait(failed).min(left);
        let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
        progress.note(&format!("{error}{cause}; connecting again in {} s", wait.as_secs().max(1)));
        if pass.pause(wait) {
            return;
        }
    }
}

/// One connection, from its preface to its end.
fn one_connection(connector: &dyn Connector, pass: &Pass<'_>, traffic: &Arc<Traffic>) -> Result<(), SessionError> {
    let link = connector.connect()?;
    pass.meeting(&link.breaker);
    let (sender, mut receiver) = link.open(Role::Source, traffic)?;
    sender.send(&Message::Offer(pass.offer()))?;
    let accept = match answer(&mut receiver)? {
        Answer::Accept(accept) => accept,
        Answer::Done(root) => return pass.receive(Message::Done { root }).map(drop),
        Answer::Stored(root) => {
            pass.waiting(&sender);
            if pass.receive(Message::Stored { root })? {
                return Ok(());
            }
            return talk(pass, &sender, &mut receiver);
        }
    };
    pass.connected(&sender, accept)?;
    talk(pass, &sender, &mut receiver)
}

/// Sends and receives until this connection ends.
fn talk(pass: &Pass<'_>, sender: &Sender, receiver: &mut Receiver) -> Result<(), SessionError> {
    let connection = pass.counts().connections;
    thread::scope(|scope| {
        let pump = sender.clone();
        scope.spawn(move || {
            while let Some(message) = next(pass, connection) {
                let started = Instant::now();
                if pump.send(&message).is_err() {
                    return;
                }
                pass.sent_for(started.elapsed());
            }
        });
        let (stop, stopped) = channel::<()>();
        let teller = sender.clone();
        scope.spawn(move || {
            let mut told = 0;
            while stopped.recv_timeout(PROGRESS_EVERY) == Err(RecvTimeoutError::Timeout) {
                let (compared, total) = pass.compared();
                // Behind END it says nothing that anybody waits for.
                if !pass.end_sent() && compared != told && teller.send(&Message::Progress { compared, total }).is_err()
                {
                    return;
                }
                told = compared;
            }
        });
        let ended = receive(pass, receiver);
        drop(stop);
        if ended.is_err() {
            pass.disconnected();
        }
        ended
    })
}

enum Answer {
    Accept(Accept),
    Done(Root),
    Stored(Root),
}

/// Waits for the target's answer to the offer. It may have to read its disk before.
fn answer(receiver: &mut Receiver) -> Result<Answer, SessionError> {
    loop {
        match receiver.receive()? {
            Message::Accept(accept) => return Ok(Answer::Accept(accept)),
            Message::Done { root } => return Ok(Answer::Done(root)),
            Message::Stored { root } => return Ok(Answer::Stored(root)),
            Message::Alive => {}
            Message::Refuse(sentence) => return Err(SessionError::Refused(sentence.into_owned())),
            _ => return Err(SessionError::Breach("it does not answer the offer")),
        }
    }
}

/// The next message to be sent; `None` when there will be none over this connection.
fn next(pass: &Pass<'_>, connection: u64) -> Option<Message<'static>> {
    Some(match pass.next(connection, ALIVE_EVERY) {
        Next::Data(at, bytes) => Message::Data { at, bytes: bytes.into() },
        Next::End(len, root) => Message::End { len, root },
        Next::Idle => Message::Alive,
        Next::Over => return None,
    })
}

fn receive(pass: &Pass<'_>, receiver: &mut Receiver) -> Result<(), SessionError> {
    loop {
        if pass.receive(receiver.receive()?)? {
            return Ok(());
        }
    }
}
