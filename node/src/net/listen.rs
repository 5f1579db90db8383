//! Listening: the caller waits for the address that a listener got, since only that tells the port.

use std::collections::HashMap;
use std::io;

use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::{Multiaddr, Swarm};
use thiserror::Error;
use tokio::sync::oneshot;

use super::channel::Channels;

/// Why an address cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Not an address of a transport of this mesh.
    #[error("cannot listen on {0}: not an address of this mesh, such as /ip4/0.0.0.0/tcp/7440")]
    Address(Multiaddr),
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
        let error = match swarm.listen_on(address.clone()) {
            Ok(id) => {
                self.0.insert(id, (address, reply));
                return;
            }
            Err(TransportError::MultiaddrNotSupported(address)) => ListenError::Address(address),
            Err(TransportError::Other(source)) => ListenError::Io { address, source },
        };
        // Who no longer waits does not want to know.
        let _ = reply.send(Err(error));
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
