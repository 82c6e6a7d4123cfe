//! The .deb: what is in it, and what it does where it is installed.

use crate::tree::{Tree, installed, mode};
use failback_tests::lab::{has_devices, has_programs, tool, try_tool};
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

/// What it installs besides man pages and what all packages of a Debian have in their directory of documents.
const FILES: [&str; 7] = [
    "/etc/failback/failback.toml 644",
    "/usr/bin/failback 755",
    "/usr/lib/tmpfiles.d/failback.conf 644",
    "/usr/share/bash-completion/completions/failback 644",
    "/usr/share/fish/vendor_completions.d/failback.fish 644",
    "/usr/share/zsh/vendor-completions/_failback 644",
    "/var/lib/failback 700",
];

fn build() -> Option<(Tree, PathBuf)> {
    if !has_programs(&["dpkg-deb", "dpkg"]) {
        return None;
    }
    let tree = Tree::new("failback", "022");
    let [package] = tree.packages(&["--only", "deb"]).try_into().unwrap();
    Some((tree, package))
}

#[test]
fn the_deb_installs_and_goes_again() {
    if !has_devices() {
        return;
    }
    let Some((tree, package)) = build() else { return };
    let fields = tool("dpkg-deb", &["--field".as_ref(), package.as_os_str()]);
    for field in [&format!("Version: {}-1", env!("CARGO_PKG_VERSION")), "Package: failback", "Architecture: amd64"] {
        assert!(fields.lines().any(|line| line == field), "{fields}");
    }
    assert!(!fields.contains("Depends"), "{fields}");

    let root = tree.beside("root");
    let database = root.join("var/lib/dpkg");
    for name in ["info", "updates", "triggers"] {
        fs::create_dir_all(database.join(name)).unwrap();
    }
    fs::write(database.join("status"), "").unwrap();
    let dpkg = |arguments: &[&OsStr]| {
        let root = format!("--root={}", root.display());
        // dpkg looks for programs that packages' scripts may need; there are no scripts.
        tool("dpkg", &[&[OsStr::new(&root), "--force-bad-path".as_ref()], arguments].concat())
    };
    dpkg(&["-i".as_ref(), package.as_os_str()]);
    assert_eq!(dpkg(&["-V".as_ref(), "failback".as_ref()]), "");
    let said = tool("chroot", &[root.as_os_str(), "/usr/bin/failback".as_ref(), "--version".as_ref()]);
    assert_eq!(said, format!("failback {}", env!("CARGO_PKG_VERSION")));
    let lines =
        installed(&root, &["/var/lib/dpkg", "/var/log", "/usr/share/man", "/usr/share/doc", "/usr/share/lintian"]);
    let directories = |line: &&String| !line.ends_with(" 755") || line.starts_with("/usr/bin/");
    assert_eq!(lines.iter().filter(directories).collect::<Vec<_>>(), FILES.iter().collect::<Vec<_>>());
    for name in ["man1/failback.1.gz", "man1/failback-point-list.1.gz", "man5/failback.toml.5.gz"] {
        assert_eq!(mode(&root.join("usr/share/man").join(name)), 0o644);
    }
    // Kernels of Debian leave io_uring on: there the setting would take it from others.
    assert!(!root.join("usr/lib/sysctl.d").exists());

    // What an administrator wrote stays when another version is installed over it, and until the package is purged.
    let config = root.join("etc/failback/failback.toml");
    fs::write(&config, "[retention]\nkeep_points = 3\n").unwrap();
    dpkg(&["-i".as_ref(), package.as_os_str()]);
    dpkg(&["-r".as_ref(), "failback".as_ref()]);
    assert_eq!(fs::read_to_string(&config).unwrap(), "[retention]\nkeep_points = 3\n");
    dpkg(&["-P".as_ref(), "failback".as_ref()]);
    let left = installed(&root, &["/var/lib/dpkg", "/var/log"]);
    assert!(left.iter().all(|line| line.ends_with(" 755")), "{left:?}");
}

#[test]
fn slow_lintian_finds_nothing() {
    let Some((_tree, package)) = build().filter(|_| has_programs(&["lintian"])) else { return };
    let arguments = ["--allow-root", "--fail-on", "error,warning"];
    let given: Vec<_> = arguments.iter().map(OsStr::new).chain([package.as_os_str()]).collect();
    let output = try_tool("lintian", &given);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
