//! The target's tree as a relay knows it: what the disk will be when everything that waits is applied.

use crate::pair::{Pair, PairState, Token};
use failback_hashtree::{ChainingValue, Frontier, LeafHasher, Node, Root, Shape};
use failback_orchestrate::{BaseTree, Coverage, FreeBlocks, JobError, NodeRun, StoredTree};
use failback_units::BlockIndex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Values in a question to the target.
const VALUES_AT_ONCE: u64 = 4096;
/// How often a session that waits for the target looks whether its source is still there.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The tree of one session. What is stored is answered from the file. Values of blocks below come from the cache; what is not
/// there is asked from the target, proven by the stored value above it, and kept.
pub(crate) struct RelayBase {
    pair: Arc<Pair>,
    tree: Arc<StoredTree>,
    token: Arc<Token>,
    generation: u64,
    /// How often the target had refused before.
    refusals: u64,
}

/// Stored nodes by their first blocks, with the values of the blocks below them.
type Below = BTreeMap<BlockIndex, Vec<ChainingValue>>;

impl RelayBase {
    pub(crate) fn new(
        pair: &Arc<Pair>,
        tree: Arc<StoredTree>,
        token: &Arc<Token>,
        generation: u64,
        refusals: u64,
    ) -> Self {
        Self { pair: Arc::clone(pair), tree, token: Arc::clone(token), generation, refusals }
    }

    pub(crate) const fn tree(&self) -> &Arc<StoredTree> {
        &self.tree
    }

    /// The blocks below the stored nodes that these lie in.
    fn below(&self, hasher: &mut LeafHasher, runs: &[NodeRun]) -> Result<Below, JobError> {
        let (mut below, mut missing) = (Below::new(), Vec::new());
        let mut seen = None;
        for run in runs {
            let end = run.end().unwrap_or(run.first);
            let mut block = run.first;
            while block < end {
                let Some((node, value)) = self.tree.stored_above(block)? else { break };
                block = node.end().unwrap_or(end);
                if seen == Some(node.first) || below.contains_key(&node.first) {
                    continue;
                }
                seen = Some(node.first);
                match self.known(hasher, node, value) {
                    Some(values) => drop(below.insert(node.first, values)),
                    None => missing.push((node, value)),
                }
            }
        }
        missing.sort_unstable_by_key(|(node, _)| node.first);
        missing.dedup();
        while !missing.is_empty() {
            let few = usize::try_from(VALUES_AT_ONCE / 16).unwrap_or(1).min(missing.len());
            let rest = missing.split_off(few);
            self.ask(hasher, missing, &mut below)?;
            missing = rest;
        }
        Ok(below)
    }

    /// What is known here of the blocks below a node: from the cache, or because it is all zero.
    fn known(&self, hasher: &mut LeafHasher, node: Node, value: ChainingValue) -> Option<Vec<ChainingValue>> {
        if let Some(values) = self.pair.leaves.get(node, value, hasher) {
            return Some(values);
        }
        let shape = self.tree.shape();
        let zero = hasher.zero_node(shape, node) == value;
        zero.then(|| blocks_of(node).map(|block| hasher.zero_node(shape, Node::leaf(block))).collect())
    }

