//! Compressing as hard as the link leaves time for.

use crate::Clock;
use failback_orchestrate::{Compression, Effort, Packed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The steps, from the fastest to the hardest. Neighbours differ by enough to be told apart.
const STEPS: [u8; 10] = [0, 1, 2, 3, 5, 7, 9, 12, 15, 19];
/// Where it begins: at zstd's own default.
const FIRST: usize = 3;
/// How long, and for how many frames at least, is measured before a step is taken.
const MEASURED: Duration = Duration::from_secs(1);
const FRAMES: u32 = 4;
/// How much more than the link takes a step has to produce before it is taken.
const RESERVE: f64 = 1.2;
/// A step that was not taken for this long may produce another amount by now.
const FORGOTTEN: Duration = Duration::from_secs(120);
/// So many frames in a row that no compressing made shorter, and nothing is compressed any more but each 16th, lightly, to see whether that
/// is still so.
const STUBBORN: u32 = 8;
const PROBE_EVERY: u32 = 16;
/// What was measured of the link before counts for less with every measurement: half after 7.
const FADES: f64 = 0.9;

/// Chooses the level for each frame so that compressing keeps up with the link.
///
/// The window of what is sent and not yet durable tells which of the two is the slower one: if it is full, the link is, and frames may
/// become shorter at the cost of more work; if it runs empty while all threads compress, compressing is. One step up or down is taken at a
/// time, and none up that is known to produce less than the link takes; so it comes to rest at a step, or between two neighbours.
pub struct Adaptive {
    clock: Arc<dyn Clock>,
    threads: u32,
    state: Mutex<State>,
}

struct State {
    step: usize,
    steps: [Step; STEPS.len()],
    measured: Measured,
    /// Bytes that became durable, and the seconds in which the link had something to do; both fade.
    link: (f64, f64),
    /// Frames in a row that did not become shorter, and whether compressing has been given up until one does.
    stubborn: u32,
    given_up: bool,
    since_probe: u32,
}

/// What is known of a step: bytes that one thread produces in a second, and when that was seen last.
#[derive(Clone, Copy, Default)]
struct Step {
    produces: Option<f64>,
    seen: Duration,
}

/// What was measured since the last decision.
#[derive(Clone, Copy, Default)]
struct Measured {
    since: Duration,
    frames: u32,
    /// How long threads compressed, all together.
    compressing: Duration,
    /// How long whoever makes frames waited for the link, and the link for frames.
    full: Duration,
    empty: Duration,
    durable: u64,
}

impl Adaptive {
    /// Begins in the middle; `threads` compress at the same time.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, threads: usize) -> Self {
        let measured = Measured { since: clock.now(), ..Measured::default() };
        let state = State {
            step: FIRST,
            steps: [Step::default(); STEPS.len()],
            measured,
            link: (0.0, 0.0),
            stubborn: 0,
            given_up: false,
            since_probe: 0,
        };
        let threads = u32::try_from(threads).unwrap_or(u32::MAX).max(1);
        Self { clock, threads, state: Mutex::new(state) }
    }

    /// How hard frames are compressed now.
    #[must_use]
    pub fn present(&self) -> Compression {
        let state = self.lock();
        if state.given_up { Compression::OFF } else { level(state.step) }
    }

    /// The window was full for so long: the link is behind.
    pub(crate) fn window_was_full(&self, time: Duration) {
        self.lock().measured.full += time;
    }

    /// There was nothing to send for so long: the link waited.
    pub(crate) fn window_was_empty(&self, time: Duration) {
        self.lock().measured.empty += time;
    }

    /// So many more bytes are durable at the target.
    pub(crate) fn became_durable(&self, bytes: u64) {
        self.lock().measured.durable += bytes;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn level(step: usize) -> Compression {
    Compression::of_level(STEPS[step]).unwrap_or(Compression::LIGHTEST)
}

impl Effort for Adaptive {
    fn next(&self) -> Compression {
        let mut state = self.lock();
        if !state.given_up {
            return level(state.step);
        }
        state.since_probe += 1;
        if state.since_probe < PROBE_EVERY {
            return Compression::OFF;
        }
        state.since_probe = 0;
        Compression::LIGHTEST
    }

    fn packed(&self, frame: &Packed) {
        let now = self.clock.now();
        let mut state = self.lock();
        state.count(frame, now);
        let elapsed = now.saturating_sub(state.measured.since);
        if elapsed >= MEASURED && state.measured.frames >= FRAMES {
            state.decide(elapsed, now, self.threads);
            state.measured = Measured { since: now, ..Measured::default() };
        }
    }
}

impl State {
    fn count(&mut self, frame: &Packed, now: Duration) {
        self.measured.frames += 1;
        self.measured.compressing += frame.took;
        if frame.compression != Compression::OFF {
            if frame.stored < frame.content {
                (self.stubborn, self.given_up) = (0, false);
            } else {
                self.stubborn += 1;
                self.given_up |= self.stubborn >= STUBBORN;
            }
        }
        let step = STEPS.iter().position(|level| i32::from(*level) == frame.compression.level());
        // What became no shorter, or takes no time, says nothing of how fast a level is on other content.
        let shows = frame.stored < frame.content || frame.compression == Compression::OFF;
        if let Some(step) = step.filter(|_| shows && frame.stored > 0) {
            let produces = bytes(frame.stored) / frame.took.as_secs_f64().max(1e-6);
            let known = &mut self.steps[step];
            known.produces = Some(known.produces.map_or(produces, |before| before + (produces - before) / 4.0));
            known.seen = now;
        }
    }

    /// Takes a step, or none.
    fn decide(&mut self, elapsed: Duration, now: Duration, threads: u32) {
        let Measured { compressing, full, empty, durable, .. } = self.measured;
        let busy = elapsed.saturating_sub(empty).as_secs_f64();
        self.link = (self.link.0 * FADES + bytes(durable), self.link.1 * FADES + busy);
        if self.given_up {
            return;
        }
        let takes = self.link.0 / self.link.1.max(1e-6);
        let all_threads = elapsed * threads;
        if empty * 8 >= elapsed && compressing * 10 >= all_threads * 6 {
            self.step = self.step.saturating_sub(1);
        } else if full * 2 >= elapsed
            && self.step + 1 < STEPS.len()
            && self.keeps_up(self.step + 1, takes, now, threads)
        {
            self.step += 1;
        }
    }

    /// Whether a step is expected to produce as much as the link takes. Of one that is not known, half of what the one before produces.
    fn keeps_up(&self, step: usize, takes: f64, now: Duration, threads: u32) -> bool {
        let known = |step: usize| self.steps.get(step).and_then(|step| step.produces);
        let is_fresh = now.saturating_sub(self.steps[step].seen) < FORGOTTEN;
        let expected = known(step).filter(|_| is_fresh).or_else(|| known(step - 1).map(|before| before / 2.0));
        expected.is_none_or(|produces| produces * f64::from(threads) >= takes * RESERVE)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate that is compared with another one")]
fn bytes(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FakeClock;

    const FRAME: f64 = 1_048_576.0;
    const WINDOW: f64 = 32.0 * FRAME;
    const FLUSHED: f64 = 8.0 * FRAME;

    /// Bytes that one thread compresses in a second at a level, and what part of them is left: of text, about as zstd has it.
    fn of_text(level: i32) -> (f64, f64) {
        match level {
            0 => (5e9, 1.0),
            1 => (400e6, 0.40),
            2 => (320e6, 0.38),
            3 => (250e6, 0.35),
            5 => (110e6, 0.33),
            7 => (70e6, 0.31),
            9 => (50e6, 0.30),
            12 => (20e6, 0.295),
            15 => (8e6, 0.28),
            _ => (3e6, 0.25),
        }
    }

    /// A source, a link, and a window between them, in steps of one frame.
    struct Simulation {
        clock: Arc<FakeClock>,
        adaptive: Adaptive,
        threads: f64,
        /// Bytes a second that the disk gives at most, and that the link takes.
        disk: f64,
        link: f64,
        window: f64,
        not_told: f64,
        levels: Vec<i32>,
    }

    impl Simulation {
        fn new(threads: u32, disk: f64, link: f64) -> Self {
            let clock = Arc::new(FakeClock::at(Duration::ZERO));
            let adaptive = Adaptive::new(clock.clone(), threads as usize);
            let threads = f64::from(threads);
            Self { clock, adaptive, threads, disk, link, window: 0.0, not_told: 0.0, levels: Vec::new() }
        }

        /// Time passes; the link takes what it can. The target tells what is durable 8 MiB at a time.
        fn pass(&mut self, seconds: f64) {
            let taken = self.window.min(seconds * self.link);
            let idle = seconds - taken / self.link;
            self.window -= taken;
            self.not_told += taken;
            while self.not_told >= FLUSHED {
                self.not_told -= FLUSHED;
                self.adaptive.became_durable(8 << 20);
            }
            self.adaptive.window_was_empty(Duration::from_secs_f64(idle));
            self.clock.sleep(Duration::from_secs_f64(seconds));
        }

        fn frame(&mut self, content: impl Fn(i32) -> (f64, f64)) {
            let compression = self.adaptive.next();
            self.levels.push(compression.level());
            let (speed, part) = content(compression.level());
            let took = FRAME / speed;
            // Threads work side by side, and wait for the disk if that is slower.
            self.pass((took / self.threads).max(FRAME / self.disk));
            let stored = FRAME * part;
            if self.window + stored > WINDOW {
                let wait = (self.window + stored - WINDOW) / self.link;
                self.adaptive.window_was_full(Duration::from_secs_f64(wait));
                self.pass(wait);
            }
            self.window += stored;
            let took = Duration::from_secs_f64(took);
            let whole = |bytes: f64| format!("{bytes:.0}").parse().unwrap();
            self.adaptive.packed(&Packed { compression, content: 1 << 20, stored: whole(stored), took });
        }

        fn run(&mut self, seconds: u64, content: impl Fn(i32) -> (f64, f64) + Copy) {
            let end = self.clock.now() + Duration::from_secs(seconds);
            while self.clock.now() < end {
                self.frame(content);
            }
        }

        /// The levels of the last frames, each once, in order of size.
        fn settled(&self) -> Vec<i32> {
            let mut last: Vec<_> = self.levels[self.levels.len() * 3 / 4..].to_vec();
            last.sort_unstable();
            last.dedup();
            last
        }
    }

    fn are_neighbours(levels: &[i32]) -> bool {
        let place = |level: i32| STEPS.iter().position(|step| i32::from(*step) == level).unwrap();
        place(*levels.last().unwrap()) - place(levels[0]) <= 1
    }

    #[test]
    fn a_slow_link_is_worth_the_hardest() {
        // 2 MB/s: level 19 makes 2 * 3 MB/s * 0.25 = 1.5 MB/s, which is less; 15 makes 4.5 MB/s.
        let mut slow = Simulation::new(2, 500e6, 2e6);
        slow.run(3000, of_text);
        assert!(slow.settled()[0] == 15, "{:?}", slow.settled());
        let mut slowest = Simulation::new(2, 500e6, 0.5e6);
        slowest.run(3000, of_text);
        assert_eq!(slowest.settled(), [19]);
    }

    #[test]
    fn a_fast_link_is_not_kept_waiting() {
        // 1 GB/s: even level 1 makes 320 MB/s only.
        let mut fast = Simulation::new(2, 5e9, 1e9);
        fast.run(60, of_text);
        assert_eq!(fast.settled(), [0]);
        // 250 MB/s: level 1 makes 320 MB/s, level 2 243 MB/s.
        let mut middle = Simulation::new(2, 5e9, 250e6);
        middle.run(300, of_text);
        let settled = middle.settled();
        assert!(settled.iter().all(|level| [1, 2].contains(level)), "{settled:?}");
    }

    #[test]
    fn it_settles_between_neighbours_at_every_speed() {
        for link in [1e6, 3e6, 7e6, 12e6, 20e6, 35e6, 60e6, 90e6, 140e6, 200e6, 270e6, 400e6, 700e6] {
            for threads in [1, 2, 8] {
                let mut simulation = Simulation::new(threads, 2e9, link);
                simulation.run(1200, of_text);
                let settled = simulation.settled();
                assert!(are_neighbours(&settled), "{link} with {threads} threads: {settled:?}");
            }
        }
    }

    #[test]
    fn faster_links_have_lower_levels() {
        let settled = |link: f64| {
            let mut simulation = Simulation::new(2, 2e9, link);
            simulation.run(1200, of_text);
            simulation.settled()[0]
        };
        let levels: Vec<_> = [1e6, 5e6, 20e6, 60e6, 200e6, 900e6].map(settled).to_vec();
        assert!(levels.is_sorted_by(|harder, lighter| harder >= lighter), "{levels:?}");
        assert!(levels[0] >= 15 && levels[5] == 0, "{levels:?}");
    }

    #[test]
    fn a_slow_disk_is_no_reason_to_compress_less() {
        // The link waits for the disk, and the threads have time: a lower level would make nothing faster.
        let mut slow_disk = Simulation::new(4, 30e6, 100e6);
        slow_disk.run(300, of_text);
        assert_eq!(slow_disk.settled(), [3]);
    }

    #[test]
    fn a_link_that_changes_is_followed() {
        let mut link = Simulation::new(2, 2e9, 2e6);
        link.run(1500, of_text);
        assert_eq!(link.settled()[0], 15);
        link.link = 1e9;
        link.levels.clear();
        link.run(120, of_text);
        assert_eq!(link.settled(), [0]);
        link.link = 2e6;
        link.levels.clear();
        link.run(3000, of_text);
        assert_eq!(link.settled()[0], 15);
    }

    #[test]
    fn what_does_not_become_shorter_is_left_as_it_is() {
        let noise = |level: i32| if level == 0 { (5e9, 1.0) } else { (of_text(level).0 / 2.0, 1.0) };
        let mut packed = Simulation::new(2, 500e6, 2e6);
        packed.run(400, noise);
        let levels = &packed.levels[20..];
        assert!(levels.iter().filter(|level| **level == 0).count() * 17 >= levels.len() * 15, "{levels:?}");
        assert!(levels.iter().all(|level| *level <= 1) && levels.contains(&1), "it is tried now and then, lightly");
        // And text that follows is compressed again, at the latest with the frame after the next one that is tried.
        packed.levels.clear();
        packed.run(60, of_text);
        assert!(packed.levels[17..].iter().all(|level| *level > 1), "{:?}", packed.levels);
    }
}
