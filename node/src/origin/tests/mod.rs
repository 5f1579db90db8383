//! The reader against a server that misbehaves in every way that origins are known to.

#![expect(clippy::single_range_in_vec_init, reason = "a read takes a list of ranges, of which one may be the only one")]

mod credit;
mod paced;
mod renewals;
mod server;

use std::time::Duration;

use shoal_proto::limits::ORIGIN_REQUESTS_PER_HOST_MAX;
use shoal_proto::origin::Change;

use self::server::{Reply, Seen, Server, Then};
use super::*;

/// A reader that loses patience within the time of a test.
fn reader() -> OriginReader {
    let patience = Patience {
        stall: Duration::from_millis(300),
        backoff: Duration::from_millis(4),
        retry_after_max: Duration::from_secs(2),
        renewal: Duration::from_millis(300),
    };
    // No CA certificates are loaded: the servers here speak plain HTTP.
    let plain = client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    OriginReader { clients: Clients::with(plain), places: Places::default(), patience, pacers: Vec::new() }
}

fn bare(url: &str) -> Target<'_> {
    Target { url, headers: &[], ca_pem: None }
}

/// Bytes in which every position can be told from its neighbours.
fn package(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).take(len).collect()
}

fn origin(server: &Server, package: &[u8]) -> HttpOrigin {
    HttpOrigin {
        url: server.url("/web.zip?signature=s3cret"),
        headers: vec![("Authorization".into(), "Bearer t0ken".into()), ("X-Api-Key".into(), "k3y".into())],
        size: package.len() as u64,
        etag: Some("\"v1\"".into()),
        last_modified: None,
        ca_pem: None,
    }
}

/// What a read gave: its result, the bytes that came (checked for order and overlap), and bytes off the WAN.
struct Got {
    result: Result<(), OriginError>,
    bytes: Vec<Option<u8>>,
    wan: u64,
}

impl Got {
    fn holds(&self, package: &[u8], ranges: &[Range<u64>]) {
        for (at, byte) in self.bytes.iter().enumerate() {
            let wanted = ranges.iter().any(|range| range.contains(&(at as u64)));
            assert_eq!(*byte, wanted.then_some(package[at]), "byte {at}");
        }
    }

    fn error(self) -> OriginError {
        self.result.expect_err("the read must fail")
    }
}

async fn read(origin: &HttpOrigin, ranges: &[Range<u64>], mode: Mode) -> Got {
    read_with(&reader(), origin, ranges, mode).await
}

async fn read_with(reader: &OriginReader, origin: &HttpOrigin, ranges: &[Range<u64>], mode: Mode) -> Got {
    let (sink, mut chunks) = mpsc::channel(4);
    let wan = WanBytes::default();
    let reading = async {
        let result = reader.read(origin, ranges, mode, &wan, &sink).await;
        drop(sink);
        result
    };
    let mut bytes = vec![None; origin.size as usize];
    let collecting = async {
        while let Some(chunk) = chunks.recv().await {
            assert!(!chunk.bytes.is_empty());
            for (at, byte) in (chunk.offset as usize..).zip(chunk.bytes) {
                assert_eq!(bytes[at].replace(byte), None, "byte {at} came twice");
            }
        }
    };
    let both = async { tokio::join!(reading, collecting) };
    let (result, ()) = tokio::time::timeout(Duration::from_secs(20), both).await.expect("a read must end");
    Got { result, bytes, wan: wan.total() }
}

/// A server that answers as a good one does, but for what `twist` makes of it.
async fn twisted(
    package: &[u8],
    twist: impl Fn(&Seen, Reply) -> Reply + Send + Sync + 'static,
) -> (Server, HttpOrigin) {
    let held = package.to_vec();
    let server = Server::start(move |seen| twist(seen, Reply::good(&held, seen))).await;
    let origin = origin(&server, package);
    (server, origin)
}

