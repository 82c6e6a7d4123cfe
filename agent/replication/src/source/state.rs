//! What a pass knows, shared by whoever works on it: what is to be sent and is not yet durable, and what was asked.

use super::PassOptions;
use crate::link::Sender;
use crate::message::{Accept, Message, Offer, Resumed};
use crate::wire::DATA_MAX;
use crate::{Adaptive, SessionError};
use failback_hashtree::{ChainingValue, Root};
use failback_orchestrate::{Coverage, JobError, NodeRun};
use failback_units::ByteCount;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of the delta that are held until the target has them durable. It is several times what the target flushes at once.
const WINDOW: usize = 32 << 20;

/// A pass.
pub(super) struct Pass<'a> {
    offer: Offer,
    adaptive: Option<&'a Adaptive>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    sender: Option<Sender>,
    /// Breaks the connection that is there, also before the target has accepted.
    breaker: Option<Breaker>,
    connections: u64,
    base: Option<Accept>,
    /// Up to where an earlier run of this pass can go on.
    until: u64,
    /// What was written and is not durable; its first byte is byte `durable` of the delta.
    window: VecDeque<u8>,
    durable: u64,
    /// Up to where this connection, and any connection, has sent.
    sent: u64,
    sent_most: u64,
    sent_again: u64,
    /// How long the link was busy with the delta.
    sending: Duration,
    /// The target says that the pass which was to go on has been applied.
    applied_before: bool,
    /// The hash of the delta's header, once that is written.
    key: Option<[u8; 32]>,
    end: Option<(u64, Root)>,
    end_sent: bool,
    questions: BTreeMap<u32, Question>,
    next_question: u32,
    map: MapState,
    done: Option<Root>,
    failure: Option<SessionError>,
    ended: bool,
}

type Breaker = Arc<dyn Fn() + Send + Sync>;

struct Question {
    runs: Vec<NodeRun>,
    answer: Option<Vec<ChainingValue>>,
}

#[derive(Default)]
enum MapState {
    #[default]
    NotAsked,
    Asked(Vec<u8>),
    Here(Vec<u8>),
}

/// The most that a packed map can have: 5 Mi runs of 8 bytes, and more than what packing could add.
const PACKED_MAP_MAX: usize = 64 << 20;

/// What was counted.
pub(super) struct Counts {
    pub(super) sent_again: u64,
    pub(super) connections: u64,
    pub(super) sending: Duration,
}

/// What is to be sent next.
pub(super) enum Next {
    Data(u64, Vec<u8>),
    End(u64, Root),
    /// Nothing for now.
    Idle,
    /// This connection is no longer the one, or the pass has ended.
    Over,
}

