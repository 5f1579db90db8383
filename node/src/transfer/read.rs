//! Reads the blocks of a lease from outside the site: from an HTTP origin, or from the coordinator (WAN-ONCE).
//!
//! Only what is lacking of the blocks is read. Every byte that crosses the WAN is counted, wanted or not, and said when the
//! read ends, however it ends.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use shoal_proto::bulk::{BlockRequest, Encoding, Refusal, SegmentRun, Status};
use shoal_proto::exchange::Arrived;
use shoal_proto::id::{BlockIndex, NodeId, RecipeId};
use shoal_proto::limits::CONNECT_TIMEOUT;
use shoal_proto::node::Input;
use shoal_proto::origin::HttpOrigin;
use shoal_proto::wan::{Lacking, Outcome};
use shoal_proto::wire::{Fault, FaultKind, Grant, LeaseEnd, Origin};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::assemble::{Assembler, Batch};
use super::buffers::Buffers;
use super::credit::{Habits, LeaseCredit};
use super::pacer::{Pacer, piece_of_all, read_payload, take_all};
use super::runs;
use crate::net::{BlockClient, BlockError, BulkMesh, ConnectError, Multiaddr};
use crate::origin::{Chunk, Mode, OriginError, OriginReader, Renewals, WanBytes};
use crate::store::{Content, Store, WriteError, Written};

/// Chunks between the origin's connection and the disk; each has up to some 400 KiB.
const CHUNKS: usize = 4;

/// Batches that wait for the disk: one is written while the next is gathered.
const BATCHES: usize = 2;

/// Blocks asked of the coordinator before the first has come.
const AHEAD: usize = 4;

/// Why a read ended early.
#[derive(Debug, Error)]
enum ReadLeaseError {
    #[error(transparent)]
    Origin(#[from] OriginError),
    #[error("the origin sent wrong bytes: {0}")]
    Wrong(WriteError),
    #[error("cannot store what was read: {0}")]
    Disk(WriteError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("reading from the coordinator: {0}")]
    Bulk(#[from] BlockError),
    #[error("the coordinator does not serve this content: {0}")]
    Declined(String),
    #[error("the coordinator's answer does not decompress: {0}")]
    Compressed(std::io::Error),
    #[error("revoked")]
    Cancelled,
    #[error("writing was interrupted: see the log")]
    Interrupted,
}

impl From<WriteError> for ReadLeaseError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Store(_) => Self::Disk(error),
            WriteError::Mismatch { .. } | WriteError::NoSuchSegment { .. } => Self::Wrong(error),
        }
    }
}

impl ReadLeaseError {
    fn fault(&self) -> Option<Fault> {
        let kind = match self {
            Self::Cancelled => return None,
            Self::Origin(OriginError::IgnoresRanges { .. }) => FaultKind::IgnoresRanges,
            Self::Origin(OriginError::Changed { .. }) => FaultKind::Changed,
            Self::Wrong(_) => FaultKind::WrongBytes,
            Self::Origin(OriginError::Unauthorized { .. } | OriginError::Forbidden { .. }) => FaultKind::Denied,
            Self::Origin(_) => FaultKind::Unanswered,
            _ => FaultKind::Passing,
        };
        Some(Fault { kind, cause: self.to_string() })
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Cancelled => Outcome::Revoked,
            // Another node may have a way where this one has none; the next lease comes with credentials made anew.
            Self::Origin(error) => {
                use OriginError::{
                    BadAnswer, Forbidden, IgnoresRanges, NotFound, Redirect, Status, Unauthorized, Untrusted,
                };
                let anew =
                    matches!(error, IgnoresRanges { .. } | Unauthorized { .. } | Forbidden { .. } | Untrusted { .. });
                // What a server does wrong, its operator may mend: the rest is not lost for this node.
                let mended = matches!(error, BadAnswer { .. } | NotFound { .. } | Redirect { .. } | Status { .. });
                Outcome::Failed { retryable: error.is_passing() || anew || mended }
            }
            Self::Disk(_) | Self::Declined(_) => Outcome::Failed { retryable: false },
            Self::Wrong(_) | Self::Connect(_) | Self::Bulk(_) | Self::Compressed(_) | Self::Interrupted => {
                Outcome::Failed { retryable: true }
            }
        }
    }
}

/// What a read is told while it goes on.
pub struct Told {
    /// What to prove with from here on.
    pub renewed: watch::Receiver<Option<Arc<HttpOrigin>>>,
    /// How many bytes may be read in all.
    pub credit: watch::Receiver<u64>,
}

