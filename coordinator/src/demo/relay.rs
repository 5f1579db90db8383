//! The WAN of one site, made of TCP relays: what crosses it is limited to a rate and counted.
//!
//! A [`Wan`] has one [`Bucket`] for each direction, which all of its [`Link`]s share; a link listens at an address of the
//! site and relays each connection to one target outside. Connections take turns at the bucket with one small piece at a
//! time, so that they share the rate as equals. Bytes are counted when they have been handed to the receiver's socket:
//! payload of TCP, whatever protocol it is. Everything of a link ends when it is dropped.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

/// The largest piece that is sent at once: about the payload of one TLS record.
const PIECE_BYTES_MAX: u64 = 16 * 1024;

/// The smallest, however slow the WAN is: less would be all headers on a real one.
const PIECE_BYTES_MIN: u64 = 512;

/// What a bucket that was idle, or a relay that was woken late, may catch up with.
const BURST: Duration = Duration::from_millis(50);

/// Connections of one link at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 256;

/// How long to wait after a connection could not be accepted: the reason, such as too many open files, may pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A site's way to the rest of the world.
#[derive(Clone, Debug)]
pub(super) struct Wan {
    down: Arc<Bucket>,
    up: Arc<Bucket>,
}

/// One relay over a WAN; ends when it is dropped.
#[derive(Debug)]
pub(super) struct Link {
    address: SocketAddr,
    counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

/// Payload bytes that crossed a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Crossed {
    /// To the site.
    pub down: u64,
    /// From the site.
    pub up: u64,
}

#[derive(Debug, Default)]
struct Counts {
    down: AtomicU64,
    up: AtomicU64,
}

/// Gives out the right to send at a steady rate, in the order in which it is asked for.
#[derive(Debug)]
struct Bucket {
    bytes_per_s: u64,
    /// When everything that was asked for before will have been sent.
    free_at: Mutex<Instant>,
}

impl Wan {
    /// One of `bytes_per_s` each way.
    pub(super) fn new(bytes_per_s: u64) -> Self {
        let bucket = || Arc::new(Bucket { bytes_per_s: bytes_per_s.max(1), free_at: Mutex::new(Instant::now()) });
        Self { down: bucket(), up: bucket() }
    }

    /// Relays what connects to a free port of `inside` to `target`.
    ///
    /// # Errors
    /// If it cannot listen there.
    pub(super) async fn link(&self, inside: IpAddr, target: SocketAddr) -> io::Result<Link> {
        let listener = TcpListener::bind((inside, 0)).await?;
        let (address, counts) = (listener.local_addr()?, Arc::<Counts>::default());
        let accepting = tokio::spawn(accept(listener, target, self.clone(), counts.clone()));
        Ok(Link { address, counts, accepting })
    }
}

impl Link {
    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has crossed it so far.
    pub(super) fn crossed(&self) -> Crossed {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Crossed { down: load(&self.counts.down), up: load(&self.counts.up) }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, wan: Wan, counts: Arc<Counts>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Dropped with this task, it ends all connections.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let permit = free.clone().acquire_owned().await.expect("nobody closes this semaphore");
        let inside = match listener.accept().await {
            Ok((inside, _)) => inside,
            Err(error) => {
                tracing::debug!(%error, "a relay cannot accept");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (wan, counts) = (wan.clone(), counts.clone());
        connections.spawn(async move {
            let _permit = permit;
            if let Err(error) = connection(inside, target, &wan, &counts).await {
                tracing::debug!(%target, %error, "a relayed connection broke");
            }
        });
    }
}

/// Relays one connection until both sides have said all, or one of them broke.
async fn connection(mut inside: TcpStream, target: SocketAddr, wan: &Wan, counts: &Counts) -> io::Result<()> {
    let mut outside = TcpStream::connect(target).await?;
    inside.set_nodelay(true)?;
    outside.set_nodelay(true)?;
    let (inside_reads, inside_writes) = inside.split();
    let (outside_reads, outside_writes) = outside.split();
    let down = pump(outside_reads, inside_writes, &wan.down, &counts.down);
    let up = pump(inside_reads, outside_writes, &wan.up, &counts.up);
    tokio::try_join!(down, up).map(|((), ())| ())
}

/// Relays one direction to its end, and then says that it ended.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    bucket: &Bucket,
    count: &AtomicU64,
) -> io::Result<()> {
    let mut piece = vec![0; bucket.piece_bytes()];
    loop {
        let len = from.read(&mut piece).await?;
        if len == 0 {
            return to.shutdown().await;
        }
        bucket.take(len).await;
        to.write_all(&piece[..len]).await?;
        count.fetch_add(len as u64, Ordering::Relaxed);
    }
}

impl Bucket {
    /// Small enough that nobody waits long for a turn: a hundredth of a second's bytes.
    fn piece_bytes(&self) -> usize {
        (self.bytes_per_s / 100).clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX) as usize
    }

