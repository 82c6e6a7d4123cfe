//! One connection of a source.

use crate::base::RelayBase;
use crate::files::{Waiting, failed};
use crate::leaves::Renewal;
use crate::pair::{Breaker, Pair, Token};
use crate::{Gate, PairRules, Relay};
use failback_delta::{DeltaReader, Item, Proof};
use failback_hashtree::Root;
use failback_orchestrate::{BaseTree, HumanBytes, JobError, StoredTree, advance_tree_seen};
use failback_replication::{Offer, Offered, Replica, Spool};
use std::fs::File;
use std::io::BufReader;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// How often a session that waits looks whether it still should.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A replica without a disk: what arrives waits for the target.
pub(crate) struct Session<'a> {
    relay: &'a Relay,
    gate: &'a dyn Gate,
    breaker: Breaker,
    pair: Option<Begun>,
}

/// A session that has named its pair and was admitted.
struct Begun {
    pair: Arc<Pair>,
    id: u64,
    token: Arc<Token>,
    generation: u64,
    /// How often the target had refused before.
    refusals: u64,
    rules: PairRules,
    offer: Offer,
    base: Option<RelayBase>,
    /// The number of the delta whose end the source may wait for.
    stored: Option<u64>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let arrived = self.pair.spooled();
        let mut state = self.pair.lock();
        if state.session.as_ref().is_some_and(|(id, _, _)| *id == self.id) {
            state.session = None;
            (state.is_held, state.wants_tree) = (false, false);
            drop(state);
            self.pair.source_left(arrived);
        }
        self.pair.notify();
    }
}

impl<'a> Session<'a> {
    pub(crate) fn new(relay: &'a Relay, gate: &'a dyn Gate, breaker: Breaker) -> Self {
        Self { relay, gate, breaker, pair: None }
    }

    fn begun(&self) -> &Begun {
        self.pair.as_ref().expect("a session begins with an offer")
    }

    /// Another connection has come, or the relay stops. The source is not refused but loses its connection: it may come again.
    fn superseded(&self) -> JobError {
        (self.breaker)();
        JobError::Interrupted("another connection has come for this pair, or the relay stops".into())
    }

    /// Ends the session that the pair has, if there is one, and takes its place. The newest wins: the connection of the one before
    /// may be dead without anybody knowing.
    fn take_over(&self, pair: &Arc<Pair>) -> Result<(u64, Arc<Token>, u64, u64), JobError> {
        let mut state = pair.lock();
        state.wanted += 1;
        let id = state.wanted;
        loop {
            if let Some(broken) = &state.broken {
                return Err(JobError::Refused(broken.clone()));
            }
            if self.relay.is_stopping() || state.wanted != id {
                return Err(self.superseded());
            }
            let Some((_, token, breaker)) = &state.session else { break };
            // The connection first, so that nobody is refused.
            breaker();
            token.supersede();
            state = pair.wait(state, LOOK_EVERY);
        }
        let token = Arc::<Token>::default();
        state.session = Some((id, Arc::clone(&token), Arc::clone(&self.breaker)));
        Ok((id, token, state.generation, state.refusals))
    }

    /// Waits until the tree is here, if it has to be asked for.
    fn tree(&self, begun: &Begun) -> Result<Arc<StoredTree>, JobError> {
        let until = Instant::now() + self.relay.options().patience;
        let mut state = begun.pair.lock();
        loop {
            state.check(&begun.pair.name, begun.generation)?;
            if let Some(tree) = &state.tree {
                return Ok(Arc::clone(tree));
            }
            if begun.token.is_superseded() {
                return Err(self.superseded());
            }
            state.check_target(&begun.pair.name, begun.refusals)?;
            if Instant::now() >= until {
                let why = state.last_error.clone().unwrap_or_else(|| "the target has not answered yet".into());
                return Err(JobError::Refused(format!(
                    "this relay does not know yet what the target of pair {} has ({why}): try again when it can be reached",
                    begun.pair.name
                )));
            }
            state.wants_tree = true;
            self.relay.poke();
            state = begun.pair.wait(state, LOOK_EVERY);
        }
    }

