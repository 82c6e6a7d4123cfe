//! Power losses at every change that a command makes, and in what comes after them.

use super::drive::{Drive, LeftOut, Saves, Seen, bytes_of, record_again};
use super::judge::Way;
use super::lab::{Case, Lab};
use failback_blockio::sim::Snapshot;
use failback_orchestrate::{Directory, Pending};
use std::collections::HashSet;
use std::sync::Arc;

/// A command that was interrupted, before it is known what the power loss left.
pub struct Crashed {
    down: Snapshot,
    saves: Saves,
    done: bool,
}

/// How much was tried, and what went wrong.
#[derive(Debug, Default)]
pub struct Tally {
    /// Power losses.
    pub states: u64,
    /// Those of the first kind that left something else than the others.
    pub distinct: u64,
    pub violations: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, more: Self) {
        self.states += more.states;
        self.distinct += more.distinct;
        self.violations.extend(more.violations);
    }
}

/// Chance that depends on its arguments alone.
fn dice(n: u64, seed: u64, sides: u64) -> u64 {
    let bytes = [n.to_le_bytes(), seed.to_le_bytes()].concat();
    u64::from_le_bytes(*blake3::hash(&bytes).as_bytes().first_chunk().unwrap()) % sides
}

impl Lab {
    /// Cuts the power at change `n` of the command, or when it has ended.
    pub fn crash(&self, n: u64) -> Crashed {
        let world = &self.trail.world;
        self.start_over(n);
        world.crash_after(n);
        let drive = Drive::new(&self.trail.directory, self.left_out);
        let target = self.left_out.target(&self.trail.target);
        let done = self.run_command(&*target, Arc::clone(&drive) as Arc<dyn Directory>).is_ok();
        world.crash_now();
        Crashed { down: world.snapshot(), saves: drive.saves(), done }
    }

    /// Lets the power come back.
    fn reboot(&self, crashed: &Crashed, seed: u64) {
        self.trail.world.restore(&crashed.down);
        self.trail.world.reseed(seed);
        self.trail.world.reboot();
    }

    /// Cuts the power at every change of the command, lets `seeds` outcomes come of each, and goes every way on from those that
    /// differ.
    pub fn tally(&self, seeds: u64) -> Tally {
        self.tally_at(1..=self.total + 1, seeds)
    }

    /// The same at some of the changes.
    pub fn tally_at(&self, at: impl Iterator<Item = u64>, seeds: u64) -> Tally {
        let (mut tally, mut known) = (Tally::default(), HashSet::new());
        for n in at {
            let crashed = self.crash(n);
            for seed in 0..seeds {
                let _told = Told { case: self.case, n, seed };
                tally.states += 1;
                self.reboot(&crashed, seed);
                let wrong = self.first_look(&crashed).and_then(|()| {
                    if !known.insert(self.digest()) {
                        return Ok(());
                    }
                    tally.distinct += 1;
                    self.go_on(n, seed, &mut tally.states)
                });
                if let Err(wrong) = wrong {
                    let case = self.case;
                    tally.violations.push(format!("{case:?}.lab().state({n}, {seed}) of {}: {wrong}", self.total));
                }
            }
        }
        tally
    }

    /// One state of those, for whoever wants to see it again.
    pub fn state(&self, n: u64, seed: u64) -> Result<(), String> {
        let crashed = self.crash(n);
        self.reboot(&crashed, seed);
        self.first_look(&crashed)?;
        self.go_on(n, seed, &mut 0)
    }

    /// How many changes the command makes.
    pub fn changes(&self) -> u64 {
        self.total
    }

    /// What the disks hold that anybody can see.
    fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.trail.target.content());
        let mut names = self.trail.directory.names().unwrap();
        names.sort();
        for name in names {
            hasher.update(name.as_bytes()).update(&[0]);
            hasher.update(&bytes_of(&*self.trail.directory, &name).unwrap());
        }
        hasher.finalize()
    }

    /// What is found right after the power loss, compared with what the program had been told by then.
    fn first_look(&self, crashed: &Crashed) -> Result<(), String> {
        let found = Seen::now(&self.trail.directory)?;
        let Saves { begun, done } = crashed.saves;
        let possible = &self.history[done..=begun];
        if !possible.iter().any(|known| known.facts == found.facts) {
            let place = self.history.iter().position(|known| known.facts == found.facts);
            return Err(format!("catalogue {place:?} of the history instead of {done} to {begun}"));
        }
        if !possible.contains(&found) {
            return Err("a file that the catalogue names is not what was written".into());
        }
        if crashed.done && Some(&found) != self.history.last() {
            return Err("the command had said that it was done".into());
        }
        self.look(&found)
    }

    /// Goes every way on, and some of them with another power loss.
    fn go_on(&self, n: u64, seed: u64, states: &mut u64) -> Result<(), String> {
        let found = Seen::now(&self.trail.directory)?;
        let again = self.left_out == LeftOut::FirstRecord;
        if again {
            self.record_again(&found);
        }
        self.trail.world.reseed(seed);
        let up = self.trail.world.snapshot();
        for (number, way) in (0..).zip(self.ways(&found, seed)) {
            self.trail.world.restore(&up);
            self.take(&way, dice(n, seed.wrapping_add(number), 8) == 0)?;
        }
        self.trail.world.restore(&up);
        if again { Ok(()) } else { self.struggle(n, seed, states) }
    }

    /// Goes on through several power losses, now this way, now that way, until one of them is through.
    fn struggle(&self, n: u64, seed: u64, states: &mut u64) -> Result<(), String> {
        for round in 0..4 {
            let found = Seen::now(&self.trail.directory)?;
            let ways = self.ways(&found, seed);
            let chance = |what: u64, sides: u64| dice(n, seed * 64 + round * 8 + what, sides);
            let picked = usize::try_from(chance(0, ways.len() as u64)).unwrap();
            let way = &ways[picked];
            let Some(command) = way.command else { break };
            self.trail.world.reseed(chance(1, u64::MAX));
            self.trail.world.crash_after(1 + chance(2, 60));
            let done = self.run(command).is_ok();
            self.trail.world.reboot();
            *states += 1;
            let told = |wrong| format!("after another power loss in {command:?}, round {round}: {wrong}");
            let found = Seen::now(&self.trail.directory).map_err(told)?;
            self.look(&found).map_err(told)?;
            if done {
                return self.take(&Way { command: None, end: way.end.clone() }, false).map_err(told);
            }
        }
        let found = Seen::now(&self.trail.directory)?;
        let ways = self.ways(&found, seed);
        let picked = usize::try_from(dice(n, seed, ways.len() as u64)).unwrap();
        self.take(&ways[picked], false).map_err(|wrong| format!("after several power losses: {wrong}"))
    }

    /// What a program would do that had forgotten that it has recorded already.
    fn record_again(&self, found: &Seen) {
        let pending = found.facts.as_ref().and_then(|facts| facts.pending.as_ref());
        if let Some(Pending::Apply(apply)) = pending {
            let delta = &self.trail.deltas[usize::try_from(apply.result.id.0).unwrap() - 1];
            record_again(&self.trail.directory, &self.trail.target, delta, &apply.inverse);
        }
    }
}

/// Says which state it was that a panic ended.
struct Told {
    case: Case,
    n: u64,
    seed: u64,
}

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was {:?}.lab().state({}, {})", self.case, self.n, self.seed);
        }
    }
}
