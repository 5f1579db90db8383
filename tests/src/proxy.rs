//! An HTTP proxy for tests: tunnels for `CONNECT`, and requests with a whole URL passed on. It counts what went through.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// A running proxy. It runs until the test's process ends.
pub struct Proxy {
    address: SocketAddr,
    bytes: Arc<AtomicU64>,
}

impl Proxy {
    /// Starts a proxy.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let (address, bytes) = (listener.local_addr().expect("it is bound"), Arc::<AtomicU64>::default());
        let counted = Arc::clone(&bytes);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counted = Arc::clone(&counted);
                // What goes wrong on a connection is the client's to notice.
                thread::spawn(move || drop(pass(stream, &counted)));
            }
        });
        Self { address, bytes }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes that went through it to clients.
    pub fn passed(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Passes on one connection: of a tunnel all bytes, else its first request, after which it is closed.
fn pass(client: TcpStream, counted: &AtomicU64) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let end = line.trim().is_empty();
        head.push(line);
        if end {
            break;
        }
    }
    let mut words = head[0].split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut client = client;
    let mut server = if method == "CONNECT" {
        let server = TcpStream::connect(target)?;
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
        server
    } else {
        let bare = target.strip_prefix("http://").unwrap_or(target);
        let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
        let mut server = TcpStream::connect(host)?;
        write!(server, "{method} /{path} HTTP/1.1\r\nConnection: close\r\n{}", head[1..].concat())?;
        server
    };
    let (mut up, mut down) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut reader, &mut up);
        let _ = up.shutdown(Shutdown::Write);
    });
    let mut buffer = [0; 16 * 1024];
    loop {
        let len = server.read(&mut buffer)?;
        if len == 0 {
            return down.shutdown(Shutdown::Both);
        }
        down.write_all(&buffer[..len])?;
        counted.fetch_add(len as u64, Ordering::Relaxed);
    }
}
