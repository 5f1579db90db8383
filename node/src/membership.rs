//! What a node keeps of having joined: its key, and the join string that names the coordinator it obeys.

use std::fs;
use std::path::{Path, PathBuf};

use shoal_proto::id::NodeId;
use shoal_proto::join::{JoinError, JoinString};
use thiserror::Error;

use crate::disk::replace;
use crate::net::{Identity, IdentityError};

/// A node's key and whom it obeys.
#[derive(Debug)]
pub struct Membership {
    /// The node's key.
    pub identity: Identity,
    /// How it joined; pins the coordinator (MEMBERS-ONLY).
    pub join: JoinString,
    /// Where the join string is kept, if it was not before.
    fresh: Option<PathBuf>,
}

/// Why a node cannot say who it is or whom it obeys.
#[derive(Debug, Error)]
pub enum MembershipError {
    /// No key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It never joined, and was not told how.
    #[error("this node has not joined yet: pass --join with a string from `shoal token create`")]
    NotJoined,
    /// It joined another coordinator before.
    #[error(
        "{data_dir} belongs to coordinator {old}, and the join string is of {new}: pass another --data-dir, or empty this one to move the node"
    )]
    OtherCoordinator {
        /// The node's folder.
        data_dir: PathBuf,
        /// The coordinator it obeys.
        old: NodeId,
        /// The one that the join string names.
        new: NodeId,
    },
    /// The kept join string is damaged.
    #[error("{path}: {source}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: JoinError,
    },
    /// The disk refuses.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Membership {
    /// What `data_dir` keeps, joined with `join` if it is given; makes the folder and what is missing in it.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub fn open(data_dir: &Path, join: Option<JoinString>) -> Result<Self, MembershipError> {
        fs::create_dir_all(data_dir).map_err(|source| io(data_dir, source))?;
        let identity = Identity::load_or_create(&data_dir.join("identity.key"))?;
        let path = data_dir.join("join");
        let kept = kept(&path)?;
        let fresh = kept.is_none().then(|| path.clone());
        let join = match (join, kept) {
            (Some(new), Some(old)) if new.coordinator != old.coordinator => {
                let data_dir = data_dir.to_owned();
                return Err(MembershipError::OtherCoordinator { data_dir, old: old.coordinator, new: new.coordinator });
            }
            (Some(new), _) => {
                keep(&path, &new)?;
                new
            }
            (None, Some(old)) => old,
            (None, None) => return Err(MembershipError::NotJoined),
        };
        Ok(Self { identity, join, fresh })
    }

    /// Forgets a coordinator that this process was the first to join and that did not let it in: the node belongs to nobody.
    ///
    /// # Errors
    /// [`MembershipError::Io`].
    pub fn forget_fresh(&mut self) -> Result<(), MembershipError> {
        let Some(path) = self.fresh.take() else { return Ok(()) };
        fs::remove_file(&path).map_err(|source| io(&path, source))
    }
}

fn io(path: &Path, source: std::io::Error) -> MembershipError {
    MembershipError::Io { path: path.to_owned(), source }
}

fn kept(path: &Path) -> Result<Option<JoinString>, MembershipError> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let damaged = |source| MembershipError::Damaged { path: path.to_owned(), source };
            JoinString::from_text(&text).map(Some).map_err(damaged)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io(path, error)),
    }
}

/// Keeps the string where only this user reads it: it holds a secret.
fn keep(path: &Path, join: &JoinString) -> Result<(), MembershipError> {
    let text = join.to_text().map_err(|e| MembershipError::Damaged { path: path.to_owned(), source: e.into() })?;
    replace(path, text.as_bytes(), Some(0o600)).map_err(|source| io(path, source))
}

#[cfg(test)]
mod tests {
    use shoal_proto::id::Name;
    use shoal_proto::time::WallTime;

    use super::*;

    fn join(coordinator: u8) -> JoinString {
        JoinString {
            coordinator: NodeId([coordinator; 32]),
            addresses: vec![],
            site: Name::new("syd").unwrap(),
            token: 1,
            secret: [0; 32],
            expires: WallTime(0),
        }
    }

    #[test]
    fn a_node_stays_with_the_coordinator_it_joined() {
        let folder = tempfile::tempdir().unwrap();
        let open = |join| Membership::open(folder.path(), join);
        assert!(matches!(open(None), Err(MembershipError::NotJoined)));
        let mut turned_away = open(Some(join(3))).unwrap();
        turned_away.forget_fresh().unwrap();
        assert!(matches!(open(None), Err(MembershipError::NotJoined)), "who was turned away belongs to nobody");
        let first = open(Some(join(1))).unwrap();
        let again = open(None).unwrap();
        assert_eq!((again.identity.node_id(), again.join), (first.identity.node_id(), join(1)));
        let error = open(Some(join(2))).unwrap_err();
        assert!(error.to_string().contains("belongs to coordinator"), "{error}");
        let mut member = open(None).unwrap();
        member.forget_fresh().unwrap();
        assert_eq!(open(None).unwrap().join, join(1), "nothing changed");
    }
}
