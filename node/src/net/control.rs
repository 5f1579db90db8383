//! The control mesh: one channel of frames to each connected node, redialed for as long as it is wanted.
//!
//! A task owns the swarm; [`ControlMesh`] is its handle, and the receiver that [`ControlMesh::start`] returns tells what
//! happened. Between a node's [`ControlEvent::Up`] and [`ControlEvent::Down`] frames arrive complete and in order, all
//! from the same connection; frames sent before `Down` may be lost, so that both sides start over at `Up`. A node has at
//! most one channel. When two nodes dial each other at once, the one that the smaller id dialed stays; one of the two may
//! see `Up`, `Down` ([`DownReason::Replaced`]), `Up`.
//!
//! Commands are taken even while events wait to be read, so that a driver that awaits a command in its event loop never
//! deadlocks. What the frames say, and whether a stranger may stay ([`Allow::Anybody`]), is the driver's.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use libp2p::swarm::{ConnectionId, Stream, StreamProtocol, SwarmEvent};
use libp2p::{Multiaddr, Swarm};
use shoal_proto::id::NodeId;
use shoal_proto::limits::{
    CONNECT_TIMEOUT, CONTROL_CONNECTIONS_PER_NODE_MAX, CONTROL_HEARTBEAT, CONTROL_MESSAGE_BYTES_MAX,
    CONTROL_RECEIVED_BYTES_MAX, CONTROL_SILENCE_MAX, CONTROL_UNUSED_AFTER,
};
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::channel::{Allow, ChannelEvent, Channels};
use super::dial::{self, DialCause, Failure};
use super::identity::{Identity, peer_id};
use super::link::{DownReason, Link, LinkEvent, Received, link};
use super::listen::{ListenError, Listeners, Reply};
use super::redial::Redial;
use super::tls::TlsSetupError;
use super::transport;
use crate::clock::sleep_until;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/shoal/control/1");

/// Commands and events that wait; the bytes of frames among them are bounded by [`CONTROL_RECEIVED_BYTES_MAX`].
const QUEUE: usize = 256;

/// Two channels that opened within this time are two nodes that dialed each other at once (each dial takes at most one
/// [`CONNECT_TIMEOUT`] to connect and one to open); a later one means that the older is dead, which the other side knew first.
const SIMULTANEOUS: Duration = CONNECT_TIMEOUT.saturating_mul(2);

/// How the control mesh behaves.
#[derive(Clone, Copy, Debug)]
pub struct ControlConfig {
    /// A channel on which the dialer sent or heard nothing for this long carries a heartbeat, which is answered.
    pub heartbeat: Duration,
    /// A channel on which nothing arrived for this long is dead; some heartbeats of the other side.
    pub silence_max: Duration,
    /// A channel that carried no frame for this long beats [`CONTROL_UNUSED_BEATS_DIVISOR`] times less often.
    ///
    /// [`CONTROL_UNUSED_BEATS_DIVISOR`]: shoal_proto::limits::CONTROL_UNUSED_BEATS_DIVISOR
    pub unused_after: Duration,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self { heartbeat: CONTROL_HEARTBEAT, silence_max: CONTROL_SILENCE_MAX, unused_after: CONTROL_UNUSED_AFTER }
    }
}

/// What happened on the control mesh.
#[derive(Debug)]
pub enum ControlEvent {
    /// An address is listened on; one for each interface behind `0.0.0.0`.
    Listening(Multiaddr),
    /// A node's channel is open.
    Up {
        /// Which node.
        node: NodeId,
        /// Whether this side dialed.
        dialer: bool,
        /// Its address as seen from here.
        remote: Multiaddr,
    },
    /// A node's channel is closed.
    Down {
        /// Which node.
        node: NodeId,
        /// Why.
        reason: DownReason,
    },
    /// A frame arrived; its bytes count against the common budget until they are dropped.
    Frame {
        /// From whom.
        from: NodeId,
        /// At least one byte.
        bytes: Bytes,
    },
    /// An attempt to reach a wanted node failed; it is repeated until it succeeds or [`ControlMesh::disconnect`].
    DialFailed {
        /// Which node.
        node: NodeId,
        /// Where; `None` if there was no address to try.
        address: Option<Multiaddr>,
        /// Why.
        cause: DialCause,
    },
}

