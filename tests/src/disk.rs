//! Small disks: a process whose folder is a file system in memory of a given size, which can be made larger.
//!
//! The file system is mounted in a mount namespace of the process: nobody else sees it, and it is gone with the process,
//! however that ends. This needs root and the programs `unshare`, `nsenter` and `mount`.

use std::path::Path;
use std::process::Command;

/// Why processes cannot have small disks here, if they cannot.
pub fn unavailable() -> Option<String> {
    let folder = std::env::temp_dir();
    let tried = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "none"]).arg(folder).output();
    match tried {
        Ok(tried) if tried.status.success() => None,
        Ok(tried) => Some(String::from_utf8_lossy(&tried.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// `command`, to be run with a fresh file system of `size` (as `mount` takes it) at `folder`. Its process keeps its number.
pub(crate) fn with_disk(command: &Command, folder: &Path, size: &str) -> Command {
    let script = r#"mkdir -p "$1" && mount -t tmpfs -o size="$2" none "$1" && shift 2 && exec "$@""#;
    let mut within = Command::new("unshare");
    within.args(["-m", "sh", "-c", script, "sh"]).arg(folder).arg(size);
    within.arg(command.get_program()).args(command.get_args());
    within
}

/// Gives the file system at `folder` of the process `id` another size.
pub(crate) fn resize(id: u32, folder: &Path, size: &str) {
    let mut command = Command::new("nsenter");
    command.args(["-t", &id.to_string(), "-m", "mount", "-o", &format!("remount,size={size}")]).arg(folder);
    let resized = command.output().expect("nsenter starts");
    assert!(resized.status.success(), "{resized:?}");
}
