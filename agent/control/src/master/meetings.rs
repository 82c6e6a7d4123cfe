//! The meetings of protection groups: all sources of a group come to rest, take their marks, and go on, together or not at all.

use crate::state::Group;
use failback_orchestrate::JobError;
use failback_replication::{GroupMark, Order, Seat, SessionError, Stage};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Writes down that all of a group have their marks, durably.
pub(super) type Record = dyn Fn(&str) -> Result<GroupMark, JobError> + Send + Sync;

/// The meetings that sources can still join, by the name of the group.
pub(super) struct Meetings {
    open: Mutex<BTreeMap<String, Arc<Meeting>>>,
    seats: AtomicU64,
    stop: Arc<AtomicBool>,
}

impl fmt::Debug for Meetings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(lock(&self.open).keys()).finish()
    }
}

struct Meeting {
    group: Group,
    now: Mutex<Now>,
    changed: Condvar,
}

/// Where a meeting stands.
struct Now {
    phase: Phase,
    /// Who is there: the number of the seat, and how far its source is.
    seats: BTreeMap<String, (u64, Stage)>,
}

enum Phase {
    /// Not all are here.
    Gathers,
    /// All are here, and have until then to come to rest and take their marks.
    Marks(Instant),
    /// All have their marks, or nobody has.
    Over(Result<GroupMark, String>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Meetings {
    pub(super) fn new(stop: &Arc<AtomicBool>) -> Self {
        Self { open: Mutex::default(), seats: AtomicU64::new(0), stop: Arc::clone(stop) }
    }

    /// Gives the source of a pair a seat in the meeting of its group. One that it had before is gone. Whoever is marked last calls `record`.
    pub(super) fn join(self: &Arc<Self>, group: Group, pair: &str, record: Box<Record>) -> Taken {
        let mut open = lock(&self.open);
        let is_joinable =
            |meeting: &Arc<Meeting>| meeting.group == group && matches!(lock(&meeting.now).phase, Phase::Gathers);
        let found = open.get(&group.name).filter(|meeting| is_joinable(meeting)).cloned();
        let meeting = found.unwrap_or_else(|| {
            let now = Now { phase: Phase::Gathers, seats: BTreeMap::new() };
            let meeting = Arc::new(Meeting { group, now: Mutex::new(now), changed: Condvar::new() });
            open.insert(meeting.group.name.clone(), Arc::clone(&meeting));
            meeting
        });
        let number = self.seats.fetch_add(1, Ordering::Relaxed);
        let mut now = lock(&meeting.now);
        now.seats.insert(pair.to_owned(), (number, Stage::Here));
        if now.seats.len() == meeting.group.pairs.len() {
            now.phase = Phase::Marks(Instant::now() + meeting.group.quiesce);
        }
        drop(now);
        meeting.changed.notify_all();
        Taken { meetings: Arc::clone(self), meeting, record, pair: pair.to_owned(), number, told: Mutex::default() }
    }

    /// The pairs of a group whose sources are there, as long as not all are.
    pub(super) fn here(&self, group: &str) -> Vec<String> {
        let open = lock(&self.open);
        open.get(group).map(|meeting| lock(&meeting.now).seats.keys().cloned().collect()).unwrap_or_default()
    }

    /// Ends the meeting of a group that is no more.
    pub(super) fn dissolve(&self, group: &str) {
        if let Some(meeting) = lock(&self.open).remove(group) {
            let mut now = lock(&meeting.now);
            if !matches!(now.phase, Phase::Over(_)) {
                let why =
                    format!("the group \"{group}\" was removed: add it again, and begin the last pass of all of it");
                now.phase = Phase::Over(Err(why));
                meeting.changed.notify_all();
            }
        }
    }

    /// Nobody joins a meeting any more that is over, or that all have left.
    fn close(&self, meeting: &Arc<Meeting>) {
        let mut open = lock(&self.open);
        let now = lock(&meeting.now);
        let is_done = now.seats.is_empty() || matches!(now.phase, Phase::Over(_));
        if is_done && open.get(&meeting.group.name).is_some_and(|found| Arc::ptr_eq(found, meeting)) {
            open.remove(&meeting.group.name);
        }
    }
}

/// A seat that somebody has.
pub(super) struct Taken {
    meetings: Arc<Meetings>,
    meeting: Arc<Meeting>,
    record: Box<Record>,
    pair: String,
    number: u64,
    told: Mutex<Told>,
}

/// What a source was told last.
#[derive(Default)]
struct Told {
    waits: String,
    quiesce: bool,
    mark: bool,
}

impl Taken {
    fn has(&self, now: &Now) -> bool {
        now.seats.get(&self.pair).is_some_and(|(number, _)| *number == self.number)
    }

    /// Ends the meeting for all, unless it is over.
    fn fail(&self, now: &mut Now, why: String) {
        if !matches!(now.phase, Phase::Over(_)) {
            now.phase = Phase::Over(Err(why));
            self.meeting.changed.notify_all();
        }
    }

    /// What there is to be told at this moment.
    fn order(&self, now: &mut Now) -> Result<Option<Order>, JobError> {
        let group = &self.meeting.group;
        if self.meetings.stop.load(Ordering::Acquire) {
            return Err(JobError::Interrupted("the master target is ending: connect again later".into()));
        }
        if !self.has(now) {
            return Err(JobError::Refused("another connection has taken the place of this one in the group".into()));
        }
        if let Phase::Marks(until) = now.phase
            && Instant::now() >= until
        {
            let late = now.seats.iter().filter(|(_, (_, stage))| *stage < Stage::Marked).map(|(pair, _)| pair.as_str());
            let (late, limit) = (names(late), group.quiesce.as_secs_f64());
            let why = format!(
                "{late} did not come to rest and take a mark within {limit} s, so the group \"{}\" has none: give it more time with \
                 failback group add --quiesce, or see what holds it up",
                group.name
            );
            self.fail(now, why);
        }
        let mut told = lock(&self.told);
        match &now.phase {
            Phase::Gathers => {
                let missing = group.pairs.iter().filter(|pair| !now.seats.contains_key(*pair)).map(String::as_str);
                let waits = format!("the group \"{}\" waits for {}", group.name, names(missing));
                let is_new = told.waits != waits;
                told.waits.clone_from(&waits);
                Ok(is_new.then_some(Order::Waits(waits)))
            }
            Phase::Marks(_) if !told.quiesce => {
                told.quiesce = true;
                Ok(Some(Order::Quiesce))
            }
            Phase::Marks(_) if !told.mark && now.seats.values().all(|(_, stage)| *stage >= Stage::Quiesced) => {
                told.mark = true;
                Ok(Some(Order::Mark))
            }
            Phase::Marks(_) => Ok(None),
            Phase::Over(Ok(mark)) => Ok(Some(Order::Release(*mark))),
            Phase::Over(Err(why)) => Err(JobError::Refused(why.clone())),
        }
    }
}

/// Names in a sentence.
fn names<'a>(pairs: impl Iterator<Item = &'a str>) -> String {
    pairs.map(|pair| format!("\"{pair}\"")).collect::<Vec<_>>().join(", ")
}

impl Seat for Taken {
    fn reached(&self, stage: Stage) -> Result<(), SessionError> {
        let mut now = lock(&self.meeting.now);
        if !self.has(&now) || matches!(now.phase, Phase::Over(_)) {
            return Ok(());
        }
        let told = lock(&self.told);
        let (wanted, before) = match stage {
            Stage::Here => (false, Stage::Here),
            Stage::Quiesced => (told.quiesce, Stage::Here),
            Stage::Marked => (told.mark, Stage::Quiesced),
        };
        let seat = now.seats.get_mut(&self.pair).filter(|(_, stage)| wanted && *stage == before);
        let Some((_, at)) = seat else {
            return Err(SessionError::Breach("it is where it was not told to be"));
        };
        *at = stage;
        if now.seats.values().all(|(_, stage)| *stage == Stage::Marked) {
            let recorded = (self.record)(&self.meeting.group.name);
            now.phase = Phase::Over(recorded.map_err(|error| error.to_string()));
        }
        self.meeting.changed.notify_all();
        Ok(())
    }

