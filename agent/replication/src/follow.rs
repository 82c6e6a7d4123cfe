//! One pass after the other, and how old the newest moment is that the target has.

use std::time::Duration;

/// A recovery point objective that is missed, or kept again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// The newest moment that the target has applied is older than it may be: this old.
    Missed(Duration),
    /// It is young enough again: this old.
    Kept(Duration),
}

/// When passes begin, and whether they are often enough. Times are those of any one clock that does not go back.
#[derive(Clone, Copy, Debug)]
pub struct Follow {
    interval: Duration,
    objective: Option<Duration>,
    newest: Duration,
    is_missed: bool,
}

impl Follow {
    /// Begins now. What the target has is not known yet; so its age is counted from now on.
    #[must_use]
    pub const fn new(interval: Duration, objective: Option<Duration>, now: Duration) -> Self {
        Self { interval, objective, newest: now, is_missed: false }
    }

    /// When the pass is to begin that follows one which began at `last`: an interval later, or at once where that has passed. Passes that were missed
    /// are not made up for.
    #[must_use]
    pub fn next_start(&self, last: Duration, now: Duration) -> Duration {
        (last + self.interval).max(now)
    }

    /// The target has applied a pass that began to read the source at `moment`: all that was written before is there.
    pub fn applied(&mut self, moment: Duration) {
        self.newest = self.newest.max(moment);
    }

    /// How old the newest moment is that the target has.
    #[must_use]
    pub const fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.newest)
    }

    /// Whether the objective is missed or kept since this was asked last; each is told once.
    pub fn alarm(&mut self, now: Duration) -> Option<Alarm> {
        let age = self.age(now);
        let is_missed = age > self.objective?;
        if is_missed == self.is_missed {
            return None;
        }
        self.is_missed = is_missed;
        Some(if is_missed { Alarm::Missed(age) } else { Alarm::Kept(age) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn passes_begin_an_interval_apart_or_late() {
        let follow = Follow::new(s(60), None, s(0));
        assert_eq!((follow.next_start(s(100), s(110)), follow.next_start(s(100), s(160))), (s(160), s(160)));
        assert_eq!(follow.next_start(s(100), s(500)), s(500), "and not one for each that was missed");
    }

    #[test]
    fn an_objective_that_is_missed_is_told_once() {
        let mut follow = Follow::new(s(60), Some(s(300)), s(1000));
        let told: Vec<_> = (1000..1600).step_by(10).filter_map(|now| follow.alarm(s(now))).collect();
        assert_eq!(told, [Alarm::Missed(s(310))]);
        // A pass that began long ago ends: it brings the target forward, and not far enough.
        follow.applied(s(1250));
        assert_eq!((follow.age(s(1600)), follow.alarm(s(1600))), (s(350), None));
        follow.applied(s(1590));
        assert_eq!((follow.alarm(s(1610)), follow.alarm(s(1620))), (Some(Alarm::Kept(s(20))), None));
        // What is older changes nothing.
        follow.applied(s(1200));
        assert_eq!((follow.alarm(s(1890)), follow.alarm(s(1891))), (None, Some(Alarm::Missed(s(301)))));
    }

    #[test]
    fn without_an_objective_nothing_is_missed() {
        let mut follow = Follow::new(s(60), None, s(0));
        assert_eq!((follow.alarm(s(1_000_000)), follow.age(s(50))), (None, s(50)));
    }
}