    /// Proves the delta in the file of the spool: that it leads from the base that the source was told to `expected`, and who
    /// signed it.
    fn prove(begun: &Begun, tree: &StoredTree, expected: Root) -> Result<Waiting, JobError> {
        let path = begun.pair.files.arriving();
        let file = File::open(&path).map_err(|error| failed("read", &path, error))?;
        let mut delta = DeltaReader::open(BufReader::with_capacity(1 << 20, file))?;
        let (header, key) = (delta.header().clone(), *delta.key());
        let starts_here = header.base_root == tree.root()
            && header.shapes.base == tree.shape()
            && header.base_coverage == tree.coverage();
        if !starts_here || header.shapes.result.size() != begun.offer.size {
            let why = "this delta does not start from the base that was told, or leads to a disk of another size than was offered: \
                       begin this pass again";
            return Err(JobError::Refused(why.into()));
        }
        let mut proof = Proof::new(&header.shapes);
        let trailer = loop {
            match delta.next_item()? {
                Item::Frame(frame) => proof.absorb(&frame.table),
                Item::Trailer(trailer) => break trailer,
            }
        };
        let proven = proof.finish(&header, &trailer)?;
        if proven.result != expected {
            let why = "this delta does not lead to the root that its end says: begin this pass again";
            return Err(JobError::Refused(why.into()));
        }
        let PairRules { signer, signed } = begun.rules;
        if signed && trailer.signed_by.is_none() {
            return Err(JobError::Untrusted(format!(
                "this delta of pair {} is not signed, and a target takes from a relay only what its source has signed: send it with \
                 --signing-key",
                begun.pair.name
            )));
        }
        if signer.is_some() && trailer.signed_by != signer {
            return Err(JobError::Untrusted(format!(
                "pair {} takes only what its source has signed with the key that is known here, and this delta is not: sign it with \
                 that key, or give the pair the right one",
                begun.pair.name
            )));
        }
        let since = SystemTime::now();
        Ok(Waiting { number: 0, key, root: proven.result, len: delta.position(), since })
    }
}

