//! Signature Version 4 in the query of a URL, in the two dialects in use: Amazon's, which most stores understand, and Google's.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html>,
//! <https://cloud.google.com/storage/docs/authentication/canonical-requests>.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Url;
use sha2::Sha256;

use super::Digest;
use super::digest::{Algorithm, hex_of};
use super::http::escaped;

/// How a store spells things.
pub(super) struct Dialect {
    /// Before the names of a URL's parameters.
    names: &'static str,
    /// Before the secret of an access key, and at the start of an algorithm's name.
    family: &'static str,
    /// The parts of a signature's scope behind the region.
    service: &'static str,
    terminator: &'static str,
}

pub(super) const AMAZON: Dialect =
    Dialect { names: "X-Amz", family: "AWS4", service: "s3", terminator: "aws4_request" };

pub(super) const GOOGLE: Dialect =
    Dialect { names: "X-Goog", family: "GOOG4", service: "storage", terminator: "goog4_request" };

/// Who signs.
pub(super) struct Signer<'a> {
    pub(super) dialect: &'a Dialect,
    /// The access key's id, or a service account's name.
    pub(super) id: &'a str,
    /// What says that the key was lent.
    pub(super) session: Option<&'a str>,
    pub(super) region: &'a str,
    pub(super) key: Key<'a>,
}

pub(super) enum Key<'a> {
    /// The secret of an access key.
    Secret(&'a str),
    /// A service account's key.
    Rsa(&'a RsaKeyPair),
    /// A service account's, which is with somebody who signs what it is sent.
    Elsewhere,
}

/// A URL that lacks its signature.
pub(super) struct Draft {
    /// What is signed.
    pub(super) text: String,
    /// The URL up to the signature.
    before: String,
}

impl Draft {
    pub(super) fn signed(&self, signature: &[u8]) -> String {
        format!("{}{}", self.before, hex_of(signature))
    }
}

impl Signer<'_> {
    /// `url` signed for `GET` from `moment`, such as `20130524T000000Z`, for `life_s` seconds. Fails only where a key of RSA
    /// cannot be used.
    pub(super) fn signed(&self, url: &Url, moment: &str, life_s: u64) -> Result<String, String> {
        let draft = self.draft(url, moment, life_s);
        let signature = match self.key {
            Key::Secret(secret) => {
                let Dialect { family, service, terminator, .. } = self.dialect;
                let steps = [date(moment), self.region, service, terminator, &draft.text];
                let first = format!("{family}{secret}").into_bytes();
                steps.into_iter().fold(first, |key, step| hmac(&key, step.as_bytes()))
            }
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), draft.text.as_bytes(), &mut signature)
                    .map_err(|_| "its key cannot sign".to_owned())?;
                signature
            }
            Key::Elsewhere => return Err("its key is not here".to_owned()),
        };
        Ok(draft.signed(&signature))
    }

    /// The URL before somebody signs it.
    pub(super) fn draft(&self, url: &Url, moment: &str, life_s: u64) -> Draft {
        let Dialect { names, family, service, terminator } = self.dialect;
        let function = if matches!(self.key, Key::Secret(_)) { "HMAC" } else { "RSA" };
        let algorithm = format!("{family}-{function}-SHA256");
        let scope = format!("{}/{}/{service}/{terminator}", date(moment), self.region);
        let own = [
            ("Algorithm", algorithm.clone()),
            ("Credential", format!("{}/{scope}", self.id)),
            ("Date", moment.to_owned()),
            ("Expires", life_s.to_string()),
            ("SignedHeaders", "host".to_owned()),
        ];
        let asked = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned()));
        let session = self.session.map(|session| ("Security-Token", session.to_owned()));
        let own = own.into_iter().chain(session).map(|(name, value)| (format!("{names}-{name}"), value));
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
        let before = format!("{}{}?{query}&{names}-Signature=", url.origin().ascii_serialization(), url.path());
        Draft { text: format!("{algorithm}\n{moment}\n{scope}\n{hashed}"), before }
    }
}

fn date(moment: &str) -> &str {
    moment.split('T').next().unwrap_or(moment)
}

pub(super) fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

