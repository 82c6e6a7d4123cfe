//! Devices that fail at any operation of a command, and drives that are full.

use super::crash::Tally;
use super::drive::{Drive, Saves, Seen};
use super::errno_of;
use super::lab::{Command, Lab};
use failback_blockio::sim::{Event, EventKind, FaultOn, SimDisk};
use failback_orchestrate::{Directory, JobError, Outcome};
use std::sync::Arc;

pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;

/// Whether something was done after a failure that must not be done any more.
fn no_retry(failed: &Event, later: &[Event]) -> Result<(), String> {
    let on_target = failed.disk.as_ref() == "target";
    let mut later = later.iter().filter(|event| event.errno.is_none() && event.kind != EventKind::Read);
    let again = match failed.kind {
        // What a failed flush has lost, no other one brings back.
        EventKind::Flush => later.any(|event| event.disk == failed.disk || event.disk.as_ref() == "target"),
        EventKind::Write | EventKind::Zero if on_target => {
            later.any(|event| event.disk.as_ref() == "target" && event.kind == EventKind::Flush)
        }
        _ => false,
    };
    if again { Err(format!("after a failed {:?} it went on", failed.kind)) } else { Ok(()) }
}

/// What the machine does after a command that failed, before the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// All that is in caches is read anew.
    DropsCaches,
    /// The target is read anew, as direct reads do; the retention drive's files stay in the cache, with what was never written.
    KeepsFiles,
    LosesPower,
}

impl Lab {
    /// Lets each operation of a kind fail in turn, on whichever disk it is, and goes every way on.
    pub fn faults(&self, on: FaultOn, errno: i32) -> Tally {
        let tried = (1..).map_while(|n| Some((n, self.fault(n, on, errno)?)));
        self.tally_of(tried, |n| format!("fault({n}, {on:?}, {errno})"))
    }

    /// Runs the command with less and less of the room on the retention drive missing, until all of it is there.
    pub fn full(&self, step: usize) -> Tally {
        let tried = (0..).step_by(step).map_while(|room| Some((room, self.full_after(room)?)));
        self.tally_of(tried, |room| format!("full_after({room})"))
    }

    fn tally_of(&self, tried: impl Iterator<Item = (u64, Result<(), String>)>, call: impl Fn(u64) -> String) -> Tally {
        let mut tally = Tally::default();
        for (n, result) in tried {
            tally.states += 1;
            if let Err(wrong) = result {
                tally.violations.push(format!("{:?}.lab().{}: {wrong}", self.case, call(n)));
            }
        }
        tally
    }

    /// Lets operation `n` of a kind fail. None if there are not so many.
    pub fn fault(&self, n: u64, on: FaultOn, errno: i32) -> Option<Result<(), String>> {
        let world = &self.trail.world;
        self.start_over(n);
        world.trace_reads(true);
        world.fail_after(n, on, errno);
        let drive = Drive::new(&self.trail.directory, self.left_out);
        let target = self.left_out.target(&self.trail.target);
        let result = self.run_command(&*target, Arc::clone(&drive) as Arc<dyn Directory>);
        world.trace_reads(false);
        let trace = world.trace();
        let number = trace.iter().position(|event| event.errno.is_some())?;
        let failed = &trace[number];
        let on_target = failed.disk.as_ref() == "target";
        let ended = match &result {
            Ok(()) if on_target => Err("success, although the target had failed".into()),
            Ok(()) => Ok(()),
            Err(error) => self.ended(&trace, error, errno, on_target),
        };
        let judged = ended
            .and_then(|()| no_retry(failed, &trace[number + 1..]))
            .and_then(|()| self.afterwards(n, drive.saves(), result.is_ok(), on != FaultOn::Reads));
        Some(judged.map_err(|wrong| format!("on {}: {wrong}", failed.disk)))
    }

