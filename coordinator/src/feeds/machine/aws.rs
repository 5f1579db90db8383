//! Amazon's: a key with its session, from the environment, by a token of another identity provider (EKS, CI systems), from the
//! agent of a container (ECS, EKS), or from the metadata service of a machine (IMDSv2).
//!
//! <https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>, without the files of profiles, which are for people.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use roxmltree::Document;
use serde::Deserialize;

use super::{METADATA, Machine, file, json, lasts_until, text};

/// Where containers ask.
const CONTAINERS: &str = "http://169.254.170.2";

/// Hosts that may be told a container's token without encryption: on the machine itself.
const CONTAINER_HOSTS: [&str; 5] = ["127.0.0.1", "[::1]", "localhost", "169.254.170.23", "[fd00:ec2::23]"];

/// How long what does not say its end is used.
const KEYS_LIFE: Duration = Duration::from_secs(3600);

/// A key that signs.
pub(in crate::feeds) struct Keys {
    pub(in crate::feeds) id: String,
    pub(in crate::feeds) secret: String,
    /// What says that the key was lent.
    pub(in crate::feeds) session: Option<String>,
}

/// What containers' agents and machines' metadata say.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<String>,
}

impl Answer {
    fn keys(self) -> (Keys, Duration) {
        let life = self.expiration.as_deref().and_then(lasts_until).unwrap_or(KEYS_LIFE);
        (Keys { id: self.access_key_id, secret: self.secret_access_key, session: self.token }, life)
    }
}

impl Machine {
    /// The key of the machine's role, in a region where one has to be named.
    pub(in crate::feeds) async fn aws(&self, region: &str) -> Result<Arc<Keys>, String> {
        if let Some(keys) = self.keys.find("") {
            return Ok(keys);
        }
        let (keys, life) = self.ask_aws(region).await?;
        let keys = Arc::new(keys);
        self.keys.keep("", Arc::clone(&keys), life);
        Ok(keys)
    }

    async fn ask_aws(&self, region: &str) -> Result<(Keys, Duration), String> {
        let variable = |name| self.variable(name);
        if let (Some(id), Some(secret)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            let session = variable("AWS_SESSION_TOKEN").map(str::to_owned);
            return Ok((Keys { id: id.to_owned(), secret: secret.to_owned(), session }, KEYS_LIFE));
        }
        if let (Some(path), Some(role)) = (variable("AWS_WEB_IDENTITY_TOKEN_FILE"), variable("AWS_ROLE_ARN")) {
            return self.ask_sts(region, &file(path)?, role).await;
        }
        if let Some(path) = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            return self.ask_container(&format!("{CONTAINERS}{path}")).await;
        }
        if let Some(url) = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
            return self.ask_container(url).await;
        }
        if variable("AWS_EC2_METADATA_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Err("AWS_EC2_METADATA_DISABLED is set, and nothing else says what role the machine has".to_owned());
        }
        self.ask_metadata().await.map_err(|error| format!("{error}: has this machine a role (an instance profile)?"))
    }

    async fn ask_metadata(&self) -> Result<(Keys, Duration), String> {
        let base = self.place("AWS_EC2_METADATA_SERVICE_ENDPOINT", METADATA);
        let ask =
            self.near()?.put(format!("{base}/latest/api/token")).header("x-aws-ec2-metadata-token-ttl-seconds", "300");
        let token = text(ask).await?;
        let near = self.near()?;
        let get = |path: &str| {
            let url = format!("{base}/latest/meta-data/iam/security-credentials/{path}");
            near.get(url).header("x-aws-ec2-metadata-token", &token)
        };
        let roles = text(get("")).await?;
        let role = roles.lines().next().unwrap_or_default();
        Ok(json::<Answer>(get(role)).await?.keys())
    }

    async fn ask_container(&self, url: &str) -> Result<(Keys, Duration), String> {
        let parsed = Url::parse(url).map_err(|error| format!("AWS_CONTAINER_CREDENTIALS_FULL_URI: {error}"))?;
        let host = parsed.host_str().unwrap_or_default();
        if parsed.scheme() != "https" && !CONTAINER_HOSTS.contains(&host) && !url.starts_with(CONTAINERS) {
            return Err(format!(
                "{host} may not be told the token of a container: neither is it this machine nor does it speak TLS"
            ));
        }
        let token = match self.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(path) => Some(file(path)?),
            None => self.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(str::to_owned),
        };
        let ask = self.near()?.get(parsed);
        let ask = match token {
            Some(token) => ask.header("authorization", token),
            None => ask,
        };
        Ok(json::<Answer>(ask).await?.keys())
    }

    /// `AssumeRoleWithWebIdentity` of the Security Token Service.
    async fn ask_sts(&self, region: &str, token: &str, role: &str) -> Result<(Keys, Duration), String> {
        let region = self.variable("AWS_REGION").unwrap_or(region);
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let usual = format!("https://sts.{region}.{domain}");
        let session = self.variable("AWS_ROLE_SESSION_NAME").unwrap_or("shoal");
        let form = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", role),
            ("RoleSessionName", session),
            ("WebIdentityToken", token),
        ];
        let place = self.place("AWS_ENDPOINT_URL_STS", &usual);
        let answer = text(super::form(self.far()?.post(format!("{place}/")), &form)?).await?;
        let document = Document::parse(&answer).map_err(|error| format!("{place} answered no XML: {error}"))?;
        let found = |name: &str| {
            let mut nodes = document.descendants().filter(|node| node.tag_name().name() == name);
            nodes.find_map(|node| node.text()).map(str::to_owned)
        };
        let lacks = |name: &str| format!("{place} answered without `{name}`");
        let one = |name: &str| found(name).ok_or_else(|| lacks(name));
        let (id, secret, session) = (one("AccessKeyId")?, one("SecretAccessKey")?, one("SessionToken")?);
        let life = found("Expiration").as_deref().and_then(lasts_until).unwrap_or(KEYS_LIFE);
        Ok((Keys { id, secret, session: Some(session) }, life))
    }
}
