//! Fetches blocks from one neighbour over one bulk connection, many requests in flight.
//!
//! A [`Fetcher`] is a task: it connects with its first job and ends after a time without any, on the first error, or when
//! its handle is dropped. Every job is answered by exactly one [`Input`]; those that a failure leaves open, by the failure.
//! While one batch of segments is hashed and written, the next is read: a pair of nodes is then as fast as the slower of
//! the two, not as their sum.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use shoal_proto::bulk::{BlockRequest, Encoding, Refusal, SegmentRun, Status};
use shoal_proto::exchange::FetchError;
use shoal_proto::id::{BlockIndex, ContentId, NodeId};
use shoal_proto::limits::{BULK_IDLE_MAX, REQUESTS_PER_STREAM_MAX};
use shoal_proto::node::Input;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::debug;

use super::buffers::{BUFFER_BYTES, Buffers};
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
    runs: Vec<SegmentRun>,
    since: Instant,
}

/// A batch that is being hashed and written.
struct Writing {
    task: JoinHandle<Result<(), WriteError>>,
    /// The block that is complete with it, and its bytes.
    last_of: Option<(Open, u64)>,
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
            self.open.push_back(Open { id, content, block, runs: request.runs, since: Instant::now() });
        }
        Ok(())
    }

    async fn answered(&mut self, client: &mut BlockClient, open: Open, status: Status) -> Result<(), Ended> {
        let bytes = match status {
            Status::Ok { bytes } => u64::from(bytes),
            Status::NotFound | Status::Refused(Refusal::SegmentsMissing | Refusal::ReadFailed) => {
                self.failed(&open, FetchError::Gone).await;
                return Ok(());
            }
            Status::Refused(_) => {
                self.failed(&open, FetchError::Refused).await;
                return Ok(());
            }
        };
        let places = open.content.layout().segments();
        let wanted: Vec<usize> = segments(&open.runs).filter(|index| *index < places.len()).collect();
        let expected: u64 = wanted.iter().map(|index| u64::from(places[*index].len)).sum();
        if expected != bytes {
            self.failed(&open, FetchError::Corrupt).await;
            return Err(Ended::Failed(FetchError::Timeout));
        }
        let mut rest = &wanted[..];
        while !rest.is_empty() {
            let (count, len) = batch(rest, |index| places[index].len as usize);
            let (segments, after) = rest.split_at(count);
            rest = after;
            let mut buffer = self.buffers.take();
            buffer.resize(len, 0);
            if let Err(error) = read_payload(client, &mut buffer, std::slice::from_ref(&self.pacer)).await {
                self.failed(&open, FetchError::Timeout).await;
                return Err(self.broken(&error));
            }
            if let Err(why) = self.settle().await {
                self.failed(&open, why).await;
                return Err(Ended::Failed(FetchError::Timeout));
            }
            let (content, segments) = (open.content.clone(), segments.to_vec());
            let task = tokio::task::spawn_blocking(move || content.write_segments(&segments, &buffer).map(drop));
            self.writing = Some(Writing { task, last_of: None });
        }
        match &mut self.writing {
            Some(writing) => writing.last_of = Some((open, bytes)),
            None => self.fetched(open.content.id(), open.block, bytes, open.since.elapsed()).await,
        }
        Ok(())
    }

    /// Waits until nothing is being written. An error is the failure of the block that is being read: that of one
    /// that was complete is reported here.
    async fn settle(&mut self) -> Result<(), FetchError> {
        if self.writing.is_none() {
            return Ok(());
        }
        let wrote = written(&mut self.writing).await;
        self.wrote(wrote).await
    }

    async fn wrote(&mut self, wrote: Option<Result<(), WriteError>>) -> Result<(), FetchError> {
        let last_of = self.writing.take().and_then(|writing| writing.last_of);
        match wrote {
            // The store panicked, or the process ends.
            None => self.not_written(last_of, FetchError::Timeout).await,
            Some(Ok(())) => {
                if let Some((open, bytes)) = last_of {
                    self.fetched(open.content.id(), open.block, bytes, open.since.elapsed()).await;
                }
                Ok(())
            }
            Some(Err(error)) => {
                let lied = matches!(error, WriteError::Mismatch { .. });
                debug!(node = %self.node.short(), %error, "a fetched segment was not written");
                self.not_written(last_of, if lied { FetchError::Corrupt } else { FetchError::Timeout }).await
            }
        }
    }

    async fn not_written(&mut self, last_of: Option<(Open, u64)>, why: FetchError) -> Result<(), FetchError> {
        match last_of {
            Some((open, _)) => {
                self.failed(&open, why).await;
                Err(FetchError::Timeout)
            }
            None => Err(why),
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

/// How many of `segments` are read and written together, and their bytes: one at least.
fn batch(segments: &[usize], len_of: impl Fn(usize) -> usize) -> (usize, usize) {
    let (mut count, mut len) = (0, 0);
    for segment in segments {
        let longer = len + len_of(*segment);
        if count > 0 && longer > BUFFER_BYTES {
            break;
        }
        (count, len) = (count + 1, longer);
    }
    (count, len)
}
