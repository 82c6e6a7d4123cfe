//! A site with a master target, and a machine elsewhere that sends to it.

use failback_tests::failback;
use failback_tests::lab::{Place, Port, Program, Running, noise, program, root_of_file};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Directories of both, on one machine.
pub(crate) struct Site {
    pub(crate) place: Place,
}

/// A master target that runs.
pub(crate) struct Daemon {
    pub(crate) running: Running,
    /// Where sources connect.
    pub(crate) data: String,
    /// Where the API is; empty if it has none.
    pub(crate) control: String,
}

impl Site {
    pub(crate) fn new() -> Self {
        // Built before anything is timed.
        let _ = program();
        let place = Place::new();
        place.directory("retention");
        Self { place }
    }

    /// A pair of disks that hold the same, bound for whoever may act on this machine, or for a peer.
    pub(crate) fn pair(&self, name: &str, size: usize, peer: Option<&str>) {
        let content = noise(size, name.len() as u64);
        fs::write(self.source(name), &content).unwrap();
        let target = self.vmdk(name);
        failback!("vmdk", "create", target, "--size", size.to_string(), "--subformat", "monolithicFlat").done();
        fs::write(self.target(name), &content).unwrap();
        let retention = self.place.path("retention");
        let mut add =
            failback!("pair", "add", name, "--source", self.source(name), "--target", target, "--retention", retention);
        if let Some(peer) = peer {
            add = add.arg("--peer").arg(peer);
        }
        self.on_site(add).done();
    }

    /// The same for whoever may act on this machine and for relays, with a key that has to have signed.
    pub(crate) fn pair_signed(&self, name: &str, size: usize, key: &Path) {
        self.pair(name, size, None);
        self.on_site(failback!("pair", "remove", name)).done();
        let retention = self.place.path("retention");
        let disks = failback!("pair", "add", name, "--source", self.source(name), "--target", self.vmdk(name));
        self.on_site(disks.arg("--retention").arg(retention).arg("--trusted-key").arg(key)).done();
    }

    pub(crate) fn source(&self, name: &str) -> PathBuf {
        self.place.path(&format!("{name}.img"))
    }

    pub(crate) fn vmdk(&self, name: &str) -> PathBuf {
        self.place.path(&format!("{name}.vmdk"))
    }

    /// The bytes of a target.
    pub(crate) fn target(&self, name: &str) -> PathBuf {
        self.place.path(&format!("{name}-flat.vmdk"))
    }

    /// Changes the source.
    pub(crate) fn write(&self, name: &str, at: u64, bytes: &[u8]) {
        OpenOptions::new().write(true).open(self.source(name)).unwrap().write_all_at(bytes, at).unwrap();
    }

    #[track_caller]
    pub(crate) fn is_home(&self, name: &str) {
        assert_eq!(root_of_file(&self.target(name)), root_of_file(&self.source(name)), "{name}");
    }

    /// A command on the master target.
    pub(crate) fn on_site(&self, command: Program) -> Program {
        command.arg("--state").arg(self.place.path("site"))
    }

    /// A command on the machine elsewhere.
    pub(crate) fn elsewhere(&self, command: Program) -> Program {
        command.arg("--state").arg(self.place.path("elsewhere"))
    }

    /// Sends a source to an address.
    pub(crate) fn send(&self, name: &str, to: &str) -> Program {
        let journal = self.place.path("journal");
        self.elsewhere(failback!("send", self.source(name), "--to", to, "--pair", name, "--journal", journal))
    }

    /// The address of a master target that runs for one session only, as through ssh.
    pub(crate) fn by_command(&self) -> String {
        format!("exec:'{}' serve --stdio --state '{}'", program().display(), self.place.path("site").display())
    }

    /// Starts the daemon, at any free ports: one that is started again is at others.
    pub(crate) fn serve(&self) -> Daemon {
        self.serve_in("site")
    }

    /// Starts a master target with another state.
    pub(crate) fn serve_in(&self, state: &str) -> Daemon {
        self.serve_at("127.0.0.1", state, |command| command)
    }

    /// Starts a master target at an address of a machine, where `placed` runs what it is given.
    pub(crate) fn serve_at(&self, address: &str, state: &str, placed: impl FnOnce(Command) -> Command) -> Daemon {
        let any = format!("{address}:0");
        let args = ["serve", "--listen", &any, "--control", &any];
        self.start_at(state, &args.map(OsStr::new), "the master target is ready", placed)
    }

    /// Starts the daemon where sources have connected to an earlier one, too.
    pub(crate) fn serve_on(&self, port: &Port) -> Daemon {
        let data = port.address();
        let args = ["serve", "--listen", &data, "--control", "127.0.0.1:0"];
        self.start("site", &args.map(OsStr::new), "the master target is ready")
    }

    /// Starts a daemon, and waits until its log says that it is ready.
    pub(crate) fn start(&self, state: &str, args: &[&OsStr], ready: &str) -> Daemon {
        self.start_at(state, args, ready, |command| command)
    }

    fn start_at(&self, state: &str, args: &[&OsStr], ready: &str, placed: impl FnOnce(Command) -> Command) -> Daemon {
        let log = self.place.path(&format!("{state}.log"));
        // What an earlier one wrote says nothing of this one.
        File::create(&log).unwrap();
        let mut command = Command::new("sh");
        command.arg("-c").arg("exec \"$@\" 2>\"$0\"").arg(&log).arg(program()).args(args);
        command.arg("--state").arg(self.place.path(state));
        command.args(["--log", "json"]);
        let command = placed(command);
        let mut running = Running::start(command);
        let began = Instant::now();
        loop {
            let lines = lines(&log);
            if lines.iter().any(|line| line["message"] == ready) {
                let at = |message: &str| {
                    let found = lines.iter().find(|line| line["message"] == message);
                    found.map(|line| line["address"].as_str().unwrap().to_owned()).unwrap_or_default()
                };
                return Daemon { running, data: at("sources connect here"), control: at("the API is here") };
            }
            assert!(running.is_running() && began.elapsed() < PATIENCE, "{}", fs::read_to_string(&log).unwrap());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What the daemon's log says, line by line.
    pub(crate) fn log(&self) -> Vec<Value> {
        lines(&self.place.path("site.log"))
    }

    /// Lets the machine elsewhere in.
    pub(crate) fn enroll(&self, daemon: &Daemon, name: &str) {
        let token = self.on_site(failback!("enroll", "token", name)).json();
        let token = token["token"].as_str().unwrap().as_bytes().to_vec();
        self.elsewhere(failback!("enroll", "join", daemon.data)).fed(token).done();
    }

    pub(crate) fn jobs(&self) -> Vec<Value> {
        self.jobs_in("site")
    }

    fn jobs_in(&self, state: &str) -> Vec<Value> {
        failback!("jobs", "--state", self.place.path(state)).json()["jobs"].as_array().unwrap().clone()
    }

    /// All jobs, once none of them runs: a source may know that its pass is done before the master target has noted that.
    #[track_caller]
    pub(crate) fn ended_jobs(&self) -> Vec<Value> {
        self.ended_jobs_in("site")
    }

    /// The same of a machine with another state.
    #[track_caller]
    pub(crate) fn ended_jobs_in(&self, state: &str) -> Vec<Value> {
        let began = Instant::now();
        loop {
            let jobs = self.jobs_in(state);
            if jobs.iter().all(|job| job["state"] != "running") {
                return jobs;
            }
            assert!(began.elapsed() < PATIENCE, "{jobs:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn lines(log: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[track_caller]
pub(crate) fn wait_for(what: &str, so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}
