//! OCI registries: a file that is a layer of an artifact or image. The feed's `url` is the registry's, `id` a repository,
//! `version` a tag or a digest; `file` names a layer by its title, media type or number, `platform` a variant.
//!
//! Protocol: <https://github.com/opencontainers/distribution-spec> and, for tokens, <https://distribution.github.io/distribution/spec/auth/token/>.
//! A tag is looked up once: manifests and layers are named, and checked, by their SHA-256 from then on.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use shoal_node::origin::OriginError;
use shoal_proto::limits::SUGGESTIONS_MAX;
use shoal_proto::origin::HttpOrigin;

use super::asked::{Asked, Secret, below, same_origin};
use super::digest::Algorithm;
use super::http::escaped_path;
use super::kind::Kind;
use super::{Digest, FeedError, Found, Place, SiteMirror, Wanted};
use crate::config::feed::Mirror;

pub(super) const KIND: Kind = Kind {
    name: "oci",
    door: |url| below(url, "v2/"),
    files: true,
    platforms: true,
    resolve: |asked, wanted| Box::pin(resolve(asked, wanted)),
    authorize: |asked, origin| Box::pin(authorize(asked, origin)),
    ..Kind::COMMON
};

const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                         application/vnd.docker.distribution.manifest.v2+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json";

/// How long a token lives whose registry does not say (the protocol's own default).
const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// How long what is open is taken to stay open.
const OPEN_LIFE: Duration = Duration::from_secs(300);

/// A manifest, or an index of manifests.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Descriptor>,
    /// Of an index alone.
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

#[derive(Clone, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

#[derive(Deserialize)]
struct TagList {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// What a token server lends.
#[derive(Deserialize)]
struct Lent {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Descriptor {
    fn title(&self) -> Option<&str> {
        self.annotations.get("org.opencontainers.image.title").map(String::as_str)
    }

