//! Feeds against a small HTTP server, and folders on disk.

mod kinds;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use shoal_proto::id::PackageId;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::digest::Algorithm;
use super::*;
use crate::config::Config;

/// A server of files with ETags and ranges, until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// `Content-Type`, by path.
    types: Mutex<BTreeMap<String, &'static str>>,
    /// The only `Authorization` that is let in, if any is wanted.
    pub(crate) authorization: Mutex<Option<String>>,
    /// Path and `Authorization` of every request.
    pub(crate) seen: Mutex<Vec<(String, Option<String>)>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let mut tasks = JoinSet::new();
        let of_task = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let shared = Arc::clone(&of_task);
                open.spawn(async move { drop(serve(socket, &shared).await) });
            }
        });
        Self { address, shared, _tasks: tasks }
    }

    pub(crate) fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.shared.files.lock().unwrap().insert(path.to_owned(), bytes.into());
    }

    /// The same with a `Content-Type`.
    fn put_as(&self, path: &str, content_type: &'static str, bytes: impl Into<Vec<u8>>) {
        self.shared.types.lock().unwrap().insert(path.to_owned(), content_type);
        self.put(path, bytes);
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How often `path` was asked for, but for its first byte alone.
    pub(crate) fn asked(&self, path: &str) -> usize {
        self.shared.seen.lock().unwrap().iter().filter(|(seen, _)| seen == path).count()
    }

    /// A NuGet feed with one package of two versions.
    fn nuget(&self, prefix: &str, package: &[u8]) {
        let base = self.url(&format!("{prefix}/flat"));
        let registration = self.url(&format!("{prefix}/registration"));
        let hash = STANDARD.encode(<sha2::Sha512 as sha2::Digest>::digest(package));
        self.put(
            &format!("{prefix}/index.json"),
            format!(
                r#"{{"version": "3.0.0", "resources": [
                    {{"@id": "https://example.com/search", "@type": ["SearchQueryService", "Other"]}},
                    {{"@id": "{base}", "@type": "PackageBaseAddress/3.0.0"}},
                    {{"@id": "{registration}/", "@type": "RegistrationsBaseUrl"}}]}}"#
            ),
        );
        self.put(&format!("{prefix}/flat/shop.web/index.json"), r#"{"versions": ["2.3.0", "2.4.0-RC.1", "2.4.1"]}"#);
        self.put(&format!("{prefix}/flat/shop.web/2.4.1/shop.web.2.4.1.nupkg"), package);
        self.put(&format!("{prefix}/flat/shop.web/2.4.0-rc.1/shop.web.2.4.0-rc.1.nupkg"), "the candidate");
        self.put(
            &format!("{prefix}/registration/shop.web/2.4.1.json"),
            format!(r#"{{"catalogEntry": {{"packageHash": "{hash}", "packageHashAlgorithm": "SHA512"}}}}"#),
        );
    }
}

async fn serve(socket: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut socket = BufStream::new(socket);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if socket.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let path = lines[0].split(' ').nth(1).unwrap().to_owned();
        let header = |wanted: &str| {
            let named = |line: &String| {
                line.split_once(": ")
                    .filter(|(name, _)| name.eq_ignore_ascii_case(wanted))
                    .map(|(_, value)| value.to_owned())
            };
            lines[1..].iter().find_map(named)
        };
        shared.seen.lock().unwrap().push((path.clone(), header("authorization")));
        let wanted = shared.authorization.lock().unwrap().clone();
        let bare = path.split('?').next().unwrap();
        let file = {
            let files = shared.files.lock().unwrap();
            files.get(&path).or_else(|| files.get(bare)).cloned()
        };
        let (head, body) = match file {
            _ if wanted.is_some() && wanted != header("authorization") => {
                ("401 Unauthorized\r\n".to_owned(), Vec::new())
            }
            None => ("404 Not Found\r\n".to_owned(), Vec::new()),
            Some(file) => answer(&file, header("range").as_deref()),
        };
        let kind = shared.types.lock().unwrap().get(&path).map(|kind| format!("Content-Type: {kind}\r\n"));
        let head = format!("HTTP/1.1 {head}{}Content-Length: {}\r\n\r\n", kind.unwrap_or_default(), body.len());
        socket.write_all(head.as_bytes()).await?;
        socket.write_all(&body).await?;
        socket.flush().await?;
    }
}

