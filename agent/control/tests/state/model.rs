//! Any sequence of changes, against a model of a few lines.

use crate::{Lab, NOW, group, pair, uuid};
use failback_control::state::{Direction, JobId, JobKind, JobQuery, NewPair, SourceDisk, State, Subject, TargetDisk};
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    AddPair { name: u8, source: u8, target: u8 },
    RemovePair(u8),
    Turn(u8, bool),
    AddGroup { name: u8, pairs: Vec<u8> },
    RemoveGroup(u8),
    Queue { of_group: bool, name: u8 },
    Start(prop::sample::Index),
    Done(prop::sample::Index),
    Cancel(prop::sample::Index),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_u8, 0..6_u8, 0..6_u8).prop_map(|(name, source, target)| Step::AddPair { name, source, target }),
        2 => (0..4_u8).prop_map(Step::RemovePair),
        1 => (0..4_u8, any::<bool>()).prop_map(|(name, send)| Step::Turn(name, send)),
        2 => (0..2_u8, prop::collection::vec(0..4_u8, 0..3)).prop_map(|(name, pairs)| Step::AddGroup { name, pairs }),
        1 => (0..2_u8).prop_map(Step::RemoveGroup),
        2 => (any::<bool>(), 0..4_u8).prop_map(|(of_group, name)| Step::Queue { of_group, name }),
        1 => any::<prop::sample::Index>().prop_map(Step::Start),
        1 => any::<prop::sample::Index>().prop_map(Step::Done),
        1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        1 => Just(Step::Restart),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Queued,
    Running,
    Interrupted,
    Over,
}

/// What there should be.
#[derive(Clone, Debug, Default)]
struct Model {
    /// Source, target, and whether it sends, by name.
    pairs: BTreeMap<u8, (u8, u8, bool)>,
    groups: BTreeMap<u8, Vec<u8>>,
    /// About a group, about which, and where it stands; job 1 is the first.
    jobs: Vec<(bool, u8, Phase)>,
}

impl Model {
    fn busy(&self, of_group: bool, name: u8) -> bool {
        let at_work = |phase| matches!(phase, Phase::Queued | Phase::Running);
        self.jobs.iter().any(|job| (job.0, job.1) == (of_group, name) && at_work(job.2))
    }

    fn group_of(&self, pair: u8) -> Option<u8> {
        self.groups.iter().find(|(_, pairs)| pairs.contains(&pair)).map(|(name, _)| *name)
    }

    fn has(&self, of_group: bool, name: u8) -> bool {
        if of_group { self.groups.contains_key(&name) } else { self.pairs.contains_key(&name) }
    }

    /// Takes a step, or says that it is refused.
    fn take(&mut self, step: &Step) -> bool {
        let job = |jobs: &[_], index: &prop::sample::Index| (!jobs.is_empty()).then(|| index.index(jobs.len()));
        match step {
            Step::AddPair { name, source, target } => {
                let used = |disk: &u8| self.pairs.values().any(|(a, b, _)| a == disk || b == disk);
                let may = source != target && !used(source) && !used(target) && !self.pairs.contains_key(name);
                if may {
                    self.pairs.insert(*name, (*source, *target, false));
                }
                may
            }
            Step::RemovePair(name) => {
                let may = self.group_of(*name).is_none() && !self.busy(false, *name);
                may && self.pairs.remove(name).is_some()
            }
            Step::Turn(name, send) => {
                let group_busy = self.group_of(*name).is_some_and(|group| self.busy(true, group));
                let may = !self.busy(false, *name) && !group_busy;
                let found = self.pairs.get_mut(name).filter(|_| may);
                found.map(|pair| pair.2 = *send).is_some()
            }
            Step::AddGroup { name, pairs } => {
                let twice = pairs.iter().enumerate().any(|(at, pair)| pairs[..at].contains(pair));
                let free = pairs.iter().all(|pair| self.pairs.contains_key(pair) && self.group_of(*pair).is_none());
                let may = !pairs.is_empty() && !twice && free && !self.groups.contains_key(name);
                if may {
                    self.groups.insert(*name, pairs.clone());
                }
                may
            }
            Step::RemoveGroup(name) => !self.busy(true, *name) && self.groups.remove(name).is_some(),
            Step::Queue { of_group, name } => {
                let may = self.has(*of_group, *name);
                if may {
                    self.jobs.push((*of_group, *name, Phase::Queued));
                }
                may
            }
            Step::Start(index) => job(&self.jobs, index).is_some_and(|at| {
                let (of_group, name, phase) = self.jobs[at];
                let may = matches!(phase, Phase::Queued | Phase::Interrupted) && self.has(of_group, name);
                if may {
                    self.jobs[at].2 = Phase::Running;
                }
                may
            }),
            Step::Done(index) => job(&self.jobs, index).is_some_and(|at| {
                let may = self.jobs[at].2 == Phase::Running;
                if may {
                    self.jobs[at].2 = Phase::Over;
                }
                may
            }),
            Step::Cancel(index) => job(&self.jobs, index).is_some_and(|at| {
                let may = self.jobs[at].2 != Phase::Over;
                self.jobs[at].2 = Phase::Over;
                may
            }),
            Step::Restart => {
                self.jobs.iter_mut().filter(|job| job.2 == Phase::Running).for_each(|job| job.2 = Phase::Interrupted);
                true
            }
        }
    }
}

