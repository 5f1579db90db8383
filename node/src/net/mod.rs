//! The meshes that join nodes and coordinator, and the only place that knows libp2p.
//!
//! | type | what it is |
//! | --- | --- |
//! | [`Identity`] | this process's key; its public half is its `NodeId` |
//! | [`ControlMesh`] | frames to and from connected nodes, kept connected: hello, leases, orders, reports |
//! | [`BulkMesh`] | dedicated byte streams, for payload |
//! | [`BlockClient`], [`BlockServer`] | requests for segments and their payload, over such a stream |
//!
//! Both meshes are one libp2p swarm each over the same identity: `transport.rs` puts it together from `tls.rs` and
//! `single.rs`, `channel.rs` is its behaviour. What is said over them (`wire.rs`, `bulk.rs` of proto), to whom and why is
//! left to the drivers. Every byte is encrypted between proven keys, and nobody is let in who was not allowed
//! (MEMBERS-ONLY).

mod blocks;
mod bulk;
mod channel;
mod control;
mod dial;
mod identity;
mod link;
mod listen;
mod pulse;
mod redial;
mod single;
#[cfg(test)]
mod tests;
mod tls;
mod transport;

pub use blocks::{Answers, BlockClient, BlockError, BlockServer, Requests};
pub use bulk::{BulkMesh, BulkStream, ConnectError};
pub use channel::Allow;
pub use control::{ControlConfig, ControlEvent, ControlMesh, SendError, Stopped};
pub use dial::DialCause;
pub use identity::{Identity, IdentityError, verify};
pub use libp2p::Multiaddr;
pub use link::DownReason;
pub use listen::ListenError;
pub use tls::TlsSetupError;
