//! A kernel for guests: Debian's, downloaded and unpacked but not installed.

use crate::lab::{files_below, try_tool};
use nix::fcntl::{Flock, FlockArg};
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// An unpacked kernel and its modules.
pub(super) struct Kernel {
    /// What QEMU boots.
    pub(super) image: PathBuf,
    modules: BTreeMap<String, PathBuf>,
}

impl Kernel {
    /// The newest kernel of this Debian, from `target/guest` if it was unpacked before; or why there is none.
    pub(super) fn get() -> Result<Self, String> {
        let cache = Cache::locked();
        let unpacked = cache.path("kernel");
        if !unpacked.join("boot").is_dir() {
            fetch("guest-kernel", &unpacked)?;
        }
        let image = files_below(&unpacked.join("boot")).into_iter().find(|path| name_of(path).starts_with("vmlinuz"));
        let modules = files_below(&unpacked.join("lib/modules")).into_iter().filter_map(|path| {
            let name = module_name(name_of(&path).strip_suffix(".ko")?);
            Some((name, path))
        });
        Ok(Self { image: image.ok_or("the kernel's package holds no kernel")?, modules: modules.collect() })
    }

    /// The files of these modules and of all that they need, in the order in which they are to be loaded. What is built into
    /// the kernel is left out.
    pub(super) fn with_dependencies(&self, names: &[String]) -> Vec<PathBuf> {
        let mut order = Vec::new();
        let mut loaded = BTreeSet::new();
        for name in names {
            assert!(self.modules.contains_key(&module_name(name)), "this kernel has no module {name}");
            self.load(&module_name(name), &mut loaded, &mut order);
        }
        order
    }

    fn load(&self, name: &str, loaded: &mut BTreeSet<String>, order: &mut Vec<PathBuf>) {
        let Some(path) = self.modules.get(name) else { return };
        if loaded.insert(name.to_owned()) {
            let needed = try_tool("modinfo", &[OsStr::new("-F"), "depends".as_ref(), path.as_os_str()]);
            assert!(needed.status.success(), "{}", String::from_utf8_lossy(&needed.stderr));
            let needed = String::from_utf8(needed.stdout).unwrap();
            for other in needed.trim().split(',').filter(|other| !other.is_empty()) {
                self.load(&module_name(other), loaded, order);
            }
            order.push(path.clone());
        }
    }
}

/// Where guests' kernels and systems are kept, in the directory that cargo builds into. One test at a time has it: tests run side
/// by side, and one of them downloads.
pub(super) struct Cache {
    directory: PathBuf,
    _lock: Flock<File>,
}

impl Cache {
    pub(super) fn locked() -> Self {
        let test = env::current_exe().unwrap();
        // target/debug/deps/test-0123
        let directory = test.ancestors().nth(3).unwrap().join("guest");
        fs::create_dir_all(&directory).unwrap();
        let lock = File::create(directory.join("lock")).unwrap();
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
        Self { directory, _lock: lock }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Has a script that `scripts/setup test` runs make something, for those who start a test without it. Or why it cannot.
pub(super) fn fetch(script: &str, to: &Path) -> Result<(), String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("scripts/lib").join(script);
    let output = try_tool("bash", &[&script, to]);
    let told = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(told.lines().last().unwrap_or("it was not made").to_owned()) }
}

/// A hyphen and an underscore are the same in names of modules.
fn module_name(name: &str) -> String {
    name.replace('-', "_")
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or_default()
}
