//! Real directories: links, pipes, permissions and locks.

use failback_retention::{Directory, FsDirectory, LockError};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn nobody_else_may_look_into_it() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("retention");
    let directory = FsDirectory::create(&path).unwrap();
    let mut file = directory.create("a").unwrap();
    file.append(b"secret").unwrap();
    assert_eq!((mode(&path), mode(&path.join("a"))), (0o700, 0o600));
    drop(file);
    // A second time it is there already, with what is in it.
    assert_eq!(FsDirectory::create(&path).unwrap().names().unwrap(), ["a"]);
    assert_eq!(directory.place(), path.display().to_string());
}

#[test]
fn what_is_no_directory_is_not_opened() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("file");
    fs::write(&file, b"text").unwrap();
    FsDirectory::open(&file).unwrap_err();
    FsDirectory::create(&file).unwrap_err();
    assert_eq!(FsDirectory::open(&place.path().join("missing")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(FsDirectory::create(&place.path().join("a/b")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn links_pipes_and_directories_are_no_files() {
    let place = tempfile::tempdir().unwrap();
    let directory = FsDirectory::open(place.path()).unwrap();
    let outside = place.path().join("outside");
    fs::write(&outside, b"untouched").unwrap();
    symlink(&outside, place.path().join("link")).unwrap();
    fs::create_dir(place.path().join("below")).unwrap();
    nix::unistd::mkfifo(&place.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for name in ["link", "below", "pipe"] {
        assert_eq!(directory.open(name).map(drop).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        assert_eq!(directory.create(name).map(drop).unwrap_err().kind(), ErrorKind::AlreadyExists, "{name}");
    }
    directory.remove("below").unwrap_err();
    assert_eq!(fs::read(&outside).unwrap(), b"untouched");
}

#[test]
fn a_lock_file_that_is_a_link_is_not_followed() {
    let place = tempfile::tempdir().unwrap();
    symlink(place.path().join("elsewhere"), place.path().join("lock")).unwrap();
    let error = FsDirectory::open(place.path()).unwrap().lock(true).unwrap_err();
    assert!(matches!(error, LockError::Failed { .. }), "{error}");
    assert!(!place.path().join("elsewhere").exists());
}

#[test]
fn one_changes_or_several_read() {
    let place = tempfile::tempdir().unwrap();
    let [first, second] = [(); 2].map(|()| FsDirectory::open(place.path()).unwrap());
    let exclusive = first.lock(true).unwrap();
    for wanted in [true, false] {
        let error = second.lock(wanted).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, LockError::Held { .. }), "{text}");
        assert!(text.contains(&format!("in use by process {} (", std::process::id())), "{text}");
    }
    drop(exclusive);
    let readers = [first.lock(false).unwrap(), second.lock(false).unwrap()];
    assert!(matches!(first.lock(true), Err(LockError::Held { .. })));
    drop(readers);
    drop(second.lock(true).unwrap());
}

#[test]
fn a_dead_process_holds_no_lock() {
    let place = tempfile::tempdir().unwrap();
    let directory = FsDirectory::open(place.path()).unwrap();
    drop(directory.lock(true).unwrap());
    let script = "exec 9<\"$1\"; flock 9; echo held; exec sleep 600";
    let mut command = Command::new("bash");
    command.args(["-c", script, "-"]).arg(place.path().join("lock")).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let held = directory.lock(false);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(line, "held\n");
    assert!(matches!(held, Err(LockError::Held { .. })), "{held:?}");
    directory.lock(true).unwrap();
}
