//! Google Cloud Storage: [objects](super::objects) in a bucket, `https://storage.googleapis.com/BUCKET`. Signed by an HMAC key
//! (`username` and the password are its id and secret) or by a service account (the token is its key, the document of JSON that
//! the console gives). The object's `generation` is pinned.

use reqwest::Url;
use serde::Deserialize;

use super::FeedError;
use super::asked::{Asked, Secret};
use super::kind::Kind;
use super::objects::{STORE, Versions, authorize, moment, resolve};
use super::v4::{GOOGLE, Key, Signer, rsa_key};

pub(super) const KIND: Kind = Kind {
    name: "gcs",
    resolve: |asked, wanted| Box::pin(resolve(asked, wanted, &VERSIONS, sign)),
    authorize: |asked, origin| Box::pin(async move { authorize(asked, origin, sign) }),
    ..STORE
};

const VERSIONS: Versions = Versions { header: "x-goog-generation", query: "generation" };

/// What stands for any region in a signature.
const REGION: &str = "auto";

/// The key of a service account.
#[derive(Deserialize)]
struct Account {
    client_email: String,
    private_key: String,
}

fn sign(asked: &Asked<'_>, url: &str) -> Result<String, FeedError> {
    let parsed = Url::parse(url).map_err(|error| asked.bad(url, &error.to_string()))?;
    let (moment, life) = (moment("%Y%m%dT%H%M%SZ", 0), asked.signed_for());
    let region = asked.remote().region.as_deref().unwrap_or(REGION);
    let sign = |id: &str, key| {
        let signed = Signer { dialect: &GOOGLE, id, region, key }.signed(&parsed, &moment, life.as_secs());
        signed.map_err(|error| asked.cannot_sign(error))
    };
    match asked.secret.as_ref().filter(|_| asked.trusts(url)) {
        None => Ok(url.to_owned()),
        Some(Secret::Password { username, password }) => sign(username, Key::Secret(password)),
        Some(Secret::Token(text)) => {
            // Signing by RSA takes long enough to be done once for many leases. Each then has half of a URL's life or more.
            if let Some(Some(signed)) = asked.tokens.find(asked.name, url) {
                return Ok(signed);
            }
            let account: Account = serde_json::from_str(text)
                .map_err(|_| asked.cannot_sign("its token is not the key of a service account in JSON".to_owned()))?;
            let key = rsa_key(&account.private_key).map_err(|error| asked.cannot_sign(error))?;
            let signed = sign(&account.client_email, Key::Rsa(&key))?;
            asked.tokens.keep(asked.name, url, Some(signed.clone()), life / 2);
            Ok(signed)
        }
    }
}
