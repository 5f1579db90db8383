//! The one libp2p behaviour of both meshes: exactly one stream of the mesh's protocol per connection.
//!
//! On each connection the dialer opens the stream and the listener accepts it; both get [`ChannelEvent::Opened`]. What
//! cannot become a channel is reported with its cause and its connection closed; nothing is dropped in silence. Whom to
//! let in is decided here, before a stream exists ([`Allow`], MEMBERS-ONLY); how many channels a peer may have and what
//! runs on them, by the mesh (`control.rs`, `bulk.rs`). A connection whose channel does not open is closed by the
//! swarm's idle time-out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, ListenFailure};
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
    NetworkBehaviour, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use shoal_proto::id::NodeId;
use shoal_proto::limits::HANDSHAKES_MAX;
use thiserror::Error;

use super::identity::node_id;

/// Whose inbound connections are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allow {
    /// Everybody's: the coordinator checks join tokens on the channel and then disconnects strangers.
    Anybody,
    /// These nodes' only.
    Only(BTreeSet<NodeId>),
}

impl Allow {
    fn admits(&self, node: NodeId) -> bool {
        match self {
            Self::Anybody => true,
            Self::Only(nodes) => nodes.contains(&node),
        }
    }
}

/// Why a connection was closed before or instead of carrying a channel.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum ChannelError {
    #[error("it does not speak {protocol}: upgrade the older of the two programs")]
    Protocol { protocol: StreamProtocol },
    #[error("it closed the connection before the channel opened ({cause}): it may not know this node, or be full")]
    Closed { cause: String },
    #[error("it opened a second stream on one connection")]
    SecondStream,
}

/// Why a connection is not let in.
#[derive(Debug, Error)]
pub(super) enum Denied {
    #[error("its key is not Ed25519")]
    KeyType,
    #[error("node {0} is not a member here")]
    Stranger(NodeId),
    #[error("node {0} has too many connections already")]
    TooMany(NodeId),
    #[error("there is a channel already")]
    Connected,
    #[error("{HANDSHAKES_MAX} connections are in their handshake already")]
    Handshakes,
}

/// What happened on a connection.
#[derive(Debug)]
pub(super) enum ChannelEvent {
    /// The channel is there; to drop `stream` is to close the connection.
    Opened { node: NodeId, connection: ConnectionId, dialer: bool, remote: Multiaddr, stream: Stream },
    /// There will be none, or no longer; the connection is being closed.
    Failed { node: NodeId, connection: ConnectionId, dialer: bool, remote: Multiaddr, error: ChannelError },
}

#[derive(Clone)]
struct Connection {
    peer: PeerId,
    node: NodeId,
    dialer: bool,
    remote: Multiaddr,
}

/// The behaviour.
pub(super) struct Channels {
    protocol: StreamProtocol,
    per_node_max: usize,
    allow: Allow,
    /// Nodes that a further connection to is of no use; ours to them are given up as soon as they stand.
    pub(super) connected: BTreeSet<NodeId>,
    handshakes: BTreeSet<ConnectionId>,
    connections: BTreeMap<ConnectionId, Connection>,
    inbound_per_node: BTreeMap<NodeId, usize>,
    outputs: VecDeque<ToSwarm<ChannelEvent, std::convert::Infallible>>,
}

