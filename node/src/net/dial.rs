//! Where a dial goes and why it failed: host names become IP addresses, and libp2p's nested errors one cause that a
//! person can act on.

use std::error::Error as StdError;
use std::io;
use std::net::IpAddr;

use libp2p::core::transport::TransportError;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{DialError, ListenError};
use libp2p::{Multiaddr, PeerId};
use shoal_proto::id::NodeId;
use shoal_proto::limits::{ADDRESSES_PER_NODE_MAX, CONNECT_TIMEOUT};
use thiserror::Error;

use super::channel::{ChannelError, Denied};
use super::identity::node_id;

/// Why a node could not be reached at an address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DialCause {
    /// Another key answered.
    #[error("another node answers there ({}): check the address, or whether the node got a fresh identity file", known(.found))]
    WrongNode {
        /// Who; `None` if its key is not one of Shoal's.
        found: Option<NodeId>,
    },
    /// This process answered.
    #[error("this program itself answers there: check the address")]
    Own,
    /// Nothing listens there.
    #[error("connection refused: is it running, and is this its port?")]
    Refused,
    /// No answer, or one that did not come to an end.
    #[error("timed out after {} s: is the address right, and does a firewall drop packets?", CONNECT_TIMEOUT.as_secs())]
    TimedOut,
    /// No route.
    #[error("no route: {0}")]
    Unreachable(String),
    /// The host name is unknown.
    #[error("cannot resolve the host name: {0}")]
    Name(String),
    /// Nothing to dial.
    #[error("no address to dial: none is known, or this program itself listens there")]
    NoAddress,
    /// Not an address that this mesh can dial.
    #[error("not an address that can be dialed here")]
    Address,
    /// The other side hung up before the channel opened: most often, it does not accept this node.
    #[error("it closed the connection before the channel opened ({0}): it may not know this node, or be full")]
    NotAdmitted(String),
    /// The other side speaks another version.
    #[error("it does not speak {0}: upgrade the older of the two programs")]
    Protocol(String),
    /// Something else answered, or the connection broke in the handshake.
    #[error("the handshake failed ({0}): is this a Shoal port of the right mesh?")]
    Handshake(String),
}

fn known(found: &Option<NodeId>) -> String {
    found.map_or_else(|| "not a Shoal node".to_owned(), |node| node.to_string())
}

impl From<ChannelError> for DialCause {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Protocol { protocol } => Self::Protocol(protocol.to_string()),
            ChannelError::Closed { cause } => Self::NotAdmitted(cause),
            ChannelError::SecondStream => Self::Handshake(error.to_string()),
        }
    }
}

/// How both meshes dial: all addresses at once, and the connection counts whatever others there are.
pub(super) fn options(peer: PeerId, addresses: Vec<Multiaddr>) -> DialOpts {
    // Each from a port of its own: two nodes that dial each other from their listening ports would meet as one TCP
    // connection with two dialers.
    DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(addresses).allocate_new_port().build()
}

/// Why an inbound connection came to nothing.
pub(super) fn refusal(error: &ListenError) -> String {
    match error {
        ListenError::Denied { cause } => cause.source().map_or_else(|| cause.to_string(), ToString::to_string),
        ListenError::Transport(TransportError::Other(error)) => innermost(error),
        other => other.to_string(),
    }
}

/// `address` as the caller gave it: libp2p adds the peer that was asked for.
pub(super) fn plain(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}

/// An address with what went wrong there.
pub(super) type Failure = (Option<Multiaddr>, DialCause);

/// What went wrong at each address; nothing if the dial only lost against a connection that stands.
pub(super) fn failures(error: DialError) -> Vec<Failure> {
    match error {
        DialError::WrongPeerId { obtained, address } => {
            vec![(Some(plain(&address)), DialCause::WrongNode { found: node_id(&obtained) })]
        }
        DialError::LocalPeerId { address } => vec![(Some(plain(&address)), DialCause::Own)],
        DialError::NoAddresses => vec![(None, DialCause::NoAddress)],
        DialError::Transport(errors) => {
            errors.into_iter().map(|(address, error)| (Some(plain(&address)), transport_cause(&error))).collect()
        }
        DialError::Denied { cause } if matches!(cause.downcast_ref(), Some(Denied::Connected)) => Vec::new(),
        DialError::Denied { cause } => vec![(None, DialCause::Handshake(cause.to_string()))],
        DialError::Aborted | DialError::DialPeerConditionFalse(_) => Vec::new(),
    }
}