    /// Its platform as people write it; none for what is no variant, such as an attestation.
    fn platform(&self) -> Option<String> {
        let Platform { os, architecture, variant } = self.platform.as_ref()?;
        let variant = variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
        (os != "unknown").then(|| format!("{os}/{architecture}{variant}"))
    }
}

/// A repository that is asked.
struct Repository<'a> {
    asked: &'a Asked<'a>,
    wanted: &'a Wanted<'a>,
    url: String,
}

async fn resolve(asked: &Asked<'_>, wanted: &Wanted<'_>) -> Result<Found, FeedError> {
    let impossible = |problem: String| asked.impossible(wanted, problem);
    if !wanted.id.split('/').all(is_name) {
        return Err(impossible(format!("`{}` is no repository: write for instance `acme/web`", wanted.id)));
    }
    let url = format!("{}v2/{}", asked.base(), wanted.id);
    let repository = Repository { asked, wanted, url };
    let Some(version) = wanted.version else {
        return Err(impossible(format!("a tag or digest is needed as `version`; {}", repository.tags().await)));
    };
    // `tag@digest`, as a pinned version is written: the digest counts.
    let named = version.split_once('@').map_or(version, |(_, digest)| digest);
    let (manifest, digest) = repository.manifest(named).await?;
    let manifest = match manifest.manifests {
        Some(variants) => repository.manifest(&repository.variant(&variants)?.digest).await?.0,
        None => manifest,
    };
    let layer = repository.layer(&manifest.layers)?;
    let blob = format!("{}/blobs/{}", repository.url, layer.digest);
    let content = Digest::of_oci(&layer.digest)
        .ok_or_else(|| asked.bad(&blob, &format!("`{}` is no digest that is known here", layer.digest)))?;
    let said = repository.probe(&blob).await?;
    if said.size.is_some_and(|size| size != layer.size) {
        return Err(asked.bad(&blob, &format!("the layer has {} bytes in the manifest and another size", layer.size)));
    }
    // A layer is known by its digest, wherever the registry redirects to and whatever ETag is told there.
    let origin = HttpOrigin {
        url: blob.clone(),
        headers: Vec::new(),
        size: layer.size,
        etag: None,
        last_modified: None,
        ca_pem: None,
    };
    origin.check().map_err(|source| FeedError::NoOrigin { feed: asked.label(), what: wanted.what(), source })?;
    // A mirror is believed to have it, since a digest cannot mean anything else.
    let path = blob.strip_prefix(&asked.base()).unwrap_or_default();
    let mirror = |mirror: &Mirror| {
        let url = below(&mirror.url, path);
        SiteMirror { sites: mirror.sites.clone(), origin: HttpOrigin { url, ..origin.clone() } }
    };
    let mirrors = asked.remote().mirrors.iter().map(mirror).collect();
    let pinned = if version.contains(':') { version.to_owned() } else { format!("{version}@{digest}") };
    let place = Place::Http { origin, mirrors, equivalents: Vec::new() };
    let lineage = format!("{} {}", wanted.id, layer.title().unwrap_or(&layer.media_type));
    Ok(Found { version: Some(pinned), lineage, place, digests: vec![content] })
}

/// Whether `part` is a part of a repository's name (distribution-spec, "pulling manifests").
fn is_name(part: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inner = |c: char| alphanumeric(c) || matches!(c, '.' | '_' | '-');
    part.starts_with(alphanumeric) && part.ends_with(alphanumeric) && part.chars().all(inner)
}

impl Repository<'_> {
    /// A manifest by its tag or digest, and its digest.
    async fn manifest(&self, reference: &str) -> Result<(Manifest, Digest), FeedError> {
        let wanted = Digest::of_oci(reference);
        let escaped = match &wanted {
            Some(digest) => digest.to_string(),
            None => escaped_path(reference).map_err(|problem| self.asked.impossible(self.wanted, problem))?,
        };
        let url = format!("{}/manifests/{escaped}", self.url);
        let bytes = match self.document(&url, Some(MANIFESTS)).await {
            Err(OriginError::NotFound { .. }) => {
                return Err(self.asked.no_version(self.wanted, self.tags().await));
            }
            answer => answer.map_err(|error| self.asked.blamed(error, self.wanted))?,
        };
        let algorithm = wanted.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = Digest::of_bytes(algorithm, &bytes);
        if let Some(wanted) = wanted.filter(|wanted| *wanted != digest) {
            return Err(self.asked.bad(&url, &format!("it has the digest {digest}, and {wanted} was asked for")));
        }
        Ok((self.parse(&url, &bytes)?, digest))
    }

    fn parse<T: DeserializeOwned>(&self, url: &str, bytes: &[u8]) -> Result<T, FeedError> {
        serde_json::from_slice(bytes).map_err(|error| self.asked.bad(url, &error.to_string()))
    }

