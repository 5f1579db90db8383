//! Azure Blob Storage: [objects](super::objects) in a container, `https://ACCOUNT.blob.core.windows.net/CONTAINER`. Signed by
//! an account's key (`username` is the account, the password its key), or with a shared access signature that somebody else
//! made (the token, such as `sv=…&sig=…`), or with `machine_role` by a key that the store lends to the [machine's](super::machine)
//! identity. Where an account keeps versions, `versionid` is pinned.
//!
//! Signing: <https://learn.microsoft.com/rest/api/storageservices/create-service-sas>, `…/create-user-delegation-sas`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;

use super::FeedError;
use super::asked::{Asked, Secret};
use super::http::escaped;
use super::kind::Kind;
use super::machine::DelegationKey;
use super::objects::{STORE, Sign, Versions, authorize, moment, resolve};
use super::v4::hmac;

pub(super) const KIND: Kind = Kind {
    name: "azure",
    resolve: |asked, wanted| Box::pin(resolve(asked, wanted, &VERSIONS, SIGN)),
    authorize: |asked, origin| Box::pin(authorize(asked, origin, SIGN)),
    ..STORE
};

const SIGN: Sign = |asked, url| Box::pin(sign(asked, url));

const VERSIONS: Versions = Versions { header: "x-ms-version-id", query: "versionid" };

/// The version of the service whose rules a signature follows.
const SERVICE_VERSION: &str = "2022-11-02";

const MOMENT: &str = "%Y-%m-%dT%H:%M:%SZ";

async fn sign(asked: &Asked<'_>, url: &str) -> Result<String, FeedError> {
    let joined = |more: &str| format!("{url}{}{more}", if url.contains('?') { '&' } else { '?' });
    let parsed = || Url::parse(url).map_err(|error| asked.bad(url, &error.to_string()));
    let until = moment(MOMENT, asked.signed_for().as_secs());
    match asked.known(url)?.and_then(|known| known.secret.as_ref()) {
        None => Ok(url.to_owned()),
        Some(Secret::Token(signature)) => Ok(joined(signature.trim_start_matches('?'))),
        Some(Secret::Password { username, password }) => {
            let no_key = |_| asked.cannot_sign("the password is not an account's key, which is base64".to_owned());
            let key = STANDARD.decode(password).map_err(no_key)?;
            Ok(joined(&signature(&parsed()?, username, &Key::Account(&key), &until)))
        }
        Some(Secret::Role { account }) => {
            let url = parsed()?;
            let (account, place) = account_of(&url, account.as_deref());
            let (ca_pem, life) = (asked.ca_pem(url.as_str()), asked.signed_for());
            let key = asked.machine.azure(&place, ca_pem, SERVICE_VERSION, life).await;
            let key = key.map_err(|error| asked.cannot_sign(error))?;
            Ok(joined(&signature(&url, &account, &Key::Lent(&key), &until)))
        }
    }
}

