//! The man pages: those that the program writes, and those that are kept as files.

use failback_tests::failback;
use failback_tests::lab::{Place, has_programs, try_tool, workspace};
use std::fs;
use std::path::Path;

/// Wants that two programs that show pages have nothing to say about one. mandoc's words below `level` do not count.
#[track_caller]
fn well_made(page: &Path, level: &str) {
    let shown =
        try_tool("man", &["--warnings".as_ref(), "-l".as_ref(), "-P".as_ref(), "cat".as_ref(), page.as_os_str()]);
    assert!(shown.status.success() && shown.stderr.is_empty(), "{}", String::from_utf8_lossy(&shown.stderr));
    let looked_at = try_tool("mandoc", &["-Tlint".as_ref(), "-W".as_ref(), level.as_ref(), page.as_os_str()]);
    assert!(looked_at.status.success(), "{}", String::from_utf8_lossy(&looked_at.stdout));
}

#[test]
fn pages_of_the_program_are_well_made() {
    if !has_programs(&["man", "mandoc"]) {
        return;
    }
    let place = Place::new();
    failback!("man", place.root()).env("SOURCE_DATE_EPOCH", "1700000000").done();
    let title = format!(".TH FAILBACK-POINT-LIST 1 2023-11-14 \"failback {}\" failback\n", env!("CARGO_PKG_VERSION"));
    let text = fs::read_to_string(place.path("failback-point-list.1")).unwrap();
    assert!(text.contains(&title), "{text}");
    for name in place.names() {
        let text = fs::read_to_string(place.path(&name)).unwrap();
        assert!(text.contains("\n.SH \"EXIT STATUS\"\n") && text.contains("\n.SH \"SEE ALSO\"\n"), "{name}");
        // The generator puts line breaks beside those of lists, which are no warning that a reader would see.
        well_made(&place.path(&name), "error");
    }
}

#[test]
fn kept_pages_are_well_made() {
    if !has_programs(&["man", "mandoc"]) {
        return;
    }
    let place = Place::new();
    let kept = fs::read_dir(workspace().join("appliance/package/man")).unwrap();
    let mut count = 0;
    for entry in kept {
        let entry = entry.unwrap();
        let text = fs::read_to_string(entry.path()).unwrap();
        assert!(text.contains("@DATE@") && text.contains("@VERSION@"), "{entry:?}");
        let text = text.replace("@DATE@", "2023-11-14").replace("@VERSION@", env!("CARGO_PKG_VERSION"));
        well_made(&place.file(entry.file_name().to_str().unwrap(), text.as_bytes()), "style");
        count += 1;
    }
    assert_eq!(count, 2);
}

/// What failback.toml(5) and the file that is installed name is what the program takes.
#[test]
fn the_configuration_is_described_in_full() {
    let place = Place::new();
    let package = workspace().join("appliance/package");
    let example = fs::read_to_string(package.join("files/failback.toml")).unwrap();
    let page = fs::read_to_string(package.join("man/failback.toml.5")).unwrap();
    let disk = place.noisy("disk.img", 4096, 1);
    let with_config = |name: &str, text: &str| {
        let config = place.file(name, text.as_bytes());
        failback!("status", disk).env("FAILBACK_CONFIG", config)
    };
    with_config("installed", &example).done();
    let names = ["directory", "keep_points", "keep_for", "keep_space"];
    let mut all = example.clone();
    for name in names {
        assert!(page.contains(&format!("\n.BI \"{name} = ")), "{name}");
        let line = format!("#{name} = ");
        assert!(all.contains(&line), "{name}");
        all = all.replace(&line, &line[1..]);
    }
    let all = all.replace("/var/lib/failback/retention", place.directory("retention").to_str().unwrap());
    with_config("all", &all).done();
    with_config("wrong", &all.replace("keep_points", "keep_point")).refused("keep_point");
    assert_eq!(page.matches("\n.BI \"").count(), names.len());
}
