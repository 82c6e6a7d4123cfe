//! What a pass knows, shared by whoever works on it: what is to be sent and is not yet durable, and what was asked.

use super::{Finish, PassOptions, StoredDelta};
use crate::link::Sender;
use crate::message::{Accept, Message, Offer, Resumed};
use crate::wire::DATA_MAX;
use crate::{Adaptive, SessionError};
use failback_hashtree::{ChainingValue, Root};
use failback_orchestrate::{Coverage, JobError, NodeRun};
use failback_units::ByteCount;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of the delta that are held until the target has them durable. It is several times what the target flushes at once.
const WINDOW: usize = 32 << 20;

/// A pass.
pub(super) struct Pass<'a> {
    offer: Offer,
    /// What learns how fast the link is.
    adaptive: Option<&'a Adaptive>,
    /// When the source has done its part.
    finish: Finish,
    /// What is sent, if it is a delta in a file. Nothing is held in the window then.
    stored: Option<Arc<StoredDelta>>,
    /// Bytes of the source that have been compared, and that will be.
    compared: (AtomicU64, AtomicU64),
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
    /// The hash of the delta's header, once that is written.
    key: Option<[u8; 32]>,
    end: Option<(u64, Root)>,
    end_sent: bool,
    questions: BTreeMap<u32, Question>,
    next_question: u32,
    map: MapState,
    done: Option<Root>,
    /// The root of the delta, once a relay has it.
    relay_has: Option<Root>,
    /// An earlier run of this pass had sent all of it, and it has arrived: where.
    arrived_before: Option<Finish>,
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
    pub(super) fn of_disk(options: &PassOptions<'a>, size: ByteCount, earlier: Option<([u8; 32], u64)>) -> Self {
        let coverage = if options.diff.free.is_some_and(|map| !map.extents().is_empty()) {
            Coverage::Used
        } else {
            Coverage::Whole
        };
        let identity = &options.diff.identity;
        let offer = Offer::new(&options.pair, identity, size, coverage, options.diff.kind);
        let offer = Offer { mark: options.mark, ..offer };
        Self { adaptive: options.adaptive, ..Self::new(offer, options.finish, None, earlier) }
    }

    /// A pass whose delta is complete already.
    pub(super) fn of_stored(offer: Offer, delta: &Arc<StoredDelta>) -> Self {
        Self::new(offer, Finish::Applied, Some(Arc::clone(delta)), Some((*delta.key(), delta.len())))
    }

    /// No pass, but the same questions about a target.
    pub(super) fn of_questions(offer: Offer) -> Self {
        Self::new(offer, Finish::Applied, None, None)
    }

    fn new(offer: Offer, finish: Finish, stored: Option<Arc<StoredDelta>>, earlier: Option<([u8; 32], u64)>) -> Self {
        let (key, until) = earlier.map_or((None, 0), |(key, until)| (Some(key), until));
        let state = Mutex::new(State { until, key, ..State::default() });
        Self { offer, adaptive: None, finish, stored, state, compared: Default::default(), changed: Condvar::new() }
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

    /// Waits until a target has accepted. `None` if it says instead that all of the delta which was to go on has arrived.
    pub(super) fn base(&self) -> Result<Option<Accept>, SessionError> {
        self.wait(|state| match (state.arrived_before, state.done) {
            (None, None) => state.base.map(Some),
            _ => Some(None),
        })
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
        // Behind the end of a delta nobody answers. If there is another connection, it is asked there.
        let sender = state.sender.clone().filter(|_| !state.end_sent);
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

    /// Whether the end of the delta was sent over this connection, or a relay has all of it.
    pub(super) fn end_sent(&self) -> bool {
        self.lock().end_sent
    }

    /// Waits until the target has applied the delta, or a relay has it if that is enough. Says which.
    pub(super) fn wait_until_done(&self) -> Result<(Root, Finish), SessionError> {
        let reached = self.wait(|state| self.reached(state));
        let (root, finish) = reached.map_err(|error| self.failure().unwrap_or(error))?;
        if self.expected(&self.lock()) == Some(root) {
            Ok((root, finish))
        } else {
            Err(SessionError::Breach("it says that it has a root which it was not sent"))
        }
    }

    /// The root that the delta leads to, if that is known already.
    fn expected(&self, state: &State) -> Option<Root> {
        self.stored.as_ref().map(|stored| stored.root()).or(state.end.map(|(_, root)| root))
    }

    /// What the source waits for, once it is so.
    fn reached(&self, state: &State) -> Option<(Root, Finish)> {
        let relay_has = state.relay_has.filter(|_| self.finish == Finish::Stored);
        state.done.map(|root| (root, Finish::Applied)).or(relay_has.map(|root| (root, Finish::Stored)))
    }

    /// If an earlier run of this pass had sent all of it and it has arrived: where. The pass that was to go on is over then.
    pub(super) fn arrived_before(&self) -> Option<Finish> {
        self.lock().arrived_before
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
        let until = if state.base.is_some() && self.stored.is_none() { state.end() } else { state.until };
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
        if accept.durable > if is_first || self.stored.is_some() { state.until } else { state.end() } {
            return Err(SessionError::Breach("it has more of the delta than there is"));
        }
        if is_first {
            (state.durable, state.sent_most) = (accept.durable, accept.durable);
        }
        self.made_durable(&mut state, accept.durable);
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

    /// So many bytes will be compared.
    pub(super) fn comparing(&self, total: u64) {
        self.compared.1.store(total, Ordering::Relaxed);
    }

    /// So many more have been.
    pub(super) fn compared_more(&self, bytes: u64) {
        self.compared.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How far the comparison is, for people.
    pub(super) fn compared(&self) -> (u64, u64) {
        (self.compared.0.load(Ordering::Relaxed), self.compared.1.load(Ordering::Relaxed))
    }

    /// What is to be sent next over the connection with this number; waits for it for at most `patience`.
    pub(super) fn next(&self, connection: u64, patience: Duration) -> Next {
        let mut state = self.lock();
        let mut waited = false;
        loop {
            if state.ended || state.failure.is_some() || state.sender.is_none() || state.connections != connection {
                return Next::Over;
            }
            if let Some(bytes) = self.piece(&state) {
                let bytes = match bytes {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        state.failure.get_or_insert(error.into());
                        self.changed.notify_all();
                        return Next::Over;
                    }
                };
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
                let more = self.made_durable(&mut state, len);
                if let Some(adaptive) = self.adaptive {
                    adaptive.became_durable(more);
                }
            }
            Message::Stored { root } => {
                if self.is_over(&mut state, Finish::Stored)? {
                    return Ok(true);
                }
                if state.base.is_some_and(|base| !base.relayed) {
                    return Err(SessionError::Breach("it keeps what it was to apply, and is no relay"));
                }
                // It has everything, and the source may forget it.
                let end = state.end.map_or(state.durable, |(len, _)| len);
                self.made_durable(&mut state, end);
                (state.sent, state.end_sent) = (end, true);
                state.relay_has = Some(root);
                self.changed.notify_all();
                return Ok(self.finish == Finish::Stored);
            }
            Message::Done { root } => {
                if self.is_over(&mut state, Finish::Applied)? {
                    return Ok(true);
                }
                if self.expected(&state).is_none() {
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

    /// Whether what the target says is that an earlier run of this pass, which this one was to go on with, had sent all of it.
    fn is_over(&self, state: &mut State, reached: Finish) -> Result<bool, SessionError> {
        if state.end.is_some() || self.stored.is_some() {
            return Ok(false);
        }
        if state.base.is_some() || state.until == 0 {
            return Err(SessionError::Breach("it is done before the delta is complete"));
        }
        state.arrived_before = Some(reached);
        state.let_go();
        self.changed.notify_all();
        Ok(true)
    }

    /// A relay has the delta, and is to say when the target has it: takes over the connection.
    pub(super) fn waiting(&self, sender: &Sender) {
        let mut state = self.lock();
        state.connections += 1;
        state.sender = Some(sender.clone());
    }

    /// The next piece to be sent, if there is one.
    fn piece(&self, state: &State) -> Option<Result<Vec<u8>, JobError>> {
        if let Some(stored) = &self.stored {
            // Only what a target has accepted is sent.
            let (end, _) = state.end?;
            let left = usize::try_from(end - state.sent).unwrap_or(usize::MAX).min(DATA_MAX);
            return (left > 0).then(|| stored.read(state.sent, left));
        }
        let start = usize::try_from(state.sent - state.durable).expect("the window fits in memory");
        let end = state.window.len().min(start + DATA_MAX);
        (start < end).then(|| Ok(state.window.range(start..end).copied().collect()))
    }

    /// Returns how much more that is than before.
    fn made_durable(&self, state: &mut State, len: u64) -> u64 {
        let more = len - state.durable;
        if self.stored.is_none() {
            state.window.drain(..usize::try_from(more).expect("the window fits in memory"));
        }
        state.durable = len;
        more
    }

    /// The pass cannot go on.
    pub(super) fn fail(&self, error: SessionError) {
        let mut state = self.lock();
        state.failure.get_or_insert(error);
        state.break_off();
        self.changed.notify_all();
    }

    /// Somebody wants the pass to stop. What it waits for may have come already.
    pub(super) fn interrupt(&self) {
        let state = self.lock();
        if self.reached(&state).is_some() {
            return;
        }
        let why = if state.relay_has.is_some() {
            "the relay has this pass, durably, and sends it on by itself; whether the target has applied it is not known"
        } else if state.end_sent {
            "the pass is sent, and whether it was applied is not known; begin it again to find out, or to go on"
        } else {
            "the pass is unfinished; begin it again to go on"
        };
        drop(state);
        self.fail(JobError::Interrupted(why.into()).into());
    }

    /// Waits for `time` unless the pass ends before. `true` if it has ended.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let state = self.lock();
        let over = |state: &mut State| !state.ended && state.failure.is_none();
        let (state, _) = self.changed.wait_timeout_while(state, time, over).unwrap_or_else(PoisonError::into_inner);
        state.ended || state.failure.is_some()
    }

    /// Whether nothing more is to be done.
    pub(super) fn has_ended(&self) -> bool {
        let state = self.lock();
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
}

/// For those who wait; the failure itself is for the one who asks last.
fn broken_off(failure: Option<&SessionError>) -> SessionError {
    let why = failure.map_or_else(|| "the pass has ended".into(), ToString::to_string);
    SessionError::Job(JobError::Interrupted(why))
}
