//! A plain file server over HTTP, as a feed is: the files of one folder, with byte ranges and strong ETags.
//!
//! It listens on loopback and serves what is regular and below its folder, symlinks resolved; files are replaced by
//! rename, so that device, inode, size and time together name a file's bytes (the ETag). One range per request; several
//! are answered with the whole file, as RFC 9110 (14.2) allows.

use std::fs::Metadata;
use std::io::{self, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use bytes::BytesMut;
use futures::stream;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Bytes that are read from a file at a time.
const READ_BYTES: u64 = 64 * 1024;

/// A server of files; ends when it is dropped.
#[derive(Debug)]
pub struct FileServer {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

/// What of a file is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part(Range<u64>),
    /// A range that the file does not have.
    Outside,
}

impl FileServer {
    /// Serves `folder` at a free port of the loopback address.
    ///
    /// # Errors
    /// If it cannot listen, or the folder is not there.
    pub async fn start(folder: &Path) -> io::Result<Self> {
        let root: Arc<Path> = tokio::fs::canonicalize(folder).await?.into();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        // Without a delay, the first bytes of an answer do not wait for its acknowledged headers.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let router = Router::new().fallback(answer).with_state(root);
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::warn!(%error, "a file server ended");
            }
        });
        Ok(Self { address, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(root): State<Arc<Path>>, request: Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")]).into_response();
    }
    match open(&root, request.uri().path()).await {
        Ok(Some((file, metadata))) => match content(request.method(), request.headers(), file, &metadata).await {
            Ok(response) => response,
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        },
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => StatusCode::NOT_FOUND.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The regular file that `path` names below `root`.
async fn open(root: &Path, path: &str) -> io::Result<Option<(File, Metadata)>> {
    let Some(path) = below(path) else { return Ok(None) };
    let path = tokio::fs::canonicalize(root.join(path)).await?;
    if !path.starts_with(root) {
        return Ok(None);
    }
    let file = File::open(path).await?;
    let metadata = file.metadata().await?;
    Ok(metadata.is_file().then_some((file, metadata)))
}

/// A URL's path as one below a folder. Names that would need an escape are not served.
fn below(path: &str) -> Option<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | '+');
    let parts: Vec<_> = path.strip_prefix('/')?.split('/').collect();
    let good = parts.iter().all(|part| !part.is_empty() && !part.starts_with("..") && part.chars().all(plain));
    good.then(|| parts.iter().collect())
}

async fn content(method: &Method, headers: &HeaderMap, mut file: File, metadata: &Metadata) -> io::Result<Response> {
    let (size, etag) = (metadata.len(), etag(metadata));
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let asked = asked(text(header::RANGE), text(header::IF_RANGE), size, &etag);
    let common = [(header::ACCEPT_RANGES, "bytes".to_owned()), (header::ETAG, etag)];
    let (status, range) = match asked {
        Asked::Whole => (StatusCode::OK, 0..size),
        Asked::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Asked::Outside => {
            let content_range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, common, content_range).into_response());
        }
    };
    let len = range.end - range.start;
    let body = match *method {
        Method::HEAD => Body::empty(),
        _ => {
            file.seek(SeekFrom::Start(range.start)).await?;
            Body::from_stream(stream::try_unfold((file, len), next_bytes))
        }
    };
    let mut response = (status, common, [(header::CONTENT_LENGTH, len.to_string())], body).into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let content_range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        response.headers_mut().insert(header::CONTENT_RANGE, content_range.try_into().map_err(io::Error::other)?);
    }
    Ok(response)
}

type Rest = (File, u64);

async fn next_bytes((mut file, left): Rest) -> io::Result<Option<(bytes::Bytes, Rest)>> {
    if left == 0 {
        return Ok(None);
    }
    let len = left.min(READ_BYTES);
    let mut piece = BytesMut::with_capacity(len as usize);
    let read = (&mut file).take(len).read_buf(&mut piece).await? as u64;
    if read == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
    }
    Ok(Some((piece.freeze(), (file, left - read))))
}

fn etag(metadata: &Metadata) -> String {
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    format!("\"{:x}-{:x}-{:x}-{seconds:x}.{nanoseconds:x}\"", metadata.dev(), metadata.ino(), metadata.len())
}

