//! One look at the machine after the other, beside the screen: the screen waits for none.

use super::daemon::{self, Asking, DaemonLines};
use super::state::{State, minute};
use crate::control::Place;
use crate::files;
use crate::look::{Answer, LIMIT, Looking, Next, Part};
use failback_machine::{Host, Job};
use std::io;
use std::time::{Duration, Instant};

/// How often the state is looked at. A look opens every disk for a moment.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often everything is checked, which takes longer.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// How often the daemon is asked, whose jobs go on all the time.
const ASK_EVERY: Duration = Duration::from_secs(3);

/// How a look is begun.
pub(super) type Begin = fn(&[Part]) -> io::Result<Looking>;

/// The state, and what is done to know it.
pub(super) struct Watch {
    pub(super) state: State,
    begin: Begin,
    /// Without an answer for so long, that is told.
    limit: Duration,
    looking: Option<Looking>,
    /// A look at the jobs alone, for the menu.
    asking: Option<Looking>,
    /// When the last look ended, and when the last that checked everything began.
    looked: Option<Instant>,
    checked: Option<Instant>,
    /// The control plane of this machine, the question to its daemon that is under way, and when the last one was over.
    place: Place,
    daemon: Option<Asking>,
    asked: Option<Instant>,
}

impl Watch {
    /// Nothing is known yet.
    pub(super) fn new(place: &Place) -> Self {
        Self::with(Looking::at, LIMIT, place)
    }

    fn with(begin: Begin, limit: Duration, place: &Place) -> Self {
        let (state, place) = (State::default(), place.clone());
        let (looking, asking, daemon) = (None, None, None);
        Self { state, begin, limit, looking, asking, looked: None, checked: None, place, daemon, asked: None }
    }

    /// Where the control plane is.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Lets the next look begin at once, and check everything.
    pub(super) fn hurry(&mut self) {
        (self.looked, self.checked, self.asked) = (None, None, None);
    }

    /// Whether answers are on their way.
    pub(super) fn is_looking(&self) -> bool {
        self.looking.is_some() || self.daemon.is_some()
    }

