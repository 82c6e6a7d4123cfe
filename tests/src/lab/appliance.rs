//! The appliance's source tree, and the program as it is packaged.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The top of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The program, linked statically as packages and the live ISO have it: `FAILBACK_STATIC`, or one that is built if sources are newer.
pub fn static_program() -> PathBuf {
    if let Some(path) = env::var_os("FAILBACK_STATIC") {
        return path.into();
    }
    let output = Command::new(workspace().join("appliance/lib/static-binary")).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().into()
}
