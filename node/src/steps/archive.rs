//! Reads the entries of a package that is an archive: zip, tar, tar.gz or tar.zst, told apart by their first bytes.
//!
//! Which path may be written is left to [`Folder`]; how long it may take, to the caller.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use shoal_proto::limits::{UNPACK_BYTES_FLOOR, UNPACK_BYTES_PER_BYTE_MAX, UNPACK_ENTRIES_MAX};
use tar::EntryType;

use super::folder::{Folder, Inside};
use super::unpack::UnpackError;

/// Bytes of a symbolic link's target; Linux takes no more.
const LINK_BYTES_MAX: u64 = 4096;

/// What kind of file the type bits of a Unix mode say; zip keeps them with its permissions.
const MODE_TYPE: u32 = 0o170_000;

/// Kinds of archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Zip,
    Tar,
    TarGz,
    TarZst,
}

/// Unpacks `package` into the empty folder `root`; answers its entries and the bytes of its files.
pub(super) fn extract(package: &Path, root: &Path, stop: &dyn Fn() -> bool) -> Result<(u64, u64), UnpackError> {
    let mut file = File::open(package).map_err(|error| UnpackError::io("open", package, error))?;
    let size = file.metadata().map_err(|error| UnpackError::io("open", package, error))?.len();
    let format = detect(&mut file).map_err(|error| UnpackError::io("read", package, error))?;
    let bytes_max = UNPACK_BYTES_FLOOR.max(size.saturating_mul(UNPACK_BYTES_PER_BYTE_MAX));
    let mut folder = Folder::new(root, bytes_max, stop);
    let file = BufReader::new(file);
    match format {
        Some(Format::Zip) => extract_zip(file, &mut folder)?,
        Some(Format::Tar) => extract_tar(file, &mut folder)?,
        Some(Format::TarGz) => extract_tar(flate2::bufread::MultiGzDecoder::new(file), &mut folder)?,
        Some(Format::TarZst) => {
            let decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(corrupt)?;
            extract_tar(decoder, &mut folder)?;
        }
        None => return Err(UnpackError::NotAnArchive { package: package.to_owned() }),
    }
    let written = folder.written();
    folder.finish()?;
    Ok(written)
}

/// Looks at a file's first bytes, and goes back to its start.
fn detect(file: &mut File) -> std::io::Result<Option<Format>> {
    let mut head = Vec::new();
    file.take(512).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    let is_tar = head.get(257..262) == Some(b"ustar");
    Ok(match head.as_slice() {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(Format::Zip),
        [0x1f, 0x8b, ..] => Some(Format::TarGz),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Format::TarZst),
        _ if is_tar => Some(Format::Tar),
        _ => None,
    })
}

fn extract_zip(file: BufReader<File>, folder: &mut Folder<'_>) -> Result<(), UnpackError> {
    let mut archive = zip::ZipArchive::new(file).map_err(corrupt)?;
    if archive.len() as u64 > UNPACK_ENTRIES_MAX {
        return Err(UnpackError::TooManyEntries);
    }
    for index in 0..archive.len() {
        folder.begin_entry()?;
        let mut entry = archive.by_index(index).map_err(corrupt)?;
        // Some Windows programs write backslashes, which no entry of a zip may have.
        let name = entry.name().map_err(corrupt)?.replace('\\', "/");
        let mode = entry.unix_mode();
        let Some(path) = Inside::new(name.as_bytes())? else { continue };
        match mode.unwrap_or_default() & MODE_TYPE {
            0o120_000 => {
                let mut target = Vec::new();
                (&mut entry).take(LINK_BYTES_MAX + 1).read_to_end(&mut target).map_err(corrupt)?;
                folder.symlink(&path, &target)?;
            }
            0o040_000 => folder.directory(&path, mode)?,
            _ if name.ends_with('/') => folder.directory(&path, mode)?,
            0 | 0o100_000 => folder.file(&path, mode, &mut entry)?,
            _ => return Err(UnpackError::Special { entry: name }),
        }
    }
    Ok(())
}

fn extract_tar(reader: impl Read, folder: &mut Folder<'_>) -> Result<(), UnpackError> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(corrupt)? {
        folder.begin_entry()?;
        let mut entry = entry.map_err(corrupt)?;
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            continue;
        }
        let Some(path) = Inside::new(&entry.path_bytes())? else { continue };
        let mode = Some(entry.header().mode().map_err(corrupt)?);
        let special = || UnpackError::Special { entry: String::from_utf8_lossy(&entry.path_bytes()).into_owned() };
        match kind {
            EntryType::Directory => folder.directory(&path, mode)?,
            EntryType::Symlink => folder.symlink(&path, &entry.link_name_bytes().ok_or_else(special)?)?,
            EntryType::Link => {
                let original = Inside::new(&entry.link_name_bytes().ok_or_else(special)?)?.ok_or_else(special)?;
                folder.hard_link(&path, &original)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                folder.file(&path, mode, &mut entry)?
            }
            _ => return Err(special()),
        }
    }
    Ok(())
}

fn corrupt(error: impl std::fmt::Display) -> UnpackError {
    UnpackError::Corrupt { cause: error.to_string() }
}
