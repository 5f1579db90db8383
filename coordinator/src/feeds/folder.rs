//! Files in a folder of the coordinator, which is then their origin.
//!
//! No reference leads out of the folder: neither by `..` nor by a symbolic link. What a [`FolderFile`] names is looked at
//! again, by size and time of change, whenever it is opened.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_proto::limits::SUGGESTIONS_MAX;
use shoal_proto::rollout::nearest::nearest;

use super::asked::Asked;
use super::kind::Kind;
use super::{FeedError, Found, Place, Wanted};
use crate::config::feed::FeedPlace;

pub(super) const KIND: Kind =
    Kind { name: "folder", remote: false, resolve: |asked, wanted| Box::pin(resolve(asked, wanted)), ..Kind::COMMON };

/// Names of a folder that a suggestion is looked for among.
const NAMES_MAX: usize = 1000;

/// A file as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FolderFile {
    /// Where it is, without symbolic links.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub modified_ns: i128,
    /// Which file of its file system.
    pub inode: u64,
}

impl FolderFile {
    /// The regular file that `path` is.
    ///
    /// # Errors
    /// Those of the file system; [`io::ErrorKind::InvalidInput`] for anything but a regular file.
    fn of(path: PathBuf) -> io::Result<Self> {
        let metadata = fs::metadata(&path)?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        Ok(Self::with(path, &metadata))
    }

    fn with(path: PathBuf, metadata: &fs::Metadata) -> Self {
        let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Self { path, size: metadata.len(), modified_ns, inode: metadata.ino() }
    }

    /// Opens the file, if it is still the same by size and time.
    ///
    /// # Errors
    /// Those of the file system; [`io::ErrorKind::InvalidData`] if it changed.
    pub fn open(&self) -> io::Result<File> {
        let file = File::open(&self.path)?;
        let found = Self::with(self.path.clone(), &file.metadata()?);
        if found != *self {
            let cause = format!("{} has changed since it was resolved", self.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, cause));
        }
        Ok(file)
    }

    /// What is the same as long as the file is.
    pub(super) fn validator(&self) -> String {
        format!("{} {} {} {}", self.path.display(), self.size, self.modified_ns, self.inode)
    }
}

/// Resolves a file; `{version}` in `id` stands for the version.
async fn resolve(asked: &Asked<'_>, wanted: &Wanted<'_>) -> Result<Found, FeedError> {
    let FeedPlace::Folder(folder) = asked.config.place.clone() else { return Err(FeedError::unknown(wanted)) };
    let (feed, what) = (asked.name.to_string(), wanted.what());
    let relative = match wanted.version {
        Some(version) => wanted.id.replace("{version}", version),
        None => wanted.id.to_owned(),
    };
    // Disks may be slow, and this is async code.
    let found = tokio::task::spawn_blocking(move || find(&feed, &folder, &relative, what)).await;
    let file = found.map_err(|error| FeedError::Folder {
        feed: asked.name.to_string(),
        what: wanted.what(),
        problem: error.to_string(),
    })??;
    Ok(Found { version: None, lineage: lineage(wanted.id), place: Place::Folder(file), digests: Vec::new() })
}

/// The path with its runs of digits made alike, so that versions of a file are of one lineage.
fn lineage(id: &str) -> String {
    let parts: Vec<&str> = id.split(|c: char| c.is_ascii_digit()).filter(|part| !part.is_empty()).collect();
    parts.join("0")
}

fn find(feed: &str, folder: &Path, relative: &str, what: String) -> Result<FolderFile, FeedError> {
    let wrong = |problem: String| FeedError::Folder { feed: feed.to_owned(), what: what.clone(), problem };
    let relative = Path::new(relative);
    if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(wrong("its id leads out of the feed's folder".to_owned()));
    }
    let root = folder.canonicalize().map_err(|error| wrong(format!("{}: {error}", folder.display())))?;
    let path = match root.join(relative).canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let hint = suggestion(&root, relative);
            return Err(FeedError::NoPackage { feed: format!("feed `{feed}`"), what, hint });
        }
        Err(error) => return Err(wrong(error.to_string())),
    };
    if !path.starts_with(&root) {
        return Err(wrong("a symbolic link leads out of the feed's folder".to_owned()));
    }
    FolderFile::of(path).map_err(|error| wrong(error.to_string()))
}

/// The file that was probably meant, or a few that there are.
fn suggestion(root: &Path, relative: &Path) -> String {
    let folder = relative.parent().unwrap_or(Path::new(""));
    let Ok(inside) = root.join(folder).canonicalize() else { return String::new() };
    if !inside.starts_with(root) {
        return String::new();
    }
    let entries = fs::read_dir(inside).into_iter().flatten().take(NAMES_MAX).flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let wanted = relative.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let shown = |name: &str| folder.join(name).display().to_string();
    match (nearest(wanted, &known), known.as_slice()) {
        (Some(meant), _) => format!("did you mean `{}`?", shown(meant)),
        (None, []) => String::new(),
        (None, names) if names.len() <= SUGGESTIONS_MAX => {
            let names: Vec<_> = names.iter().map(|name| shown(name)).collect();
            format!("there are `{}`", names.join("`, `"))
        }
        (None, _) => String::new(),
    }
}