impl Channels {
    /// Channels of `protocol`, at most `per_node_max` inbound ones of a node; nobody is allowed in yet.
    pub(super) fn new(protocol: StreamProtocol, per_node_max: usize) -> Self {
        Self {
            protocol,
            per_node_max,
            allow: Allow::Only(BTreeSet::new()),
            connected: BTreeSet::new(),
            handshakes: BTreeSet::new(),
            connections: BTreeMap::new(),
            inbound_per_node: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Lets in whom `allow` admits from here on; inbound connections of others are closed.
    pub(super) fn allow(&mut self, allow: Allow) {
        self.allow = allow;
        for (id, connection) in &self.connections {
            if !connection.dialer && !self.allow.admits(connection.node) {
                self.outputs.push_back(close(connection.peer, *id));
            }
        }
    }

    fn admit(&self, node: NodeId) -> Result<(), Denied> {
        if !self.allow.admits(node) {
            return Err(Denied::Stranger(node));
        }
        let count = self.inbound_per_node.get(&node).copied().unwrap_or(0);
        if count < self.per_node_max { Ok(()) } else { Err(Denied::TooMany(node)) }
    }

    fn established(&mut self, event: &ConnectionEstablished<'_>) {
        self.handshakes.remove(&event.connection_id);
        let Some(node) = node_id(&event.peer_id) else { return };
        let dialer = event.endpoint.is_dialer();
        let remote = event.endpoint.get_remote_address().clone();
        self.connections.insert(event.connection_id, Connection { peer: event.peer_id, node, dialer, remote });
        if !dialer {
            *self.inbound_per_node.entry(node).or_default() += 1;
        }
    }

    fn closed(&mut self, event: &ConnectionClosed<'_>) {
        let Some(connection) = self.connections.remove(&event.connection_id) else { return };
        if connection.dialer {
            return;
        }
        if let Some(count) = self.inbound_per_node.get_mut(&connection.node) {
            *count -= 1;
            if *count == 0 {
                self.inbound_per_node.remove(&connection.node);
            }
        }
    }
}

fn close(peer: PeerId, id: ConnectionId) -> ToSwarm<ChannelEvent, std::convert::Infallible> {
    ToSwarm::CloseConnection { peer_id: peer, connection: CloseConnection::One(id) }
}

impl NetworkBehaviour for Channels {
    type ConnectionHandler = Handler;
    type ToSwarm = ChannelEvent;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        if self.handshakes.len() >= HANDSHAKES_MAX {
            return Err(ConnectionDenied::new(Denied::Handshakes));
        }
        self.handshakes.insert(connection);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let node = node_id(&peer).ok_or_else(|| ConnectionDenied::new(Denied::KeyType))?;
        self.admit(node).map_err(ConnectionDenied::new)?;
        Ok(Handler::new(self.protocol.clone(), false))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let node = node_id(&peer).ok_or_else(|| ConnectionDenied::new(Denied::KeyType))?;
        if self.connected.contains(&node) {
            return Err(ConnectionDenied::new(Denied::Connected));
        }
        Ok(Handler::new(self.protocol.clone(), true))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => self.established(&event),
            FromSwarm::ConnectionClosed(event) => self.closed(&event),
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.handshakes.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, connection: ConnectionId, outcome: THandlerOutEvent<Self>) {
        let Some(Connection { peer, node, dialer, remote }) = self.connections.get(&connection).cloned() else {
            return;
        };
        let event = match outcome {
            Ok(stream) => ChannelEvent::Opened { node, connection, dialer, remote, stream },
            Err(error) => ChannelEvent::Failed { node, connection, dialer, remote, error },
        };
        let failed = matches!(event, ChannelEvent::Failed { .. });
        self.outputs.push_back(ToSwarm::GenerateEvent(event));
        if failed {
            self.outputs.push_back(close(peer, connection));
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // Outputs come from the swarm's own calls, after which it polls, and from `allow`, whose caller polls next.
        self.outputs.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// One connection's part: asks for the stream if this side dialed, and hands up what came of it.
pub(super) struct Handler {
    protocol: StreamProtocol,
    dialer: bool,
    requested: bool,
    accepted: bool,
    /// At most the stream and one violation.
    outcomes: VecDeque<Result<Stream, ChannelError>>,
}

impl Handler {
    fn new(protocol: StreamProtocol, dialer: bool) -> Self {
        Self { protocol, dialer, requested: false, accepted: dialer, outcomes: VecDeque::new() }
    }

    fn on_inbound(&mut self, stream: Stream) {
        if !self.accepted {
            self.accepted = true;
            self.outcomes.push_back(Ok(stream));
        } else if self.outcomes.len() < 2 {
            self.outcomes.push_back(Err(ChannelError::SecondStream));
        }
    }

    fn on_dial_error(&mut self, error: StreamUpgradeError<std::convert::Infallible>) {
        let error = match error {
            StreamUpgradeError::NegotiationFailed => ChannelError::Protocol { protocol: self.protocol.clone() },
            StreamUpgradeError::Timeout => ChannelError::Closed { cause: "timed out".to_owned() },
            StreamUpgradeError::Io(error) => ChannelError::Closed { cause: error.to_string() },
            StreamUpgradeError::Apply(never) => match never {},
        };
        self.outcomes.push_back(Err(error));
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = std::convert::Infallible;
    type ToBehaviour = Result<Stream, ChannelError>;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        if let Some(outcome) = self.outcomes.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(outcome));
        }
        if self.dialer && !self.requested {
            self.requested = true;
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol: self.listen_protocol() });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. }) => {
                self.on_inbound(stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, .. }) => {
                self.outcomes.push_back(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => self.on_dial_error(error),
            _ => {}
        }
    }
}
