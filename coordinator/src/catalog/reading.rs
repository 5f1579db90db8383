//! Reading a package once: from an origin into a file, and from a file into a recipe.
//!
//! A recipe comes out only if the bytes are those that were resolved and wanted (VERIFIED).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha512};
use shoal_node::origin::{Chunk, Mode, OriginError, OriginReader, WanBytes};
use shoal_node::store::Store;
use shoal_proto::content::{CutError, Cutter, Recipe, Shape, ZipScan};
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

/// A package that is being cut, with the feed's own hash of it.
pub(super) struct Cutting {
    cutter: Cutter,
    sha512: Option<Sha512>,
}

impl Cutting {
    fn push(&mut self, bytes: &[u8]) {
        self.cutter.push(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
    }
}

impl Job {
    /// The recipe of a file, whose hashes are those that were given.
    pub(super) fn cut_file(&self, file: &File, path: &Path) -> Result<Recipe, CatalogError> {
        let size = self.resolved.size();
        let mut buffer = vec![0; READ_BYTES];
        let mut scan = ZipScan::new(size);
        while let Some(range) = scan.wants() {
            let len = (range.end - range.start) as usize;
            buffer.resize(len.max(READ_BYTES), 0);
            file.read_exact_at(&mut buffer[..len], range.start).map_err(failed("read", path))?;
            scan.provide(&buffer[..len]);
        }
        let mut cutting = self.cutting(scan.finish())?;
        // One byte more than is wanted shows that the file has grown.
        let mut bytes = file.take(size + 1);
        loop {
            match bytes.read(&mut buffer).map_err(failed("read", path))? {
                0 => return self.cut(cutting),
                len => cutting.push(&buffer[..len]),
            }
        }
    }

    /// The same of a file by its path.
    pub(super) fn cut_path(&self, path: &Path) -> Result<Recipe, CatalogError> {
        self.cut_file(&File::open(path).map_err(failed("open", path))?, path)
    }

    fn cutting(&self, shape: Shape) -> Result<Cutting, CatalogError> {
        let cutter = Cutter::new(shape).map_err(|source| self.cannot_cut(source))?;
        Ok(Cutting { cutter, sha512: self.resolved.sha512.is_some().then(Sha512::new) })
    }

    /// The recipe of all that was pushed, whose hashes are those that were given.
    fn cut(&self, cutting: Cutting) -> Result<Recipe, CatalogError> {
        let what = &self.resolved.description;
        let recipe = cutting.cutter.finish().map_err(|source| self.cannot_cut(source))?;
        check_package(what, recipe.package(), self.wanted)?;
        let found = cutting.sha512.map(|sha512| STANDARD.encode(sha512.finalize()));
        match (&self.resolved.sha512, found) {
            (Some(wanted), Some(found)) if *wanted != found => {
                Err(CatalogError::WrongHash { what: what.clone(), kind: "sha512", found, wanted: wanted.clone() })
            }
            _ => Ok(recipe),
        }
    }

    fn cannot_cut(&self, source: CutError) -> CatalogError {
        CatalogError::Cut { what: self.resolved.description.clone(), source }
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

/// Reads the package at `origin` and cuts it on its way: its bytes go into a file at `path` only where that is given.
/// Of an origin without ranges the end, which tells a zip's entries, is not known beforehand: see [`download`].
///
/// # Errors
/// [`CatalogError`]; [`OriginError::IgnoresRanges`] before anything is in the file.
pub(super) async fn read_and_cut(
    reader: &OriginReader,
    origin: &HttpOrigin,
    job: Arc<Job>,
    path: Option<PathBuf>,
) -> Result<Recipe, CatalogError> {
    let what = job.resolved.description.clone();
    let failed_there = |source| CatalogError::Origin { what: what.clone(), source: Box::new(source) };
    let shape = scan(reader, origin).await.map_err(failed_there)?;
    let (sink, chunks) = mpsc::channel::<Chunk>(CHUNKS_WAITING);
    let size = origin.size;
    let cut = blocking(move || cut_chunks(&job, shape, chunks, path.as_deref(), size));
    let whole = 0..size;
    let read = async {
        let read = reader.read(origin, std::slice::from_ref(&whole), Mode::Ranges, &WanBytes::default(), &sink).await;
        drop(sink);
        read
    };
    let (cut, read) = tokio::join!(cut, read);
    // A disk that refuses makes the reader fail too, and a reader that fails leaves the cutter short: the cause first.
    match (cut, read) {
        (Err(CatalogError::Cut { .. }) | Ok(_), Err(source)) => Err(failed_there(source)),
        (cut, _) => cut,
    }
}

/// How the package is to be cut, from the parts of it that tell.
async fn scan(reader: &OriginReader, origin: &HttpOrigin) -> Result<Shape, OriginError> {
    let mut scan = ZipScan::new(origin.size);
    while let Some(range) = scan.wants() {
        let (sink, mut chunks) = mpsc::channel::<Chunk>(CHUNKS_WAITING);
        let mut found = Vec::new();
        let read = async {
            let ranges = std::slice::from_ref(&range);
            let read = reader.read(origin, ranges, Mode::Ranges, &WanBytes::default(), &sink).await;
            drop(sink);
            read
        };
        let collect = async {
            while let Some(chunk) = chunks.recv().await {
                found.extend_from_slice(&chunk.bytes);
            }
        };
        let (read, ()) = tokio::join!(read, collect);
        read?;
        scan.provide(&found);
    }
    Ok(scan.finish())
}

/// Cuts what arrives in order, and writes it down.
fn cut_chunks(
    job: &Job,
    shape: Shape,
    mut chunks: mpsc::Receiver<Chunk>,
    path: Option<&Path>,
    size: u64,
) -> Result<Recipe, CatalogError> {
    let what = &job.resolved.description;
    let file = path.map(|path| create(path, size).map(|file| (file, path)).map_err(|e| no_room(what, path, e)));
    let file = file.transpose()?;
    let mut cutting = job.cutting(shape)?;
    while let Some(chunk) = chunks.blocking_recv() {
        cutting.push(&chunk.bytes);
        if let Some((file, path)) = &file {
            file.write_all_at(&chunk.bytes, chunk.offset).map_err(|source| no_room(what, path, source))?;
        }
    }
    job.cut(cutting)
}

fn create(path: &Path, size: u64) -> io::Result<File> {
    let file = File::create_new(path)?;
    file.set_len(size)?;
    Ok(file)
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
            let file = create(&target, size)?;
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
