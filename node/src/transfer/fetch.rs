//! Fetches blocks from one neighbour over one bulk connection, many requests in flight.
//!
//! A [`Fetcher`] is a task: it connects with its first job and ends after a time without any, on the first error, or when
//! its handle is dropped. Every job is answered by exactly one [`Input`]; those that a failure leaves open, by the failure.
//! While one batch of segments is hashed and written, the next is read: a pair of nodes is then as fast as the slower of
//! the two, not as their sum. Each batch that is written is told ([`Input::Arrives`]), since it may be passed on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use shoal_proto::bulk::{BlockRequest, Encoding, Refusal, Status};
use shoal_proto::exchange::{Arrived, FetchError};
use shoal_proto::id::{BlockIndex, ContentId, NodeId};
use shoal_proto::limits::{BULK_IDLE_MAX, PART_TIME, PASSED_ON_BYTES_MIN, REQUESTS_PER_STREAM_MAX};
use shoal_proto::node::Input;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::debug;

use super::buffers::{BUFFER_BYTES, Buffer, Buffers};
use super::pacer::{Pacer, read_payload};
use super::{runs, segments};
use crate::net::{BlockClient, BlockError, BulkMesh, Multiaddr};
use crate::store::{Content, WriteError};

/// Jobs that wait for a place on the connection; the exchange asks for fewer.
const QUEUE: usize = 64;

/// A block to fetch.
#[derive(Debug)]
pub struct Job {
    /// Where it is written.
    pub content: Content,
    /// Which block.
    pub block: BlockIndex,
}

/// What a fetcher does next.
enum Order {
    Fetch(Job),
    /// Forget a job, if it was not asked for yet.
    Cancel(ContentId, BlockIndex),
}

/// Handle of the task; dropping it ends the connection.
#[derive(Debug)]
pub struct Fetcher {
    orders: mpsc::Sender<Order>,
}

struct Open {
    id: u32,
    content: Content,
    block: BlockIndex,
    /// The segments that have still to come, in order.
    wanted: VecDeque<usize>,
    /// Bytes that came, of how many.
    bytes: u64,
    of: u64,
    since: Instant,
}

impl Open {
    fn len_of(&self, segment: usize) -> usize {
        self.content.layout().segments().get(segment).map_or(0, |place| place.len as usize)
    }

    /// How many of the next segments these bytes are; `None` if they end within one.
    fn segments_of(&self, bytes: u64) -> Option<usize> {
        let (mut count, mut sum) = (0, 0);
        while sum < bytes {
            sum += self.len_of(*self.wanted.get(count)?) as u64;
            count += 1;
        }
        (sum == bytes).then_some(count)
    }

    fn arrives(&self, node: NodeId) -> Input {
        let arrived = Arrived { from: Some(node), bytes: self.bytes, of: self.of, took: self.since.elapsed() };
        Input::Arrives { content: self.content.id(), block: self.block, arrived }
    }
}

/// A batch that is being hashed and written.
struct Writing {
    task: JoinHandle<Result<(), WriteError>>,
    then: Then,
}

/// What is to be said once a batch is written.
enum Then {
    /// That a part of what this request is for is there.
    Arrives(u32, Input),
    /// That all is there that was asked for.
    Fetched(Open),
}

/// Why the task ended.
enum Ended {
    Idle,
    Failed(FetchError),
}

impl Fetcher {
    /// Starts the task. Answers go to `events`, wrapped by `wrap`.
    pub fn start<E: From<Input> + Send + 'static>(
        node: NodeId,
        addresses: Vec<Multiaddr>,
        bulk: BulkMesh,
        pacer: Pacer,
        buffers: Buffers,
        events: mpsc::Sender<E>,
    ) -> Self {
        let (orders, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let (waiting, open) = (VecDeque::new(), VecDeque::new());
            let (next_id, writing) = (0, None);
            let mut task = Task { node, orders: receiver, waiting, open, next_id, writing, pacer, buffers, events };
            let why = match bulk.connect(node, addresses).await {
                Ok(stream) => match task.run(BlockClient::new(stream)).await {
                    Ended::Idle => return,
                    Ended::Failed(why) => why,
                },
                Err(error) => {
                    debug!(%error, "no bulk connection");
                    FetchError::Timeout
                }
            };
            task.fail_all(why).await;
        });
        Self { orders }
    }

    /// Gives it a block to fetch; gives it back if the task has ended or has no room.
    ///
    /// # Errors
    /// The job.
    pub fn fetch(&self, job: Job) -> Result<(), Job> {
        self.orders.try_send(Order::Fetch(job)).map_err(|error| match error.into_inner() {
            Order::Fetch(job) => job,
            Order::Cancel(..) => unreachable!("a fetch was sent"),
        })
    }

    /// Forgets a job that was not asked for yet. One that was comes anyway, and is welcome.
    pub fn cancel(&self, content: ContentId, block: BlockIndex) {
        // A task without room is busy with jobs that may all come; one that has ended has none.
        let _ = self.orders.try_send(Order::Cancel(content, block));
    }
}

