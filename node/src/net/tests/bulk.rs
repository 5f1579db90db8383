//! The bulk mesh and the requests on it.

use std::collections::BTreeSet;

use futures::io::{AsyncReadExt, AsyncWriteExt};
use libp2p::Multiaddr;
use shoal_proto::bulk::{Answer, BlockRequest, Encoding, Refusal, SegmentRun, Status};
use shoal_proto::id::{ContentId, NodeId};
use shoal_proto::limits::{BLOCK_REQUEST_BYTES_MAX, REQUESTS_PER_STREAM_MAX, RUNS_PER_REQUEST_MAX};
use tokio::sync::mpsc;

use super::{loopback, within};
use crate::net::{
    Allow, BlockClient, BlockError, BlockServer, BulkMesh, BulkStream, ConnectError, DialCause, Identity,
};

const MIB: usize = 1024 * 1024;

struct Member {
    id: NodeId,
    mesh: BulkMesh,
    inbound: mpsc::Receiver<BulkStream>,
    address: Multiaddr,
}

impl Member {
    async fn start() -> Self {
        let identity = Identity::ephemeral();
        let (mesh, inbound) = BulkMesh::start(&identity).unwrap();
        let address = within("listening", mesh.listen(loopback())).await.unwrap();
        Self { id: identity.node_id(), mesh, inbound, address }
    }

    async fn connect(&self, to: &Self) -> Result<BulkStream, ConnectError> {
        within("a connection", self.mesh.connect(to.id, vec![to.address.clone()])).await
    }

    async fn accept(&mut self) -> BulkStream {
        within("an inbound stream", self.inbound.recv()).await.unwrap()
    }
}

/// Two members, the second of which lets the first in.
async fn pair() -> (Member, Member) {
    let (a, b) = (Member::start().await, Member::start().await);
    b.mesh.allow(Allow::Only(BTreeSet::from([a.id]))).await.unwrap();
    (a, b)
}

/// A stream from the first to the second, as client and server.
async fn client_and_server(a: &Member, b: &mut Member) -> (BlockClient, BlockServer) {
    let client = BlockClient::new(a.connect(b).await.unwrap());
    (client, BlockServer::new(b.accept().await))
}

fn request(id: u32) -> BlockRequest {
    let runs = vec![SegmentRun { first: id, count: 1 }];
    BlockRequest { id, content: ContentId([5; 32]), runs, encoding: Encoding::Raw }
}