/// What a read from an HTTP origin shows and keeps to.
#[derive(Clone, Copy)]
struct Proofs<'a> {
    renewals: &'a Renewals,
    credit: &'a LeaseCredit,
}

/// Everything that reads need, shared by all of a process.
#[derive(Clone)]
pub struct Readers {
    store: Store,
    http: OriginReader,
    bulk: BulkMesh,
    coordinator: NodeId,
    /// Where the coordinator's bulk mesh is; empty until the first roster tells.
    addresses: Arc<watch::Sender<Vec<Multiaddr>>>,
    /// Connections to the coordinator that are not in use.
    idle: Arc<Mutex<Vec<BlockClient>>>,
    /// What all reads keep to.
    pacers: Vec<Pacer>,
    /// What is gathered and written to the disk at a time.
    buffers: Buffers,
    /// Bytes read by all reads so far.
    read_bytes: WanBytes,
    habits: Habits,
}

impl Readers {
    /// Readers for leases of `coordinator`.
    pub fn new(
        store: Store,
        http: OriginReader,
        bulk: BulkMesh,
        coordinator: NodeId,
        pacers: Vec<Pacer>,
        buffers: Buffers,
    ) -> Self {
        let (addresses, idle) = (Arc::new(watch::Sender::default()), Arc::default());
        let http = http.paced(pacers.clone());
        let (read_bytes, habits) = (WanBytes::default(), Habits::default());
        Self { store, http, bulk, coordinator, addresses, idle, pacers, buffers, read_bytes, habits }
    }

