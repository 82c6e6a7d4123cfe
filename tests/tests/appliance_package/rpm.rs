//! The RPMs: what they say, and what they do where they are installed.

use crate::tree::{Tree, WHEN, installed, mode};
use failback_tests::lab::{has_devices, has_programs, static_program, tool, try_tool};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// What `failback` installs besides pages, documents and licences, with its mode.
const PROGRAM: [&str; 16] = [
    "/etc/failback 755",
    "/etc/failback/failback.toml 644",
    "/usr/bin/failback 755",
    "/usr/lib/sysctl.d/60-failback.conf 644",
    "/usr/lib/tmpfiles.d/failback.conf 644",
    "/usr/share/bash-completion 755",
    "/usr/share/bash-completion/completions 755",
    "/usr/share/bash-completion/completions/failback 644",
    "/usr/share/fish 755",
    "/usr/share/fish/vendor_completions.d 755",
    "/usr/share/fish/vendor_completions.d/failback.fish 644",
    "/usr/share/man/man5/failback.toml.5.gz 644",
    "/usr/share/zsh 755",
    "/usr/share/zsh/site-functions 755",
    "/usr/share/zsh/site-functions/_failback 644",
    "/var/lib/failback 700",
];
const DOCUMENTS: [&str; 5] = ["ARCHITECTURE.md", "CHANGELOG.md", "README.md", "delta-format.md", "retention-format.md"];
const LICENCES: [&str; 4] = ["LICENSE", "LICENSE-APACHE", "LICENSE-MIT", "THIRD-PARTY"];

/// What `failback-appliance` installs besides what `apply-custom-changes` installs in turn.
const APPLIANCE: [&str; 14] = [
    "/usr/lib/firewalld 755",
    "/usr/lib/firewalld/services 755",
    "/usr/lib/firewalld/services/failback.xml 644",
    "/usr/lib/systemd/system-preset/80-failback-appliance.preset 644",
    "/usr/lib/systemd/system/failback-check.service 644",
    "/usr/lib/systemd/system/failback-console@.service 644",
    "/usr/lib/systemd/system/failback-serve.service 644",
    "/usr/lib/systemd/system/getty@tty1.service 777",
    "/usr/lib/systemd/system/serial-getty@ttyS0.service 777",
    "/usr/libexec/failback 755",
    "/usr/libexec/failback/apply-custom-changes 755",
    "/usr/libexec/failback/network 755",
    "/usr/share/failback 755",
    "/usr/share/man/man7/failback-appliance.7.gz 644",
];

/// Both RPMs, in a tree that lives as long as they do.
struct Rpms {
    tree: Tree,
    program: PathBuf,
    appliance: PathBuf,
}

impl Rpms {
    fn build() -> Option<Self> {
        if !has_programs(&["rpmbuild", "rpm"]) {
            return None;
        }
        let tree = Tree::new("failback", "022");
        let built = tree.packages(&["--only", "rpm"]);
        let [program, appliance] = built.try_into().unwrap();
        Some(Self { tree, program, appliance })
    }
}

/// What a query of an RPM in a file says, line by line.
fn asked(package: &Path, query: &[&str]) -> Vec<String> {
    let arguments: Vec<_> = ["-qp"].iter().chain(query).map(AsRef::as_ref).chain([package.as_os_str()]).collect();
    tool("rpm", &arguments).lines().map(str::to_owned).collect()
}

/// What an RPM has files of, as `/path mode`.
fn files(package: &Path) -> Vec<String> {
    let lines =
        asked(package, &["--qf", "[%{FILENAMES} %{FILEMODES:octal} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILEMTIMES}\n]"]);
    let end = format!(" root:root {WHEN}");
    let mut files: Vec<_> = lines
        .iter()
        .map(|line| {
            let (path, mode) = line.strip_suffix(&end).unwrap_or_else(|| panic!("{line}")).rsplit_once(' ').unwrap();
            format!("{path} {:o}", u32::from_str_radix(mode, 8).unwrap() & 0o7777)
        })
        .collect();
    files.sort();
    files
}

fn sorted(lists: &[&[String]]) -> Vec<String> {
    let mut all = lists.concat();
    all.sort();
    all
}

