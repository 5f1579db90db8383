//! The secrets of deployments that are not over, or that may be gone back to: one file for each, apart from the journal,
//! which is never made smaller.
//!
//! A deployment's file is on disk before the deployment is (ACKED-IS-KEPT) and goes when it is over. Only the coordinator's
//! user reads it. In plans and in the journal a print stands for a secret: its BLAKE3 under a key that follows from the
//! coordinator's own, so that who has the journal cannot try words.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use shoal_node::disk::replace;
use shoal_proto::id::DeploymentId;

/// The folder of secrets.
#[derive(Debug)]
pub struct Secrets {
    folder: PathBuf,
    key: [u8; 32],
}

impl Secrets {
    /// In `folder`, which is made when it is needed; `sign` is the coordinator's key.
    pub fn new(folder: PathBuf, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Self {
        Self { folder, key: blake3::derive_key("shoal secrets v1", &sign(b"shoal secrets v1\0")) }
    }

    /// What stands for a secret.
    pub fn print(&self, secret: &str) -> [u8; 32] {
        *blake3::keyed_hash(&self.key, secret.as_bytes()).as_bytes()
    }

    /// Keeps the secrets of a deployment; durable when this returns.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn keep(&self, id: DeploymentId, secrets: &[String]) -> io::Result<()> {
        if secrets.is_empty() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        replace(&self.path(id), &serde_json::to_vec(secrets)?, Some(0o600))
    }

    /// The secrets of a deployment; none if it has none, or they are lost.
    pub fn of(&self, id: DeploymentId) -> Vec<String> {
        let text = fs::read(self.path(id)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Forgets the secrets of every deployment that is not `needed`.
    pub fn forget(&self, needed: impl Fn(DeploymentId) -> bool) {
        let Ok(files) = fs::read_dir(&self.folder) else { return };
        for path in files.flatten().map(|file| file.path()) {
            let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            if !id.is_some_and(&needed)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "secrets of a deployment that is over stay on the disk");
            }
        }
    }

    fn path(&self, id: DeploymentId) -> PathBuf {
        self.folder.join(id.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_are_kept_for_one_user_and_until_they_are_not_needed() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(folder.path().join("secrets"), |bytes| bytes.to_vec());
        let (first, second) = (DeploymentId(1), DeploymentId(2));
        secrets.keep(first, &["hunter2".to_owned()]).unwrap();
        secrets.keep(second, &["hunter3".to_owned(), "hunter4".to_owned()]).unwrap();
        secrets.keep(DeploymentId(3), &[]).unwrap();
        assert_eq!((secrets.of(first).len(), secrets.of(second).len(), secrets.of(DeploymentId(3)).len()), (1, 2, 0));
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("secrets"), mode("secrets/d1")), (0o700, 0o600));
        secrets.forget(|id| id == second);
        assert_eq!((secrets.of(first).len(), secrets.of(second).len()), (0, 2));
    }

    #[test]
    fn a_print_is_another_ones_with_another_key() {
        let with = |key: u8| Secrets::new(PathBuf::new(), |_| vec![key; 64]).print("hunter2");
        assert_eq!(with(1), with(1));
        assert_ne!(with(1), with(2));
        assert_ne!(with(1), *blake3::hash(b"hunter2").as_bytes());
    }
}
