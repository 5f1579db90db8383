//! The control mesh, as its drivers see it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use libp2p::Multiaddr;
use shoal_proto::id::NodeId;
use shoal_proto::limits::{CONTROL_MESSAGE_BYTES_MAX, CONTROL_QUEUE_BYTES_MAX, CONTROL_UNUSED_BEATS_DIVISOR};
use tokio::sync::mpsc;

use super::{loopback, raw_stream, within};
use crate::net::{
    Allow, ControlConfig, ControlEvent, ControlMesh, DialCause, DownReason, Identity, ListenError, SendError,
};

struct Member {
    identity: Identity,
    mesh: ControlMesh,
    events: mpsc::Receiver<ControlEvent>,
    address: Multiaddr,
}

impl Member {
    async fn start() -> Self {
        Self::start_with(Identity::ephemeral(), loopback(), &ControlConfig::default()).await
    }

    async fn start_with(identity: Identity, address: Multiaddr, config: &ControlConfig) -> Self {
        let (mesh, events) = ControlMesh::start(&identity, config).unwrap();
        mesh.allow(Allow::Anybody).await.unwrap();
        let address = within("listening", mesh.listen(address)).await.unwrap();
        Self { identity, mesh, events, address }
    }

    fn id(&self) -> NodeId {
        self.identity.node_id()
    }

    async fn connect(&self, to: &Self) {
        self.mesh.connect(to.id(), vec![to.address.clone()]).await.unwrap();
    }

    /// The next event but `Listening`.
    async fn next(&mut self) -> ControlEvent {
        loop {
            match within("an event", self.events.recv()).await.expect("the mesh runs") {
                ControlEvent::Listening(_) => {}
                event => return event,
            }
        }
    }

    async fn up(&mut self) -> NodeId {
        match self.next().await {
            ControlEvent::Up { node, .. } => node,
            other => panic!("up expected: {other:?}"),
        }
    }

    async fn down(&mut self) -> DownReason {
        match self.next().await {
            ControlEvent::Down { reason, .. } => reason,
            other => panic!("down expected: {other:?}"),
        }
    }

    async fn frame(&mut self) -> (NodeId, Bytes) {
        match self.next().await {
            ControlEvent::Frame { from, bytes } => (from, bytes),
            other => panic!("a frame expected: {other:?}"),
        }
    }

    async fn dial_failed(&mut self) -> DialCause {
        match self.next().await {
            ControlEvent::DialFailed { cause, .. } => cause,
            other => panic!("a failed dial expected: {other:?}"),
        }
    }
}

async fn join(a: &mut Member, b: &mut Member) {
    a.connect(b).await;
    assert_eq!((a.up().await, b.up().await), (b.id(), a.id()));
}

async fn exchange_frames(listen: &str) {
    let mut a = Member::start().await;
    let config = ControlConfig::default();
    let mut b = Member::start_with(Identity::ephemeral(), listen.parse().unwrap(), &config).await;
    join(&mut a, &mut b).await;
    let largest = Bytes::from(vec![7; CONTROL_MESSAGE_BYTES_MAX]);
    for frame in [Bytes::from_static(b"one"), largest.clone(), Bytes::from_static(b"three")] {
        a.mesh.send(b.id(), frame.clone()).await.unwrap();
        assert!(b.frame().await == (a.id(), frame.clone()));
        b.mesh.send(a.id(), frame.clone()).await.unwrap();
        assert!(a.frame().await == (b.id(), frame));
    }
    let too_large = Bytes::from(vec![7; CONTROL_MESSAGE_BYTES_MAX + 1]);
    assert_eq!(a.mesh.send(b.id(), too_large).await, Err(SendError::Size(CONTROL_MESSAGE_BYTES_MAX + 1)));
    assert_eq!(a.mesh.send(b.id(), Bytes::new()).await, Err(SendError::Size(0)), "a heartbeat is not a frame");
}

