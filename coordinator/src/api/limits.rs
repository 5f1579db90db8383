//! Bounds of the API, each with its reason (BOUNDED).

use std::time::Duration;

/// Bytes of a request's body: a deployment file with every script at its limit would be larger than its manifest may be.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Connections at a time: operators, scripts and dashboards; each costs a task and a socket.
pub const CONNECTIONS_MAX: usize = 256;

/// Commands that wait for the driver: more than the driver answers in a second would only grow old there.
pub const COMMANDS_QUEUED_MAX: usize = 64;

/// How long the driver may take to answer anything that does not wait for something to happen. Resolving a deployment
/// reads whole packages from feeds, so it has [`DEPLOY_ANSWER_TIMEOUT`].
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the driver may take to answer `Deploy`: a package of 100 GiB is read once at 100 MB/s in 18 minutes.
pub const DEPLOY_ANSWER_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// The longest that a request may wait for events or log lines: below the idle time-out of usual proxies.
pub const WAIT_MS_MAX: u64 = 25_000;

/// Lines in one answer to `logs`: about 100 kB of usual lines.
pub const LOG_LINES_MAX: usize = 1_000;

/// Events in one answer.
pub const EVENTS_MAX: usize = 1_000;

/// Deployments in one answer: a screenful for people, more than a script looks back.
pub const DEPLOYMENTS_LISTED_MAX: usize = 100;

/// Lines of a failed step's output in a status: what a person reads before asking for the whole.
pub const TAIL_LINES_MAX: usize = 10;

/// Addresses in one join string: it is pasted by hand.
pub const ADVERTISED_MAX: usize = 8;

/// Letters of a multiaddress or file name in a request.
pub const TEXT_LEN_MAX: usize = 512;

/// Bytes of a text in what is kept of an operator's command, such as what it was about: a paragraph.
pub const ACT_TEXT_BYTES_MAX: usize = 1024;

/// Commands of operators that are kept in memory to be listed; the audit log has them all.
pub const ACTS_KEPT_MAX: usize = 1000;

/// Roles of one join string.
pub const ROLES_MAX: usize = 16;

/// The longest life of a join string, in seconds: a year.
pub const TOKEN_TTL_S_MAX: u64 = 365 * 24 * 3600;