    /// Bytes that crossed the WAN so far, for all leases.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.total()
    }

    /// Says where the coordinator's bulk mesh is.
    pub fn set_coordinator(&self, addresses: Vec<Multiaddr>) {
        self.addresses.send_replace(addresses);
    }

    /// Where the coordinator's bulk mesh is. A node's first lease may come before its first roster.
    async fn coordinator_addresses(&self) -> Vec<Multiaddr> {
        let mut told = self.addresses.subscribe();
        let known = timeout(CONNECT_TIMEOUT, told.wait_for(|addresses| !addresses.is_empty())).await;
        known.map_or_else(|_| Vec::new(), |told| told.map(|addresses| addresses.clone()).unwrap_or_default())
    }

    /// Reads for `grant` into `content` until it is done, fails or is cancelled; says [`Input::Landed`] for each block,
    /// [`Input::Denied`] where another signature is wanted and [`Input::CreditWanted`] where more is to be read, both of
    /// which are answered by `told`, and [`Input::ReadEnded`] at the end.
    pub async fn read<E: From<Input> + Send + 'static>(
        &self,
        grant: Grant,
        content: Content,
        cancel: CancellationToken,
        told: Told,
        events: mpsc::Sender<E>,
    ) {
        let wan = self.read_bytes.part();
        let sink = Sink { content: content.clone(), events: events.clone(), writes: TaskTracker::new() };
        let (content_id, lease) = (grant.content, grant.lease);
        let (ask, more_asked) = mpsc::channel(1);
        let of_lease = leased(&grant);
        let lease_bytes = of_lease.iter().map(|block| u64::from(content.missing_of(*block))).sum();
        let credit = LeaseCredit::new(grant.terms, lease_bytes, told.credit, ask, self.habits.clone());
        let reading = async {
            match &grant.origin {
                Origin::Http(origin) => {
                    let (ask, asked) = mpsc::channel(1);
                    // A deputy reads while nobody can be asked.
                    let ask = Some(ask).filter(|_| !lease.is_own());
                    let renewals = Renewals::new(origin.clone(), told.renewed, ask);
                    let denied = |()| Input::Denied { content: content_id, lease };
                    let proofs = Proofs { renewals: &renewals, credit: &credit };
                    tokio::select! {
                        ended = self.read_http(proofs, &grant, &sink, &wan, &cancel) => ended,
                        never = pass_on(asked, denied, &sink.events) => match never {},
                    }
                }
                Origin::Coordinator { dictionary } => tokio::select! {
                    ended = self.read_coordinator(*dictionary, &grant, &credit, &sink, &wan) => ended,
                    () = cancel.cancelled() => Err(ReadLeaseError::Cancelled),
                },
            }
        };
        let more = |bytes| Input::CreditWanted { content: content_id, lease, bytes };
        let ended = tokio::select! {
            ended = reading => ended,
            never = pass_on(more_asked, more, &sink.events) => match never {},
        };
        // What has arrived is still being written, and counts.
        sink.writes.close();
        sink.writes.wait().await;
        let (outcome, fault) = match &ended {
            Ok(()) => (Outcome::Done, None),
            Err(error) => (error.outcome(), error.fault()),
        };
        let lacking = content.lacking().into_iter().filter(|(block, _)| of_lease.binary_search(block).is_ok());
        let begun = lacking.map(|(block, bytes)| Lacking { block, bytes }).collect();
        let end = LeaseEnd { content: content_id, lease, read_bytes: wan.total(), landed: Vec::new(), outcome, fault };
        // The driver is gone only when the process ends.
        let _ = events.send(Input::ReadEnded { end, begun }.into()).await;
    }

    async fn read_http<E: From<Input> + Send + 'static>(
        &self,
        Proofs { renewals, credit }: Proofs<'_>,
        grant: &Grant,
        sink: &Sink<E>,
        wan: &WanBytes,
        cancel: &CancellationToken,
    ) -> Result<(), ReadLeaseError> {
        let ranges = missing_ranges(&sink.content, grant);
        let mode = if grant.whole { Mode::WholeRest } else { Mode::Ranges };
        let (sender, chunks) = mpsc::channel::<Chunk>(CHUNKS);
        let (batches, to_write) = mpsc::channel::<Batch>(BATCHES);
        let assembler = Assembler::new(sink.content.clone(), &leased(grant), self.buffers.clone());
        let own = sink.clone();
        let writing = sink.writes.spawn_blocking(move || own.write(to_write));
        let reading = async {
            let read = tokio::select! {
                read = self.http.read_leased(renewals, credit, &ranges, mode, wan, &sender) => read.map_err(Into::into),
                () = cancel.cancelled() => Err(ReadLeaseError::Cancelled),
            };
            // What has arrived is gathered to the end, however the read ended: it crossed the WAN.
            drop(sender);
            read
        };
        let (read, (), wrote) = tokio::join!(reading, gather(assembler, chunks, batches), writing);
        // Writing that fails makes reading fail too: the cause is the writer's.
        wrote.map_err(|_| ReadLeaseError::Interrupted)??;
        read
    }

    async fn read_coordinator<E: From<Input> + Send + 'static>(
        &self,
        dictionary: Option<RecipeId>,
        grant: &Grant,
        credit: &LeaseCredit,
        sink: &Sink<E>,
        wan: &WanBytes,
    ) -> Result<(), ReadLeaseError> {
        let idle = self.idle.lock().expect("no panic while held").pop();
        let mut client = match idle {
            Some(client) => client,
            None => {
                let addresses = self.coordinator_addresses().await;
                BlockClient::new(self.bulk.connect(self.coordinator, addresses).await?)
            }
        };
        let dictionary = self.dictionary(dictionary);
        self.ask_coordinator(&mut client, dictionary, (grant, credit), sink, wan).await?;
        self.idle.lock().expect("no panic while held").push(client);
        Ok(())
    }

    /// The plain form of a recipe that this node has.
    fn dictionary(&self, wanted: Option<RecipeId>) -> Option<(RecipeId, Vec<u8>)> {
        let found = wanted.and_then(|id| tokio::task::block_in_place(|| self.store.recipe(id)).ok().flatten());
        found.map(|recipe| (recipe.id(), recipe.encode()))
    }

    /// What is lacking of a block, in pieces that are asked for at once: all together if there is no limit.
    fn pieces(&self, content: &Content, block: BlockIndex) -> Vec<(Vec<SegmentRun>, u64)> {
        let places = content.layout().segments();
        let missing = content.missing_segments(block);
        let bytes_max = piece_of_all(&self.pacers, u64::MAX);
        let mut pieces: Vec<(Vec<Range<usize>>, u64)> = Vec::new();
        for index in missing.into_iter().flatten() {
            let len = places.get(index).map_or(0, |place| u64::from(place.len));
            if pieces.last().is_none_or(|(_, bytes)| *bytes + len > bytes_max) {
                pieces.push((Vec::new(), 0));
            }
            let Some((ranges, bytes)) = pieces.last_mut() else { continue };
            *bytes += len;
            match ranges.last_mut() {
                Some(last) if last.end == index => last.end += 1,
                _ => ranges.push(index..index + 1),
            }
        }
        pieces.into_iter().map(|(ranges, bytes)| (runs(&ranges), bytes)).collect()
    }

    async fn ask_coordinator<E: From<Input> + Send + 'static>(
        &self,
        client: &mut BlockClient,
        dictionary: Option<(RecipeId, Vec<u8>)>,
        (grant, credit): (&Grant, &LeaseCredit),
        sink: &Sink<E>,
        wan: &WanBytes,
    ) -> Result<(), ReadLeaseError> {
        let content = &sink.content;
        let recipe = content.kind() == crate::store::Kind::Recipe;
        let encoding = match (&dictionary, recipe) {
            (_, false) => Encoding::Raw,
            (known, true) => Encoding::Zstd { dictionary: known.as_ref().map(|(id, _)| *id) },
        };
        let mut blocks = leased(grant).into_iter();
        let (mut open, mut pieces, mut id) = (VecDeque::new(), VecDeque::new(), 0_u32);
        let dictionary = dictionary.map(|(_, plain)| Arc::<[u8]>::from(plain));
        let (mut payload, mut writing) = (Vec::new(), None::<JoinHandle<_>>);
        loop {
            while open.len() < AHEAD {
                let Some((runs, bytes)) = pieces.pop_front() else {
                    // Block by block, so that pieces are as large as the limit allows when they are asked for.
                    let Some(block) = blocks.next() else { break };
                    pieces.extend(self.pieces(content, block));
                    continue;
                };
                // A recipe comes compressed: what it takes less is given back with its answer.
                credit.take(bytes).await;
                let unpaid = take_all(&self.pacers, bytes).await;
                id += 1;
                client.request(&BlockRequest { id, content: content.id(), runs: runs.clone(), encoding })?;
                open.push_back(Asked { id, runs, bytes, unpaid });
            }
            if open.is_empty() {
                if let Some(last) = writing {
                    last.await.map_err(|_| ReadLeaseError::Interrupted)??;
                }
                return Ok(());
            }
            let answer = client.next_answer().await?;
            let Some(at) = open.iter().position(|asked: &Asked| asked.id == answer.id) else {
                return Err(BlockError::Unasked(answer.id).into());
            };
            let Some(Asked { runs, bytes: paid, unpaid, .. }) = open.remove(at) else { continue };
            let bytes = match answer.status {
                Status::Ok { bytes } => bytes as usize,
                // It serves sealed packages: what is not there never comes.
                Status::Part { .. } => return Err(ReadLeaseError::Declined("it has only a part".to_owned())),
                Status::NotFound => return Err(ReadLeaseError::Declined("it does not have it".to_owned())),
                Status::Refused(Refusal::Busy) => return Err(ReadLeaseError::Bulk(BlockError::Stalled)),
                Status::Refused(why) => return Err(ReadLeaseError::Declined(format!("{why:?}"))),
            };
            payload.resize(bytes, 0);
            read_payload(client, &mut payload, &unpaid).await?;
            wan.count(bytes);
            self.pacers.iter().for_each(|pacer| pacer.give_back(paid.saturating_sub(bytes as u64)));
            // While one block is hashed and written, the next is read.
            let before = match writing.take() {
                Some(before) => before.await.map_err(|_| ReadLeaseError::Interrupted)??,
                None => Vec::new(),
            };
            let (own, block, plain) = (sink.clone(), std::mem::replace(&mut payload, before), dictionary.clone());
            writing = Some(sink.writes.spawn_blocking(move || {
                own.landed(store(&own.content, &runs, &block, recipe, plain.as_deref())?);
                Ok::<_, ReadLeaseError>(block)
            }));
        }
    }
}

