//! Who this process is: an Ed25519 key in a file that only its owner may read.
//!
//! The file holds the secret key as 64 hexadecimal digits and is made once, at first start, complete or not at all. The
//! public key is the [`NodeId`] and, wrapped as libp2p wants it, the `PeerId`: one is computed from the other.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use libp2p::PeerId;
use libp2p::identity::{Keypair, PublicKey, ed25519};
use shoal_proto::id::NodeId;
use thiserror::Error;

/// Why an identity file cannot be used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The file, or one beside it, could not be read or written.
    #[error("identity file {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read the secret.
    #[error("identity file {path} may be read by others (mode {mode:03o}): run `chmod 600 {path}`")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a secret key.
    #[error(
        "identity file {path} is damaged (64 hexadecimal digits are wanted): restore it, or move it away to join as a new node"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
}

/// An Ed25519 key pair.
#[derive(Clone)]
pub struct Identity {
    keypair: ed25519::Keypair,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.node_id())
    }
}

impl Identity {
    /// A key that is forgotten with the process, for tests and demonstrations.
    pub fn ephemeral() -> Self {
        Self { keypair: ed25519::Keypair::generate() }
    }

    /// The identity in the file at `path`; if there is none, a fresh one is written there first (mode 0600, atomically:
    /// of two processes that start at once, both get the same).
    ///
    /// # Errors
    /// [`IdentityError`] if the file is damaged, readable by others, or cannot be read or made.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::Io { path: path.to_owned(), source };
        match fs::metadata(path) {
            Ok(_) => Self::load(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path, &ed25519::SecretKey::generate()).map_err(failed)?;
                Self::load(path)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn load(path: &Path) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::Io { path: path.to_owned(), source };
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(IdentityError::Exposed { path: path.to_owned(), mode });
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        let damaged = || IdentityError::Damaged { path: path.to_owned() };
        // The id type's parser, because it reads just this: 32 bytes as hexadecimal digits.
        let NodeId(secret) = text.trim_end().parse().map_err(|_| damaged())?;
        let secret = ed25519::SecretKey::try_from_bytes(secret).map_err(|_| damaged())?;
        Ok(Self { keypair: secret.into() })
    }

    /// The public key.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.keypair.public().to_bytes())
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.keypair.sign(message)
    }

    pub(super) fn keypair(&self) -> Keypair {
        self.keypair.clone().into()
    }
}

/// Whether `signature` is `signer`'s over `message`.
pub fn verify(signer: NodeId, message: &[u8], signature: &[u8]) -> bool {
    ed25519::PublicKey::try_from_bytes(&signer.0).is_ok_and(|key| key.verify(message, signature))
}

/// The `PeerId` of a node; `None` if the id is not a point on the curve, which no key pair's is.
pub(super) fn peer_id(node: NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(&node.0).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The node of a `PeerId`; `None` if its key is not Ed25519.
pub(super) fn node_id(peer: &PeerId) -> Option<NodeId> {
    let key = PublicKey::try_decode_protobuf(peer.as_ref().digest()).ok()?;
    Some(NodeId(key.try_into_ed25519().ok()?.to_bytes()))
}

/// Writes a complete file beside `path` and links it there; an existing file at `path` stays.
fn create(path: &Path, secret: &ed25519::SecretKey) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = path.with_extension(format!("new-{}", std::process::id()));
    let secret: [u8; 32] = secret.as_ref().try_into().map_err(io::Error::other)?;
    let written = write_new(&draft, &format!("{}\n", NodeId(secret))).and_then(|()| fs::hard_link(&draft, path));
    fs::remove_file(&draft)?;
    match written {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(folder)?.sync_all(),
    }
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        let first = Identity::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Identity::load_or_create(&path).unwrap().node_id(), first.node_id());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left behind");
    }

    #[test]
    fn threads_that_start_at_once_get_the_same_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        create(&path, &ed25519::SecretKey::generate()).unwrap();
        let winner = Identity::load(&path).unwrap().node_id();
        create(&path, &ed25519::SecretKey::generate()).unwrap();
        assert_eq!(Identity::load(&path).unwrap().node_id(), winner, "the second creation must not replace the first");
    }

    #[test]
    fn damaged_and_exposed_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        write_new(&path, "not a key\n").unwrap();
        assert!(matches!(Identity::load_or_create(&path), Err(IdentityError::Damaged { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(error.to_string().contains("(mode 644): run `chmod 600 "), "{error}");
    }

    #[test]
    fn signatures_hold_for_their_signer_and_message_only() {
        let (a, b) = (Identity::ephemeral(), Identity::ephemeral());
        let signature = a.sign(b"message");
        assert!(verify(a.node_id(), b"message", &signature));
        assert!(!verify(b.node_id(), b"message", &signature));
        assert!(!verify(a.node_id(), b"massage", &signature));
        assert!(!verify(a.node_id(), b"message", b""));
        assert!(!verify(NodeId([0xff; 32]), b"message", &signature));
    }

    #[test]
    fn node_and_peer_ids_convert_both_ways() {
        let node = Identity::ephemeral().node_id();
        assert_eq!(node_id(&peer_id(node).unwrap()), Some(node));
        assert_eq!(node_id(&PeerId::random()), None, "a hash of a key, not a key");
    }
}