/// The names of the pages that the program writes.
fn pages(tree: &Tree) -> Vec<String> {
    let directory = tree.beside("pages");
    fs::create_dir(&directory).unwrap();
    tool(static_program().to_str().unwrap(), &["man".as_ref(), directory.as_os_str()]);
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| format!("/usr/share/man/man1/{name}.gz 644")).collect()
}

#[test]
fn the_rpms_say_what_they_are() {
    let Some(rpms) = Rpms::build() else { return };
    for package in [&rpms.program, &rpms.appliance] {
        let said = tool("rpm", &["-K".as_ref(), "--nosignature".as_ref(), package.as_os_str()]);
        assert!(said.ends_with("digests OK"), "{said}");
        assert_eq!(
            asked(package, &["--qf", "%{BUILDHOST} %{BUILDTIME} %{VENDOR}"]),
            [format!("reproducible {WHEN} failback")]
        );
    }
    let (documents, licences) = ("/usr/share/doc/failback", "/usr/share/licenses/failback");
    let more = [
        vec![format!("{documents} 755"), format!("{licences} 755")],
        DOCUMENTS.map(|name| format!("{documents}/{name} 644")).to_vec(),
        LICENCES.map(|name| format!("{licences}/{name} 644")).to_vec(),
    ];
    let wanted = [PROGRAM.map(str::to_owned).to_vec(), more.concat(), pages(&rpms.tree)];
    assert_eq!(files(&rpms.program), sorted(&wanted.each_ref().map(Vec::as_slice)));
    assert_eq!(asked(&rpms.program, &["--configfiles"]), ["/etc/failback/failback.toml"]);
    assert_eq!(asked(&rpms.program, &["--licensefiles"]), LICENCES.map(|name| format!("{licences}/{name}")));
    assert!(asked(&rpms.program, &["--scripts", "--triggers", "--filetriggers"]).is_empty());
    let needed = asked(&rpms.program, &["--requires"]);
    assert!(
        needed.iter().all(|name| name.starts_with("rpmlib(") || name.starts_with("config(failback)")),
        "{needed:?}"
    );
    let provided = asked(&rpms.program, &["--provides"]);
    assert!(provided.iter().any(|name| name.starts_with("bundled(crate(blake3)) = ")), "{provided:?}");
    let licence = asked(&rpms.program, &["--qf", "%{LICENSE}"]).concat();
    assert!(licence.contains("(Apache-2.0 OR MIT)") && licence.contains("LGPL-2.1-or-later"), "{licence}");
}

#[test]
fn the_appliance_has_all_that_is_there() {
    let Some(rpms) = Rpms::build() else { return };
    let custom = "/usr/share/failback/custom";
    let source = rpms.tree.path("appliance/custom");
    let mut found = installed(&source, &[]);
    for line in &mut found {
        // What is executable is so for all, and nothing is for the group to write.
        let (path, bits) = line.rsplit_once(' ').unwrap();
        let all = if u32::from_str_radix(bits, 8).unwrap() & 0o100 == 0 { "644" } else { "755" };
        *line = format!("{custom}{path} {all}");
    }
    assert!(found.contains(&format!("{custom}/of a test/program 755")), "{found:?}");
    let wanted = sorted(&[&APPLIANCE.map(str::to_owned), &found, &[format!("{custom} 755")]]);
    assert_eq!(files(&rpms.appliance), wanted);
    assert!(asked(&rpms.appliance, &["--configfiles"]).is_empty());
    let version = env!("CARGO_PKG_VERSION");
    let needed = asked(&rpms.appliance, &["--requires"]);
    for name in [&format!("failback = {version}-1"), "NetworkManager", "systemd", "util-linux", "/bin/sh"] {
        assert!(needed.iter().any(|needed| needed == name), "{name} is not in {needed:?}");
    }
    // What runs as root is not looked for in whatever PATH there is.
    assert!(needed.iter().any(|needed| needed == "/usr/bin/bash"), "{needed:?}");
    assert!(!needed.iter().any(|needed| needed == "/usr/bin/env"), "{needed:?}");
    let scripts = asked(&rpms.appliance, &["--scripts"]);
    let heads: Vec<_> = scripts.iter().filter(|line| line.contains("scriptlet")).map(String::as_str).collect();
    assert_eq!(
        heads,
        ["postinstall", "preuninstall", "postuninstall"].map(|of| format!("{of} scriptlet (using /bin/sh):"))
    );
    // Both units are taken care of, the firewall learns of its service, and the daemon is that of the package.
    for line in [
        "install-system-units failback-check.service failback-serve.service",
        "remove-system-units failback-check.service failback-serve.service",
        "mark-restart-system-units failback-serve.service",
        "firewall-cmd --reload",
    ] {
        assert!(scripts.iter().any(|script| script.contains(line)), "{line} is not in {scripts:#?}");
    }
    assert!(!scripts.iter().any(|line| line.contains('%')), "a macro was not known: {scripts:#?}");
}

