//! Google's: the metadata server of a machine, or of a pod of GKE, lends a token of its service account. That signs nothing, but
//! Google signs for who comes with it: `signBlob` of the IAM Credentials API, which the account has to be allowed on itself
//! (role *Service Account Token Creator*).
//!
//! <https://cloud.google.com/compute/docs/access/authenticate-workloads>,
//! <https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/signBlob>.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{Machine, advised, json, text};

const SIGNERS: &str = "https://iamcredentials.googleapis.com";

#[derive(Deserialize)]
struct Token {
    access_token: String,
    expires_in: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signed {
    signed_blob: String,
}

impl Machine {
    /// The name of the machine's service account.
    pub(in crate::feeds) async fn google_account(&self) -> Result<Arc<str>, String> {
        const KEY: &str = "google email";
        if let Some(email) = self.tokens.find(KEY) {
            return Ok(email);
        }
        let email: Arc<str> = text(self.ask_google("email")?).await.map_err(no_account)?.trim().into();
        // Another account may be given to a machine that runs.
        self.tokens.keep(KEY, Arc::clone(&email), Duration::from_secs(3600));
        Ok(email)
    }

    /// What `account` signs `bytes` with: RSA and SHA-256 (PKCS #1, 1.5).
    pub(in crate::feeds) async fn google_signature(&self, account: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let token = self.google_token().await?;
        let place = self.place("CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS", SIGNERS);
        let url = format!("{place}/v1/projects/-/serviceAccounts/{account}:signBlob");
        let ask =
            self.far()?.post(url).bearer_auth(&*token).json(&serde_json::json!({ "payload": STANDARD.encode(bytes) }));
        let advice =
            format!("`{account}` needs the role Service Account Token Creator on itself, so that Google signs for it");
        let signed: Signed = json(ask).await.map_err(|error| advised(error, &advice))?;
        STANDARD.decode(signed.signed_blob).map_err(|_| "Google's signature is no base64".to_owned())
    }

    async fn google_token(&self) -> Result<Arc<str>, String> {
        const KEY: &str = "google";
        if let Some(token) = self.tokens.find(KEY) {
            return Ok(token);
        }
        let token: Token = json(self.ask_google("token")?).await.map_err(no_account)?;
        let (token, life) = (Arc::from(token.access_token), Duration::from_secs(token.expires_in));
        self.tokens.keep(KEY, Arc::clone(&token), life);
        Ok(token)
    }

    fn ask_google(&self, what: &str) -> Result<reqwest::RequestBuilder, String> {
        // A host, and not a URL, as Google's libraries have it.
        let host = self.variable("GCE_METADATA_HOST").unwrap_or("169.254.169.254");
        let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/{what}");
        Ok(self.near()?.get(url).header("metadata-flavor", "Google"))
    }
}

fn no_account(error: String) -> String {
    format!("{error}: has this machine a service account?")
}
