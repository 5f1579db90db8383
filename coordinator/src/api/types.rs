//! The API's JSON: what requests and answers look like, for the server, the command line and scripts alike.
//!
//! The names here are stable (PRODUCT.md); more fields may join, so readers ignore what they do not know. Every document
//! says in `schema` what it is. Bytes and milliseconds are integers, times RFC 3339, sets are sorted lists. Nothing here
//! decides anything: the driver fills these in from its cores.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shoal_proto::id::{DeploymentId, Name};

pub use super::text::Timestamp;
use super::text::as_text;
pub use super::types_audit::*;
pub use super::types_feeds::*;
pub use super::types_flow::*;
pub use super::types_plan::*;
pub use super::types_status::*;
pub use super::types_summary::*;
pub use super::types_when::*;

macro_rules! schema {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            #[doc = $text]
            #[default]
            #[serde(rename = $text)]
            V1,
        }
    )*};
}

schema! {
    /// Schema of [`Nodes`].
    NodesSchema = "shoal.nodes/v1";
    /// Schema of [`Sites`].
    SitesSchema = "shoal.sites/v1";
    /// Schema of [`Feeds`].
    FeedsSchema = "shoal.feeds/v1";
    /// Schema of [`FeedTest`].
    FeedTestSchema = "shoal.feed-test/v1";
    /// Schema of [`Tokens`].
    TokensSchema = "shoal.tokens/v1";
    /// Schema of [`NewToken`].
    TokenSchema = "shoal.token/v1";
    /// Schema of [`Plan`].
    PlanSchema = "shoal.plan/v1";
    /// Schema of [`WayBack`].
    WayBackSchema = "shoal.way-back/v1";
    /// Schema of [`Deployment`].
    DeploymentSchema = "shoal.deployment/v1";
    /// Schema of [`Deployments`].
    DeploymentsSchema = "shoal.deployments/v1";
    /// Schema of [`Status`].
    StatusSchema = "shoal.status/v1";
    /// Schema of [`Summary`].
    SummarySchema = "shoal.summary/v1";
    /// Schema of [`Logs`].
    LogsSchema = "shoal.logs/v1";
    /// Schema of [`Outputs`].
    OutputsSchema = "shoal.outputs/v1";
    /// Schema of [`Events`].
    EventsSchema = "shoal.events/v1";
    /// Schema of [`Audit`].
    AuditSchema = "shoal.audit/v1";
    /// Schema of [`AuditVerdict`].
    VerdictSchema = "shoal.audit-verdict/v1";
    /// Schema of [`Done`].
    DoneSchema = "shoal.done/v1";
    /// Schema of an error's body.
    ErrorSchema = "shoal.error/v1";
}

/// Answer to `GET /v1/nodes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// What this is.
    pub schema: NodesSchema,
    /// Every node that ever joined, by site and name.
    pub nodes: Vec<Node>,
}

/// One node of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, unique in the mesh.
    pub name: String,
    /// Its site.
    pub site: String,
    /// Its labels, roles included.
    pub labels: BTreeMap<String, String>,
    /// Whether it is connected to the coordinator.
    pub online: bool,
    /// Its PeerId.
    pub id: String,
    /// Where its neighbours reach it.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Version of its agent, if it has said.
    #[serde(default)]
    pub version: Option<String>,
    /// Bytes of packages in its cache, if it has said.
    #[serde(default)]
    pub cache_bytes: Option<u64>,
    /// When the coordinator last heard of it.
    #[serde(default)]
    pub last_seen: Option<Timestamp>,
}

/// Answer to `GET /v1/sites`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sites {
    /// What this is.
    pub schema: SitesSchema,
    /// Every site that is configured or has a node, by name.
    pub sites: Vec<Site>,
}

/// One site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Nodes that joined it.
    pub nodes: u32,
    /// How many of them are connected.
    pub online: u32,
    /// The limit on its WAN at present in bytes per second, if there is one.
    #[serde(default)]
    pub wan_limit: Option<u64>,
    /// Why that is the limit: `base`, `calendar` or `operator`.
    #[serde(default)]
    pub limited_by: LimitedBy,
    /// When an operator's limit ends, if it does.
    #[serde(default)]
    pub limited_until: Option<Timestamp>,
    /// The limit where neither calendar nor operator say another.
    #[serde(default)]
    pub base_limit: Option<u64>,
    /// What it reads over its WAN of late, in bytes per second.
    #[serde(default)]
    pub wan_rate: u64,
    /// Its time zone, if it is configured.
    #[serde(default)]
    pub timezone: Option<String>,
    /// Why no step starts there, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shut: Option<ShutSite>,
}

/// Who says what a site's WAN limit is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    /// The site's `wan_limit`.
    #[default]
    Base,
    /// An entry of its calendar.
    Calendar,
    /// An operator.
    Operator,
}

/// Body of `POST /v1/sites/{name}/limit`: what an operator sets in place of the calendar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LimitRequest {
    /// What the calendar says.
    Default,
    /// At most so much, or no limit.
    Set {
        /// Bytes per second; none for no limit.
        limit: Option<u64>,
        /// Until when: `18:00` is the next one on the site's clocks; or a time as RFC 3339. None for ever.
        until: Option<String>,
        /// For how many milliseconds, instead.
        for_ms: Option<u64>,
    },
}

/// Answer to `GET /v1/feeds`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feeds {
    /// What this is.
    pub schema: FeedsSchema,
    /// Every feed of the coordinator's configuration, by name.
    pub feeds: Vec<Feed>,
}

