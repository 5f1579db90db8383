//! What an HTTP client asks of a test's server: just what the servers of these tests heed.

use std::io::{self, BufRead};
use std::ops::Range;

/// A request without a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `HEAD`: the body is not wanted.
    pub head_only: bool,
    /// The path without its query.
    pub path: String,
    /// The query behind it, as it came; empty if there is none.
    pub query: String,
    /// The `If-Range` validator.
    pub if_range: Option<String>,
    /// Which kinds of documents are wanted.
    pub accept: Option<String>,
    /// The credentials, with their scheme.
    pub authorization: Option<String>,
    range: Option<(u64, Option<u64>)>,
}

impl Request {
    /// The next request of a connection; `None` at its end.
    ///
    /// # Errors
    /// What reading says.
    pub fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let (path, query) = (path.to_owned(), query.to_owned());
        let head_only = method == "HEAD";
        let mut request =
            Self { head_only, path, query, range: None, if_range: None, accept: None, authorization: None };
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                return Ok(Some(request));
            }
            let Some((name, value)) = line.trim().split_once(':') else { continue };
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("range", value) => request.range = parse_range(value),
                ("authorization", value) => request.authorization = Some(value.to_owned()),
                ("accept", value) => request.accept = Some(value.to_owned()),
                ("if-range", value) => request.if_range = Some(value.to_owned()),
                _ => {}
            }
        }
    }

    /// The bytes that it asks for of a file of `size`, if it asks for a range; empty or backwards if the file has none of them.
    pub fn range(&self, size: u64) -> Option<Range<u64>> {
        self.range.map(|(first, last)| first..last.map_or(size, |last| size.min(last.saturating_add(1))))
    }
}

fn parse_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()))
}
