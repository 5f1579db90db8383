//! What the machine that the coordinator runs on may do in its cloud: keys and tokens that the cloud lends to a role, so that
//! nobody has to keep one. They are found as the clouds' own libraries find them: by environment variables that name a file, a
//! place or a key, and else by the metadata service of the machine.
//!
//! What is lent is in memory alone, until some minutes before it ends. Nodes get what was signed with it, and never the thing
//! itself. Metadata services are asked directly, whatever the environment says of proxies: they are on the machine's own link,
//! and a proxy would answer for its own role.
//!
//! `object_store` would lend the same, as fourteen crates more; it signs no version of an object, which is what is pinned here,
//! so that signing would be our own beside it.

mod aws;
mod azure;
mod google;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Client, RequestBuilder};
use serde::de::DeserializeOwned;
use shoal_proto::limits::{MACHINE_ANSWER_BYTES_MAX, MACHINE_ANSWER_WAIT, PASSWORD_BYTES_MAX};
use shoal_proto::origin::shown_url;

use super::asked::read_bounded;
use super::tokens::Lent;
pub(super) use aws::Keys;
pub(super) use azure::DelegationKey;

/// Where the metadata services of all clouds are.
const METADATA: &str = "http://169.254.169.254";

/// The machine, as its cloud knows it.
pub(super) struct Machine {
    variables: BTreeMap<String, String>,
    /// For services on the machine's own link, and for those of the cloud; made when they are needed.
    clients: OnceLock<Result<[Client; 2], String>>,
    keys: Lent<Arc<Keys>>,
    tokens: Lent<Arc<str>>,
    delegated: Lent<Arc<DelegationKey>>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Machine")
    }
}

impl Machine {
    /// This one.
    pub(super) fn this() -> Self {
        let ours = |name: &str| {
            ["AWS_", "AZURE_", "GCE_", "IDENTITY_", "CLOUDSDK_"].iter().any(|start| name.starts_with(start))
        };
        Self::with(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .filter(|(name, value)| ours(name) && !value.is_empty())
                .collect(),
        )
    }

    /// One with these environment variables.
    pub(super) fn with(variables: BTreeMap<String, String>) -> Self {
        let (keys, tokens, delegated) = (Lent::default(), Lent::default(), Lent::default());
        Self { variables, clients: OnceLock::new(), keys, tokens, delegated }
    }

    /// Forgets what was lent: somebody was refused with it.
    pub(super) fn forget(&self) {
        self.keys.forget("");
        self.tokens.forget("");
        self.delegated.forget("");
    }

    /// What asks services on the machine's own link.
    fn near(&self) -> Result<&Client, String> {
        self.clients().map(|[near, _]| near)
    }

    /// What asks services of the cloud.
    fn far(&self) -> Result<&Client, String> {
        self.clients().map(|[_, far]| far)
    }

    fn clients(&self) -> Result<&[Client; 2], String> {
        let builder = || Client::builder().timeout(MACHINE_ANSWER_WAIT).redirect(reqwest::redirect::Policy::none());
        let build = |builder: reqwest::ClientBuilder| builder.build().map_err(|error| error.to_string());
        // What is near speaks no TLS, but for agents of containers.
        let near = || build(builder().no_proxy()).or_else(|_| build(builder().no_proxy().tls_certs_only([])));
        self.clients.get_or_init(|| Ok([near()?, build(builder())?])).as_ref().map_err(String::clone)
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The URL that a variable gives, or the usual one; without a `/` at its end.
    fn place<'a>(&'a self, name: &str, usual: &'a str) -> &'a str {
        self.variable(name).unwrap_or(usual).trim_end_matches('/')
    }
}

/// Asks, and reads what is answered.
async fn text(request: RequestBuilder) -> Result<String, String> {
    let (client, request) = request.build_split();
    let request = request.map_err(|error| error.without_url().to_string())?;
    let (method, url) = (request.method().clone(), shown_url(request.url().as_str()));
    let failed = |error: reqwest::Error| match error.is_timeout() {
        true => format!("{method} {url}: no answer in {} s", MACHINE_ANSWER_WAIT.as_secs()),
        false => format!("{method} {url}: {}", causes(error)),
    };
    let mut response = client.execute(request).await.map_err(failed)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MACHINE_ANSWER_BYTES_MAX {
            return Err(format!("{method} {url}: its answer is over {MACHINE_ANSWER_BYTES_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    match status.is_success() {
        true => String::from_utf8(body).map_err(|_| format!("{method} {url}: its answer is no text")),
        // What services say of a refusal has no secret in it, and is what an operator has to read.
        false => Err(format!("{method} {url} answered {}: {}", status.as_u16(), first_words(&body))),
    }
}

/// The same for an answer in JSON.
async fn json<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, String> {
    let text = text(request).await?;
    // The error tells no value, but where it is and what was wanted.
    serde_json::from_str(&text).map_err(|error| format!("an answer that cannot be used: {error}"))
}

/// The whole chain of causes in one line, without the URL, which may hold secrets.
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut next: Option<&dyn std::error::Error> = Some(&error);
    let all = std::iter::from_fn(|| {
        let error = next?;
        next = error.source();
        Some(error.to_string())
    });
    all.collect::<Vec<_>>().join(": ")
}

/// What was answered, with `advice` where that is a refusal.
fn advised(error: String, advice: &str) -> String {
    match ["answered 401", "answered 403"].iter().any(|refused| error.contains(refused)) {
        true => format!("{error}; {advice}"),
        false => error,
    }
}

/// The beginning of a body, in one line.
fn first_words(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

/// A form as the body of a request.
fn form(request: RequestBuilder, pairs: &[(&str, &str)]) -> Result<RequestBuilder, String> {
    let url = reqwest::Url::parse_with_params("http://form/", pairs).map_err(|error| error.to_string())?;
    let body = url.query().unwrap_or_default().to_owned();
    Ok(request.header("content-type", "application/x-www-form-urlencoded").body(body))
}

/// A token in a file that the cloud's own agent renews.
fn file(path: &str) -> Result<String, String> {
    let text = read_bounded(Path::new(path), PASSWORD_BYTES_MAX).map_err(|error| format!("{path}: {error}"))?;
    Ok(text.trim().to_owned())
}

/// How long something lasts that ends at `text`, a moment as RFC 3339 has it.
fn lasts_until(text: &str) -> Option<Duration> {
    let left = text.parse::<Timestamp>().ok()?.duration_since(Timestamp::now());
    Some(Duration::try_from(left).unwrap_or_default())
}

#[cfg(test)]
mod tests;