/// One feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    /// Its name.
    pub name: String,
    /// `nuget`, `http`, `folder`, …
    pub kind: String,
    /// Its URL or path, without secrets.
    pub location: String,
    /// URLs of its mirrors.
    #[serde(default)]
    pub mirrors: Vec<String>,
}

/// Body of `POST /v1/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The site that nodes join with it.
    pub site: Name,
    /// The roles that they get, as the label `role` (several become `role.<name>`).
    #[serde(default)]
    pub roles: Vec<Name>,
    /// Seconds until it expires.
    pub ttl_s: u64,
    /// Multiaddresses of the coordinator for the join string, instead of the ones that it listens on.
    #[serde(default)]
    pub advertise: Vec<String>,
    /// Multiaddresses of the coordinator's bulk mesh for nodes that join with it, instead of the ones that it listens on.
    #[serde(default)]
    pub advertise_bulk: Vec<String>,
}

/// Answer to `POST /v1/tokens`: the only place where the join string ever stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// What this is.
    pub schema: TokenSchema,
    /// The join string.
    pub join: String,
    /// What is known of it from here on.
    #[serde(flatten)]
    pub token: Token,
}

/// Answer to `GET /v1/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// What this is.
    pub schema: TokensSchema,
    /// Tokens that are neither expired nor revoked, by id.
    pub tokens: Vec<Token>,
}

/// A join string, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its id, for `token revoke`.
    pub id: String,
    /// The site that nodes join with it.
    pub site: String,
    /// The roles that they get.
    pub roles: Vec<String>,
    /// When it stops to work.
    pub expires: Timestamp,
    /// How many nodes joined with it.
    #[serde(default)]
    pub nodes: u32,
}

/// Body of `POST /v1/plans` and `POST /v1/deployments`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// What messages call the file.
    pub file: String,
    /// The deployment file's text.
    pub text: String,
    /// Whether it ends when the packages are there, before the gate.
    #[serde(default)]
    pub stage_only: bool,
    /// Whether it runs also where all is as the file wants it.
    #[serde(default)]
    pub again: bool,
    /// Values of variables, which win over those in the file.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// When its steps may start at the earliest, in place of what the file says.
    #[serde(default)]
    pub at: Option<String>,
    /// By when they must have begun, in place of what the file says.
    #[serde(default)]
    pub expires: Option<String>,
    /// Why its steps may start also where a site is outside its maintenance windows or frozen, if they may.
    #[serde(default)]
    pub override_window: Option<String>,
    /// The plan that it must be; it is refused if anything that the plan stands on has moved.
    #[serde(default)]
    pub plan: Option<Box<Plan>>,
}

/// Answer to `POST /v1/deployments`, and one row of [`Deployments`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// What this is.
    pub schema: DeploymentSchema,
    /// Its id.
    #[serde(with = "as_text")]
    pub id: DeploymentId,
    /// The deployment file's name.
    pub name: String,
    /// The deployment file's release.
    pub release: String,
    /// How it stands.
    pub state: DeploymentState,
    /// What it is at.
    pub stage: Stage,
    /// Target nodes.
    pub nodes: u32,
    /// When it was accepted.
    pub started: Timestamp,
    /// When it ended.
    #[serde(default)]
    pub ended: Option<Timestamp>,
    /// When its steps may start at the earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// By when they must have begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Whether nothing began, because this earlier deployment did all that was asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchanged: bool,
}

/// Answer to `GET /v1/deployments`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployments {
    /// What this is.
    pub schema: DeploymentsSchema,
    /// The deployments that the coordinator knows, newest first, at most [`super::limits::DEPLOYMENTS_LISTED_MAX`].
    pub deployments: Vec<Deployment>,
}

/// Body of `POST /v1/deployments/{id}/operator`: what an operator wants of a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Has nothing start and nothing be fetched; steps that run are let finish.
    Pause,
    /// Goes on after a pause.
    Resume,
    /// Opens a manual gate.
    Release {
        /// Whether it does not wait for its time, of a gate that is not manual too.
        #[serde(default)]
        now: bool,
    },
    /// Lets its steps start also where a site is outside its maintenance windows or frozen.
    AnyHour,
    /// Takes that back, from here on.
    KeepHours,
    /// Has the next wave begin: before the bake is over, or although too few nodes came through.
    Promote,
    /// Ends it; steps that run are killed.
    Cancel,
    /// Has the nodes that it changed go back to the release before; one that is under way is ended first.
    Rollback {
        /// The plan that it must be, as hexadecimal digits; it is refused if other nodes or releases are meant by now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<String>,
    },
    /// Answers failed steps.
    Answer {
        /// What.
        answer: Answer,
        /// On which node; on every node that waits for an answer if none is given.
        #[serde(default)]
        node: Option<Name>,
        /// To which step; to any if none is given.
        #[serde(default)]
        step: Option<Name>,
    },
}

/// Body of `POST /v1/deployments/{id}/allow`: lets a site read more over its WAN than its budget for reading again pays for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowRequest {
    /// Which site.
    pub site: Name,
    /// How many bytes more of each package that it is about.
    pub bytes: u64,
    /// Of which package; of each that waits if none is given.
    #[serde(default)]
    pub package: Option<Name>,
}

/// The four answers to a failed step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Run it again.
    Retry,
    /// Go on as if it had succeeded.
    Ignore,
    /// Go on without the node.
    Exclude,
    /// Let the deployment fail.
    Fail,
}

/// Answer to a request that changed something: it is kept (ACKED-IS-KEPT).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What this is.
    pub schema: DoneSchema,
    /// What was done, in a sentence.
    pub message: String,
    /// The nodes it was done for, where it was done for some.
    #[serde(default)]
    pub nodes: Vec<String>,
}
