//! S3 and stores that speak as it does: [objects](super::objects) in a bucket. `username` and the password are an access key's
//! id and secret, `machine_role` has the [machine's](super::machine) lent; without them the bucket is public. Where a bucket keeps
//! versions, `versionId` is pinned.

use reqwest::Url;

use super::FeedError;
use super::asked::{Asked, Secret};
use super::kind::Kind;
use super::objects::{STORE, Sign, Versions, authorize, moment, resolve};
use super::v4::{AMAZON, Key, Signer};

pub(super) const KIND: Kind = Kind {
    name: "s3",
    resolve: |asked, wanted| Box::pin(resolve(asked, wanted, &VERSIONS, SIGN)),
    authorize: |asked, origin| Box::pin(authorize(asked, origin, SIGN)),
    ..STORE
};

const SIGN: Sign = |asked, url| Box::pin(sign(asked, url));

const VERSIONS: Versions = Versions { header: "x-amz-version-id", query: "versionId" };

/// The region of stores that have none.
const REGION: &str = "us-east-1";

async fn sign(asked: &Asked<'_>, url: &str) -> Result<String, FeedError> {
    let Some(known) = asked.known(url)? else { return Ok(url.to_owned()) };
    let region = known.region.as_deref().unwrap_or(REGION);
    let parsed = Url::parse(url).map_err(|error| asked.bad(url, &error.to_string()))?;
    let sign = |id: &str, secret: &str, session: Option<&str>| {
        let signer = Signer { dialect: &AMAZON, id, session, region, key: Key::Secret(secret) };
        let signed = signer.signed(&parsed, &moment("%Y%m%dT%H%M%SZ", 0), asked.signed_for().as_secs());
        signed.map_err(|error| asked.cannot_sign(error))
    };
    match &known.secret {
        None => Ok(url.to_owned()),
        Some(Secret::Password { username, password }) => sign(username, password, None),
        Some(Secret::Role { .. }) => {
            let keys = asked.machine.aws(region).await.map_err(|error| asked.cannot_sign(error))?;
            sign(&keys.id, &keys.secret, keys.session.as_deref())
        }
        Some(Secret::Token(_)) => {
            Err(asked.cannot_sign("an access key is a `username` and a password, and no token".to_owned()))
        }
    }
}
