//! A process under way, and signals to it.

use super::Run;
use std::io::Read;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is killed when the test loses sight of it.
#[must_use]
pub struct Running {
    child: Child,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts a command with pipes to all three streams.
    pub fn start(mut command: Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let reading = thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        Self { child, stderr: Some(reading) }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input; it ends when the caller drops it.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// Its standard output.
    pub fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().unwrap()
    }

    /// Sends a signal, such as `INT`.
    pub fn signal(&self, name: &str) {
        // Not waited for yet, so its number cannot belong to somebody else.
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).output().unwrap();
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until something is the case, or the process has ended. Returns whether it still runs.
    pub fn wait_until(&mut self, mut done: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + PATIENCE;
        while self.is_running() {
            if done() {
                return true;
            }
            assert!(Instant::now() < end, "nothing came of waiting");
            thread::sleep(Duration::from_micros(200));
        }
        false
    }

    /// Waits for its end. A process that was killed has exit code -1.
    pub fn finish(mut self) -> Run {
        drop(self.child.stdin.take());
        let reading = self.child.stdout.take().map(|mut stdout| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                stdout.read_to_end(&mut bytes).unwrap();
                bytes
            })
        });
        assert!(!self.wait_until(|| false));
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        let stdout = reading.map(|reading| reading.join().unwrap()).unwrap_or_default();
        let stderr = self.stderr.take().unwrap().join().unwrap();
        assert!(!stderr.contains("panicked"), "{stderr}");
        Run { code, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
