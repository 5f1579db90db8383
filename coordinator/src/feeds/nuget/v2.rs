//! Version 2: OData with Atom, as older servers and Chocolatey's speak it: `FindPackagesById()` for the versions,
//! `Packages(Id=…,Version=…)` for one.
//!
//! A hash that a server leaves empty is no hash. A package that was published in 1900 is unlisted.

use roxmltree::{Document, Node};
use shoal_proto::limits::FEED_PAGES_MAX;

use super::super::{Digest, FeedError, Found, Place};
use super::Sought;
use super::version::{Range, Version};

const ATOM: &str = "application/atom+xml";

/// A package as a server lists it.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    version: Version,
    url: String,
    listed: bool,
    digest: Option<Digest>,
}

impl Sought<'_> {
    pub(super) async fn resolve_v2(&self) -> Result<Found, FeedError> {
        let entry = match self.exactly().await? {
            Some(entry) => entry,
            None => self.best().await?,
        };
        // A server of one host may call itself by another; what is asked is what the configuration names.
        let url = match reqwest::Url::parse(&self.asked.base()).and_then(|base| base.join(&entry.url)) {
            Ok(url) => url.to_string(),
            Err(error) => return Err(self.asked.bad(&entry.url, &error.to_string())),
        };
        let origin = self.asked.probe(url, self.wanted).await?;
        let path = origin.url.strip_prefix(&self.asked.base()).map(str::to_owned);
        let mirrors = match path {
            Some(path) => self.asked.mirrors_below(&origin, &path).await,
            None => Vec::new(),
        };
        let place = Place::Http { origin, mirrors, equivalents: Vec::new() };
        Ok(self.found(&entry.version, place, entry.digest.into_iter().collect()))
    }

    /// The one that is wanted, if the reference says exactly which and the server finds it by itself.
    async fn exactly(&self) -> Result<Option<Entry>, FeedError> {
        let Some(Range::Exactly(version)) = &self.range else { return Ok(None) };
        let url = format!("{}Packages(Id='{}',Version='{version}')", self.asked.base(), self.wanted.id);
        match self.asked.document(&url, Some(ATOM), self.wanted).await {
            Ok(document) => {
                let (entries, _) = self.entries(&url, &document.bytes)?;
                Ok(entries.into_iter().find(|entry| entry.version == *version))
            }
            // It may know the version by other letters.
            Err(FeedError::NoPackage { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The best of all versions.
    async fn best(&self) -> Result<Entry, FeedError> {
        let mut entries = Vec::new();
        let mut next =
            Some(format!("{}FindPackagesById()?id='{}'&semVerLevel=2.0.0", self.asked.base(), self.wanted.id));
        for _ in 0..FEED_PAGES_MAX {
            let Some(url) = next.take() else { break };
            let document = self.asked.document(&url, Some(ATOM), self.wanted).await?;
            let (more, further) = self.entries(&url, &document.bytes)?;
            entries.extend(more);
            next = further;
        }
        if entries.is_empty() {
            return Err(self.asked.no_package(self.wanted, String::new()));
        }
        let floats = !matches!(self.range, Some(Range::Exactly(_)) | None);
        let known: Vec<Version> = entries.iter().filter(|e| e.listed || !floats).map(|e| e.version.clone()).collect();
        let chosen = self.choose(&known)?;
        let found = entries.into_iter().find(|entry| entry.version == *chosen);
        found.ok_or_else(|| self.asked.no_version(self.wanted, String::new()))
    }

    /// The entries of a document, and where the next page of it is.
    fn entries(&self, url: &str, bytes: &[u8]) -> Result<(Vec<Entry>, Option<String>), FeedError> {
        let text = std::str::from_utf8(bytes).map_err(|error| self.asked.bad(url, &error.to_string()))?;
        let document = Document::parse(text.trim_start_matches('\u{feff}'));
        let document = document.map_err(|error| self.asked.bad(url, &error.to_string()))?;
        let entries = document.descendants().filter(|node| node.tag_name().name() == "entry").filter_map(entry);
        let links = document.root_element().children().filter(|node| node.tag_name().name() == "link");
        let mut next = links.filter(|link| link.attribute("rel") == Some("next"));
        Ok((entries.collect(), next.find_map(|link| link.attribute("href")).map(str::to_owned)))
    }
}

/// The package that an `entry` tells of; none without a version that can be read and a place.
fn entry(node: Node<'_, '_>) -> Option<Entry> {
    let text = |name: &str| {
        let mut named = node.descendants().filter(|child| child.tag_name().name() == name);
        named.find_map(|child| child.text()).map(str::trim).filter(|text| !text.is_empty())
    };
    let content = node.children().find(|child| child.tag_name().name() == "content")?;
    let algorithm = text("PackageHashAlgorithm").unwrap_or("SHA512");
    Some(Entry {
        version: Version::parse(text("NormalizedVersion").or_else(|| text("Version"))?).ok()?,
        url: content.attribute("src")?.to_owned(),
        listed: text("Listed") != Some("false") && !text("Published").is_some_and(|date| date.starts_with("1900-")),
        digest: text("PackageHash").and_then(|hash| Digest::of_base64(algorithm, hash)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(properties: &str) -> Vec<Entry> {
        let text = format!(
            "<feed xmlns='http://www.w3.org/2005/Atom' xmlns:m='http://m' xmlns:d='http://d'><entry>\
             <content type='application/zip' src='http://h/web.nupkg'/><m:properties>{properties}</m:properties>\
             </entry></feed>"
        );
        let document = Document::parse(&text).unwrap();
        document.descendants().filter(|node| node.tag_name().name() == "entry").filter_map(entry).collect()
    }

    #[test]
    fn entries_are_read_with_what_servers_leave_out() {
        let hash = Digest::of_bytes(crate::feeds::digest::Algorithm::Sha512, b"abc");
        let base64 = "3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw==";
        let version = Version::parse("1.2").unwrap();
        let plain = Entry { version, url: "http://h/web.nupkg".into(), listed: true, digest: None };
        let hashed = Entry { version: plain.version.clone(), url: plain.url.clone(), listed: true, digest: Some(hash) };
        let table = [
            ("<d:Version>1.2</d:Version>", vec![&plain]),
            ("<d:Version>1.2</d:Version><d:PackageHash></d:PackageHash>", vec![&plain]),
            ("<d:Version>1.2</d:Version><d:PackageHash>!</d:PackageHash>", vec![&plain]),
            ("<d:Version>x</d:Version>", vec![]),
            ("", vec![]),
        ];
        for (properties, wanted) in table {
            assert_eq!(entries(properties).iter().collect::<Vec<_>>(), wanted, "{properties}");
        }
        let with_hash =
            format!("<d:NormalizedVersion>1.2.0</d:NormalizedVersion><d:PackageHash>{base64}</d:PackageHash>");
        assert_eq!(entries(&with_hash), [hashed]);
        for hidden in ["<d:Listed>false</d:Listed>", "<d:Published>1900-01-01T00:00:00</d:Published>"] {
            assert!(!entries(&format!("<d:Version>1</d:Version>{hidden}"))[0].listed, "{hidden}");
        }
    }
}
