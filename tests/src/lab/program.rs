//! Calling the program and looking at what it says.

use super::Running;
use nix::libc::{SYS_fdatasync, SYS_fsync};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde_json::Value;
use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};
use std::{env, fs, thread};

/// More than any call may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program that is tested: `FAILBACK_PROGRAM`, or the one that lies beside the test, built if its sources are newer.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| env::var_os("FAILBACK_PROGRAM").map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    let test = env::current_exe().unwrap();
    // target/debug/deps/test-0123
    let directory = test.ancestors().nth(2).unwrap();
    let program = directory.join("failback");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let built = fs::metadata(&program).and_then(|about| about.modified()).ok();
    if built.is_some_and(|built| newest_source(workspace) <= built) {
        return program;
    }
    let profile = match directory.file_name().and_then(OsStr::to_str).unwrap() {
        "debug" => "dev",
        name => name,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "failback-cli", "--profile", profile, "--target-dir"]);
    command.arg(directory.parent().unwrap()).current_dir(workspace);
    assert!(command.status().unwrap().success(), "the program cannot be built");
    program
}

/// When a source of the program was changed last.
fn newest_source(workspace: &Path) -> SystemTime {
    let mut newest = fs::metadata(workspace.join("Cargo.lock")).unwrap().modified().unwrap();
    let mut directories = vec![workspace.join("agent")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "toml") {
                newest = newest.max(fs::metadata(path).unwrap().modified().unwrap());
            }
        }
    }
    newest
}

/// A call of the program.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Program {
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
}

impl Program {
    /// Without arguments.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments, separated by spaces.
    pub fn args(self, arguments: &str) -> Self {
        arguments.split_ascii_whitespace().fold(self, Self::arg)
    }

    /// A variable of its environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// What it gets on standard input; nothing if this is not called.
    pub fn fed(mut self, stdin: Vec<u8>) -> Self {
        self.stdin = stdin;
        self
    }

    /// The command, for tests that need a hold on the process.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program());
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it, for tests that do something to it while it runs.
    pub fn start(&self) -> Running {
        Running::start(self.command())
    }

    /// Runs it to its end.
    pub fn run(&self) -> Run {
        let mut command = assert_cmd::Command::from_std(self.command());
        let output = command.write_stdin(self.stdin.clone()).timeout(PATIENCE).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!stderr.contains("panicked"), "{stderr}");
        let code = output.status.code();
        let code = code.unwrap_or_else(|| panic!("it did not end by itself: {:?}\n{stderr}", self.arguments));
        Run { code, stdout: output.stdout, stderr }
    }

    /// Runs it on a kernel for which `fsync` and `fdatasync` do nothing and succeed. Flushes by way of `io_uring` are no such calls.
    pub fn run_without_flushes(&self) -> Run {
        let calls = BTreeMap::from([(SYS_fsync, Vec::new()), (SYS_fdatasync, Vec::new())]);
        let done = SeccompAction::Errno(0);
        let filter = SeccompFilter::new(calls, SeccompAction::Allow, done, ARCH.try_into().unwrap());
        let filter: BpfProgram = filter.unwrap().try_into().unwrap();
        let command = self.command();
        // A filter holds for the thread that asks for it and for what that starts.
        let starting = thread::spawn(move || {
            seccompiler::apply_filter(&filter).unwrap();
            Running::start(command)
        });
        starting.join().unwrap().finish()
    }

    /// Runs it, expects it to do what it should, and returns its standard output.
    #[track_caller]
    pub fn done(&self) -> Vec<u8> {
        let run = self.run();
        assert_eq!(run.code, 0, "{:?}: {}", self.arguments, run.stderr);
        run.stdout
    }

    /// Runs it with `--json`, expects it to do what it should, and returns its report.
    #[track_caller]
    pub fn json(self) -> Value {
        self.json_of(0)
    }

    /// Runs it with `--json` and expects both this exit code and a report.
    #[track_caller]
    pub fn json_of(self, code: i32) -> Value {
        let with_json = self.arg("--json");
        let run = with_json.run();
        assert_eq!(run.code, code, "{:?}: {}", with_json.arguments, run.stderr);
        serde_json::from_slice(&run.stdout).unwrap()
    }

    /// Runs it and expects it to end with this exit code, no report and a sentence that has these words in it. Returns
    /// the sentence.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &str) -> String {
        let run = self.run();
        assert_eq!(run.code, code, "{:?}: {}", self.arguments, run.stderr);
        assert!(run.stdout.is_empty(), "a report of what was not done: {run:?}");
        let sentence = run.sentence();
        assert!(sentence.contains(words), "{words:?} is not in: {sentence}");
        sentence
    }

    /// Expects that the command line itself is wrong: exit code 2.
    #[track_caller]
    pub fn misused(&self) {
        let run = self.run();
        assert_eq!(run.code, 2, "{:?}: {}", self.arguments, run.stderr);
        assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
    }

    /// Expects a refusal: exit code 3.
    #[track_caller]
    pub fn refused(&self, words: &str) -> String {
        self.fails(3, words)
    }
}

/// How a call ended.
#[derive(Debug)]
pub struct Run {
    /// The exit code.
    pub code: i32,
    /// What it printed as its result.
    pub stdout: Vec<u8>,
    /// What it told.
    pub stderr: String,
}

impl Run {
    /// The last line that it told, which begins with its name when something went wrong.
    #[track_caller]
    pub fn sentence(&self) -> String {
        let last = self.stderr.lines().last().unwrap_or_default();
        last.strip_prefix("failback: ").unwrap_or_else(|| panic!("no sentence: {self:?}")).to_owned()
    }
}
