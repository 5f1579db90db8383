//! Serves what others ask for over the bulk connections that they opened.
//!
//! One task for each connection reads requests, has each decided by whoever receives the [`UploadEvent`]s, and sends the
//! answers one at a time, in the order of the decisions. One of which segments have still to arrive here is sent in parts,
//! as they come; others go on meanwhile. What is sent was verified when it was written (VERIFIED); who may
//! ask was checked when the connection came in (MEMBERS-ONLY). Every [`UploadEvent::Asked`] is followed by exactly one
//! [`UploadEvent::Done`].

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use shoal_proto::bulk::{BlockRequest, Encoding, Refusal};
use shoal_proto::id::{BlockIndex, ContentId, NodeId};
use shoal_proto::limits::{BULK_STALL_MAX, REQUESTS_PER_STREAM_MAX};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
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
        /// What is to become of it; dropped, it is refused.
        verdict: oneshot::Sender<Verdict>,
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

/// What is to become of a request.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It is served, until `stop` says that what has not arrived yet does not come.
    Serve {
        /// The end of waiting.
        stop: CancellationToken,
    },
    /// There is no room for it.
    Refuse,
    /// What it asks for is not here.
    Decline,
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

/// A request that is served.
struct Serving {
    pending: Pending,
    /// What was not sent yet.
    rest: Vec<Range<usize>>,
    stop: CancellationToken,
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
    let BlockServer { requests, answers } = BlockServer::new(stream);
    let (asked, to_answer) = mpsc::channel(REQUESTS_PER_STREAM_MAX);
    let mut answering = Answering { node, answers, shelf: shelf.clone(), events, open: BTreeMap::new() };
    if let Err(error) = tokio::try_join!(read(requests, &shelf, asked), answering.run(to_answer)) {
        debug!(node = %node.short(), %error, "a connection that was served broke");
    }
    for (request, content) in answering.open {
        let _ = answering.events.send(UploadEvent::Done { node, request, content }).await;
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

/// The answers of one connection.
struct Answering {
    node: NodeId,
    answers: Answers,
    shelf: Shelf,
    events: mpsc::Sender<UploadEvent>,
    /// Requests of which the end was not said.
    open: BTreeMap<u64, ContentId>,
}

impl Answering {
    async fn run(&mut self, mut to_answer: mpsc::Receiver<Read>) -> Result<(), BlockError> {
        let (mut undecided, mut arriving) = (FuturesUnordered::new(), FuturesUnordered::new());
        let mut reads = true;
        loop {
            tokio::select! {
                next = to_answer.recv(), if reads => match next {
                    Some(Ok(pending)) => undecided.push(self.ask(pending).await),
                    Some(Err((id, Declined::NotFound))) => self.answers.not_found(id).await?,
                    Some(Err((id, Declined::Refused(refusal)))) => self.answers.refuse(id, refusal).await?,
                    None => reads = false,
                },
                Some((pending, verdict)) = undecided.next() => match verdict {
                    Verdict::Serve { stop } => arriving.push(next_part(Serving::new(pending, stop))),
                    Verdict::Refuse => self.refuse(&pending, Refusal::Busy).await?,
                    Verdict::Decline => self.refuse(&pending, Refusal::SegmentsMissing).await?,
                },
                Some((serving, part)) = arriving.next() => {
                    if let Some(serving) = self.send(serving, part).await? {
                        arriving.push(next_part(serving));
                    }
                }
                else => return Ok(()),
            }
        }
    }

    /// Has a request decided; the decision comes with it.
    async fn ask(&mut self, pending: Pending) -> impl Future<Output = (Pending, Verdict)> + use<> {
        let (verdict, decided) = oneshot::channel();
        let (block, bytes) = match &pending.payload {
            Payload::Ready(payload) => (BlockIndex(0), payload.len() as u64),
            Payload::Stored { bytes, block, .. } => (*block, *bytes),
        };
        let (node, request, content) = (self.node, pending.number, pending.request.content);
        self.open.insert(request, content);
        // Nobody decides: the verdict is dropped, and the request refused.
        let _ = self.events.send(UploadEvent::Asked { node, request, content, block, bytes, verdict }).await;
        async move { (pending, decided.await.unwrap_or(Verdict::Refuse)) }
    }

    async fn refuse(&mut self, pending: &Pending, refusal: Refusal) -> Result<(), BlockError> {
        self.answers.refuse(pending.request.id, refusal).await?;
        self.done(pending).await;
        Ok(())
    }

    async fn done(&mut self, pending: &Pending) {
        let (node, request, content) = (self.node, pending.number, pending.request.content);
        self.open.remove(&request);
        let _ = self.events.send(UploadEvent::Done { node, request, content }).await;
    }

    /// Sends what is there of a request; gives it back if more comes.
    async fn send(&mut self, mut serving: Serving, part: Part) -> Result<Option<Serving>, BlockError> {
        let id = serving.pending.request.id;
        let sent = match (part, &serving.pending.payload) {
            (Part::Segments(count), Payload::Stored { content, .. }) => {
                let part = take_first(&mut serving.rest, count);
                send_part(&mut self.answers, &self.shelf, id, (content, &part), !serving.rest.is_empty()).await?
            }
            (_, Payload::Ready(payload)) => self.answers.payload(id, payload).await.map(|()| true)?,
            (Part::Never, _) => self.answers.refuse(id, Refusal::SegmentsMissing).await.map(|()| false)?,
        };
        if sent && !serving.rest.is_empty() {
            return Ok(Some(serving));
        }
        self.done(&serving.pending).await;
        Ok(None)
    }
}

impl Serving {
    fn new(pending: Pending, stop: CancellationToken) -> Self {
        let runs = pending.request.runs.iter();
        let rest = match &pending.payload {
            Payload::Ready(_) => Vec::new(),
            Payload::Stored { .. } => runs.map(|run| run.first as usize..(run.first + run.count) as usize).collect(),
        };
        Self { pending, rest, stop }
    }
}

/// What can be sent next of a request.
enum Part {
    /// So many segments, or what is not made of segments.
    Segments(usize),
    /// Nothing more.
    Never,
}

/// Waits for the next segments of a request.
async fn next_part(serving: Serving) -> (Serving, Part) {
    let Payload::Stored { content, .. } = &serving.pending.payload else { return (serving, Part::Segments(0)) };
    let deadline = Instant::now() + BULK_STALL_MAX / 2;
    let part = loop {
        let mut wrote = std::pin::pin!(content.wrote());
        wrote.as_mut().enable();
        let there = content.present_first(&serving.rest);
        if there > 0 {
            break Part::Segments(there);
        }
        tokio::select! {
            () = wrote => {}
            () = serving.stop.cancelled() => break Part::Never,
            () = sleep_until(deadline) => break Part::Never,
        }
    };
    (serving, part)
}

/// Takes the first `count` of the numbers that are in `ranges` out of them.
fn take_first(ranges: &mut Vec<Range<usize>>, mut count: usize) -> Vec<Range<usize>> {
    let mut taken = Vec::new();
    while let Some(first) = ranges.first_mut().filter(|_| count > 0) {
        let end = first.end.min(first.start + count);
        taken.push(first.start..end);
        count -= end - first.start;
        first.start = end;
        if first.start == first.end {
            ranges.remove(0);
        }
    }
    taken
}

/// Sends segments that are there, of which `more` come in further answers; whether they were sent and not refused.
async fn send_part(
    answers: &mut Answers,
    shelf: &Shelf,
    id: u32,
    (content, segments): (&Content, &[Range<usize>]),
    more: bool,
) -> Result<bool, BlockError> {
    let places = content.layout().segments();
    let bytes =
        segments.iter().flat_map(Range::clone).map(|index| places.get(index).map_or(0, |it| it.len as usize)).sum();
    let mut pieces = pieces(content, segments).into_iter();
    let mut reading = pieces.next().map(|piece| read_piece(content, piece, shelf.buffers.take()));
    let mut announced = false;
    while let Some(read) = reading {
        let (buffer, result) = match read {
            PieceRead::Done(buffer, result) => (buffer, result),
            PieceRead::Begun(task) => task.await.map_err(std::io::Error::other)?,
        };
        // The next piece is read while this one is sent.
        reading = pieces.next().map(|piece| read_piece(content, piece, shelf.buffers.take()));
        match result {
            Ok(()) => {}
            Err(error) if !announced => {
                debug!(%error, "cannot serve");
                let absent = matches!(error, ReadError::Absent { .. });
                let refusal = if absent { Refusal::SegmentsMissing } else { Refusal::ReadFailed };
                return answers.refuse(id, refusal).await.map(|()| false);
            }
            // The size is announced: only the end of the connection says that the rest does not come.
            Err(error) => return Err(BlockError::Io(std::io::Error::other(error))),
        }
        if !announced {
            answers.begin_payload(id, bytes, more).await?;
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
    answers.end_payload().await.map(|()| true)
}

/// A piece that was read, or is.
enum PieceRead {
    Done(Buffer, Result<(), ReadError>),
    Begun(JoinHandle<(Buffer, Result<(), ReadError>)>),
}

/// Reads segments into `buffer`, which comes back with them: at once, or where disks may be waited for.
fn read_piece(content: &Content, segments: Range<usize>, mut buffer: Buffer) -> PieceRead {
    match content.read_cached_segments(segments.clone(), &mut buffer) {
        Ok(false) => {
            let content = content.clone();
            PieceRead::Begun(tokio::task::spawn_blocking(move || {
                let read = content.read_segments(segments, &mut buffer);
                (buffer, read)
            }))
        }
        read => PieceRead::Done(buffer, read.map(drop)),
    }
}

/// Runs of segments as pieces that are read together: each at most [`BUFFER_BYTES`], or one segment.
fn pieces(content: &Content, runs: &[Range<usize>]) -> Vec<Range<usize>> {
    let places = content.layout().segments();
    let len_of = |index: usize| places.get(index).map_or(0, |place| place.len as usize);
    let mut pieces = Vec::new();
    for run in runs {
        let mut next = run.start;
        while next < run.end {
            let (mut after, mut bytes) = (next + 1, len_of(next));
            while after < run.end && bytes + len_of(after) <= BUFFER_BYTES {
                bytes += len_of(after);
                after += 1;
            }
            pieces.push(next..after);
            next = after;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_taken_in_order_and_each_once() {
        let mut ranges = vec![2..5, 7..8, 9..12];
        let mut taken =
            |count| take_first(&mut ranges, count).into_iter().map(|run| (run.start, run.end)).collect::<Vec<_>>();
        assert_eq!(taken(2), [(2, 4)]);
        assert_eq!(taken(3), [(4, 5), (7, 8), (9, 10)]);
        assert_eq!(taken(0), []);
        assert_eq!(taken(9), [(10, 12)]);
        assert_eq!(taken(9), []);
    }
}
