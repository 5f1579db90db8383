//! Azure's: a token of a managed identity, from the metadata service of a machine or from that of an app, or for a token of
//! Kubernetes (workload identity). With it the store itself lends a key for some hours, the *user delegation key*, by which URLs
//! are signed; the identity needs the role *Storage Blob Data Reader*, which includes that.
//!
//! <https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token>,
//! <https://learn.microsoft.com/rest/api/storageservices/get-user-delegation-key>.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Certificate;
use roxmltree::Document;
use serde::Deserialize;

use super::super::objects::moment;
use super::{METADATA, Machine, advised, file, json, lasts_until, text};

/// What a token is for.
const STORAGE: &str = "https://storage.azure.com/";

const LOGIN: &str = "https://login.microsoftonline.com";

/// How long a key is asked for, beyond what is signed by it. Stores lend one for seven days at most.
const KEY_LIFE: Duration = Duration::from_secs(3600);
const KEY_LIFE_MAX: Duration = Duration::from_secs(7 * 24 * 3600 - 300);

/// How long a token is used that does not say its end.
const TOKEN_LIFE: Duration = Duration::from_secs(600);

/// A key that a store lent to an identity.
pub(in crate::feeds) struct DelegationKey {
    /// Whose, as they are written into URLs: object, tenant, start, end, service and version.
    pub(in crate::feeds) named: [String; 6],
    pub(in crate::feeds) key: Vec<u8>,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    /// Metadata services write a number as a text.
    expires_in: Option<serde_json::Value>,
}

impl Machine {
    /// The key that the store with the account at `account_url` lends, good for what is signed for `life`.
    pub(in crate::feeds) async fn azure(
        &self,
        account_url: &str,
        ca_pem: Option<&str>,
        version: &str,
        life: Duration,
    ) -> Result<Arc<DelegationKey>, String> {
        let scope = format!("{account_url} {}", life.as_secs());
        if let Some(key) = self.delegated.find(&scope) {
            return Ok(key);
        }
        let token = self.azure_token().await?;
        let lasts = (life + KEY_LIFE).min(KEY_LIFE_MAX);
        let at = |later: Duration| moment("%Y-%m-%dT%H:%M:%SZ", later.as_secs());
        let body = format!("<KeyInfo><Start>{}</Start><Expiry>{}</Expiry></KeyInfo>", at(Duration::ZERO), at(lasts));
        let ask = self.store_client(ca_pem)?.post(format!("{account_url}?restype=service&comp=userdelegationkey"));
        let ask = ask
            .bearer_auth(&*token)
            .header("x-ms-version", version)
            .header("content-type", "application/xml")
            .body(body);
        let advice = "the machine's identity needs the role Storage Blob Data Reader on the account or container";
        let answer = text(ask).await.map_err(|error| advised(error, advice))?;
        let key = Arc::new(delegation_key(&answer)?);
        // For as long as what is signed by it does not outlive it.
        self.delegated.keep(&scope, Arc::clone(&key), lasts.saturating_sub(life));
        Ok(key)
    }

    /// A store may have a private authority.
    fn store_client(&self, ca_pem: Option<&str>) -> Result<reqwest::Client, String> {
        let Some(pem) = ca_pem else { return Ok(self.far()?.clone()) };
        let certificates = Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| error.to_string())?;
        let builder = reqwest::Client::builder().timeout(shoal_proto::limits::MACHINE_ANSWER_WAIT);
        builder.tls_certs_merge(certificates).build().map_err(|error| error.to_string())
    }

    async fn azure_token(&self) -> Result<Arc<str>, String> {
        const KEY: &str = "azure";
        if let Some(token) = self.tokens.find(KEY) {
            return Ok(token);
        }
        let Token { access_token, expires_in } =
            json(self.ask_azure()?).await.map_err(|error| format!("{error}: has this machine a managed identity?"))?;
        let seconds = expires_in.and_then(|value| match value {
            serde_json::Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        });
        let (token, life) = (Arc::from(access_token), seconds.map_or(TOKEN_LIFE, Duration::from_secs));
        self.tokens.keep(KEY, Arc::clone(&token), life);
        Ok(token)
    }

    fn ask_azure(&self) -> Result<reqwest::RequestBuilder, String> {
        let client = self.variable("AZURE_CLIENT_ID");
        let [path, tenant] = ["AZURE_FEDERATED_TOKEN_FILE", "AZURE_TENANT_ID"].map(|name| self.variable(name));
        if let (Some(path), Some(tenant), Some(client)) = (path, tenant, client) {
            let place = self.place("AZURE_AUTHORITY_HOST", LOGIN);
            let (assertion, scope) = (file(path)?, format!("{STORAGE}.default"));
            let form = [
                ("grant_type", "client_credentials"),
                ("client_id", client),
                ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                ("client_assertion", &assertion),
                ("scope", &scope),
            ];
            return super::form(self.far()?.post(format!("{place}/{tenant}/oauth2/v2.0/token")), &form);
        }
        let (place, version, header) = match (self.variable("IDENTITY_ENDPOINT"), self.variable("IDENTITY_HEADER")) {
            (Some(place), Some(secret)) => (place.to_owned(), "2019-08-01", ("x-identity-header", secret)),
            _ => {
                let base = self.place("AZURE_POD_IDENTITY_AUTHORITY_HOST", METADATA);
                (format!("{base}/metadata/identity/oauth2/token"), "2018-02-01", ("metadata", "true"))
            }
        };
        let own = client.map(|client| ("client_id", client));
        let query: Vec<_> = [("api-version", version), ("resource", STORAGE)].into_iter().chain(own).collect();
        let url = reqwest::Url::parse_with_params(&place, query).map_err(|error| format!("{place}: {error}"))?;
        Ok(self.near()?.get(url).header(header.0, header.1))
    }
}

fn delegation_key(answer: &str) -> Result<DelegationKey, String> {
    let document = Document::parse(answer).map_err(|error| format!("the store lent no key, but: {error}"))?;
    let one = |name: &str| {
        let mut nodes = document.descendants().filter(|node| node.tag_name().name() == name);
        let found = nodes.find_map(|node| node.text()).map(str::to_owned);
        found.ok_or_else(|| format!("the store lent a key without `{name}`"))
    };
    let key = STANDARD.decode(one("Value")?).map_err(|_| "the store lent a key that is no base64".to_owned())?;
    let ends = one("SignedExpiry")?;
    if lasts_until(&ends).is_some_and(|left| left.is_zero()) {
        return Err(format!("the store lent a key that ended {ends}: check the machine's clock"));
    }
    let named =
        [one("SignedOid")?, one("SignedTid")?, one("SignedStart")?, ends, one("SignedService")?, one("SignedVersion")?];
    Ok(DelegationKey { named, key })
}