fn transport_cause(error: &TransportError<io::Error>) -> DialCause {
    match error {
        TransportError::MultiaddrNotSupported(_) => DialCause::Address,
        TransportError::Other(error) => find_cause(error).unwrap_or_else(|| DialCause::Handshake(innermost(error))),
    }
}

/// Looks through libp2p's wrappers for the error that the system or the timer gave.
fn find_cause(error: &(dyn StdError + 'static)) -> Option<DialCause> {
    // libp2p's time-out is generic over the error that it wraps, so that only its text tells it.
    if error.to_string() == "Timeout has been reached"
        || error.to_string().contains("Handshake with the remote timed out")
    {
        return Some(DialCause::TimedOut);
    }
    if let Some(io) = error.downcast_ref::<io::Error>() {
        match io.kind() {
            io::ErrorKind::ConnectionRefused => return Some(DialCause::Refused),
            io::ErrorKind::TimedOut => return Some(DialCause::TimedOut),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => {
                return Some(DialCause::Unreachable(io.to_string()));
            }
            _ => {}
        }
        if let Some(inner) = io.get_ref() {
            return find_cause(inner);
        }
    }
    error.source().and_then(find_cause)
}

fn innermost(error: &io::Error) -> String {
    let mut innermost: &dyn StdError = error;
    loop {
        let wrapped = innermost.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match wrapped.map(|inner| inner as &dyn StdError).or_else(|| innermost.source()) {
            Some(inner) => innermost = inner,
            None => return innermost.to_string(),
        }
    }
}

/// Whether some address holds a host name.
pub(super) fn has_names(addresses: &[Multiaddr]) -> bool {
    addresses.iter().any(|address| name_in(address).is_some())
}

fn name_in(address: &Multiaddr) -> Option<(usize, String)> {
    address.iter().enumerate().find_map(|(position, part)| match part {
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => Some((position, name.into_owned())),
        _ => None,
    })
}

/// `addresses` with each host name replaced by its IP addresses (at most [`ADDRESSES_PER_NODE_MAX`] in all), and what
/// could not be resolved.
pub(super) async fn resolve(addresses: Vec<Multiaddr>) -> (Vec<Multiaddr>, Vec<Failure>) {
    let (mut resolved, mut failed) = (Vec::new(), Vec::new());
    for address in addresses {
        let Some((position, name)) = name_in(&address) else {
            resolved.push(address);
            continue;
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, tokio::net::lookup_host((name.as_str(), 0))).await {
            Ok(Ok(found)) => resolved.extend(found.filter_map(|socket| with_ip(&address, position, socket.ip()))),
            Ok(Err(error)) => failed.push((Some(address), DialCause::Name(error.to_string()))),
            Err(_) => failed.push((Some(address), DialCause::Name("timed out".to_owned()))),
        }
    }
    resolved.truncate(ADDRESSES_PER_NODE_MAX);
    (resolved, failed)
}

/// `address` with the name at `position` replaced; `None` if it asks for the other IP version.
fn with_ip(address: &Multiaddr, position: usize, ip: IpAddr) -> Option<Multiaddr> {
    address.replace(position, |name| match (name, ip) {
        (Protocol::Dns4(_), IpAddr::V6(_)) | (Protocol::Dns6(_), IpAddr::V4(_)) => None,
        (_, ip) => Some(Protocol::from(ip)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn host_names_become_addresses_and_unknown_ones_are_named() {
        let local: Multiaddr = "/dns4/localhost/tcp/7440".parse().unwrap();
        let plain: Multiaddr = "/ip4/192.0.2.1/udp/1/quic-v1".parse().unwrap();
        let unknown: Multiaddr = "/dns/name.invalid/tcp/1".parse().unwrap();
        let (resolved, failed) = resolve(vec![local, plain.clone(), unknown.clone()]).await;
        assert_eq!(resolved, ["/ip4/127.0.0.1/tcp/7440".parse().unwrap(), plain]);
        assert!(matches!(&failed[..], [(Some(address), DialCause::Name(_))] if *address == unknown), "{failed:?}");
    }
}
