//! The coordinator's only loop: nodes, operators and time to the core, the core's outputs to the world.
//!
//! Decides nothing. Tasks do the I/O and report by bounded channels; all state is owned here. Records are appended and
//! flushed before any later output is carried out and before an operator is answered (ACKED-IS-KEPT); if that fails, the
//! process ends, and a restart goes on from what is durable.

mod acts;
mod carry;
mod deploy;
mod events;
mod hours;
mod limits;
mod logs;
mod operator;
mod origins;
mod plan;
mod recipes;
mod renewals;
mod rollback;
mod scripts;
mod status;
mod tokens;
mod trial;
mod way_back;
mod when;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use shoal_node::clock::{Clock, sleep_until};
use shoal_node::net::{
    Allow, BulkMesh, BulkStream, ControlConfig, ControlEvent, ControlMesh, DownReason, Identity, IdentityError,
    ListenError, Multiaddr, TlsSetupError,
};
use shoal_node::open_files;
use shoal_node::origin::{OriginError, OriginReader};
use shoal_node::runner::RunReport;
use shoal_node::store::{Store, StoreError};
use shoal_node::transfer::serve::{self, Shelf, UploadEvent, Verdict};
use shoal_proto::codec;
use shoal_proto::coordinator::{self, Coordinator, Input, Record};
use shoal_proto::id::{DeploymentId, Epoch, NodeId};
use shoal_proto::limits::{CONTROL_MESSAGE_BYTES_MAX, RECORD_BYTES_MAX};
use shoal_proto::rollout::Now;
use shoal_proto::time::WallTime;
use shoal_proto::wan::Absence;
use shoal_proto::wire::{Frame, StepRun, ToCoordinator};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::api::command::Command;
use crate::api::{self, TokenFileError};
use crate::catalog::{Catalog, CatalogError};
use crate::commit::EVENTS_TOGETHER_MAX;
use crate::config::Config;
use crate::feeds::Feeds;
use crate::journal::{Entry, Journal, JournalError, Stored};
use crate::secrets::Secrets;
use crate::trail::{self, Trail};
use deploy::Resolution;
use events::EventLog;
use hours::HoursKept;
use logs::LogBook;
use operator::Waiter;
use origins::{Origins, Told};
use recipes::RecipeKept;
use renewals::Renewal;

/// Events that wait for the loop; tasks that have more wait themselves.
const EVENTS: usize = 1024;