struct Task<E> {
    node: NodeId,
    orders: mpsc::Receiver<Order>,
    waiting: VecDeque<Job>,
    open: VecDeque<Open>,
    next_id: u32,
    writing: Option<Writing>,
    /// What all downloads of the node keep to.
    pacer: Pacer,
    buffers: Buffers,
    events: mpsc::Sender<E>,
}

impl<E: From<Input>> Task<E> {
    async fn run(&mut self, mut client: BlockClient) -> Ended {
        loop {
            while let Ok(order) = self.orders.try_recv() {
                self.take(order);
            }
            if self.waiting.is_empty() && self.open.is_empty() {
                if let Err(why) = self.settle().await {
                    return Ended::Failed(why);
                }
                match timeout(BULK_IDLE_MAX / 2, self.orders.recv()).await {
                    Ok(Some(order)) => self.take(order),
                    Ok(None) | Err(_) => return Ended::Idle,
                }
                continue;
            }
            if let Err(error) = self.ask(&mut client).await {
                return self.broken(&error);
            }
            if self.open.is_empty() {
                continue;
            }
            let answer = tokio::select! {
                order = self.orders.recv() => match order {
                    Some(order) => {
                        self.take(order);
                        continue;
                    }
                    // The driver wants nothing more of this neighbour.
                    None => return Ended::Idle,
                },
                wrote = written(&mut self.writing) => {
                    if let Err(why) = self.wrote(wrote).await {
                        return Ended::Failed(why);
                    }
                    continue;
                }
                answer = client.next_answer() => answer,
            };
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => return self.broken(&error),
            };
            let Some(at) = self.open.iter().position(|open| open.id == answer.id) else {
                return self.broken(&BlockError::Unasked(answer.id));
            };
            let Some(open) = self.open.remove(at) else { continue };
            if let Err(ended) = self.answered(&mut client, open, answer.status).await {
                return ended;
            }
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Fetch(job) => self.waiting.push_back(job),
            Order::Cancel(content, block) => {
                self.waiting.retain(|job| job.content.id() != content || job.block != block);
            }
        }
    }

    fn broken(&self, error: &BlockError) -> Ended {
        debug!(node = %self.node.short(), %error, "the bulk connection broke");
        Ended::Failed(FetchError::Timeout)
    }

    /// Asks for what waits, as far as the connection has room.
    async fn ask(&mut self, client: &mut BlockClient) -> Result<(), BlockError> {
        while client.open_requests() < REQUESTS_PER_STREAM_MAX
            && let Some(Job { content, block }) = self.waiting.pop_front()
        {
            let runs = runs(&content.missing_segments(block));
            if runs.is_empty() {
                // It came on another way in the meantime.
                self.fetched(content.id(), block, 0, Duration::ZERO).await;
                continue;
            }
            self.next_id = self.next_id.wrapping_add(1);
            let id = self.next_id;
            let request = BlockRequest { id, content: content.id(), runs, encoding: Encoding::Raw };
            client.request(&request)?;
            let count = content.layout().segments().len();
            let wanted = segments(&request.runs).filter(|index| *index < count).collect();
            let mut open = Open { id, content, block, wanted, bytes: 0, of: 0, since: Instant::now() };
            open.of = open.wanted.iter().map(|segment| open.len_of(*segment) as u64).sum();
            self.open.push_back(open);
        }
        Ok(())
    }

    async fn answered(&mut self, client: &mut BlockClient, mut open: Open, status: Status) -> Result<(), Ended> {
        let (bytes, more) = match status {
            Status::Ok { bytes } => (u64::from(bytes), false),
            Status::Part { bytes } => (u64::from(bytes), true),
            Status::NotFound | Status::Refused(Refusal::SegmentsMissing | Refusal::ReadFailed) => {
                self.failed(&open, FetchError::Gone).await;
                return Ok(());
            }
            Status::Refused(_) => {
                self.failed(&open, FetchError::Refused).await;
                return Ok(());
            }
        };
        let count = open.segments_of(bytes).filter(|count| more || *count == open.wanted.len());
        let Some(mut count) = count else {
            self.failed(&open, FetchError::Corrupt).await;
            return Err(Ended::Failed(FetchError::Timeout));
        };
        while count > 0 {
            let (segments, buffer) = match self.read_batch(client, &mut open, count).await {
                Ok(batch) => batch,
                Err(error) => {
                    self.failed(&open, FetchError::Timeout).await;
                    return Err(self.broken(&error));
                }
            };
            count -= segments.len();
            if let Err(why) = self.settle().await {
                self.failed(&open, why).await;
                return Err(Ended::Failed(FetchError::Timeout));
            }
            let content = open.content.clone();
            let then = Then::Arrives(open.id, open.arrives(self.node));
            let task = tokio::task::spawn_blocking(move || content.write_segments(&segments, &buffer).map(drop));
            self.writing = Some(Writing { task, then });
        }
        if more {
            self.open.push_back(open);
            return Ok(());
        }
        match &mut self.writing {
            Some(writing) => writing.then = Then::Fetched(open),
            None => self.fetched(open.content.id(), open.block, open.bytes, open.since.elapsed()).await,
        }
        Ok(())
    }

    /// Reads the next segments of an answer of which `count` are to be read: as many as a buffer holds, but no more than
    /// come within [`PART_TIME`] if the block is large.
    async fn read_batch(
        &self,
        client: &mut BlockClient,
        open: &mut Open,
        count: usize,
    ) -> Result<(Vec<usize>, Buffer), BlockError> {
        let (mut buffer, mut filled) = (self.buffers.take(), 0);
        let (begun, in_parts) = (Instant::now(), open.of >= PASSED_ON_BYTES_MIN);
        let mut batch = Vec::new();
        while let Some(segment) = open.wanted.front().copied().filter(|_| batch.len() < count) {
            let len = open.len_of(segment);
            let full = filled + len > BUFFER_BYTES || in_parts && begun.elapsed() >= PART_TIME;
            if full && !batch.is_empty() {
                break;
            }
            read_payload(client, buffer.room(filled, len), std::slice::from_ref(&self.pacer)).await?;
            open.wanted.pop_front();
            open.bytes += len as u64;
            filled += len;
            batch.push(segment);
        }
        buffer.truncate(filled);
        Ok((batch, buffer))
    }

    /// Waits until nothing is being written. An error is the failure of the block that is being read: that of another
    /// is reported here.
    async fn settle(&mut self) -> Result<(), FetchError> {
        if self.writing.is_none() {
            return Ok(());
        }
        let wrote = written(&mut self.writing).await;
        self.wrote(wrote).await
    }

    async fn wrote(&mut self, wrote: Option<Result<(), WriteError>>) -> Result<(), FetchError> {
        let Some(Writing { then, .. }) = self.writing.take() else { return Ok(()) };
        let why = match wrote {
            Some(Ok(())) => {
                match then {
                    // The driver is gone only when the process ends.
                    Then::Arrives(_, input) => drop(self.events.send(input.into()).await),
                    Then::Fetched(open) => {
                        self.fetched(open.content.id(), open.block, open.bytes, open.since.elapsed()).await;
                    }
                }
                return Ok(());
            }
            // The store panicked, or the process ends.
            None => FetchError::Timeout,
            Some(Err(error)) => {
                debug!(node = %self.node.short(), %error, "a fetched segment was not written");
                let lied = matches!(error, WriteError::Mismatch { .. });
                if lied { FetchError::Corrupt } else { FetchError::Timeout }
            }
        };
        match then {
            Then::Fetched(open) => {
                self.failed(&open, why).await;
                Err(FetchError::Timeout)
            }
            Then::Arrives(id, _) => match self.open.iter().position(|open| open.id == id) {
                Some(at) => {
                    if let Some(open) = self.open.remove(at) {
                        self.failed(&open, why).await;
                    }
                    Err(FetchError::Timeout)
                }
                // It is what is being read.
                None => Err(why),
            },
        }
    }

    async fn fetched(&self, content: ContentId, block: BlockIndex, bytes: u64, took: Duration) {
        // The driver is gone only when the process ends.
        let _ = self.events.send(Input::Fetched { node: self.node, content, block, bytes, took }.into()).await;
    }

    async fn failed(&self, open: &Open, why: FetchError) {
        self.fail(open.content.id(), open.block, why).await;
    }

    async fn fail(&self, content: ContentId, block: BlockIndex, why: FetchError) {
        let _ = self.events.send(Input::FetchFailed { node: self.node, content, block, why }.into()).await;
    }

    async fn fail_all(&mut self, why: FetchError) {
        // What is written is good whatever became of the connection; what is not says so itself, or is open.
        let _ = self.settle().await;
        self.orders.close();
        while let Ok(order) = self.orders.try_recv() {
            self.take(order);
        }
        let open = self.open.drain(..).map(|open| (open.content.id(), open.block));
        let waiting = self.waiting.drain(..).map(|job| (job.content.id(), job.block));
        let all: Vec<_> = open.chain(waiting).collect();
        for (content, block) in all {
            self.fail(content, block, why).await;
        }
    }
}

/// The outcome of the batch that is being written; waits for ever if there is none. Safe to cancel.
async fn written(writing: &mut Option<Writing>) -> Option<Result<(), WriteError>> {
    match writing {
        Some(writing) => (&mut writing.task).await.ok(),
        None => std::future::pending().await,
    }
}
