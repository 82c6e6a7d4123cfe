//! Two machines' networks with a wire between them, on this machine and seen by nobody else.

use super::{Running, has_devices, has_programs, skipped, tool, try_tool};
use std::ffi::OsStr;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

const PATIENCE: Duration = Duration::from_secs(10);

/// An end of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Where the master target is.
    Site,
    /// Where the source is.
    Cloud,
}

impl At {
    /// Its address.
    pub const fn address(self) -> &'static str {
        match self {
            Self::Site => "10.77.0.1",
            Self::Cloud => "10.77.0.2",
        }
    }
}

/// Two network namespaces, and a veth that leads from one to the other. They belong to two processes that end with this one, however it ends.
#[must_use]
pub struct Wire {
    site: Running,
    cloud: Running,
}

/// Where a test that needs a wire begins: `false`, with the reason printed, where there can be none.
pub fn has_wires() -> bool {
    has_devices()
        && has_programs(&["ip", "nsenter", "unshare"])
        && (try_tool("unshare", &["--net", "ip", "link", "add", "wire", "type", "veth"]).status.success()
            || skipped("there are no network namespaces with a veth here"))
}

impl Wire {
    /// Lays one.
    pub fn lay() -> Self {
        let wire = Self { site: room(), cloud: room() };
        let peer = wire.cloud.id().to_string();
        wire.ip(At::Site, &["link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", &peer]);
        for at in [At::Site, At::Cloud] {
            wire.ip(at, &["address", "add", &format!("{}/24", at.address()), "dev", "wire"]);
            wire.ip(at, &["link", "set", "lo", "up"]);
        }
        wire.join();
        wire
    }

    /// Cuts it: what is on it is lost, and neither side is told by the other one.
    pub fn cut(&self) {
        self.ip(At::Site, &["link", "set", "wire", "down"]);
    }

    /// Joins it.
    pub fn join(&self) {
        for at in [At::Site, At::Cloud] {
            self.ip(at, &["link", "set", "wire", "up"]);
        }
    }

    /// A command in the network of one end.
    pub fn command(&self, at: At, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/proc/{}/ns/net", self.room(at).id())).arg("--");
        inside.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            // One without a value is to be taken away, which no test wants.
            inside.env(name, value.unwrap());
        }
        inside
    }

    const fn room(&self, at: At) -> &Running {
        match at {
            At::Site => &self.site,
            At::Cloud => &self.cloud,
        }
    }

    fn ip(&self, at: At, arguments: &[&str]) {
        let network = format!("--net=/proc/{}/ns/net", self.room(at).id());
        let all: Vec<_> = [network.as_str(), "--", "ip"].into_iter().chain(arguments.iter().copied()).collect();
        tool("nsenter", &all);
    }
}

/// A network namespace with a process that has nothing to do, and ends when its standard input does.
fn room() -> Running {
    let ours = fs::read_link("/proc/self/ns/net").unwrap();
    let mut command = Command::new("unshare");
    command.args(["--net", "--", "cat"].map(OsStr::new));
    let room = Running::start(command);
    let (its, end) = (format!("/proc/{}/ns/net", room.id()), Instant::now() + PATIENCE);
    while fs::read_link(&its).is_ok_and(|its| its == ours) {
        assert!(Instant::now() < end, "it got no network namespace");
        thread::sleep(Duration::from_millis(1));
    }
    room
}