    /// The variant that is wanted, or the only one.
    fn variant<'d>(&self, variants: &'d [Descriptor]) -> Result<&'d Descriptor, FeedError> {
        let known: Vec<(&Descriptor, Option<String>)> = variants.iter().map(|one| (one, one.platform())).collect();
        let of_platforms: Vec<_> =
            known.iter().filter(|(one, platform)| platform.is_some() || one.platform.is_none()).collect();
        let chosen = match self.wanted.platform {
            Some(wanted) => of_platforms.iter().find(|(_, platform)| platform.as_deref() == Some(wanted)),
            None if of_platforms.len() == 1 => of_platforms.first(),
            None => None,
        };
        chosen.map(|(one, _)| *one).ok_or_else(|| {
            let platforms: Vec<&str> = known.iter().filter_map(|(_, platform)| platform.as_deref()).collect();
            let problem = format!("`platform` has to name one of its variants: {}", listed(&platforms));
            self.asked.impossible(self.wanted, problem)
        })
    }

    /// The layer that is wanted, or the only one.
    fn layer<'d>(&self, layers: &'d [Descriptor]) -> Result<&'d Descriptor, FeedError> {
        chosen(self.wanted.file, layers).ok_or_else(|| {
            let names: Vec<&str> = layers.iter().map(|layer| layer.title().unwrap_or(&layer.media_type)).collect();
            let problem = format!("`file` has to name one of its layers: {}", listed(&names));
            self.asked.impossible(self.wanted, problem)
        })
    }

    /// Some tags that there are, for people.
    async fn tags(&self) -> String {
        let url = format!("{}/tags/list", self.url);
        let tags =
            self.document(&url, None).await.ok().and_then(|bytes| serde_json::from_slice::<TagList>(&bytes).ok());
        let tags = tags.and_then(|list| list.tags).unwrap_or_default();
        match tags.as_slice() {
            [] => "its tags cannot be listed".to_owned(),
            tags => format!("its tags are {}", listed(&tags.iter().map(String::as_str).collect::<Vec<_>>())),
        }
    }

    /// A document, with a token if the registry wants one.
    async fn document(&self, url: &str, accept: Option<&str>) -> Result<Vec<u8>, OriginError> {
        let accept = accept.map(|accept| ("accept".to_owned(), accept.to_owned()));
        let mut headers: Vec<_> = accept.into_iter().collect();
        let known = self.asked.tokens.find(self.asked.name, &kept_by(url)).flatten();
        headers.extend(known.map(|value| ("authorization".to_owned(), value)));
        match self.asked.document_with(url, &headers).await {
            Err(OriginError::Unauthorized { challenges, url: shown }) => {
                let Some(value) = self.asked.answer(url, &challenges).await? else {
                    return Err(OriginError::Unauthorized { challenges, url: shown });
                };
                headers.retain(|(name, _)| name != "authorization");
                headers.push(("authorization".to_owned(), value));
                Ok(self.asked.document_with(url, &headers).await?.bytes.to_vec())
            }
            answer => Ok(answer?.bytes.to_vec()),
        }
    }

    /// Asks for a layer, as a node will.
    async fn probe(&self, blob: &str) -> Result<shoal_proto::origin::Metadata, FeedError> {
        let value = self.asked.authorization(blob).await.map_err(|error| self.asked.blamed(error, self.wanted))?;
        let headers: Vec<_> = value.into_iter().map(|value| ("authorization".to_owned(), value)).collect();
        self.asked.probe_with(blob, &headers, self.wanted).await
    }
}

/// A layer by its title, its media type if only one has it, or its number from 0; or the only one.
fn chosen<'d>(file: Option<&str>, layers: &'d [Descriptor]) -> Option<&'d Descriptor> {
    match (file, layers) {
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(file), _) => {
            let titled = layers.iter().find(|layer| layer.title() == Some(file));
            let mut typed = layers.iter().filter(|layer| layer.media_type == file);
            let typed = typed.next().filter(|_| typed.next().is_none());
            titled.or(typed).or_else(|| layers.get(file.parse::<usize>().ok()?))
        }
    }
}

/// The first few of `names`.
fn listed(names: &[&str]) -> String {
    let more = if names.len() > SUGGESTIONS_MAX { ", …" } else { "" };
    format!("`{}`{more}", names[..names.len().min(SUGGESTIONS_MAX)].join("`, `"))
}

/// The scope of a token for what is at `url`: pulling from its repository.
fn scope_of(url: &str) -> String {
    let path = url.split_once("/v2/").map_or("", |(_, path)| path);
    let parts = ["/blobs/", "/manifests/", "/tags/"].iter();
    // A repository's name may hold such a part itself.
    let repository = parts.filter_map(|part| Some(path.rsplit_once(part)?.0)).max_by_key(|name| name.len());
    let repository = repository.unwrap_or(path);
    format!("repository:{repository}:pull")
}

/// What a token is kept by: a mirror lends tokens of its own.
fn kept_by(url: &str) -> String {
    let registry = url.split_once("/v2/").map_or(url, |(registry, _)| registry);
    format!("{registry} {}", scope_of(url))
}

