//! A store of objects as S3 and Google's Cloud Storage are: it reads a URL only with a signature in Version 4 that is right and
//! has not ended, and perhaps keeps every version of an object.
//!
//! It works the signature out anew, by the documents of the stores and without any code of the programs under test.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

use crate::request::Request;

/// Whose URLs a store reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// How it spells things.
    pub dialect: Dialect,
    /// The access key's id.
    pub id: &'static str,
    /// Its secret.
    pub secret: &'static str,
    /// Whether it keeps an object that was replaced, and tells versions apart.
    pub keeps_versions: bool,
}

/// How a store spells things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// As S3.
    Amazon,
    /// As Google's Cloud Storage.
    Google,
}

impl Dialect {
    fn prefix(self) -> &'static str {
        match self {
            Self::Amazon => "X-Amz-",
            Self::Google => "X-Goog-",
        }
    }

    /// The header of an answer that names an object's version.
    pub(super) fn version_header(self) -> &'static str {
        match self {
            Self::Amazon => "x-amz-version-id",
            Self::Google => "x-goog-generation",
        }
    }

    /// The version that a request is for, if it says.
    pub(super) fn version(self, request: &Request) -> Option<u64> {
        let name = match self {
            Self::Amazon => "versionId=",
            Self::Google => "generation=",
        };
        request.query.split('&').find_map(|pair| pair.strip_prefix(name))?.parse().ok()
    }
}

impl Store {
    /// Whether a request that came to `host` may not read.
    pub(super) fn refuses(&self, request: &Request, host: &str) -> bool {
        self.signature(request, host).is_none_or(|(wanted, ends)| {
            self.parameter(request, "Signature") != Some(&*wanted) || ends <= Timestamp::now()
        })
    }

    fn parameter<'r>(&self, request: &'r Request, name: &str) -> Option<&'r str> {
        let name = format!("{}{name}=", self.dialect.prefix());
        request.query.split('&').find_map(|pair| pair.strip_prefix(&*name))
    }

    /// The signature that the request must have, and when it ends.
    fn signature(&self, request: &Request, host: &str) -> Option<(String, Timestamp)> {
        let moment = self.parameter(request, "Date")?;
        let life_s: i64 = self.parameter(request, "Expires")?.parse().ok()?;
        let begins = TimeZone::UTC.to_timestamp(DateTime::strptime("%Y%m%dT%H%M%SZ", moment).ok()?).ok()?;
        let credential = self.parameter(request, "Credential")?.replace("%2F", "/");
        let (id, scope) = credential.split_once('/')?;
        let [date, region, service, terminator] = scope.split('/').collect::<Vec<_>>()[..] else { return None };
        let family = match (self.dialect, service, terminator) {
            (Dialect::Amazon, "s3", "aws4_request") => "AWS4",
            (Dialect::Google, "storage", "goog4_request") => "GOOG4",
            _ => return None,
        };
        let algorithm = format!("{family}-HMAC-SHA256");
        if id != self.id || !moment.starts_with(date) || self.parameter(request, "Algorithm") != Some(&*algorithm) {
            return None;
        }
        let own = format!("{}Signature=", self.dialect.prefix());
        let mut query: Vec<&str> = request.query.split('&').filter(|pair| !pair.starts_with(&own)).collect();
        query.sort_unstable();
        let canonical = format!("GET\n{}\n{}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD", request.path, query.join("&"));
        let text = format!("{algorithm}\n{moment}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let mut key = format!("{family}{}", self.secret).into_bytes();
        for part in [date, region, service, terminator, &text] {
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key of HMAC has any length");
            mac.update(part.as_bytes());
            key = mac.finalize().into_bytes().to_vec();
        }
        Some((hex(&key), begins + jiff::SignedDuration::from_secs(life_s)))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