#[tokio::test]
async fn ranges_come_as_asked_with_gaps_counted() {
    let package = package(900_000);
    let (server, origin) = twisted(&package, |_, reply| reply).await;
    // The first two are 1,000 bytes apart, which is read through; the others are not.
    let ranges = [0..100_000, 101_000..200_000, 400_000..600_000, 899_999..900_000];
    let got = read(&origin, &ranges, Mode::Ranges).await;
    assert_eq!(got.result, Ok(()));
    got.holds(&package, &ranges);
    assert_eq!(got.wan, 400_001);
    let asked: Vec<_> = server.requests().iter().filter_map(Seen::range).collect();
    assert_eq!(disjoint(&asked), [0..200_000, 400_000..600_000, 899_999..900_000]);
    for seen in server.requests() {
        assert_eq!(seen.headers["if-range"], "\"v1\"");
        assert_eq!(seen.headers["accept-encoding"], "identity");
        assert_eq!((&*seen.headers["authorization"], &*seen.headers["x-api-key"]), ("Bearer t0ken", "k3y"));
    }
}

#[tokio::test]
async fn many_ranges_share_few_connections() {
    let package = package(4_000_000);
    let (server, origin) = twisted(&package, |_, reply| reply).await;
    let ranges: Vec<_> = (0..60).map(|at| at * 60_000..at * 60_000 + 10_000).collect();
    let got = read(&origin, &ranges, Mode::Ranges).await;
    assert_eq!(got.result, Ok(()));
    got.holds(&package, &ranges);
    assert_eq!((server.requests().len(), got.wan), (60, 600_000));
    assert!(server.connections() <= 8, "{} connections", server.connections());
}

#[tokio::test]
async fn a_truncated_body_is_resumed_where_it_stopped() {
    let package = package(300_000);
    let (server, origin) = twisted(&package, |seen, reply| match seen.number {
        0 | 1 => reply.then(100_000, Then::Close),
        _ => reply,
    })
    .await;
    let got = read(&origin, &[0..300_000], Mode::Ranges).await;
    assert_eq!(got.result, Ok(()));
    got.holds(&package, &[0..300_000]);
    assert_eq!(got.wan, 300_000, "no byte twice");
    let asked: Vec<_> = server.requests().iter().filter_map(Seen::range).collect();
    assert_eq!(asked, [0..300_000, 100_000..300_000, 200_000..300_000]);
}

#[tokio::test]
async fn an_origin_without_progress_is_given_up() {
    let package = package(300_000);
    let (server, origin) = twisted(&package, |_, reply| reply.then(10, Then::Close)).await;
    let got = read(&origin, &[0..300_000], Mode::Ranges).await;
    assert_eq!(server.requests().len(), 5);
    assert_eq!(got.wan, 50);
    assert!(matches!(got.error(), OriginError::Broken { .. }));
}

#[tokio::test]
async fn a_silent_origin_is_stalled_before_and_in_a_body() {
    let package = package(100_000);
    for after in [0, 1_000] {
        let (server, origin) = twisted(&package, move |seen, reply| match seen.number {
            0 => reply.then(after, Then::Stall),
            _ => reply,
        })
        .await;
        let got = read(&origin, &[0..100_000], Mode::Ranges).await;
        assert_eq!(got.result, Ok(()));
        got.holds(&package, &[0..100_000]);
        assert_eq!((server.requests().len(), got.wan), (2, 100_000));
    }
    let (_server, origin) = twisted(&package, |_, reply| reply.then(0, Then::Stall)).await;
    assert!(matches!(read(&origin, &[0..10], Mode::Ranges).await.error(), OriginError::Stalled { .. }));
}

#[tokio::test]
async fn busy_origins_are_asked_again_when_they_say() {
    let package = package(1_000);
    for (status, wait_secs) in [(503, "1"), (429, "1")] {
        let (server, origin) = twisted(&package, move |seen, reply| match seen.number {
            0 => Reply::new(status).header("Retry-After", wait_secs),
            _ => reply,
        })
        .await;
        let started = std::time::Instant::now();
        assert_eq!(read(&origin, &[0..1_000], Mode::Ranges).await.result, Ok(()));
        assert!(started.elapsed() >= Duration::from_secs(1), "it was asked to wait for a second");
        assert_eq!(server.requests().len(), 2);
    }
}

#[tokio::test]
async fn an_origin_that_stays_busy_is_given_up() {
    let package = package(1_000);
    let (server, origin) = twisted(&package, |_, _| Reply::new(500)).await;
    let error = read(&origin, &[0..1_000], Mode::Ranges).await.error();
    assert!(matches!(error, OriginError::Busy { status: 500, retry_after: None, .. }), "{error}");
    assert_eq!(server.requests().len(), 5);

    let (server, origin) = twisted(&package, |_, _| Reply::new(503).header("Retry-After", "3600")).await;
    let error = read(&origin, &[0..1_000], Mode::Ranges).await.error();
    assert!(matches!(error, OriginError::Busy { retry_after: Some(_), .. }), "{error}");
    assert_eq!(server.requests().len(), 1, "an hour is not waited for");
}

