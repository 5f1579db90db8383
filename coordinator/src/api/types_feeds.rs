//! Trying a feed: what is asked of the API, and what comes back.

use serde::{Deserialize, Serialize};

use super::types::FeedTestSchema;

/// Body of `POST /v1/feeds/{name}/test`: a package as a deployment file names it; none to see only whether the feed answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedTestRequest {
    /// What the feed calls it.
    #[serde(default)]
    pub id: Option<String>,
    /// Which version.
    #[serde(default)]
    pub version: Option<String>,
    /// Which of its files.
    #[serde(default)]
    pub file: Option<String>,
    /// Which of its variants.
    #[serde(default)]
    pub platform: Option<String>,
}

/// Answer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedTest {
    /// What this is.
    pub schema: FeedTestSchema,
    /// Which feed.
    pub feed: String,
    /// What was found, with the version that would be pinned; none if no package was named.
    pub package: Option<String>,
    /// Its size in bytes.
    pub bytes: Option<u64>,
    /// Its hashes, as the feed says them.
    #[serde(default)]
    pub digests: Vec<String>,
    /// What is proved to the feed: `none`, `password`, `token`, `signed URL`.
    pub auth: String,
    /// Whether nodes can read at all places.
    pub works: bool,
    /// The feed's own place, what it calls its equals, and its mirrors.
    pub places: Vec<FeedTestPlace>,
}

/// How one place did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedTestPlace {
    /// Where, without secrets.
    pub url: String,
    /// The sites that read there first; none for those without a mirror.
    #[serde(default)]
    pub sites: Vec<String>,
    /// Whether nodes can read there, as far as the coordinator can tell.
    pub works: bool,
    /// Whether it answers ranges; null if that is not known.
    pub ranges: Option<bool>,
    /// By what it is known to be unchanged.
    pub validator: Option<String>,
    /// Milliseconds to its first answer.
    pub latency_ms: Option<u64>,
    /// Bytes a second of a short read from the coordinator.
    pub rate: Option<u64>,
    /// What to know or to change.
    pub advice: String,
}
