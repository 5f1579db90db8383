//! One control channel: frames both ways over a stream, with heartbeats, until either side hangs up.
//!
//! A frame is a big-endian `u32` length and that many bytes; length 0 is a heartbeat. The dialer's are answered with another
//! at once: the side with many channels, which is the coordinator, then wakes up once for both ([`super::pulse`] says when).
//! Sending never waits: frames queue up to a bound, and a peer that is further behind is cut off ([`Full`]). Dropping the
//! [`Link`] sends what is queued, then closes. Received frames hold their share of a common budget until they are dropped,
//! so that a driver that lags slows its peers down instead of filling memory (BOUNDED).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter, ReadHalf, WriteHalf};
use libp2p::swarm::{ConnectionId, Stream};
use shoal_proto::id::NodeId;
use shoal_proto::limits::{CONTROL_MESSAGE_BYTES_MAX, CONTROL_QUEUE_BYTES_MAX, CONTROL_QUEUE_FRAMES_MAX};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::control::ControlConfig;
use super::pulse::Pulse;

/// How long a closing channel may take to send what is queued.
const DRAIN: Duration = Duration::from_secs(2);

/// How much of a frame is asked for at once: memory follows what was sent, not what was announced.
const READ_BYTES: usize = 64 * 1024;

/// Why a channel ended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DownReason {
    /// The other side closed it.
    #[error("the other side closed the connection")]
    ClosedByPeer,
    /// [`super::ControlMesh::disconnect`], or the node is no longer allowed.
    #[error("this side closed the connection")]
    ClosedHere,
    /// Nothing arrived for too long.
    #[error("nothing heard for {0:?}")]
    Silent(Duration),
    /// A frame over the limit.
    #[error("it announced a frame of {len} bytes where at most {CONTROL_MESSAGE_BYTES_MAX} are allowed")]
    Oversized {
        /// The announced length in bytes.
        len: usize,
    },
    /// It reads more slowly than this side sends.
    #[error("it reads too slowly: {CONTROL_QUEUE_BYTES_MAX} bytes or {CONTROL_QUEUE_FRAMES_MAX} frames wait for it")]
    Slow,
    /// A later connection took its place; [`super::ControlEvent::Up`] follows.
    #[error("a newer connection took its place")]
    Replaced,
    /// The connection broke.
    #[error("connection lost: {0}")]
    Io(String),
}

/// What a link's task tells the mesh.
#[derive(Debug)]
pub(super) enum LinkEvent {
    Frame(Bytes),
    Ended(DownReason),
}

/// Too much waits to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The sending side of a channel.
pub(super) struct Link {
    queue: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    _open: oneshot::Sender<()>,
}

impl Link {
    /// Queues a frame of 1 to [`CONTROL_MESSAGE_BYTES_MAX`] bytes.
    pub(super) fn push(&self, frame: Bytes) -> Result<(), Full> {
        let len = u32::try_from(frame.len()).map_err(|_| Full)?;
        let permit = Arc::clone(&self.room).try_acquire_many_owned(len).map_err(|_| Full)?;
        self.queue.try_send((frame, permit)).map_err(|_| Full)
    }
}

/// The task's side of a channel, to be run by [`LinkTask::run`].
pub(super) struct LinkTask {
    node: NodeId,
    connection: ConnectionId,
    dialer: bool,
    stream: Stream,
    queue: mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>,
    closing: oneshot::Receiver<()>,
    config: ControlConfig,
    received: Received,
}

/// Where received frames go, and the budget that they share.
#[derive(Clone)]
pub(super) struct Received {
    pub(super) events: mpsc::Sender<(NodeId, ConnectionId, LinkEvent)>,
    pub(super) budget: Arc<Semaphore>,
}

/// A link over `stream`, which this side dialed or not.
pub(super) fn link(
    node: NodeId,
    connection: ConnectionId,
    dialer: bool,
    stream: Stream,
    config: ControlConfig,
    received: Received,
) -> (Link, LinkTask) {
    let (sender, queue) = mpsc::channel(CONTROL_QUEUE_FRAMES_MAX);
    let (open, closing) = oneshot::channel();
    let room = Arc::new(Semaphore::new(CONTROL_QUEUE_BYTES_MAX));
    let task = LinkTask { node, connection, dialer, stream, queue, closing, config, received };
    (Link { queue: sender, room, _open: open }, task)
}

