//! Fetches blocks from one neighbour over one bulk connection, many requests in flight.
//!
//! A [`Fetcher`] is a task: it connects with its first job and ends after a time without any, on the first error, or when
//! its handle is dropped. Every job is answered by exactly one [`Input`]; those that a failure leaves open, by the failure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use shoal_proto::bulk::{BlockRequest, Encoding, Refusal, SegmentRun, Status};
use shoal_proto::exchange::FetchError;
use shoal_proto::id::{BlockIndex, ContentId, NodeId};
use shoal_proto::limits::{BULK_IDLE_MAX, REQUESTS_PER_STREAM_MAX};
use shoal_proto::node::Input;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

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
        events: mpsc::Sender<E>,
    ) -> Self {
        let (orders, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let mut task =
                Task { node, orders: receiver, waiting: VecDeque::new(), open: VecDeque::new(), next_id: 0, events };
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
    events: mpsc::Sender<E>,
}

impl<E: From<Input>> Task<E> {
    async fn run(&mut self, mut client: BlockClient) -> Ended {
        let mut buffer = Vec::new();
        loop {
            while let Ok(order) = self.orders.try_recv() {
                self.take(order);
            }
            if self.waiting.is_empty() && self.open.is_empty() {
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
            if let Err(ended) = self.answered(&mut client, open, answer.status, &mut buffer).await {
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

    async fn answered(
        &mut self,
        client: &mut BlockClient,
        open: Open,
        status: Status,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Ended> {
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
        let wanted: Vec<usize> = segments(&open.runs).collect();
        let expected: u64 =
            wanted.iter().filter_map(|index| places.get(*index)).map(|place| u64::from(place.len)).sum();
        if expected != bytes {
            self.failed(&open, FetchError::Corrupt).await;
            return Err(Ended::Failed(FetchError::Timeout));
        }
        for index in wanted {
            let Some(place) = places.get(index) else { continue };
            buffer.resize(place.len as usize, 0);
            if let Err(error) = client.read_payload(buffer).await {
                self.failed(&open, FetchError::Timeout).await;
                return Err(self.broken(&error));
            }
            let written = tokio::task::block_in_place(|| open.content.write_segment(index, buffer));
            if let Err(error) = written {
                let lied = matches!(error, WriteError::Mismatch { .. });
                debug!(node = %self.node.short(), %error, "a fetched segment was not written");
                self.failed(&open, if lied { FetchError::Corrupt } else { FetchError::Timeout }).await;
                return Err(Ended::Failed(FetchError::Timeout));
            }
        }
        let took = open.since.elapsed();
        self.fetched(open.content.id(), open.block, bytes, took).await;
        Ok(())
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
