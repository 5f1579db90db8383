//! The bytes of the audit log: frames, each linked to the one before it.
//!
//! | bytes | frame |
//! | --- | --- |
//! | 4 | length of the payload, little endian |
//! | 8 | number of the frame, little endian |
//! | 4 | first bytes of the BLAKE3 of the 12 before |
//! | 16 | first bytes of the BLAKE3 of the payload |
//! | 32 | the link: BLAKE3 of the link of the frame before, the 32 bytes before and the payload |
//! | … | payload |
//!
//! The first two sums tell a frame that is whole from one that is not, wherever it stands. The link tells whether it stands
//! where it was written, behind all that was written before.

use std::fmt;
use std::io::{self, BufReader, Read};
use std::str::FromStr;

use shoal_proto::limits::RECORD_BYTES_MAX;

pub(super) const MAGIC: &[u8; 16] = b"shoal audit v2\n\0";
pub(super) const HEADER_LEN: usize = 64;

/// Where the sums end and the link begins.
const LINK_AT: usize = 32;

/// A place in the log: a frame, and the link that stands for all up to it. Written as `41:9f…`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Number of the frame; 0 before the first.
    pub number: u64,
    /// Its link.
    pub link: [u8; 32],
}

impl Head {
    /// Before the first frame.
    pub const START: Self = Self { number: 0, link: [0; 32] };
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, blake3::Hash::from_bytes(self.link))
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no head: a number, `:` and 64 digits are wanted, from `shoal audit ls`");
        let (number, link) = text.split_once(':').ok_or_else(wrong)?;
        let link = blake3::Hash::from_hex(link).map_err(|_| wrong())?;
        Ok(Self { number: number.parse().map_err(|_| wrong())?, link: *link.as_bytes() })
    }
}

/// Why what stands in a log is no frame of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// No whole frame: cut off in the middle of one, or changed.
    NotWhole,
    /// A whole frame that another was expected before or instead of.
    Number {
        /// Its number.
        found: u64,
    },
    /// A whole frame that was not written behind the one before it.
    Link,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWhole => write!(f, "its bytes were changed, or are not all there"),
            Self::Number { found } => write!(f, "entry {found} stands in its place: entries were removed or moved"),
            Self::Link => write!(f, "it was not written behind the entry before it: one of them was changed or put in"),
        }
    }
}

/// What comes next in a log.
pub(super) enum Next {
    Frame(Vec<u8>),
    End,
    Flaw(Flaw),
}

/// Reads frames in order and checks each.
pub(super) struct Frames<R> {
    reader: BufReader<R>,
    /// The last good frame.
    pub(super) head: Head,
    /// Where it ends, in bytes from the start of the file.
    pub(super) position: u64,
}

impl<R: Read> Frames<R> {
    /// From a reader that stands behind the magic.
    pub(super) fn new(reader: R) -> Self {
        let reader = BufReader::with_capacity(1 << 20, reader);
        Self { reader, head: Head::START, position: MAGIC.len() as u64 }
    }

    /// The payload of the next frame. After an end or a flaw, nothing more may be read.
    pub(super) fn next(&mut self) -> io::Result<Next> {
        let mut header = [0; HEADER_LEN];
        match read_up_to(&mut self.reader, &mut header)? {
            0 => return Ok(Next::End),
            HEADER_LEN => {}
            _ => return Ok(Next::Flaw(Flaw::NotWhole)),
        }
        let Some((len, number)) = parse(&header) else { return Ok(Next::Flaw(Flaw::NotWhole)) };
        let mut payload = vec![0; len];
        let whole = read_up_to(&mut self.reader, &mut payload)? == len && is_payload(&header, &payload);
        let flaw = match () {
            () if !whole => Flaw::NotWhole,
            () if number != self.head.number + 1 => Flaw::Number { found: number },
            () if link(&self.head, &header, &payload) != header[LINK_AT..] => Flaw::Link,
            () => {
                self.head = head(&header);
                self.position += (HEADER_LEN + len) as u64;
                return Ok(Next::Frame(payload));
            }
        };
        Ok(Next::Flaw(flaw))
    }
}

/// The header of the frame that follows `before`.
pub(super) fn header(before: &Head, payload: &[u8]) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[4..12].copy_from_slice(&(before.number + 1).to_le_bytes());
    let sum = blake3::hash(&header[..12]);
    header[12..16].copy_from_slice(&sum.as_bytes()[..4]);
    header[16..LINK_AT].copy_from_slice(&blake3::hash(payload).as_bytes()[..16]);
    let link = link(before, &header, payload);
    header[LINK_AT..].copy_from_slice(&link);
    header
}

/// The place of the frame that begins with `header`.
pub(super) fn head(header: &[u8; HEADER_LEN]) -> Head {
    let number = u64::from_le_bytes(*header[4..].first_chunk().expect("eight of 60 bytes"));
    Head { number, link: *header[LINK_AT..].first_chunk().expect("32 of 32 bytes") }
}

/// Whether a whole frame with a number over `last` starts anywhere in `bytes`.
pub(super) fn holds_frame(bytes: &[u8], last: u64) -> bool {
    let is_frame = |at: usize| {
        let (head, tail) = bytes[at..].split_first_chunk::<HEADER_LEN>()?;
        let (len, number) = parse(head)?;
        let payload = tail.get(..len)?;
        (number > last && is_payload(head, payload)).then_some(())
    };
    (0..bytes.len()).any(|at| is_frame(at).is_some())
}

fn link(before: &Head, header: &[u8; HEADER_LEN], payload: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("shoal audit link v2");
    hasher.update(&before.link).update(&header[..LINK_AT]).update(payload);
    *hasher.finalize().as_bytes()
}

/// Length of the payload and number of the frame, if the header's own sum holds.
fn parse(header: &[u8; HEADER_LEN]) -> Option<(usize, u64)> {
    let sum = blake3::hash(&header[..12]);
    let len = u32::from_le_bytes(*header.first_chunk()?) as usize;
    (header[12..16] == sum.as_bytes()[..4] && len <= RECORD_BYTES_MAX).then_some((len, head(header).number))
}

fn is_payload(header: &[u8; HEADER_LEN], payload: &[u8]) -> bool {
    blake3::hash(payload).as_bytes()[..16] == header[16..LINK_AT]
}

/// Fills `buffer` as far as there is something; how far.
fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