    /// Runs the command on a retention drive with so many bytes left. None if that is enough.
    pub fn full_after(&self, room: u64) -> Option<Result<(), String>> {
        let (world, directory) = (&self.trail.world, &self.trail.directory);
        self.start_over(room);
        let space = directory.space().unwrap();
        directory.limit_space(Some(space.total.get() - space.available.get() + room));
        let drive = Drive::new(directory, self.left_out);
        let result = self.run_on(self.case.command, &self.trail.target, Arc::clone(&drive) as Arc<dyn Directory>);
        directory.limit_space(None);
        let error = result.err()?;
        let ended = self.ended(&world.trace(), &error, ENOSPC, false);
        Some(ended.and_then(|()| self.afterwards(room, drive.saves(), false, true)))
    }

    /// Whether an error is told as it should be.
    fn ended(&self, trace: &[Event], error: &JobError, errno: i32, on_target: bool) -> Result<(), String> {
        let touched = trace.iter().any(|event| event.disk.as_ref() == "target" && event.kind != EventKind::Read);
        let full = errno == ENOSPC && !on_target;
        let as_full = error.outcome() == Outcome::Refused && error.to_string().contains("the retention drive is full");
        let as_failed = error.outcome() == Outcome::Io && errno_of(error) == Some(errno);
        // Before the first write of the target a full drive is a refusal that says what to do.
        let right = if full && self.begins() && !touched { as_full } else { as_failed || (full && as_full) };
        if right { Ok(()) } else { Err(format!("it ended as {:?}: {error}", error.outcome())) }
    }

    /// Whether the command is one that first keeps what leads back, in a store that is there.
    fn begins(&self) -> bool {
        let facts = self.history[0].facts.as_ref();
        let command = self.case.command;
        let moves = command.applies().is_some() || matches!(command, Command::Rollback(_) | Command::Undo);
        moves && facts.is_some_and(|facts| facts.pending.is_none())
    }

    /// Looks at what is left when nothing fails any more, after `everything` that the machine may do before or one thing of it, and
    /// goes every way on.
    fn afterwards(&self, n: u64, saves: Saves, done: bool, everything: bool) -> Result<(), String> {
        let world = &self.trail.world;
        let left = world.snapshot();
        let all = [Then::DropsCaches, Then::KeepsFiles, Then::LosesPower];
        for then in all.into_iter().cycle().skip(usize::try_from(n % 3).unwrap()).take(if everything { 3 } else { 1 }) {
            world.restore(&left);
            world.reseed(n);
            match then {
                Then::DropsCaches => {
                    self.trail.directory.disks().chain([&self.trail.target]).for_each(SimDisk::drop_caches);
                }
                Then::KeepsFiles => self.trail.target.drop_caches(),
                Then::LosesPower => world.reboot(),
            }
            let told = |wrong| format!("then the machine {then:?}: {wrong}");
            let found = Seen::now(&self.trail.directory).map_err(told)?;
            if !self.possible(saves).any(|known| *known == found) {
                return Err(told("another catalogue, or another file that it names".into()));
            }
            if done && Some(&found) != self.history.last() {
                return Err(told("it had said that it was done".into()));
            }
            self.look(&found).map_err(told)?;
            let now = world.snapshot();
            for way in self.ways(&found, n) {
                // Before the power is lost, nobody knows what of a command that failed is durable, and nobody says so.
                if way.command.is_none() && then != Then::LosesPower {
                    continue;
                }
                world.restore(&now);
                self.take(&way, false).map_err(told)?;
            }
        }
        Ok(())
    }

    /// What a reader may find after a command that failed: what it was saving, or what was before it, since a journey that did not
    /// begin is none. Where the drive is full when it is opened, the first catalogue is not written anew.
    fn possible(&self, saves: Saves) -> impl Iterator<Item = &Seen> {
        let named = self.history.iter().skip(saves.done).take(2 + saves.begun - saves.done);
        named.chain(self.history.first())
    }
}