/// Completes a request for a layer.
async fn authorize(asked: &Asked<'_>, mut origin: HttpOrigin) -> Result<HttpOrigin, FeedError> {
    let wanted = Wanted { id: &origin.url.clone(), version: None, file: None, platform: None };
    let value = asked.authorization(&origin.url).await.map_err(|error| asked.blamed(error, &wanted))?;
    origin.headers = value.into_iter().map(|value| ("authorization".to_owned(), value)).collect();
    Ok(asked.with_ca(origin))
}

impl Asked<'_> {
    /// What to send with a request for `url` of a registry: what is kept, or what the registry is asked for.
    async fn authorization(&self, url: &str) -> Result<Option<String>, OriginError> {
        let key = kept_by(url);
        if let Some(known) = self.tokens.find(self.name, &key) {
            return Ok(known);
        }
        let target = shoal_node::origin::Target { url, headers: &[], ca_pem: self.ca_pem(url) };
        match self.reader.probe(target).await {
            Ok(_) => {
                self.tokens.keep(self.name, &key, None, OPEN_LIFE);
                Ok(None)
            }
            Err(OriginError::Unauthorized { challenges, url: shown }) => match self.answer(url, &challenges).await? {
                Some(value) => Ok(Some(value)),
                None => Err(OriginError::Unauthorized { challenges, url: shown }),
            },
            Err(error) => Err(error),
        }
    }

    /// The answer to what a registry wants for `url`; none if there is none. It is kept.
    async fn answer(&self, url: &str, challenges: &[String]) -> Result<Option<String>, OriginError> {
        let key = kept_by(url);
        let value = self.secret(url).and_then(Secret::authorization);
        for challenge in challenges.iter().filter_map(|text| Challenge::parse(text)) {
            match (challenge, &value) {
                (Challenge::Basic, Some(value)) => {
                    self.tokens.keep(self.name, &key, Some(value.clone()), OPEN_LIFE);
                    return Ok(Some(value.clone()));
                }
                (Challenge::Bearer(bearer), _) => {
                    let (value, life) = self.lend(url, &bearer).await?;
                    self.tokens.keep(self.name, &key, Some(value.clone()), life);
                    return Ok(Some(value));
                }
                (Challenge::Basic, None) => {}
            }
        }
        Ok(None)
    }

    /// Asks a token server for a token. It is told the secret only if it is the registry itself, or both speak TLS.
    async fn lend(&self, url: &str, bearer: &Bearer) -> Result<(String, Duration), OriginError> {
        let wrong =
            |cause: String| OriginError::BadAnswer { url: shoal_proto::origin::shown_url(&bearer.realm), cause };
        let mut realm = reqwest::Url::parse(&bearer.realm).map_err(|error| wrong(error.to_string()))?;
        let own = scope_of(url);
        let scope = bearer.scope.as_deref().unwrap_or(&own);
        let service = bearer.service.iter().map(|service| ("service", service.as_str()));
        realm.query_pairs_mut().extend_pairs(service.chain([("scope", scope)]));
        let secure = realm.scheme() == "https" && url.starts_with("https://");
        let own = self.secret(url).and_then(Secret::authorization);
        let told = own.clone().filter(|_| secure || same_origin(realm.as_str(), url));
        let headers: Vec<_> = told.map(|value| ("authorization".to_owned(), value)).into_iter().collect();
        let document = match self.document_with(realm.as_str(), &headers).await {
            Err(OriginError::Unauthorized { .. }) if headers.is_empty() && own.is_some() => {
                return Err(wrong(
                    "it wants a password, which is sent to another host only if both speak TLS".to_owned(),
                ));
            }
            document => document?,
        };
        let lent: Lent = serde_json::from_slice(&document.bytes).map_err(|error| wrong(error.to_string()))?;
        let token = lent.token.or(lent.access_token).ok_or_else(|| wrong("there is no token in it".to_owned()))?;
        let life = lent.expires_in.map_or(TOKEN_LIFE, Duration::from_secs);
        Ok((format!("Bearer {token}"), life))
    }
}

