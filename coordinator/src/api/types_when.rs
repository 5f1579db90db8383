//! When steps may start: freezes, and what is shut.

use serde::{Deserialize, Serialize};
use shoal_proto::id::Name;

use super::text::Timestamp;

/// Body of `POST /v1/freeze`: no step starts at some sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreezeRequest {
    /// Which sites; all if none are given.
    #[serde(default)]
    pub sites: Vec<Name>,
    /// Why, for people.
    pub reason: String,
    /// Until when, as operators write times; until it is ended if neither this nor the next is given.
    #[serde(default)]
    pub until: Option<String>,
    /// For how many milliseconds, instead.
    #[serde(default)]
    pub for_ms: Option<u64>,
}

/// Body of `POST /v1/thaw`: ends what operators froze.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThawRequest {
    /// Which sites; what was frozen for all if none are given.
    #[serde(default)]
    pub sites: Vec<Name>,
}

/// A site at which no step starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutSite {
    /// Which site.
    pub site: String,
    /// Why.
    pub why: ShutWhy,
    /// What was said of a freeze.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it opens next, as far as that is known.
    #[serde(default)]
    pub until: Option<Timestamp>,
}

/// Why no step starts at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShutWhy {
    /// It is outside its maintenance windows.
    Window,
    /// It is frozen.
    Freeze,
}
