//! The operator's bearer token: made at the first start, kept in a file that only its owner can read.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use shoal_node::disk::replace;
use thiserror::Error;

/// Letters that a token must have at least, so that a file cut short or written by hand is not a guessable secret.
const TOKEN_LEN_MIN: usize = 32;

/// What a bearer token is compared with. Only the hash is kept, and hashes compare in constant time.
#[derive(Clone, Debug)]
pub struct AdminToken(blake3::Hash);

/// Why there is no operator's token.
#[derive(Debug, Error)]
pub enum TokenFileError {
    /// The file cannot be read or made.
    #[error("cannot use the operator's token file {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read the file.
    #[error("{0} can be read by others: run `chmod 600 {0}`, or remove it to have a token made at the next start")]
    Readable(PathBuf),
    /// The file holds no token.
    #[error("{0} holds no token of {TOKEN_LEN_MIN} or more letters: remove it to have one made at the next start")]
    NoToken(PathBuf),
    /// No random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(String),
}

impl AdminToken {
    /// For the token `text`.
    pub fn new(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()))
    }

    /// Whether `given` is the token; takes the same time wherever they differ.
    pub(super) fn matches(&self, given: &str) -> bool {
        blake3::hash(given.as_bytes()) == self.0
    }
}

/// The token in the file at `path`; if there is none, makes one of 32 random bytes. The file appears whole or not at
/// all, readable by its owner only.
///
/// # Errors
/// See [`TokenFileError`]. A file that others can read is refused: its token may be known.
pub fn admin_token(path: &Path) -> Result<AdminToken, TokenFileError> {
    let failed = |source| TokenFileError::Io { path: path.to_owned(), source };
    let text = match fs::read_to_string(path) {
        Ok(text) => {
            let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(TokenFileError::Readable(path.to_owned()));
            }
            text
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let text = random_hex()?;
            replace(path, format!("{text}\n").as_bytes(), Some(0o600)).map_err(failed)?;
            text
        }
        Err(error) => return Err(failed(error)),
    };
    let token = text.trim();
    if token.len() < TOKEN_LEN_MIN {
        return Err(TokenFileError::NoToken(path.to_owned()));
    }
    Ok(AdminToken::new(token))
}

fn random_hex() -> Result<String, TokenFileError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| TokenFileError::Random(error.to_string()))?;
    Ok(blake3::Hash::from_bytes(bytes).to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.token");
        fs::write(folder.path().join(".admin.token.shoal"), "from a start that was killed").unwrap();
        let made = admin_token(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim().len(), 64);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(made.matches(text.trim()));
        assert!(!made.matches(&text.trim()[1..]));
        assert!(admin_token(&path).unwrap().matches(text.trim()), "the second start finds the first one's");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_file_that_others_read_or_that_is_cut_short_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.token");
        admin_token(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(admin_token(&path), Err(TokenFileError::Readable(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short\n").unwrap();
        assert!(matches!(admin_token(&path), Err(TokenFileError::NoToken(_))));
    }
}
