//! Hashes that feeds publish of their packages: read in each of the ways in which they are written, and computed while a
//! package is read for its recipe.
//!
//! They say that the coordinator read what the feed means. What nodes verify is Shoal's own hash of every segment.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

/// A hash function of feeds, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Algorithm {
    /// Good against accidents only: two files can be made that share it.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// A package's hash as its feed says it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: Vec<u8>,
}

impl Algorithm {
    const ALL: [Self; 3] = [Self::Sha1, Self::Sha256, Self::Sha512];

    /// Its name in Subresource Integrity, OCI and the rest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    fn named(name: &str) -> Option<Self> {
        let plain = name.to_ascii_lowercase().replace('-', "");
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == plain)
    }

    fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl Digest {
    fn new(algorithm: Algorithm, bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() == algorithm.len()).then_some(Self { algorithm, bytes })
    }

    /// Of an algorithm's name and hexadecimal digits, as PyPI has it.
    pub(super) fn of_hex(algorithm: &str, digits: &str) -> Option<Self> {
        Self::new(Algorithm::named(algorithm)?, hex(digits.trim())?)
    }

    /// Of an algorithm's name and base64, as NuGet has it.
    pub(super) fn of_base64(algorithm: &str, text: &str) -> Option<Self> {
        Self::new(Algorithm::named(algorithm)?, STANDARD.decode(text.trim()).ok()?)
    }

    /// Of `sha256:<hexadecimal digits>`, as OCI and GitHub have it.
    pub(super) fn of_oci(text: &str) -> Option<Self> {
        let (algorithm, digits) = text.split_once(':')?;
        Self::of_hex(algorithm, digits)
    }

    /// The strongest of an `integrity` as npm has it: `sha512-<base64>`, perhaps several with spaces between (W3C Subresource
    /// Integrity, 3.5).
    pub(super) fn of_sri(text: &str) -> Option<Self> {
        let read = |one: &str| {
            let (algorithm, base64) = one.split('?').next()?.split_once('-')?;
            Self::of_base64(algorithm, base64)
        };
        text.split_ascii_whitespace().filter_map(read).max()
    }

    /// The hash of `bytes`.
    pub(crate) fn of_bytes(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// Its hexadecimal digits.
    pub(super) fn hex(&self) -> String {
        hex_of(&self.bytes)
    }

    /// Which hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether it alone says that bytes are the same, so that they need not be read again.
    pub fn identifies(&self) -> bool {
        self.algorithm > Algorithm::Sha1
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `bytes` as hexadecimal digits.
pub(super) fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hex(digits: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| if let [high, low] = pair { Some(value(*high)? << 4 | value(*low)?) } else { None }).collect()
}

/// Computes one hash.
pub(crate) enum Hasher {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha1 => Self::Sha1(Sha1::new()),
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Digest {
        match self {
            Self::Sha1(hasher) => Digest { algorithm: Algorithm::Sha1, bytes: hasher.finalize().to_vec() },
            Self::Sha256(hasher) => Digest { algorithm: Algorithm::Sha256, bytes: hasher.finalize().to_vec() },
            Self::Sha512(hasher) => Digest { algorithm: Algorithm::Sha512, bytes: hasher.finalize().to_vec() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `abc` (FIPS 180-4's own example).
    const SHA1: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";
    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const SHA512_BASE64: &str =
        "3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw==";

    #[test]
    fn each_way_to_write_a_hash_is_read() {
        let of = |algorithm| Some(Digest::of_bytes(algorithm, b"abc"));
        assert_eq!(Digest::of_hex("sha1", SHA1), of(Algorithm::Sha1));
        assert_eq!(Digest::of_hex("SHA-256", &format!("{}\n", SHA256.to_uppercase())), of(Algorithm::Sha256));
        assert_eq!(Digest::of_base64("SHA512", SHA512_BASE64), of(Algorithm::Sha512));
        assert_eq!(Digest::of_oci(&format!("sha256:{SHA256}")), of(Algorithm::Sha256));
        let sri = format!("sha1-qZk+NkcGgWq6PiVxeFDCbJzQ2J0= sha512-{SHA512_BASE64}?ct=x md5-x");
        assert_eq!(Digest::of_sri(&sri), of(Algorithm::Sha512), "the strongest");
        assert_eq!(of(Algorithm::Sha256).unwrap().to_string(), format!("sha256:{SHA256}"));
        assert!(of(Algorithm::Sha256).unwrap().identifies() && !of(Algorithm::Sha1).unwrap().identifies());
    }

    #[test]
    fn what_is_no_hash_is_none() {
        let short = &SHA256[..62];
        for text in [format!("sha256:{short}"), format!("sha256:{short}0"), format!("md5:{SHA256}"), SHA256.to_owned()]
        {
            assert_eq!(Digest::of_oci(&text), None, "{text}");
        }
        assert_eq!(Digest::of_oci(&format!("sha256:{short}é")), None);
        assert_eq!(Digest::of_sri("sha512-!!"), None);
        assert_eq!(Digest::of_sri(""), None);
        assert_eq!(Digest::of_base64("sha256", SHA512_BASE64), None);
    }
}
