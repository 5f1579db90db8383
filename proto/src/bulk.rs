//! Bulk mesh messages: what a node asks of another's package store, and the header before the payload that answers it.
//!
//! Pure data; payload bytes never come through here. A request that decoded is well formed ([`BlockRequest::decode`]):
//! its runs are ascending, disjoint and bounded. Whether the asked node has the content, and whether the segments exist
//! in its recipe, is for that node to find out; whether the payload is right, for the asker's hash check (VERIFIED).
//! Framing is the node's (`net/blocks.rs`).

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::codec::{self, CodecError};
use crate::id::{ContentId, RecipeId};
use crate::limits::{ANSWER_HEADER_BYTES_MAX, BLOCK_REQUEST_BYTES_MAX, RUNS_PER_REQUEST_MAX};

/// Consecutive segments of a recipe, by position from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRun {
    /// The first segment.
    pub first: u32,
    /// How many; at least 1.
    pub count: u32,
}

/// How the payload of an answer is to be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// The segments' bytes, one after the other.
    Raw,
    /// The same bytes as one zstd frame.
    Zstd {
        /// The recipe whose plain form is the dictionary, if any; the asker has it.
        dictionary: Option<RecipeId>,
    },
}

/// Asks for the bytes of segments of one content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRequest {
    /// Chosen by the asker; its answer carries the same. Unique among the asker's open requests on this stream.
    pub id: u32,
    /// Which content.
    pub content: ContentId,
    /// Which of its segments: 1 to [`RUNS_PER_REQUEST_MAX`] runs, ascending, without overlap.
    pub runs: Vec<SegmentRun>,
    /// How the payload is wanted.
    pub encoding: Encoding,
}

/// Why a request is not one that this program answers or sends.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// Not readable, or too large.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// No runs, or too many.
    #[error("{0} runs of segments where 1 to {RUNS_PER_REQUEST_MAX} are allowed")]
    RunCount(usize),
    /// An empty, overlapping or descending run, or one past the last possible segment.
    #[error("run {0} of segments is empty, out of order or out of range")]
    Run(usize),
}

impl BlockRequest {
    /// Its bytes.
    ///
    /// # Errors
    /// [`RequestError`] if the other side would refuse it.
    pub fn encode(&self) -> Result<Vec<u8>, RequestError> {
        self.check()?;
        Ok(codec::encode(self, BLOCK_REQUEST_BYTES_MAX)?)
    }

    /// The request that `bytes` are.
    ///
    /// # Errors
    /// [`RequestError`] if they are none, or one that is not well formed.
    pub fn decode(bytes: &[u8]) -> Result<Self, RequestError> {
        let request: Self = codec::decode(bytes, BLOCK_REQUEST_BYTES_MAX)?;
        request.check()?;
        Ok(request)
    }

    fn check(&self) -> Result<(), RequestError> {
        if self.runs.is_empty() || self.runs.len() > RUNS_PER_REQUEST_MAX {
            return Err(RequestError::RunCount(self.runs.len()));
        }
        let mut next = 0;
        for (index, run) in self.runs.iter().enumerate() {
            let end = run.first.checked_add(run.count).filter(|_| run.count > 0 && run.first >= next);
            next = end.ok_or(RequestError::Run(index))?;
        }
        Ok(())
    }
}

/// Why a node that could answer does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// It serves as many as it may: ask again later, or another.
    Busy,
    /// The asker is not in its roster, or not for this content.
    NotAllowed,
    /// It has the content, but not these segments of it.
    SegmentsMissing,
    /// It does not have the dictionary that was named: ask again without.
    DictionaryMissing,
    /// It could not read what it should have.
    ReadFailed,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// The payload follows this header, or what is left of it.
    Ok {
        /// Its size, at most [`crate::limits::ANSWER_PAYLOAD_BYTES_MAX`].
        bytes: u32,
    },
    /// Nothing follows.
    Refused(Refusal),
    /// The node does not have this content; nothing follows.
    NotFound,
    /// The next segments of what was asked for follow this header. The others have not arrived there yet: they come in further
    /// answers with the same id, the last of which is another status.
    Part {
        /// Size of what follows, at most [`crate::limits::ANSWER_PAYLOAD_BYTES_MAX`].
        bytes: u32,
    },
}

/// The header before an answer's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The request that this answers.
    pub id: u32,
    /// What came of it.
    pub status: Status,
}

