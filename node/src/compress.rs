//! zstd for recipes: one recipe's pieces against another's plain form, of which they mostly repeat parts.

use std::io::{self, Read, Write};

/// Level of compression: below 9 recipes of many small files grow tenfold, above it they shrink by a tenth at most.
const LEVEL: i32 = 9;

/// Window in bits: reaches back over a whole recipe of [`shoal_proto::limits::RECIPE_BYTES_MAX`].
const WINDOW_LOG: u32 = 27;

/// `plain` compressed, against `dictionary` if there is one.
///
/// # Errors
/// Those of zstd, which has none for valid settings.
pub fn compress(plain: &[u8], dictionary: Option<&[u8]>) -> io::Result<Vec<u8>> {
    let mut encoder = match dictionary {
        Some(dictionary) => zstd::Encoder::with_ref_prefix(Vec::new(), LEVEL, dictionary)?,
        None => zstd::Encoder::new(Vec::new(), LEVEL)?,
    };
    if dictionary.is_some() {
        encoder.window_log(WINDOW_LOG)?;
    }
    encoder.write_all(plain)?;
    encoder.finish()
}

/// What [`compress`] made `compressed` of, at most `len_max` bytes.
///
/// # Errors
/// Bytes that are no zstd frame, need another dictionary, or say more than `len_max` bytes.
pub fn decompress(compressed: &[u8], dictionary: Option<&[u8]>, len_max: usize) -> io::Result<Vec<u8>> {
    let mut plain = Vec::with_capacity(len_max.min(1 << 20));
    let limit = len_max as u64 + 1;
    match dictionary {
        Some(dictionary) => {
            let mut decoder = zstd::Decoder::with_ref_prefix(io::BufReader::new(compressed), dictionary)?;
            decoder.window_log_max(WINDOW_LOG)?;
            decoder.take(limit).read_to_end(&mut plain)?;
        }
        None => {
            zstd::Decoder::new(compressed)?.take(limit).read_to_end(&mut plain)?;
        }
    }
    if plain.len() > len_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more bytes than were announced"));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_compressed_comes_back_and_a_dictionary_helps() {
        let old: Vec<u8> =
            (0..200_000u32).flat_map(|i| blake3::hash(&i.to_le_bytes()).as_bytes()[..2].to_vec()).collect();
        let mut new = old.clone();
        new[1000] ^= 1;
        let alone = compress(&new, None).unwrap();
        let against = compress(&new, Some(&old)).unwrap();
        assert!(against.len() * 100 < alone.len(), "{} against {}", against.len(), alone.len());
        assert_eq!(decompress(&alone, None, new.len()).unwrap(), new);
        assert_eq!(decompress(&against, Some(&old), new.len()).unwrap(), new);
        assert!(decompress(&against, None, new.len()).is_err_and(|_| true) || new.is_empty());
    }

    #[test]
    fn a_bomb_is_refused() {
        let bomb = compress(&vec![0; 1 << 20], None).unwrap();
        assert!(decompress(&bomb, None, 1000).is_err());
    }
}
