//! Where the programs under test are: built once per run of the tests, by the cargo and in the profile of the tests; or in
//! the folder that `SHOAL_PROGRAMS` names, to test what was built elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The workspace's folder.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests' folder is in the workspace")
}

/// The program `name`, built from the sources as they are.
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| std::env::var_os("SHOAL_PROGRAMS").map_or_else(build, PathBuf::from)).join(name)
}

/// Other packages' programs are not built for a test by itself. Returns the folder that they are in.
fn build() -> PathBuf {
    let own = std::env::current_exe().expect("the test's own path is known");
    let folder = own.parent().expect("a program is in a folder");
    // A test is in `<target>/<profile>/deps`, a program a folder above.
    let folder = if folder.ends_with("deps") { folder.parent().expect("`deps` is in a folder") } else { folder };
    let folder = folder.to_owned();
    let target = folder.parent().expect("a profile's folder is in the target folder");
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(other) => other,
        None => panic!("{} is no profile's folder", folder.display()),
    };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace", "--bins", "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .current_dir(workspace())
        .status();
    assert!(built.expect("cargo starts").success(), "the programs under test cannot be built");
    folder
}