#[tokio::test]
async fn refusals_say_what_to_do_and_no_secret() {
    let package = package(1_000);
    for (status, words) in
        [(401, "password file"), (403, "signed URL"), (404, "id and version"), (410, "410"), (418, "418")]
    {
        let (server, origin) = twisted(&package, move |_, _| Reply::new(status)).await;
        let text = read(&origin, &[0..1_000], Mode::Ranges).await.error().to_string();
        assert!(text.contains(words) && text.contains("/web.zip"), "{text}");
        assert!(!text.contains("s3cret") && !text.contains("t0ken"), "{text}");
        assert_eq!(server.requests().len(), 1, "asking again does not help");
    }
}

#[tokio::test]
async fn a_changed_package_is_named() {
    let package = package(1_000);
    let etag = |is: &str| Change::Etag { was: "\"v1\"".into(), is: is.into() };
    let new_size = Change::Size { was: 1_000, is: 1_001 };
    type Twist = fn(&Seen, Reply) -> Reply;
    let cases: [(Twist, Change); 5] = [
        // If-Range did not match: all of the new package.
        (|_, _| Reply::new(200).header("ETag", "\"v2\"").body(&[0; 1_000]), etag("\"v2\"")),
        // A server that ignores If-Range but has another ETag.
        (
            |_, reply| Reply { headers: vec![reply.headers[1].clone()], ..reply }.header("ETag", "\"v3\""),
            etag("\"v3\""),
        ),
        // No ETag, but another size.
        (|_, reply| Reply { headers: vec![], ..reply }.header("Content-Range", "bytes 5-9/1001"), new_size.clone()),
        (|_, _| Reply::new(200).body(&[0; 1_001]), new_size.clone()),
        (|_, _| Reply::new(416).header("Content-Range", "bytes */1001"), new_size),
    ];
    for (twist, change) in cases {
        let (server, origin) = twisted(&package, twist).await;
        let got = read(&origin, &[5..10], Mode::Ranges).await;
        got.holds(&package, &[]);
        assert_eq!(got.error(), OriginError::Changed { url: server.url("/web.zip?…"), change });
    }
}

#[tokio::test]
async fn wrong_ranges_are_never_delivered() {
    let package = package(1_000);
    type Twist = fn(&Seen, Reply) -> Reply;
    let cases: [Twist; 6] = [
        |_, reply| Reply { headers: vec![], ..reply }.header("Content-Range", "bytes 0-99/1000"),
        |_, reply| Reply { headers: vec![], ..reply }.header("Content-Range", "bytes 100-150/1000"),
        |_, reply| Reply { headers: vec![], ..reply }.header("Content-Range", "a hundred"),
        |_, reply| Reply { headers: vec![], ..reply },
        |_, reply| reply.body(&[7; 50]),
        |_, reply| reply.header("Content-Encoding", "gzip"),
    ];
    for twist in cases {
        let (_server, origin) = twisted(&package, twist).await;
        let got = read(&origin, &[100..200], Mode::Ranges).await;
        got.holds(&package, &[]);
        let error = got.error();
        assert!(matches!(error, OriginError::BadAnswer { .. }), "{error}");
    }
}

#[tokio::test]
async fn garbage_is_no_answer() {
    let package = package(1_000);
    let (_server, mut origin) = twisted(&package, |_, reply| Reply { status: 1, ..reply }).await;
    let error = read(&origin, &[0..10], Mode::Ranges).await.error();
    assert!(matches!(error, OriginError::Broken { .. } | OriginError::Status { .. }), "{error}");
    origin.url = "http://127.0.0.1:1/nobody-listens".into();
    let error = read(&origin, &[0..10], Mode::Ranges).await.error();
    assert!(matches!(error, OriginError::Unreachable { .. }), "{error}");
    origin.headers = vec![("bad name".into(), "x".into())];
    assert!(matches!(read(&origin, &[0..10], Mode::Ranges).await.error(), OriginError::BadRequest { .. }));
    assert!(matches!(read(&origin, &[0..1_001], Mode::Ranges).await.error(), OriginError::PastEnd { .. }));
}

