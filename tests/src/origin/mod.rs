//! A feed's HTTP server, as good or as bad as a test wants it, that counts what it sends.
//!
//! A file whose name begins with `/` is at that path. Any other is found by the last part of the path whatever stands before
//! it, so that one file is at many URLs: the feed proper, and a mirror for each site, whose paths tell the readers apart.
//! Behaviour and counters go by the path's start.

mod answer;
mod behaviour;
mod store;
pub(crate) mod tls;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use behaviour::{Behaviour, Credentials, Fault};
pub use store::{Dialect, Store};
use tls::Certificate;

/// Sent at once: small, so that a limited rate is smooth and little is under way when a reader is killed.
const CHUNK_BYTES: usize = 8 * 1024;

/// How long a connection may be idle.
const IDLE_MAX: Duration = Duration::from_secs(30);

struct Way {
    start: String,
    behaviour: Behaviour,
    /// How many requests came this way.
    requests: u64,
    /// When the next chunk may be sent, if the rate is limited.
    free_at: Instant,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Arc<Vec<u8>>>,
    /// All that they ever were, the oldest first.
    versions: BTreeMap<String, Vec<Arc<Vec<u8>>>>,
    ways: Vec<Way>,
    /// Body bytes sent, by the whole path.
    sent: BTreeMap<String, u64>,
    /// Requests, by the whole path.
    asked: BTreeMap<String, u64>,
    /// Requests answered with 401, or with 403 for want of a signature, by the whole path.
    refused: BTreeMap<String, u64>,
    /// Requests with any `Authorization`, by the whole path.
    authorized: BTreeMap<String, u64>,
    /// Which token is good.
    token: u64,
    /// When body bytes were sent, how many, and by which path.
    sendings: Vec<(Instant, u64, String)>,
}

impl State {
    /// How to behave towards a path: by the longest start of it that was named.
    fn way(&mut self, path: &str) -> Option<&mut Way> {
        let ways = self.ways.iter_mut().filter(|way| path.starts_with(&way.start));
        ways.max_by_key(|way| way.start.len())
    }
}

/// What the threads of a server share.
struct Shared {
    address: SocketAddr,
    state: Mutex<State>,
    stopped: AtomicBool,
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// A running server; stops when it is dropped.
pub struct Origin {
    shared: Arc<Shared>,
    certificate: Option<Certificate>,
}

/// A self-signed certificate for 127.0.0.1 and its key, both in PEM, for a server that is no [`Origin`].
pub fn certificate() -> (String, String) {
    let made = Certificate::make();
    (made.pem().to_owned(), made.key_pem().to_owned())
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Origin {
    /// Starts a server without files.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts a server that speaks TLS, with a certificate that nobody trusts who was not told to ([`Self::ca_pem`]).
    pub fn start_tls() -> Self {
        Self::start_with(Some(Certificate::make()))
    }

    fn start_with(certificate: Option<Certificate>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared { address, state: Mutex::default(), stopped: AtomicBool::new(false) });
        let (server, tls) = (Arc::clone(&shared), certificate.as_ref().map(Certificate::config));
        thread::spawn(move || {
            for stream in listener.incoming().flatten().take_while(|_| !server.is_stopped()) {
                let (server, tls) = (Arc::clone(&server), tls.clone());
                // What goes wrong on a connection is the client's to notice.
                thread::spawn(move || {
                    let ready = stream.set_read_timeout(Some(IDLE_MAX)).and_then(|()| stream.set_nodelay(true));
                    drop(ready.and_then(|()| match tls {
                        Some(config) => answer::serve(tls::accept(config, stream)?, &server),
                        None => answer::serve(stream, &server),
                    }));
                });
            }
        });
        Self { shared, certificate }
    }

    /// The certificate in PEM by which a server of [`Self::start_tls`] is known.
    pub fn ca_pem(&self) -> &str {
        self.certificate.as_ref().expect("it speaks TLS").pem()
    }

    /// Serves `bytes` as the file `name`, instead of what it was before.
    pub fn put(&self, name: &str, bytes: impl Into<Vec<u8>>) {
        let (mut state, bytes) = (lock(&self.shared.state), Arc::new(bytes.into()));
        state.versions.entry(name.to_owned()).or_default().push(Arc::clone(&bytes));
        state.files.insert(name.to_owned(), bytes);
    }

    /// Behaves so towards requests whose path begins with `start`.
    pub fn behave(&self, start: &str, behaviour: Behaviour) {
        let mut state = lock(&self.shared.state);
        state.ways.retain(|way| way.start != start);
        state.ways.push(Way { start: start.to_owned(), behaviour, requests: 0, free_at: Instant::now() });
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// The URL of a path, which begins with `/`.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.shared.address)
    }

    /// An `http` feed as the coordinator's configuration has it: `files`, below `/main/`, with a mirror `/SITE/` for
    /// each of `sites`.
    pub fn feed(&self, sites: &[&str]) -> String {
        let mirror = |site: &&str| format!("{{ sites = [\"{site}\"], url = \"{}\" }}", self.url(&format!("/{site}/")));
        let mirrors = sites.iter().map(mirror).collect::<Vec<_>>().join(", ");
        let url = self.url("/main/");
        format!("[[feed]]\nname = \"files\"\nkind = \"http\"\nurl = \"{url}\"\nmirrors = [{mirrors}]\n")
    }

    /// Body bytes sent between two moments to requests whose path begins with `start`.
    pub fn sent_between(&self, start: &str, from: Instant, to: Instant) -> u64 {
        let state = lock(&self.shared.state);
        let within = state.sendings.iter().filter(|(at, _, path)| (from..to).contains(at) && path.starts_with(start));
        within.map(|(_, bytes, _)| bytes).sum()
    }

    /// When the first body byte was sent to a request whose path begins with `start`.
    pub fn first_sent(&self, start: &str) -> Option<Instant> {
        lock(&self.shared.state).sendings.iter().find(|(_, _, path)| path.starts_with(start)).map(|(at, ..)| *at)
    }

    /// Body bytes sent so far to requests whose path begins with `start`.
    pub fn sent(&self, start: &str) -> u64 {
        sum_below(&lock(&self.shared.state).sent, start)
    }

    /// Makes the tokens that were lent so far useless.
    pub fn end_tokens(&self) {
        lock(&self.shared.state).token += 1;
    }

    /// Requests whose path begins with `start`.
    pub fn asked(&self, start: &str) -> u64 {
        sum_below(&lock(&self.shared.state).asked, start)
    }

    /// Requests whose path begins with `start` that came with any credentials.
    pub fn authorized(&self, start: &str) -> u64 {
        sum_below(&lock(&self.shared.state).authorized, start)
    }

    /// Requests whose path begins with `start` that were refused so far, since they lacked the credentials or a signature.
    pub fn refused(&self, start: &str) -> u64 {
        sum_below(&lock(&self.shared.state).refused, start)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        // Wakes the thread that accepts; if it cannot be reached, it has ended.
        drop(TcpStream::connect(self.shared.address));
    }
}

fn sum_below(counted: &BTreeMap<String, u64>, start: &str) -> u64 {
    counted.iter().filter(|(path, _)| path.starts_with(start)).map(|(_, count)| count).sum()
}
