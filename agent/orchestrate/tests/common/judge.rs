//! What must be true of a disk and its retention drive, whatever was interrupted, and the ways on from there.

use super::drive::{Facts, Seen, bytes_of};
use super::lab::{Command, End, Lab};
use failback_delta::{DeltaReader, Item, SignatureReader};
use failback_orchestrate::{Directory, Link, Pending, PointId, Reader, Silent, Store, verify_point};
use failback_units::BlockCount;
use std::io::{BufReader, Cursor};
use std::sync::Arc;

const SECTOR: usize = 512;

/// One way on, and where it leads.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// None where nothing is to be done.
    pub(super) command: Option<Command>,
    pub(super) end: End,
}

impl Lab {
    /// Whether the target is where the catalogue says, and every link is whole.
    pub(super) fn look(&self, found: &Seen) -> Result<(), String> {
        let content = self.trail.target.content();
        let Some(facts) = &found.facts else { return self.compare(&content, 0) };
        let store = self.store();
        if let Some(gap) = store.gaps().first() {
            return Err(gap.to_string());
        }
        for link in facts.all_links() {
            Self::read_through(&store, link).map_err(|error| format!("link {}: {error}", link.file))?;
        }
        self.look_at_trees()?;
        for point in &facts.points {
            let unknown = facts.points.len() == 1 && point.root.0 == [0; 32];
            if !unknown && point.root != self.roots[usize::try_from(point.id.0).unwrap()] {
                return Err(format!("point {} has another root", point.id));
            }
        }
        let present = facts.points[facts.present].id.0;
        match Self::other_side(facts) {
            None => self.compare(&content, present),
            Some(other) => {
                // Where a state ends inside a sector, what is left behind that is written for itself.
                let ends = [present, other].map(|state| self.trail.disk(state).len() / SECTOR);
                let (one, other) = (&self.contents[&present], &self.contents[&other]);
                let is_strange = |number: &usize| {
                    let sector = number * SECTOR..content.len().min((number + 1) * SECTOR);
                    let [now, one, other] = [&content, one, other].map(|bytes| &bytes[sector.clone()]);
                    let mut bytes = now.iter().zip(one.iter().zip(other));
                    let is_mixed = bytes.all(|(now, (one, other))| now == one || now == other);
                    now != one && now != other && !(ends.contains(number) && is_mixed)
                };
                match (0..content.len().div_ceil(SECTOR)).find(is_strange) {
                    None => Ok(()),
                    Some(sector) => Err(format!("sector {sector} of the target is none of both points")),
                }
            }
        }
    }

    /// A hash tree that has its name is whole.
    fn look_at_trees(&self) -> Result<(), String> {
        let names = self.trail.directory.names().map_err(|error| error.to_string())?;
        for name in names.iter().filter(|name| name.starts_with("tree-")) {
            let tree = bytes_of(&*self.trail.directory, name).map_err(|error| error.to_string())?;
            let told = |error| format!("{name}: {error}");
            let mut tree = SignatureReader::open(Cursor::new(tree)).map_err(told)?;
            while tree.next_run(BlockCount::new(1 << 20)).map_err(told)?.is_some() {}
        }
        Ok(())
    }

    /// The point at the other side of the step that is being taken, if one is.
    fn other_side(facts: &Facts) -> Option<u64> {
        let next = |goal: PointId| {
            let goal = facts.points.iter().position(|point| point.id == goal).unwrap();
            let next = if goal < facts.present { facts.present - 1 } else { facts.present + 1 };
            facts.points[next].id.0
        };
        match facts.pending.as_ref()? {
            Pending::Apply(apply) => Some(apply.result.id.0),
            Pending::Rollback { goal, inverse, .. } => inverse.map(|_| next(*goal)),
            Pending::Undo { goal, stepping, .. } => stepping.then(|| next(*goal)),
        }
    }

    fn compare(&self, content: &[u8], point: u64) -> Result<(), String> {
        if self.contents[&point] == content {
            return Ok(());
        }
        let wrong = content.chunks(SECTOR).zip(self.contents[&point].chunks(SECTOR)).filter(|(now, then)| now != then);
        Err(format!("{} sectors of the target are not those of point {point}", wrong.count()))
    }

    /// Reads all of a link: its frames and its proof.
    fn read_through(store: &Store, link: &Link) -> Result<(), String> {
        let told = |error: &dyn std::error::Error| format!("{error}: {:?}", error.source().map(ToString::to_string));
        let file = Reader::new(store.open_link(link).map_err(|error| told(&error))?).map_err(|error| told(&error))?;
        let mut delta = DeltaReader::open(BufReader::with_capacity(1 << 16, file)).map_err(|error| told(&error))?;
        while let Item::Frame(_) = delta.next_item().map_err(|error| told(&error))? {}
        let index = store.open_index(link.file).map_err(|error| told(&error))?;
        index.map(drop).ok_or_else(|| "the index is missing".into())
    }

