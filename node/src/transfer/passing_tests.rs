//! A block that still arrives at the node that serves it, over real loopback connections.

use std::collections::BTreeSet;
use std::time::Duration;

use shoal_proto::exchange::{Arrived, FetchError};
use shoal_proto::id::{BlockIndex, NodeId};
use shoal_proto::node::Input;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::buffers::Buffers;
use super::fetch::{Fetcher, Job};
use super::pacer::Pacer;
use super::serve::{self, Shelf, UploadEvent, Verdict};
use super::tests::package;
use crate::net::{Allow, BulkMesh, Identity};
use crate::store::{Content, Store};

/// Long enough for a busy machine; reached only by a test that fails.
const DEADLINE: Duration = Duration::from_secs(30);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("{what} did not happen in {DEADLINE:?}"))
}

/// A node that has one segment of a block, and one that asked it for all of the block.
struct Pair {
    bytes: Vec<u8>,
    server: Content,
    asker: Content,
    block: BlockIndex,
    /// Ends the waiting for what the server lacks.
    stop: CancellationToken,
    told: mpsc::Receiver<Input>,
    server_id: NodeId,
    fetcher: Fetcher,
    _folders: [tempfile::TempDir; 2],
}

impl Pair {
    async fn new() -> Self {
        let (bytes, recipe) = package();
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let stores = folders.each_ref().map(|folder| Store::open(folder.path()).unwrap());
        let [server, asker] = stores.each_ref().map(|store| store.begin_package(&recipe).unwrap().content);
        let block = server.layout().blocks().find(|block| server.layout().block_segments(*block).len() > 1).unwrap();

        let [one, two] = [Identity::ephemeral(), Identity::ephemeral()];
        let (serving, mut inbound) = BulkMesh::start(&one).unwrap();
        let address = serving.listen("/ip4/127.0.0.1/tcp/0".parse().unwrap()).await.unwrap();
        serving.allow(Allow::Only(BTreeSet::from([two.node_id()]))).await.unwrap();
        let (asking, _) = BulkMesh::start(&two).unwrap();
        let (uploads, mut asked) = mpsc::channel(8);
        let shelf = Shelf::new(stores[0].clone());
        tokio::spawn(async move {
            let stream = inbound.recv().await.unwrap();
            // The mesh has to live as long as its connections.
            let _serving = serving;
            serve::connection(stream, shelf, uploads).await;
        });
        let (events, told) = mpsc::channel(8);
        let (pacer, buffers) = (Pacer::new(None), Buffers::default());
        let fetcher = Fetcher::start(one.node_id(), vec![address], asking, pacer, buffers, events);
        let mut pair = Self {
            bytes,
            server,
            asker: asker.clone(),
            block,
            stop: CancellationToken::new(),
            told,
            server_id: one.node_id(),
            fetcher,
            _folders: folders,
        };
        pair.server_gets(0);
        pair.fetcher.fetch(Job { content: asker, block }).unwrap();
        let Some(UploadEvent::Asked { verdict, .. }) = within("a question", asked.recv()).await else {
            panic!("nothing is over before it began")
        };
        verdict.send(Verdict::Serve { stop: pair.stop.clone() }).unwrap();
        tokio::spawn(async move { while asked.recv().await.is_some() {} });
        pair
    }

    /// The server gets the segment at this place of the block.
    fn server_gets(&mut self, place: usize) {
        let index = self.server.layout().block_segments(self.block).nth(place).unwrap();
        let segment = self.server.layout().segments()[index];
        let bytes = &self.bytes[segment.offset as usize..segment.end() as usize];
        self.server.write_segments(&[index], bytes).unwrap();
    }

    /// That the first segment came, and its length.
    async fn first_part_comes(&mut self) -> u64 {
        let first = self.server.layout().block_segments(self.block).start;
        let len = u64::from(self.server.layout().segments()[first].len);
        let of = self.server.layout().block_bytes(self.block);
        match within("a part", self.told.recv()).await {
            Some(Input::Arrives { block, arrived: Arrived { from, bytes, of: all, .. }, .. }) => {
                assert_eq!((block, from, bytes, all), (self.block, Some(self.server_id), len, of));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(u64::from(self.asker.missing_of(self.block)), of - len, "it is verified and stored");
        len
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parts_that_are_there_come_at_once_and_the_others_when_they_are() {
    let mut pair = Pair::new().await;
    pair.first_part_comes().await;
    for place in 1..pair.server.layout().block_segments(pair.block).len() {
        pair.server_gets(place);
    }
    let whole = loop {
        match within("the rest", pair.told.recv()).await {
            Some(Input::Arrives { .. }) => {}
            other => break other,
        }
    };
    let all = pair.server.layout().block_bytes(pair.block);
    assert!(matches!(whole, Some(Input::Fetched { bytes, .. }) if bytes == all), "{whole:?}");
    assert_eq!(pair.asker.missing_of(pair.block), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_told_when_the_rest_does_not_come_and_keeps_what_came() {
    let mut pair = Pair::new().await;
    let len = pair.first_part_comes().await;
    pair.stop.cancel();
    let gone = within("the end", pair.told.recv()).await;
    assert!(matches!(gone, Some(Input::FetchFailed { why: FetchError::Gone, .. })), "{gone:?}");
    let lacking = pair.server.layout().block_bytes(pair.block) - len;
    assert_eq!(u64::from(pair.asker.missing_of(pair.block)), lacking);
}
