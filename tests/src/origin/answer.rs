//! How one request is answered, well or badly.

use std::io::{self, BufReader, Read, Write};
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::behaviour::{Behaviour, Fault};
use super::store::Store;
use super::{CHUNK_BYTES, Shared, lock};
use crate::request::Request;

/// Answers the requests of a connection, until it ends.
pub(super) fn serve<S: Read + Write>(stream: S, server: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader)? {
        if !Answer::to(request, server).write(reader.get_mut(), server)? {
            return Ok(());
        }
    }
    Ok(())
}

struct Answer {
    request: Request,
    head: String,
    body: Vec<u8>,
    fault: Option<Fault>,
}

impl Answer {
    fn to(request: Request, server: &Shared) -> Self {
        let name = request.path.rsplit('/').next().unwrap_or_default().to_owned();
        let (file, behaviour, number, token) = {
            let mut state = lock(&server.state);
            let file = state.files.get(&request.path).or_else(|| state.files.get(&name)).cloned();
            let token = state.token;
            *state.asked.entry(request.path.clone()).or_default() += 1;
            let way = state.way(&request.path);
            let (behaviour, number) = way.map_or((Behaviour::default(), 0), |way| {
                way.requests += 1;
                (way.behaviour.clone(), way.requests - 1)
            });
            if request.authorization.is_some() {
                *state.authorized.entry(request.path.clone()).or_default() += 1;
            }
            (file, behaviour, number, token)
        };
        if request.path == "/token" {
            let body = format!("{{\"token\": \"t{token}\", \"expires_in\": 300}}").into_bytes();
            return Self { request, head: "HTTP/1.1 200 OK\r\n".to_owned(), body, fault: None };
        }
        let given = request.authorization.as_deref();
        let challenge = match behaviour {
            Behaviour { bearer: true, .. } if given != Some(&*format!("Bearer t{token}")) => {
                Some(format!("Bearer realm=\"http://{}/token\",service=\"test\"", server.address))
            }
            Behaviour { token: Some(token), .. } if given != Some(&*format!("Bearer {token}")) => {
                Some("Bearer".to_owned())
            }
            Behaviour { wants: Some(wanted), .. } if !wanted.are(given) => Some("Basic realm=\"feed\"".to_owned()),
            _ => None,
        };
        if let Some(challenge) = challenge {
            *lock(&server.state).refused.entry(request.path.clone()).or_default() += 1;
            let head = format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\n");
            return Self { request, head, body: Vec::new(), fault: None };
        }
        if behaviour.store.is_some_and(|store| store.refuses(&request, &server.address.to_string())) {
            *lock(&server.state).refused.entry(request.path.clone()).or_default() += 1;
            return Self { request, head: "HTTP/1.1 403 Forbidden\r\n".to_owned(), body: Vec::new(), fault: None };
        }
        let (version, file) = behaviour
            .store
            .filter(|store| store.keeps_versions)
            .and_then(|store| version_of(store, &request, server))
            .unwrap_or_else(|| (String::new(), file));
        let fault = behaviour.fault.filter(|_| (behaviour.when)(number));
        let plain = |head: &str| (format!("HTTP/1.1 {head}\r\n"), Vec::new());
        let (head, body) = match (&fault, file) {
            (Some(Fault::Status(status, again)), _) => {
                let again = again.map(|seconds| format!("\r\nRetry-After: {seconds}")).unwrap_or_default();
                plain(&format!("{status} Whatever{again}"))
            }
            (Some(Fault::RedirectBytes(base)), _) if request.accept.as_deref() == Some("application/octet-stream") => {
                plain(&format!("302 Found\r\nLocation: {base}{name}"))
            }
            (Some(Fault::Redirect(base)), _) => plain(&format!("302 Found\r\nLocation: {base}{name}")),
            (_, None) => plain("404 Not Found"),
            (fault, Some(file)) => {
                let ranges = !behaviour.ignore_ranges && *fault != Some(Fault::NoLength);
                good(&request, &file, ranges, behaviour.flip, fault.as_ref())
            }
        };
        Self { request, head: head + &version, body, fault }
    }

