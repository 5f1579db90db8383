//! Reading a package once: from an origin into a file, and from a file into a recipe.
//!
//! A recipe comes out only if the bytes are those that were resolved and wanted (VERIFIED).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha512};
use shoal_node::origin::{Chunk, Mode, OriginReader, WanBytes};
use shoal_node::store::Store;
use shoal_proto::content::{CutError, Cutter, Recipe, ZipScan};
use shoal_proto::id::PackageId;
use shoal_proto::origin::HttpOrigin;
use tokio::sync::mpsc;

use super::error::{CatalogError, failed, no_room};
use crate::feeds::Resolved;

const READ_BYTES: usize = 1024 * 1024;
/// Chunks that wait for the disk: a transfer that is faster than the disk is slowed.
const CHUNKS_WAITING: usize = 16;

/// A file that goes away with this value.
pub(super) struct Temporary(pub(super) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// A package that is being added.
pub(super) struct Job {
    pub(super) resolved: Resolved,
    pub(super) wanted: Option<PackageId>,
    pub(super) keep: Option<Store>,
}

impl Job {
    /// The recipe of a file, whose hashes are those that were given.
    pub(super) fn cut(&self, file: &File, path: &Path) -> Result<Recipe, CatalogError> {
        let what = &self.resolved.description;
        let (recipe, sha512) = cut(file, self.resolved.size(), self.resolved.sha512.is_some())
            .map_err(failed("read", path))?
            .map_err(|source| CatalogError::Cut { what: what.clone(), source })?;
        check_package(what, recipe.package(), self.wanted)?;
        match (&self.resolved.sha512, sha512) {
            (Some(wanted), Some(found)) if *wanted != found => {
                Err(CatalogError::WrongHash { what: what.clone(), kind: "sha512", found, wanted: wanted.clone() })
            }
            _ => Ok(recipe),
        }
    }
}

pub(super) fn check_package(what: &str, found: PackageId, wanted: Option<PackageId>) -> Result<(), CatalogError> {
    match wanted.filter(|wanted| *wanted != found) {
        Some(wanted) => Err(CatalogError::WrongHash {
            what: what.to_owned(),
            kind: "blake3",
            found: found.to_string(),
            wanted: wanted.to_string(),
        }),
        None => Ok(()),
    }
}

/// Reads the whole package at `origin` into a file at `path`.
pub(super) async fn download(
    reader: &OriginReader,
    origin: &HttpOrigin,
    path: &Path,
    what: &str,
) -> Result<(), CatalogError> {
    let (sink, mut chunks) = mpsc::channel::<Chunk>(CHUNKS_WAITING);
    let (target, size) = (path.to_owned(), origin.size);
    let write = blocking(move || {
        let mut write = || {
            let file = File::create_new(&target)?;
            file.set_len(size)?;
            while let Some(chunk) = chunks.blocking_recv() {
                file.write_all_at(&chunk.bytes, chunk.offset)?;
            }
            Ok(())
        };
        Ok(write().map_err(|source| (target.clone(), source)))
    });
    let whole = 0..size;
    let wan = WanBytes::default();
    let read = async {
        let read = reader.read(origin, std::slice::from_ref(&whole), Mode::Ranges, &wan, &sink).await;
        drop(sink);
        read
    };
    let (written, read) = tokio::join!(write, read);
    // A writer that failed makes the reader fail too: the cause is the writer's.
    written?.map_err(|(path, source)| no_room(what, &path, source))?;
    read.map_err(|source| CatalogError::Origin { what: what.to_owned(), source: Box::new(source) })
}

/// Cuts `size` bytes of a file; also their SHA-512 in base64 if asked for.
fn cut(file: &File, size: u64, with_sha512: bool) -> io::Result<Result<(Recipe, Option<String>), CutError>> {
    let mut buffer = vec![0; READ_BYTES];
    let mut scan = ZipScan::new(size);
    while let Some(range) = scan.wants() {
        let len = (range.end - range.start) as usize;
        buffer.resize(len.max(READ_BYTES), 0);
        file.read_exact_at(&mut buffer[..len], range.start)?;
        scan.provide(&buffer[..len]);
    }
    let mut cutter = match Cutter::new(scan.finish()) {
        Ok(cutter) => cutter,
        Err(error) => return Ok(Err(error)),
    };
    let mut sha512 = with_sha512.then(Sha512::new);
    // One byte more than is wanted shows that the file has grown.
    let mut bytes = file.take(size + 1);
    loop {
        let len = bytes.read(&mut buffer)?;
        if len == 0 {
            break;
        }
        cutter.push(&buffer[..len]);
        if let Some(sha512) = &mut sha512 {
            sha512.update(&buffer[..len]);
        }
    }
    let sha512 = sha512.map(|sha512| STANDARD.encode(sha512.finalize()));
    Ok(cutter.finish().map(|recipe| (recipe, sha512)))
}

/// Deletes a file that nothing depends on any more.
pub(super) fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot delete a file");
        }
        _ => {}
    }
}

/// Runs what waits for disks where it may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CatalogError> + Send + 'static,
) -> Result<T, CatalogError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(CatalogError::Stopping))
}
