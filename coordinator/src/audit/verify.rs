//! Whether an audit log is whole, read without being opened: no coordinator needs to run, and one that runs is not
//! disturbed.
//!
//! A chain shows that what is there was written in this order and not changed since. It cannot show that nothing was
//! written behind its end: a log whose last frames were cut off, or that was written anew from some frame on by who can
//! compute BLAKE3, is whole in itself. Only a head that was noted elsewhere, or the coordinator that runs, tells.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use shoal_proto::limits::RECORD_BYTES_MAX;

use super::frame::{Flaw, Frames, HEADER_LEN, Head, MAGIC, Next, holds_frame};
use super::{AuditError, Frame};

/// What was found in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The last frame up to which all is whole.
    pub head: Head,
    /// The first thing that is wrong.
    pub broken: Option<Broken>,
}

/// Where a log is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The first frame that is not.
    pub number: u64,
    /// Where it should stand, in bytes from the start of the file.
    pub offset: u64,
    /// What is wrong.
    pub cause: Cause,
}

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A frame, and more behind it.
    Frame(Flaw),
    /// The last bytes are no whole frame: a crash leaves that, and so does a change.
    Torn,
    /// It ends before the known head.
    Short {
        /// The known head.
        known: Head,
    },
    /// The frame of the known head has another link.
    OtherChain {
        /// The known head.
        known: Head,
    },
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Frame(flaw) => flaw.fmt(f),
            Self::Torn => {
                write!(f, "the last bytes are no whole entry: written in a crash and answered to nobody, or changed")
            }
            Self::Short { known } => write!(f, "it is missing, with all up to the known head {}", known.number),
            Self::OtherChain { known } => {
                write!(f, "it is another than the known head {known}: the log was written anew")
            }
        }
    }
}

/// Reads the first `len_bytes` of the log at `path`, passes every good frame to `each`, and says what is wrong. With
/// `known`, the log must hold that head.
///
/// # Errors
/// [`AuditError::Io`] and [`AuditError::NoLog`].
pub fn verify(
    path: &Path,
    len_bytes: u64,
    known: Option<Head>,
    mut each: impl FnMut(Frame),
) -> Result<Verdict, AuditError> {
    let io = |source| AuditError::Io { doing: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let len_bytes = len_bytes.min(file.metadata().map_err(io)?.len());
    let mut file = file.take(len_bytes);
    let mut magic = Vec::new();
    file.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(io)?;
    if magic != MAGIC {
        return Err(AuditError::NoLog { path: path.to_owned() });
    }
    let mut frames = Frames::new(file);
    loop {
        let next = frames.next().map_err(io)?;
        let (head, offset) = (frames.head, frames.position);
        let broken = |number, cause| Verdict { head, broken: Some(Broken { number, offset, cause }) };
        match next {
            Next::Frame(payload) => match known.filter(|known| known.number == head.number && *known != head) {
                Some(known) => return Ok(broken(head.number, Cause::OtherChain { known })),
                None => each((head.number, payload)),
            },
            Next::Flaw(Flaw::NotWhole) if !frame_behind(path, offset, len_bytes, head.number)? => {
                return Ok(broken(head.number + 1, Cause::Torn));
            }
            Next::Flaw(flaw) => return Ok(broken(head.number + 1, Cause::Frame(flaw))),
            Next::End => match known.filter(|known| known.number > head.number) {
                Some(known) => return Ok(broken(head.number + 1, Cause::Short { known })),
                None => return Ok(Verdict { head, broken: None }),
            },
        }
    }
}

/// Whether something was written behind the wrong bytes at `offset`: a whole frame, or more bytes than a frame has.
pub(super) fn frame_behind(path: &Path, offset: u64, len_bytes: u64, last: u64) -> Result<bool, AuditError> {
    use std::io::{Seek, SeekFrom};
    if len_bytes.saturating_sub(offset) > (HEADER_LEN + RECORD_BYTES_MAX) as u64 {
        return Ok(true);
    }
    let read = || {
        let mut rest = Vec::new();
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.take(len_bytes.saturating_sub(offset)).read_to_end(&mut rest)?;
        Ok(rest)
    };
    let rest = read().map_err(|source| AuditError::Io { doing: "read", path: path.to_owned(), source })?;
    Ok(holds_frame(&rest, last))
}
