//! S3 and stores that speak as it does: `url` is that of a bucket, `id` a key below it, in which `{version}` stands for the
//! version; `username` and the password are an access key's id and secret. Without them the bucket is public.
//!
//! Nodes get URLs that are signed when their lease is granted (Signature Version 4, in the query), and never the secret.
//! Where a bucket keeps versions, the one that was resolved is read whatever comes after it. The ETag tells that an object is
//! unchanged, and is never taken for a hash of its bytes: of what was uploaded in parts it is none.
//!
//! Signing: <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html>.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use reqwest::Url;
use sha2::Sha256;
use shoal_node::origin::Target;
use shoal_proto::origin::HttpOrigin;

use super::asked::{Asked, Secret, below};
use super::digest::{Algorithm, hex_of};
use super::http::{escaped, escaped_path, lineage_of_url};
use super::kind::Kind;
use super::{Digest, FeedError, Found, Place, Wanted};

pub(super) const KIND: Kind = Kind {
    name: "s3",
    signs: true,
    resolve: |asked, wanted| Box::pin(resolve(asked, wanted)),
    authorize: |asked, origin| {
        Box::pin(async move {
            let url = sign(asked, &origin.url)?;
            Ok(asked.with_ca(HttpOrigin { url, ..origin }))
        })
    },
    ..Kind::COMMON
};

/// How long a signed URL is good: far longer than a lease, and shorter than what stores allow to credentials of a role.
const SIGNED_LIFE_S: u32 = 3600;

/// The region of stores that have none.
const REGION: &str = "us-east-1";

async fn resolve(asked: &Asked<'_>, wanted: &Wanted<'_>) -> Result<Found, FeedError> {
    let key = match wanted.version {
        Some(version) => wanted.id.replace("{version}", version),
        None => wanted.id.to_owned(),
    };
    let path = escaped_path(&key).map_err(|problem| asked.impossible(wanted, problem))?;
    let mut url = below(&asked.remote().url, &path);
    let signed = sign(asked, &url)?;
    let target = Target { url: &signed, headers: &[], ca_pem: asked.ca_pem.as_deref() };
    let (said, headers) = asked.reader.probe_more(target).await.map_err(|error| asked.blamed(error, wanted))?;
    if let Some(version) = headers.find("x-amz-version-id").filter(|version| *version != "null") {
        url += &format!("?versionId={}", escaped(version));
    }
    let origin = asked.origin(url, said, wanted)?;
    // A mirror has versions of its own, under other names.
    let bare = HttpOrigin { etag: None, last_modified: None, ..origin.clone() };
    let mirror = |mirror: &crate::config::feed::Mirror| {
        let url = below(&mirror.url, &path);
        super::SiteMirror { sites: mirror.sites.clone(), origin: HttpOrigin { url, ..bare.clone() } }
    };
    let mirrors = asked.remote().mirrors.iter().map(mirror).collect();
    let place = Place::Http { origin, mirrors, equivalents: Vec::new() };
    Ok(Found { version: None, lineage: lineage_of_url(wanted.id), place, digests: Vec::new() })
}

/// `url` with a signature by the feed's access key, if it has one.
fn sign(asked: &Asked<'_>, url: &str) -> Result<String, FeedError> {
    let Some(Secret::Password { username, password }) = asked.secret.as_ref().filter(|_| asked.trusts(url)) else {
        return Ok(url.to_owned());
    };
    let url = Url::parse(url).map_err(|error| asked.bad(url, &error.to_string()))?;
    let region = asked.remote().region.as_deref().unwrap_or(REGION);
    let moment = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    Ok(signed(&url, &AccessKey { id: username, secret: password, region }, &moment, SIGNED_LIFE_S))
}

struct AccessKey<'a> {
    id: &'a str,
    secret: &'a str,
    region: &'a str,
}

/// `url` signed for `GET` at `moment`, such as `20130524T000000Z`.
fn signed(url: &Url, key: &AccessKey<'_>, moment: &str, life_s: u32) -> String {
    let date = moment.split('T').next().unwrap_or(moment);
    let scope = format!("{date}/{}/s3/aws4_request", key.region);
    let own = [
        ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
        ("X-Amz-Credential", format!("{}/{scope}", key.id)),
        ("X-Amz-Date", moment.to_owned()),
        ("X-Amz-Expires", life_s.to_string()),
        ("X-Amz-SignedHeaders", "host".to_owned()),
    ];
    let asked = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned()));
    let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
    let mut query: Vec<String> =
        asked.chain(own).map(|(name, value)| format!("{}={}", escaped(&name), escaped(&value))).collect();
    query.sort_unstable();
    let query = query.join("&");
    let host = match (url.host_str().unwrap_or_default(), url.port()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    };
    let request = format!("GET\n{}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD", url.path());
    let hashed = Digest::of_bytes(Algorithm::Sha256, request.as_bytes()).hex();
    let text = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashed}");
    let steps = [date, key.region, "s3", "aws4_request", &text];
    let first = format!("AWS4{}", key.secret).into_bytes();
    let signature = hex_of(&steps.into_iter().fold(first, |key, step| hmac(&key, step.as_bytes())));
    format!("{}{}?{query}&X-Amz-Signature={signature}", url.origin().ascii_serialization(), url.path())
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_signed_as_amazon_documents_it() {
        let key = AccessKey {
            id: "AKIAIOSFODNN7EXAMPLE",
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
        };
        let url = Url::parse("https://examplebucket.s3.amazonaws.com/test.txt").unwrap();
        assert_eq!(
            signed(&url, &key, "20130524T000000Z", 86400),
            "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=\
             AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400\
             &X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
        let version = Url::parse("http://127.0.0.1:8333/b/a%2Bb?versionId=x%2Fy").unwrap();
        let signed = signed(&version, &key, "20130524T000000Z", 60);
        assert!(
            signed.starts_with("http://127.0.0.1:8333/b/a%2Bb?X-Amz-") && signed.contains("&versionId=x%2Fy&"),
            "{signed}"
        );
    }
}
