//! The agent's only loop: events to the core, the core's outputs to the world.
//!
//! Decides nothing. Tasks do the I/O and report by one bounded channel; all state is owned here. Outputs are carried out
//! in their order, and a step's record is on the disk before its process starts (GATE, ACKED-IS-KEPT).

mod carry;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use shoal_proto::codec;
use shoal_proto::id::{ContentId, DeploymentId, LeaseId, Name, NodeId};
use shoal_proto::limits::{CONTROL_MESSAGE_BYTES_MAX, WAN_RATE_EVERY};
use shoal_proto::manifest::SignedError;
use shoal_proto::node::{Input, Node};
use shoal_proto::origin::HttpOrigin;
use shoal_proto::rng::mix;
use shoal_proto::rollout::variables::Told;
use shoal_proto::wire::{Frame, Grant, Hello, JoinProof, StepRun, ToCoordinator, ToNode};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::clock::{Clock, sleep_until};
use crate::config::Config;
use crate::membership::{Membership, MembershipError};
use crate::net::{
    Allow, BulkMesh, BulkStream, ControlConfig, ControlEvent, ControlMesh, DialCause, ListenError, Multiaddr,
    TlsSetupError, verify,
};
use crate::open_files;
use crate::origin::{OriginError, OriginReader};
use crate::runner::RunReport;
use crate::step_log::{StepLog, StepLogError};
use crate::store::{Content, Store, StoreError};
use crate::transfer::fetch::Fetcher;
use crate::transfer::pacer::Pacer;
use crate::transfer::read::Readers;
use crate::transfer::serve::{self, Shelf, UploadEvent, Verdict};

/// Events that wait for the loop; tasks that have more wait themselves.
const EVENTS: usize = 1024;