#[tokio::test]
async fn frames_go_both_ways_over_tcp() {
    exchange_frames("/ip4/127.0.0.1/tcp/0").await;
}

#[tokio::test]
async fn frames_go_both_ways_over_quic() {
    exchange_frames("/ip4/127.0.0.1/udp/0/quic-v1").await;
}

#[tokio::test]
async fn a_port_is_not_shared_with_another_mesh() {
    for address in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let first =
            Member::start_with(Identity::ephemeral(), address.parse().unwrap(), &ControlConfig::default()).await;
        let (mesh, _events) = ControlMesh::start(&Identity::ephemeral(), &ControlConfig::default()).unwrap();
        let error = within("listening", mesh.listen(first.address.clone())).await.unwrap_err();
        assert!(matches!(error, ListenError::InUse { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_port_is_listened_on_in_both_versions_of_ip() {
    let all: Multiaddr = "/ip4/0.0.0.0/tcp/0".parse().unwrap();
    let first = Member::start_with(Identity::ephemeral(), all, &ControlConfig::default()).await;
    let port = first.address.to_string().rsplit('/').next().map(str::to_owned).unwrap();
    match within("listening", first.mesh.listen(format!("/ip6/::/tcp/{port}").parse().unwrap())).await {
        Ok(_) => {}
        Err(error) => assert!(!matches!(error, ListenError::InUse { .. }), "{error}"),
    }
}

#[tokio::test]
async fn a_restarted_peer_is_reconnected() {
    let mut a = Member::start().await;
    let b = Member::start().await;
    a.connect(&b).await;
    a.up().await;
    let Member { identity, mesh, events, address } = b;
    drop((mesh, events));
    assert_eq!(a.down().await, DownReason::ClosedByPeer);
    // The port is free as soon as the old mesh's task has ended.
    let (mesh, events) = ControlMesh::start(&identity, &ControlConfig::default()).unwrap();
    mesh.allow(Allow::Anybody).await.unwrap();
    let listening = async { while mesh.listen(address.clone()).await.is_err() {} };
    within("listening again", listening).await;
    let mut b = Member { identity, mesh, events, address };
    while !matches!(a.next().await, ControlEvent::Up { .. }) {}
    b.up().await;
    b.mesh.send(a.id(), Bytes::from_static(b"back")).await.unwrap();
    assert_eq!(a.frame().await.1, "back");
}

#[tokio::test]
async fn disconnect_sends_what_is_queued_and_dials_no_more() {
    let mut a = Member::start().await;
    let mut b = Member::start().await;
    join(&mut a, &mut b).await;
    for i in 0..100u32 {
        a.mesh.send(b.id(), Bytes::copy_from_slice(&i.to_be_bytes())).await.unwrap();
    }
    a.mesh.disconnect(b.id()).await.unwrap();
    assert_eq!(a.down().await, DownReason::ClosedHere);
    for i in 0..100u32 {
        assert_eq!(b.frame().await.1, i.to_be_bytes().as_slice());
    }
    assert_eq!(b.down().await, DownReason::ClosedByPeer);
    let again = tokio::time::timeout(Duration::from_secs(1), a.next()).await;
    assert!(again.is_err(), "{again:?}");
}

#[tokio::test]
async fn failed_dials_say_why() {
    let mut a = Member::start().await;
    let b = Member::start().await;
    let other = Identity::ephemeral().node_id();
    a.mesh.connect(other, vec![b.address.clone()]).await.unwrap();
    assert_eq!(a.dial_failed().await, DialCause::WrongNode { found: Some(b.id()) });
    a.mesh.disconnect(other).await.unwrap();

    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let node = Identity::ephemeral().node_id();
    a.mesh.connect(node, vec![format!("/ip4/127.0.0.1/tcp/{closed}").parse().unwrap()]).await.unwrap();
    assert_eq!(a.dial_failed().await, DialCause::Refused);
    a.mesh.disconnect(node).await.unwrap();

    let node = Identity::ephemeral().node_id();
    a.mesh.connect(node, vec!["/ip4/127.0.0.1/udp/9".parse().unwrap()]).await.unwrap();
    assert_eq!(a.dial_failed().await, DialCause::Address);
    a.mesh.disconnect(node).await.unwrap();

    for (node, cause) in [(a.id(), DialCause::Own), (Identity::ephemeral().node_id(), DialCause::NoAddress)] {
        a.mesh.connect(node, vec![a.address.clone()]).await.unwrap();
        assert_eq!(a.dial_failed().await, cause);
        a.mesh.disconnect(node).await.unwrap();
    }
}

#[tokio::test]
async fn a_port_that_answers_with_something_else_or_nothing_is_named() {
    let mut a = Member::start().await;
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{}", server.local_addr().unwrap().port()).parse().unwrap();
    let node = Identity::ephemeral().node_id();
    a.mesh.connect(node, vec![address]).await.unwrap();
    let (mut first, _) = within("a dial", server.accept()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut first, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    drop(first);
    let cause = a.dial_failed().await;
    assert!(matches!(cause, DialCause::Handshake(_)), "{cause:?}");
    let (_second, _) = within("another dial", server.accept()).await.unwrap();
    assert_eq!(a.dial_failed().await, DialCause::TimedOut);
}

#[tokio::test]
async fn a_wrong_address_does_not_hide_a_right_one() {
    let mut a = Member::start().await;
    let (b, c) = (Member::start().await, Member::start().await);
    a.mesh.connect(b.id(), vec![c.address.clone(), b.address.clone()]).await.unwrap();
    loop {
        match a.next().await {
            ControlEvent::Up { node, .. } => {
                assert_eq!(node, b.id());
                return;
            }
            ControlEvent::DialFailed { cause, .. } => assert_eq!(cause, DialCause::WrongNode { found: Some(c.id()) }),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn another_protocol_version_is_named() {
    let mut a = Member::start().await;
    let later = Identity::ephemeral();
    // A listener of a later version, which refuses this version's stream.
    let channels = super::Channels::new(super::StreamProtocol::new("/shoal/control/9"), 1);
    let mut swarm = super::transport::swarm(&later, channels, super::transport::Mesh::Bulk).unwrap();
    swarm.behaviour_mut().allow(Allow::Anybody);
    swarm.listen_on(loopback()).unwrap();
    let (address, bound) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut address = Some(address);
        loop {
            let event = futures::StreamExt::select_next_some(&mut swarm).await;
            if let super::SwarmEvent::NewListenAddr { address: bound, .. } = event {
                let _ = address.take().unwrap().send(bound);
            }
        }
    });
    a.mesh.connect(later.node_id(), vec![bound.await.unwrap()]).await.unwrap();
    assert_eq!(a.dial_failed().await, DialCause::Protocol("/shoal/control/1".to_owned()));
}

#[tokio::test]
async fn an_oversized_frame_closes_the_channel() {
    let mut a = Member::start().await;
    let mut stream = raw_stream(&Identity::ephemeral(), "/shoal/control/1", a.id(), a.address.clone()).await;
    a.up().await;
    let len = CONTROL_MESSAGE_BYTES_MAX + 1;
    stream.write_all(&u32::try_from(len).unwrap().to_be_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(a.down().await, DownReason::Oversized { len });
    let mut rest = Vec::new();
    let _ = within("the close", stream.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_cut_off_and_holds_up_nobody() {
    let mut a = Member::start().await;
    let mut b = Member::start().await;
    join(&mut a, &mut b).await;
    let slow = Identity::ephemeral();
    let _stream = raw_stream(&slow, "/shoal/control/1", a.id(), a.address.clone()).await;
    a.up().await;
    let frame = Bytes::from(vec![1; CONTROL_MESSAGE_BYTES_MAX]);
    for _ in 0..4 * CONTROL_QUEUE_BYTES_MAX / frame.len() {
        a.mesh.send(slow.node_id(), frame.clone()).await.unwrap();
    }
    a.mesh.send(b.id(), Bytes::from_static(b"still here")).await.unwrap();
    assert_eq!(a.down().await, DownReason::Slow);
    assert_eq!(b.frame().await.1, "still here");
}

#[tokio::test]
async fn a_silent_peer_is_dead_and_a_beating_one_is_not() {
    let heartbeat = Duration::from_millis(50);
    let config = ControlConfig { heartbeat, silence_max: 10 * heartbeat, unused_after: 5 * heartbeat };
    let mut a = Member::start_with(Identity::ephemeral(), loopback(), &config).await;
    let mut b = Member::start_with(Identity::ephemeral(), loopback(), &config).await;
    join(&mut a, &mut b).await;
    let silent = Identity::ephemeral();
    let _stream = raw_stream(&silent, "/shoal/control/1", a.id(), a.address.clone()).await;
    assert_eq!(a.up().await, silent.node_id());
    match a.next().await {
        ControlEvent::Down { node, reason } => {
            let silence_max = config.silence_max * CONTROL_UNUSED_BEATS_DIVISOR;
            assert_eq!((node, reason), (silent.node_id(), DownReason::Silent(silence_max)));
        }
        other => panic!("{other:?}"),
    }
    // The pair said nothing for longer than that, and beats as channels do that are not used.
    b.mesh.send(a.id(), Bytes::from_static(b"alive")).await.unwrap();
    assert_eq!(a.frame().await.1, "alive");
}

#[tokio::test]
async fn a_heartbeat_is_answered_at_once_and_an_answer_is_not() {
    // Far longer than the test may take: whatever comes, comes as an answer.
    let heartbeat = Duration::from_secs(3600);
    let config = ControlConfig { heartbeat, silence_max: 3 * heartbeat, unused_after: heartbeat };
    let mut a = Member::start_with(Identity::ephemeral(), loopback(), &config).await;
    let dialer = Identity::ephemeral();
    let mut stream = raw_stream(&dialer, "/shoal/control/1", a.id(), a.address.clone()).await;
    a.up().await;
    for _ in 0..3 {
        stream.write_all(&[0; 4]).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = [1; 4];
        within("an answer", stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer, [0; 4]);
    }
    a.mesh.send(dialer.node_id(), Bytes::from_static(b"next")).await.unwrap();
    let mut next = [0; 8];
    within("a frame", stream.read_exact(&mut next)).await.unwrap();
    assert_eq!(&next, b"\0\0\0\x04next", "each heartbeat was answered once");
}

#[tokio::test]
async fn a_dialer_that_hears_nothing_beats_although_it_sends_frames() {
    let heartbeat = Duration::from_millis(100);
    let config = ControlConfig { heartbeat, silence_max: 10 * heartbeat, unused_after: 100 * heartbeat };
    let (dialer, mut b) = (
        Member::start_with(Identity::ephemeral(), loopback(), &config).await,
        Member::start_with(Identity::ephemeral(), loopback(), &ControlConfig { heartbeat: 100 * heartbeat, ..config })
            .await,
    );
    dialer.connect(&b).await;
    b.up().await;
    // For longer than a silence: what the dialer hears can only be answers.
    let began = tokio::time::Instant::now();
    while began.elapsed() < 2 * config.silence_max {
        tokio::time::sleep(heartbeat / 4).await;
        dialer.mesh.send(b.id(), Bytes::from_static(b"frame")).await.unwrap();
        assert_eq!(b.frame().await.1, "frame");
    }
}

#[tokio::test]
async fn strangers_are_refused_and_former_members_cut_off() {
    let mut a = Member::start().await;
    let mut b = Member::start().await;
    b.mesh.allow(Allow::Only(BTreeSet::new())).await.unwrap();
    a.connect(&b).await;
    let cause = a.dial_failed().await;
    assert!(cause.to_string().contains("may not know this node"), "{cause:?}");
    b.mesh.allow(Allow::Only(BTreeSet::from([a.id()]))).await.unwrap();
    while !matches!(a.next().await, ControlEvent::Up { .. }) {}
    b.up().await;
    b.mesh.allow(Allow::Only(BTreeSet::new())).await.unwrap();
    assert_eq!(b.down().await, DownReason::ClosedHere);
    assert_eq!(a.down().await, DownReason::ClosedByPeer);
}

#[tokio::test]
async fn a_peer_that_reconnects_replaces_its_stale_channel() {
    let mut a = Member::start().await;
    let peer = Identity::ephemeral();
    let _stale = raw_stream(&peer, "/shoal/control/1", a.id(), a.address.clone()).await;
    a.up().await;
    let mut fresh = raw_stream(&peer, "/shoal/control/1", a.id(), a.address.clone()).await;
    assert_eq!(a.down().await, DownReason::Replaced);
    assert_eq!(a.up().await, peer.node_id());
    fresh.write_all(b"\0\0\0\x05fresh").await.unwrap();
    fresh.flush().await.unwrap();
    assert_eq!(a.frame().await.1, "fresh");
}

/// What one side of a pair knows: whether it dialed the channel that is up, and whether that carried the other's word.
#[derive(Clone, Copy, Default, PartialEq)]
struct Side {
    dialer: Option<bool>,
    heard: bool,
}

async fn settle(member: &Member, side: &mut Side, event: ControlEvent) {
    match event {
        ControlEvent::Up { node, dialer, .. } => {
            *side = Side { dialer: Some(dialer), heard: false };
            member.mesh.send(node, Bytes::from_static(b"hello")).await.unwrap();
        }
        ControlEvent::Down { reason, .. } => {
            // The other side may have closed the one that it does not keep before this one saw the one that it keeps.
            assert!(matches!(reason, DownReason::Replaced | DownReason::ClosedByPeer), "{reason:?}");
            *side = Side::default();
        }
        ControlEvent::Frame { .. } => side.heard = true,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nodes_that_dial_each_other_at_once_settle_on_one_channel() {
    for _ in 0..20 {
        let (mut a, mut b) = (Member::start().await, Member::start().await);
        tokio::join!(a.connect(&b), b.connect(&a));
        let (mut of_a, mut of_b) = (Side::default(), Side::default());
        while !(of_a.heard && of_b.heard && of_a.dialer != of_b.dialer) {
            tokio::select! {
                event = a.next() => settle(&a, &mut of_a, event).await,
                event = b.next() => settle(&b, &mut of_b, event).await,
            }
        }
    }
}

#[tokio::test]
async fn thirty_peers_talk_to_one_coordinator() {
    let mut coordinator = Member::start().await;
    let mut peers = Vec::new();
    for _ in 0..30 {
        let (mesh, events) = ControlMesh::start(&Identity::ephemeral(), &ControlConfig::default()).unwrap();
        mesh.connect(coordinator.id(), vec![coordinator.address.clone()]).await.unwrap();
        peers.push((mesh, events));
    }
    let hub = tokio::spawn({
        let mesh = coordinator.mesh.clone();
        async move {
            for _ in 0..2 * 30 {
                match coordinator.next().await {
                    ControlEvent::Up { node, .. } => mesh.send(node, Bytes::from_static(b"welcome")).await.unwrap(),
                    ControlEvent::Frame { bytes, .. } => assert_eq!(bytes, "thanks"),
                    other => panic!("{other:?}"),
                }
            }
            coordinator
        }
    });
    let hub_id = async |events: &mut mpsc::Receiver<ControlEvent>| {
        loop {
            if let ControlEvent::Frame { from, bytes } = within("a welcome", events.recv()).await.unwrap() {
                assert_eq!(bytes, "welcome");
                return from;
            }
        }
    };
    for (mesh, events) in &mut peers {
        let id = hub_id(events).await;
        mesh.send(id, Bytes::from_static(b"thanks")).await.unwrap();
    }
    within("thirty thanks", hub).await.unwrap();
}