/// A payload that differs for each id and position.
fn payload(id: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&id.to_be_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_mib_arrive_whole_with_eight_requests_open() {
    let (a, mut b) = pair().await;
    let (mut client, mut server) = client_and_server(&a, &mut b).await;
    assert_eq!((client.node(), server.node()), (b.id, a.id));
    let serving = tokio::spawn(async move {
        while let Some(request) = server.requests.next().await.unwrap() {
            server.answers.payload(request.id, &payload(request.id, MIB)).await.unwrap();
        }
    });
    let mut buffer = vec![0; MIB];
    let (mut asked, mut answered) = (0, 0);
    while answered < 64 {
        while asked < 64 && client.open_requests() < 8 {
            client.request(&request(asked)).unwrap();
            asked += 1;
        }
        let answer = within("an answer", client.next_answer()).await.unwrap();
        assert_eq!(answer, Answer { id: answered, status: Status::Ok { bytes: 1 << 20 } });
        within("its payload", client.read_payload(&mut buffer)).await.unwrap();
        assert!(buffer == payload(answer.id, MIB), "payload {answered}");
        answered += 1;
    }
    drop(client);
    within("the end of the server", serving).await.unwrap();
}

#[tokio::test]
async fn strangers_are_refused() {
    let (_a, mut b) = pair().await;
    let stranger = Member::start().await;
    let error = stranger.connect(&b).await.unwrap_err();
    assert!(error.to_string().contains("may not know this node"), "{error}");
    assert!(b.inbound.try_recv().is_err());
}

#[tokio::test]
async fn who_leaves_the_roster_is_cut_off_at_once() {
    let (a, mut b) = pair().await;
    let mut asking = a.connect(&b).await.unwrap();
    let mut answering = b.accept().await;
    b.mesh.allow(Allow::Only(BTreeSet::new())).await.unwrap();
    let mut byte = [0];
    assert!(within("the server's stream fails", answering.read(&mut byte)).await.is_err());
    drop(answering);
    let end = within("the client's stream ends", asking.read(&mut byte)).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn failed_connections_say_why() {
    let (a, b) = pair().await;
    let other = Identity::ephemeral().node_id();
    let error = a.mesh.connect(other, vec![b.address.clone()]).await.unwrap_err();
    let ConnectError::Dial { failures, .. } = &error else { panic!("{error}") };
    assert!(matches!(&failures[..], [(Some(_), DialCause::WrongNode { found: Some(id) })] if *id == b.id), "{error}");
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let closed: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let error = a.mesh.connect(b.id, vec![closed.clone()]).await.unwrap_err();
    assert_eq!(error, ConnectError::Dial { node: b.id, failures: vec![(Some(closed), DialCause::Refused)] });
    let error = a.mesh.connect(b.id, vec![]).await.unwrap_err();
    assert_eq!(error, ConnectError::Dial { node: b.id, failures: vec![(None, DialCause::NoAddress)] });
}

#[tokio::test]
async fn a_wrong_address_does_not_hide_a_right_one() {
    let (a, b) = pair().await;
    let other = Member::start().await;
    let addresses = vec![other.address.clone(), b.address.clone()];
    assert_eq!(a.mesh.connect(b.id, addresses).await.unwrap().node(), b.id);
}

#[tokio::test]
async fn several_streams_to_one_node_are_independent() {
    let (a, mut b) = pair().await;
    let (mut first, mut second) = (a.connect(&b).await.unwrap(), a.connect(&b).await.unwrap());
    for (stream, byte) in [(&mut first, 1), (&mut second, 2)] {
        stream.write_all(&[byte]).await.unwrap();
        stream.flush().await.unwrap();
    }
    let mut read = Vec::new();
    for _ in 0..2 {
        let mut stream = b.accept().await;
        let mut byte = [0];
        within("a byte", stream.read_exact(&mut byte)).await.unwrap();
        read.push((stream, byte[0]));
    }
    read.sort_by_key(|(_, byte)| *byte);
    drop(first);
    let [(of_first, 1), (of_second, 2)] = &mut read[..] else { panic!("{read:?}") };
    let end = within("the end of the first", of_first.read(&mut [0])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    of_second.write_all(&[3]).await.unwrap();
    of_second.flush().await.unwrap();
    let mut byte = [0];
    within("a byte on the second", second.read_exact(&mut byte)).await.unwrap();
    assert_eq!(byte, [3]);
}

#[tokio::test]
async fn refusals_come_in_any_order_and_chunks_make_one_payload() {
    let (a, mut b) = pair().await;
    let (mut client, mut server) = client_and_server(&a, &mut b).await;
    (0..3).for_each(|id| client.request(&request(id)).unwrap());
    assert!(matches!(client.request(&request(1)), Err(BlockError::Misuse(_))), "an id that is open");
    let serving = async {
        for id in 0..3 {
            assert_eq!(server.requests.next().await.unwrap(), Some(request(id)));
        }
        server.answers.refuse(2, Refusal::Busy).await.unwrap();
        server.answers.begin_payload(0, 5, false).await.unwrap();
        server.answers.payload_chunk(b"he").await.unwrap();
        server.answers.payload_chunk(b"llo").await.unwrap();
        server.answers.end_payload().await.unwrap();
        server.answers.not_found(1).await.unwrap();
    };
    let asking = async {
        let refused = Answer { id: 2, status: Status::Refused(Refusal::Busy) };
        assert_eq!(client.next_answer().await.unwrap(), refused);
        assert_eq!(client.next_answer().await.unwrap(), Answer { id: 0, status: Status::Ok { bytes: 5 } });
        assert!(matches!(client.next_answer().await, Err(BlockError::Misuse(_))), "the payload comes first");
        let mut buffer = [0; 5];
        client.read_payload(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"hello");
        assert_eq!(client.next_answer().await.unwrap(), Answer { id: 1, status: Status::NotFound });
    };
    within("the exchange", async { tokio::join!(serving, asking) }).await;
    drop(client);
    assert!(within("the end", server.requests.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn an_answer_in_parts_keeps_its_request_open_and_lets_others_between() {
    let (a, mut b) = pair().await;
    let (mut client, mut server) = client_and_server(&a, &mut b).await;
    (0..2).for_each(|id| client.request(&request(id)).unwrap());
    for (id, chunk, more) in [(0, b"he", true), (1, b"no", false), (0, b"yo", false)] {
        server.answers.begin_payload(id, chunk.len(), more).await.unwrap();
        server.answers.payload_chunk(chunk).await.unwrap();
        server.answers.end_payload().await.unwrap();
    }
    let mut seen = Vec::new();
    for open_after in [2, 1, 0] {
        let answer = within("an answer", client.next_answer()).await.unwrap();
        let mut buffer = [0; 2];
        within("its payload", client.read_payload(&mut buffer)).await.unwrap();
        assert_eq!(client.open_requests(), open_after);
        seen.push((answer.id, answer.status, buffer));
    }
    let (part, whole) = (Status::Part { bytes: 2 }, Status::Ok { bytes: 2 });
    assert_eq!(seen, [(0, part, *b"he"), (1, whole, *b"no"), (0, whole, *b"yo")]);
}

#[tokio::test]
async fn the_largest_requests_and_payloads_at_once_do_not_block_each_other() {
    let (a, mut b) = pair().await;
    let (mut client, mut server) = client_and_server(&a, &mut b).await;
    let most = u32::try_from(RUNS_PER_REQUEST_MAX).unwrap();
    let runs: Vec<_> = (0..most).map(|i| SegmentRun { first: 1_000_000 + 200_000 * i, count: 70_000 }).collect();
    let serving = tokio::spawn(async move {
        let bytes = payload(0, MIB);
        while let Some(request) = server.requests.next().await.unwrap() {
            server.answers.payload(request.id, &bytes).await.unwrap();
        }
    });
    let count = u32::try_from(REQUESTS_PER_STREAM_MAX).unwrap();
    for id in 0..count {
        client.request(&BlockRequest { runs: runs.clone(), ..request(id) }).unwrap();
    }
    assert!(matches!(client.request(&request(count)), Err(BlockError::Misuse(_))), "one more than allowed");
    let mut buffer = vec![0; MIB];
    for _ in 0..count {
        within("an answer", client.next_answer()).await.unwrap();
        within("its payload", client.read_payload(&mut buffer)).await.unwrap();
    }
    drop(client);
    within("the end of the server", serving).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_named() {
    let (a, mut b) = pair().await;
    let mut stream = a.connect(&b).await.unwrap();
    let mut server = BlockServer::new(b.accept().await);
    let len = u32::try_from(BLOCK_REQUEST_BYTES_MAX).unwrap() + 1;
    stream.write_all(&len.to_be_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let error = within("an error", server.requests.next()).await.unwrap_err();
    assert!(matches!(error, BlockError::Oversized { .. }), "{error}");

    let (mut client, mut server) = client_and_server(&a, &mut b).await;
    client.request(&request(1)).unwrap();
    server.answers.not_found(2).await.unwrap();
    let error = within("an error", client.next_answer()).await.unwrap_err();
    assert!(matches!(error, BlockError::Unasked(2)), "{error}");
}
