//! The seed ISO, which is attached beside an unmodified CentOS ISO.

use crate::isos::{Workshop, label, names_below};
use failback_tests::lab::{hash_of, tool};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

#[test]
fn the_seed_has_its_label_and_its_files() {
    let Some(workshop) = Workshop::new() else { return };
    for release in ["el9", "el10"] {
        let built = workshop.build("seed", &["--rpms", "rpms", "--release", release, "-o", "seed.iso"]);
        assert_eq!(built.code, 0, "{}", built.stderr);
        let seed = workshop.place.path("seed.iso");
        assert_eq!(label(&seed), "OEMDRV");
        let content = workshop.content(&seed, release);
        let files = names_below(&content);
        let packages = ["failback/failback-1.0-1.x86_64.rpm", "failback/failback-appliance-1.0-1.noarch.rpm"];
        let repodata = ["filelists.xml.gz", "other.xml.gz", "primary.xml.gz", "repomd.xml"]
            .map(|name| format!("failback/repodata/{name}"));
        assert_eq!(files, [&packages.map(str::to_owned)[..], &repodata, &["ks.cfg".to_owned()]].concat());
        let flatten = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("kickstart/flatten");
        let flat = tool("bash", &[flatten.as_os_str(), release.as_ref()]);
        assert_eq!(fs::read_to_string(content.join("ks.cfg")).unwrap().trim(), flat);
        // Each package is listed with the checksum that it has.
        let listed =
            tool("sh", &["-c", &format!("zcat {}", content.join("failback/repodata/primary.xml.gz").display())]);
        for package in packages {
            let sum = tool("sha256sum", &[content.join(package)]);
            let sum = sum.split(' ').next().unwrap();
            let name = package.trim_start_matches("failback/");
            assert!(listed.contains(sum) && listed.contains(&format!("href=\"{name}\"")), "{package}\n{listed}");
        }
        assert!(fs::metadata(&seed).unwrap().len() < 1 << 20);
    }
}

#[test]
fn two_builds_of_the_seed_give_the_same_bytes() {
    let Some(workshop) = Workshop::new() else { return };
    let build = |name: &str| {
        assert_eq!(workshop.build("seed", &["--rpms", "rpms", "-o", name]).code, 0);
        hash_of(&workshop.place.path(name), None)
    };
    let first = build("first.iso");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    tool("sh", &["-c", &format!("touch {}/*", workshop.rpms().display())]);
    assert_eq!(first, build("second.iso"));
}

#[test]
fn a_seed_that_cannot_be_made_leaves_nothing() {
    let Some(workshop) = Workshop::new() else { return };
    let before = workshop.place.names();
    let built = workshop.build("seed", &["--rpms", "rpms", "--release", "el8", "-o", "seed.iso"]);
    assert!(built.code == 2 && built.stderr.contains("there is no release el8"), "{}", built.stderr);
    let built = workshop.build("seed", &["--rpms", "rpmbuild", "-o", "seed.iso"]);
    assert!(built.code == 1 && built.stderr.contains("there must be one package"), "{}", built.stderr);
    assert_eq!(workshop.place.names(), before);
    // As the node of a stick: it stays.
    tool("mkfifo", &[workshop.place.path("pipe")]);
    let before = workshop.place.names();
    for (part, arguments) in [("seed", &["--rpms", "rpms"][..]), ("installer", &["--boot-iso", "nowhere.iso"])] {
        let built = workshop.build(part, &[arguments, &["-o", "pipe"]].concat());
        assert!(built.code == 1 && built.stderr.contains("is no regular file"), "{}", built.stderr);
        assert!(fs::symlink_metadata(workshop.place.path("pipe")).unwrap().file_type().is_fifo());
    }
    assert_eq!(workshop.place.names(), before);
}