impl Replica for Session<'_> {
    fn offer(&mut self, offer: &Offer) -> Result<Offered, JobError> {
        let rules = self.relay.hooks().pair(&offer.pair);
        let no_pair = || {
            JobError::Refused(format!("this relay knows no pair {}: add it here and on the master target", offer.pair))
        };
        let rules = rules.ok_or_else(no_pair)?;
        self.gate.admit(offer)?;
        let largest = self.relay.options().largest_disk;
        if offer.size > largest {
            return Err(JobError::Refused(format!(
                "the source has {}, and this relay takes disks of at most {}: raise that limit",
                HumanBytes(offer.size.get()),
                HumanBytes(largest.get())
            )));
        }
        let pair = self.relay.pair(&offer.pair)?;
        let (id, token, generation, refusals) = self.take_over(&pair)?;
        let mut begun =
            Begun { pair, id, token, generation, refusals, rules, offer: offer.clone(), base: None, stored: None };
        let known = {
            let mut state = begun.pair.lock();
            state.offer = Some(Offer { resumed: None, ..offer.clone() });
            offer.resumed.and_then(|resumed| {
                let waits = state.waiting.iter().find(|waiting| waiting.key == resumed.delta);
                let waits = waits.map(|waiting| (waiting.number, Offered::Stored(waiting.root)));
                let applied = state.applied.filter(|applied| applied.delta == resumed.delta);
                waits.or(applied.map(|applied| (applied.number, Offered::Applied(applied.root))))
            })
        };
        let answer = if let Some((number, answer)) = known {
            begun.stored = Some(number);
            answer
        } else {
            let tree = self.tree(&begun)?;
            begun.base = Some(RelayBase::new(&begun.pair, tree, &begun.token, begun.generation, begun.refusals));
            Offered::Ready
        };
        self.pair = Some(begun);
        Ok(answer)
    }

    fn base(&self) -> Result<&dyn BaseTree, JobError> {
        let base = self.pair.as_ref().and_then(|begun| begun.base.as_ref());
        let none = || JobError::Refused("nothing was offered yet: begin with an offer".into());
        base.map(|base| base as &dyn BaseTree).ok_or_else(none)
    }

    fn spool(&self) -> &Mutex<Spool> {
        &self.begun().pair.spool
    }

    fn apply(&mut self, expected: Root) -> Result<Root, JobError> {
        let begun = self.pair.as_mut().expect("a session begins with an offer");
        let tree = begun.base.as_ref().map(|base| Arc::clone(base.tree()));
        let tree = tree.ok_or_else(|| JobError::Refused("nothing was offered yet: begin with an offer".into()))?;
        let waiting = Self::prove(begun, &tree, expected)?;
        let (pair, path) = (&begun.pair, begun.pair.files.arriving());
        let delta = File::open(&path).map_err(|error| failed("read", &path, error))?;
        let shape = DeltaReader::open(BufReader::new(&delta))?.header().shapes.result;
        let mut renewal = Renewal::new(&pair.leaves, &tree, shape);
        let delta = File::open(&path).map_err(|error| failed("read", &path, error))?;
        let delta = BufReader::with_capacity(1 << 20, delta);
        let next = pair.files.next_tree();
        let root = advance_tree_seen(&tree, delta, &next, &mut |blocks, values| renewal.take(blocks, values))?;
        renewal.flush();
        if root != expected {
            return Err(JobError::Mismatch(
                "the tree that follows from this delta has another root: begin again".into(),
            ));
        }
        begun.stored = Some(pair.store(begun.generation, waiting)?);
        // A connection that only asks makes way for the delta.
        pair.questions.wake();
        self.relay.poke();
        Ok(root)
    }

    fn relays(&self) -> bool {
        true
    }

    fn room(&self, more: u64, patience: Duration) -> Result<bool, JobError> {
        let begun = self.begun();
        begun.pair.lock().check(&begun.pair.name, begun.generation)?;
        if begun.token.is_superseded() {
            return Err(self.superseded());
        }
        let ledger = self.relay.ledger();
        let room = ledger.reserve(&begun.pair.name, begun.pair.spooled(), more, patience);
        let room = room.map_err(|_| {
            JobError::Refused(format!(
                "this delta is longer than the {} that the relay keeps for one pair: raise that limit, or send it to the master \
                 target itself",
                HumanBytes(ledger.limits().pair)
            ))
        })?;
        let mut state = begun.pair.lock();
        state.is_held = !room;
        if !room && !state.waiting.is_empty() {
            // Room is made by what the target takes.
            state.check_target(&begun.pair.name, begun.refusals)?;
        }
        Ok(room)
    }

    fn applied(&self, root: Root, patience: Duration) -> Result<Option<Root>, JobError> {
        let begun = self.begun();
        let until = Instant::now() + patience;
        let mut state = begun.pair.lock();
        loop {
            state.check(&begun.pair.name, begun.generation)?;
            if begun.token.is_superseded() {
                return Err(self.superseded());
            }
            let number = begun.stored.unwrap_or(u64::MAX);
            let waits = state.waiting.iter().any(|waiting| waiting.number == number);
            if !waits {
                let done = state.applied.is_some_and(|applied| applied.number >= number);
                let gone =
                    || JobError::Refused("this delta waits no more, and was not applied: begin this pass again".into());
                return if done { Ok(Some(root)) } else { Err(gone()) };
            }
            state.check_target(&begun.pair.name, begun.refusals)?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            state = begun.pair.wait(state, left);
        }
    }

    fn no_more_questions(&self) {
        self.begun().token.no_more_questions();
        self.begun().pair.notify();
    }
}