fn answer(file: &[u8], range: Option<&str>) -> (String, Vec<u8>) {
    let etag = format!("ETag: \"{}\"\r\n", blake3::hash(file).to_hex());
    let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let Some((first, last)) = range else { return (format!("200 OK\r\n{etag}"), file.to_vec()) };
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let last = last.min(file.len() - 1);
    let head = format!("206 Partial Content\r\n{etag}Content-Range: bytes {first}-{last}/{}\r\n", file.len());
    (head, file[first..=last].to_vec())
}

/// Feeds of a configuration whose `[[feed]]` tables are `text`; paths are below `folder`.
pub(crate) fn feeds(text: &str, folder: &Path) -> Feeds {
    let config = Config::parse(&format!("data_dir = 'data'\n{text}"), &folder.join("coordinator.toml")).unwrap();
    Feeds::new(config.feeds, OriginReader::new().unwrap())
}

pub(crate) fn reference(feed: &str, id: &str, version: Option<&str>) -> Reference {
    let version = version.map(str::to_owned);
    Reference::Feed { feed: Name::new(feed).unwrap(), id: id.to_owned(), version, file: None, platform: None }
}

/// What a node of `site` is given to read with first.
async fn origin(feeds: &Feeds, found: &Resolved, site: Option<&Name>) -> HttpOrigin {
    feeds.authorize(found, found.places(site)[0].clone()).await.unwrap()
}

async fn error(feeds: &Feeds, reference: &Reference) -> String {
    feeds.resolve(reference).await.unwrap_err().to_string()
}

fn site(name: &str) -> Name {
    Name::new(name).unwrap()
}

#[tokio::test]
async fn files_of_an_http_feed_and_of_a_url() {
    let server = Server::start().await;
    server.put("/web/1.2/web-1.2.zip", "the package");
    let url = server.url("/{id}/{version}/{id}-{version}.zip");
    let feeds = feeds(&format!("[[feed]]\nname = 'files'\nkind = 'http'\nurl = '{url}'"), Path::new("/"));
    let found = feeds.resolve(&reference("files", "web", Some("1.2"))).await.unwrap();
    assert_eq!((found.size(), found.description.as_str()), (11, "files web 1.2"));
    assert!(found.validator().unwrap().contains(&blake3::hash(b"the package").to_hex().to_string()));
    let origin = origin(&feeds, &found, Some(&site("osl"))).await;
    assert_eq!(origin.url, server.url("/web/1.2/web-1.2.zip"));

    let direct = feeds.resolve(&Reference::Url(server.url("/web/1.2/web-1.2.zip"))).await.unwrap();
    assert_eq!(direct.size(), 11);
    let missing = error(&feeds, &reference("files", "web", Some("1.3"))).await;
    assert_eq!(missing, "feed `files` has no web 1.3: check its id");
    let unknown = error(&feeds, &reference("flies", "web", None)).await;
    assert_eq!(unknown, "there is no feed `flies`: did you mean `files`?");
    let no_version = error(&feeds, &reference("files", "web", None)).await;
    assert!(no_version.contains("a `version` is needed"), "{no_version}");
    let direct = error(&feeds, &Reference::Url(server.url("/gone.zip?token=s3cret"))).await;
    assert!(direct.contains("server `127.0.0.1` has no http://127.0.0.1") && !direct.contains("s3cret"), "{direct}");
    let bad = error(&feeds, &Reference::Url("http://ci:s3cret@127.0.0.1/x".to_owned())).await;
    assert!(bad.contains("has a user in it") && !bad.contains("s3cret"), "{bad}");
}