/// By what is signed.
enum Key<'a> {
    /// An account's key.
    Account(&'a [u8]),
    /// What the store lent to an identity.
    Lent(&'a DelegationKey),
}

/// The account that a blob is of, and the URL of its service. Its name is that of the host, or, with the emulator, the start of
/// the path; a host of another name has to be told whose it is.
fn account_of(url: &Url, told: Option<&str>) -> (String, String) {
    let origin = url.origin().ascii_serialization();
    let first = url.path_segments().and_then(|mut parts| parts.next()).unwrap_or_default();
    let host = url.host_str().unwrap_or_default();
    let emulator =
        host == "localhost" || host.starts_with('[') || host.split('.').all(|part| part.parse::<u8>().is_ok());
    match (told, emulator) {
        (told, true) => (told.unwrap_or(first).to_owned(), format!("{origin}/{first}/")),
        (Some(told), false) => (told.to_owned(), format!("{origin}/")),
        (None, false) => (host.split('.').next().unwrap_or_default().to_owned(), format!("{origin}/")),
    }
}

/// The parameters by which `url` may be read until `until`.
fn signature(url: &Url, account: &str, key: &Key<'_>, until: &str) -> String {
    let version = url.query_pairs().find(|(name, _)| name == VERSIONS.query).map(|(_, value)| value.into_owned());
    let resource = if version.is_some() { "bv" } else { "b" };
    let protocol = if url.scheme() == "https" { "https" } else { "" };
    let place = canonical_resource(url, account);
    // Permissions, start, end, resource.
    let first = ["r", "", until, &place];
    let (who, key, named): (Vec<&str>, &[u8], String) = match key {
        // An identifier of a policy.
        Key::Account(key) => (vec![""], key, String::new()),
        // Whose key, for which time; for which users of a folder, and a number that connects logs.
        Key::Lent(DelegationKey { named, key }) => {
            let names = ["skoid", "sktid", "skt", "ske", "sks", "skv"].into_iter().zip(named);
            let shown = names.map(|(name, value)| format!("&{name}={}", escaped(value))).collect();
            (named.iter().map(String::as_str).chain(["", "", ""]).collect(), key, shown)
        }
    };
    // Address, protocol, version of the service, kind of resource, version of it, scope of encryption, and five headers of the
    // answer that stay what they are.
    let version = version.as_deref().unwrap_or_default();
    let rest = ["", protocol, SERVICE_VERSION, resource, version, "", "", "", "", "", ""];
    let text = first.into_iter().chain(who).chain(rest).collect::<Vec<_>>().join("\n");
    let signature = STANDARD.encode(hmac(key, text.as_bytes()));
    let protocol = if protocol.is_empty() { String::new() } else { format!("&spr={protocol}") };
    let (until, signature) = (escaped(until), escaped(&signature));
    format!("sv={SERVICE_VERSION}&sr={resource}&sp=r&se={until}{protocol}{named}&sig={signature}")
}

/// The blob as signatures call it. The account is in the host's name, or, with the emulator, at the start of the path.
fn canonical_resource(url: &Url, account: &str) -> String {
    let path = unescaped(url.path());
    let in_host = url.host_str().is_some_and(|host| host.starts_with(&format!("{account}.")));
    match path.starts_with(&format!("/{account}/")) && !in_host {
        true => format!("/blob{path}"),
        false => format!("/blob/{account}{path}"),
    }
}

/// `path` with its escapes (RFC 3986, 2.1) read. Its bytes are those of the key that was escaped.
fn unescaped(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, more @ ..] = rest {
        let digits = more.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match digits.and_then(|two| u8::from_str_radix(two, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of the emulator's account, which is the same everywhere.
    const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

    #[test]
    fn blobs_are_named_as_signatures_name_them() {
        let table = [
            ("https://acme.blob.core.windows.net/r/web%201.zip", "/blob/acme/r/web 1.zip"),
            ("https://acme.blob.core.windows.net/acme/a%2Bb", "/blob/acme/acme/a+b"),
            ("http://127.0.0.1:10000/acme/r/web.zip", "/blob/acme/r/web.zip"),
            ("https://cdn.example.com/r/%C3%B8.zip?versionid=1", "/blob/acme/r/ø.zip"),
        ];
        for (url, wanted) in table {
            assert_eq!(canonical_resource(&Url::parse(url).unwrap(), "acme"), wanted, "{url}");
        }
        assert_eq!(unescaped("/100%/%4"), "/100%/%4");
    }

    #[test]
    fn the_account_is_that_of_the_host_or_what_is_said() {
        let of = |url: &str, told: Option<&str>| account_of(&Url::parse(url).unwrap(), told);
        let table = [
            ("https://acme.blob.core.windows.net/r/x", None, ("acme", "https://acme.blob.core.windows.net/")),
            ("https://packages.acme.example/r/x", Some("acme"), ("acme", "https://packages.acme.example/")),
            ("https://127.0.0.1:10000/acme/r/x", None, ("acme", "https://127.0.0.1:10000/acme/")),
        ];
        for (url, told, (account, place)) in table {
            assert_eq!(of(url, told), (account.to_owned(), place.to_owned()), "{url}");
        }
    }

    /// The signatures were computed from the documented text by another program (Python's `hmac`).
    #[test]
    fn signatures_are_of_the_documented_text() {
        let key = STANDARD.decode(KEY).unwrap();
        let signed =
            |url: &str| signature(&Url::parse(url).unwrap(), "acme", &Key::Account(&key), "2026-11-26T22:00:00Z");
        assert_eq!(
            signed("https://acme.blob.core.windows.net/releases/web%201.zip"),
            "sv=2022-11-02&sr=b&sp=r&se=2026-11-26T22%3A00%3A00Z&spr=https&sig=0%2Bnxfeh8SvQfbHaAqkMUZ3AhoEDcVneLas%2BExXE5egs%3D"
        );
        assert_eq!(
            signed("http://127.0.0.1:10000/acme/releases/web.zip?versionid=2026-11-26T21%3A00%3A00.0000000Z"),
            "sv=2022-11-02&sr=bv&sp=r&se=2026-11-26T22%3A00%3A00Z&sig=bJOedPjHn%2BCmFQISeVKZmK4G%2BB91PU%2Bjh9xajnPzBR8%3D"
        );
    }
}
