//! Listening: the caller waits for the address that a listener got, since only that tells the port.
//!
//! libp2p lets processes share a TCP port, which the system then deals connections to in turn. That is never wanted here:
//! each port is looked at first.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, Swarm};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt};
use thiserror::Error;
use tokio::sync::oneshot;

use super::channel::Channels;

/// Why an address cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Not an address of a transport of this mesh.
    #[error("cannot listen on {0}: not an address of this mesh, such as /ip4/0.0.0.0/tcp/7440")]
    Address(Multiaddr),
    /// Something listens there, of this process or another.
    #[error("cannot listen on {address}: port {port} is in use: stop the program that has it, or choose another port")]
    InUse {
        /// Where.
        address: Multiaddr,
        /// Which port.
        port: u16,
    },
    /// The system refused.
    #[error("cannot listen on {address}: {source}")]
    Io {
        /// Where.
        address: Multiaddr,
        /// Why.
        source: io::Error,
    },
    /// The mesh has stopped.
    #[error("the mesh has stopped")]
    Stopped,
}

/// Who waits for a listener's first address.
pub(super) type Reply = oneshot::Sender<Result<Multiaddr, ListenError>>;

/// Listeners that have no address yet.
#[derive(Default)]
pub(super) struct Listeners(HashMap<ListenerId, (Multiaddr, Reply)>);

impl Listeners {
    pub(super) fn listen(&mut self, swarm: &mut Swarm<Channels>, address: Multiaddr, reply: Reply) {
        match listen(swarm, &address) {
            Ok(id) => drop(self.0.insert(id, (address, reply))),
            // Who no longer waits does not want to know.
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    pub(super) fn bound(&mut self, id: ListenerId, address: &Multiaddr) {
        if let Some((_, reply)) = self.0.remove(&id) {
            let _ = reply.send(Ok(address.clone()));
        }
    }

    pub(super) fn failed(&mut self, id: ListenerId, source: io::Error) {
        if let Some((address, reply)) = self.0.remove(&id) {
            let _ = reply.send(Err(ListenError::Io { address, source }));
        }
    }
}

fn listen(swarm: &mut Swarm<Channels>, address: &Multiaddr) -> Result<ListenerId, ListenError> {
    if let Some(port) = in_use(address) {
        return Err(ListenError::InUse { address: address.clone(), port });
    }
    swarm.listen_on(address.clone()).map_err(|error| match error {
        TransportError::MultiaddrNotSupported(address) => ListenError::Address(address),
        TransportError::Other(source) => ListenError::Io { address: address.clone(), source },
    })
}

/// The port of `address`, if something has it. What else may be wrong with an address is left to who listens.
fn in_use(address: &Multiaddr) -> Option<u16> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    let (port, kind) = match parts.next()? {
        Protocol::Tcp(port) => (port, SockType::Stream),
        Protocol::Udp(port) => (port, SockType::Datagram),
        _ => return None,
    };
    (bind(SocketAddr::new(ip, port), kind) == Err(Errno::EADDRINUSE)).then_some(port)
}

/// Binds a socket as libp2p does, but that it shares its port with nobody, and lets it go.
fn bind(address: SocketAddr, kind: SockType) -> Result<(), Errno> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let socket = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    if kind == SockType::Stream {
        // Past connections that the system still remembers are no reason to wait.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))
}
