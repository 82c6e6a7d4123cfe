//! A copy of the source tree, in which packages are built.

use failback_tests::lab::{Place, static_program, tool, workspace};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The time that packages of these tests are made at.
pub(crate) const WHEN: &str = "1700000000";

/// The copy, outside of any repository.
pub(crate) struct Tree {
    place: Place,
    root: PathBuf,
    umask: &'static str,
}

impl Tree {
    /// In a directory of this name, made and used by somebody with this umask.
    pub(crate) fn new(name: &str, umask: &'static str) -> Self {
        let place = Place::new();
        let root = place.directory(name);
        let script = format!(
            "umask {umask}; cd \"$0\"; git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t \"$1\""
        );
        tool("bash", &["-c".as_ref(), script.as_ref(), workspace().as_os_str(), root.as_os_str()]);
        let tree = Self { place, root, umask };
        tree.strangers();
        tree
    }

    /// Files that are packed whatever they are called.
    fn strangers(&self) {
        self.program("appliance/custom/of a test/program", "#!/usr/bin/env bash\necho done\n");
        fs::write(self.path("appliance/custom/of a test/file"), "text\n").unwrap();
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// A place in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A place beside it.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// `appliance/build` with these arguments, called beside the tree.
    pub(crate) fn build<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("umask {}; exec \"$@\"", self.umask), "bash"]);
        command.arg(self.path("appliance/build")).args(arguments);
        command.current_dir(self.place.root()).stdin(Stdio::null());
        command.env("SOURCE_DATE_EPOCH", WHEN).env_remove("CARGO_TARGET_DIR");
        command
    }

    /// Builds packages of the program, with these further arguments; returns their paths as they are printed.
    #[track_caller]
    pub(crate) fn packages(&self, arguments: &[&str]) -> Vec<PathBuf> {
        let program = static_program();
        let given = ["package", "--binary", program.to_str().unwrap(), "-o", "out"];
        let output = self.build(&[&given, arguments].concat()).env("TZ", "Pacific/Kiritimati").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect()
    }
}

/// A call ended with this exit code and one sentence that has these words in it.
#[track_caller]
pub(crate) fn told(output: &Output, code: i32, words: &str) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(text.starts_with("build: ") && text.contains(words), "{words:?} is not in: {text}");
}

/// The permissions of a file, directory or link itself.
pub(crate) fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o7777
}

/// Everything below a directory as `/path mode`, without what `left_out` names with all below it; a link says where it leads.
pub(crate) fn installed(root: &Path, left_out: &[&str]) -> Vec<String> {
    let script = "cd \"$0\" && find . -mindepth 1 \\( -type l -printf '/%P -> %l\\n' -o -printf '/%P %m\\n' \\)";
    let listed = tool("bash", &["-c".as_ref(), script.as_ref(), root.as_os_str()]);
    let kept = listed.lines().filter(|line| !left_out.iter().any(|path| line.starts_with(path)));
    let mut lines: Vec<_> = kept.map(str::to_owned).collect();
    lines.sort();
    lines
}