impl LinkTask {
    /// Carries frames until the channel ends; the last event is [`LinkEvent::Ended`].
    pub(super) async fn run(self) {
        let Self { node, connection, dialer, stream, queue, closing, config, received } = self;
        let events = received.events.clone();
        let (reader, writer) = stream.split();
        let pulse = &Pulse::new(config, dialer);
        let reader = Reader { node, connection, stream: BufReader::new(reader), pulse, received };
        let mut reading = std::pin::pin!(reader.run());
        let mut writing = std::pin::pin!(write(writer, queue, pulse));
        let drained = async {
            let _ = closing.await;
            tokio::time::sleep(DRAIN).await;
        };
        let reason = tokio::select! {
            reason = &mut reading => reason,
            written = &mut writing => match written {
                Ok(()) => {
                    // To close with unread bytes would reset the connection and lose what was just sent.
                    let _ = timeout(DRAIN, reading).await;
                    DownReason::ClosedHere
                }
                Err(error) => ended(&error),
            },
            () = drained => DownReason::ClosedHere,
        };
        // The mesh is gone only when the process ends.
        let _ = events.send((node, connection, LinkEvent::Ended(reason))).await;
    }
}

struct Held {
    bytes: Vec<u8>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Sends queued frames, and heartbeats when they are due; `Ok` when the queue was closed and everything is sent.
async fn write(
    stream: WriteHalf<Stream>,
    mut queue: mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>,
    pulse: &Pulse,
) -> io::Result<()> {
    let mut stream = BufWriter::new(stream);
    loop {
        let queued = tokio::select! {
            queued = queue.recv() => Some(queued),
            () = pulse.until_beat() => None,
        };
        let Some(mut next) = queued else {
            stream.write_all(&0u32.to_be_bytes()).await?;
            stream.flush().await?;
            pulse.sent_beat();
            continue;
        };
        while let Some((frame, _permit)) = next {
            let len = u32::try_from(frame.len()).map_err(io::Error::other)?;
            stream.write_all(&len.to_be_bytes()).await?;
            stream.write_all(&frame).await?;
            next = queue.try_recv().ok();
        }
        stream.flush().await?;
        pulse.sent_frames();
        if queue.is_closed() && queue.is_empty() {
            return stream.close().await;
        }
    }
}

struct Reader<'a> {
    node: NodeId,
    connection: ConnectionId,
    stream: BufReader<ReadHalf<Stream>>,
    pulse: &'a Pulse,
    received: Received,
}

impl Reader<'_> {
    async fn run(mut self) -> DownReason {
        loop {
            match self.frame().await {
                Ok(frame) if frame.is_empty() => self.pulse.heard_beat(),
                Ok(frame) => self.deliver(frame).await,
                Err(reason) => return reason,
            }
        }
    }

    async fn deliver(&self, bytes: Vec<u8>) {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        // Neither the budget nor the mesh's end of the channel closes before this task is stopped.
        let permit = Arc::clone(&self.received.budget).acquire_many_owned(len).await.ok();
        let frame = Bytes::from_owner(Held { bytes, _permit: permit });
        let _ = self.received.events.send((self.node, self.connection, LinkEvent::Frame(frame))).await;
    }

    async fn frame(&mut self) -> Result<Vec<u8>, DownReason> {
        let mut header = [0; 4];
        self.fill(&mut header).await?;
        let len = u32::from_be_bytes(header) as usize;
        if len > CONTROL_MESSAGE_BYTES_MAX {
            return Err(DownReason::Oversized { len });
        }
        if len > 0 {
            self.pulse.heard_frame();
        }
        let mut frame = Vec::new();
        while frame.len() < len {
            let start = frame.len();
            frame.resize(len.min(start + READ_BYTES), 0);
            self.fill(&mut frame[start..]).await?;
        }
        Ok(frame)
    }

    /// Fills `buffer`, as long as something arrives now and then.
    async fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), DownReason> {
        while !buffer.is_empty() {
            let read = tokio::select! {
                biased;
                read = self.stream.read(buffer) => read,
                silence_max = self.pulse.until_silent() => return Err(DownReason::Silent(silence_max)),
            };
            match read {
                Ok(0) => return Err(DownReason::ClosedByPeer),
                Ok(len) => buffer = &mut buffer[len..],
                Err(error) => return Err(ended(&error)),
            }
            self.pulse.heard();
        }
        Ok(())
    }
}

fn ended(error: &io::Error) -> DownReason {
    match error.kind() {
        // A peer that is killed sends no TLS goodbye.
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            DownReason::ClosedByPeer
        }
        io::ErrorKind::ConnectionAborted => DownReason::ClosedHere,
        _ => DownReason::Io(error.to_string()),
    }
}