#[tokio::test]
async fn passwords_are_read_at_use_and_told_to_the_feed_alone() {
    let (server, elsewhere, folder) = (Server::start().await, Server::start().await, tempfile::tempdir().unwrap());
    server.nuget("/v3", b"the package");
    let password = folder.path().join("password");
    let wanted = format!("Basic {}", STANDARD.encode("ci:s3cret"));
    *server.shared.authorization.lock().unwrap() = Some(wanted.clone());
    let text =
        |url: String, rest: &str| format!("[[feed]]\nname = 'nuget-main'\nkind = 'nuget'\nurl = '{url}'\n{rest}");
    let credentials = "username = 'ci'\npassword_file = 'password'";
    let feeds = |rest: &str| feeds(&text(server.url("/v3/index.json"), rest), folder.path());
    let package = reference("nuget-main", "Shop.Web", Some("2.4.1"));

    let open = error(&feeds(""), &package).await;
    assert_eq!(open, "feed `nuget-main` answered 401 for Shop.Web 2.4.1: it wants a `username` and a `password_file`");
    let none = error(&feeds(credentials), &package).await;
    assert!(none.starts_with("cannot read the password of feed `nuget-main` from "), "{none}");
    fs::write(&password, "wrong\n").unwrap();
    let closed = feeds(credentials);
    let refused = error(&closed, &package).await;
    assert_eq!(refused, "feed `nuget-main` answered 401 for Shop.Web 2.4.1: check `username` and `password_file`");

    // The same feeds, with the right password in the file.
    fs::write(&password, "s3cret\r\n").unwrap();
    let found = closed.resolve(&package).await.unwrap();
    assert!(!serde_json::to_string(&found).unwrap().contains(&STANDARD.encode("ci:s3cret")), "a secret is recorded");
    let origin = origin(&closed, &found, None).await;
    assert_eq!(origin.headers, [("authorization".to_owned(), wanted)]);
    assert!(!format!("{origin:?}").contains("Basic"));

    // A feed whose index sends downloads to another host, which must not learn the password.
    elsewhere.nuget("/v3", b"the package");
    let index = elsewhere.shared.files.lock().unwrap()["/v3/index.json"].clone();
    server.put("/v3/index.json", index);
    let found = closed.resolve(&package).await.unwrap();
    assert!(self::origin(&closed, &found, None).await.headers.is_empty());
    assert!(elsewhere.shared.seen.lock().unwrap().iter().all(|(_, authorization)| authorization.is_none()));
}

#[tokio::test]
async fn packages_of_a_nuget_feed() {
    let server = Server::start().await;
    server.nuget("/v3", b"the package");
    server.nuget("/syd", b"the package");
    server.nuget("/bad", b"another package");
    let (url, syd, bad) = (server.url("/v3/index.json"), server.url("/syd/index.json"), server.url("/bad/index.json"));
    let mirrors = format!("[{{ sites = ['bad'], url = '{bad}' }}, {{ sites = ['syd*'], url = '{syd}' }}]");
    let text = format!("[[feed]]\nname = 'main'\nkind = 'nuget'\nurl = '{url}'\nmirrors = {mirrors}");
    let feeds = feeds(&text, Path::new("/"));
    for version in ["2.4.1", "2.4.1.0", "02.4.1+build.7"] {
        let found = feeds.resolve(&reference("main", "Shop.Web", Some(version))).await.unwrap();
        assert_eq!(found.size(), 11);
        assert_eq!(found.lineage, "main shop.web");
        assert_eq!(found.digests, [Digest::of_bytes(Algorithm::Sha512, b"the package")]);
        let url = |name: &str| found.places(Some(&site(name)))[0].url.clone();
        assert_eq!(url("osl"), server.url("/v3/flat/shop.web/2.4.1/shop.web.2.4.1.nupkg"));
        assert_eq!(url("syd-2"), server.url("/syd/flat/shop.web/2.4.1/shop.web.2.4.1.nupkg"));
        assert_eq!(url("bad"), url("osl"), "a mirror with other bytes is not used");
    }
    let candidate = feeds.resolve(&reference("main", "Shop.Web", Some("2.4.0-Rc.1"))).await.unwrap();
    assert_eq!((candidate.size(), candidate.digests), (13, Vec::new()));

    let table = [
        (("Shop.Wep", Some("2.4.1")), "feed `main` has no Shop.Wep 2.4.1: check its id"),
        (
            ("Shop.Web", Some("2.4.2")),
            "feed `main` has no version 2.4.2 of Shop.Web: did you mean 2.4.1? its last versions are 2.3.0, 2.4.0-rc.1, 2.4.1",
        ),
        (
            ("Shop.Web", Some("9")),
            "feed `main` has no version 9 of Shop.Web: its last versions are 2.3.0, 2.4.0-rc.1, 2.4.1",
        ),
        (
            ("Shop.Web", None),
            "feed `main` cannot have Shop.Web: a `version` is needed, `*` for the latest stable; its last versions are 2.3.0, 2.4.0-rc.1, 2.4.1",
        ),
        (
            ("../x", Some("1")),
            "feed `main` cannot have ../x 1: `../x` is no NuGet id: letters and digits are wanted, with single `.` or `-` between",
        ),
    ];
    for ((id, version), wanted) in table {
        assert_eq!(error(&feeds, &reference("main", id, version)).await, wanted);
    }
}