#[tokio::test]
async fn an_origin_without_ranges_is_named_and_read_in_one_go() {
    let package = package(500_000);
    let held = package.clone();
    let server = Server::start(move |_| Reply::new(200).body(&held)).await;
    let origin = HttpOrigin { etag: None, ..origin(&server, &package) };
    let ranges = [10..20, 100_000..300_000];
    let got = read(&origin, &ranges, Mode::Ranges).await;
    got.holds(&package, &[]);
    assert!(matches!(got.error(), OriginError::IgnoresRanges { .. }));

    let got = read(&origin, &ranges, Mode::WholeRest).await;
    assert_eq!(got.result, Ok(()));
    got.holds(&package, &ranges);
    assert!((300_000..=500_000).contains(&got.wan), "all up to the last wanted byte is counted: {}", got.wan);

    let all = read(&origin, &[0..500_000], Mode::Ranges).await;
    assert_eq!(all.result, Ok(()), "who wants everything needs no ranges");
    all.holds(&package, &[0..500_000]);
}

#[tokio::test]
async fn a_broken_whole_read_is_not_started_again() {
    let package = package(500_000);
    let (server, origin) = twisted(&package, |_, reply| reply.then(1_000, Then::Close)).await;
    let got = read(&origin, &[0..10_000], Mode::WholeRest).await;
    got.holds(&package, &[0..1_000]);
    assert!(matches!(got.error(), OriginError::Broken { .. }));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn credentials_stay_with_their_host() {
    let package = package(10_000);
    let held = package.clone();
    let store = Server::start(move |seen| Reply::good(&held, seen)).await;
    let target = store.url("/signed?x=1");
    let (feed, origin) = twisted(&package, move |seen, _| match &*seen.path {
        "/inner" => Reply::new(307).header("Location", target.clone()),
        _ => Reply::new(302).header("Location", "/inner"),
    })
    .await;
    let got = read(&origin, &[10..20], Mode::Ranges).await;
    assert_eq!(got.result, Ok(()));
    got.holds(&package, &[10..20]);
    let inner = feed.requests().pop().unwrap();
    assert_eq!((&*inner.path, inner.headers.contains_key("authorization")), ("/inner", true), "same host");
    let [at_store] = store.requests().try_into().unwrap();
    assert!(!at_store.headers.contains_key("authorization") && !at_store.headers.contains_key("x-api-key"));
    assert_eq!(at_store.range(), Some(10..20));
    assert_eq!(at_store.headers["if-range"], "\"v1\"");
}

#[tokio::test]
async fn bad_redirects_are_refused() {
    let package = package(10);
    for location in [Some("/web.zip"), Some("ftp://127.0.0.1/x"), Some("http://["), None] {
        let (_server, origin) = twisted(&package, move |_, _| {
            let reply = Reply::new(302);
            location.map_or(reply.clone(), |location| reply.header("Location", location))
        })
        .await;
        let error = read(&origin, &[0..10], Mode::Ranges).await.error();
        assert!(matches!(error, OriginError::Redirect { .. }), "{location:?}: {error}");
    }
}

#[tokio::test]
async fn dropping_the_receiver_or_the_future_ends_a_transfer() {
    let package = package(2_000_000);
    let (_server, origin) = twisted(&package, |_, reply| reply).await;
    let (sink, chunks) = mpsc::channel(1);
    drop(chunks);
    let result = reader().read(&origin, &[0..2_000_000], Mode::Ranges, &WanBytes::default(), &sink).await;
    assert_eq!(result, Err(OriginError::Cancelled));

    let (sink, mut chunks) = mpsc::channel(1);
    let wan = WanBytes::default();
    let reader = reader();
    let ranges = [0..2_000_000];
    let reading = reader.read(&origin, &ranges, Mode::Ranges, &wan, &sink);
    tokio::select! {
        result = reading => panic!("it cannot end while nobody takes the bytes: {result:?}"),
        chunk = chunks.recv() => assert!(chunk.is_some()),
    }
    let read_so_far = wan.total();
    assert!(read_so_far > 0 && read_so_far < 2_000_000, "{read_so_far}");
    while chunks.try_recv().is_ok() {}
    tokio::task::yield_now().await;
    assert_eq!(wan.total(), read_so_far, "nothing is read after the drop");
}

#[tokio::test]
async fn probing_tells_size_validators_and_ranges() {
    let held = package(1_000);
    let server = Server::start(move |seen| match &*seen.path {
        "/good" => Reply::good(&held, seen).header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        "/plain" => Reply::new(200).header("ETag", "W/\"v1\"").body(&held),
        "/endless" => Reply { length: false, ..Reply::new(200) },
        "/empty" => Reply::new(416).header("Content-Range", "bytes */0"),
        _ => Reply::new(404),
    })
    .await;
    let probe = async |path: &str| reader().probe(bare(&server.url(path))).await;
    let good = Metadata {
        size: Some(1_000),
        etag: Some("\"v1\"".into()),
        last_modified: Some("Sun, 06 Nov 1994 08:49:37 GMT".into()),
        ranges: true,
    };
    assert_eq!(probe("/good").await, Ok(good));
    assert_eq!(probe("/plain").await, Ok(Metadata { size: Some(1_000), ..Metadata::default() }));
    assert_eq!(probe("/endless").await, Ok(Metadata::default()));
    assert_eq!(probe("/empty").await, Ok(Metadata { size: Some(0), ranges: true, ..Metadata::default() }));
    assert!(matches!(probe("/none").await, Err(OriginError::NotFound { status: 404, .. })));
}

#[tokio::test]
async fn documents_are_read_with_their_bounds_and_decompressed() {
    let plain = b"{\"versions\": []}".repeat(100);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, &plain).unwrap();
    let gzip = encoder.finish().unwrap();
    let server = Server::start(move |seen| match (&*seen.path, seen.number) {
        ("/gzip", _) => Reply::new(200).header("Content-Encoding", "gzip").body(&gzip),
        ("/broken", _) => Reply::new(200).header("Content-Encoding", "gzip").body(&gzip[..30]),
        ("/brotli", _) => Reply::new(200).header("Content-Encoding", "br").body(&gzip),
        (_, 0) => Reply::new(200).body(b"{}").then(1, Then::Close),
        (_, _) => Reply::new(200).header("Content-Type", "application/json").body(b"{}"),
    })
    .await;
    let read = async |path: &str, max| reader().document(bare(&server.url(path)), max).await;
    let document = read("/document", 2).await.unwrap();
    assert_eq!((&document.bytes[..], document.headers.find("content-type")), (&b"{}"[..], Some("application/json")));
    assert!(matches!(read("/document", 1).await, Err(OriginError::TooLarge { bytes_max: 1, .. })));

    assert_eq!(read("/gzip", plain.len()).await.unwrap().bytes, plain);
    let bomb = read("/gzip", plain.len() - 1).await;
    assert!(matches!(bomb, Err(OriginError::TooLarge { .. })), "{bomb:?}");
    for path in ["/broken", "/brotli"] {
        assert!(matches!(read(path, 1 << 20).await, Err(OriginError::BadAnswer { .. })), "{path}");
    }
}

#[tokio::test]
async fn one_host_gets_few_requests_at_a_time_from_all_transfers() {
    let package = package(100_000);
    let (server, origin) = twisted(&package, |_, reply| reply.delayed(Duration::from_millis(20))).await;
    let reader = reader();
    let ranges: Vec<_> = (0..20).map(|at| at * 5_000..at * 5_000 + 1).collect();
    let wan = WanBytes::default();
    let transfers = (0..8).map(|_| async {
        let (sink, _chunks) = mpsc::channel(100);
        reader.read(&origin, &ranges, Mode::Ranges, &wan, &sink).await
    });
    let ended = futures::future::join_all(transfers).await;
    assert!(ended.iter().all(Result::is_ok), "{ended:?}");
    assert_eq!((server.requests().len(), server.most_at_once()), (160, ORIGIN_REQUESTS_PER_HOST_MAX));
}

#[tokio::test]
async fn certificates_that_are_none_are_named() {
    for pem in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let target = Target { ca_pem: Some(pem), ..bare("https://127.0.0.1:1/x") };
        let error = reader().probe(target).await.unwrap_err();
        assert!(matches!(error, OriginError::Certificates { .. }) && error.to_string().contains("ca_file"), "{error}");
    }
}
