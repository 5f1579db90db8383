//! How blocks are asked for and answered over a [`BulkStream`]: requests pipelined one way, header and raw payload the
//! other.
//!
//! A request is a big-endian `u32` length and [`BlockRequest`]'s bytes. An answer is a `u16` length, [`Answer`]'s bytes
//! and, where it says so, exactly that many bytes of payload, which go from the TLS record into the caller's buffer and
//! nowhere between. Answers carry their request's id; a server may give them in any order, and in several parts where it
//! still waits for what comes next. A transfer that moves no byte
//! for [`BULK_STALL_MAX`] fails. What is asked of whom, and whether the bytes are right, is decided elsewhere (VERIFIED).

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::io::{AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use futures::{AsyncRead, AsyncWrite};
use shoal_proto::bulk::{Answer, BlockRequest, Refusal, RequestError, Status};
use shoal_proto::codec::CodecError;
use shoal_proto::id::NodeId;
use shoal_proto::limits::{
    ANSWER_HEADER_BYTES_MAX, ANSWER_PAYLOAD_BYTES_MAX, BLOCK_REQUEST_BYTES_MAX, BULK_IDLE_MAX, BULK_STALL_MAX,
    REQUESTS_PER_STREAM_MAX,
};
use thiserror::Error;
use tokio::time::{Instant, timeout, timeout_at};

use super::bulk::BulkStream;

/// Why a stream of requests and answers ended; it is of no further use.
#[derive(Debug, Error)]
pub enum BlockError {
    /// The other side closed it, in order or not.
    #[error("the other side closed the stream")]
    Closed,
    /// The connection broke.
    #[error("connection lost: {0}")]
    Io(io::Error),
    /// No byte moved for too long.
    #[error("no byte moved for {} s", BULK_STALL_MAX.as_secs())]
    Stalled,
    /// A request that is none, or that the other side would refuse.
    #[error("bad request: {0}")]
    Request(#[from] RequestError),
    /// An answer's header that is none.
    #[error("bad answer: {0}")]
    Answer(#[from] CodecError),
    /// A length over its limit.
    #[error("{len} bytes announced where at most {max} are allowed")]
    Oversized {
        /// Announced, in bytes.
        len: usize,
        /// Allowed, in bytes.
        max: usize,
    },
    /// An answer to something that was not asked.
    #[error("answer {0} to no open request")]
    Unasked(u32),
    /// More requests at once than a stream carries, two with the same id, or a payload left unread or half read.
    #[error("misuse of the stream: {0}")]
    Misuse(&'static str),
}

impl From<io::Error> for BlockError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// The asking side of a stream.
pub struct BlockClient {
    stream: BulkStream,
    /// Encoded requests; the first `sent` bytes are out.
    outgoing: Vec<u8>,
    sent: usize,
    flushed: bool,
    /// Ids of requests without an answer.
    open: Vec<u32>,
    /// What has arrived of the next answer's length and header.
    header: Vec<u8>,
    /// Bytes of the last answer's payload that are to be read.
    payload_left: usize,
    /// When a byte arrived last, or the first of the open requests was made.
    moved: Instant,
}

impl BlockClient {
    /// Asks over `stream`.
    pub fn new(stream: BulkStream) -> Self {
        Self {
            stream,
            outgoing: Vec::new(),
            sent: 0,
            flushed: true,
            open: Vec::new(),
            header: Vec::new(),
            payload_left: 0,
            moved: Instant::now(),
        }
    }

    /// Who answers.
    pub fn node(&self) -> NodeId {
        self.stream.node()
    }

    /// Requests without an answer so far.
    pub fn open_requests(&self) -> usize {
        self.open.len()
    }

    /// Queues a request; it is sent while the client waits for answers ([`BlockClient::next_answer`],
    /// [`BlockClient::read_payload`]), so that asking never waits for a server that waits for this side to read.
    ///
    /// # Errors
    /// [`BlockError::Request`]; [`BlockError::Misuse`] with [`REQUESTS_PER_STREAM_MAX`] open, or with the id of an open one.
    pub fn request(&mut self, request: &BlockRequest) -> Result<(), BlockError> {
        if self.open.len() >= REQUESTS_PER_STREAM_MAX {
            return Err(BlockError::Misuse("too many open requests"));
        }
        if self.open.contains(&request.id) {
            return Err(BlockError::Misuse("the id of an open request"));
        }
        let bytes = request.encode()?;
        let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.outgoing.drain(..self.sent);
        self.sent = 0;
        self.outgoing.extend_from_slice(&len.to_be_bytes());
        self.outgoing.extend_from_slice(&bytes);
        self.flushed = false;
        if self.open.is_empty() {
            self.moved = Instant::now();
        }
        self.open.push(request.id);
        Ok(())
    }

    /// The next answer's header. A request of which only a part is answered stays open. If it announces a payload,
    /// [`BlockClient::read_payload`] must read it before the next call. Safe to cancel. With no open request it waits until
    /// the other side closes.
    ///
    /// # Errors
    /// [`BlockError::Closed`] when the other side is done; others end the stream too.
    pub async fn next_answer(&mut self) -> Result<Answer, BlockError> {
        if self.payload_left > 0 {
            return Err(BlockError::Misuse("the last answer's payload was not read"));
        }
        let answer = if self.open.is_empty() {
            poll_fn(|cx| self.poll_answer(cx)).await?
        } else {
            let deadline = self.moved + BULK_STALL_MAX;
            timeout_at(deadline, poll_fn(|cx| self.poll_answer(cx))).await.map_err(|_| BlockError::Stalled)??
        };
        self.header.clear();
        let position = self.open.iter().position(|id| *id == answer.id).ok_or(BlockError::Unasked(answer.id))?;
        if !matches!(answer.status, Status::Part { .. }) {
            self.open.swap_remove(position);
        }
        self.payload_left = answer.payload_bytes();
        if self.payload_left > ANSWER_PAYLOAD_BYTES_MAX {
            return Err(BlockError::Oversized { len: self.payload_left, max: ANSWER_PAYLOAD_BYTES_MAX });
        }
        Ok(answer)
    }

    /// Fills `buffer` with the next bytes of the last answer's payload; all of it is read before the next answer. A caller
    /// that cancels it drops the client.
    ///
    /// # Errors
    /// [`BlockError::Misuse`] for a buffer longer than what is left; [`BlockError`] if the stream ends or stalls.
    pub async fn read_payload(&mut self, buffer: &mut [u8]) -> Result<(), BlockError> {
        if buffer.len() > self.payload_left {
            return Err(BlockError::Misuse("a buffer longer than what is left of the payload"));
        }
        let mut filled = 0;
        while filled < buffer.len() {
            let read = poll_fn(|cx| self.poll_some(cx, &mut buffer[filled..]));
            let len = timeout(BULK_STALL_MAX, read).await.map_err(|_| BlockError::Stalled)??;
            filled += len;
            self.payload_left -= len;
        }
        Ok(())
    }

    /// Sends what is queued as far as the connection takes it.
    fn drive_requests(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.sent < self.outgoing.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outgoing[self.sent..])? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(len) => self.sent += len,
                Poll::Pending => return Ok(()),
            }
        }
        if !self.flushed && Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
            self.flushed = true;
        }
        Ok(())
    }

    fn poll_some(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.drive_requests(cx)?;
        match Pin::new(&mut self.stream).poll_read(cx, buffer)? {
            Poll::Ready(0) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(len) => {
                self.moved = Instant::now();
                Poll::Ready(Ok(len))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, BlockError>> {
        loop {
            let wanted = match self.header.first_chunk::<2>() {
                None => 2,
                Some(len) => 2 + usize::from(u16::from_be_bytes(*len)),
            };
            if wanted > 2 + ANSWER_HEADER_BYTES_MAX {
                return Poll::Ready(Err(BlockError::Oversized { len: wanted - 2, max: ANSWER_HEADER_BYTES_MAX }));
            }
            if self.header.len() >= 2 && self.header.len() == wanted {
                return Poll::Ready(Answer::decode(&self.header[2..]).map_err(BlockError::from));
            }
            let mut piece = [0; 2 + ANSWER_HEADER_BYTES_MAX];
            let piece = &mut piece[..wanted - self.header.len()];
            match self.poll_some(cx, piece)? {
                Poll::Ready(len) => self.header.extend_from_slice(&piece[..len]),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// The answering side of a stream. Its halves may be taken apart, to read ahead in one task and answer in another.
pub struct BlockServer {
    /// What is asked.
    pub requests: Requests,
    /// What is answered.
    pub answers: Answers,
}

impl BlockServer {
    /// Answers over `stream`.
    pub fn new(stream: BulkStream) -> Self {
        let node = stream.node();
        let (reader, writer) = stream.split();
        let requests = Requests { node, stream: BufReader::with_capacity(4096, reader) };
        Self { requests, answers: Answers { node, stream: writer, header: Vec::new() } }
    }

    /// Who asks.
    pub fn node(&self) -> NodeId {
        self.requests.node
    }
}

/// The requests of one stream.
pub struct Requests {
    node: NodeId,
    stream: BufReader<ReadHalf<BulkStream>>,
}

impl Requests {
    /// Who asks.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The next request; `None` when the asker closed the stream or asked nothing for [`BULK_IDLE_MAX`]. Not safe to
    /// cancel, but to end the stream.
    ///
    /// # Errors
    /// [`BlockError`] if what arrives is no request, or stalls half-way.
    pub async fn next(&mut self) -> Result<Option<BlockRequest>, BlockError> {
        let mut header = [0; 4];
        let Ok(first) = timeout(BULK_IDLE_MAX, self.stream.read(&mut header[..1])).await else { return Ok(None) };
        match first.map_err(BlockError::from) {
            Ok(0) | Err(BlockError::Closed) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        self.fill(&mut header[1..]).await?;
        let len = u32::from_be_bytes(header) as usize;
        if len > BLOCK_REQUEST_BYTES_MAX {
            return Err(BlockError::Oversized { len, max: BLOCK_REQUEST_BYTES_MAX });
        }
        let mut bytes = vec![0; len];
        self.fill(&mut bytes).await?;
        Ok(Some(BlockRequest::decode(&bytes)?))
    }

    async fn fill(&mut self, buffer: &mut [u8]) -> Result<(), BlockError> {
        let read = timeout(BULK_STALL_MAX, self.stream.read_exact(buffer));
        Ok(read.await.map_err(|_| BlockError::Stalled)??)
    }
}

/// The answers of one stream.
pub struct Answers {
    node: NodeId,
    stream: WriteHalf<BulkStream>,
    /// A header that goes out with the first bytes of its payload: alone, it would wake the other side for nothing.
    header: Vec<u8>,
}

impl Answers {
    /// Who asked.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Answers request `id` with `payload`, at most [`ANSWER_PAYLOAD_BYTES_MAX`].
    ///
    /// # Errors
    /// [`BlockError`] if the payload is too large, or the stream ends or stalls.
    pub async fn payload(&mut self, id: u32, payload: &[u8]) -> Result<(), BlockError> {
        self.begin_payload(id, payload.len(), false).await?;
        self.payload_chunk(payload).await?;
        self.end_payload().await
    }

    /// Announces a payload of `len` bytes for request `id`, or a part of it, after which `more` comes; exactly that many go
    /// through [`Answers::payload_chunk`] next, then [`Answers::end_payload`].
    ///
    /// # Errors
    /// As [`Answers::payload`].
    pub async fn begin_payload(&mut self, id: u32, len: usize, more: bool) -> Result<(), BlockError> {
        let oversized = BlockError::Oversized { len, max: ANSWER_PAYLOAD_BYTES_MAX };
        let bytes = u32::try_from(len).ok().filter(|_| len <= ANSWER_PAYLOAD_BYTES_MAX).ok_or(oversized)?;
        let status = if more { Status::Part { bytes } } else { Status::Ok { bytes } };
        self.header = encoded(Answer { id, status })?;
        Ok(())
    }

    /// Some of the payload.
    ///
    /// # Errors
    /// As [`Answers::payload`].
    pub async fn payload_chunk(&mut self, mut chunk: &[u8]) -> Result<(), BlockError> {
        while !chunk.is_empty() {
            let both = [IoSlice::new(&self.header), IoSlice::new(chunk)];
            let write = self.stream.write_vectored(&both);
            let written = timeout(BULK_STALL_MAX, write).await.map_err(|_| BlockError::Stalled)??;
            let of_header = written.min(self.header.len());
            self.header.drain(..of_header);
            chunk = &chunk[written - of_header..];
        }
        Ok(())
    }

    /// Sends what is left of a payload.
    ///
    /// # Errors
    /// As [`Answers::payload`].
    pub async fn end_payload(&mut self) -> Result<(), BlockError> {
        self.write_header().await?;
        Ok(timeout(BULK_STALL_MAX, self.stream.flush()).await.map_err(|_| BlockError::Stalled)??)
    }

    /// Answers request `id` that it is refused.
    ///
    /// # Errors
    /// As [`Answers::payload`].
    pub async fn refuse(&mut self, id: u32, refusal: Refusal) -> Result<(), BlockError> {
        self.header = encoded(Answer { id, status: Status::Refused(refusal) })?;
        self.end_payload().await
    }

    /// Answers request `id` that the content is not here.
    ///
    /// # Errors
    /// As [`Answers::payload`].
    pub async fn not_found(&mut self, id: u32) -> Result<(), BlockError> {
        self.header = encoded(Answer { id, status: Status::NotFound })?;
        self.end_payload().await
    }

    /// Sends a header that no payload follows.
    async fn write_header(&mut self) -> Result<(), BlockError> {
        let header = std::mem::take(&mut self.header);
        self.payload_chunk(&header).await
    }
}

/// An answer's length and bytes.
fn encoded(answer: Answer) -> Result<Vec<u8>, BlockError> {
    let bytes = answer.encode()?;
    let len = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut header = len.to_be_bytes().to_vec();
    header.extend_from_slice(&bytes);
    Ok(header)
}
