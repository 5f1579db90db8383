//! Fills in a file of this machine with variables and puts the result in another one's place: as a whole or not at all, so
//! that no program ever reads half of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use shoal_proto::limits::TEMPLATE_BYTES_MAX;

use super::{StepRun, expand, script, values};
use crate::template::{self, Purpose};

/// Renders the file `from` to `to`; says what was done, or why not.
pub(super) fn render(run: &StepRun, from: &str, to: &str, mode: u32) -> Result<String, String> {
    let variables = script::variables(run);
    let path = |text| expand::expand(text, &variables).map(PathBuf::from).map_err(|error| error.to_string());
    let (from, to) = (path(from)?, path(to)?);
    let template = read(&from).map_err(|error| format!("cannot read the template {}: {error}", from.display()))?;
    let text = template::render(&template, values(run), Purpose::File);
    let text = text.map_err(|error| format!("{}: {error}", from.display()))?;
    write(&to, &text, mode).map_err(|error| format!("cannot write {}: {error}", to.display()))?;
    Ok(format!("{} is filled in from {}", to.display(), from.display()))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(TEMPLATE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > TEMPLATE_BYTES_MAX {
        return Err(io::Error::other(format!("it has over {TEMPLATE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("/"));
    let name = path.file_name().ok_or_else(|| io::Error::other("it is no file's name"))?;
    let fresh = folder.join(format!(".{}.shoal", name.to_string_lossy()));
    let write = || {
        // Its text may hold secrets: until it has its own mode, nobody else reads it.
        let _ = fs::remove_file(&fresh);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(folder)?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&fresh)))
}
