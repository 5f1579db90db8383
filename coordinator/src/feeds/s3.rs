//! S3 and stores that speak as it does: [objects](super::objects) in a bucket. `username` and the password are an access key's
//! id and secret; without them the bucket is public. Where a bucket keeps versions, `versionId` is pinned.

use reqwest::Url;

use super::FeedError;
use super::asked::{Asked, Secret};
use super::kind::Kind;
use super::objects::{STORE, Versions, authorize, moment, resolve};
use super::v4::{AMAZON, Key, Signer};

pub(super) const KIND: Kind = Kind {
    name: "s3",
    resolve: |asked, wanted| Box::pin(resolve(asked, wanted, &VERSIONS, sign)),
    authorize: |asked, origin| Box::pin(async move { authorize(asked, origin, sign) }),
    ..STORE
};

const VERSIONS: Versions = Versions { header: "x-amz-version-id", query: "versionId" };

/// The region of stores that have none.
const REGION: &str = "us-east-1";

fn sign(asked: &Asked<'_>, url: &str) -> Result<String, FeedError> {
    let Some(secret) = asked.secret.as_ref().filter(|_| asked.trusts(url)) else { return Ok(url.to_owned()) };
    let Secret::Password { username, password } = secret else {
        return Err(asked.cannot_sign("an access key is a `username` and a password, and no token".to_owned()));
    };
    let parsed = Url::parse(url).map_err(|error| asked.bad(url, &error.to_string()))?;
    let region = asked.remote().region.as_deref().unwrap_or(REGION);
    let signer = Signer { dialect: &AMAZON, id: username, region, key: Key::Secret(password) };
    let signed = signer.signed(&parsed, &moment("%Y%m%dT%H%M%SZ", 0), asked.signed_for().as_secs());
    signed.map_err(|error| asked.cannot_sign(error))
}
