//! Serves what others ask for over the bulk connections that they opened.
//!
//! One task for each connection reads requests, has each decided by whoever receives the [`UploadEvent`]s, and sends the
//! answers in the order of the decisions, one at a time. What is sent was verified when it was written (VERIFIED); who may
//! ask was checked when the connection came in (MEMBERS-ONLY). Every [`UploadEvent::Asked`] is followed by exactly one
//! [`UploadEvent::Done`].

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use shoal_proto::bulk::{BlockRequest, Encoding, Refusal, SegmentRun};
use shoal_proto::id::{BlockIndex, ContentId, NodeId};
use shoal_proto::limits::REQUESTS_PER_STREAM_MAX;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::debug;

use super::buffers::{BUFFER_BYTES, Buffer, Buffers};
use super::pacer::Pacer;
use crate::net::{Answers, BlockError, BlockServer, BulkStream, Requests};
use crate::store::{Content, ReadError, Store};

/// What happens with uploads.
#[derive(Debug)]
pub enum UploadEvent {
    /// Somebody asks for segments of a block.
    Asked {
        /// Who.
        node: NodeId,
        /// This request, unique in the process.
        request: u64,
        /// The content.
        content: ContentId,
        /// The block that the first segment is of.
        block: BlockIndex,
        /// Bytes of all the segments.
        bytes: u64,
        /// Whether it is served; dropped, it is not.
        verdict: oneshot::Sender<bool>,
    },
    /// A request is over, served or not.
    Done {
        /// Who asked.
        node: NodeId,
        /// Which request.
        request: u64,
        /// The content.
        content: ContentId,
    },
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declined {
    /// The content is not here.
    NotFound,
    /// Something else.
    Refused(Refusal),
}

/// A source of payloads beside the store: `None` if it has nothing to do with the request's content.
pub type Special = dyn Fn(&BlockRequest) -> Option<Result<Vec<u8>, Declined>> + Send + Sync;

/// What is served.
#[derive(Clone)]
pub struct Shelf {
    /// Packages and recipes.
    pub store: Store,
    /// Asked before the store.
    pub special: Option<Arc<Special>>,
    /// What all uploads keep to.
    pub pacer: Pacer,
    /// What is read from the disk and written to the connection at a time.
    pub buffers: Buffers,
    /// Counts requests.
    pub numbers: Arc<AtomicU64>,
}

/// What a request comes to.
enum Payload {
    Ready(Vec<u8>),
    Stored { content: Content, bytes: u64, block: BlockIndex },
}

struct Pending {
    request: BlockRequest,
    payload: Payload,
    number: u64,
}

impl Shelf {
    /// A shelf that serves what `store` holds.
    pub fn new(store: Store) -> Self {
        let numbers = Arc::new(AtomicU64::new(1));
        Self { store, special: None, pacer: Pacer::new(None), buffers: Buffers::default(), numbers }
    }

    /// What a request comes to. Blocks where a content or a special payload has to be read; not for one of `recent`.
    async fn look_up(&self, request: &BlockRequest, recent: &mut Recent) -> Result<Payload, Declined> {
        // Only what is asked for raw is the store's alone: for the rest, the special source is asked first.
        if request.encoding == Encoding::Raw
            && let Some(content) = recent.find(request.content)
        {
            return stored(request, content);
        }
        let (shelf, asked) = (self.clone(), request.clone());
        let opened = tokio::task::spawn_blocking(move || shelf.open(&asked)).await;
        let payload = opened.unwrap_or(Err(Declined::Refused(Refusal::ReadFailed)))?;
        if let Payload::Stored { content, .. } = &payload {
            recent.note(content.clone());
        }
        Ok(payload)
    }

