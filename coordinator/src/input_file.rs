//! Files that people write: reading them within bounds, and what is told when something in them is wrong.
//!
//! A message names the file, the line, the key, and the key that was probably meant. What the keys mean is left to
//! [`crate::config`] and [`crate::spec_file`].

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use shoal_proto::limits::CONFIG_BYTES_MAX;
use shoal_proto::rollout::nearest::nearest;
use thiserror::Error;

/// What is wrong with a file that a person wrote.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is larger than such a file may be.
    #[error("{path} is over {CONFIG_BYTES_MAX} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not text.
    #[error("{path} is not UTF-8 text")]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// Something in it.
    #[error("{path}{}: {problem}", line.map(|line| format!(":{line}")).unwrap_or_default())]
    Line {
        /// The file, as it was named.
        path: PathBuf,
        /// Which line, from 1, if that is known.
        line: Option<u64>,
        /// What.
        problem: Problem,
    },
}

/// What is wrong at a place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// A key that nobody reads.
    #[error("unknown key `{key}`{}: {}", within(part), hint(key, known))]
    UnknownKey {
        /// The key.
        key: String,
        /// What it is in; empty at the top.
        part: String,
        /// The keys that are read there.
        known: Vec<String>,
    },
    /// A word that is none of a few.
    #[error("unknown value `{value}`{}: {}", within(part), hint(value, known))]
    UnknownValue {
        /// The value.
        value: String,
        /// What it is in; empty at the top.
        part: String,
        /// The values that there are.
        known: Vec<String>,
    },
    /// A key that must be there.
    #[error("missing key `{key}`{}", within(part))]
    MissingKey {
        /// The key.
        key: String,
        /// What it is missing in; empty at the top.
        part: String,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

fn within(part: &str) -> String {
    if part.is_empty() { String::new() } else { format!(" in {part}") }
}

/// The word that was meant, or all that could be.
fn hint(word: &str, known: &[String]) -> String {
    let words: Vec<&str> = known.iter().map(String::as_str).collect();
    match (nearest(word, &words), words.as_slice()) {
        (Some(meant), _) => format!("did you mean `{meant}`?"),
        (None, []) => "none is allowed here".to_owned(),
        (None, [only]) => format!("`{only}` is the only one"),
        (None, words) => format!("known are `{}`", words.join("`, `")),
    }
}

/// The text of the file at `path`, of at most [`CONFIG_BYTES_MAX`] bytes.
///
/// # Errors
/// Every [`FileError`] but [`FileError::Line`].
pub fn read_text(path: &Path) -> Result<String, FileError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Err(source) => Err(FileError::Read { path: path.to_owned(), source }),
        Ok(len) if len as u64 > CONFIG_BYTES_MAX => Err(FileError::TooLarge { path: path.to_owned() }),
        Ok(_) => String::from_utf8(bytes).map_err(|_| FileError::NotText { path: path.to_owned() }),
    }
}

/// The problem that a message of serde's derived code tells. Its wording is part of serde's public traits
/// (`serde::de::Error::unknown_field` and its siblings), for parsers that keep the message alone.
pub(crate) fn problem_of(message: &str, part: &str) -> Problem {
    let mut quoted = message.split('`').skip(1).step_by(2).map(str::to_owned);
    let first = quoted.next().unwrap_or_default();
    let part = part.to_owned();
    if message.starts_with("unknown field `") {
        Problem::UnknownKey { key: first, part, known: quoted.collect() }
    } else if message.starts_with("unknown variant `") {
        Problem::UnknownValue { value: first, part, known: quoted.collect() }
    } else if message.starts_with("missing field `") {
        Problem::MissingKey { key: first, part }
    } else {
        Problem::Other(message.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        assert!(matches!(read_text(&path), Err(FileError::Read { .. })));
        std::fs::write(&path, [0xff]).unwrap();
        assert!(matches!(read_text(&path), Err(FileError::NotText { .. })));
        std::fs::write(&path, vec![b'#'; CONFIG_BYTES_MAX as usize + 1]).unwrap();
        assert!(matches!(read_text(&path), Err(FileError::TooLarge { .. })));
        std::fs::write(&path, vec![b'#'; CONFIG_BYTES_MAX as usize]).unwrap();
        assert_eq!(read_text(&path).unwrap().len() as u64, CONFIG_BYTES_MAX);
    }

    #[test]
    fn a_hint_is_the_nearest_word_or_all_of_them() {
        let known = ["url", "path"].map(str::to_owned);
        assert_eq!(hint("pth", &known), "did you mean `path`?");
        assert_eq!(hint("calendar", &known), "known are `url`, `path`");
        assert_eq!(hint("calendar", &known[..1]), "`url` is the only one");
        assert_eq!(hint("calendar", &[]), "none is allowed here");
    }
}