#[tokio::test]
async fn what_is_no_nuget_feed_is_told() {
    let server = Server::start().await;
    server.put("/text.json", "<html>");
    server.put("/v2.json", r#"{"resources": []}"#);
    let package = reference("main", "Shop.Web", Some("1.0"));
    let table = [
        ("/text.json", "expected value at line 1"),
        ("/v2.json", "it has no PackageBaseAddress/3.0.0"),
        ("/gone.json", "there is no service index"),
    ];
    for (path, wanted) in table {
        let text = format!("[[feed]]\nname = 'main'\nkind = 'nuget'\nurl = '{}'", server.url(path));
        let error = error(&feeds(&text, Path::new("/")), &package).await;
        assert!(error.starts_with("feed `main` sent a document that cannot be used, http://127"), "{error}");
        assert!(error.contains(wanted), "{error}");
    }
    // What is no service index is a feed of version 2.
    server.put("/FindPackagesById()?id=%27Shop.Web%27&semVerLevel=2.0.0", "<html>");
    let text = format!("[[feed]]\nname = 'main'\nkind = 'nuget'\nurl = '{}'", server.url("/"));
    let error = error(&feeds(&text, Path::new("/")), &package).await;
    assert!(error.contains("FindPackagesById()") && error.contains("never closed"), "{error}");
}

#[tokio::test]
async fn a_feed_that_nobody_answers_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let text = format!("[[feed]]\nname = 'files'\nkind = 'http'\nurl = 'http://{address}/'");
    let error = error(&feeds(&text, Path::new("/")), &reference("files", "web.zip", None)).await;
    assert!(
        error.starts_with(&format!("feed `files` cannot be asked for web.zip: cannot reach http://{address}/web.zip")),
        "{error}"
    );
}

#[tokio::test]
async fn no_reference_leads_out_of_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("feed");
    fs::create_dir_all(root.join("web/1.2")).unwrap();
    fs::write(root.join("web/1.2/web.zip"), "the package").unwrap();
    fs::write(folder.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink(folder.path().join("secret"), root.join("link")).unwrap();
    std::os::unix::fs::symlink(folder.path(), root.join("up")).unwrap();
    std::os::unix::fs::symlink(root.join("web/1.2/web.zip"), root.join("latest")).unwrap();
    let feeds = feeds("[[feed]]\nname = 'models'\nkind = 'folder'\npath = 'feed'", folder.path());

    for (id, version) in [("web/1.2/web.zip", None), ("web/{version}/web.zip", Some("1.2")), ("latest", None)] {
        let found = feeds.resolve(&reference("models", id, version)).await.unwrap();
        assert_eq!(found.size(), 11, "{id}");
        assert!(found.places(None).is_empty(), "the coordinator is the origin");
        let Place::Folder(file) = &found.place else { panic!("{found:?}") };
        assert!(file.open().is_ok());
    }
    for id in ["../secret", "/etc/passwd", "link", "up/secret", "web/../../secret", "", "."] {
        let error = error(&feeds, &reference("models", id, None)).await;
        assert!(error.contains("out of the feed's folder") || id.is_empty() || id == ".", "{id}: {error}");
    }
    let inside = error(&feeds, &reference("models", "web/{version}/web.zip", Some("../.."))).await;
    assert!(inside.contains("out of the feed's folder"), "{inside}");
    let typo = error(&feeds, &reference("models", "web/1.2/wep.zip", None)).await;
    assert_eq!(typo, "feed `models` has no web/1.2/wep.zip: did you mean `web/1.2/web.zip`?");
    let directory = error(&feeds, &reference("models", "web", None)).await;
    assert_eq!(directory, "feed `models` cannot give web: it is no file");
}

#[tokio::test]
async fn a_file_that_changed_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.zip");
    fs::write(&path, "the package").unwrap();
    let feeds = feeds("[[feed]]\nname = 'models'\nkind = 'folder'\npath = '.'", folder.path());
    let found = feeds.resolve(&reference("models", "web.zip", None)).await.unwrap();
    let Place::Folder(file) = &found.place else { panic!("{found:?}") };
    fs::write(&path, "another").unwrap();
    assert!(file.open().unwrap_err().to_string().ends_with("has changed since it was resolved"));
}