#[test]
fn the_rpms_install_and_go_again() {
    if !has_devices() {
        return;
    }
    let Some(rpms) = Rpms::build().filter(|_| has_programs(&["busybox", "systemctl", "systemd-tmpfiles"])) else {
        return;
    };
    let root = rpms.tree.beside("root");
    let rpm = |arguments: &[&str], packages: &[&Path]| {
        let root = format!("--root={}", root.display());
        let given =
            [root.as_str(), "--dbpath=/var/lib/rpm"].into_iter().chain(arguments.iter().copied()).map(OsStr::new);
        tool("rpm", &given.chain(packages.iter().map(|path| path.as_os_str())).collect::<Vec<_>>())
    };
    // A shell for the scriptlets, and nothing else.
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy(tool("sh", &["-c", "command -v busybox"]), root.join("bin/sh")).unwrap();
    rpm(&["-i", "--nodeps"], &[&rpms.program, &rpms.appliance]);
    assert_eq!(rpm(&["-V", "--nodeps", "failback", "failback-appliance"], &[]), "");
    let said = tool("chroot", &[root.as_os_str(), "/usr/bin/failback".as_ref(), "--version".as_ref()]);
    assert_eq!(said, format!("failback {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(mode(&root.join("var/lib/failback")), 0o700);
    let setting = fs::read_to_string(root.join("usr/lib/sysctl.d/60-failback.conf")).unwrap();
    assert!(setting.lines().any(|line| line == "-kernel.io_uring_disabled = 1"), "{setting}");

    let systemd = |program: &str, arguments: &[&str]| {
        let root = format!("--root={}", root.display());
        tool(program, &[&[root.as_str()], arguments].concat())
    };
    for unit in ["failback-check.service", "failback-serve.service"] {
        systemd("systemctl", &["preset", unit]);
        assert_eq!(systemd("systemctl", &["is-enabled", unit]), "enabled");
    }
    systemd("systemd-tmpfiles", &["--create", "failback.conf"]);
    assert_eq!(mode(&root.join("run/failback")), 0o755);

    // What an administrator wrote stays when another version is installed over it.
    let config = root.join("etc/failback/failback.toml");
    fs::write(&config, "[retention]\nkeep_points = 3\n").unwrap();
    rpm(&["-U", "--nodeps", "--force"], &[&rpms.program, &rpms.appliance]);
    assert_eq!(fs::read_to_string(&config).unwrap(), "[retention]\nkeep_points = 3\n");
    rpm(&["-e", "--nodeps", "failback-appliance", "failback"], &[]);
    let left = installed(&root, &["/bin", "/var/lib/rpm", "/var/tmp", "/usr/lib/sysimage", "/run"]);
    let files: Vec<_> = left.iter().filter(|line| !line.ends_with(" 755")).collect();
    // systemctl enabled them, and there was no systemd in there to disable them.
    let enabled =
        |unit| format!("/etc/systemd/system/multi-user.target.wants/{unit} -> /usr/lib/systemd/system/{unit}");
    let units = ["failback-check.service", "failback-serve.service"].map(enabled);
    assert_eq!(files, ["/etc/failback/failback.toml.rpmsave 644", &units[0], &units[1]]);
}

#[test]
fn rpmlint_finds_nothing_that_is_not_meant() {
    let Some(rpms) = Rpms::build().filter(|_| has_programs(&["rpmlint"])) else { return };
    let config = rpms.tree.path("appliance/package/rpmlint.toml");
    let output =
        try_tool("rpmlint", &["-c".as_ref(), config.as_os_str(), rpms.program.as_os_str(), rpms.appliance.as_os_str()]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(" 0 errors, 0 warnings"), "{said}");
}