/// Why a frame is not sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// Empty or over the limit: a bug of the sender, found before the peer finds it.
    #[error("a frame of {0} bytes where 1 to {CONTROL_MESSAGE_BYTES_MAX} are allowed")]
    Size(usize),
    /// The mesh has stopped.
    #[error("the mesh has stopped")]
    Stopped,
}

/// The mesh's task has ended, which happens only when the process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the mesh has stopped")]
pub struct Stopped;

enum Command {
    Listen(Multiaddr, Reply),
    Connect(NodeId, Vec<Multiaddr>),
    Disconnect(NodeId),
    Send(NodeId, Bytes),
    Allow(Allow),
}

/// Handle of the control mesh; the mesh ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct ControlMesh {
    commands: mpsc::Sender<Command>,
}

impl ControlMesh {
    /// Starts the mesh in the current tokio runtime. It neither listens nor lets anybody in until told to.
    ///
    /// # Errors
    /// [`TlsSetupError`] if no certificate can be made.
    pub fn start(
        identity: &Identity,
        config: &ControlConfig,
    ) -> Result<(Self, mpsc::Receiver<ControlEvent>), TlsSetupError> {
        let channels = Channels::new(PROTOCOL, CONTROL_CONNECTIONS_PER_NODE_MAX);
        let swarm = transport::swarm(identity, channels, transport::Mesh::Control)?;
        let (commands, command_receiver) = mpsc::channel(QUEUE);
        let (events, event_receiver) = mpsc::channel(QUEUE);
        let (received, received_events) = mpsc::channel(QUEUE);
        let budget = Arc::new(Semaphore::new(CONTROL_RECEIVED_BYTES_MAX));
        let task = Task {
            local: identity.node_id(),
            config: *config,
            swarm,
            listeners: Listeners::default(),
            links: BTreeMap::new(),
            redial: Redial::default(),
            tasks: JoinSet::new(),
            received: Received { events: received, budget },
            outputs: VecDeque::new(),
        };
        tokio::spawn(task.run(command_receiver, received_events, events));
        Ok((Self { commands }, event_receiver))
    }

    /// Listens on `address`; returns the first one bound, with its port.
    ///
    /// # Errors
    /// [`ListenError`] if the address is not one of TCP or QUIC, or the system refuses.
    pub async fn listen(&self, address: Multiaddr) -> Result<Multiaddr, ListenError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Listen(address, reply)).await.map_err(|_| ListenError::Stopped)?;
        answer.await.map_err(|_| ListenError::Stopped)?
    }

    /// Keeps a channel to `node` open, dialing `addresses` (the first [`shoal_proto::limits::ADDRESSES_PER_NODE_MAX`];
    /// host names are resolved each time) as often as needed. Called again, it replaces the addresses.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn connect(&self, node: NodeId, addresses: Vec<Multiaddr>) -> Result<(), Stopped> {
        self.command(Command::Connect(node, addresses)).await
    }

    /// Sends what is queued for `node`, closes its channel and dials it no more.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn disconnect(&self, node: NodeId) -> Result<(), Stopped> {
        self.command(Command::Disconnect(node)).await
    }

    /// Queues a frame for `to`; it is dropped if there is no channel. A node that does not keep up is disconnected.
    ///
    /// # Errors
    /// [`SendError::Size`] for a frame that the other side would refuse; [`SendError::Stopped`].
    pub async fn send(&self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
        if frame.is_empty() || frame.len() > CONTROL_MESSAGE_BYTES_MAX {
            return Err(SendError::Size(frame.len()));
        }
        self.command(Command::Send(to, frame)).await.map_err(|Stopped| SendError::Stopped)
    }

    /// Lets in whom `allow` admits from here on; inbound channels of others are closed. Outbound ones are not its business.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn allow(&self, allow: Allow) -> Result<(), Stopped> {
        self.command(Command::Allow(allow)).await
    }

    async fn command(&self, command: Command) -> Result<(), Stopped> {
        self.commands.send(command).await.map_err(|_| Stopped)
    }
}