fn new_pair(name: u8, source: u8, target: u8) -> NewPair {
    NewPair { source: SourceDisk::Scsi(uuid(source)), target: TargetDisk::Scsi(uuid(target)), ..pair(name) }
}

fn subject(of_group: bool, name: u8) -> Subject {
    if of_group { Subject::Group(name.to_string()) } else { Subject::Pair(pair(name).name) }
}

/// Takes the step for real.
fn take(state: &mut State, jobs: usize, step: &Step) -> bool {
    let job = |index: &prop::sample::Index| {
        let number = if jobs == 0 { 0 } else { index.index(jobs) + 1 };
        JobId::new(i64::try_from(number).unwrap())
    };
    match step {
        Step::AddPair { name, source, target } => state.add_pair(&new_pair(*name, *source, *target), NOW),
        Step::RemovePair(name) => state.remove_pair(&pair(*name).name),
        Step::Turn(name, send) => {
            let direction = if *send { Direction::Send } else { Direction::Receive };
            state.set_direction(&pair(*name).name, direction)
        }
        Step::AddGroup { name, pairs } => state.add_group(&group(&name.to_string(), pairs), NOW),
        Step::RemoveGroup(name) => state.remove_group(&name.to_string(), false),
        Step::Queue { of_group, name } => {
            state.queue_job(JobKind::Replicate, &subject(*of_group, *name), NOW).map(|_| ())
        }
        Step::Start(index) => state.start_job(job(index), NOW),
        Step::Done(index) => state.job_done(job(index), NOW),
        Step::Cancel(index) => state.job_cancelled(job(index), NOW),
        Step::Restart => Ok(()),
    }
    .is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_sequence_of_changes(steps in prop::collection::vec(step(), 1..40)) {
        let lab = Lab::new();
        let mut state = lab.open();
        let mut model = Model::default();
        for step in steps {
            let jobs = model.jobs.len();
            let expected = model.take(&step);
            if matches!(step, Step::Restart) {
                drop(state);
                state = lab.open();
            }
            prop_assert_eq!(take(&mut state, jobs, &step), expected, "{:?} {:?}", step, model);

            let direction = |send| if send { Direction::Send } else { Direction::Receive };
            let pairs: Vec<_> = model.pairs.iter().map(|(name, (source, target, send))| {
                let is = NewPair { direction: direction(*send), ..new_pair(*name, *source, *target) };
                (is, model.group_of(*name).map(|group| group.to_string()))
            }).collect();
            let found: Vec<_> = state.pairs().unwrap().into_iter().map(|pair| (pair.is, pair.group)).collect();
            prop_assert_eq!(found, pairs);
            let groups: Vec<_> = model.groups.iter().map(|(name, pairs)| group(&name.to_string(), pairs)).collect();
            prop_assert_eq!(state.groups().unwrap(), groups);
            let found = state.jobs(&JobQuery::default()).unwrap();
            let found: Vec<_> = found.iter().rev().map(|job| (job.subject.clone(), job.state.as_str())).collect();
            let jobs: Vec<_> = model.jobs.iter().map(|(of_group, name, phase)| (subject(*of_group, *name), *phase)).collect();
            prop_assert_eq!(found.len(), jobs.len());
            for ((found, state), (wanted, phase)) in found.into_iter().zip(jobs) {
                prop_assert_eq!(found, wanted);
                let fits = match phase {
                    Phase::Queued => state == "queued",
                    Phase::Running => state == "running",
                    Phase::Interrupted => state == "interrupted",
                    Phase::Over => matches!(state, "done" | "cancelled"),
                };
                prop_assert!(fits, "{} {:?}", state, phase);
            }
        }
    }
}