    fn open(&self, request: &BlockRequest) -> Result<Payload, Declined> {
        if let Some(found) = self.special.as_ref().and_then(|special| special(request)) {
            return found.map(Payload::Ready);
        }
        let content = self.store.content(request.content).map_err(|_| Declined::Refused(Refusal::ReadFailed))?;
        stored(request, content.ok_or(Declined::NotFound)?)
    }
}

fn stored(request: &BlockRequest, content: Content) -> Result<Payload, Declined> {
    if request.encoding != Encoding::Raw {
        return Err(Declined::Refused(Refusal::DictionaryMissing));
    }
    let layout = content.layout();
    let mut bytes = 0;
    for index in super::segments(&request.runs) {
        let place = layout.segments().get(index).ok_or(Declined::Refused(Refusal::SegmentsMissing))?;
        bytes += u64::from(place.len);
    }
    let first = request.runs.first().map_or(0, |run| run.first as usize);
    let block = layout.block_of_segment(first).ok_or(Declined::Refused(Refusal::SegmentsMissing))?;
    Ok(Payload::Stored { content, bytes, block })
}

/// The contents that a connection asked for last. To open one reads and checks its recipe, which is far more work than to
/// serve a block.
#[derive(Default)]
struct Recent(VecDeque<Content>);

impl Recent {
    /// How many; a neighbour fetches few contents at a time.
    const MAX: usize = 4;

    fn find(&self, id: ContentId) -> Option<Content> {
        self.0.iter().find(|content| content.id() == id).cloned()
    }

