//! A feed's HTTP server, as good or as bad as a test wants it, that counts what it sends.
//!
//! A file whose name begins with `/` is at that path. Any other is found by the last part of the path whatever stands before
//! it, so that one file is at many URLs: the feed proper, and a mirror for each site, whose paths tell the readers apart.
//! Behaviour and counters go by the path's start.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::request::Request;

/// Sent at once: small, so that a limited rate is smooth and little is under way when a reader is killed.
const CHUNK_BYTES: usize = 8 * 1024;

/// How long a connection may be idle.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// A user's name and password, for Basic authentication.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The user.
    pub user: &'static str,
    /// The password.
    pub password: &'static str,
}

impl Credentials {
    /// Whether a request with this `Authorization` carries them (RFC 7617).
    fn are(&self, authorization: Option<&str>) -> bool {
        let wanted = format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)));
        authorization == Some(wanted.as_str())
    }
}

/// What the server wants, and what it does wrong; by default nothing.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// The byte at this offset is another one.
    pub flip: Option<usize>,
    /// A request for a range is answered with the whole file.
    pub ignore_ranges: bool,
    /// Requests without these credentials are answered with 401.
    pub wants: Option<Credentials>,
    /// Bytes per second of all connections together.
    pub rate: Option<u64>,
}

struct Way {
    start: String,
    behaviour: Behaviour,
    /// When the next chunk may be sent, if the rate is limited.
    free_at: Instant,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Arc<Vec<u8>>>,
    ways: Vec<Way>,
    /// Body bytes sent, by the whole path.
    sent: BTreeMap<String, u64>,
    /// Requests answered with 401, by the whole path.
    refused: BTreeMap<String, u64>,
    /// When body bytes were sent, how many, and by which path.
    sendings: Vec<(Instant, u64, String)>,
}

/// A running server; stops when it is dropped.
pub struct Origin {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stopped: Arc<AtomicBool>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Origin {
    /// Starts a server without files.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let (state, stopped) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let (shared, stop) = (Arc::clone(&state), Arc::clone(&stopped));
        thread::spawn(move || {
            for stream in listener.incoming().flatten().take_while(|_| !stop.load(Ordering::Acquire)) {
                let (state, stop) = (Arc::clone(&shared), Arc::clone(&stop));
                // What goes wrong on a connection is the client's to notice.
                thread::spawn(move || drop(serve(stream, &state, &stop)));
            }
        });
        Self { address, state, stopped }
    }

    /// Serves `bytes` as the file `name`, instead of what it was before.
    pub fn put(&self, name: &str, bytes: impl Into<Vec<u8>>) {
        lock(&self.state).files.insert(name.to_owned(), Arc::new(bytes.into()));
    }

    /// Behaves so towards requests whose path begins with `start`.
    pub fn behave(&self, start: &str, behaviour: Behaviour) {
        let mut state = lock(&self.state);
        state.ways.retain(|way| way.start != start);
        state.ways.push(Way { start: start.to_owned(), behaviour, free_at: Instant::now() });
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path, which begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
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
        let state = lock(&self.state);
        let within = state.sendings.iter().filter(|(at, _, path)| (from..to).contains(at) && path.starts_with(start));
        within.map(|(_, bytes, _)| bytes).sum()
    }

    /// When the first body byte was sent to a request whose path begins with `start`.
    pub fn first_sent(&self, start: &str) -> Option<Instant> {
        lock(&self.state).sendings.iter().find(|(_, _, path)| path.starts_with(start)).map(|(at, ..)| *at)
    }

    /// Body bytes sent so far to requests whose path begins with `start`.
    pub fn sent(&self, start: &str) -> u64 {
        sum_below(&lock(&self.state).sent, start)
    }

    /// Requests whose path begins with `start` that were refused so far, since they lacked the credentials.
    pub fn refused(&self, start: &str) -> u64 {
        sum_below(&lock(&self.state).refused, start)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        // Wakes the thread that accepts; if it cannot be reached, it has ended.
        drop(TcpStream::connect(self.address));
    }
}