    fn left(&self, why: Option<&str>) {
        let mut now = lock(&self.meeting.now);
        if !self.has(&now) {
            return;
        }
        match now.phase {
            Phase::Gathers => {
                now.seats.remove(&self.pair);
                self.meeting.changed.notify_all();
            }
            Phase::Marks(_) => {
                let because = why.map(|why| format!(" ({why})")).unwrap_or_default();
                let why = format!(
                    "the source of \"{}\" left while the group \"{}\" took its mark{because}, so there is none: begin the last pass of the \
                     whole group again",
                    self.pair, self.meeting.group.name
                );
                self.fail(&mut now, why);
            }
            Phase::Over(_) => {}
        }
    }

    fn next(&self, patience: Duration) -> Result<Option<Order>, JobError> {
        let until = Instant::now() + patience;
        let mut now = lock(&self.meeting.now);
        let order = loop {
            let order = self.order(&mut now);
            let left = until.saturating_duration_since(Instant::now());
            if !matches!(order, Ok(None)) || left.is_zero() {
                break order;
            }
            let left = match now.phase {
                Phase::Marks(end) => left.min(end.saturating_duration_since(Instant::now())),
                _ => left,
            };
            now = self.meeting.changed.wait_timeout(now, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        let is_over = matches!(now.phase, Phase::Over(_));
        drop(now);
        if is_over {
            self.meetings.close(&self.meeting);
        }
        order
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.left(None);
        self.meetings.close(&self.meeting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Meetings, and how many marks they made.
    struct Lab {
        meetings: Arc<Meetings>,
        made: Arc<AtomicU64>,
    }

    impl Lab {
        fn new() -> Self {
            Self { meetings: Arc::new(Meetings::new(&Arc::default())), made: Arc::default() }
        }

        fn join(&self, group: Group, pair: &str) -> Taken {
            let count = Arc::clone(&self.made);
            let record = move |_: &str| {
                let number = u8::try_from(count.fetch_add(1, Ordering::Relaxed)).unwrap();
                Ok(GroupMark { id: [number + 1; 16], time: 7 })
            };
            self.meetings.join(group, pair, Box::new(record))
        }

        fn made(&self) -> u64 {
            self.made.load(Ordering::Relaxed)
        }
    }

    fn group(quiesce: Duration) -> Group {
        Group { name: "shop".into(), pairs: vec!["db".into(), "web".into()], quiesce }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    fn soon(seat: &Taken) -> Result<Option<Order>, String> {
        seat.next(Duration::ZERO).map_err(|error| error.to_string())
    }

    #[test]
    fn all_come_to_rest_before_any_takes_its_mark_and_take_it_before_any_goes_on() {
        let lab = Lab::new();
        let db = lab.join(group(MINUTE), "db");
        assert_eq!(soon(&db), Ok(Some(Order::Waits("the group \"shop\" waits for \"web\"".into()))));
        assert_eq!(soon(&db), Ok(None), "it is told once");
        assert!(db.reached(Stage::Quiesced).is_err(), "it was not told to");
        assert_eq!(lab.meetings.here("shop"), ["db"]);
        let web = lab.join(group(MINUTE), "web");
        assert_eq!((soon(&db), soon(&web)), (Ok(Some(Order::Quiesce)), Ok(Some(Order::Quiesce))));
        db.reached(Stage::Quiesced).unwrap();
        assert!(db.reached(Stage::Marked).is_err());
        assert_eq!((soon(&db), soon(&web)), (Ok(None), Ok(None)), "one of them is not at rest");
        web.reached(Stage::Quiesced).unwrap();
        assert_eq!((soon(&db), soon(&web)), (Ok(Some(Order::Mark)), Ok(Some(Order::Mark))));
        web.reached(Stage::Marked).unwrap();
        assert_eq!((soon(&web), lab.made()), (Ok(None), 0));
        db.reached(Stage::Marked).unwrap();
        let release = Ok(Some(Order::Release(GroupMark { id: [1; 16], time: 7 })));
        assert_eq!((soon(&web), soon(&db), lab.made()), (release.clone(), release, 1));
        drop((db, web));
        assert_eq!(format!("{:?}", lab.meetings), "[]", "the next one is another");
    }

    #[test]
    fn whoever_leaves_before_is_waited_for_and_ends_it_afterwards() {
        let lab = Lab::new();
        let db = lab.join(group(MINUTE), "db");
        drop(lab.join(group(MINUTE), "web"));
        // It left when all were here.
        assert!(soon(&db).unwrap_err().contains("the source of \"web\" left"));
        drop(db);
        let db = lab.join(group(MINUTE), "db");
        drop(db);
        assert_eq!(format!("{:?}", lab.meetings), "[]");
        let old = lab.join(group(MINUTE), "db");
        let new = lab.join(group(MINUTE), "db");
        assert!(soon(&old).unwrap_err().contains("another connection"));
        old.left(None);
        let web = lab.join(group(MINUTE), "web");
        assert_eq!((soon(&new), soon(&web)), (Ok(Some(Order::Quiesce)), Ok(Some(Order::Quiesce))));
        web.reached(Stage::Quiesced).unwrap();
        new.left(Some("no space"));
        assert!(
            soon(&web)
                .unwrap_err()
                .contains("the source of \"db\" left while the group \"shop\" took its mark (no space), so")
        );
        web.reached(Stage::Marked).unwrap();
        assert_eq!(lab.made(), 0, "nobody has a mark");
    }

    #[test]
    fn a_group_that_is_removed_is_waited_for_by_nobody() {
        let lab = Lab::new();
        let db = lab.join(group(MINUTE), "db");
        lab.meetings.dissolve("other");
        assert_eq!(lab.meetings.here("shop"), ["db"]);
        lab.meetings.dissolve("shop");
        assert!(soon(&db).unwrap_err().contains("the group \"shop\" was removed"));
        let web = lab.join(group(MINUTE), "web");
        drop(db);
        assert_eq!(lab.meetings.here("shop"), ["web"], "it is another meeting");
        drop(web);
    }

    #[test]
    fn whoever_is_late_is_named_to_all() {
        let lab = Lab::new();
        let quick = group(Duration::from_millis(100));
        let (db, web) = (lab.join(quick.clone(), "db"), lab.join(quick, "web"));
        assert_eq!((soon(&db), soon(&web)), (Ok(Some(Order::Quiesce)), Ok(Some(Order::Quiesce))));
        db.reached(Stage::Quiesced).unwrap();
        for seat in [&db, &web] {
            let why = seat.next(MINUTE).unwrap_err().to_string();
            assert!(why.starts_with("\"db\", \"web\" did not come to rest and take a mark within 0.1 s"), "{why}");
        }
    }
}