/// What `range` and `if_range` ask of a file (RFC 9110, 13.1.5 and 14.2). What is not understood counts as not said.
fn asked(range: Option<&str>, if_range: Option<&str>, size: u64, etag: &str) -> Asked {
    let Some((first, last)) = range.and_then(|range| range.strip_prefix("bytes=")).and_then(|set| set.split_once('-'))
    else {
        return Asked::Whole;
    };
    // Only a strong ETag compares; a date never does, as none is sent.
    if if_range.is_some_and(|wanted| wanted != etag) {
        return Asked::Whole;
    }
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => Asked::Whole,
        (Some(first), _) if first >= size && (last.is_empty() || number(last).is_some()) => Asked::Outside,
        (Some(first), Some(last)) => Asked::Part(first..last.saturating_add(1).min(size)),
        (Some(first), None) if last.is_empty() => Asked::Part(first..size),
        (None, Some(0)) if first.is_empty() => Asked::Outside,
        (None, Some(_)) if first.is_empty() && size == 0 => Asked::Outside,
        (None, Some(last)) if first.is_empty() => Asked::Part(size.saturating_sub(last)..size),
        _ => Asked::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_what_the_standard_says() {
        let table = [
            (None, None, Asked::Whole),
            (Some("bytes=0-0"), None, Asked::Part(0..1)),
            (Some("bytes=10-19"), None, Asked::Part(10..20)),
            (Some("bytes=90-200"), None, Asked::Part(90..100)),
            (Some("bytes=90-18446744073709551615"), None, Asked::Part(90..100)),
            (Some("bytes=90-"), None, Asked::Part(90..100)),
            (Some("bytes=-10"), None, Asked::Part(90..100)),
            (Some("bytes=-1000"), None, Asked::Part(0..100)),
            (Some("bytes=100-"), None, Asked::Outside),
            (Some("bytes=100-110"), None, Asked::Outside),
            (Some("bytes=-0"), None, Asked::Outside),
            (Some("bytes=20-10"), None, Asked::Whole),
            (Some("bytes=0-1,5-6"), None, Asked::Whole),
            (Some("bytes=-"), None, Asked::Whole),
            (Some("bytes=a-b"), None, Asked::Whole),
            (Some("lines=0-1"), None, Asked::Whole),
            (Some("bytes=0-1"), Some("\"tag\""), Asked::Part(0..2)),
            (Some("bytes=0-1"), Some("\"other\""), Asked::Whole),
            (Some("bytes=0-1"), Some("W/\"tag\""), Asked::Whole),
            (Some("bytes=0-1"), Some("Sun, 06 Nov 1994 08:49:37 GMT"), Asked::Whole),
        ];
        for (range, if_range, wanted) in table {
            assert_eq!(asked(range, if_range, 100, "\"tag\""), wanted, "{range:?} {if_range:?}");
        }
        assert_eq!(asked(Some("bytes=0-0"), None, 0, "\"tag\""), Asked::Outside);
        assert_eq!(asked(Some("bytes=-1"), None, 0, "\"tag\""), Asked::Outside);
    }

    #[tokio::test]
    async fn files_of_the_folder_are_served_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..200_000_u32).map(|at| (at % 253) as u8).collect();
        std::fs::create_dir_all(folder.path().join("served/app")).unwrap();
        std::fs::write(folder.path().join("served/app/1.zip"), &bytes).unwrap();
        std::fs::write(folder.path().join("secret"), "no").unwrap();
        std::os::unix::fs::symlink(folder.path().join("secret"), folder.path().join("served/way-out")).unwrap();
        let server = FileServer::start(&folder.path().join("served")).await.unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = |path: &str| format!("http://{}/{path}", server.address());

        let whole = client.get(url("app/1.zip")).send().await.unwrap();
        assert_eq!((whole.status(), whole.content_length()), (StatusCode::OK, Some(200_000)));
        let etag = whole.headers()[header::ETAG].clone();
        assert_eq!(whole.bytes().await.unwrap(), bytes);

        let ask = |method, etag| client.request(method, url("app/1.zip")).header(header::IF_RANGE, etag);
        let part = ask(Method::GET, etag.clone()).header(header::RANGE, "bytes=100-70099").send().await.unwrap();
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(part.headers()[header::CONTENT_RANGE], "bytes 100-70099/200000");
        assert_eq!(part.headers()[header::ETAG], etag);
        assert_eq!(part.bytes().await.unwrap(), bytes[100..70_100]);

        let head = client.head(url("app/1.zip")).send().await.unwrap();
        assert_eq!(head.headers()[header::CONTENT_LENGTH], "200000");
        assert_eq!(head.headers()[header::ACCEPT_RANGES], "bytes");

        let replaced = folder.path().join("served/2.part");
        std::fs::write(&replaced, "other bytes").unwrap();
        std::fs::rename(&replaced, folder.path().join("served/app/1.zip")).unwrap();
        let changed = ask(Method::GET, etag).header(header::RANGE, "bytes=0-3").send().await.unwrap();
        assert_eq!(changed.status(), StatusCode::OK, "another file is not served in ranges of the first");
        assert_eq!(changed.text().await.unwrap(), "other bytes");

        for path in ["app", "app/", "nothing", "way-out", "../secret", "%2e%2e/secret", "app/../../secret", ""] {
            assert_eq!(client.get(url(path)).send().await.unwrap().status(), StatusCode::NOT_FOUND, "{path}");
        }
        let post = client.post(url("app/1.zip")).send().await.unwrap();
        assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
