//! Fills in a file of this machine with variables and puts the result in another one's place: as a whole or not at all, so
//! that no program ever reads half of it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use shoal_proto::limits::TEMPLATE_BYTES_MAX;

use super::{StepRun, expand, script, values};
use crate::disk::replace;
use crate::template::{self, Purpose};

/// Renders the file `from` to `to`; says what was done, or why not.
pub(super) fn render(run: &StepRun, from: &str, to: &str, mode: u32) -> Result<String, String> {
    let variables = script::variables(run);
    let path = |text| expand::expand(text, &variables).map(PathBuf::from).map_err(|error| error.to_string());
    let (from, to) = (path(from)?, path(to)?);
    let template = read(&from).map_err(|error| format!("cannot read the template {}: {error}", from.display()))?;
    let text = template::render(&template, values(run), Purpose::File);
    let text = text.map_err(|error| format!("{}: {error}", from.display()))?;
    // Its text may hold secrets: until it has its own mode, nobody else reads it.
    let written = replace(&to, text.as_bytes(), Some(mode));
    written.map_err(|error| format!("cannot write {}: {error}", to.display()))?;
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