impl Answer {
    /// Its bytes.
    ///
    /// # Errors
    /// [`CodecError::TooLarge`], which no answer is.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(self, ANSWER_HEADER_BYTES_MAX)
    }

    /// The answer that `bytes` are.
    ///
    /// # Errors
    /// [`CodecError`] if they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(bytes, ANSWER_HEADER_BYTES_MAX)
    }

    /// Bytes of payload that follow the header.
    pub fn payload_bytes(&self) -> usize {
        match self.status {
            Status::Ok { bytes } | Status::Part { bytes } => bytes as usize,
            Status::Refused(_) | Status::NotFound => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn request(runs: &[(u32, u32)]) -> BlockRequest {
        let runs = runs.iter().map(|&(first, count)| SegmentRun { first, count }).collect();
        BlockRequest { id: 7, content: ContentId([0xc0; 32]), runs, encoding: Encoding::Raw }
    }

    #[test]
    fn golden_bytes() {
        let plain = request(&[(0, 1), (300, 70_000)]);
        let zstd = |dictionary| BlockRequest { encoding: Encoding::Zstd { dictionary }, ..request(&[(5, 1)]) };
        let answer = |status| hex(&Answer { id: 300, status }.encode().unwrap());
        let golden = [
            hex(&plain.encode().unwrap()),
            hex(&zstd(None).encode().unwrap()),
            hex(&zstd(Some(RecipeId([0xd1; 32]))).encode().unwrap()),
            answer(Status::Ok { bytes: 1 << 20 }),
            answer(Status::Refused(Refusal::Busy)),
            answer(Status::Refused(Refusal::NotAllowed)),
            answer(Status::Refused(Refusal::SegmentsMissing)),
            answer(Status::Refused(Refusal::DictionaryMissing)),
            answer(Status::Refused(Refusal::ReadFailed)),
            answer(Status::NotFound),
            answer(Status::Part { bytes: 1 << 17 }),
        ];
        insta::assert_snapshot!(golden.join("\n"), @r"
        0107c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0020001fb2c01fc7011010000
        0107c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c00105010100
        0107c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c00105010101d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1d1
        01fb2c0100fc00001000
        01fb2c010100
        01fb2c010101
        01fb2c010102
        01fb2c010103
        01fb2c010104
        01fb2c0102
        01fb2c0103fc00000200
        ");
    }

    #[test]
    fn the_largest_request_and_answer_fit_their_limits() {
        // Runs at the far end of the range take the most bytes each.
        let most = u32::try_from(RUNS_PER_REQUEST_MAX).unwrap();
        let runs: Vec<_> = (0..most).map(|i| (u32::MAX - 200_000 * (most - i), 100_000)).collect();
        let dictionary = Some(RecipeId([0xff; 32]));
        let largest = BlockRequest { id: u32::MAX, encoding: Encoding::Zstd { dictionary }, ..request(&runs) };
        let bytes = largest.encode().unwrap();
        assert!(bytes.len() <= BLOCK_REQUEST_BYTES_MAX);
        assert_eq!(BlockRequest::decode(&bytes), Ok(largest));
        let answer = Answer { id: u32::MAX, status: Status::Ok { bytes: u32::MAX } };
        assert_eq!(Answer::decode(&answer.encode().unwrap()), Ok(answer));
    }

    #[test]
    fn malformed_runs_are_refused_both_ways() {
        let too_many: Vec<_> = (0..=u32::try_from(RUNS_PER_REQUEST_MAX).unwrap()).map(|i| (i, 1)).collect();
        let cases: [(&[(u32, u32)], RequestError); 6] = [
            (&[], RequestError::RunCount(0)),
            (&too_many, RequestError::RunCount(RUNS_PER_REQUEST_MAX + 1)),
            (&[(3, 0)], RequestError::Run(0)),
            (&[(3, 2), (4, 1)], RequestError::Run(1)),
            (&[(3, 2), (0, 1)], RequestError::Run(1)),
            (&[(1, u32::MAX)], RequestError::Run(0)),
        ];
        for (runs, error) in cases {
            let bad = request(runs);
            assert_eq!(bad.encode(), Err(error.clone()));
            let bytes = codec::encode(&bad, BLOCK_REQUEST_BYTES_MAX).unwrap();
            assert_eq!(BlockRequest::decode(&bytes), Err(error));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_without_panic(bytes: Vec<u8>) {
            let _ = BlockRequest::decode(&bytes);
            let _ = Answer::decode(&bytes);
        }
    }
}
