//! The meshes over real loopback sockets, and what their tests share.

mod bulk;
mod control;
mod sockets;

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use libp2p::Multiaddr;
use libp2p::swarm::{Stream, StreamProtocol, SwarmEvent};
use shoal_proto::id::NodeId;

pub(in crate::net) use self::sockets::socket_pair;
use super::channel::{ChannelEvent, Channels};
use super::identity::peer_id;
use super::{Identity, dial, transport};

/// Long enough for a busy machine; reached only by a test that fails.
const DEADLINE: Duration = Duration::from_secs(30);

async fn within<T>(what: impl Debug, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what:?} did not happen in {DEADLINE:?}"))
}

fn loopback() -> Multiaddr {
    "/ip4/127.0.0.1/tcp/0".parse().unwrap()
}

/// A stream that nothing runs on: a peer whose every byte the test chooses. Its swarm is polled in the background.
async fn raw_stream(identity: &Identity, protocol: &'static str, to: NodeId, address: Multiaddr) -> Stream {
    let channels = Channels::new(StreamProtocol::new(protocol), 1);
    let mut swarm = transport::swarm(identity, channels, transport::Mesh::Control).unwrap();
    swarm.dial(dial::options(peer_id(to).unwrap(), vec![address])).unwrap();
    let (opened, stream) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut opened = Some(opened);
        loop {
            if let SwarmEvent::Behaviour(ChannelEvent::Opened { stream, .. }) = swarm.select_next_some().await {
                let _ = opened.take().unwrap().send(stream);
            }
        }
    });
    within("a raw stream", stream).await.unwrap()
}
