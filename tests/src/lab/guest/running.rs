//! Machines under way: what they show, and that they end.

use super::results::{Results, reported};
use crate::lab::Run;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a machine may take, and how long it may say nothing, on its console or to the test: one that is silent for longer has
/// hung, and waiting until the end of its time would tell nothing more.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From its start to its end.
    pub total: Duration,
    /// From one word of it to the next.
    pub silence: Duration,
}

/// The socket at which QEMU takes commands.
const QMP: &str = "qmp";

/// A machine of QEMU's under way; it loses its power when the test loses sight of it.
#[must_use]
pub struct RunningGuest {
    child: Child,
    place: TempDir,
    limits: Limits,
    began: Instant,
    /// How many bytes it had said when it was last seen to say something, and when that was.
    heard: (u64, Instant),
}

impl RunningGuest {
    /// Switches on what `command` describes, with two serial lines more, for console and results; what they say is kept in `place`. It
    /// [takes commands](Self::tell_qemu).
    pub fn start(mut command: Command, place: TempDir, limits: Limits) -> Self {
        let at = |name: &str| place.path().join(name);
        for name in ["console", "results"] {
            command.args(["-serial", &format!("file:{}", at(name).display())]);
        }
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", at(QMP).display())]);
        let told = File::create(at("qemu")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(told).spawn().unwrap();
        let began = Instant::now();
        Self { child, place, limits, began, heard: (0, began) }
    }

    /// The directory of what belongs to it.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// Puts the image of a [reader](super::GuestDisk::empty), which was attached at place `index`, into it.
    #[track_caller]
    pub fn insert(&mut self, index: usize, image: &Path) {
        let medium = serde_json::json!({ "device": format!("drive{index}"), "filename": image, "format": "raw" });
        self.tell_qemu("blockdev-change-medium", &medium);
    }

    /// A command of QMP, which has to succeed.
    #[track_caller]
    pub fn tell_qemu(&mut self, command: &str, arguments: &serde_json::Value) {
        // It listens a moment after it was started.
        let qmp = self.place().join(QMP);
        let mut line = self.await_that("control socket", |_| UnixStream::connect(&qmp).ok());
        line.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let command = serde_json::json!({ "execute": command, "arguments": arguments });
        write!(line, "{{\"execute\":\"qmp_capabilities\"}}\n{command}\n").unwrap();
        // A greeting, and one answer for each.
        let (mut told, mut byte) = (String::new(), [0]);
        while told.matches("\"return\"").count() < 2 {
            assert!(!told.contains("\"error\""), "{told}");
            line.read_exact(&mut byte).unwrap();
            told.push(byte[0].into());
        }
    }

    /// Waits until the guest has reported the result of this name; panics if it ends or hangs before.
    #[track_caller]
    pub fn await_result(&mut self, name: &str) -> Run {
        self.await_that(&format!("result {name}"), |guest| guest.results().remove(name))
    }

    /// Waits until these words stand on its console; panics if it ends or hangs before.
    #[track_caller]
    pub fn await_printed(&mut self, words: &str) {
        self.await_that(&format!("words {words:?}"), |guest| guest.console().contains(words).then_some(()));
    }

    /// Waits until an image of the guest's holds what is to be seen, or anything else is there; panics if the guest ends or hangs
    /// before.
    #[track_caller]
    pub fn await_that<T>(&mut self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        loop {
            let ended = self.has_ended();
            if let Some(found) = found(self) {
                return found;
            }
            assert!(!ended, "the guest ended without a {what}\n{}", self.log());
            self.wait_for(what);
        }
    }

    /// Cuts its power. Returns what it reported.
    ///
    /// Lost is what the guest had in its memory, and what QEMU had not written yet of what was in flight: a request of which a part
    /// may be there. What a disk had told the guest to be written is in the page cache of this machine, flushed or not, and stays; so
    /// this shows what a crash of the machine does, with a real kernel and a real controller, and nothing of a disk's cache, as
    /// [`power`](crate::lab::power) does. QEMU's `cache=unsafe`, which ignores flushes, would change nothing in that.
    pub fn cut_power(mut self) -> Results {
        self.kill();
        Results::read(&self.read("results"), self.log())
    }

    /// Waits until its script has run to the end, and the guest has ended.
    #[track_caller]
    pub fn finish(self) -> Results {
        let (results, reported) = self.until_ended();
        assert!(
            reported.lines().any(|line| line.trim() == "END"),
            "the script did not come to its end\n{}",
            results.log()
        );
        results
    }

    /// Waits until it has switched itself off, whatever was reported until then.
    #[track_caller]
    pub fn await_end(self) -> Results {
        self.until_ended().0
    }

    /// What its first serial line has shown.
    pub fn console(&self) -> String {
        self.read("console")
    }

    /// What QEMU and the guest's console say.
    pub fn log(&self) -> String {
        format!("{}{}", self.read("qemu"), self.console())
    }

    #[track_caller]
    fn until_ended(mut self) -> (Results, String) {
        while !self.has_ended() {
            self.wait_for("end");
        }
        let reported = self.read("results");
        (Results::read(&reported, self.log()), reported)
    }

    /// Waits a moment; panics if it has taken too long, or has been silent for too long.
    #[track_caller]
    fn wait_for(&mut self, what: &str) {
        let now = Instant::now();
        let said =
            ["console", "results"].map(|name| fs::metadata(self.place.path().join(name)).map_or(0, |it| it.len()));
        let said = said.iter().sum();
        if said != self.heard.0 {
            self.heard = (said, now);
        }
        let (total, silence) = (now - self.began, now - self.heard.1);
        assert!(total < self.limits.total, "the guest has no {what} after {} s\n{}", total.as_secs(), self.log());
        let hung = silence >= self.limits.silence;
        assert!(!hung, "the guest has no {what} and has been silent for {} s\n{}", silence.as_secs(), self.log());
        thread::sleep(Duration::from_millis(20));
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    fn kill(&mut self) {
        // Not waited for yet, or ended already: its number cannot belong to somebody else.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.place.path().join(name)).unwrap_or_default()).into_owned()
    }

    fn results(&self) -> BTreeMap<String, Run> {
        reported(&self.read("results"))
    }
}

impl Drop for RunningGuest {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// A machine that says a word in every tenth of a second, for so many of them, then nothing; and how long it took until it was given
    /// up, with what was said of that.
    fn given_up(words: u32, limits: Limits) -> (Duration, String) {
        let mut command = Command::new("bash");
        // Its arguments are what QEMU would get; the second is the file of the console.
        let script = "for ((i = 0; i < WORDS; i++)); do echo word >>\"${2#file:}\"; sleep 0.1; done; exec sleep 60";
        command.args(["-c", script, "qemu"]).env("WORDS", words.to_string());
        let guest = RunningGuest::start(command, tempfile::tempdir().unwrap(), limits);
        let began = guest.began;
        let failure = catch_unwind(AssertUnwindSafe(|| guest.await_end())).unwrap_err();
        (began.elapsed(), failure.downcast_ref::<String>().unwrap().clone())
    }

    #[test]
    fn one_that_is_silent_is_given_up_before_its_time_is_over() {
        let limits = Limits { total: Duration::from_secs(60), silence: Duration::from_secs(1) };
        let (took, told) = given_up(15, limits);
        assert!(told.contains("has been silent for 1 s") && told.contains("word"), "{told}");
        assert!((1..30).contains(&took.as_secs()), "{took:?}");
    }

    #[test]
    fn one_that_talks_on_is_given_up_when_its_time_is_over() {
        let limits = Limits { total: Duration::from_secs(2), silence: Duration::from_secs(60) };
        let (took, told) = given_up(1000, limits);
        assert!(told.contains("has no end after 2 s"), "{told}");
        assert!((2..30).contains(&took.as_secs()), "{took:?}");
    }
}
