//! An HTTP/1.1 server that can misbehave: each test says by a closure what it answers to which request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// How many came before it, over all connections.
    pub(super) number: usize,
    pub(super) path: String,
    /// By lower-case name.
    pub(super) headers: BTreeMap<String, String>,
}

impl Seen {
    pub(super) fn range(&self) -> Option<Range<u64>> {
        let (first, last) = self.headers.get("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some(first.parse().unwrap()..last.parse::<u64>().unwrap() + 1)
    }
}

/// An answer to make.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
    /// Whether `Content-Length` is sent; the body then ends with the connection.
    pub(super) length: bool,
    /// After this many bytes of the body, do this instead of sending the rest.
    pub(super) then: Option<(usize, Then)>,
    /// How long it takes to come.
    pub(super) delay: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Close,
    Stall,
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), length: true, then: None, delay: Duration::ZERO }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }

    pub(super) fn then(mut self, after: usize, then: Then) -> Self {
        self.then = Some((after, then));
        self
    }

    pub(super) fn delayed(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// What a good server answers: the range that `seen` asks for, or all of `package`.
    pub(super) fn good(package: &[u8], seen: &Seen) -> Self {
        let Some(range) = seen.range() else {
            return Self::new(200).header("ETag", "\"v1\"").body(package);
        };
        let total = package.len();
        if range.start >= total as u64 {
            return Self::new(416).header("Content-Range", format!("bytes */{total}"));
        }
        let end = range.end.min(total as u64);
        Self::new(206)
            .header("ETag", "\"v1\"")
            .header("Content-Range", format!("bytes {}-{}/{total}", range.start, end - 1))
            .body(&package[range.start as usize..end as usize])
    }
}

/// A server, until it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    at_once: Arc<AtOnce>,
    _tasks: JoinSet<()>,
}

/// Requests that were not answered yet.
#[derive(Default)]
struct AtOnce {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Server {
    pub(super) async fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (log, count, answer) = (Arc::clone(&seen), Arc::clone(&connections), Arc::new(answer));
        let at_once = Arc::<AtOnce>::default();
        let counted = Arc::clone(&at_once);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (log, answer, at_once) = (Arc::clone(&log), Arc::clone(&answer), Arc::clone(&counted));
                open.spawn(async move { drop(serve(socket, &log, &at_once, &*answer).await) });
            }
        });
        Self { address, seen, connections, at_once, _tasks: tasks }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn requests(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn most_at_once(&self) -> usize {
        self.at_once.most.load(Ordering::SeqCst)
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(
    socket: TcpStream,
    log: &Mutex<Vec<Seen>>,
    at_once: &AtOnce,
    answer: &impl Fn(&Seen) -> Reply,
) -> std::io::Result<()> {
    let mut socket = BufStream::new(socket);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if socket.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let path = lines[0].split(' ').nth(1).unwrap().to_owned();
        let headers = lines[1..].iter().map(|line| line.split_once(':').unwrap());
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
        let seen = {
            let mut log = log.lock().unwrap();
            let seen = Seen { number: log.len(), path, headers };
            log.push(seen.clone());
            seen
        };
        let reply = answer(&seen);
        at_once.most.fetch_max(at_once.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(reply.delay).await;
        at_once.now.fetch_sub(1, Ordering::SeqCst);
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", reply.status);
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &if reply.length {
            format!("Content-Length: {}\r\n\r\n", reply.body.len())
        } else {
            "Connection: close\r\n\r\n".into()
        };
        socket.write_all(head.as_bytes()).await?;
        let sent = reply.then.map_or(reply.body.len(), |(after, _)| after.min(reply.body.len()));
        socket.write_all(&reply.body[..sent]).await?;
        socket.flush().await?;
        match reply.then {
            Some((_, Then::Close)) => return Ok(()),
            Some((_, Then::Stall)) => std::future::pending().await,
            None if !reply.length => return Ok(()),
            None => {}
        }
    }
}
