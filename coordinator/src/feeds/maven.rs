//! Maven repositories: the artifact `group:artifact`, `group:artifact:extension` or `group:artifact:extension:classifier`
//! as `id`. A `-SNAPSHOT` is pinned to the file that it means at the moment. The strongest checksum beside it is checked.
//!
//! Layout: <https://maven.apache.org/repository/layout.html>.

use roxmltree::Document;

use super::asked::Asked;
use super::http::escaped_path;
use super::kind::Kind;
use super::{Digest, FeedError, Found, Place, Wanted};

pub(super) const KIND: Kind =
    Kind { name: "maven", resolve: |asked, wanted| Box::pin(resolve(asked, wanted)), ..Kind::COMMON };

/// What an artifact is called.
#[derive(Debug, PartialEq, Eq)]
struct Coordinates<'a> {
    group: &'a str,
    artifact: &'a str,
    extension: &'a str,
    classifier: Option<&'a str>,
}

impl<'a> Coordinates<'a> {
    fn parse(id: &'a str) -> Result<Self, String> {
        let parts: Vec<&str> = id.split(':').collect();
        let good = |part: &&str| {
            !part.is_empty()
                && !part.contains("..")
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        let (group, artifact, rest) = match parts.as_slice() {
            [group, artifact, rest @ ..] if rest.len() <= 2 && parts.iter().all(good) => (group, artifact, rest),
            _ => return Err(format!("`{id}` is no artifact: write for instance `com.acme:web` or `com.acme:web:war`")),
        };
        Ok(Self { group, artifact, extension: rest.first().unwrap_or(&"jar"), classifier: rest.get(1).copied() })
    }

    /// Where the files of a version are, below the repository.
    fn folder(&self, version: &str) -> String {
        format!("{}/{}/{version}", self.group.replace('.', "/"), self.artifact)
    }

    /// The file of a version, which for a snapshot is the one that it was resolved to.
    fn file(&self, version: &str) -> String {
        let classifier = self.classifier.map(|classifier| format!("-{classifier}")).unwrap_or_default();
        format!("{}-{version}{classifier}.{}", self.artifact, self.extension)
    }

    /// The newest file of a snapshot, by the repository's own list.
    fn newest(&self, metadata: &Document<'_>, version: &str) -> Option<String> {
        let text = |node: roxmltree::Node<'_, '_>, name: &str| {
            let mut children = node.children().filter(|child| child.has_tag_name(name));
            children.find_map(|child| child.text().map(|text| text.trim().to_owned()))
        };
        let versions = metadata.descendants().filter(|node| node.has_tag_name("snapshotVersion"));
        let mut of_this = versions.filter(|node| {
            text(*node, "extension").as_deref() == Some(self.extension)
                && text(*node, "classifier").filter(|text| !text.is_empty()).as_deref() == self.classifier
        });
        if let Some(value) = of_this.find_map(|node| text(node, "value")) {
            return Some(value);
        }
        // Older repositories tell only when it was built.
        let snapshot = metadata.descendants().find(|node| node.has_tag_name("snapshot"))?;
        let (time, number) = (text(snapshot, "timestamp")?, text(snapshot, "buildNumber")?);
        Some(format!("{}-{time}-{number}", version.strip_suffix("-SNAPSHOT")?))
    }
}

async fn resolve(asked: &Asked<'_>, wanted: &Wanted<'_>) -> Result<Found, FeedError> {
    let impossible = |problem: String| asked.impossible(wanted, problem);
    let coordinates = Coordinates::parse(wanted.id).map_err(impossible)?;
    let version = wanted.version.ok_or_else(|| impossible("a `version` is needed".to_owned()))?;
    let escaped = escaped_path(version).map_err(impossible)?;
    if escaped.contains('/') {
        return Err(impossible(format!("`{version}` is no version")));
    }
    let folder = coordinates.folder(&escaped);
    let pinned = match version.ends_with("-SNAPSHOT") {
        true => snapshot(asked, wanted, &coordinates, &folder, version).await?,
        false => escaped,
    };
    let path = format!("{folder}/{}", coordinates.file(&pinned));
    let url = format!("{}{path}", asked.base());
    let origin = asked.probe(url.clone(), wanted).await?;
    let mirrors = asked.mirrors_below(&origin, &path).await;
    let digests = checksum(asked, wanted, &url).await.into_iter().collect();
    let place = Place::Http { origin, mirrors, equivalents: Vec::new() };
    Ok(Found { version: Some(pinned), lineage: wanted.id.to_owned(), place, digests })
}

/// What a snapshot means at the moment; itself where the repository keeps only one file of it.
async fn snapshot(
    asked: &Asked<'_>,
    wanted: &Wanted<'_>,
    coordinates: &Coordinates<'_>,
    folder: &str,
    version: &str,
) -> Result<String, FeedError> {
    let url = format!("{}{folder}/maven-metadata.xml", asked.base());
    let document = match asked.document(&url, None, wanted).await {
        Err(FeedError::NoPackage { .. }) => return Ok(version.to_owned()),
        document => document?,
    };
    let text = String::from_utf8_lossy(&document.bytes);
    let metadata = Document::parse(&text).map_err(|error| asked.bad(&url, &error.to_string()))?;
    let newest = coordinates.newest(&metadata, version);
    newest.ok_or_else(|| asked.no_version(wanted, format!("its list of snapshots has no .{}", coordinates.extension)))
}

/// The strongest checksum that lies beside the file at `url`. Repositories have some of them, and each in a file.
async fn checksum(asked: &Asked<'_>, wanted: &Wanted<'_>, url: &str) -> Option<Digest> {
    for algorithm in ["sha512", "sha256", "sha1"] {
        if let Ok(document) = asked.document(&format!("{url}.{algorithm}"), None, wanted).await {
            let text = String::from_utf8_lossy(&document.bytes).into_owned();
            // Some write the file's name behind it.
            let digest = text.split_whitespace().next().and_then(|digits| Digest::of_hex(algorithm, digits));
            if digest.is_some() {
                return digest;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_are_files_below_their_group() {
        let web = Coordinates::parse("com.acme.shop:web").unwrap();
        assert_eq!((web.folder("1.2"), web.file("1.2")), ("com/acme/shop/web/1.2".into(), "web-1.2.jar".into()));
        let sources = Coordinates::parse("com.acme:web:zip:src").unwrap();
        assert_eq!(sources.file("1.2"), "web-1.2-src.zip");
        for bad in ["", "web", "a:b:c:d:e", "a::b", "a/b:c", "a:b:..", "a:b c"] {
            assert!(Coordinates::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_snapshot_is_the_newest_file_of_its_kind() {
        let text = "<metadata><versioning><snapshot><timestamp>20260102.030405</timestamp><buildNumber>7</buildNumber></snapshot>
            <snapshotVersions>
            <snapshotVersion><extension>jar</extension><classifier>src</classifier><value>1.2-a-1</value></snapshotVersion>
            <snapshotVersion><extension>jar</extension><value>1.2-b-2</value></snapshotVersion>
            </snapshotVersions></versioning></metadata>";
        let metadata = Document::parse(text).unwrap();
        let newest = |id: &str| Coordinates::parse(id).unwrap().newest(&metadata, "1.2-SNAPSHOT");
        assert_eq!(newest("a:b").as_deref(), Some("1.2-b-2"));
        assert_eq!(newest("a:b:jar:src").as_deref(), Some("1.2-a-1"));
        assert_eq!(newest("a:b:war").as_deref(), Some("1.2-20260102.030405-7"));
        let bare = Document::parse("<metadata/>").unwrap();
        assert_eq!(Coordinates::parse("a:b").unwrap().newest(&bare, "1.2-SNAPSHOT"), None);
    }
}
