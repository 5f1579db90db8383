//! What the tests of this module share.

use futures::StreamExt;
use libp2p::core::Endpoint;
use libp2p::core::Transport as _;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportEvent};
use libp2p::tcp;

/// The two ends of a loopback TCP connection: dialed, accepted.
pub(in crate::net) async fn socket_pair() -> (tcp::tokio::TcpStream, tcp::tokio::TcpStream) {
    let mut listener = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true)).boxed();
    listener.listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let Some(TransportEvent::NewAddress { listen_addr, .. }) = listener.next().await else { panic!("no address") };
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let dialed = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true)).dial(listen_addr, options).unwrap();
    let accepted = async {
        loop {
            if let Some(TransportEvent::Incoming { upgrade, .. }) = listener.next().await {
                return upgrade.await.unwrap();
            }
        }
    };
    let (dialed, accepted) = tokio::join!(dialed, accepted);
    (dialed.unwrap(), accepted)
}