/// Why the coordinator does not start, or ends by itself.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A record of the journal is not readable.
    #[error("entry {sequence} of the journal in {data_dir} cannot be read: {cause}")]
    Record {
        /// Its number.
        sequence: u64,
        /// The folder.
        data_dir: PathBuf,
        /// Why.
        cause: String,
    },
    /// No key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No place for packages.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No place for recipes.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// An address that is none.
    #[error("`{0}` is no multiaddress: /ip4/0.0.0.0/tcp/7440 is wanted")]
    Address(String),
    /// A mesh cannot listen.
    #[error("{key}: {source}")]
    Listen {
        /// What of the configuration says where.
        key: &'static str,
        /// Why not.
        source: ListenError,
    },
    /// Something listens where the API should.
    #[error(
        "api_listen: cannot listen on {0}: port {port} is in use: stop the program that has it, or choose another port",
        port = .0.port()
    )]
    ApiInUse(SocketAddr),
    /// The API cannot listen.
    #[error("api_listen: cannot listen on {address}: {source}")]
    Api {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// No operator's token.
    #[error(transparent)]
    Token(#[from] TokenFileError),
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

/// What tasks report.
enum Event {
    Resolved(Box<Resolution>),
    RecipeKept(RecipeKept),
    Run(RunReport),
    Origin(Told),
    Renewal(Box<Renewal>),
}

impl From<RunReport> for Event {
    fn from(report: RunReport) -> Self {
        Self::Run(report)
    }
}

/// A coordinator that listens.
pub struct Server {
    config: Config,
    identity: Identity,
    clock: Clock,
    core: Coordinator,
    journal: Journal,
    control: ControlMesh,
    control_events: mpsc::Receiver<ControlEvent>,
    bulk: BulkMesh,
    bulk_streams: mpsc::Receiver<BulkStream>,
    control_addresses: Vec<Multiaddr>,
    bulk_addresses: Vec<Multiaddr>,
    api_address: SocketAddr,
    commands: mpsc::Receiver<Command>,
    stop_api: CancellationToken,
    feeds: Arc<Feeds>,
    catalog: Catalog,
    store: Store,
    shelf: Shelf,
    uploads_sender: mpsc::Sender<UploadEvent>,
    uploads: mpsc::Receiver<UploadEvent>,
    events_sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    runs: BTreeMap<StepRun, CancellationToken>,
    /// Runs on nodes whose last line has an end once what they wrote before is kept.
    ended: Vec<(NodeId, StepRun)>,
    event_log: EventLog,
    /// What operators did that is not durable yet, and the newest that is.
    acts: Vec<Entry>,
    secrets: Secrets,
    trail: Trail,
    logs: LogBook,
    waiters: Vec<Waiter>,
    origins: Origins,
    /// When limits and hours of sites are looked at next.
    limits_at: Instant,
    hours: HoursKept,
    /// Deployments of which something changed since waiters were looked at.
    touched: BTreeSet<DeploymentId>,
    open_files: open_files::Suffice,
}

impl Server {
    /// Opens everything, replays the journal and begins to listen.
    ///
    /// # Errors
    /// [`ServeError`] with what the operator has to change.
    pub async fn start(config: Config) -> Result<Self, ServeError> {
        let (journal, recovered) = tokio::task::block_in_place(|| Journal::open(&config.data_dir))?;
        let (records, trail) = records(&journal, &config)?;
        let identity = Identity::load_or_create(&config.data_dir.join("identity.key"))?;
        let store = tokio::task::block_in_place(|| Store::open(&config.data_dir.join("store")))?;
        let catalog = Catalog::open(&config.data_dir)?;
        let feeds = Arc::new(Feeds::new(config.feeds.clone(), OriginReader::new()?));
        let Meshes { control, control_events, bulk, bulk_streams, control_addresses, bulk_addresses } =
            Meshes::start(&identity, &config).await?;
        let (api_address, commands, stop_api) = open_api(&config).await?;
        let clock = Clock::start();
        let event_log = EventLog::of_records(&records);
        let now = now(clock);
        let shut = hours::shut_at_start(&config, &records, now.wall);
        let core_config = coordinator::Config { shut, ..core_config(&config, recovered.epoch, &bulk_addresses) };
        let core = Coordinator::new(core_config, records, now).map_err(|cause| ServeError::Record {
            sequence: recovered.entries,
            data_dir: config.data_dir.clone(),
            cause,
        })?;
        let (events_sender, events) = mpsc::channel(EVENTS);
        let (uploads_sender, uploads) = mpsc::channel(EVENTS);
        let shelf = Shelf { special: Some(carry::recipes(catalog.clone())), ..Shelf::new(store.clone()) };
        let logs = LogBook::new(config.data_dir.join("logs"));
        info!(entries = recovered.entries, epoch = recovered.epoch.0, "the journal was replayed");
        let secrets = Secrets::new(config.data_dir.join("secrets"), |bytes| identity.sign(bytes));
        let mut server = Self {
            identity,
            clock,
            core,
            journal,
            control,
            control_events,
            bulk,
            bulk_streams,
            control_addresses,
            bulk_addresses,
            api_address,
            commands,
            stop_api,
            feeds,
            catalog,
            store,
            shelf,
            uploads_sender,
            uploads,
            events_sender,
            events,
            runs: BTreeMap::new(),
            ended: Vec::new(),
            event_log,
            acts: Vec::new(),
            secrets,
            trail,
            logs,
            waiters: Vec::new(),
            origins: Origins::default(),
            limits_at: Instant::now(),
            hours: HoursKept::default(),
            touched: BTreeSet::new(),
            open_files: open_files::Suffice::default(),
            config,
        };
        server.forget_secrets();
        server.admit_members().await?;
        server.settle().await?;
        server.say_ready();
        Ok(server)
    }

    fn say_ready(&self) {
        let texts = |addresses: &[Multiaddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        info!(
            api = %format!("http://{}", self.api_address),
            control = %texts(&self.control_addresses),
            bulk = %texts(&self.bulk_addresses),
            node = %self.identity.node_id(),
            "ready"
        );
    }

    /// Where the API listens.
    pub fn api(&self) -> SocketAddr {
        self.api_address
    }

    /// Where the control mesh listens.
    pub fn control(&self) -> &[Multiaddr] {
        &self.control_addresses
    }

    /// Where the bulk mesh listens.
    pub fn bulk(&self) -> &[Multiaddr] {
        &self.bulk_addresses
    }

    /// The coordinator's key.
    pub fn node_id(&self) -> NodeId {
        self.identity.node_id()
    }

    /// Works until `stop`.
    ///
    /// # Errors
    /// [`ServeError`] if something is wrong that only an operator can change.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ServeError> {
        loop {
            if self.limits_at <= Instant::now() {
                self.keep_hours();
                self.limits_at = Instant::now() + self.keep_limits();
            }
            self.renew_due().await?;
            self.settle().await?;
            self.answer_waiters();
            let core = self.core.next_wake().map(|(at, _)| self.clock.at(at));
            let waiter = self.waiters.iter().map(|waiter| waiter.deadline).min();
            let renewal = self.origins.renew_at.map(|at| self.clock.at(at));
            let wake = core.into_iter().chain(waiter).chain(renewal).chain([self.limits_at]).min();
            tokio::select! {
                () = stop.cancelled() => {
                    self.stop_api.cancel();
                    info!("stopped");
                    return Ok(());
                }
                event = self.control_events.recv() => {
                    self.on_control_events(event.ok_or(ServeError::MeshStopped)?).await?;
                }
                stream = self.bulk_streams.recv() => {
                    let stream = stream.ok_or(ServeError::MeshStopped)?;
                    tokio::spawn(serve::connection(stream, self.shelf.clone(), self.uploads_sender.clone()));
                }
                Some(event) = self.events.recv() => self.on_event(event).await?,
                Some(event) = self.uploads.recv() => serve_everything(event),
                Some(command) = self.commands.recv() => self.on_command(command).await?,
                () = sleep_until(wake) => self.handle(Input::Tick),
            }
        }
    }

    fn now(&self) -> Now {
        now(self.clock)
    }

    fn handle(&mut self, input: Input) {
        self.keep_hours();
        let now = self.now();
        self.core.handle(input, now);
        if cfg!(debug_assertions) {
            self.core.check();
        }
    }

    /// Handles an event, and what nodes have said meanwhile, so that their records share one flush.
    async fn on_control_events(&mut self, first: ControlEvent) -> Result<(), ServeError> {
        let mut next = Some(first);
        let mut handled = 0;
        while let Some(event) = next.take() {
            // What was to be done before a connection ended is done first.
            if !matches!(event, ControlEvent::Frame { .. }) && handled > 0 {
                self.settle().await?;
            }
            self.on_control(event).await?;
            handled += 1;
            next = if handled < EVENTS_TOGETHER_MAX { self.control_events.try_recv().ok() } else { None };
        }
        Ok(())
    }

    async fn on_control(&mut self, event: ControlEvent) -> Result<(), ServeError> {
        match event {
            ControlEvent::Frame { from, bytes } => match codec::decode::<Frame>(&bytes, CONTROL_MESSAGE_BYTES_MAX) {
                Ok(Frame::ToCoordinator(mut message)) => {
                    if let ToCoordinator::LeaseEnded { end, .. } = &mut message {
                        self.note_read(from, end);
                    }
                    if let ToCoordinator::Denied { content, lease } = &message {
                        self.on_denied((from, *content, *lease)).await?;
                    }
                    if let ToCoordinator::StepEnded { run, .. } = &message {
                        self.ended.push((from, *run));
                    }
                    self.handle(Input::Node { from, message });
                }
                Ok(_) => warn!(from = %from.short(), "a message that its sender may not send is ignored"),
                Err(error) => {
                    warn!(from = %from.short(), %error, "a node that cannot be understood is disconnected");
                    self.control.disconnect(from).await.map_err(|_| ServeError::MeshStopped)?;
                }
            },
            ControlEvent::Down { node, reason } => {
                debug!(node = %node.short(), %reason, "a connection ended");
                self.drop_unsent(node);
                let absence = match reason {
                    DownReason::ClosedByPeer => Absence::Closed,
                    _ => Absence::Unheard,
                };
                self.handle(Input::NodeDown { node, absence });
            }
            ControlEvent::Listening(address) => info!(%address, "listening"),
            ControlEvent::Up { .. } | ControlEvent::DialFailed { .. } => {}
        }
        Ok(())
    }

    async fn on_event(&mut self, event: Event) -> Result<(), ServeError> {
        match event {
            Event::Resolved(resolution) => self.on_resolved(*resolution).await?,
            Event::RecipeKept(kept) => self.on_recipe_kept(kept).await?,
            Event::Run(report) => self.on_run_report(report),
            Event::Origin(told) => self.on_origin(told).await?,
            Event::Renewal(renewal) => self.on_renewal(*renewal).await?,
        }
        Ok(())
    }
}

fn core_config(config: &Config, epoch: Epoch, bulk_addresses: &[Multiaddr]) -> coordinator::Config {
    let bulk = match config.bulk_advertise.is_empty() {
        true => bulk_addresses.iter().map(ToString::to_string).collect(),
        false => config.bulk_advertise.clone(),
    };
    coordinator::Config { epoch, bulk, seed: epoch.0, shut: BTreeMap::new() }
}

/// Both meshes, listening.
struct Meshes {
    control: ControlMesh,
    control_events: mpsc::Receiver<ControlEvent>,
    bulk: BulkMesh,
    bulk_streams: mpsc::Receiver<BulkStream>,
    control_addresses: Vec<Multiaddr>,
    bulk_addresses: Vec<Multiaddr>,
}

impl Meshes {
    async fn start(identity: &Identity, config: &Config) -> Result<Self, ServeError> {
        let (control, control_events) = ControlMesh::start(identity, &ControlConfig::default())?;
        let (bulk, bulk_streams) = BulkMesh::start(identity)?;
        let mut control_addresses = Vec::new();
        for address in &config.mesh_listen {
            control_addresses.push(control.listen(multiaddr(address)?).await.map_err(cannot_listen("mesh_listen"))?);
        }
        let mut bulk_addresses = Vec::new();
        for address in &config.bulk_listen {
            bulk_addresses.push(bulk.listen(multiaddr(address)?).await.map_err(cannot_listen("bulk_listen"))?);
        }
        control.allow(Allow::Anybody).await.map_err(|_| ServeError::MeshStopped)?;
        Ok(Self { control, control_events, bulk, bulk_streams, control_addresses, bulk_addresses })
    }
}

fn cannot_listen(key: &'static str) -> impl FnOnce(ListenError) -> ServeError {
    move |source| ServeError::Listen { key, source }
}

/// Where the API listens, what it is asked, and how it is ended.
type OpenApi = (SocketAddr, mpsc::Receiver<Command>, CancellationToken);

async fn open_api(config: &Config) -> Result<OpenApi, ServeError> {
    let address = config.api_listen;
    let fail = |source: std::io::Error| match source.kind() {
        ErrorKind::AddrInUse => ServeError::ApiInUse(address),
        _ => ServeError::Api { address, source },
    };
    let listener = TcpListener::bind(config.api_listen).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    let token = api::admin_token(&config.data_dir.join("admin.token"))?;
    let (sender, commands) = mpsc::channel(api::limits::COMMANDS_QUEUED_MAX);
    let stop = CancellationToken::new();
    tokio::spawn(api::serve(listener, token, sender, stop.clone().cancelled_owned()));
    Ok((address, commands, stop))
}

/// The records of a journal, in order, and what operators did.
fn records(journal: &Journal, config: &Config) -> Result<(Vec<Record>, Trail), ServeError> {
    let (mut records, mut trail) = (Vec::new(), Trail::default());
    for stored in journal.replay() {
        let Stored { sequence, frame, entry } = stored?;
        if entry.stream == trail::STREAM {
            trail::act(frame, &entry).into_iter().for_each(|act| trail.push(act));
            continue;
        }
        let record = codec::decode(&entry.bytes, RECORD_BYTES_MAX);
        let data_dir = || config.data_dir.clone();
        records.push(record.map_err(|error| ServeError::Record {
            sequence,
            data_dir: data_dir(),
            cause: error.to_string(),
        })?);
    }
    Ok((records, trail))
}

fn now(clock: Clock) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { time: clock.now(), wall: WallTime(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)) }
}

fn multiaddr(text: &str) -> Result<Multiaddr, ServeError> {
    text.parse().map_err(|_| ServeError::Address(text.to_owned()))
}

/// Members read here only under leases, which bound how much.
fn serve_everything(event: UploadEvent) {
    if let UploadEvent::Asked { verdict, .. } = event {
        let _ = verdict.send(Verdict::Serve { stop: CancellationToken::new() });
    }
}
