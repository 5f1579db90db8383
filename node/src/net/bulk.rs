//! The bulk mesh: dedicated, encrypted byte streams between nodes, each a TCP connection of its own.
//!
//! A stream is one-directional in purpose: the dialer asks, the listener answers (`blocks.rs`). Its bytes go from the TLS
//! record to the reader without a muxer between. Dropping a [`BulkStream`] closes its connection; a connection whose
//! node is no longer allowed fails at once. How many streams to keep and when to close them is the driver's.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::{AsyncRead, AsyncWrite, StreamExt};
use libp2p::swarm::{ConnectionId, Stream, StreamProtocol, SwarmEvent};
use libp2p::{Multiaddr, Swarm};
use shoal_proto::id::NodeId;
use shoal_proto::limits::{ADDRESSES_PER_NODE_MAX, BULK_CONNECTIONS_PER_NODE_MAX, CONNECT_TIMEOUT};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::channel::{Allow, ChannelEvent, Channels};
use super::control::Stopped;
use super::dial::{self, DialCause, Failure};
use super::identity::{Identity, peer_id};
use super::listen::{ListenError, Listeners, Reply};
use super::tls::TlsSetupError;
use super::transport;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/shoal/block/1");

/// Commands and inbound streams that wait to be taken.
const QUEUE: usize = 64;

/// Why there is no stream.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// Every address failed.
    #[error("cannot connect to {node}: {}", listed(.failures))]
    Dial {
        /// Which node.
        node: NodeId,
        /// Each address with its cause; no address if none was tried.
        failures: Vec<(Option<Multiaddr>, DialCause)>,
    },
    /// The mesh has stopped.
    #[error("the mesh has stopped")]
    Stopped,
}

fn listed(failures: &[Failure]) -> String {
    let one = |(address, cause): &Failure| match address {
        Some(address) => format!("{address}: {cause}"),
        None => cause.to_string(),
    };
    failures.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// A byte stream with a node at its other end, whose key was checked.
#[derive(Debug)]
pub struct BulkStream {
    node: NodeId,
    stream: Stream,
}

impl BulkStream {
    /// Who is at the other end.
    pub fn node(&self) -> NodeId {
        self.node
    }
}

impl AsyncRead for BulkStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for BulkStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

fn is_wrong_node((at, cause): &Failure, address: &Multiaddr) -> bool {
    matches!(cause, DialCause::WrongNode { .. }) && at.as_ref() == Some(address)
}

type Opened = oneshot::Sender<Result<BulkStream, Vec<Failure>>>;

enum Command {
    Listen(Multiaddr, Reply),
    Connect(NodeId, Vec<Multiaddr>, Opened),
    Allow(Allow),
}

/// Handle of the bulk mesh; the mesh ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct BulkMesh {
    commands: mpsc::Sender<Command>,
}

impl BulkMesh {
    /// Starts the mesh in the current tokio runtime; the receiver gives the streams that other nodes opened. It neither
    /// listens nor lets anybody in until told to. While inbound streams wait to be taken, no further one is accepted.
    ///
    /// # Errors
    /// [`TlsSetupError`] if no certificate can be made.
    pub fn start(identity: &Identity) -> Result<(Self, mpsc::Receiver<BulkStream>), TlsSetupError> {
        let channels = Channels::new(PROTOCOL, BULK_CONNECTIONS_PER_NODE_MAX);
        let swarm = transport::swarm(identity, channels, transport::Mesh::Bulk)?;
        let (commands, command_receiver) = mpsc::channel(QUEUE);
        let (inbound, inbound_receiver) = mpsc::channel(QUEUE);
        let task = Task { swarm, listeners: Listeners::default(), dialing: BTreeMap::new(), accepted: VecDeque::new() };
        tokio::spawn(task.run(command_receiver, inbound));
        Ok((Self { commands }, inbound_receiver))
    }