/// What was asked of the coordinator and has not come.
struct Asked {
    id: u32,
    runs: Vec<SegmentRun>,
    bytes: u64,
    /// Pacers that had no limit when it was asked for.
    unpaid: Vec<Pacer>,
}

/// Where what is read goes. Clones write to the same.
struct Sink<E> {
    content: Content,
    events: mpsc::Sender<E>,
    /// What is being written.
    writes: TaskTracker,
}

impl<E> Clone for Sink<E> {
    fn clone(&self) -> Self {
        Self { content: self.content.clone(), events: self.events.clone(), writes: self.writes.clone() }
    }
}

impl<E: From<Input>> Sink<E> {
    /// Verifies and writes what was gathered, until nothing more comes. Blocks, as disks do.
    fn write(&self, mut batches: mpsc::Receiver<Batch>) -> Result<(), ReadLeaseError> {
        // Since when parts of a block come, and how many bytes were lacking.
        let mut begun = BTreeMap::new();
        while let Some(Batch { segments, bytes, since }) = batches.blocking_recv() {
            let last = segments.last().and_then(|segment| self.content.layout().block_of_segment(*segment));
            let before = last.map(|block| (block, u64::from(self.content.missing_of(block))));
            match self.content.write_segments(&segments, &bytes) {
                Ok(landed) => {
                    begun.retain(|block, _| !landed.contains(block));
                    self.landed(landed);
                    if let Some((block, lacking)) = before {
                        let (since, of) = *begun.entry(block).or_insert((since, lacking));
                        self.arrives(block, of, since);
                    }
                }
                Err(error) => {
                    self.write_sound(&segments, &bytes);
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Writes those of a batch that are not wrong: they crossed the WAN, and are not read again.
    fn write_sound(&self, segments: &[usize], mut bytes: &[u8]) {
        for segment in segments {
            let len = self.content.layout().segments().get(*segment).map_or(0, |place| place.len as usize);
            let (part, rest) = bytes.split_at(len.min(bytes.len()));
            if let Ok(Written { block_complete: true, .. }) = self.content.write_segment(*segment, part) {
                self.landed(self.content.layout().block_of_segment(*segment).into_iter().collect());
            }
            bytes = rest;
        }
    }

    /// Says how much of a block is there, of `of` bytes that were lacking of it.
    fn arrives(&self, block: BlockIndex, of: u64, since: Instant) {
        let lacking = u64::from(self.content.missing_of(block));
        if lacking > 0 {
            let arrived = Arrived { from: None, bytes: of.saturating_sub(lacking), of, took: since.elapsed() };
            let arrives = Input::Arrives { content: self.content.id(), block, arrived };
            let _ = self.events.blocking_send(arrives.into());
        }
    }

    fn landed(&self, blocks: Vec<BlockIndex>) {
        let content = self.content.id();
        for block in blocks {
            // The driver is gone only when the process ends.
            let _ = self.events.blocking_send(Input::Landed { content, block }.into());
        }
    }
}

/// Gathers what arrives into batches, until nothing more comes or nobody writes any more.
async fn gather(mut assembler: Assembler, mut chunks: mpsc::Receiver<Chunk>, batches: mpsc::Sender<Batch>) {
    let mut ready = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        assembler.take(chunk.offset, &chunk.bytes, &mut ready);
        for batch in ready.drain(..) {
            if batches.send(batch).await.is_err() {
                return;
            }
        }
    }
    if let Some(rest) = assembler.rest() {
        // Without a writer, its error says why.
        let _ = batches.send(rest).await;
    }
}

/// Says what `input` makes for each question, without end.
async fn pass_on<T, E: From<Input>>(
    mut asked: mpsc::Receiver<T>,
    input: impl Fn(T) -> Input,
    events: &mpsc::Sender<E>,
) -> std::convert::Infallible {
    loop {
        match asked.recv().await {
            // The driver is gone only when the process ends.
            Some(asked) => drop(events.send(input(asked).into()).await),
            None => return std::future::pending().await,
        }
    }
}

/// The blocks of a lease, in order.
fn leased(grant: &Grant) -> Vec<BlockIndex> {
    grant.blocks.iter().flat_map(|range| range.iter()).collect()
}

/// Byte ranges of the segments that are lacking of a lease's blocks.
fn missing_ranges(content: &Content, grant: &Grant) -> Vec<Range<u64>> {
    let count = content.layout().block_count();
    let blocks = leased(grant).into_iter().filter(|block| block.0 < count);
    let segments = blocks.flat_map(|block| content.missing_segments(block)).flatten();
    let places = content.layout().segments();
    segments.filter_map(|index| places.get(index)).map(|place| place.offset..place.end()).collect()
}

/// Writes the segments of `runs` from a payload, which for a recipe is compressed.
fn store(
    content: &Content,
    runs: &[SegmentRun],
    payload: &[u8],
    compressed: bool,
    dictionary: Option<&[u8]>,
) -> Result<Vec<BlockIndex>, ReadLeaseError> {
    let places = content.layout().segments();
    let wanted: Vec<usize> = super::segments(runs).collect();
    let expected: usize = wanted.iter().filter_map(|index| places.get(*index)).map(|place| place.len as usize).sum();
    let plain = match compressed {
        true => &crate::compress::decompress(payload, dictionary, expected).map_err(ReadLeaseError::Compressed)?,
        false => payload,
    };
    Ok(content.write_segments(&wanted, plain)?)
}