/// What a registry wants (RFC 9110, 11.6.1).
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer(Bearer),
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Bearer {
    realm: String,
    service: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    /// Reads one challenge; none if it is of another scheme.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut bearer = Bearer::default();
        let mut rest = rest.trim();
        while let Some((name, after)) = rest.split_once('=') {
            // A value in quotes may hold commas, as that of a scope of several actions does.
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').map_or((after, ""), |(value, after)| (value, after)),
            };
            match name.trim_matches([' ', ',']).to_ascii_lowercase().as_str() {
                "realm" => bearer.realm = value.to_owned(),
                "service" => bearer.service = Some(value.to_owned()),
                "scope" => bearer.scope = Some(value.to_owned()),
                _ => {}
            }
            rest = after;
        }
        (!bearer.realm.is_empty()).then_some(Self::Bearer(bearer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            Some(Challenge::Bearer(Bearer { realm: realm.into(), service: owned(service), scope: owned(scope) }))
        };
        let table = [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a/t\",service=\"r\",scope=\"repository:a/b:pull,push\"",
                bearer("https://a/t", Some("r"), Some("repository:a/b:pull,push")),
            ),
            ("bearer Realm=https://a/t, error=\"x\" , service=r", bearer("https://a/t", Some("r"), None)),
            ("Bearer service=\"r\"", None),
            ("Bearer realm=\"open", None),
            ("Negotiate abc", None),
            ("", None),
        ];
        for (text, wanted) in table {
            assert_eq!(Challenge::parse(text), wanted, "{text}");
        }
    }

    #[test]
    fn a_layer_is_named_by_its_title_its_type_or_its_number() {
        let layer = |number: u32, media_type: &str, title: Option<&str>| Descriptor {
            media_type: media_type.into(),
            digest: number.to_string(),
            size: 1,
            annotations: title
                .map(|title| ("org.opencontainers.image.title".into(), title.into()))
                .into_iter()
                .collect(),
            platform: None,
        };
        let layers = [
            layer(0, "text/plain", Some("notes")),
            layer(1, "app/zip", Some("0")),
            layer(2, "text/plain", None),
            layer(3, "app/tar", None),
        ];
        let found = |file: Option<&str>| chosen(file, &layers).map(|layer| layer.digest.as_str());
        let table = [
            (Some("notes"), Some("0")),
            (Some("app/zip"), Some("1")),
            (Some("app/tar"), Some("3")),
            // Two have it.
            (Some("text/plain"), None),
            // A title is before a number.
            (Some("0"), Some("1")),
            (Some("2"), Some("2")),
            (Some("4"), None),
            (Some("-1"), None),
            (None, None),
        ];
        for (file, wanted) in table {
            assert_eq!(found(file), wanted, "{file:?}");
        }
        assert!(chosen(None, &layers[3..]).is_some(), "the only one");
    }

    #[test]
    fn a_scope_is_the_repository_of_a_url() {
        let wanted = "repository:acme/blobs/web:pull";
        assert_eq!(scope_of("http://r/v2/acme/blobs/web/blobs/sha256:1"), wanted);
        assert_eq!(scope_of("http://r/v2/acme/blobs/web/manifests/1.0"), wanted);
        assert_ne!(kept_by("http://a/v2/web/blobs/x"), kept_by("http://b/v2/web/blobs/x"), "a mirror has its own");
        assert_eq!(kept_by("http://a/v2/web/blobs/x"), kept_by("http://a/v2/web/manifests/1"));
    }

    #[test]
    fn repositories_have_lower_case_names() {
        for (part, wanted) in [("acme", true), ("a", true), ("a.b_c-d", true), ("A", false), ("..", false), ("", false)]
        {
            assert_eq!(is_name(part), wanted, "{part}");
        }
    }
}