    fn note(&mut self, content: Content) {
        self.0.truncate(Self::MAX - 1);
        self.0.push_front(content);
    }
}

/// Serves one connection until it ends.
pub async fn connection(stream: BulkStream, shelf: Shelf, events: mpsc::Sender<UploadEvent>) {
    let node = stream.node();
    let BlockServer { requests, mut answers } = BlockServer::new(stream);
    let (asked, mut to_answer) = mpsc::channel(REQUESTS_PER_STREAM_MAX);
    let mut open = BTreeMap::new();
    let reading = read(requests, &shelf, asked);
    let answering = async {
        let mut undecided = FuturesUnordered::new();
        loop {
            tokio::select! {
                next = to_answer.recv() => match next {
                    Some(Ok(pending)) => undecided.push(ask(node, pending, &events, &mut open).await),
                    Some(Err((id, declined))) => decline(&mut answers, id, declined).await?,
                    None if undecided.is_empty() => return Ok(()),
                    None => if let Some((pending, served)) = undecided.next().await {
                        answer(&mut answers, &shelf, pending, served, node, &events, &mut open).await?;
                    },
                },
                Some((pending, served)) = undecided.next() => {
                    answer(&mut answers, &shelf, pending, served, node, &events, &mut open).await?;
                }
            }
        }
    };
    if let Err(error) = tokio::try_join!(reading, answering) {
        debug!(node = %node.short(), %error, "a connection that was served broke");
    }
    for (request, content) in open {
        let _ = events.send(UploadEvent::Done { node, request, content }).await;
    }
}

type Read = Result<Pending, (u32, Declined)>;

async fn read(mut requests: Requests, shelf: &Shelf, asked: mpsc::Sender<Read>) -> Result<(), BlockError> {
    let mut recent = Recent::default();
    while let Some(request) = requests.next().await? {
        let payload = shelf.look_up(&request, &mut recent).await;
        let number = shelf.numbers.fetch_add(1, Ordering::Relaxed);
        let read = match payload {
            Ok(payload) => Ok(Pending { request, payload, number }),
            Err(declined) => Err((request.id, declined)),
        };
        if asked.send(read).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Has a request decided; the decision comes with it.
async fn ask(
    node: NodeId,
    pending: Pending,
    events: &mpsc::Sender<UploadEvent>,
    open: &mut BTreeMap<u64, ContentId>,
) -> impl Future<Output = (Pending, bool)> + use<> {
    let (verdict, decided) = oneshot::channel();
    let (block, bytes) = match &pending.payload {
        Payload::Ready(payload) => (BlockIndex(0), payload.len() as u64),
        Payload::Stored { bytes, block, .. } => (*block, *bytes),
    };
    let (request, content) = (pending.number, pending.request.content);
    open.insert(request, content);
    // Nobody decides: the verdict is dropped, and the request refused.
    let _ = events.send(UploadEvent::Asked { node, request, content, block, bytes, verdict }).await;
    async move { (pending, decided.await.unwrap_or(false)) }
}

async fn answer(
    answers: &mut Answers,
    shelf: &Shelf,
    pending: Pending,
    served: bool,
    node: NodeId,
    events: &mpsc::Sender<UploadEvent>,
    open: &mut BTreeMap<u64, ContentId>,
) -> Result<(), BlockError> {
    let (request, content) = (pending.number, pending.request.content);
    let answered = match served {
        true => send(answers, shelf, &pending).await,
        false => answers.refuse(pending.request.id, Refusal::Busy).await,
    };
    open.remove(&request);
    let _ = events.send(UploadEvent::Done { node, request, content }).await;
    answered
}

async fn decline(answers: &mut Answers, id: u32, declined: Declined) -> Result<(), BlockError> {
    match declined {
        Declined::NotFound => answers.not_found(id).await,
        Declined::Refused(refusal) => answers.refuse(id, refusal).await,
    }
}

async fn send(answers: &mut Answers, shelf: &Shelf, pending: &Pending) -> Result<(), BlockError> {
    let id = pending.request.id;
    let (content, bytes) = match &pending.payload {
        Payload::Ready(payload) => return answers.payload(id, payload).await,
        Payload::Stored { content, bytes, .. } => (content, usize::try_from(*bytes).unwrap_or(usize::MAX)),
    };
    let mut pieces = pieces(content, &pending.request.runs).into_iter();
    let mut reading = pieces.next().map(|piece| read_piece(content, piece, shelf.buffers.take()));
    let mut announced = false;
    while let Some(read) = reading {
        let (buffer, result) = read.await.map_err(std::io::Error::other)?;
        // The next piece is read while this one is sent.
        reading = pieces.next().map(|piece| read_piece(content, piece, shelf.buffers.take()));
        match result {
            Ok(()) => {}
            Err(ReadError::Absent { .. }) if !announced => return answers.refuse(id, Refusal::SegmentsMissing).await,
            Err(error) if !announced => {
                debug!(%error, "cannot serve");
                return answers.refuse(id, Refusal::ReadFailed).await;
            }
            // The size is announced: only the end of the connection says that the rest does not come.
            Err(error) => return Err(BlockError::Io(std::io::Error::other(error))),
        }
        if !announced {
            answers.begin_payload(id, bytes).await?;
            announced = true;
        }
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(shelf.pacer.piece_of(rest.len()));
            shelf.pacer.take(piece.len() as u64).await;
            answers.payload_chunk(piece).await?;
            rest = after;
        }
    }
    answers.end_payload().await
}

type PieceRead = JoinHandle<(Buffer, Result<(), ReadError>)>;

/// Reads segments into `buffer`, which comes back with them, where disks may be waited for.
fn read_piece(content: &Content, segments: Range<usize>, mut buffer: Buffer) -> PieceRead {
    let content = content.clone();
    tokio::task::spawn_blocking(move || {
        let read = content.read_segments(segments, &mut buffer);
        (buffer, read)
    })
}

/// The segments of `runs` as pieces that are read together: each at most [`BUFFER_BYTES`], or one segment.
fn pieces(content: &Content, runs: &[SegmentRun]) -> Vec<Range<usize>> {
    let places = content.layout().segments();
    let len_of = |index: usize| places.get(index).map_or(0, |place| place.len as usize);
    let mut pieces = Vec::new();
    for run in runs {
        let mut next = run.first as usize;
        let end = next + run.count as usize;
        while next < end {
            let (mut after, mut bytes) = (next + 1, len_of(next));
            while after < end && bytes + len_of(after) <= BUFFER_BYTES {
                bytes += len_of(after);
                after += 1;
            }
            pieces.push(next..after);
            next = after;
        }
    }
    pieces
}