/// Why the agent ends by itself.
#[derive(Debug, Error)]
pub enum AgentError {
    /// It does not know who it is or whom it obeys.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The coordinator does not want it.
    #[error("the coordinator refuses this node: {0}")]
    Refused(String),
    /// Another than the coordinator of the join string is where that says.
    #[error(
        "at {address} is not the coordinator of the join string, {}, but {}: check the address, or pass --join with a \
         string that `shoal token create` makes there", wanted.short(), known(.found)
    )]
    Foreign {
        /// Where.
        address: Multiaddr,
        /// The key that the join string names.
        wanted: NodeId,
        /// The key that answered; `None` if it is not one of Shoal's.
        found: Option<NodeId>,
    },
    /// The package store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The step log cannot be used.
    #[error(transparent)]
    StepLog(#[from] StepLogError),
    /// It cannot listen.
    #[error("{option}: {source}")]
    Listen {
        /// What says where.
        option: &'static str,
        /// Why not.
        source: ListenError,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
    /// HTTP cannot be set up.
    #[error(transparent)]
    Http(#[from] OriginError),
    /// A mesh's task ended: a bug.
    #[error("the mesh has stopped")]
    MeshStopped,
}

fn known(found: &Option<NodeId>) -> String {
    found.map_or_else(|| "a program that is not Shoal's".to_owned(), |found| found.short())
}

/// What tasks report.
#[derive(Debug)]
enum Event {
    Core(Input),
    Opened {
        content: Content,
        input: Input,
    },
    Upload(UploadEvent),
    Run(RunReport),
    /// The cache was made smaller.
    PackagesDropped,
}

impl From<Input> for Event {
    fn from(input: Input) -> Self {
        Self::Core(input)
    }
}

impl From<RunReport> for Event {
    fn from(report: RunReport) -> Self {
        Self::Run(report)
    }
}

/// A request of another node.
struct Upload {
    content: ContentId,
    /// Where it waits for its verdict; dropped, it is refused.
    verdict: Option<oneshot::Sender<Verdict>>,
    /// Ends its waiting for what has not arrived.
    stop: CancellationToken,
}

/// The agent's state.
pub struct Agent {
    config: Config,
    membership: Membership,
    clock: Clock,
    core: Node,
    /// Inputs that follow from carrying out outputs.
    inputs: VecDeque<Input>,
    site: Name,
    welcomed_once: bool,
    /// Addresses of the coordinator at which another answered since one failed otherwise.
    strangers: BTreeSet<Multiaddr>,
    control: ControlMesh,
    control_events: mpsc::Receiver<ControlEvent>,
    bulk: BulkMesh,
    bulk_streams: mpsc::Receiver<BulkStream>,
    control_addresses: Vec<Multiaddr>,
    bulk_bound: Vec<Multiaddr>,
    store: Store,
    shelf: Shelf,
    readers: Readers,
    step_log: StepLog,
    events_sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    uploads_sender: mpsc::Sender<UploadEvent>,
    uploads_receiver: mpsc::Receiver<UploadEvent>,
    contents: BTreeMap<ContentId, Content>,
    neighbours: BTreeMap<NodeId, Vec<Multiaddr>>,
    fetchers: BTreeMap<NodeId, Fetcher>,
    /// The lease of each content that is being read; others wait for it, in order.
    reads: BTreeMap<ContentId, Reading>,
    reads_waiting: BTreeMap<ContentId, VecDeque<Grant>>,
    /// Requests of others that are open.
    uploads: BTreeMap<u64, Upload>,
    runs: BTreeMap<StepRun, CancellationToken>,
    /// Variables of deployments, as the coordinator told them; in memory alone, since secrets are among them.
    variables: BTreeMap<DeploymentId, Told>,
    /// What the node may receive in all, and what of it over the WAN.
    download: Pacer,
    wan: Pacer,
    /// When the coordinator is told next how fast the WAN is read, and what was read before; while that has a limit.
    wan_report: Option<(Instant, u64)>,
    open_files: open_files::Suffice,
}

/// A lease that is being read.
struct Reading {
    lease: LeaseId,
    cancel: CancellationToken,
    /// Tells it what to prove with from here on.
    renewed: watch::Sender<Option<Arc<HttpOrigin>>>,
    /// Tells it how many bytes it may read in all.
    credit: watch::Sender<u64>,
}

impl Agent {
    /// Opens everything and begins to listen and to dial the coordinator.
    ///
    /// # Errors
    /// [`AgentError`] with what the operator has to change.
    pub async fn start(config: Config) -> Result<Self, AgentError> {
        let membership = Membership::open(&config.data_dir, config.join.clone())?;
        let (step_log, ran) = StepLog::open(&config.data_dir.join("steps.log"))?;
        let store = tokio::task::block_in_place(|| Store::open(&config.data_dir))?;
        let (control, control_events) = ControlMesh::start(&membership.identity, &ControlConfig::default())?;
        let (bulk, bulk_streams) = BulkMesh::start(&membership.identity)?;
        let coordinator = membership.join.coordinator;
        for address in &config.listen {
            control.listen(address.clone()).await.map_err(cannot_listen("--listen"))?;
        }
        let mut bulk_bound = Vec::new();
        for address in &config.bulk_listen {
            bulk_bound.push(bulk.listen(address.clone()).await.map_err(cannot_listen("--bulk-listen"))?);
        }
        let shelf = Shelf { pacer: Pacer::new(config.upload_limit), ..Shelf::new(store.clone()) };
        let (wan, download) = (Pacer::new(None), Pacer::new(config.download_limit));
        let me = membership.identity.node_id();
        // Another one in each process: the numbers of leases that a deputy grants itself begin there.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let started = u64::try_from(since.as_nanos()).unwrap_or_default();
        let seed = u64::from_le_bytes(me.0[..8].try_into().expect("eight of 32 bytes")) ^ mix(started);
        let (events_sender, events) = mpsc::channel(EVENTS);
        let (uploads_sender, uploads_receiver) = mpsc::channel(EVENTS);
        info!(node = %me, name = %config.name, coordinator = %coordinator.short(), "started");
        let addresses = membership.join.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        control.connect(coordinator, addresses).await.map_err(|_| AgentError::MeshStopped)?;
        Ok(Self {
            clock: Clock::start(),
            core: Node::new(me, seed, ran).with_coordinator_grace(config.coordinator_grace),
            inputs: VecDeque::new(),
            site: membership.join.site.clone(),
            welcomed_once: false,
            strangers: BTreeSet::new(),
            control,
            control_events,
            bulk: bulk.clone(),
            bulk_streams,
            control_addresses: Vec::new(),
            bulk_bound,
            readers: Readers::new(
                store.clone(),
                OriginReader::new()?,
                bulk,
                coordinator,
                vec![wan.clone(), download.clone()],
                shelf.buffers.clone(),
            ),
            shelf,
            store,
            step_log,
            events_sender,
            events,
            uploads_sender,
            uploads_receiver,
            contents: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            fetchers: BTreeMap::new(),
            reads: BTreeMap::new(),
            reads_waiting: BTreeMap::new(),
            uploads: BTreeMap::new(),
            runs: BTreeMap::new(),
            variables: BTreeMap::new(),
            download,
            wan,
            wan_report: None,
            open_files: open_files::Suffice::default(),
            config,
            membership,
        })
    }

    /// Works until `stop`, or until something is wrong that only an operator can change.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), AgentError> {
        let ended = self.work(stop).await;
        if let Err(AgentError::Refused(_) | AgentError::Foreign { .. }) = ended {
            self.membership.forget_fresh()?;
        }
        ended
    }

    async fn work(&mut self, stop: CancellationToken) -> Result<(), AgentError> {
        loop {
            self.settle().await?;
            let wake = self.core.next_wake().map(|(at, _)| self.clock.at(at));
            tokio::select! {
                () = stop.cancelled() => {
                    info!("stopped");
                    return Ok(());
                }
                event = self.control_events.recv() => {
                    self.on_control(event.ok_or(AgentError::MeshStopped)?).await?;
                }
                stream = self.bulk_streams.recv() => {
                    let stream = stream.ok_or(AgentError::MeshStopped)?;
                    tokio::spawn(serve::connection(stream, self.shelf.clone(), self.uploads_sender.clone()));
                }
                Some(event) = self.events.recv() => self.on_event(event).await?,
                Some(event) = self.uploads_receiver.recv() => self.on_event(Event::Upload(event)).await?,
                () = sleep_until(wake) => self.handle(Input::Tick),
                () = sleep_until(self.wan_report.map(|(at, _)| at)) => self.report_wan_rate().await?,
            }
        }
    }

    /// Tells the coordinator how fast the WAN was read since it was last told, so that what is not used goes to others.
    async fn report_wan_rate(&mut self) -> Result<(), AgentError> {
        let Some((at, before)) = self.wan_report else { return Ok(()) };
        let (now, total) = (Instant::now(), self.readers.read_bytes());
        let span = (now - at + WAN_RATE_EVERY).as_secs_f64();
        let rate = (total.saturating_sub(before) as f64 / span) as u64;
        self.wan_report = Some((now + WAN_RATE_EVERY, total));
        if self.reads.is_empty() {
            return Ok(());
        }
        self.send(self.membership.join.coordinator, &Frame::ToCoordinator(ToCoordinator::WanRate { rate })).await
    }

    fn set_wan_rate(&mut self, rate: Option<u64>) {
        debug!(rate, "may read over the WAN at this rate");
        let before = self.wan.set(rate);
        let Some(rate) = rate else {
            self.wan_report = None;
            return;
        };
        // What it read before it was allowed more says nothing of what it can do with it.
        if self.wan_report.is_none() || before.is_none_or(|before| before < rate) {
            self.wan_report = Some((Instant::now() + WAN_RATE_EVERY, self.readers.read_bytes()));
        }
    }

    fn handle(&mut self, input: Input) {
        let now = self.clock.now();
        self.core.handle(input, now);
        if cfg!(debug_assertions) {
            self.core.check();
        }
    }

    /// Carries out everything that follows from what was handled.
    async fn settle(&mut self) -> Result<(), AgentError> {
        loop {
            while let Some(output) = self.core.poll() {
                self.carry_out(output).await?;
            }
            let Some(input) = self.inputs.pop_front() else { return Ok(()) };
            self.handle(input);
        }
    }

    async fn on_event(&mut self, event: Event) -> Result<(), AgentError> {
        match event {
            Event::Core(input) => {
                if let Input::ReadEnded { end, .. } = &input {
                    self.read_ended(end.content, end.lease);
                    if let Some(fault) = &end.fault {
                        warn!(content = %end.content.short(), cause = %fault.cause, "a read over the WAN failed");
                    }
                }
                self.handle(input);
            }
            Event::Opened { content, input } => {
                self.contents.insert(content.id(), content);
                self.handle(input);
            }
            Event::Upload(UploadEvent::Asked { node, request, content, block, bytes, verdict }) => {
                let upload = Upload { content, verdict: Some(verdict), stop: CancellationToken::new() };
                self.uploads.insert(request, upload);
                self.handle(Input::UploadAsked { node, request, content, block, bytes });
            }
            Event::Upload(UploadEvent::Done { node, request, content }) => {
                self.uploads.remove(&request);
                self.handle(Input::UploadDone { node, request, content });
            }
            Event::Run(RunReport::Output { run, stream, text }) => {
                self.handle(Input::StepOutput { run, stream, text });
            }
            Event::Run(RunReport::Ended { run, outcome, outputs }) => {
                self.runs.remove(&run);
                info!(deployment = %run.deployment, step = %run.step.index, ?outcome, "a step ended");
                self.handle(Input::StepWrote { run, outputs });
                self.handle(Input::StepEnded { run, outcome });
            }
            Event::PackagesDropped => self.tell_inventory().await?,
        }
        Ok(())
    }

    async fn on_control(&mut self, event: ControlEvent) -> Result<(), AgentError> {
        let coordinator = self.membership.join.coordinator;
        match event {
            ControlEvent::Listening(address) => {
                info!(%address, "listening");
                self.control_addresses.push(address);
            }
            ControlEvent::Up { node, .. } if node == coordinator => {
                let hello = ToCoordinator::Hello(self.hello());
                self.send(coordinator, &Frame::ToCoordinator(hello)).await?;
            }
            ControlEvent::Up { node, .. } if self.neighbours.contains_key(&node) => {
                self.handle(Input::NeighbourUp(node));
            }
            ControlEvent::Up { .. } => {}
            ControlEvent::Down { node, reason } if node == coordinator => {
                warn!(%reason, "the coordinator is out of reach; trying again");
                self.handle(Input::CoordinatorDown);
            }
            ControlEvent::Down { node, reason } => {
                debug!(node = %node.short(), %reason, "a neighbour is gone");
                self.handle(Input::NeighbourDown(node));
            }
            ControlEvent::DialFailed { node, address, cause } if node == coordinator => {
                self.check_stranger(address.as_ref(), &cause)?;
                let address = address.map(|address| address.to_string()).unwrap_or_default();
                warn!(address, %cause, "cannot reach the coordinator; trying again");
            }
            ControlEvent::DialFailed { node, cause, .. } => {
                debug!(node = %node.short(), %cause, "cannot reach a neighbour; trying again");
            }
            ControlEvent::Frame { from, bytes } => self.on_frame(from, &bytes)?,
        }
        Ok(())
    }

    /// Ends a node that has not got in, and at whose every address of the coordinator another answers. The mesh asks the
    /// others before it asks one again at which another answered.
    fn check_stranger(&mut self, address: Option<&Multiaddr>, cause: &DialCause) -> Result<(), AgentError> {
        match (address, cause) {
            (Some(address), DialCause::WrongNode { found }) if !self.welcomed_once => {
                if self.strangers.insert(address.clone()) {
                    return Ok(());
                }
                let (address, wanted) = (address.clone(), self.membership.join.coordinator);
                Err(AgentError::Foreign { address, wanted, found: *found })
            }
            _ => {
                self.strangers.clear();
                Ok(())
            }
        }
    }

    fn on_frame(&mut self, from: NodeId, bytes: &[u8]) -> Result<(), AgentError> {
        let coordinator = self.membership.join.coordinator;
        match codec::decode::<Frame>(bytes, CONTROL_MESSAGE_BYTES_MAX) {
            Ok(Frame::ToNode(message)) if from == coordinator => self.on_coordinator(message)?,
            Ok(Frame::ToNeighbour(message)) if self.neighbours.contains_key(&from) => {
                self.handle(Input::Neighbour { from, message });
            }
            Ok(_) => warn!(from = %from.short(), "a message that its sender may not send is ignored"),
            Err(error) => warn!(from = %from.short(), %error, "a message that cannot be read is ignored"),
        }
        Ok(())
    }

    fn on_coordinator(&mut self, message: ToNode) -> Result<(), AgentError> {
        match message {
            ToNode::Deploy { generation, signed } => {
                let coordinator = self.membership.join.coordinator;
                match signed.open(|message, signature| verify(coordinator, message, signature)) {
                    Ok(manifest) => self.handle(Input::Deploy { manifest: Box::new(manifest), generation }),
                    Err(error @ (SignedError::BadSignature | SignedError::Codec(_))) => {
                        error!(%error, "a manifest is refused");
                    }
                }
            }
            // A member that is refused once it has worked waits for its operator; one that never got in ends.
            ToNode::Refused { reason } if self.welcomed_once => warn!(reason, "the coordinator refuses this node"),
            ToNode::Refused { reason } => return Err(AgentError::Refused(reason)),
            ToNode::Variables { deployment, told } => drop(self.variables.insert(deployment, told)),
            other => {
                if let ToNode::End { deployment } = &other {
                    self.variables.remove(deployment);
                }
                self.handle(Input::Coordinator(other));
            }
        }
        Ok(())
    }

    fn hello(&self) -> Hello {
        let join = &self.membership.join;
        let texts = |addresses: Vec<Multiaddr>| addresses.iter().map(ToString::to_string).collect();
        Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            join: Some(JoinProof { token: join.token, secret: join.secret }),
            name: self.config.name.clone(),
            site: self.config.site.clone(),
            labels: self.config.labels.clone(),
            control: texts(carry::reachable(&self.control_addresses)),
            bulk: texts(carry::reachable(&carry::on_interfaces(&self.bulk_bound, &self.control_addresses))),
        }
    }

    async fn send(&self, to: NodeId, frame: &Frame) -> Result<(), AgentError> {
        match codec::encode(frame, CONTROL_MESSAGE_BYTES_MAX) {
            Ok(bytes) => match self.control.send(to, bytes.into()).await {
                Ok(()) | Err(crate::net::SendError::Size(_)) => Ok(()),
                Err(crate::net::SendError::Stopped) => Err(AgentError::MeshStopped),
            },
            Err(error) => {
                error!(%error, "a message is too large to be sent");
                Ok(())
            }
        }
    }

    async fn set_neighbours(
        &mut self,
        wanted: BTreeMap<NodeId, (Vec<Multiaddr>, Vec<Multiaddr>)>,
    ) -> Result<(), AgentError> {
        let stopped = |_| AgentError::MeshStopped;
        let coordinator = self.membership.join.coordinator;
        let allowed = wanted.keys().copied().chain([coordinator]).collect();
        self.open_files.look(wanted.len() + 1);
        self.control.allow(Allow::Only(allowed)).await.map_err(stopped)?;
        self.bulk.allow(Allow::Only(wanted.keys().copied().collect())).await.map_err(stopped)?;
        let gone: Vec<_> = self.neighbours.keys().copied().filter(|node| !wanted.contains_key(node)).collect();
        for node in gone {
            self.neighbours.remove(&node);
            self.fetchers.remove(&node);
            self.control.disconnect(node).await.map_err(stopped)?;
            self.inputs.push_back(Input::NeighbourDown(node));
        }
        for (node, (control, bulk)) in wanted {
            self.neighbours.insert(node, bulk);
            self.control.connect(node, control).await.map_err(stopped)?;
        }
        Ok(())
    }
}

fn cannot_listen(option: &'static str) -> impl FnOnce(ListenError) -> AgentError {
    move |source| AgentError::Listen { option, source }
}