    fn store(&self) -> Store {
        Store::open_for_reading(Arc::clone(&self.trail.directory) as Arc<dyn Directory>).unwrap()
    }

    /// Every way on from what is there.
    pub(super) fn ways(&self, found: &Seen, seed: u64) -> Vec<Way> {
        let (start, last) = (&self.history[0], self.history.last().unwrap());
        let here = End::of(found.facts.as_ref());
        let way = |command: Option<Command>, end: &End| Way { command, end: end.clone() };
        let pending = found.facts.as_ref().and_then(|facts| facts.pending.as_ref());
        match pending {
            Some(Pending::Apply(apply)) => {
                // The same command finishes as well; not through a pipe, which ends with the program.
                let again = matches!(self.case.command, Command::Apply(_) | Command::Verified(_)) && seed % 2 == 1;
                let on = if again { self.case.command } else { Command::Resume };
                vec![way(Some(on), &here.with(apply.result.id.0)), way(Some(Command::Undo), &here)]
            }
            Some(Pending::Rollback { goal, from, .. }) => {
                vec![way(Some(Command::Resume), &here.at(goal.0)), way(Some(Command::Undo), &here.at(from.0))]
            }
            Some(Pending::Undo { goal, .. }) => {
                [Command::Resume, Command::Undo].map(|on| way(Some(on), &here.up_to(goal.0))).to_vec()
            }
            None => {
                let (start_end, last_end) = (End::of(start.facts.as_ref()), End::of(last.facts.as_ref()));
                let was_pending = start.facts.as_ref().is_some_and(|facts| facts.pending.is_some());
                let is_last = last.facts.as_ref().is_some_and(|facts| facts.pending.is_none()) && here == last_end;
                match self.case.command {
                    Command::Apply(_) | Command::Verified(_) if is_last => vec![
                        way(Some(self.case.command), &here),
                        way(Some(Command::Undo), &here.up_to(here.committed)),
                        way(Some(Command::Rollback(start_end.present)), &here.at(start_end.present)),
                    ],
                    Command::Rollback(_) if is_last => {
                        vec![way(Some(Command::Rollback(start_end.present)), &here.at(start_end.present))]
                    }
                    // Points may have gone to make room, and the rest of it was not begun.
                    command
                        if command.applies().is_some()
                            && here.present == start_end.present
                            && here.points.iter().all(|point| start_end.points.contains(point)) =>
                    {
                        vec![way(Some(command), &here.with(last_end.present)), way(None, &here)]
                    }
                    Command::Pin(_) | Command::Unpin(_) | Command::Commit | Command::Verify => {
                        vec![way(Some(self.case.command), &last_end)]
                    }
                    _ if is_last || was_pending || here != start_end => vec![way(None, &here)],
                    command => vec![way(Some(command), &last_end), way(None, &here)],
                }
            }
        }
    }

    /// Goes one way on. What it reached must survive the next power loss.
    pub(super) fn take(&self, way: &Way, thoroughly: bool) -> Result<(), String> {
        if let Some(command) = way.command {
            self.run(command).map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                format!("{command:?} does not go on: {error} {cause}")
            })?;
        }
        self.trail.world.reboot();
        let reached = || -> Result<(), String> {
            let found = Seen::now(&self.trail.directory)?;
            let here = End::of(found.facts.as_ref());
            if found.facts.as_ref().is_some_and(|facts| facts.pending.is_some()) || here != way.end {
                return Err(format!("it is at {here:?} instead of {:?}", way.end));
            }
            self.look(&found)?;
            if thoroughly { self.look_at_all(&here) } else { Ok(()) }
        };
        reached().map_err(|wrong| format!("after {:?}: {wrong}", way.command))
    }

    /// Whether every point can be read, and every point be reached; and whether nothing is left behind.
    fn look_at_all(&self, here: &End) -> Result<(), String> {
        let mut store = self.trail.open();
        let files = self.trail.directory.names().map_err(|error| error.to_string())?;
        let files: Vec<_> = files.into_iter().filter(|name| !name.starts_with("tree-")).collect();
        if files.len() != 1 + 2 * store.catalogue().links().len() {
            return Err(format!("something is left behind: {files:?}"));
        }
        if let Some(wrong) = self.trail.wrong_at(here.present) {
            return Err(wrong);
        }
        if store.catalogue().links().is_empty() {
            return Ok(());
        }
        for point in &here.points {
            let check = verify_point(&self.trail.target, &mut store, PointId(*point), false, 1, &Silent);
            let check = check.map_err(|error| format!("point {point} cannot be read: {error}"))?;
            if !check.report.matches() {
                return Err(format!("point {point} reads as something else"));
            }
        }
        drop(store);
        for point in &here.points {
            if End::of(Seen::now(&self.trail.directory)?.facts.as_ref()).present != *point {
                self.run(Command::Rollback(*point)).map_err(|error| format!("point {point}: {error}"))?;
            }
            self.compare(&self.trail.target.content(), *point)?;
        }
        Ok(())
    }
}