struct Channel {
    connection: ConnectionId,
    dialer: bool,
    opened: Instant,
    link: Link,
}

/// What the task spawns reports.
type Spawned = Option<(NodeId, Vec<Multiaddr>, Vec<Failure>)>;

struct Task {
    local: NodeId,
    config: ControlConfig,
    swarm: Swarm<Channels>,
    listeners: Listeners,
    /// The live channel of each node.
    links: BTreeMap<NodeId, Channel>,
    redial: Redial,
    /// Links and host name look-ups; the latter return what they found.
    tasks: JoinSet<Spawned>,
    received: Received,
    /// Events that wait for room; at most one batch, since nothing but commands is taken while there are any.
    outputs: VecDeque<ControlEvent>,
}

impl Task {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut received: mpsc::Receiver<(NodeId, ConnectionId, LinkEvent)>,
        events: mpsc::Sender<ControlEvent>,
    ) {
        loop {
            let quiet = self.outputs.is_empty();
            let redial_at = self.redial.next();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                permit = events.reserve(), if !quiet => match (permit, self.outputs.pop_front()) {
                    (Ok(permit), Some(event)) => permit.send(event),
                    _ => break,
                },
                Some((node, connection, event)) = received.recv(), if quiet => self.on_link(node, connection, event),
                event = self.swarm.select_next_some(), if quiet => self.on_swarm(event),
                Some(Ok(Some((node, addresses, failed)))) = self.tasks.join_next(), if quiet => {
                    self.on_resolved(node, addresses, failed);
                }
                () = sleep_until(redial_at), if quiet => self.dial_due(),
            }
        }
        // Dropped links send what is queued and then close; their tasks have a deadline of their own.
        self.links.clear();
        drop(received);
        while self.tasks.join_next().await.is_some() {}
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Listen(address, reply) => self.listeners.listen(&mut self.swarm, address, reply),
            Command::Connect(node, _) if node == self.local => self.report(node, vec![(None, DialCause::Own)]),
            Command::Connect(node, addresses) => {
                self.redial.want(node, addresses, self.links.contains_key(&node), Instant::now());
            }
            Command::Disconnect(node) => {
                self.redial.forget(node);
                self.down(node, DownReason::ClosedHere);
            }
            Command::Send(to, frame) => {
                let Some(channel) = self.links.get(&to) else { return };
                if channel.link.push(frame).is_err() {
                    self.down(to, DownReason::Slow);
                }
            }
            Command::Allow(allow) => self.swarm.behaviour_mut().allow(allow),
        }
    }

    fn on_link(&mut self, node: NodeId, connection: ConnectionId, event: LinkEvent) {
        let live = self.links.get(&node).is_some_and(|channel| channel.connection == connection);
        match event {
            LinkEvent::Frame(bytes) if live => self.outputs.push_back(ControlEvent::Frame { from: node, bytes }),
            // Of a channel that was replaced or closed here: its `Down` was told.
            LinkEvent::Frame(_) => {}
            LinkEvent::Ended(reason) => {
                if live {
                    self.down(node, reason);
                }
                self.swarm.close_connection(connection);
            }
        }
    }

    fn on_swarm(&mut self, event: SwarmEvent<ChannelEvent>) {
        match event {
            SwarmEvent::Behaviour(ChannelEvent::Opened { node, connection, dialer, remote, stream }) => {
                self.opened(node, connection, dialer, remote, stream);
            }
            SwarmEvent::Behaviour(ChannelEvent::Failed { node, connection, dialer, remote, error }) => {
                tracing::debug!(%node, %remote, %error, "no control channel");
                if dialer {
                    self.dial_failed(connection, vec![(Some(dial::plain(&remote)), error.into())]);
                }
            }
            SwarmEvent::ConnectionClosed { connection_id, endpoint, cause, .. } => {
                let cause = cause.map_or_else(|| "closed".to_owned(), |cause| cause.to_string());
                let remote = dial::plain(endpoint.get_remote_address());
                self.dial_failed(connection_id, vec![(Some(remote), DialCause::NotAdmitted(cause))]);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.dial_failed(connection_id, dial::failures(error));
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::info!(remote = %send_back_addr, cause = dial::refusal(&error), "control connection refused");
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                self.listeners.bound(listener_id, &address);
                self.outputs.push_back(ControlEvent::Listening(address));
            }
            SwarmEvent::ListenerClosed { listener_id, reason: Err(error), .. } => {
                tracing::error!(%error, "control listener closed");
                self.listeners.failed(listener_id, error);
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "control listener"),
            _ => {}
        }
    }

    fn opened(&mut self, node: NodeId, connection: ConnectionId, dialer: bool, remote: Multiaddr, stream: Stream) {
        let dialed_by_smaller = (self.local < node) == dialer;
        if let Some(current) = self.links.get(&node) {
            let at_once = current.dialer != dialer && current.opened.elapsed() < SIMULTANEOUS;
            if at_once && !dialed_by_smaller {
                // The other side keeps the same one.
                tracing::debug!(%node, "two nodes dialed each other: the smaller id's connection stays");
                self.swarm.close_connection(connection);
                return;
            }
            self.down(node, DownReason::Replaced);
        }
        let (link, task) = link(node, connection, dialer, stream, self.config, self.received.clone());
        self.tasks.spawn(async move {
            task.run().await;
            None
        });
        self.links.insert(node, Channel { connection, dialer, opened: Instant::now(), link });
        self.swarm.behaviour_mut().connected.insert(node);
        self.redial.up(node);
        self.outputs.push_back(ControlEvent::Up { node, dialer, remote });
    }

    fn down(&mut self, node: NodeId, reason: DownReason) {
        let Some(channel) = self.links.remove(&node) else { return };
        self.swarm.behaviour_mut().connected.remove(&node);
        self.redial.down(node, Instant::now(), channel.opened.elapsed());
        self.outputs.push_back(ControlEvent::Down { node, reason });
    }

    fn dial_due(&mut self) {
        for (node, addresses) in self.redial.due(Instant::now()) {
            if dial::has_names(&addresses) {
                self.tasks.spawn(async move {
                    let (resolved, failed) = dial::resolve(addresses).await;
                    Some((node, resolved, failed))
                });
            } else {
                self.dial(node, addresses);
            }
        }
    }

    fn on_resolved(&mut self, node: NodeId, addresses: Vec<Multiaddr>, failed: Vec<Failure>) {
        if !self.redial.is_starting(node) {
            return;
        }
        self.report(node, failed);
        if addresses.is_empty() {
            self.redial.failed(node, Instant::now());
        } else {
            self.dial(node, addresses);
        }
    }

    fn dial(&mut self, node: NodeId, addresses: Vec<Multiaddr>) {
        let Some(peer) = peer_id(node) else {
            self.report(node, vec![(None, DialCause::WrongNode { found: None })]);
            self.redial.forget(node);
            return;
        };
        let options = dial::options(peer, addresses);
        let connection = options.connection_id();
        self.redial.dialing(node, connection);
        if let Err(error) = self.swarm.dial(options) {
            self.dial_failed(connection, dial::failures(error));
        }
    }

    /// Ends the dial that `connection` is, if it is one; nothing otherwise.
    fn dial_failed(&mut self, connection: ConnectionId, failures: Vec<Failure>) {
        let Some(node) = self.redial.dialed(connection) else { return };
        for (address, cause) in &failures {
            if let (Some(address), DialCause::WrongNode { .. }) = (address, cause) {
                self.redial.avoid(node, address.clone());
            }
        }
        self.redial.failed(node, Instant::now());
        self.report(node, failures);
    }

    fn report(&mut self, node: NodeId, failures: Vec<Failure>) {
        let events = failures.into_iter().map(|(address, cause)| ControlEvent::DialFailed { node, address, cause });
        self.outputs.extend(events);
    }
}