    /// Waits for the turn of `len` bytes.
    async fn take(&self, len: usize) {
        let turn = {
            let mut free_at = self.free_at.lock().expect("no panic while held");
            reserve(&mut free_at, Instant::now(), self.bytes_per_s, len)
        };
        sleep_until(turn).await;
    }
}

/// When `len` bytes may be sent that are asked for at `now`; moves `free_at` past them.
fn reserve(free_at: &mut Instant, now: Instant, bytes_per_s: u64, len: usize) -> Instant {
    let turn = match now.checked_sub(BURST) {
        Some(earliest) => (*free_at).max(earliest),
        None => *free_at,
    };
    *free_at = turn + Duration::from_secs_f64(len as f64 / bytes_per_s as f64);
    turn
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const FAST: u64 = 1_000_000_000;

    /// A server that sends `len` bytes to everyone who connects, then reads to the end and answers with what it read.
    async fn server(len: usize) -> SocketAddr {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = stream.split();
                    let mut said = Vec::new();
                    let sending = async move {
                        let sent = writes.write_all(&pattern(len)).await;
                        sent.map(|()| writes)
                    };
                    let (writes, read) = tokio::join!(sending, reads.read_to_end(&mut said));
                    if let (Ok(mut writes), Ok(_)) = (writes, read) {
                        let _ = writes.write_all(&said).await;
                        let _ = writes.shutdown().await;
                    }
                });
            }
        });
        address
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31 % 251) as u8).collect()
    }

    #[test]
    fn turns_come_at_the_rate_however_late_and_unevenly_they_are_asked_for() {
        let start = Instant::now() + Duration::from_secs(3600);
        let mut free_at = start;
        let (mut now, mut sent) = (start, 0_u64);
        for round in 0..20_000_u64 {
            let len = 1 + (round * 7919 % 16_384) as usize;
            let turn = reserve(&mut free_at, now, 1_000_000, len);
            // Woken up to 20 ms late, as timers and a busy machine do.
            now = now.max(turn) + Duration::from_millis(if round % 50 == 0 { 20 } else { 0 });
            sent += len as u64;
        }
        let rate = sent as f64 / (now - start).as_secs_f64();
        assert!((0.99e6..1.01e6).contains(&rate), "{rate} bytes/s instead of 1 MB/s");
        // An hour of silence buys no more than the burst.
        let later = now + Duration::from_secs(3600);
        let mut at_once = 0;
        while reserve(&mut free_at, later, 1_000_000, 1_000) <= later {
            at_once += 1_000;
        }
        assert!((50_000..=51_000).contains(&at_once), "{at_once} bytes at once");
    }

    #[tokio::test]
    async fn bytes_arrive_whole_and_counted_and_each_side_ends_by_itself() {
        let link = Wan::new(FAST).link(HERE, server(300_000).await).await.unwrap();
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        let mut got = vec![0; 300_000];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(got, pattern(300_000));
        stream.write_all(b"that was all").await.unwrap();
        // Our end is over, the other's is not.
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"that was all");
        assert_eq!(link.crossed(), Crossed { down: 300_012, up: 12 });
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn connections_share_the_rate_of_the_wan() {
        let rate = 2_000_000;
        let wan = Wan::new(rate);
        let target = server(500_000).await;
        let links = [wan.link(HERE, target).await.unwrap(), wan.link(HERE, target).await.unwrap()];
        let started = Instant::now();
        let mut readers = JoinSet::new();
        for reader in 0..4 {
            let address = links[reader % 2].address();
            readers.spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                let mut got = vec![0; 500_000];
                stream.read_exact(&mut got).await.unwrap();
                (started.elapsed(), stream)
            });
        }
        let ended = readers.join_all().await;
        let (first, last) =
            (ended.iter().map(|end| end.0).min().unwrap(), ended.iter().map(|end| end.0).max().unwrap());
        let down: u64 = links.iter().map(|link| link.crossed().down).sum();
        // Never faster than the rate and its burst; slower only by what a busy machine adds.
        assert!(last.as_secs_f64() > 0.95 * (2e6 / rate as f64) - BURST.as_secs_f64(), "{last:?}");
        assert!(down as f64 <= rate as f64 * (started.elapsed() + BURST).as_secs_f64() * 1.05, "{down}");
        assert!(first.as_secs_f64() > 0.8 * last.as_secs_f64(), "shared unfairly: {first:?} and {last:?}");
    }

    #[tokio::test]
    async fn a_link_that_is_dropped_ends_its_connections() {
        let link = Wan::new(FAST).link(HERE, server(10).await).await.unwrap();
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        stream.read_exact(&mut [0; 10]).await.unwrap();
        drop(link);
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the connection goes on");
        assert!(rest.is_empty());
    }
}