    /// Listens on `address`; returns the first one bound, with its port.
    ///
    /// # Errors
    /// [`ListenError`] if the address is not a TCP one, or the system refuses.
    pub async fn listen(&self, address: Multiaddr) -> Result<Multiaddr, ListenError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Listen(address, reply)).await.map_err(|_| ListenError::Stopped)?;
        answer.await.map_err(|_| ListenError::Stopped)?
    }

    /// A fresh stream to `node` at one of `addresses` (the first [`ADDRESSES_PER_NODE_MAX`]), within
    /// [`CONNECT_TIMEOUT`]. Cancelling it gives the connection up.
    ///
    /// # Errors
    /// [`ConnectError`] with the cause at each address.
    pub async fn connect(&self, node: NodeId, mut addresses: Vec<Multiaddr>) -> Result<BulkStream, ConnectError> {
        addresses.truncate(ADDRESSES_PER_NODE_MAX);
        let failed = |failures| ConnectError::Dial { node, failures };
        match timeout(CONNECT_TIMEOUT, self.connect_to_any(node, addresses)).await {
            Ok(Ok(outcome)) => outcome.map_err(failed),
            Ok(Err(Stopped)) => Err(ConnectError::Stopped),
            Err(_) => Err(failed(vec![(None, DialCause::TimedOut)])),
        }
    }

    async fn connect_to_any(
        &self,
        node: NodeId,
        addresses: Vec<Multiaddr>,
    ) -> Result<Result<BulkStream, Vec<Failure>>, Stopped> {
        let (mut addresses, mut failures) = dial::resolve(addresses).await;
        if addresses.is_empty() && !failures.is_empty() {
            return Ok(Err(failures));
        }
        loop {
            let (reply, opened) = oneshot::channel();
            let connect = Command::Connect(node, addresses.clone(), reply);
            self.commands.send(connect).await.map_err(|_| Stopped)?;
            let failed = match opened.await.map_err(|_| Stopped)? {
                Ok(stream) => return Ok(Ok(stream)),
                Err(failed) => failed,
            };
            // libp2p lets one address at which another node answers fail the whole dial: go on without it.
            let before = addresses.len();
            addresses.retain(|address| !failed.iter().any(|failure| is_wrong_node(failure, address)));
            failures.extend(failed);
            if addresses.is_empty() || addresses.len() == before {
                return Ok(Err(failures));
            }
        }
    }

    /// Lets in whom `allow` admits from here on; inbound streams of others are closed.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn allow(&self, allow: Allow) -> Result<(), Stopped> {
        self.commands.send(Command::Allow(allow)).await.map_err(|_| Stopped)
    }
}

struct Task {
    swarm: Swarm<Channels>,
    listeners: Listeners,
    dialing: BTreeMap<ConnectionId, Opened>,
    /// Inbound streams that wait for room; at most one, since the swarm is not polled while there is any.
    accepted: VecDeque<BulkStream>,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>, inbound: mpsc::Sender<BulkStream>) {
        loop {
            let quiet = self.accepted.is_empty();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => return,
                },
                permit = inbound.reserve(), if !quiet => match (permit, self.accepted.pop_front()) {
                    (Ok(permit), Some(stream)) => permit.send(stream),
                    // Who does not take inbound streams serves nobody.
                    _ => self.accepted.clear(),
                },
                event = self.swarm.select_next_some(), if quiet => self.on_swarm(event),
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Listen(address, reply) => self.listeners.listen(&mut self.swarm, address, reply),
            Command::Connect(node, addresses, opened) => self.connect(node, addresses, opened),
            Command::Allow(allow) => self.swarm.behaviour_mut().allow(allow),
        }
    }

    fn connect(&mut self, node: NodeId, addresses: Vec<Multiaddr>, opened: Opened) {
        let Some(peer) = peer_id(node) else {
            let _ = opened.send(Err(vec![(None, DialCause::WrongNode { found: None })]));
            return;
        };
        let options = dial::options(peer, addresses);
        let connection = options.connection_id();
        self.dialing.insert(connection, opened);
        if let Err(error) = self.swarm.dial(options) {
            self.failed(connection, dial::failures(error));
        }
    }

    fn failed(&mut self, connection: ConnectionId, failures: Vec<Failure>) {
        if let Some(opened) = self.dialing.remove(&connection) {
            // Who gave up waiting does not want to know.
            let _ = opened.send(Err(failures));
        }
    }

    fn on_swarm(&mut self, event: SwarmEvent<ChannelEvent>) {
        match event {
            SwarmEvent::Behaviour(ChannelEvent::Opened { node, connection, stream, .. }) => {
                let stream = BulkStream { node, stream };
                match self.dialing.remove(&connection) {
                    // Dropped, and so closed, if nobody waits any more.
                    Some(opened) => drop(opened.send(Ok(stream))),
                    None => self.accepted.push_back(stream),
                }
            }
            SwarmEvent::Behaviour(ChannelEvent::Failed { node, connection, remote, error, .. }) => {
                tracing::debug!(%node, %remote, %error, "no bulk stream");
                self.failed(connection, vec![(Some(dial::plain(&remote)), error.into())]);
            }
            SwarmEvent::ConnectionClosed { connection_id, endpoint, cause, .. } => {
                let cause = cause.map_or_else(|| "closed".to_owned(), |cause| cause.to_string());
                let remote = dial::plain(endpoint.get_remote_address());
                self.failed(connection_id, vec![(Some(remote), DialCause::NotAdmitted(cause))]);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                self.failed(connection_id, dial::failures(error));
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::info!(remote = %send_back_addr, cause = dial::refusal(&error), "bulk connection refused");
            }
            SwarmEvent::NewListenAddr { listener_id, address } => {
                tracing::info!(%address, "bulk mesh listens");
                self.listeners.bound(listener_id, &address);
            }
            SwarmEvent::ListenerClosed { listener_id, reason: Err(error), .. } => {
                tracing::error!(%error, "bulk listener closed");
                self.listeners.failed(listener_id, error);
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "bulk listener"),
            _ => {}
        }
    }
}