    /// Asks the target for the blocks below some nodes.
    ///
    /// It answers of the state that it has now. While deltas wait, that may be another one than this tree is of; what does not fit is
    /// asked again when they are applied.
    fn ask(
        &self,
        hasher: &mut LeafHasher,
        mut missing: Vec<(Node, ChainingValue)>,
        below: &mut Below,
    ) -> Result<(), JobError> {
        loop {
            let is_settled = {
                let state = self.pair.lock();
                state.check(&self.pair.name, self.generation)?;
                state.waiting.is_empty()
            };
            let runs: Vec<_> = missing
                .iter()
                .map(|(node, _)| NodeRun { first: node.first, level: 0, count: node.count().get() })
                .collect();
            let answer = self.pair.questions.ask(&runs, &|| self.is_cancelled());
            let Some(answer) = answer else { return Err(self.cancelled()) };
            let mut values = answer.into_iter();
            missing.retain(|(node, value)| {
                let count = usize::try_from(node.count().get()).unwrap_or(0);
                let found: Vec<_> = values.by_ref().take(count).collect();
                let fits = found.len() == count && hasher.join(&found) == *value;
                if fits {
                    self.pair.leaves.put(*node, &found);
                    below.insert(node.first, found);
                }
                !fits
            });
            let Some((node, _)) = missing.first() else { return Ok(()) };
            if is_settled {
                let state = self.pair.lock();
                state.check(&self.pair.name, self.generation)?;
                return Err(JobError::Mismatch(format!(
                    "the target does not hold at block {} what its own tree says: something else has written to it; have its \
                     tree made anew and begin again",
                    node.first.get()
                )));
            }
            self.wait_until_applied()?;
        }
    }

    fn wait_until_applied(&self) -> Result<(), JobError> {
        let mut state = self.pair.lock();
        while !state.waiting.is_empty() {
            self.check(&state)?;
            if self.token.is_cancelled() {
                return Err(JobError::Interrupted("the source has gone".into()));
            }
            state = self.pair.wait(state, LOOK_EVERY);
        }
        Ok(())
    }

    fn is_cancelled(&self) -> bool {
        self.token.is_cancelled() || self.check(&self.pair.lock()).is_err()
    }

    fn cancelled(&self) -> JobError {
        let gone = || JobError::Interrupted("the source has gone".into());
        self.check(&self.pair.lock()).err().unwrap_or_else(gone)
    }

    /// Whether it makes sense to go on waiting for the target.
    fn check(&self, state: &PairState) -> Result<(), JobError> {
        state.check(&self.pair.name, self.generation)?;
        state.check_target(&self.pair.name, self.refusals)
    }
}

impl BaseTree for RelayBase {
    fn shape(&self) -> Shape {
        self.tree.shape()
    }

    fn root(&self) -> Root {
        self.tree.root()
    }

    fn coverage(&self) -> Coverage {
        self.tree.coverage()
    }

    fn free(&self) -> &FreeBlocks {
        self.tree.free()
    }

    fn values(&self, nodes: &[NodeRun]) -> Result<Vec<ChainingValue>, JobError> {
        let mut hasher = LeafHasher::new();
        let mut stored = Vec::new();
        for run in nodes {
            self.tree.check(run)?;
            stored.push(self.tree.values_of(&mut hasher, run)?);
        }
        let lower: Vec<_> =
            nodes.iter().zip(&stored).filter(|(_, stored)| stored.is_none()).map(|(run, _)| *run).collect();
        let below = self.below(&mut hasher, &lower)?;
        let mut values = Vec::new();
        for (run, stored) in nodes.iter().zip(stored) {
            match stored {
                Some(stored) => values.extend(stored),
                None => {
                    for node in run.nodes() {
                        values.push(value_below(&mut hasher, &below, node)?);
                    }
                }
            }
        }
        Ok(values)
    }
}

/// The value of a node from the blocks below the stored nodes around it.
fn value_below(hasher: &mut LeafHasher, below: &Below, node: Node) -> Result<ChainingValue, JobError> {
    let leaves = blocks_of(node).map(|block| {
        let (first, values) = below.range(..=block).next_back()?;
        let at = usize::try_from(block.get() - first.get()).ok()?;
        values.get(at).copied()
    });
    let missing = || JobError::Refused(format!("no nodes of level {} begin at block {}", node.level, node.first.get()));
    let leaves: Vec<_> = leaves.collect::<Option<_>>().ok_or_else(missing)?;
    let mut joined = Frontier::new(node.level);
    joined.push_leaves(hasher, node.first, &leaves);
    let value = joined.take().next().map(|(_, value)| value);
    value.ok_or_else(missing)
}

fn blocks_of(node: Node) -> impl Iterator<Item = BlockIndex> {
    let first = node.first.get();
    (first..first.saturating_add(node.count().get())).map(BlockIndex::new)
}
