//! Why a package cannot be found in a feed. Messages name the feed, the package and what to do; none tells a secret.

use std::path::PathBuf;

use shoal_node::origin::OriginError;
use shoal_proto::origin::HttpOriginError;

/// Why a reference does not resolve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// A package of a deployment file that says too little or too much.
    #[error("package `{package}`: {problem}")]
    Reference {
        /// What the deployment file calls it.
        package: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No such feed.
    #[error("there is no feed `{feed}`{}", feed_hint(meant.as_deref(), known))]
    UnknownFeed {
        /// What was asked for.
        feed: String,
        /// The feed that was probably meant.
        meant: Option<String>,
        /// All that there are.
        known: String,
    },
    /// An id or version that the feed cannot have.
    #[error("feed `{feed}` cannot have {what}: {problem}")]
    Impossible {
        /// The feed.
        feed: String,
        /// What was asked for.
        what: String,
        /// Why not.
        problem: String,
    },
    /// No such package.
    #[error("{feed} has no {what}{}", suffix(": check its id", hint))]
    NoPackage {
        /// The feed, as people call it.
        feed: String,
        /// What was asked for.
        what: String,
        /// What there is instead.
        hint: String,
    },
    /// The package, but not this version.
    #[error("feed `{feed}` has no version {version} of {id}{}", suffix("", hint))]
    NoVersion {
        /// The feed.
        feed: String,
        /// The package.
        id: String,
        /// What was asked for.
        version: String,
        /// What there is instead.
        hint: String,
    },
    /// 401 or 403.
    #[error("{feed} answered {status} for {what}: {advice}")]
    Refused {
        /// The feed, as people call it.
        feed: String,
        /// 401 or 403.
        status: u16,
        /// What was asked for.
        what: String,
        /// What to do.
        advice: String,
    },
    /// The password file.
    #[error("cannot read the password of feed `{feed}` from {path}: {cause}")]
    Password {
        /// The feed.
        feed: String,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The environment variable that a secret is in.
    #[error(
        "feed `{feed}` wants a secret in the environment variable {name}, which is not set: set it for `shoal serve`"
    )]
    NoVariable {
        /// The feed.
        feed: String,
        /// The variable.
        name: String,
    },
    /// The file of certificates.
    #[error("cannot use the `ca_file` of feed `{feed}`, {path}: {cause}")]
    CaFile {
        /// The feed.
        feed: String,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// What its URLs are to be signed with.
    #[error("cannot sign URLs of feed `{feed}`: {cause}")]
    Sign {
        /// The feed.
        feed: String,
        /// Why not.
        cause: String,
    },
    /// It does not say how large the package is, so that ranges of it cannot be asked for.
    #[error("{feed} does not say how large {what} is: deploy it from a feed that does, or from a folder")]
    NoSize {
        /// The feed, as people call it.
        feed: String,
        /// What was asked for.
        what: String,
    },
    /// A document of the feed that is not what it should be.
    #[error("feed `{feed}` sent a document that cannot be used, {url}: {problem}")]
    Document {
        /// The feed.
        feed: String,
        /// Which document.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A path that cannot be read, or leads out of the folder.
    #[error("feed `{feed}` cannot give {what}: {problem}")]
    Folder {
        /// The feed.
        feed: String,
        /// What was asked for.
        what: String,
        /// Why not.
        problem: String,
    },
    /// Any other failure to ask.
    #[error("{feed} cannot be asked for {what}: {source}")]
    Origin {
        /// The feed, as people call it.
        feed: String,
        /// What was asked for.
        what: String,
        /// Why.
        source: Box<OriginError>,
    },
    /// What the feed answered does not make an origin.
    #[error("{feed} cannot be the origin of {what}: {source}")]
    NoOrigin {
        /// The feed, as people call it.
        feed: String,
        /// What was asked for.
        what: String,
        /// Why.
        source: HttpOriginError,
    },
}

impl FeedError {
    /// What a kind answers that cannot resolve anything.
    pub(super) fn unknown(wanted: &super::Wanted<'_>) -> Self {
        Self::Reference { package: wanted.what(), problem: "its feed gives no packages".to_owned() }
    }
}

fn feed_hint(meant: Option<&str>, known: &str) -> String {
    match (meant, known) {
        (Some(meant), _) => format!(": did you mean `{meant}`?"),
        (None, "") => ": the configuration has none".to_owned(),
        (None, known) => format!(": the configuration has {known}"),
    }
}

fn suffix(otherwise: &str, hint: &str) -> String {
    if hint.is_empty() { otherwise.to_owned() } else { format!(": {hint}") }
}

/// Whom to blame, and what to advise, when an origin refuses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blame<'a> {
    /// The feed, as people call it.
    pub(super) feed: &'a str,
    /// What was asked for.
    pub(super) what: &'a str,
    /// What to do about a 401.
    pub(super) unauthorized: &'a str,
}

impl Blame<'_> {
    pub(super) fn error(self, error: OriginError) -> FeedError {
        let (feed, what) = (self.feed.to_owned(), self.what.to_owned());
        let refused = |status, advice: &str| FeedError::Refused {
            feed: feed.clone(),
            status,
            what: what.clone(),
            advice: advice.to_owned(),
        };
        match error {
            OriginError::Unauthorized { .. } => refused(401, self.unauthorized),
            OriginError::Forbidden { .. } => refused(403, "its user may not read it, or a signed URL has expired"),
            OriginError::NotFound { .. } => FeedError::NoPackage { feed, what, hint: String::new() },
            other => FeedError::Origin { feed, what, source: Box::new(other) },
        }
    }
}