    /// Begins to ask the daemon if it is time and no question is under way, and takes what has come. Never waits.
    fn step_daemon(&mut self) {
        if self.daemon.is_none() && self.asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY) {
            self.daemon = Some(Asking::begin(&self.place));
        }
        let Some(asking) = &self.daemon else { return };
        let (told, over) = asking.look(&self.place);
        if told.is_some() {
            self.state.daemon = told;
        }
        if over {
            (self.daemon, self.asked) = (None, Some(Instant::now()));
        }
    }

    /// What the daemon says now.
    pub(super) fn daemon_now(&mut self) -> &DaemonLines {
        self.state.daemon.insert(daemon::ask_now(&self.place))
    }

    /// Begins a look if it is time and none is under way, and takes what has come. Never waits.
    pub(super) fn step(&mut self, host: &Host) {
        self.state.ask_kernel(host);
        self.step_daemon();
        let is_due = |last: Option<Instant>, every| last.is_none_or(|last| last.elapsed() >= every);
        if self.looking.is_none() && is_due(self.looked, LOOK_EVERY) {
            let mut parts = vec![Part::Jobs, Part::Screen];
            if is_due(self.checked, CHECK_EVERY) {
                parts.push(Part::Checks);
                self.checked = Some(Instant::now());
            }
            match (self.begin)(&parts) {
                Ok(looking) => self.looking = Some(looking),
                Err(error) => {
                    self.looked = Some(Instant::now());
                    self.state.unanswered = Some(format!("this machine cannot be looked at: {error}"));
                }
            }
        }
        let Some(looking) = &mut self.looking else { return };
        loop {
            match looking.next(Duration::ZERO) {
                Next::Answer(answer) => self.state.take(answer),
                Next::Nothing => break,
                Next::Over { done } => {
                    self.state.unanswered = (!done).then(|| looking.broken_off());
                    (self.looking, self.looked) = (None, Some(Instant::now()));
                    return;
                }
            }
        }
        let silent = looking.silent_for();
        self.state.unanswered = (silent >= self.limit).then(|| {
            let began = files::now().saturating_sub(i64::try_from(silent.as_secs()).unwrap_or(i64::MAX));
            format!("nothing from {} since {} UTC; what is shown is older", looking.asked(), minute(began))
        });
    }

    /// The jobs that run now, asked anew; `None` if that is not known in this time.
    pub(super) fn jobs_now(&mut self, patience: Duration) -> Option<Vec<Job>> {
        if let Some(before) = &mut self.asking {
            // What one that hung has found since then tells of then.
            loop {
                match before.next(Duration::ZERO) {
                    Next::Answer(_) => {}
                    Next::Nothing => return None,
                    Next::Over { .. } => break,
                }
            }
        }
        self.asking = Some((self.begin)(&[Part::Jobs]).ok()?);
        let told = self.asking.as_mut()?.next(patience);
        if !matches!(told, Next::Nothing) {
            self.asking = None;
        }
        if let Next::Answer(Answer::Jobs(jobs)) = told { Some(jobs) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    fn nowhere() -> Place {
        Place { state: "/nonexistent".into() }
    }

    fn sh(script: &str) -> io::Result<Looking> {
        Looking::by(Command::new("sh").args(["-c", script]))
    }

    fn steps(watch: &mut Watch, until: impl Fn(&Watch) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !until(watch) {
            watch.step(&Host::this());
            assert!(Instant::now() < end, "{:?}", watch.state);
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_look_that_hangs_is_told_and_there_is_no_second_one() {
        static BEGUN: AtomicUsize = AtomicUsize::new(0);
        fn begin(_: &[Part]) -> io::Result<Looking> {
            BEGUN.fetch_add(1, Ordering::Relaxed);
            sh(r#"echo '{"Jobs":[]}'; echo '{"At":"/dev/sdb"}'; exec sleep 60"#)
        }
        let mut watch = Watch::with(begin, Duration::from_secs(2), &nowhere());
        assert_eq!(watch.state.jobs, None);
        steps(&mut watch, |watch| watch.state.unanswered.is_some());
        let told = watch.state.unanswered.clone().unwrap();
        assert!(told.starts_with("nothing from /dev/sdb since 2") && told.ends_with("is older"), "{told}");
        assert_eq!(watch.state.jobs, Some(vec![]), "what has come stays");
        watch.hurry();
        for _ in 0..20 {
            watch.step(&Host::this());
        }
        assert_eq!((BEGUN.load(Ordering::Relaxed), watch.is_looking()), (1, true));
    }

    #[test]
    fn looks_follow_each_other() {
        static BEGUN: AtomicUsize = AtomicUsize::new(0);
        fn begin(parts: &[Part]) -> io::Result<Looking> {
            let count = BEGUN.fetch_add(1, Ordering::Relaxed);
            assert_eq!(parts.contains(&Part::Checks), count == 0, "not everything is checked each time");
            sh(if count == 0 { "exit 1" } else { r#"echo '{"Jobs":[]}'; echo '"Done"'"# })
        }
        let mut watch = Watch::with(begin, Duration::from_secs(20), &nowhere());
        steps(&mut watch, |watch| !watch.is_looking() && watch.looked.is_some());
        assert!(watch.state.unanswered.as_ref().unwrap().contains("broke off at this machine"));
        watch.looked = None;
        steps(&mut watch, |watch| !watch.is_looking() && watch.looked.is_some());
        assert_eq!((watch.state.unanswered.as_deref(), BEGUN.load(Ordering::Relaxed)), (None, 2));
    }

    #[test]
    fn jobs_are_asked_for_anew_but_not_twice_at_once() {
        static BEGUN: AtomicUsize = AtomicUsize::new(0);
        fn begin(parts: &[Part]) -> io::Result<Looking> {
            assert_eq!(parts, [Part::Jobs]);
            let scripts = [r#"echo '{"Jobs":[]}'; echo '"Done"'"#, "exec sleep 2", r#"echo '{"Jobs":[]}'"#];
            sh(scripts[BEGUN.fetch_add(1, Ordering::Relaxed)])
        }
        let mut watch = Watch::with(begin, LIMIT, &nowhere());
        assert_eq!(watch.jobs_now(Duration::from_secs(20)), Some(vec![]));
        let over =
            |watch: &mut Watch| while !matches!(watch.asking.as_mut().unwrap().next(LIMIT), Next::Over { .. }) {};
        for _ in 0..3 {
            assert_eq!(watch.jobs_now(Duration::from_millis(50)), None);
        }
        assert_eq!(BEGUN.load(Ordering::Relaxed), 2);
        over(&mut watch);
        assert_eq!(watch.jobs_now(Duration::from_secs(20)), Some(vec![]));
    }
}
