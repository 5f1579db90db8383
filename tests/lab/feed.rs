//! The lab's feed: one file over HTTP, with ranges and a strong ETag, by `sendfile`, so that the feed costs little.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use shoal_tests::request::Request;

/// Serves `file` at `address`, whatever path is asked for, until the process is ended.
///
/// # Errors
/// If the address cannot be listened on, or the file cannot be read.
pub(crate) fn serve(file: &Path, address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let size = file.metadata()?.len();
    // Known once it listens: the lab waits for this line.
    eprintln!("listening");
    for stream in listener.incoming().flatten() {
        let file = file.to_owned();
        // What goes wrong on a connection is the client's to notice.
        thread::spawn(move || drop(connection(stream, &file, size)));
    }
    Ok(())
}

fn connection(mut stream: TcpStream, file: &Path, size: u64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    // One file for the life of the lab: its size is validator enough.
    let etag = format!("\"lab-{size}\"");
    while let Some(request) = Request::read(&mut reader)? {
        let same = request.if_range.as_ref().is_none_or(|wanted| *wanted == etag);
        let range = request.range(size).filter(|range| same && range.start < range.end);
        let status = match &range {
            Some(range) => {
                format!("206 Partial Content\r\nContent-Range: bytes {}-{}/{size}", range.start, range.end - 1)
            }
            None => "200 OK".to_owned(),
        };
        let body = range.unwrap_or(0..size);
        let len = body.end - body.start;
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {len}\r\nETag: {etag}\r\nAccept-Ranges: bytes\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        if !request.head_only {
            let mut file = File::open(file)?;
            file.seek(SeekFrom::Start(body.start))?;
            io::copy(&mut file.take(len), &mut stream)?;
        }
    }
    Ok(())
}