fn sum_below(counted: &BTreeMap<String, u64>, start: &str) -> u64 {
    counted.iter().filter(|(path, _)| path.starts_with(start)).map(|(_, count)| count).sum()
}

fn serve(stream: TcpStream, state: &Mutex<State>, stopped: &AtomicBool) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(request) = Request::read(&mut reader)? {
        answer(&request, &mut stream, state, stopped)?;
    }
    Ok(())
}

fn answer(request: &Request, stream: &mut TcpStream, state: &Mutex<State>, stopped: &AtomicBool) -> io::Result<()> {
    let name = request.path.rsplit('/').next().unwrap_or_default();
    let (file, behaviour) = {
        let state = lock(state);
        let way = state.ways.iter().find(|way| request.path.starts_with(&way.start));
        let file = state.files.get(&request.path).or_else(|| state.files.get(name));
        (file.cloned(), way.map(|way| way.behaviour.clone()).unwrap_or_default())
    };
    if behaviour.wants.is_some_and(|wanted| !wanted.are(request.authorization.as_deref())) {
        *lock(state).refused.entry(request.path.clone()).or_default() += 1;
        let challenge = "WWW-Authenticate: Basic realm=\"feed\"";
        return write!(stream, "HTTP/1.1 401 Unauthorized\r\n{challenge}\r\nContent-Length: 0\r\n\r\n");
    }
    let Some(file) = file else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    let (etag, size) = (format!("\"{}\"", blake3::hash(&file).to_hex()), file.len() as u64);
    let same = request.if_range.as_ref().is_none_or(|wanted| *wanted == etag);
    let range = request.range(size).filter(|_| same && !behaviour.ignore_ranges);
    if range.as_ref().is_some_and(|range| range.start >= range.end) {
        let status = "416 Range Not Satisfiable";
        return write!(stream, "HTTP/1.1 {status}\r\nContent-Range: bytes */{size}\r\nContent-Length: 0\r\n\r\n");
    }
    let status = match &range {
        Some(range) => {
            format!("206 Partial Content\r\nContent-Range: bytes {}-{}/{size}", range.start, range.end - 1)
        }
        None => "200 OK".to_owned(),
    };
    let body = range.unwrap_or(0..size);
    let len = body.end - body.start;
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {len}\r\nETag: {etag}\r\n\r\n")?;
    if request.head_only {
        return Ok(());
    }
    let flip = behaviour.flip.and_then(|flip| flip.checked_sub(index(body.start)));
    let body = &file[index(body.start)..index(body.end)];
    send(body, flip, &request.path, stream, state, stopped)
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("files of tests fit into memory")
}

fn send(
    body: &[u8],
    flip: Option<usize>,
    path: &str,
    stream: &mut TcpStream,
    state: &Mutex<State>,
    stopped: &AtomicBool,
) -> io::Result<()> {
    for (number, chunk) in body.chunks(CHUNK_BYTES).enumerate() {
        let mut chunk = chunk.to_vec();
        let flip = flip.and_then(|flip| flip.checked_sub(number * CHUNK_BYTES));
        if let Some(byte) = flip.and_then(|flip| chunk.get_mut(flip)) {
            *byte ^= 1;
        }
        thread::sleep(turn(state, path, chunk.len()));
        if stopped.load(Ordering::Acquire) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        stream.write_all(&chunk)?;
        let mut state = lock(state);
        *state.sent.entry(path.to_owned()).or_default() += chunk.len() as u64;
        state.sendings.push((Instant::now(), chunk.len() as u64, path.to_owned()));
    }
    Ok(())
}

/// How long a chunk has to wait for its turn, where the rate is limited.
fn turn(state: &Mutex<State>, path: &str, len: usize) -> Duration {
    let mut state = lock(state);
    let way = state.ways.iter_mut().find(|way| path.starts_with(&way.start));
    let Some((way, rate)) = way.and_then(|way| way.behaviour.rate.map(|rate| (way, rate))) else {
        return Duration::ZERO;
    };
    let now = Instant::now();
    let begin = way.free_at.max(now);
    way.free_at = begin + Duration::from_secs_f64(len as f64 / rate as f64);
    begin - now
}
