//! What the API asks the coordinator's driver: one command per request, each with the place for its answer.
//!
//! The driver owns all state and answers in its own time; a reply that nobody waits for any more (the client went away)
//! is dropped by it without a word. What a command changed is flushed before its answer (ACKED-IS-KEPT).

use std::time::Duration;

use bytes::Bytes;
use shoal_proto::id::{DeploymentId, Name};
use tokio::sync::oneshot;

use super::error::ApiError;
use super::types::{
    Action, AllowRequest, Audit, AuditVerdict, DeployRequest, Deployment, Deployments, Done, Events, FeedTest,
    FeedTestRequest, Feeds, FreezeRequest, LimitRequest, Logs, NewToken, Nodes, Plan, Sites, Status, ThawRequest,
    TokenRequest, Tokens, WayBack,
};

use crate::audit::Head;
use crate::trail::By;

/// Where the driver puts its answer.
pub type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// One request to the driver. Texts in it are checked for length only; files and names that must exist are the driver's.
#[derive(Debug)]
pub enum Command {
    /// Makes a join string.
    CreateToken {
        /// For whom.
        request: TokenRequest,
        /// On whose behalf.
        by: By,
        /// The join string.
        reply: Reply<NewToken>,
    },
    /// Lists join strings that still work.
    ListTokens {
        /// Them.
        reply: Reply<Tokens>,
    },
    /// Makes a join string useless; nodes that joined with it stay.
    RevokeToken {
        /// Its id.
        id: String,
        /// On whose behalf.
        by: By,
        /// Done.
        reply: Reply<Done>,
    },
    /// What operators did.
    Audit {
        /// How much of it, from the newest.
        count: usize,
        /// It.
        reply: Reply<Audit>,
    },
    /// Whether the audit log is as it was written.
    VerifyAudit {
        /// A head that it must hold.
        known: Option<Head>,
        /// Whether.
        reply: Reply<AuditVerdict>,
    },
    /// Lists nodes.
    Nodes {
        /// Them.
        reply: Reply<Nodes>,
    },
    /// Lists sites.
    Sites {
        /// Them.
        reply: Reply<Sites>,
    },
    /// Sets a site's WAN limit.
    LimitSite {
        /// Which site.
        site: Name,
        /// To what.
        request: LimitRequest,
        /// On whose behalf.
        by: By,
        /// Done.
        reply: Reply<Done>,
    },
    /// Has no step start at some sites.
    Freeze {
        /// Where, why and until when.
        request: FreezeRequest,
        /// On whose behalf.
        by: By,
        /// Done.
        reply: Reply<Done>,
    },
    /// Ends what operators froze.
    Thaw {
        /// Where.
        request: ThawRequest,
        /// On whose behalf.
        by: By,
        /// Done.
        reply: Reply<Done>,
    },
    /// Lists feeds.
    Feeds {
        /// Them.
        reply: Reply<Feeds>,
    },
    /// Tries a feed.
    TestFeed {
        /// Which feed.
        feed: Name,
        /// With which package.
        request: FeedTestRequest,
        /// How it did.
        reply: Reply<FeedTest>,
    },
    /// Keeps a recipe that was made where its package was built.
    AddRecipe {
        /// Its plain form.
        plain: Bytes,
        /// On whose behalf.
        by: By,
        /// Done.
        reply: Reply<Done>,
    },
    /// Parses and resolves a deployment file, and says what it would do.
    Plan {
        /// The file.
        request: DeployRequest,
        /// What; boxed, since it is large.
        reply: Reply<Box<Plan>>,
    },
    /// Says what a rollback would do.
    WayBack {
        /// Of which deployment.
        id: DeploymentId,
        /// What.
        reply: Reply<WayBack>,
    },
    /// Parses, resolves and starts a deployment.
    Deploy {
        /// The file.
        request: DeployRequest,
        /// On whose behalf.
        by: By,
        /// Its id.
        reply: Reply<Deployment>,
    },
    /// Lists deployments.
    Deployments {
        /// Them.
        reply: Reply<Deployments>,
    },
    /// How a deployment stands.
    Status {
        /// Which; the newest if none is given.
        id: Option<DeploymentId>,
        /// How, with every target node; boxed, since it is large. `steps` and `summary` may stay empty: the API
        /// fills them in.
        reply: Reply<Box<Status>>,
    },
    /// Output of steps.
    Logs {
        /// Of which deployment.
        id: DeploymentId,
        /// Which lines.
        filter: LogFilter,
        /// From where, and how long to wait for more.
        cursor: Cursor,
        /// Them, at most [`super::limits::LOG_LINES_MAX`].
        reply: Reply<Logs>,
    },
    /// What happened in a deployment.
    Events {
        /// In which.
        id: DeploymentId,
        /// From where, and how long to wait for more.
        cursor: Cursor,
        /// Them, at most [`super::limits::EVENTS_MAX`].
        reply: Reply<Events>,
    },
    /// Does what an operator wants.
    Operator {
        /// To which deployment.
        id: DeploymentId,
        /// What.
        action: Action,
        /// On whose behalf.
        by: By,
        /// Done.
        reply: Reply<Done>,
    },
    /// Lets a site read more than its budget pays for.
    Allow {
        /// For which deployment.
        id: DeploymentId,
        /// Which site, and how much.
        request: AllowRequest,
        /// On whose behalf.
        by: By,
        /// Done.
        reply: Reply<Done>,
    },
}

/// Which lines of output are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Of this node only.
    pub node: Option<Name>,
    /// Of this step only.
    pub step: Option<Name>,
}

/// Where to go on in a sequence that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The number of the last thing already seen; 0 for none.
    pub after: u64,
    /// How long to wait if there is nothing after it; then the answer is empty. At most
    /// [`super::limits::WAIT_MS_MAX`].
    pub wait: Duration,
}
