//! How values become bytes: bincode's standard configuration behind one version byte, with a size limit each way.
//!
//! The only file that knows bincode. Encoding is canonical: one value has one byte string, and decoding refuses what the
//! encoder would not have written (trailing bytes, an unknown version). Payload never comes through here.

use bincode::config;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// The version of every encoded value; the first byte. A change of any message's meaning raises it.
pub const VERSION: u8 = 1;

/// Why bytes are not the value they were taken for, or a value cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CodecError {
    /// The value or its bytes are larger than allowed.
    #[error("{len} bytes where at most {max} are allowed")]
    TooLarge {
        /// The size found, in bytes.
        len: usize,
        /// The size allowed, in bytes.
        max: usize,
    },
    /// Another version of the format.
    #[error("format version {found}, but this program speaks version {VERSION}: upgrade the older of the two programs")]
    Version {
        /// The version found.
        found: u8,
    },
    /// Nothing at all.
    #[error("no bytes")]
    Empty,
    /// Not an encoding of the wanted value.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Bytes after the end of the value.
    #[error("{0} bytes after the end of the value")]
    Trailing(usize),
}

/// Encodes `value`, behind the version byte.
///
/// # Errors
/// [`CodecError::TooLarge`] if the result is over `max` bytes.
pub fn encode<T: Serialize>(value: &T, max: usize) -> Result<Vec<u8>, CodecError> {
    let body =
        bincode::serde::encode_to_vec(value, config::standard()).map_err(|e| CodecError::Malformed(e.to_string()))?;
    let len = body.len() + 1;
    if len > max {
        return Err(CodecError::TooLarge { len, max });
    }
    let mut bytes = Vec::with_capacity(len);
    bytes.push(VERSION);
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Decodes what [`encode`] wrote; memory is bounded by a small multiple of `bytes.len()`.
///
/// # Errors
/// Every [`CodecError`]; none of the bytes is trusted before it is checked.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, CodecError> {
    if bytes.len() > max {
        return Err(CodecError::TooLarge { len: bytes.len(), max });
    }
    let (version, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    if *version != VERSION {
        return Err(CodecError::Version { found: *version });
    }
    let (value, used) = decode_limited(body).map_err(|e| CodecError::Malformed(e.to_string()))?;
    if used == body.len() { Ok(value) } else { Err(CodecError::Trailing(body.len() - used)) }
}

/// bincode takes its limit as a type parameter: the smallest of a few steps that `body` fits in.
fn decode_limited<T: DeserializeOwned>(body: &[u8]) -> Result<(T, usize), bincode::error::DecodeError> {
    const SMALL: usize = 64 * 1024;
    const MEDIUM: usize = 4 * 1024 * 1024;
    const LARGE: usize = 256 * 1024 * 1024;
    if body.len() <= SMALL {
        bincode::serde::decode_from_slice(body, config::standard().with_limit::<{ 8 * SMALL }>())
    } else if body.len() <= MEDIUM {
        bincode::serde::decode_from_slice(body, config::standard().with_limit::<{ 8 * MEDIUM }>())
    } else {
        bincode::serde::decode_from_slice(body, config::standard().with_limit::<LARGE>())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_later_version_is_refused_by_name() {
        let mut bytes = encode(&7u32, 100).unwrap();
        bytes[0] = 9;
        let error = decode::<u32>(&bytes, 100).unwrap_err();
        assert_eq!(error, CodecError::Version { found: 9 });
        assert!(error.to_string().contains("upgrade"), "{error}");
    }

    #[test]
    fn sizes_are_bounded_both_ways() {
        let value = vec![0u8; 100];
        assert_eq!(encode(&value, 50), Err(CodecError::TooLarge { len: 102, max: 50 }));
        let bytes = encode(&value, 200).unwrap();
        assert_eq!(decode::<Vec<u8>>(&bytes, 50), Err(CodecError::TooLarge { len: 102, max: 50 }));
    }

    #[test]
    fn a_claimed_length_beyond_the_bytes_is_refused() {
        // A vector that says it holds 2^40 items in a few bytes must fail without asking for the memory.
        let bytes = [VERSION, 253, 0, 0, 0, 0, 0, 1, 0, 0];
        assert!(matches!(decode::<Vec<u64>>(&bytes, 100), Err(CodecError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn round_trips_and_refuses_trailing_bytes(value: (u64, String, Vec<Option<u16>>), extra in 1usize..9) {
            let mut bytes = encode(&value, 1 << 20).unwrap();
            prop_assert_eq!(decode::<(u64, String, Vec<Option<u16>>)>(&bytes, 1 << 20).unwrap(), value);
            bytes.extend(vec![0; extra]);
            let refused = decode::<(u64, String, Vec<Option<u16>>)>(&bytes, 1 << 20);
            prop_assert_eq!(refused, Err(CodecError::Trailing(extra)));
        }

        #[test]
        fn any_bytes_decode_or_fail_without_panic(bytes: Vec<u8>) {
            let _ = decode::<(u64, String, Vec<Option<u16>>)>(&bytes, 1 << 20);
        }
    }
}
