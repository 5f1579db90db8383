//! How a mesh's swarm is put together: TCP, our TLS and one stream per connection; QUIC beside it for the control mesh.
//!
//! Both meshes run over this, and neither needs a muxer: liveness is the channel's heartbeat (`link.rs`), versions are
//! told in the first message.

use std::io;

use libp2p::core::Transport as _;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::swarm::Config;
use libp2p::{PeerId, Swarm, quic, tcp};
use shoal_proto::limits::CONNECT_TIMEOUT;
use thiserror::Error;

use super::channel::Channels;
use super::identity::Identity;
use super::single::SingleUpgrade;
use super::tls::{TlsSetupError, TlsUpgrade};

/// The system's error as a source: libp2p's `Either` hides an error that it holds and shows only that one's source, where
/// `dial.rs` looks for the cause.
#[derive(Debug, Error)]
#[error("{0}")]
struct SocketError(#[source] io::Error);

/// What a swarm is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mesh {
    /// Messages: QUIC beside TCP.
    Control,
    /// Payload: TCP alone.
    Bulk,
}

impl Mesh {
    /// Bytes that are read from a socket at a time. rustls reads 4 KiB, five system calls for a full record; idle control
    /// connections are many, and their records short.
    fn read_bytes(self) -> usize {
        match self {
            Self::Control => 4 * 1024,
            Self::Bulk => 64 * 1024,
        }
    }

    /// Bytes that a connection takes before they are in its socket: what is written to it at a time. Of a large payload,
    /// more mean fewer system calls, and fewer times that the other side is woken.
    fn write_bytes(self) -> usize {
        match self {
            Self::Control => 64 * 1024,
            Self::Bulk => 256 * 1024,
        }
    }
}

/// A swarm over TCP, and QUIC for the control mesh. Must be called inside a tokio runtime.
pub(super) fn swarm(identity: &Identity, channels: Channels, mesh: Mesh) -> Result<Swarm<Channels>, TlsSetupError> {
    let keypair = identity.keypair();
    let tcp = over_tcp(TlsUpgrade::new(&keypair, mesh.read_bytes(), mesh.write_bytes())?);
    let transport = if mesh == Mesh::Control { or_quic(tcp, quic::Config::new(&keypair)) } else { tcp };
    // A connection without a stream: its channel has not opened yet, or is gone.
    let config = Config::with_tokio_executor().with_idle_connection_timeout(CONNECT_TIMEOUT);
    Ok(Swarm::new(transport, channels, keypair.public().to_peer_id(), config))
}

fn over_tcp(tls: TlsUpgrade) -> Boxed<(PeerId, StreamMuxerBox)> {
    tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .map_err(SocketError)
        .upgrade(Version::V1Lazy)
        .authenticate(tls)
        .multiplex(SingleUpgrade)
        .timeout(CONNECT_TIMEOUT)
        .boxed()
}

fn or_quic(tcp: Boxed<(PeerId, StreamMuxerBox)>, config: quic::Config) -> Boxed<(PeerId, StreamMuxerBox)> {
    quic::tokio::Transport::new(config)
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
        .or_transport(tcp)
        .map(|either, _| either.into_inner())
        .boxed()
}
