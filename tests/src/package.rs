//! Packages for tests: bytes that neither compress nor repeat, the same for the same seed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Files by their path.
pub type Files = BTreeMap<String, Vec<u8>>;

/// `len` bytes.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes [`bytes`] to a file that may be larger than memory.
///
/// # Errors
/// Those of the disk.
pub fn write(path: &Path, seed: u64, len: u64) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    let mut stream = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut buffer = vec![0; 1 << 20];
    let mut left = len;
    while left > 0 {
        let piece = &mut buffer[..usize::try_from(left.min(1 << 20)).expect("at most a MiB")];
        stream.fill(piece);
        file.write_all(piece)?;
        left -= piece.len() as u64;
    }
    Ok(())
}

/// `count` files of `len` bytes each, in some folders.
pub fn files(seed: u64, count: u64, len: usize) -> Files {
    (0..count).map(|index| (format!("part-{}/file-{index}", index % 7), bytes(seed * 1_000_003 + index, len))).collect()
}

/// `files` with every tenth one changed.
pub fn tenth_changed(files: &Files, seed: u64) -> Files {
    let mut changed = files.clone();
    for (index, content) in changed.values_mut().step_by(10).enumerate() {
        *content = bytes(seed * 2_000_003 + index as u64, content.len());
    }
    changed
}

/// A zip of `files`.
pub fn zip(files: &Files) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default());
    for (path, content) in files {
        writer.start_file(path.as_str(), options).expect("the path is new");
        writer.write_all(content).expect("memory takes it");
    }
    writer.finish().expect("memory takes it").into_inner()
}

/// The files below `folder`.
pub fn read(folder: &Path) -> Files {
    let mut found = Files::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let entries = fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display()));
        for path in entries.map(|entry| entry.expect("a folder can be listed").path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("it is below").to_string_lossy().into_owned();
                found.insert(name, fs::read(&path).expect("a file can be read"));
            }
        }
    }
    found
}
