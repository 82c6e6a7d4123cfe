//! Building: the same bytes each time, and sentences where it cannot be done.

use crate::tree::{Tree, WHEN, told};
use failback_tests::lab::{has_programs, static_program, tool, workspace};
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

#[test]
fn slow_packages_are_the_same_wherever_they_are_built() {
    if !has_programs(&["rpmbuild", "dpkg-deb"]) {
        return;
    }
    let (here, there) = (Tree::new("failback", "022"), Tree::new("another place", "077"));
    // The program is found by a path from where the call is made, too.
    fs::copy(static_program(), there.beside("program")).unwrap();
    let first = here.packages(&[]);
    let names: Vec<_> =
        first.iter().map(|path| path.strip_prefix(here.beside("out")).unwrap().to_str().unwrap()).collect();
    let version = env!("CARGO_PKG_VERSION");
    let wanted = [
        format!("failback-{version}-1.x86_64.rpm"),
        format!("failback-appliance-{version}-1.noarch.rpm"),
        format!("failback_{version}-1_amd64.deb"),
    ];
    assert_eq!(names, wanted);
    let mut again = there.build(&["package", "--binary", "program", "-o", "out"]);
    let output = again.env("TZ", "America/Adak").env("LANG", "de_DE.UTF-8").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in &wanted {
        let (one, other) = (here.beside("out").join(name), there.beside("out").join(name));
        assert!(fs::read(&one).unwrap() == fs::read(&other).unwrap(), "{name} differs");
    }
    let times = tool("rpm", &["-qp", "--qf", "%{BUILDTIME} [%{FILEMTIMES} ]", first[0].to_str().unwrap()]);
    assert!(times.split_ascii_whitespace().all(|time| time == WHEN), "{times}");
}

#[test]
fn what_is_no_static_program_of_this_version_is_refused() {
    if !has_programs(&["rpmbuild", "dpkg-deb", "readelf", "busybox"]) {
        return;
    }
    let tree = Tree::new("failback", "022");
    let refused = |program: &str, words: &str| {
        told(&tree.build(&["package", "--binary", program]).output().unwrap(), 1, words);
    };
    refused("nowhere", "is no file");
    refused("failback/scripts/demo", "is no program for x86-64");
    refused("/bin/cp", "is linked dynamically");
    let busybox = tool("sh", &["-c", "command -v busybox"]);
    refused(&busybox, "not \"failback");
    let plain = tree.beside("plain");
    fs::write(&plain, fs::read(static_program()).unwrap()).unwrap();
    refused(plain.to_str().unwrap(), "is not executable");
    let old = tree.beside("failback/Cargo.toml");
    let text = fs::read_to_string(&old).unwrap();
    fs::write(old, text.replace(concat!("version = \"", env!("CARGO_PKG_VERSION"), "\""), "version = \"99.0.0\""))
        .unwrap();
    refused(static_program().to_str().unwrap(), "not \"failback 99.0.0\"");
}

#[test]
fn what_is_missing_is_named() {
    if !has_programs(&["rpmbuild", "dpkg-deb", "readelf"]) {
        return;
    }
    let program = static_program();
    let package = ["package", "--binary", program.to_str().unwrap()];
    let tree = Tree::new("failback", "022");
    let without_date = |value: Option<&str>| {
        let mut command = tree.build(&package);
        match value {
            Some(value) => command.env("SOURCE_DATE_EPOCH", value),
            None => command.env_remove("SOURCE_DATE_EPOCH"),
        };
        command.output().unwrap()
    };
    told(&without_date(None), 1, "git does not tell when the last commit was made");
    told(&without_date(Some("yesterday")), 1, "SOURCE_DATE_EPOCH is 'yesterday'");
    let unit = tree.path("appliance/package/units/failback-check.service");
    let text = fs::read_to_string(&unit).unwrap();
    fs::write(&unit, text.replace("ExecStart=/usr/bin/failback ", "ExecStart=/usr/bin/failback no-")).unwrap();
    told(&tree.build(&package).output().unwrap(), 1, "which failback-check.service starts");
    fs::write(&unit, text).unwrap();
    fs::remove_file(tree.path("scripts/apply-custom-changes")).unwrap();
    told(&tree.build(&package).output().unwrap(), 1, "scripts/apply-custom-changes is missing");
    assert!(
        !tree.path("target/appliance").read_dir().is_ok_and(|mut found| found.next().is_some()),
        "half of it was built"
    );
    let build = tree.path("appliance/package/build");
    fs::remove_file(build).unwrap();
    told(&tree.build(&package).output().unwrap(), 1, "appliance/package/build is missing");
}

#[test]
fn nothing_is_left_of_a_package_that_cannot_get_its_name() {
    if !has_programs(&["rpmbuild", "dpkg-deb", "readelf"]) {
        return;
    }
    let tree = Tree::new("failback", "022");
    let name = format!("failback_{}-1_amd64.deb", env!("CARGO_PKG_VERSION"));
    fs::create_dir_all(tree.beside("out")).unwrap();
    symlink("elsewhere", tree.beside("out").join(&name)).unwrap();
    let program = static_program();
    let package = ["package", "--only", "deb", "-o", "out", "--binary", program.to_str().unwrap()];
    told(&tree.build(&package).output().unwrap(), 1, "is no regular file, so it is not replaced");
    assert_eq!(fs::read_link(tree.beside("out").join(&name)).unwrap().to_str(), Some("elsewhere"));
    let left: Vec<_> = fs::read_dir(tree.beside("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [name.as_str()]);
}

#[test]
fn the_usage_is_told() {
    let build = workspace().join("appliance/build");
    let run = |arguments: &[&str]| {
        let output = Command::new(&build).args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code().unwrap(), text)
    };
    let (code, [usage, _]) = run(&["--help"]);
    assert_eq!(code, 0);
    for part in ["package", "live", "seed", "installer"] {
        assert!(usage.contains(&format!("\n  {part} ")), "{usage}");
    }
    assert_eq!(run(&[]), (2, [String::new(), usage.clone()]));
    assert_eq!(run(&["pakage"]), (2, [String::new(), format!("build: there is no part \"pakage\"\n\n{usage}")]));
    let (code, [usage, _]) = run(&["package", "--help"]);
    assert_eq!(code, 0);
    assert!(usage.starts_with("usage: appliance/build package "), "{usage}");
    for (wrong, words) in [
        (&["package", "--only"][..], "--only lacks its value"),
        (&["package", "--only", "tar"], "there is no format tar"),
        (&["package", "--quick"], "--quick is not understood"),
    ] {
        assert_eq!(run(wrong), (2, [String::new(), format!("build: {words}\n\n{usage}")]));
    }
}

/// In a repository the time is that of the last commit.
#[test]
fn the_time_is_that_of_the_commit() {
    let script =
        "unset SOURCE_DATE_EPOCH; cd \"$0\"; source appliance/lib/common.sh; use_source_date; echo $SOURCE_DATE_EPOCH";
    let said = tool("bash", &["-c".as_ref(), script.as_ref(), workspace().as_os_str()]);
    let directory = ["-C".as_ref(), workspace().as_os_str()];
    assert_eq!(
        said,
        tool("git", &[&directory[..], &["log".as_ref(), "-1".as_ref(), "--format=%ct".as_ref()]].concat())
    );
}
