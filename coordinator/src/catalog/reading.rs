//! Reading a package once: from an origin into a file, and from a file into a recipe.
//!
//! A recipe comes out only if the bytes are those that were resolved and wanted (VERIFIED).

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use shoal_node::origin::{Chunk, Mode, OriginError, WanBytes};
use shoal_node::store::Store;
use shoal_proto::content::{CutError, Recipe, Segmenter, Shape, ZipScan};
use shoal_proto::id::PackageId;
use shoal_proto::limits::ORIGIN_PROGRESS_BYTES;
use shoal_proto::origin::HttpOrigin;
use tokio::sync::mpsc;

use super::error::{CatalogError, failed, no_room};
use crate::feeds::digest::Hasher;
use crate::feeds::{Feeds, Resolved};

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
#[derive(Clone)]
pub(super) struct Job {
    pub(super) resolved: Resolved,
    pub(super) wanted: Option<PackageId>,
    pub(super) keep: Option<Store>,
}

/// The hashes of a whole package: ours, and the feed's own in their order.
struct Hashing {
    package: blake3::Hasher,
    digests: Vec<Hasher>,
}

impl Hashing {
    fn update(&mut self, bytes: &[u8]) {
        self.package.update(bytes);
        self.digests.iter_mut().for_each(|hasher| hasher.update(bytes));
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
        let (mut segments, mut hashing) = self.cutting(scan.finish())?;
        // One byte more than is wanted shows that the file has grown.
        let mut bytes = file.take(size + 1);
        loop {
            match bytes.read(&mut buffer).map_err(failed("read", path))? {
                0 => return self.cut(segments, hashing),
                len => {
                    segments.push(&buffer[..len]);
                    hashing.update(&buffer[..len]);
                }
            }
        }
    }

    /// The same of a file by its path.
    pub(super) fn cut_path(&self, path: &Path) -> Result<Recipe, CatalogError> {
        self.cut_file(&File::open(path).map_err(failed("open", path))?, path)
    }

    fn cutting(&self, shape: Shape) -> Result<(Segmenter, Hashing), CatalogError> {
        let segments = Segmenter::new(shape).map_err(|source| self.cannot_cut(source))?;
        let digests = self.resolved.digests.iter().map(|digest| Hasher::new(digest.algorithm())).collect();
        Ok((segments, Hashing { package: blake3::Hasher::new(), digests }))
    }

    /// The recipe of all that was pushed, whose hashes are those that were given.
    fn cut(&self, segments: Segmenter, hashing: Hashing) -> Result<Recipe, CatalogError> {
        let what = &self.resolved.description;
        let package = PackageId(*hashing.package.finalize().as_bytes());
        let recipe = segments.finish(package).map_err(|source| self.cannot_cut(source))?;
        check_package(what, recipe.package(), self.wanted)?;
        for (wanted, found) in self.resolved.digests.iter().zip(hashing.digests.into_iter().map(Hasher::finish)) {
            if *wanted != found {
                let (kind, found, wanted) = (wanted.algorithm().name(), found.to_string(), wanted.to_string());
                return Err(CatalogError::WrongHash { what: what.clone(), kind, found, wanted });
            }
        }
        Ok(recipe)
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

/// One of the places where a package is, with what it takes to ask there.
pub(super) struct Source<'a> {
    pub(super) feeds: &'a Feeds,
    pub(super) resolved: &'a Resolved,
    pub(super) place: &'a HttpOrigin,
}

impl Source<'_> {
    /// Reads a range, in order. What a feed lent may end while a large package is read: it is then asked again, and the
    /// read goes on where it stopped.
    async fn read(&self, range: Range<u64>, sink: mpsc::Sender<Chunk>) -> Result<(), CatalogError> {
        let reader = self.feeds.reader();
        let (mut at, mut refused) = (range.start, false);
        loop {
            let origin = self.feeds.authorize(self.resolved, self.place.clone()).await?;
            let (wan, rest) = (WanBytes::default(), at..range.end);
            let read = reader.read(&origin, std::slice::from_ref(&rest), Mode::Ranges, &wan, &sink).await;
            match read {
                Err(OriginError::Unauthorized { .. } | OriginError::Forbidden { .. })
                    if !refused || wan.total() >= ORIGIN_PROGRESS_BYTES =>
                {
                    // One range without gaps: what crossed the WAN was delivered.
                    at += wan.total();
                    refused = true;
                    self.feeds.denied(self.resolved);
                }
                read => return read.map_err(|source| self.failed(source)),
            }
        }
    }

