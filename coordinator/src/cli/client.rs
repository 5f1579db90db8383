//! The API's client: typed requests, and errors that say what to do.

use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_proto::id::{DeploymentId, Name};

use super::exit::{CliError, Exit};
use crate::api::command::LogFilter;
use crate::api::limits::{ANSWER_TIMEOUT, DEPLOY_ANSWER_TIMEOUT};
use crate::api::types::*;
use crate::api::{ApiError, ErrorCode, OPERATOR_HEADER, REASON_HEADER};
use crate::audit::Head;
use crate::trail::By;

/// How long a connection may take: longer than a lost packet or two, shorter than patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the way there and back may take beyond the coordinator's own limits.
const TRAVEL_TIME: Duration = Duration::from_secs(5);

/// Bytes of an answer: the status of as many nodes as a coordinator may have, with room to spare.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Speaks to one coordinator.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
    by: By,
}

impl Client {
    /// For the coordinator whose API is at `base`; connects with the first request.
    ///
    /// # Errors
    /// If `base` is no HTTP URL.
    pub fn new(base: &str, token: Option<String>) -> Result<Self, CliError> {
        let url = Url::parse(base).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let wrong = || {
            let message = format!("--coordinator {base} is not the URL of an API");
            CliError::new(Exit::Usage, message).next("it looks like http://127.0.0.1:7441")
        };
        let base = url.ok_or_else(wrong)?;
        let mut builder = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT);
        if matches!(base.host_str(), Some("localhost" | "[::1]"))
            || base.host_str().is_some_and(|h| h.starts_with("127."))
        {
            // A proxy that the environment names cannot reach this machine's loopback.
            builder = builder.no_proxy();
            if base.scheme() == "http" {
                // To read the system's certificates, which nothing needs then, takes longer than most requests.
                builder = builder.tls_certs_only([]);
            }
        }
        let failed = |error| CliError::new(Exit::Unexpected, format!("cannot start an HTTP client: {error}"));
        Ok(Self { http: builder.build().map_err(failed)?, base, token, by: By::default() })
    }

    /// The same for this operator.
    #[must_use]
    pub fn on_behalf_of(self, by: By) -> Self {
        Self { by, ..self }
    }

    /// The same for another reason.
    #[must_use]
    pub fn because(&self, reason: String) -> Self {
        Self { by: By { reason: Some(reason), ..self.by.clone() }, ..self.clone() }
    }

    /// Whether a reason was given.
    pub fn says_why(&self) -> bool {
        self.by.reason.is_some()
    }

    /// The reason that was given.
    pub fn reason(&self) -> Option<&str> {
        self.by.reason.as_deref()
    }

    /// Has no step start at some sites.
    pub async fn freeze(&self, request: &FreezeRequest) -> Result<Done, CliError> {
        self.post(&["freeze"], request, ANSWER_TIMEOUT).await
    }

    /// Ends what operators froze.
    pub async fn thaw(&self, request: &ThawRequest) -> Result<Done, CliError> {
        self.post(&["thaw"], request, ANSWER_TIMEOUT).await
    }

    /// Makes a join string.
    pub async fn create_token(&self, request: &TokenRequest) -> Result<NewToken, CliError> {
        self.post(&["tokens"], request, ANSWER_TIMEOUT).await
    }

    /// Lists join strings that still work.
    pub async fn tokens(&self) -> Result<Tokens, CliError> {
        self.fetch(&["tokens"], "", ANSWER_TIMEOUT).await
    }

    /// Makes a join string useless.
    pub async fn revoke_token(&self, id: &str) -> Result<Done, CliError> {
        self.exchange(self.request(Method::DELETE, &["tokens", id], ""), ANSWER_TIMEOUT).await
    }

    /// What operators did, the newest `count`.
    pub async fn audit(&self, count: u32) -> Result<Audit, CliError> {
        self.fetch(&["audit"], &format!("count={count}"), ANSWER_TIMEOUT).await
    }

    /// Whether the audit log is as it was written; with `known`, also whether it holds that head.
    pub async fn verify_audit(&self, known: Option<Head>) -> Result<AuditVerdict, CliError> {
        let query = known.map_or_else(String::new, |known| format!("head={known}"));
        self.fetch(&["audit", "verify"], &query, DEPLOY_ANSWER_TIMEOUT).await
    }

    /// Lists nodes.
    pub async fn nodes(&self) -> Result<Nodes, CliError> {
        self.fetch(&["nodes"], "", ANSWER_TIMEOUT).await
    }

    /// Lists sites.
    pub async fn sites(&self) -> Result<Sites, CliError> {
        self.fetch(&["sites"], "", ANSWER_TIMEOUT).await
    }

    /// Sets a site's WAN limit.
    pub async fn limit_site(&self, site: &Name, request: &LimitRequest) -> Result<Done, CliError> {
        self.post(&["sites", site.as_str(), "limit"], request, ANSWER_TIMEOUT).await
    }

    /// Lists feeds.
    pub async fn feeds(&self) -> Result<Feeds, CliError> {
        self.fetch(&["feeds"], "", ANSWER_TIMEOUT).await
    }

    /// Tries a feed.
    pub async fn test_feed(&self, feed: &Name, request: &FeedTestRequest) -> Result<FeedTest, CliError> {
        self.post(&["feeds", feed.as_str(), "test"], request, DEPLOY_ANSWER_TIMEOUT).await
    }

    /// Gives a recipe, as its plain form.
    pub async fn add_recipe(&self, plain: Vec<u8>) -> Result<Done, CliError> {
        self.exchange(self.request(Method::POST, &["recipes"], "").body(plain), DEPLOY_ANSWER_TIMEOUT).await
    }

    /// Says what a deployment would do.
    pub async fn plan(&self, request: &DeployRequest) -> Result<Plan, CliError> {
        self.post(&["plans"], request, DEPLOY_ANSWER_TIMEOUT).await
    }

    /// Says what a rollback would do.
    pub async fn way_back(&self, id: DeploymentId) -> Result<WayBack, CliError> {
        self.fetch(&["deployments", &id.to_string(), "way-back"], "", DEPLOY_ANSWER_TIMEOUT).await
    }

    /// Starts a deployment.
    pub async fn deploy(&self, request: &DeployRequest) -> Result<Deployment, CliError> {
        self.post(&["deployments"], request, DEPLOY_ANSWER_TIMEOUT).await
    }

    /// Lists deployments.
    pub async fn deployments(&self) -> Result<Deployments, CliError> {
        self.fetch(&["deployments"], "", ANSWER_TIMEOUT).await
    }

    /// How a deployment stands; the newest if `id` is none.
    pub async fn status(&self, id: Option<DeploymentId>, brief: bool) -> Result<Status, CliError> {
        let id = id.map_or_else(|| "latest".to_owned(), |id| id.to_string());
        self.fetch(&["deployments", &id], &format!("brief={brief}"), ANSWER_TIMEOUT).await
    }

    /// What steps wrote after line `after`; waits up to `wait` for more.
    pub async fn logs(
        &self,
        id: DeploymentId,
        filter: &LogFilter,
        after: u64,
        wait: Duration,
    ) -> Result<Logs, CliError> {
        // Names need no escapes in a URL.
        let of = |key: &str, name: &Option<_>| name.as_ref().map_or(String::new(), |name| format!("&{key}={name}"));
        let (node, step) = (of("node", &filter.node), of("step", &filter.step));
        let query = format!("after={after}&wait_ms={}{node}{step}", wait.as_millis());
        self.fetch(&["deployments", &id.to_string(), "logs"], &query, ANSWER_TIMEOUT + wait).await
    }

    /// What happened after event `after`; waits up to `wait` for more.
    pub async fn events(&self, id: DeploymentId, after: u64, wait: Duration) -> Result<Events, CliError> {
        let query = format!("after={after}&wait_ms={}", wait.as_millis());
        self.fetch(&["deployments", &id.to_string(), "events"], &query, ANSWER_TIMEOUT + wait).await
    }

    /// Does what an operator wants.
    pub async fn operator(&self, id: DeploymentId, action: &Action) -> Result<Done, CliError> {
        self.post(&["deployments", &id.to_string(), "operator"], action, ANSWER_TIMEOUT).await
    }

    /// Lets a site read more than its budget pays for.
    pub async fn allow(&self, id: DeploymentId, request: &AllowRequest) -> Result<Done, CliError> {
        self.post(&["deployments", &id.to_string(), "allow"], request, ANSWER_TIMEOUT).await
    }

    async fn fetch<T: DeserializeOwned>(&self, path: &[&str], query: &str, limit: Duration) -> Result<T, CliError> {
        self.exchange(self.request(Method::GET, path, query), limit).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<T, CliError> {
        self.exchange(self.request(Method::POST, path, "").json(body), limit).await
    }

    fn request(&self, method: Method, path: &[&str], query: &str) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        url.set_query(Some(query).filter(|query| !query.is_empty()));
        let mut request = self.http.request(method, url);
        let By { who, reason } = &self.by;
        let said = [(OPERATOR_HEADER, Some(who)), (REASON_HEADER, reason.as_ref())];
        for (header, text) in said.into_iter().filter_map(|(header, text)| Some((header, text?))) {
            if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
                request = request.header(header, value);
            }
        }
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn exchange<T: DeserializeOwned>(&self, request: RequestBuilder, limit: Duration) -> Result<T, CliError> {
        let failed = |error: reqwest::Error| self.unreachable(&error);
        let mut response = request.timeout(limit + TRAVEL_TIME).send().await.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(self.stranger("with more than a coordinator ever says"));
            }
        }
        if response.status().is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| self.stranger(&format!("what cannot be read ({error})")));
        }
        match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => Err(self.with_token_hint(error)),
            Err(_) => Err(self.stranger(&format!("{}, not as a Shoal coordinator does", response.status()))),
        }
    }

    fn with_token_hint(&self, error: ApiError) -> CliError {
        let no_token = error.code == ErrorCode::NotAllowed && self.token.is_none();
        let message = format!("the coordinator at {} wants the operator's token, and none is given", self.address());
        let error = CliError::from(error);
        if no_token { CliError { message, ..error } } else { error }
    }

    fn address(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        let base = self.address();
        if error.is_timeout() && !error.is_connect() {
            return CliError::new(Exit::Unreachable, format!("the coordinator at {base} did not answer in time"))
                .next("look at the log of `shoal serve`");
        }
        let message = format!("no coordinator answers at {base}");
        CliError::new(Exit::Unreachable, message).next("is `shoal serve` running? pass --coordinator URL")
    }

    fn stranger(&self, what: &str) -> CliError {
        let message = format!("{} answered {what}", self.address());
        let next = "check --coordinator, and compare the versions of `shoal` here and on the coordinator";
        CliError::new(Exit::Unexpected, message).next(next)
    }
}