impl<'a> Pass<'a> {
    /// A pass, and how far an earlier run of it came: the hash of the delta's header, and up to where it can go on.
    pub(super) fn new(options: &PassOptions<'a>, size: ByteCount, earlier: Option<([u8; 32], u64)>) -> Self {
        let coverage = if options.diff.free.is_some_and(|map| !map.extents().is_empty()) {
            Coverage::Used
        } else {
            Coverage::Whole
        };
        let identity = &options.diff.identity;
        let offer = Offer {
            pair: options.pair.clone(),
            scsi_uuid: identity.scsi_uuid,
            source: identity.name.clone().unwrap_or_default().replace(char::is_control, " "),
            size,
            coverage,
            kind: options.diff.kind,
            resumed: None,
        };
        let (key, until) = earlier.map_or((None, 0), |(key, until)| (Some(key), until));
        let adaptive = options.adaptive;
        Self { offer, adaptive, state: Mutex::new(State { until, key, ..State::default() }), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` has something to say, or the pass has failed.
    fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> Result<T, SessionError> {
        let mut state = self.lock();
        loop {
            if state.failure.is_some() {
                return Err(broken_off(state.failure.as_ref()));
            }
            if let Some(ready) = ready(&mut state) {
                return Ok(ready);
            }
            if state.ended {
                return Err(broken_off(None));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    // What the one who finds the difference does.

    /// Waits until a target has accepted. `None` if it says that it has applied the pass that was to go on.
    pub(super) fn base(&self) -> Result<Option<Accept>, SessionError> {
        self.wait(|state| if state.applied_before { Some(None) } else { state.base.map(Some) })
    }

    /// Asks for the base's map and waits for it, packed.
    pub(super) fn map(&self) -> Result<Vec<u8>, SessionError> {
        let mut state = self.lock();
        state.map = MapState::Asked(Vec::new());
        let sender = state.sender.clone();
        drop(state);
        // If this fails, the next connection asks again.
        let _ = sender.map(|sender| sender.send(&Message::AskMap));
        self.wait(|state| match &mut state.map {
            MapState::Here(packed) => Some(std::mem::take(packed)),
            _ => None,
        })
    }

    /// Asks for values and waits for them.
    pub(super) fn ask(&self, runs: &[NodeRun]) -> Result<Vec<ChainingValue>, SessionError> {
        let mut state = self.lock();
        let id = state.next_question;
        state.next_question = id.wrapping_add(1);
        state.questions.insert(id, Question { runs: runs.to_vec(), answer: None });
        let sender = state.sender.clone();
        drop(state);
        let _ = sender.map(|sender| sender.send(&Message::AskValues { id, runs: runs.into() }));
        let answer = self.wait(|state| state.questions.get_mut(&id).and_then(|question| question.answer.take()));
        self.lock().questions.remove(&id);
        answer
    }

    /// Adds to the delta; waits while too much of it is not durable.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<usize, SessionError> {
        let mut full_since = None;
        let written = self.wait(|state| {
            let room = WINDOW - state.window.len();
            if room == 0 {
                full_since.get_or_insert_with(Instant::now);
                return None;
            }
            let now = room.min(bytes.len());
            state.window.extend(&bytes[..now]);
            if state.key.is_none() && state.window.len() >= 128 {
                // See FORMAT.md of the delta: the header's hash names the delta.
                let key: Vec<u8> = state.window.range(96..128).copied().collect();
                state.key = key.try_into().ok();
            }
            Some(now)
        })?;
        if let Some((adaptive, since)) = self.adaptive.zip(full_since) {
            adaptive.window_was_full(since.elapsed());
        }
        self.changed.notify_all();
        Ok(written)
    }

    /// All of the delta was written.
    pub(super) fn complete(&self, len: u64, root: Root) {
        self.lock().end = Some((len, root));
        self.changed.notify_all();
    }

    /// Waits until the target has applied the delta.
    pub(super) fn wait_until_done(&self) -> Result<Root, SessionError> {
        let root = self.wait(|state| state.done).map_err(|error| self.failure().unwrap_or(error))?;
        match self.lock().end {
            Some((_, expected)) if expected == root => Ok(root),
            _ => Err(SessionError::Breach("it says that it has a root which it was not sent")),
        }
    }

    /// Tells the target that nothing more comes, and why.
    pub(super) fn give_up(&self, why: String) {
        let sender = self.lock().sender.clone();
        if let Some(sender) = sender {
            let _ = sender.send(&Message::Refuse(why.into()));
        }
    }

    /// Nothing more is to be done; connections are let go.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.break_off();
        self.changed.notify_all();
    }

    /// Why the pass failed; the second time nothing.
    pub(super) fn failure(&self) -> Option<SessionError> {
        self.lock().failure.take()
    }

    pub(super) fn counts(&self) -> Counts {
        let state = self.lock();
        Counts { sent_again: state.sent_again, connections: state.connections, sending: state.sending }
    }

    /// The target has applied the delta that was offered: if it is one of an earlier run, whose end is not known here, then that is all. Returns
    /// whether it is.
    pub(super) fn was_applied_before(&self) -> bool {
        let mut state = self.lock();
        state.applied_before = state.base.is_none() && state.key.is_some();
        if state.applied_before {
            state.let_go();
        }
        self.changed.notify_all();
        state.applied_before
    }

    /// The link was busy for so long.
    pub(super) fn sent_for(&self, time: Duration) {
        self.lock().sending += time;
    }

    // What the one who keeps the connection does.

    /// There is a connection. It is broken at once if nobody needs it any more.
    pub(super) fn meeting(&self, breaker: &Breaker) {
        let mut state = self.lock();
        state.breaker = Some(Arc::clone(breaker));
        if state.ended || state.failure.is_some() {
            state.break_off();
        }
    }

    pub(super) fn offer(&self) -> Offer {
        let state = self.lock();
        let until = if state.base.is_some() { state.end() } else { state.until };
        let resumed = state.key.map(|delta| Resumed { delta, until });
        Offer { resumed, ..self.offer.clone() }
    }

    /// A target has accepted: takes over the connection, and asks again what was not answered.
    pub(super) fn connected(&self, sender: &Sender, accept: Accept) -> Result<(), SessionError> {
        let mut state = self.lock();
        if let Some(base) = state.base
            && (Accept { durable: 0, ..base }) != (Accept { durable: 0, ..accept })
        {
            let why = "the target has changed while it could not be reached: begin this pass again";
            return Err(SessionError::Changed(why));
        }
        let is_first = state.base.is_none();
        if accept.durable < state.durable {
            let why = "the target has lost what it had told to be durable: look at its retention drive, and begin this pass again";
            return Err(SessionError::Mismatch(why.into()));
        }
        if accept.durable > if is_first { state.until } else { state.end() } {
            return Err(SessionError::Breach("it has more of the delta than there is"));
        }
        if is_first {
            (state.durable, state.sent_most) = (accept.durable, accept.durable);
        }
        state.made_durable(accept.durable);
        state.base.get_or_insert(accept);
        state.sent = accept.durable;
        state.end_sent = false;
        state.connections += 1;
        state.sender = Some(sender.clone());
        let questions: Vec<_> = state
            .questions
            .iter()
            .filter(|(_, question)| question.answer.is_none())
            .map(|(id, question)| (*id, question.runs.clone()))
            .collect();
        let map_is_wanted = match &mut state.map {
            MapState::Asked(packed) => {
                packed.clear();
                true
            }
            _ => false,
        };
        drop(state);
        self.changed.notify_all();
        if map_is_wanted {
            sender.send(&Message::AskMap)?;
        }
        for (id, runs) in questions {
            sender.send(&Message::AskValues { id, runs: runs.into() })?;
        }
        Ok(())
    }

    /// The connection is no more.
    pub(super) fn disconnected(&self) {
        self.lock().break_off();
        self.changed.notify_all();
    }

    /// What is to be sent next over the connection with this number; waits for it for at most `patience`.
    pub(super) fn next(&self, connection: u64, patience: Duration) -> Next {
        let mut state = self.lock();
        let mut waited = false;
        loop {
            if state.ended || state.failure.is_some() || state.sender.is_none() || state.connections != connection {
                return Next::Over;
            }
            let start = usize::try_from(state.sent - state.durable).expect("the window fits in memory");
            if start < state.window.len() {
                let end = state.window.len().min(start + DATA_MAX);
                let bytes: Vec<u8> = state.window.range(start..end).copied().collect();
                let at = state.sent;
                state.sent += bytes.len() as u64;
                state.sent_again += state.sent_most.min(state.sent).saturating_sub(at);
                state.sent_most = state.sent_most.max(state.sent);
                return Next::Data(at, bytes);
            }
            if let Some((len, root)) = state.end
                && !state.end_sent
            {
                state.end_sent = true;
                return Next::End(len, root);
            }
            if waited {
                return Next::Idle;
            }
            // All that there is was sent: either the target has to make it durable, or there has to be more of it.
            let (is_link, is_over) = (state.window.len() == WINDOW, state.end.is_some());
            let since = Instant::now();
            let (later, timeout) = self.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
            state = later;
            waited = timeout.timed_out();
            if is_link {
                state.sending += since.elapsed();
            } else if let Some(adaptive) = self.adaptive.filter(|_| !is_over) {
                adaptive.window_was_empty(since.elapsed());
            }
        }
    }

    /// A message of the target's. `true` if it was the last one.
    pub(super) fn receive(&self, message: Message<'_>) -> Result<bool, SessionError> {
        let mut state = self.lock();
        match message {
            Message::Values { id, values } => {
                // What was asked over an earlier connection may be answered twice.
                if let Some(question) = state.questions.get_mut(&id) {
                    if question.runs.iter().map(|run| run.count).sum::<u64>() != values.len() as u64 {
                        return Err(SessionError::Breach("an answer has another number of values than was asked for"));
                    }
                    question.answer = Some(values.into_owned());
                }
            }
            Message::Map { last, packed } => {
                let MapState::Asked(all) = &mut state.map else {
                    return Err(SessionError::Breach("a map was sent that nobody asked for"));
                };
                if all.len() + packed.len() > PACKED_MAP_MAX || (packed.is_empty() && !last) {
                    return Err(SessionError::Breach("its map is larger than a map can be"));
                }
                all.extend_from_slice(&packed);
                if last {
                    state.map = MapState::Here(std::mem::take(all));
                }
            }
            Message::Durable { len } => {
                if len < state.durable || len > state.sent {
                    return Err(SessionError::Breach("it has more of the delta than it was sent"));
                }
                let more = state.made_durable(len);
                if let Some(adaptive) = self.adaptive {
                    adaptive.became_durable(more);
                }
            }
            Message::Done { root } => {
                if state.end.is_none() {
                    return Err(SessionError::Breach("it is done before the delta is complete"));
                }
                state.done = Some(root);
                state.let_go();
                self.changed.notify_all();
                return Ok(true);
            }
            Message::Alive => {}
            Message::Refuse(sentence) => return Err(SessionError::Refused(sentence.into_owned())),
            _ => return Err(SessionError::Breach("a message has no place here")),
        }
        drop(state);
        self.changed.notify_all();
        Ok(false)
    }

    /// The pass cannot go on.
    pub(super) fn fail(&self, error: SessionError) {
        let mut state = self.lock();
        state.failure.get_or_insert(error);
        state.break_off();
        self.changed.notify_all();
    }

    /// Waits for `time` unless the pass ends before. `true` if it has ended.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let state = self.lock();
        let over = |state: &mut State| !state.ended && state.failure.is_none();
        let (state, _) = self.changed.wait_timeout_while(state, time, over).unwrap_or_else(PoisonError::into_inner);
        state.ended || state.failure.is_some()
    }

    /// How far the pass is: what is durable, and how many questions were answered. What moves it on makes it grow.
    pub(super) fn moved(&self) -> (u64, u32) {
        let state = self.lock();
        (state.durable, state.next_question)
    }
}

impl State {
    /// Leaves the connection to be closed when its streams go, and not to be broken: the target has the end to write down, for which a command
    /// that carries it is given time.
    fn let_go(&mut self) {
        (self.sender, self.breaker) = (None, None);
    }

    /// Breaks the connection, so that nobody waits for it.
    fn break_off(&mut self) {
        self.sender = None;
        if let Some(breaker) = self.breaker.take() {
            breaker();
        }
    }

    /// How much of the delta there is.
    fn end(&self) -> u64 {
        self.durable + self.window.len() as u64
    }

    /// Returns how much more that is than before.
    fn made_durable(&mut self, len: u64) -> u64 {
        let more = len - self.durable;
        self.window.drain(..usize::try_from(more).expect("the window fits in memory"));
        self.durable = len;
        more
    }
}

/// For those who wait; the failure itself is for the one who asks last.
fn broken_off(failure: Option<&SessionError>) -> SessionError {
    let why = failure.map_or_else(|| "the pass has ended".into(), ToString::to_string);
    SessionError::Job(JobError::Interrupted(why))
}
