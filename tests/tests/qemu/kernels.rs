//! Kernels as CentOS packages them: two RPMs, with modules compressed in two ways, of which one has its files below /usr.

use crate::iso::{builder, live_iso, unpacked_kernel};
use crate::machine::{Attached, Machine};
use failback_tests::lab::guest::{Firmware, Medium};
use failback_tests::lab::{Place, has_programs, noise, program, tool};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes the RPM `name` of the files in a directory.
fn rpm(place: &Place, name: &str, root: &Path) -> PathBuf {
    let spec = place.path(&format!("{name}.spec"));
    let text = format!(
        "Name: {name}\nVersion: 1\nRelease: 1\nSummary: A kernel\nLicense: GPL-2.0-only\nBuildArch: x86_64\nAutoReqProv: no\n\
         %description\nA kernel for a test.\n%files\n/*\n"
    );
    fs::write(&spec, text).unwrap();
    let out = place.directory(&format!("{name}.rpms"));
    // Packed as they are: modules are compressed already, and nothing is stripped or looked at.
    let set = |name: &str, value: &str| ["--define".to_owned(), format!("{name} {value}")];
    let defined = [
        set("_topdir", place.directory(&format!("{name}.top")).to_str().unwrap()),
        set("_rpmdir", out.to_str().unwrap()),
        set("_rpmfilename", "made.rpm"),
        set("_binary_payload", "w1.gzdio"),
        set("__os_install_post", "%{nil}"),
        set("debug_package", "%{nil}"),
        set("buildroot", root.to_str().unwrap()),
    ];
    let built = Command::new("rpmbuild").arg("-bb").args(defined.concat()).arg(&spec).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    out.join("made.rpm")
}

/// The version of the kernel that guests have.
fn version_of(kernel: &Path) -> String {
    let found = fs::read_dir(kernel.join("lib/modules")).unwrap().next().unwrap().unwrap();
    found.file_name().into_string().unwrap()
}

/// `kernel-core`: the kernel beside its modules, and what is known of all modules, but no module.
fn core(place: &Place, kernel: &Path, version: &str) -> PathBuf {
    let root = place.directory(&format!("core-{version}"));
    let to = root.join("lib/modules").join(version);
    fs::create_dir_all(&to).unwrap();
    let real = version_of(kernel);
    for (from, name) in [(format!("vmlinuz-{real}"), "vmlinuz"), (format!("config-{real}"), "config")] {
        fs::copy(kernel.join("boot").join(from), to.join(name)).unwrap();
    }
    for entry in fs::read_dir(kernel.join("lib/modules").join(&real)).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("modules.builtin") || name == "modules.order" {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
    rpm(place, &format!("kernel-core-{version}"), &root)
}

/// `kernel-modules`: those that the live ISO asks for, with what they need; every second one compressed with xz, the others with zstd.
fn modules(place: &Place, kernel: &Path) -> PathBuf {
    let (all, root) = (place.directory("all"), place.directory("modules"));
    let script = "set -euo pipefail\n\
        kernel=$0 all=$1 to=$2/usr version=$3 names=$4\n\
        mkdir -p \"$all/lib/modules\" && cp -a \"$kernel/lib/modules/$version\" \"$all/lib/modules/\"\n\
        depmod -b \"$all\" \"$version\"\n\
        sed -n 's/^? //; /^[a-z]/p' \"$names\" | while read -r name; do\n\
            modprobe -d \"$all\" -S \"$version\" --show-depends \"$name\" 2>/dev/null || true\n\
        done | sed -n 's,^insmod .*/\\(lib/modules/[^ ]*\\).*,\\1,p' | sort -u | while read -r path; do\n\
            mkdir -p \"$to/${path%/*}\"\n\
            i=$((${i:-0} + 1))\n\
            if ((i % 2)); then xz -0 --check=crc32 -c \"$all/$path\" >\"$to/$path.xz\"\n\
            else zstd -q -1 -c \"$all/$path\" >\"$to/$path.zst\"; fi\n\
        done\n";
    let version = version_of(kernel);
    let names = crate::iso::top().join("appliance/live/modules");
    let arguments: [&OsStr; 7] = [
        "-c".as_ref(),
        script.as_ref(),
        kernel.as_os_str(),
        all.as_os_str(),
        root.as_os_str(),
        version.as_ref(),
        names.as_os_str(),
    ];
    tool("bash", &arguments);
    rpm(place, "kernel-modules", &root)
}

/// The builder with these packages; the code it ends with, and what it says.
fn built_of(packages: &[&Path], out: &Path) -> (Option<i32>, String) {
    let mut command = builder();
    command.arg("-o").arg(out).arg("--binary").arg(program()).args(["--arguments", "failback.then=poweroff"]);
    for package in packages {
        command.arg("--kernel-rpm").arg(package);
    }
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn slow_a_kernel_comes_from_rpms_or_is_refused() {
    // Where there is no ISO with Debian's kernel, there is none with another.
    if !has_programs(&["rpmbuild", "rpm2cpio", "xz", "zstd", "depmod"]) || live_iso().is_none() {
        return;
    }
    let place = Place::new();
    let kernel = unpacked_kernel();
    let version = version_of(&kernel);
    let [ours, other] = [version.as_str(), "5.14.0-1.el9.x86_64"].map(|version| core(&place, &kernel, version));
    let modules = modules(&place, &kernel);
    let nothing = place.file("nothing.rpm", &noise(10_000, 1));
    let out = place.path("live.iso");
    for (packages, words) in [
        (vec![nothing.as_path()], "nothing.rpm is not an RPM that can be unpacked"),
        (vec![&place.path("nowhere.rpm")], "nowhere.rpm is not an RPM that can be unpacked"),
        (vec![&modules], "hold no kernel"),
        (vec![&ours], "has no module vmw_pvscsi: name the package that holds it too"),
        (vec![&ours, &modules, &other], "hold the modules of 2 kernels"),
    ] {
        let (code, told) = built_of(&packages, &out);
        assert_eq!(code, Some(1), "{packages:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{packages:?}: {told}");
        assert!(told.contains(words), "{packages:?}: {words:?} is not in: {told}");
        assert!(!out.exists(), "{packages:?}");
    }

    let (code, told) = built_of(&[&modules, &ours], &out);
    assert_eq!(code, Some(0), "{told}");
    let disk = place.file("disk.img", &noise(1 << 20, 2));
    let results =
        Machine::new(&out, "failback.then=poweroff", Firmware::Bios, Medium::Cd).disk(Attached::new(&disk, 0)).run();
    let console = results.log();
    assert!(console.contains(&format!("on Linux {version}")), "{console}");
    assert!(console.contains("with 1 disks and"), "{console}");
}