/// A key of RSA from PKCS #8 in PEM.
pub(super) fn rsa_key(pem: &str) -> Result<RsaKeyPair, String> {
    let base64: String = pem.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(base64).map_err(|_| "its `private_key` is no PEM".to_owned())?;
    RsaKeyPair::from_pkcs8(&der).map_err(|error| format!("its `private_key` cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rsa::{KeySize, PublicKeyComponents};
    use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    fn bytes_of_hex(digits: &str) -> Vec<u8> {
        let pairs = digits.as_bytes().chunks(2);
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn urls_are_signed_as_amazon_documents_it() {
        let key = Key::Secret("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let signer = Signer { dialect: &AMAZON, id: "AKIAIOSFODNN7EXAMPLE", session: None, region: "us-east-1", key };
        let url = Url::parse("https://examplebucket.s3.amazonaws.com/test.txt").unwrap();
        assert_eq!(
            signer.signed(&url, "20130524T000000Z", 86400).unwrap(),
            "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=\
             AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400\
             &X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
        let version = Url::parse("http://127.0.0.1:8333/b/a%2Bb?versionId=x%2Fy").unwrap();
        let signed = signer.signed(&version, "20130524T000000Z", 60).unwrap();
        assert!(
            signed.starts_with("http://127.0.0.1:8333/b/a%2Bb?X-Amz-") && signed.contains("&versionId=x%2Fy&"),
            "{signed}"
        );
    }

    /// Signatures that Google publishes for its libraries to be tested with (googleapis/conformance-tests,
    /// storage/v1/v4_signatures.json: "Simple GET" and "Vary expiration and timestamp") are of what is signed here, for the
    /// public key of the account that they are by.
    #[test]
    fn what_is_signed_for_google_is_what_google_signs() {
        const MODULUS: &str = "ac3f3322ac8a2db5f436af28d098f5a871211e1a8edfed0e3fb4c4171e55c5ce8f77006814dadf9c9448fd2f9968361\
            2d5abebe4faa9a7c83cf9434e32f23556c8c633cc634dac6456ff2698aa7aa52990b2d4eddb9a736357b1036c2fe313564b058d14dc76921df\
            9fa4bd343f0c5dd803d3fba54535b0ababd4f3fc3a8b9b58b14ee7d8b2e54139757d0eff7a63bd9d87021497b31d955ad0799e5ac747c16b28\
            934b24c10610348ccfdc917d0694798094f680d81ee8aa290deb0978ba0bcda5fb7149c39fe0809e72ee2c3c304ac2152b257184116c1573e9\
            960a5a411c261b3c046dffd7a6df6aa36eb0d943209f7d23b0e68a9527805fc712e95885fad";
        let table = [
            (
                "20190201T090000Z",
                10,
                "95e6a13d43a1d1962e667f17397f2b80ac9bdd1669210d5e08e0135df9dff4e56113485dbe429ca2266487b9d1796ebdee2d7cf682a6\
                 ef3bb9fbb4c351686fba90d7b621cf1c4eb1fdf126460dd25fa0837dfdde0a9fd98662ce60844c458448fb2b352c203d9969cb74efa4\
                 bdb742287744a4f2308afa4af0e0773f55e32e92973619249214b97283b2daa14195244444e33f938138d1e5f561088ce8011f4986dd\
                 a33a556412594db7c12fc40e1ff3f1bedeb7a42f5bcda0b9567f17f65855f65071fabb88ea12371877f3f77f10e1466fff6ff6973b74\
                 a933322ff0949ce357e20abe96c3dd5cfab42c9c83e740a4d32b9e11e146f0eb3404d2e975896f74",
            ),
            (
                "20190301T090000Z",
                20,
                "9669ed5b10664dc594c758296580662912cf4bcc5a4ba0b6bf055bcbf6f34eed7bdad664f534962174a924741a0c273a4f67bc1847ce\
                 f20192a6beab44223bd9d4fbbd749c407b79997598c30f82ddc269ff47ec09fa3afe74e00616d438df0d96a7d8ad0adacfad1dc3286f\
                 864d924fe919fb0dce45d3d975c5afe8e13af2db9cc37ba77835f92f7669b61e94c6d562196c1274529e76cfff1564cc2cad7d5387dc\
                 8e12f7a5dfd925685fe92c30b43709eee29fa2f66067472cee5423d1a3a4182fe8cea75c9329d181dc6acad7c393cd04f8bf5bc05151\
                 27d8ebd65d80c08e19ad03316053ea60033fd1b1fd85a69c576415da3bf0a3718d9ea6d03e0d66f0",
            ),
        ];
        let public = PublicKeyComponents { n: bytes_of_hex(MODULUS), e: vec![1, 0, 1] };
        let any = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let id = "test-iam-credentials@dummy-project-id.iam.gserviceaccount.com";
        let signer = Signer { dialect: &GOOGLE, id, session: None, region: "auto", key: Key::Rsa(&any) };
        let url = Url::parse("https://storage.googleapis.com/test-bucket/test-object").unwrap();
        for (moment, life_s, signature) in table {
            let draft = signer.draft(&url, moment, life_s);
            public.verify(&RSA_PKCS1_2048_8192_SHA256, draft.text.as_bytes(), &bytes_of_hex(signature)).unwrap();
        }
        let own = signer.signed(&url, "20190201T090000Z", 10).unwrap();
        let (before, signature) = own.split_once("&X-Goog-Signature=").unwrap();
        assert!(before.ends_with("&X-Goog-Date=20190201T090000Z&X-Goog-Expires=10&X-Goog-SignedHeaders=host"), "{own}");
        let text = signer.draft(&url, "20190201T090000Z", 10).text;
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, any.public_key().as_ref());
        public.verify(text.as_bytes(), &bytes_of_hex(signature)).unwrap();
    }

    #[test]
    fn a_key_that_is_none_is_refused() {
        assert_eq!(rsa_key("-----BEGIN PRIVATE KEY-----\n!\n").unwrap_err(), "its `private_key` is no PEM");
        assert!(rsa_key("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").is_err());
    }
}
