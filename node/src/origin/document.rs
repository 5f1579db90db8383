//! Small documents, such as a feed's index: read whole, within a bound, decompressed where a server compresses unasked, as
//! NuGet's registrations do.

use std::io::Read;

use bytes::Bytes;
use reqwest::header::{CONTENT_ENCODING, HeaderMap};
use shoal_proto::origin::shown_url;

use super::request::{self, Request, Tries, send};
use super::{OriginError, OriginReader, Target, WanBytes};

/// A document with what its server said about it.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its bytes.
    pub bytes: Bytes,
    /// What came with them.
    pub headers: Headers,
}

/// Headers of an answer.
#[derive(Clone, Debug)]
pub struct Headers(pub(super) HeaderMap);

impl Headers {
    /// The text of one, by its name in lower case.
    pub fn find(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }
}

impl OriginReader {
    /// Reads a small document of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`OriginError::TooLarge`], or any other but those about ranges and changes.
    pub async fn document(&self, target: Target<'_>, bytes_max: usize) -> Result<Document, OriginError> {
        let request = Request { encoded: true, ..Request::whole(target) };
        let mut tries = Tries::new(self.patience);
        loop {
            match self.document_once(&request, bytes_max).await {
                Ok(document) => return Ok(document),
                Err(error) => tries.wait_after(error).await?,
            }
        }
    }

    async fn document_once(&self, request: &Request<'_>, bytes_max: usize) -> Result<Document, OriginError> {
        let url = request.target.url;
        let too_large = || OriginError::TooLarge { url: shown_url(url), bytes_max };
        let mut answer = send(self, request).await?;
        let promised = request::content_length(&answer.response);
        let headers = answer.response.headers().clone();
        let mut body = Vec::new();
        while let Some(bytes) = request::chunk(&mut answer, self.patience, &WanBytes::default()).await? {
            if body.len() + bytes.len() > bytes_max {
                return Err(too_large());
            }
            body.extend_from_slice(&bytes);
        }
        request::check_length(url, promised, body.len() as u64)?;
        let encoding = headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("identity");
        let bad = |cause: String| OriginError::BadAnswer { url: shown_url(url), cause };
        let bytes = match encoding.to_ascii_lowercase().as_str() {
            "identity" => body,
            "gzip" | "x-gzip" => {
                let mut plain = Vec::new();
                let decoded = flate2::read::MultiGzDecoder::new(&body[..]).take(bytes_max as u64 + 1);
                { decoded }.read_to_end(&mut plain).map_err(|error| bad(format!("its gzip is broken: {error}")))?;
                if plain.len() > bytes_max {
                    return Err(too_large());
                }
                plain
            }
            other => return Err(bad(format!("it is encoded ({other}), which was not asked for"))),
        };
        Ok(Document { bytes: Bytes::from(bytes), headers: Headers(headers) })
    }
}