    fn failed(&self, source: OriginError) -> CatalogError {
        CatalogError::Origin { what: self.resolved.description.clone(), source: Box::new(source) }
    }
}

/// Reads the package at `source` and cuts it on its way: its bytes go into a file at `path` only where that is given.
/// Of an origin without ranges the end, which tells a zip's entries, is not known beforehand: see [`download`].
///
/// # Errors
/// [`CatalogError`]; [`OriginError::IgnoresRanges`] before anything is in the file.
pub(super) async fn read_and_cut(
    source: &Source<'_>,
    job: Arc<Job>,
    path: Option<PathBuf>,
) -> Result<Recipe, CatalogError> {
    let size = source.place.size;
    let shape = scan(source).await?;
    let (sink, chunks) = mpsc::channel::<Chunk>(CHUNKS_WAITING);
    let cut = blocking(move || cut_chunks(&job, shape, chunks, path.as_deref(), size));
    let (cut, read) = tokio::join!(cut, source.read(0..size, sink));
    // A disk that refuses makes the reader fail too, and a reader that fails leaves the cutter short: the cause first.
    match (cut, read) {
        (Err(CatalogError::Cut { .. }) | Ok(_), Err(error)) => Err(error),
        (cut, _) => cut,
    }
}

/// How the package is to be cut, from the parts of it that tell.
async fn scan(source: &Source<'_>) -> Result<Shape, CatalogError> {
    let mut scan = ZipScan::new(source.place.size);
    while let Some(range) = scan.wants() {
        let (sink, mut chunks) = mpsc::channel::<Chunk>(CHUNKS_WAITING);
        let mut found = Vec::new();
        let collect = async {
            while let Some(chunk) = chunks.recv().await {
                found.extend_from_slice(&chunk.bytes);
            }
        };
        let (read, ()) = tokio::join!(source.read(range, sink), collect);
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
    let (mut segments, mut hashing) = job.cutting(shape)?;
    // The whole is hashed beside the cutting, which takes twice as long.
    std::thread::scope(|scope| {
        let (to_hash, hashed) = std::sync::mpsc::sync_channel::<Bytes>(CHUNKS_WAITING);
        let beside = scope.spawn(move || {
            hashed.into_iter().for_each(|bytes| hashing.update(&bytes));
            hashing
        });
        while let Some(chunk) = chunks.blocking_recv() {
            // It is there until there is no more to hash.
            let _ = to_hash.send(chunk.bytes.clone());
            segments.push(&chunk.bytes);
            if let Some((file, path)) = &file {
                file.write_all_at(&chunk.bytes, chunk.offset).map_err(|source| no_room(what, path, source))?;
            }
        }
        drop(to_hash);
        job.cut(segments, beside.join().map_err(|_| CatalogError::Stopping)?)
    })
}

fn create(path: &Path, size: u64) -> io::Result<File> {
    let file = File::create_new(path)?;
    file.set_len(size)?;
    Ok(file)
}

/// Reads the whole package at `source` into a file at `path`.
pub(super) async fn download(source: &Source<'_>, path: &Path) -> Result<(), CatalogError> {
    let (sink, mut chunks) = mpsc::channel::<Chunk>(CHUNKS_WAITING);
    let (target, size) = (path.to_owned(), source.place.size);
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
    let (written, read) = tokio::join!(write, source.read(0..size, sink));
    // A writer that failed makes the reader fail too: the cause is the writer's.
    written?.map_err(|(path, error)| no_room(&source.resolved.description, &path, error))?;
    read
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