#[test]
fn references_say_enough_and_not_too_much() {
    let text = |text: &str| Some(text.to_owned());
    let feed = Some(site("main"));
    let ok = PackageSpec { feed, id: text("a"), version: text("1"), ..PackageSpec::default() };
    let name = site("web");
    assert_eq!(Reference::of_spec(&name, &ok), Ok(reference("main", "a", Some("1"))));
    let url = PackageSpec { url: text("http://h/x"), blake3: Some(PackageId([1; 32])), ..PackageSpec::default() };
    assert_eq!(Reference::of_spec(&name, &url), Ok(Reference::Url("http://h/x".to_owned())));
    let table = [
        (PackageSpec::default(), "neither"),
        (PackageSpec { id: None, ..ok.clone() }, "no `id`"),
        (PackageSpec { url: text("http://h/x"), ..ok.clone() }, "both"),
        (PackageSpec { version: text("1"), ..url.clone() }, "no effect"),
        (PackageSpec { id: text(""), ..ok.clone() }, "empty"),
        (PackageSpec { version: Some("1".repeat(REFERENCE_BYTES_MAX + 1)), ..ok }, "too long"),
        (PackageSpec { url: Some("x".repeat(URL_BYTES_MAX + 1)), ..url }, "too long"),
    ];
    for (spec, wanted) in table {
        let error = Reference::of_spec(&name, &spec).unwrap_err().to_string();
        assert!(error.starts_with("package `web`: ") && error.contains(wanted), "{error}");
    }
}

#[tokio::test]
async fn stores_of_objects_are_asked_by_signed_urls() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    server.put("/releases/web.zip", "the package");
    let key = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = aws_lc_rs::encoding::AsDer::as_der(&key).unwrap();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
    let account =
        serde_json::json!({ "type": "service_account", "client_email": "shoal@acme.example", "private_key": pem });
    let secret = |text: &str| fs::write(folder.path().join("secret"), text).unwrap();
    let store = |kind: &str, rest: &str| {
        let url = server.url("/releases");
        let text = format!("[[feed]]\nname = 'store'\nkind = '{kind}'\nurl = '{url}'\n{rest}");
        feeds(&text, folder.path())
    };
    let package = reference("store", "web.zip", None);

    // A service account signs once for several leases, and again when somebody was refused.
    secret(&serde_json::to_string_pretty(&account).unwrap());
    let google = store("gcs", "token_file = 'secret'");
    let found = google.resolve(&package).await.unwrap();
    assert!(!serde_json::to_string(&found).unwrap().contains("Signature"), "a signed URL is recorded");
    let given = origin(&google, &found, None).await;
    let query = format!(
        "{}?X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=shoal%40acme.example%2F",
        found.places(None)[0].url
    );
    assert!(given.url.starts_with(&query) && given.url.contains("&X-Goog-Expires=3600&"), "{}", given.url);
    assert!(given.headers.is_empty() && !given.url.contains("PRIVATE"));
    secret("{}");
    assert_eq!(origin(&google, &found, None).await, given, "it is used again");
    google.denied(&found);
    let refused = google.authorize(&found, found.places(None)[0].clone()).await.unwrap_err().to_string();
    assert_eq!(refused, "cannot sign URLs of feed `store`: its token is not the key of a service account in JSON");
    secret(&account.to_string().replace("BEGIN", "").replace("MII", "!"));
    let broken = error(&store("gcs", "token_file = 'secret'"), &package).await;
    assert_eq!(broken, "cannot sign URLs of feed `store`: its `private_key` is no PEM");

    // A signature that was given goes with every URL; keys of another form are named.
    secret("?sv=2022-11-02&sig=abc%3D\n");
    let azure = store("azure", "token_file = 'secret'");
    let found = azure.resolve(&package).await.unwrap();
    assert_eq!(origin(&azure, &found, None).await.url, server.url("/releases/web.zip?sv=2022-11-02&sig=abc%3D"));
    let no_key = error(&store("azure", "username = 'acme'\npassword_file = 'secret'"), &package).await;
    assert!(no_key.ends_with("the password is not an account's key, which is base64"), "{no_key}");
    let no_token = error(&store("s3", "token_file = 'secret'"), &package).await;
    assert!(no_token.ends_with("an access key is a `username` and a password, and no token"), "{no_token}");
}
