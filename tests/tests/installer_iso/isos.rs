//! What the tests build from, and building.

use failback_tests::lab::{Place, files_below, has_programs, skipped, tool};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The date of what is built.
const DATE: &str = "1700000000";

/// What keeps the installer away from the disks of others before the kickstart has looked at them.
pub(crate) const GUARD: &str = "rd.auto=0 rd.md=0 rd.lvm=0 rd.luks=0 raid=noautodetect md_mod.start_ro=1";

/// The programs that the builders and the stand-ins of CentOS's ISOs need.
const PROGRAMS: [&str; 11] = [
    "checkisomd5",
    "createrepo_c",
    "grub-mkimage",
    "implantisomd5",
    "isohybrid",
    "mcopy",
    "mformat",
    "osirrox",
    "rpm",
    "rpmbuild",
    "xorriso",
];
const BOOT_LOADERS: [&str; 4] = [
    "/usr/lib/grub/i386-pc/boot_hybrid.img",
    "/usr/lib/grub/x86_64-efi/linuxefi.mod",
    "/usr/lib/ISOLINUX/isolinux.bin",
    "/usr/lib/syslinux/modules/bios/vesamenu.c32",
];

/// How a builder ended.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A directory with stand-ins of our packages and of CentOS's ISOs.
pub(crate) struct Workshop {
    pub(crate) place: Place,
}

impl Workshop {
    /// With packages; `None`, with the reason printed, where something is missing that it needs.
    pub(crate) fn new() -> Option<Self> {
        let missing = BOOT_LOADERS.into_iter().find(|path| !Path::new(path).exists());
        if missing.is_some_and(|path| !skipped(&format!("there is no {path}; scripts/setup test installs it")))
            || !has_programs(&PROGRAMS)
        {
            return None;
        }
        let workshop = Self { place: Place::new() };
        workshop.place.directory("rpms");
        workshop.package("failback", "x86_64", "1.0");
        workshop.package("failback-appliance", "noarch", "1.0");
        Some(workshop)
    }

    /// The directory of packages.
    pub(crate) fn rpms(&self) -> PathBuf {
        self.place.path("rpms")
    }

    /// One more package, with nothing in it.
    pub(crate) fn package(&self, name: &str, architecture: &str, version: &str) {
        let text = format!(
            "Name: {name}\nVersion: {version}\nRelease: 1\nSummary: A stand-in\nLicense: MIT\nBuildArch: {architecture}\n\
             %description\nA stand-in.\n%files\n"
        );
        let spec = self.place.file(&format!("{name}.spec"), text.as_bytes());
        let define = |name: &str, path: PathBuf| format!("{name} {}", path.display());
        let top = define("_topdir", self.place.path("rpmbuild"));
        let to = define("_rpmdir", self.rpms());
        let form = "_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm";
        let arguments =
            ["-bb", "--quiet", "--target", architecture, "--define", &top, "--define", &to, "--define", form];
        tool("rpmbuild", &[&arguments[..], &[spec.to_str().unwrap()]].concat());
    }

    /// An ISO of the layout of this release, with this kernel and this initrd.
    pub(crate) fn boot_iso_with(&self, release: u32, kernel: &Path, initrd: &[u8]) -> PathBuf {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/installer_iso/boot-iso");
        let iso = self.place.path(&format!("el{release}.iso"));
        let initrd = self.place.file("initrd", initrd);
        let made = Command::new("bash")
            .arg(script)
            .arg(format!("el{release}"))
            .args([kernel, &initrd, &iso])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        iso
    }

    /// The same with what nothing boots from.
    pub(crate) fn boot_iso(&self, release: u32) -> PathBuf {
        let kernel = self.place.file("vmlinuz", b"a kernel");
        self.boot_iso_with(release, &kernel, b"an initrd")
    }

    /// Builds a part of the appliance.
    pub(crate) fn build(&self, part: &str, arguments: &[&str]) -> Built {
        self.build_with(part, arguments, None)
    }

    /// The same with programs of this directory before all others.
    pub(crate) fn build_with(&self, part: &str, arguments: &[&str], programs: Option<&Path>) -> Built {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("appliance/build");
        let mut path = std::env::var("PATH").unwrap();
        if let Some(programs) = programs {
            path = format!("{}:{path}", programs.display());
        }
        let mut command = Command::new("bash");
        command.arg(script).arg(part).args(arguments).env("PATH", path).env("SOURCE_DATE_EPOCH", DATE);
        // Relative paths are those of whoever calls.
        let output = command.current_dir(self.place.root()).stdin(Stdio::null()).output().unwrap();
        Built {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Makes an installer of an ISO, with these boot arguments more.
    #[track_caller]
    pub(crate) fn installer(&self, iso: &Path, append: &str, name: &str) -> PathBuf {
        let iso = iso.to_str().unwrap();
        let built = self.build("installer", &["--boot-iso", iso, "--rpms", "rpms", "--append", append, "-o", name]);
        assert_eq!(built.code, 0, "{}", built.stderr);
        let output = self.place.path(name);
        assert_eq!(built.stdout, format!("{}\n", output.display()));
        output
    }

    /// What is on an ISO, taken from it.
    pub(crate) fn content(&self, iso: &Path, name: &str) -> PathBuf {
        let to = self.place.path(name);
        tool("osirrox", &["-indev", iso.to_str().unwrap(), "-extract", "/", to.to_str().unwrap()]);
        tool("chmod", &["-R", "u+rwX", to.to_str().unwrap()]);
        to
    }
}

/// The names of the files below a directory, from there on, sorted.
pub(crate) fn names_below(directory: &Path) -> Vec<String> {
    let name = |path: PathBuf| path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
    files_below(directory).into_iter().map(name).collect()
}

/// The label of the volume in a file, from its descriptor.
pub(crate) fn label(iso: &Path) -> String {
    let bytes = fs::read(iso).unwrap();
    String::from_utf8_lossy(&bytes[32768 + 40..32768 + 72]).trim_end().to_owned()
}
