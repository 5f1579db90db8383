//! Serves what others ask for over the bulk connections that they opened.
//!
//! One task for each connection reads requests, has each decided by whoever receives the [`UploadEvent`]s, and sends the
//! answers in the order of the decisions, one at a time. What is sent was verified when it was written (VERIFIED); who may
//! ask was checked when the connection came in (MEMBERS-ONLY). Every [`UploadEvent::Asked`] is followed by exactly one
//! [`UploadEvent::Done`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use shoal_proto::bulk::{BlockRequest, Encoding, Refusal};
use shoal_proto::id::{BlockIndex, ContentId, NodeId};
use shoal_proto::limits::REQUESTS_PER_STREAM_MAX;
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::net::{Answers, BlockError, BlockServer, BulkStream, Requests};
use crate::store::{Content, ReadError, Store};

/// Bytes that are read from the disk and written to the connection at a time.
const PIECE_BYTES: usize = 1024 * 1024;

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
        Self { store, special: None, numbers: Arc::new(AtomicU64::new(1)) }
    }

    fn look_up(&self, request: &BlockRequest, recent: &mut Recent) -> Result<Payload, Declined> {
        if let Some(found) = self.special.as_ref().and_then(|special| special(request)) {
            return found.map(Payload::Ready);
        }
        if request.encoding != Encoding::Raw {
            return Err(Declined::Refused(Refusal::DictionaryMissing));
        }
        let content = recent.content(&self.store, request.content)?;
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
}

/// The contents that a connection asked for last. To open one reads and checks its recipe, which is far more work than to
/// serve a block.
#[derive(Default)]
struct Recent(VecDeque<Content>);

impl Recent {
    /// How many; a neighbour fetches few contents at a time.
    const MAX: usize = 4;

    fn content(&mut self, store: &Store, id: ContentId) -> Result<Content, Declined> {
        if let Some(content) = self.0.iter().find(|content| content.id() == id) {
            return Ok(content.clone());
        }
        let content = store.content(id).map_err(|_| Declined::Refused(Refusal::ReadFailed))?;
        let content = content.ok_or(Declined::NotFound)?;
        self.0.truncate(Self::MAX - 1);
        self.0.push_front(content.clone());
        Ok(content)
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
                        answer(&mut answers, pending, served, node, &events, &mut open).await?;
                    },
                },
                Some((pending, served)) = undecided.next() => {
                    answer(&mut answers, pending, served, node, &events, &mut open).await?;
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
        let payload = tokio::task::block_in_place(|| shelf.look_up(&request, &mut recent));
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
    pending: Pending,
    served: bool,
    node: NodeId,
    events: &mpsc::Sender<UploadEvent>,
    open: &mut BTreeMap<u64, ContentId>,
) -> Result<(), BlockError> {
    let (request, content) = (pending.number, pending.request.content);
    let answered = match served {
        true => send(answers, &pending).await,
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

async fn send(answers: &mut Answers, pending: &Pending) -> Result<(), BlockError> {
    let id = pending.request.id;
    let (content, bytes) = match &pending.payload {
        Payload::Ready(payload) => return answers.payload(id, payload).await,
        Payload::Stored { content, bytes, .. } => (content, usize::try_from(*bytes).unwrap_or(usize::MAX)),
    };
    let mut buffer = Vec::new();
    let mut announced = false;
    for run in &pending.request.runs {
        let mut next = run.first as usize;
        let end = next + run.count as usize;
        while next < end {
            let piece = piece(content, next, end);
            let read = tokio::task::block_in_place(|| content.read_segments(piece.clone(), &mut buffer));
            match read {
                Ok(()) => {}
                Err(ReadError::Absent { .. }) if !announced => {
                    return answers.refuse(id, Refusal::SegmentsMissing).await;
                }
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
            answers.payload_chunk(&buffer).await?;
            next = piece.end;
        }
    }
    answers.end_payload().await
}

/// The segments from `next` on that are read together, at most [`PIECE_BYTES`] but at least one.
fn piece(content: &Content, next: usize, end: usize) -> std::ops::Range<usize> {
    let mut bytes = 0;
    let places = content.layout().segments();
    let mut fits = |place: &shoal_proto::content::Segment| {
        bytes += place.len as usize;
        bytes <= PIECE_BYTES
    };
    let count = places.get(next..end).unwrap_or_default().iter().copied().take_while(|place| fits(place)).count();
    next..next + count.max(1)
}
