//! Which runtime is used, in processes of their own.

use failback_transport::{RUNTIME_VARIABLE, Runtime};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::collections::BTreeMap;
use std::process::Command;
use std::thread;

/// What a process says of the runtimes that it starts.
fn told(value: Option<&str>) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "runtime::says_what_it_starts", "--nocapture"]);
    match value {
        Some(value) => command.env(RUNTIME_VARIABLE, value),
        None => command.env_remove(RUNTIME_VARIABLE),
    };
    let output = command.output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    said.lines().find_map(|line| line.split_once("starts: ")).map(|(_, told)| told.to_owned()).unwrap()
}

#[test]
fn says_what_it_starts() {
    let start = || Runtime::start().map_or_else(|error| error.to_string(), |runtime| format!("{:?}", runtime.kind()));
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let first = start();
    let before = files();
    let more: Vec<_> = (0..3).map(|_| start()).collect();
    assert!(more.iter().all(|kind| *kind == first), "{first}, {more:?}");
    println!("starts: {first} and {} descriptors more", files() - before);
}

#[test]
fn the_environment_names_what_is_used() {
    assert_eq!(told(Some("tokio")), "Tokio and 0 descriptors more");
    let refused = told(Some("epoll"));
    assert!(refused.starts_with("FAILBACK_RUNTIME is neither tokio nor io_uring"), "{refused}");
    assert_eq!(told(None), told(Some("")));
}

#[test]
fn where_the_kernel_refuses_an_io_uring_it_is_tokio() {
    let filter = SeccompFilter::new(
        BTreeMap::from([(nix::libc::SYS_io_uring_setup, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(u32::try_from(nix::libc::EPERM).unwrap()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let filter: BpfProgram = filter.unwrap().try_into().unwrap();
    // A filter holds for the thread that asks for it and for what that starts.
    let told = thread::spawn(move || {
        seccompiler::apply_filter(&filter).unwrap();
        (told(None), told(Some("io_uring")))
    });
    let (chosen, named) = told.join().unwrap();
    assert_eq!(chosen, "Tokio and 0 descriptors more");
    assert!(named.contains("Operation not permitted"), "what is named is not replaced: {named}");
}
