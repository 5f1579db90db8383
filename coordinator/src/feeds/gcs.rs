//! Google Cloud Storage: [objects](super::objects) in a bucket, `https://storage.googleapis.com/BUCKET`. Signed by an HMAC key
//! (`username` and the password are its id and secret) or by a service account (the token is its key, the document of JSON that
//! the console gives), or with `machine_role` by Google itself, for the [machine's](super::machine) service account. The object's
//! `generation` is pinned.

use reqwest::Url;
use serde::Deserialize;

use super::FeedError;
use super::asked::{Asked, Secret};
use super::kind::Kind;
use super::objects::{STORE, Sign, Versions, authorize, moment, resolve};
use super::v4::{GOOGLE, Key, Signer, rsa_key};

pub(super) const KIND: Kind = Kind {
    name: "gcs",
    resolve: |asked, wanted| Box::pin(resolve(asked, wanted, &VERSIONS, SIGN)),
    authorize: |asked, origin| Box::pin(authorize(asked, origin, SIGN)),
    ..STORE
};

const SIGN: Sign = |asked, url| Box::pin(sign(asked, url));

const VERSIONS: Versions = Versions { header: "x-goog-generation", query: "generation" };

/// What stands for any region in a signature.
const REGION: &str = "auto";

/// The key of a service account.
#[derive(Deserialize)]
struct Account {
    client_email: String,
    private_key: String,
}

async fn sign(asked: &Asked<'_>, url: &str) -> Result<String, FeedError> {
    let Some(known) = asked.known(url)? else { return Ok(url.to_owned()) };
    let parsed = Url::parse(url).map_err(|error| asked.bad(url, &error.to_string()))?;
    let (moment, life) = (moment("%Y%m%dT%H%M%SZ", 0), asked.signed_for());
    let region = known.region.as_deref().unwrap_or(REGION);
    let signer = |id, key| Signer { dialect: &GOOGLE, id, session: None, region, key };
    let kept = match &known.secret {
        None => return Ok(url.to_owned()),
        Some(Secret::Password { username, password }) => {
            let signed = signer(username, Key::Secret(password)).signed(&parsed, &moment, life.as_secs());
            return signed.map_err(|error| asked.cannot_sign(error));
        }
        Some(kept) => kept,
    };
    // Signing by RSA takes long enough, here or at Google's, to be done once for many leases. Each then has half of a URL's life
    // or more.
    if let Some(Some(signed)) = asked.tokens.find(asked.name, url) {
        return Ok(signed);
    }
    let signed = match kept {
        Secret::Token(text) => {
            let account: Account = serde_json::from_str(text)
                .map_err(|_| asked.cannot_sign("its token is not the key of a service account in JSON".to_owned()))?;
            let key = rsa_key(&account.private_key).map_err(|error| asked.cannot_sign(error))?;
            signer(&account.client_email, Key::Rsa(&key)).signed(&parsed, &moment, life.as_secs())
        }
        _ => {
            let account = asked.machine.google_account().await.map_err(|error| asked.cannot_sign(error))?;
            let draft = signer(&account, Key::Elsewhere).draft(&parsed, &moment, life.as_secs());
            let signature = asked.machine.google_signature(&account, draft.text.as_bytes()).await;
            signature.map(|signature| draft.signed(&signature))
        }
    };
    let signed = signed.map_err(|error| asked.cannot_sign(error))?;
    asked.tokens.keep(asked.name, url, Some(signed.clone()), life / 2);
    Ok(signed)
}