    /// Whether the connection may be used again.
    fn write(self, stream: &mut (impl Read + Write), server: &Shared) -> io::Result<bool> {
        let open_end = self.fault == Some(Fault::NoLength);
        let length = match open_end {
            true => "Connection: close\r\n".to_owned(),
            false => format!("Content-Length: {}\r\n", self.body.len()),
        };
        write!(stream, "{}{length}\r\n", self.head)?;
        stream.flush()?;
        if self.request.head_only {
            return Ok(true);
        }
        let sent = match self.fault {
            Some(Fault::Truncate(after) | Fault::Stall(after)) => after.min(self.body.len()),
            _ => self.body.len(),
        };
        send(&self.body[..sent], &self.request.path, stream, server)?;
        match self.fault {
            Some(Fault::Stall(_)) if sent < self.body.len() => {
                // The client gives up, and its connection with it.
                drop(io::copy(stream, &mut io::sink()));
                Ok(false)
            }
            Some(Fault::Truncate(_)) if sent < self.body.len() => Ok(false),
            _ => Ok(!open_end),
        }
    }
}

/// The header that names the version of an object which a request is for, and its bytes; none if it has none.
fn version_of(store: Store, request: &Request, server: &Shared) -> Option<(String, Option<Arc<Vec<u8>>>)> {
    let state = lock(&server.state);
    let versions = state.versions.get(&request.path)?;
    let newest = versions.len() as u64;
    let version = store.dialect.version(request).unwrap_or(newest);
    let file = version.checked_sub(1).and_then(|index| versions.get(index as usize)).cloned();
    Some((format!("{}: {version}\r\n", store.dialect.version_header()), file))
}

/// The answer of a server that has the file, but for what is wrong with its headers and bytes.
fn good(request: &Request, file: &[u8], ranges: bool, flip: Option<usize>, fault: Option<&Fault>) -> (String, Vec<u8>) {
    let hash = blake3::hash(file).to_hex();
    let (etag, size) = (format!("\"{hash}\""), file.len() as u64);
    let same = request.if_range.as_ref().is_none_or(|wanted| *wanted == etag);
    let range = request.range(size).filter(|_| same && ranges);
    if range.as_ref().is_some_and(Range::is_empty) {
        return (format!("HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{size}\r\n"), Vec::new());
    }
    let version = if fault == Some(&Fault::NoLength) { "HTTP/1.0" } else { "HTTP/1.1" };
    let status = match &range {
        Some(range) => {
            let shift = u64::from(fault == Some(&Fault::WrongRange) && range.start > 0);
            let (first, last) = (range.start - shift, range.end - 1 - shift);
            format!("{version} 206 Partial Content\r\nContent-Range: bytes {first}-{last}/{size}\r\n")
        }
        None => format!("{version} 200 OK\r\n"),
    };
    let validator = match fault {
        Some(Fault::NoEtag) => String::new(),
        Some(Fault::WeakEtag) => format!("ETag: W/{etag}\r\n"),
        _ => format!("ETag: {etag}\r\n"),
    };
    let encoding = if fault == Some(&Fault::Gzip) { "Content-Encoding: gzip\r\n" } else { "" };
    let range = range.unwrap_or(0..size);
    let start = index(range.start);
    let mut body = file[start..index(range.end)].to_vec();
    if let Some(byte) = flip.and_then(|flip| body.get_mut(flip.checked_sub(start)?)) {
        *byte ^= 1;
    }
    (format!("{status}{validator}{encoding}"), body)
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("files of tests fit into memory")
}

fn send(body: &[u8], path: &str, stream: &mut impl Write, server: &Shared) -> io::Result<()> {
    for chunk in body.chunks(CHUNK_BYTES) {
        thread::sleep(turn(server, path, chunk.len()));
        if server.is_stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        stream.write_all(chunk)?;
        let mut state = lock(&server.state);
        *state.sent.entry(path.to_owned()).or_default() += chunk.len() as u64;
        state.sendings.push((Instant::now(), chunk.len() as u64, path.to_owned()));
    }
    stream.flush()
}

/// How long a chunk has to wait for its turn, where the rate is limited.
fn turn(server: &Shared, path: &str, len: usize) -> Duration {
    let mut state = lock(&server.state);
    let Some((way, rate)) = state.way(path).and_then(|way| way.behaviour.rate.map(|rate| (way, rate))) else {
        return Duration::ZERO;
    };
    let now = Instant::now();
    let begin = way.free_at.max(now);
    way.free_at = begin + Duration::from_secs_f64(len as f64 / rate as f64);
    begin - now
}
