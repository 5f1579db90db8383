//! Feeds of real servers: each test lays a package on one, deploys it to two nodes by ranges, and ends it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use shoal_tests::http::send;
use shoal_tests::servers::{self, Server, installed};
use shoal_tests::{Credentials, Mesh, Origin, TokenServer, certificate, package};

/// What is packed: with some weight, so that a second copy would be seen.
fn files() -> package::Files {
    package::files(40, 30, 60_000)
}

/// Deploys the package that `reference` names in the feed `feed` to two nodes of one site, and checks what they got.
fn deploy(feed: &str, secrets: &[(&str, &str)], reference: &str, wanted: &[u8]) -> Mesh {
    deploy_to(feed, secrets, reference, wanted, &[])
}

/// The same with more arguments for the nodes.
fn deploy_to(feed: &str, secrets: &[(&str, &str)], reference: &str, wanted: &[u8], node_args: &[&str]) -> Mesh {
    let mut mesh = Mesh::start(feed);
    mesh.set_node_args(node_args);
    for (name, secret) in secrets {
        fs::write(mesh.path(name), format!("{secret}\n")).unwrap();
    }
    mesh.join("osl", &["one", "two"]);
    fs::write(mesh.path("wanted"), wanted).unwrap();
    let file = format!(
        "name: web\nrelease: '1'\npackages:\n  web: {reference}\ntargets:\n  - {{ select: all, packages: [web] }}\nsteps:\n  \
         - {{ name: same, run: 'cmp \"$SHOAL_PACKAGE_WEB\" {}' }}\n",
        mesh.path("wanted").display()
    );
    let summary = mesh.deploy(&file, &["--watch", "-q", "-o", "json"]).json();
    assert_eq!((&summary["outcome"], &summary["nodes"]), (&json!("succeeded"), &json!(2)), "{summary}");
    let copies = summary["sites"][0]["copies"].as_f64().unwrap();
    // What slow nodes have not read, others may read as well, within a budget that is 256 KiB for small packages.
    let allowed = if node_args.is_empty() { 1.05 } else { 1.3 };
    assert!(copies <= allowed, "{copies} copies crossed the WAN: {summary}");
    let log = mesh.coordinator_log();
    for (name, secret) in secrets {
        assert!(!log.contains(secret), "a secret is in the log");
        assert_eq!(files_with(&mesh.path(""), secret), [mesh.path(name)], "it is on disk as the operator put it");
    }
    for (_, password) in secrets.iter().filter(|_| feed.contains("username = 'ci'")) {
        let basic = STANDARD.encode(format!("ci:{password}"));
        assert_eq!(files_with(&mesh.path(""), &basic), [] as [PathBuf; 0], "nor as it is sent");
    }
    mesh
}

/// The files below a folder that hold `text`.
fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.is_symlink() {
            found.extend(files_with(&path, text));
        } else if fs::read(&path).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes())) {
            found.push(path);
        }
    }
    found
}

/// Tries a feed, which answers ranges or not.
fn tried(mesh: &Mesh, reference: &[&str], ranges: bool) {
    let ran = mesh.shoal(&[&["feeds", "test", "-o", "json"], reference].concat());
    let test: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let place = &test["places"][0];
    assert_eq!((&place["works"], &place["ranges"]), (&json!(true), &json!(ranges)), "{test}");
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn nginx_serves_an_http_feed_behind_a_password() {
    let auth = "location / { auth_basic feed; auth_basic_user_file users; }";
    let Some(nginx) = Server::nginx(auth) else { return };
    put(&nginx.path("users"), b"ci:{PLAIN}correct horse\n");
    let zip = package::zip(&files());
    put(&nginx.path("files/web-1.2.zip"), &zip);
    let url = nginx.url("/{id}-{version}.zip");
    let feed = format!(
        "[[feed]]\nname = 'files'\nkind = 'http'\nurl = '{url}'\nusername = 'ci'\npassword_file = 'password'\n"
    );
    deploy(&feed, &[("password", "correct horse")], "{ feed: files, id: web, version: '1.2' }", &zip);
}

/// A static NuGet v3 feed of one package with its versions, the lowest first. A real client (NuGet 5.8) installs from a feed of
/// these documents.
fn lay_out_nuget(nginx: &Server, versions: &[(&str, bool)], zip: &[u8]) {
    let index = json!({ "version": "3.0.0", "resources": [
        { "@id": "http://127.0.0.1:1/flat/", "@type": "PackageBaseAddress/3.0.0" },
        { "@id": nginx.url("/flat/"), "@type": "PackageBaseAddress/3.0.0" },
        { "@id": nginx.url("/registrations/"), "@type": "RegistrationsBaseUrl/3.4.0" },
    ] });
    let json = |name: &str, value: &Value| put(&nginx.path(&format!("files/{name}")), value.to_string().as_bytes());
    json("v3/index.json", &index);
    let plain: Vec<&str> = versions.iter().map(|(version, _)| *version).collect();
    json("flat/acme.web/index.json", &json!({ "versions": plain }));
    let item = |(version, listed): &(&str, bool)| {
        let id = nginx.url(&format!("/registrations/acme.web/{version}.json"));
        let content = nginx.url(&format!("/flat/acme.web/{version}/acme.web.{version}.nupkg"));
        let entry =
            json!({ "@id": id, "id": "Acme.Web", "version": version, "listed": listed, "packageContent": content });
        json!({ "@id": id, "catalogEntry": entry, "packageContent": content })
    };
    let items: Vec<Value> = versions.iter().map(item).collect();
    let page = nginx.url("/registrations/acme.web/page.json");
    let mut page = json!({ "@id": page, "count": items.len(), "lower": plain.first(), "upper": plain.last() });
    json("registrations/acme.web/index.json", &json!({ "count": 1, "items": [page] }));
    page["items"] = items.into();
    json("registrations/acme.web/page.json", &page);
    for version in plain {
        put(&nginx.path(&format!("files/flat/acme.web/{version}/acme.web.{version}.nupkg")), zip);
    }
}

#[test]
fn nginx_serves_a_static_nuget_feed_whose_floating_version_is_pinned() {
    let Some(nginx) = Server::nginx("") else { return };
    let zip = package::zip(&files());
    let versions = [("4.1.0", true), ("4.2.1", true), ("4.2.2", false), ("4.2.3-rc.1", true), ("5.0.0", true)];
    lay_out_nuget(&nginx, &versions, &zip);
    let feed = format!("[[feed]]\nname = 'main'\nkind = 'nuget'\nurl = '{}'\n", nginx.url("/v3/index.json"));
    let mesh = deploy(&feed, &[], "{ feed: main, id: Acme.Web, version: '4.2.*' }", &zip);
    let log = mesh.coordinator_log();
    assert!(log.contains("main Acme.Web 4.2.1 (for 4.2.*)"), "{log}");
}

/// Pushes an artifact with one layer, as `oras push` does.
fn push(registry: &Server, auth: &[(&str, &str)], repository: &str, tag: &str, title: &str, bytes: &[u8]) {
    let digest = |bytes: &[u8]| format!("sha256:{}", sha256(bytes));
    let blob = |bytes: &[u8]| {
        let begun = send("POST", &registry.url(&format!("/v2/{repository}/blobs/uploads/")), auth, b"").unwrap();
        assert_eq!(begun.status, 202, "{begun:?}");
        let place = begun.header("location").unwrap();
        let joined = if place.contains('?') { "&" } else { "?" };
        let url = format!("{place}{joined}digest={}", digest(bytes));
        let headers = [auth, &[("Content-Type", "application/octet-stream")]].concat();
        let put = send("PUT", &url, &headers, bytes).unwrap();
        assert_eq!(put.status, 201, "{put:?}");
    };
    blob(b"{}");
    blob(bytes);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2 },
        "layers": [
            { "mediaType": "application/octet-stream", "digest": digest(b"{}"), "size": 2,
              "annotations": { "org.opencontainers.image.title": "notes.json" } },
            { "mediaType": "application/zip", "digest": digest(bytes), "size": bytes.len(),
              "annotations": { "org.opencontainers.image.title": title } },
        ],
    });
    let headers = [auth, &[("Content-Type", "application/vnd.oci.image.manifest.v1+json")]].concat();
    let url = registry.url(&format!("/v2/{repository}/manifests/{tag}"));
    let put = send("PUT", &url, &headers, manifest.to_string().as_bytes()).unwrap();
    assert_eq!(put.status, 201, "{put:?}");
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn docker_registry_serves_a_layer_by_its_title_behind_a_password() {
    // `ci` with the password `correct horse`, as `htpasswd -B` writes it.
    let users = "auth: { htpasswd: { realm: registry, path: FOLDER/users } }";
    let ci = "ci:$2y$05$xeufpYIGy0426uaXdWz6SeZDyTqq96H48jb4swaw1Uao7ph2rRkH6\n";
    let Some(registry) = Server::registry(users, &[("users", ci.to_owned())], None) else { return };
    let zip = package::zip(&files());
    let auth = [("Authorization", "Basic Y2k6Y29ycmVjdCBob3JzZQ==")];
    push(&registry, &auth, "acme/web", "1.2", "web.zip", &zip);
    let feed = format!(
        "[[feed]]\nname = 'images'\nkind = 'oci'\nurl = '{}'\nusername = 'ci'\npassword_file = 'password'\n",
        registry.url("")
    );
    let secrets = [("password", "correct horse")];
    let mesh = deploy(&feed, &secrets, "{ feed: images, id: acme/web, version: '1.2', file: web.zip }", &zip);
    let log = mesh.coordinator_log();
    assert!(log.contains("images acme/web 1.2@sha256:"), "{log}");
    let refused = |reference: &str| {
        let file = format!(
            "name: web\nrelease: '2'\npackages:\n  web: {reference}\ntargets:\n  - {{ select: all, packages: [web] }}\n"
        );
        mesh.deploy(&file, &["-q"]).stderr
    };
    let no_tag = refused("{ feed: images, id: acme/web, version: '1.3', file: web.zip }");
    assert!(no_tag.contains("has no version 1.3 of acme/web: its tags are `1.2`"), "{no_tag}");
    let no_file = refused("{ feed: images, id: acme/web, version: '1.2' }");
    assert!(no_file.contains("`file` has to name one of its layers: `notes.json`, `web.zip`"), "{no_file}");
}

#[test]
fn docker_registry_serves_a_layer_for_a_token_that_another_server_lends() {
    // What is pushed to one registry is served by another, which has the same folder.
    let Some(open) = Server::registry("", &[], None) else { return };
    let zip = package::zip(&files());
    push(&open, &[], "acme/web", "1.2", "web.zip", &zip);
    let tokens = TokenServer::start(Credentials { user: "ci", password: "correct horse" });
    let (auth, blobs) = (tokens.registry_auth(), open.path("blobs"));
    let Some(registry) = Server::registry(&auth, &tokens.registry_files(), Some(&blobs)) else { return };
    let url = registry.url("").replace("http://", "https://");
    let feed = format!(
        "[[feed]]\nname = 'images'\nkind = 'oci'\nurl = '{url}'\nca_file = '{}'\nusername = 'ci'\npassword_file = 'password'\n",
        registry.path("tls.pem").display()
    );
    let reference = "{ feed: images, id: acme/web, version: '1.2', file: web.zip }";
    let mesh = deploy(&feed, &[("password", "correct horse")], reference, &zip);
    assert!((1..=3).contains(&tokens.lent()), "{} tokens were lent", tokens.lent());
    let args = ["feeds", "test", "images", "acme/web", "1.2", "--file", "web.zip"];
    let ran = mesh.shoal(&args);
    assert!(ran.code == 0 && ran.stdout.contains("nothing is wrong with it"), "{ran:?}");
    drop(mesh);

    let mesh = Mesh::start(&feed);
    fs::write(mesh.path("password"), "wrong horse\n").unwrap();
    let ran = mesh.shoal(&args);
    assert!(ran.code == 1 && ran.stderr.contains("answered 401 for acme/web 1.2 web.zip: check `username`"), "{ran:?}");
}

/// A project of Django's that is nothing but minchoc, with one package in two versions.
const MINCHOC: &str = r#"
import os, sys
from pathlib import Path
from django.conf import settings
here = Path(__file__).parent
settings.configure(
    DEBUG=False, SECRET_KEY="x", ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, USE_TZ=True, ALLOW_PACKAGE_DELETION=False,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": here / "db"}}, MEDIA_ROOT=here,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "minchoc"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"])
import django
django.setup()
from django.core.management import call_command
from django.urls import include, path
urlpatterns = [path("api/v2/", include("minchoc.urls"))]
call_command("migrate", verbosity=0)
from django.contrib.auth.models import User
from minchoc.models import NugetUser, Package
user, _ = NugetUser.objects.get_or_create(base=User.objects.create_user("ci"))
for version in ["1.2", "1.3"]:
    numbers = {f"version{at}": int(part) for at, part in enumerate(version.split("."))}
    Package.objects.create(nuget_id="Acme.Web", version=version, title="Acme.Web", size=(here / "web.nupkg").stat().st_size,
                           project_url="http://127.0.0.1/", file="web.nupkg", uploader=user, **numbers)
call_command("runserver", sys.argv[1], use_reloader=False, verbosity=0)
"#;

#[test]
fn minchoc_serves_a_nuget_v2_feed_without_ranges() {
    // Beside it is the Python that it was installed for.
    let Some(python) = installed("django-admin").map(|admin| admin.with_file_name("python")) else { return };
    let zip = package::zip(&files());
    let minchoc = Server::start(&python, |folder, port| {
        fs::write(folder.join("web.nupkg"), &zip).unwrap();
        fs::write(folder.join("site.py"), MINCHOC).unwrap();
        vec![folder.join("site.py").display().to_string(), format!("127.0.0.1:{port}")]
    });
    let feed = format!("[[feed]]\nname = 'choco'\nkind = 'nuget'\nurl = '{}'\n", minchoc.url("/api/v2"));
    let mesh = deploy(&feed, &[], "{ feed: choco, id: Acme.Web, version: '1.*' }", &zip);
    let log = mesh.coordinator_log();
    assert!(log.contains("choco Acme.Web 1.3.0 (for 1.*)"), "{log}");
    tried(&mesh, &["choco", "Acme.Web", "1.*"], false);
    drop(mesh);
    deploy(&feed, &[], "{ feed: choco, id: Acme.Web, version: '1.2.0.0' }", &zip);
}

#[test]
fn pypiserver_serves_a_wheel_by_its_simple_index() {
    let Some(program) = installed("pypi-server") else { return };
    let zip = package::zip(&files());
    let server = Server::start(&program, |folder, port| {
        put(&folder.join("packages/acme_web-1.2-py3-none-any.whl"), &zip);
        put(&folder.join("packages/acme_web-1.2.tar.gz"), b"the sources");
        let port = port.to_string();
        ["run", "-i", "127.0.0.1", "-p", &port, "--backend", "simple-dir", "packages"].map(str::to_owned).into()
    });
    let feed = format!("[[feed]]\nname = 'python'\nkind = 'pypi'\nurl = '{}'\n", server.url("/simple/"));
    let reference = "{ feed: python, id: Acme.Web, version: '1.2', file: acme_web-1.2-py3-none-any.whl }";
    let mesh = deploy(&feed, &[], reference, &zip);
    let specifiers = "name: web\nrelease: '3'\npackages:\n  web: { feed: python, id: acme-web, version: '~=1.1', file: \
                      'acme_web-{version}-py3-none-any.whl' }\ntargets:\n  - { select: all, packages: [web] }\n";
    assert_eq!(mesh.deploy(specifiers, &["--watch", "-q", "-o", "json"]).json()["outcome"], "succeeded");
    let log = mesh.coordinator_log();
    assert!(log.contains("python acme-web 1.2 acme_web-{version}-py3-none-any.whl (for ~=1.1)"), "{log}");
    tried(&mesh, &["python", "acme-web", "1.2", "--file", "acme_web-1.2-py3-none-any.whl"], true);
    let file = "name: web\nrelease: '2'\npackages:\n  web: { feed: python, id: acme-web, version: '1.2' }\ntargets:\n  \
                - { select: all, packages: [web] }\n";
    let ran = mesh.deploy(file, &["-q"]);
    assert!(ran.stderr.contains("`file` has to name one of `acme_web-1.2"), "{ran:?}");
}

#[test]
fn verdaccio_serves_a_tarball_whose_integrity_is_checked() {
    let Some(program) = installed("verdaccio") else { return };
    let tarball = package::bytes(50, 3_000_000);
    let registry = Server::start(&program, |folder, port| {
        let config = "storage: ./storage\nauth: { htpasswd: { file: ./users, max_users: 10 } }\nlog: { type: stdout, level: warn }\n\
                      packages: { '**': { access: $all, publish: $all } }\n";
        fs::write(folder.join("config.yaml"), config).unwrap();
        vec!["--config".to_owned(), "config.yaml".to_owned(), "--listen".to_owned(), format!("http://127.0.0.1:{port}")]
    });
    let integrity = |bytes: &[u8]| format!("sha512-{}", STANDARD.encode(<sha2::Sha512 as sha2::Digest>::digest(bytes)));
    let publish = |version: &str, integrity: &str| {
        let tarball_url = registry.url(&format!("/@acme/web/-/web-{version}.tgz"));
        let document = json!({
            "_id": "@acme/web", "name": "@acme/web", "dist-tags": { "latest": version },
            "versions": { version: { "name": "@acme/web", "version": version,
                                     "dist": { "tarball": tarball_url, "integrity": integrity } } },
            "_attachments": { format!("@acme/web-{version}.tgz"): {
                "content_type": "application/octet-stream", "length": tarball.len(), "data": STANDARD.encode(&tarball) } },
        });
        let headers = [("Content-Type", "application/json")];
        let put = send("PUT", &registry.url("/@acme%2fweb"), &headers, document.to_string().as_bytes()).unwrap();
        assert_eq!(put.status, 201, "{}", String::from_utf8_lossy(&put.body));
    };
    publish("1.2.0", &integrity(&tarball));
    let feed = format!("[[feed]]\nname = 'npm'\nkind = 'npm'\nurl = '{}'\n", registry.url(""));
    let mesh = deploy(&feed, &[], "{ feed: npm, id: '@acme/web', version: latest }", &tarball);
    let log = mesh.coordinator_log();
    assert!(log.contains("npm @acme/web 1.2.0 (for latest)"), "{log}");
    tried(&mesh, &["npm", "@acme/web", "latest"], false);

    let range = "name: web\nrelease: '3'\npackages:\n  web: { feed: npm, id: '@acme/web', version: '^1.1' }\ntargets:\n  \
                 - { select: all, packages: [web] }\n";
    assert_eq!(mesh.deploy(range, &["--watch", "-q", "-o", "json"]).json()["outcome"], "succeeded");
    let log = mesh.coordinator_log();
    assert!(log.contains("npm @acme/web 1.2.0 (for ^1.1)"), "{log}");
    let none = mesh.shoal(&["feeds", "test", "npm", "@acme/web", ">=2"]);
    assert!(
        none.code == 2 && none.stderr.contains("has no version >=2 of @acme/web: its newest versions are `1.2.0`"),
        "{none:?}"
    );

    publish("1.3.0", &integrity(b"another tarball"));
    let file = "name: web\nrelease: '2'\npackages:\n  web: { feed: npm, id: '@acme/web', version: '1.3.0' }\ntargets:\n  \
                - { select: all, packages: [web] }\n";
    let ran = mesh.deploy(file, &["-q"]);
    assert!(ran.code != 0 && ran.stderr.contains("npm @acme/web 1.3.0 has the sha512 "), "{ran:?}");
}

#[test]
fn nginx_serves_a_maven_repository_whose_snapshot_is_pinned() {
    let Some(nginx) = Server::nginx("") else { return };
    let zip = package::zip(&files());
    let file = |name: &str, bytes: &[u8]| put(&nginx.path(&format!("files/com/acme/web/1.2-SNAPSHOT/{name}")), bytes);
    let metadata = "<metadata><versioning><snapshotVersions><snapshotVersion><extension>war</extension>\
                    <value>1.2-20260102.030405-7</value></snapshotVersion></snapshotVersions></versioning></metadata>";
    file("maven-metadata.xml", metadata.as_bytes());
    file("web-1.2-20260102.030405-7.war", &zip);
    file("web-1.2-20260102.030405-7.war.sha256", format!("{}  web.war\n", sha256(&zip)).as_bytes());
    let feed = format!("[[feed]]\nname = 'maven'\nkind = 'maven'\nurl = '{}'\n", nginx.url(""));
    let mesh = deploy(&feed, &[], "{ feed: maven, id: 'com.acme:web:war', version: 1.2-SNAPSHOT }", &zip);
    let log = mesh.coordinator_log();
    assert!(log.contains("maven com.acme:web:war 1.2-20260102.030405-7 (for 1.2-SNAPSHOT)"), "{log}");
    tried(&mesh, &["maven", "com.acme:web:war", "1.2-SNAPSHOT"], true);
    let release = |name: &str, bytes: &[u8]| put(&nginx.path(&format!("files/com/acme/web/1.3/{name}")), bytes);
    release("web-1.3.war", &package::zip(&package::files(41, 30, 60_000)));
    release("web-1.3.war.sha256", sha256(&zip).as_bytes());
    let wrong = "name: web\nrelease: '2'\npackages:\n  web: { feed: maven, id: 'com.acme:web:war', version: '1.3' }\n\
                 targets:\n  - { select: all, packages: [web] }\n";
    let ran = mesh.deploy(wrong, &["-q"]);
    assert!(ran.code != 0 && ran.stderr.contains(&format!("sha256:{} is wanted", sha256(&zip))), "{ran:?}");
}

/// What is packed where nodes read slowly.
fn small_files(seed: u64) -> package::Files {
    package::files(seed, 120, 6_000)
}

/// How nodes read so that a block takes longer than a signed URL lives.
const SLOWLY: [&str; 2] = ["--download-limit", "50 kB/s"];

/// What curl says to S3, which wants its requests signed; again while the store is still starting.
fn s3(args: &[&str]) {
    let again = ["--retry", "10", "--retry-all-errors", "--retry-delay", "1"];
    let sign =
        ["--fail", "-sS", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "ci:correct-horse", "-o", "/dev/null"];
    let ran = Command::new("curl").args(sign).args(again).args(args).output().unwrap();
    assert!(ran.status.success(), "curl {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Deploys an object of a store that keeps versions, and changes it while two nodes read: they get what was resolved, `wanted`.
fn change_under_way(mesh: &mut Mesh, wanted: &[u8], change: impl FnOnce()) {
    fs::write(mesh.path("key"), "correct-horse\n").unwrap();
    mesh.join("osl", &["one", "two"]);
    fs::write(mesh.path("wanted"), wanted).unwrap();
    let file = format!(
        "name: web\nrelease: '1'\npackages:\n  web: {{ feed: releases, id: 'web/{{version}}/web+1.zip', version: '1.2' }}\n\
         targets:\n  - {{ select: all, packages: [web] }}\nsteps:\n  - {{ name: same, run: 'cmp \"$SHOAL_PACKAGE_WEB\" {}' }}\n",
        mesh.path("wanted").display()
    );
    let id = mesh.begin(&file);
    let within = Duration::from_secs(90);
    mesh.await_status(&id, "it has begun", within, |status| status["sites"][0]["wan_bytes"].as_u64() > Some(0));
    change();
    mesh.await_state(&id, "succeeded", within);
}

#[test]
fn seaweedfs_serves_an_object_by_signed_urls_and_keeps_the_version_that_was_resolved() {
    let Some(program) = installed("weed") else { return };
    let Some(_) = installed("curl") else { return };
    let ports = servers::ports(4);
    let s3_config = json!({ "identities": [{ "name": "ci", "actions": ["Admin", "Read", "Write", "List"],
        "credentials": [{ "accessKey": "ci", "secretKey": "correct-horse" }] }] });
    let weed = Server::start(&program, |folder, port| {
        fs::write(folder.join("s3.json"), s3_config.to_string()).unwrap();
        fs::create_dir(folder.join("data")).unwrap();
        let options = format!(
            "server -dir=data -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.port={} -volume.port={} -filer -filer.port={} -s3 \
             -s3.port={port} -s3.port.grpc={} -s3.config=s3.json -master.volumeSizeLimitMB=64 -volume.max=100",
            ports[0], ports[1], ports[2], ports[3]
        );
        options.split(' ').map(str::to_owned).collect()
    });
    let [first, second] = [60, 61].map(|seed| package::zip(&small_files(seed)));
    let bucket = weed.url("/releases");
    let upload = |bytes: &[u8]| {
        fs::write(weed.path("upload"), bytes).unwrap();
        s3(&["-T", &weed.path("upload").display().to_string(), &format!("{bucket}/web/1.2/web%2B1.zip")]);
    };
    s3(&["-X", "PUT", &bucket]);
    let enabled = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>Enabled</Status>\
                   </VersioningConfiguration>";
    // As a file: what curl sends as a form it does not sign as S3 wants it.
    fs::write(weed.path("versioning.xml"), enabled).unwrap();
    s3(&["-T", &weed.path("versioning.xml").display().to_string(), &format!("{bucket}?versioning=")]);
    upload(&first);
    let feed = format!(
        "[[feed]]\nname = 'releases'\nkind = 's3'\nurl = '{bucket}'\nregion = 'us-east-1'\nusername = 'ci'\n\
         password_file = 'key'\nsigned_for = '2s'\n"
    );
    let mut mesh = Mesh::start(&feed);
    mesh.set_node_args(&SLOWLY);
    change_under_way(&mut mesh, &first, || upload(&second));
    let log = mesh.coordinator_log();
    assert!(!log.contains("ended under way") && !log.contains("was refused"), "{log}");
    assert!(!log.contains("Signature"), "a signed URL is in the log");
    tried(&mesh, &["releases", "web/{version}/web+1.zip", "1.2"], true);
}

/// A shared access signature for all that an account holds, as its owner makes one.
fn account_sas(account: &str, key: &str) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let (version, until) = ("2022-11-02", "2100-01-01T00:00:00Z");
    let text = format!("{account}\nrwc\nb\nsco\n\n{until}\n\n\n{version}\n\n");
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&STANDARD.decode(key).unwrap()).unwrap();
    mac.update(text.as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("sv={version}&ss=b&srt=sco&sp=rwc&se={until}&sig={signature}")
}

#[test]
fn azurite_serves_a_blob_by_signed_urls_or_by_a_signature_that_was_given() {
    let Some(program) = installed("azurite-blob") else { return };
    // Those of every emulator.
    let account = "devstoreaccount1";
    let key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
    let azurite = Server::start(&program, |_, port| {
        let options =
            format!("--blobHost 127.0.0.1 --blobPort {port} --inMemoryPersistence --silent --disableTelemetry");
        options.split(' ').map(str::to_owned).collect()
    });
    let (zip, sas) = (package::zip(&small_files(62)), account_sas(account, key));
    let container = azurite.url(&format!("/{account}/releases"));
    let put = |url: &str, headers: &[(&str, &str)], bytes: &[u8]| {
        let put = send("PUT", url, headers, bytes).unwrap();
        assert_eq!(put.status, 201, "{url}: {}", String::from_utf8_lossy(&put.body));
    };
    put(&format!("{container}?restype=container&{sas}"), &[], b"");
    put(&format!("{container}/web/1.2/web%201%2B1.zip?{sas}"), &[("x-ms-blob-type", "BlockBlob")], &zip);
    let feed = |more: &str| format!("[[feed]]\nname = 'releases'\nkind = 'azure'\nurl = '{container}'\n{more}\n");
    let reference = "{ feed: releases, id: 'web/{version}/web 1+1.zip', version: '1.2' }";
    let signing = feed(&format!("username = '{account}'\npassword_file = 'key'\nsigned_for = '2s'"));
    let mesh = deploy_to(&signing, &[("key", key)], reference, &zip, &SLOWLY);
    let log = mesh.coordinator_log();
    // Its moments are whole seconds: a signature of two may have lasted one, and be refused.
    assert!(!log.contains("ended under way"), "{log}");
    assert!(!log.contains("sig="), "a signed URL is in the log");
    tried(&mesh, &["releases", "web/{version}/web 1+1.zip", "1.2"], true);
    drop(mesh);
    deploy(&feed("token_file = 'sas'"), &[("sas", &sas)], reference, &zip);
}

/// What Entra gives an identity as a token for storage. Azurite reads it and does not check who signed it.
fn entra_token() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({ "aud": "https://storage.azure.com", "iss": "https://sts.windows.net/tenant/", "oid": "identity",
                         "tid": "tenant", "iat": now, "nbf": now - 60, "exp": now + 3600 });
    let parts = [json!({ "typ": "JWT", "alg": "RS256" }), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    format!("{}.{}", parts.join("."), URL_SAFE_NO_PAD.encode("signature"))
}

#[test]
fn azurite_lends_a_key_to_the_identity_of_the_machine() {
    let (Some(program), Some(_)) = (installed("azurite-blob"), installed("curl")) else { return };
    let (account, (pem, key)) = ("devstoreaccount1", certificate());
    let own = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
    let azurite = Server::start(&program, |folder, port| {
        fs::write(folder.join("tls.pem"), &pem).unwrap();
        fs::write(folder.join("tls.key"), &key).unwrap();
        let options = format!(
            "--blobHost 127.0.0.1 --blobPort {port} --inMemoryPersistence --silent --disableTelemetry --oauth basic --cert tls.pem \
             --key tls.key"
        );
        options.split(' ').map(str::to_owned).collect()
    });
    let (zip, sas) = (package::zip(&files()), account_sas(account, own));
    fs::write(azurite.path("upload"), &zip).unwrap();
    let container = azurite.url(&format!("/{account}/releases")).replace("http://", "https://");
    let put = |url: &str, args: &[&str]| {
        let tls = ["--fail", "-sS", "-o", "/dev/null", "--cacert", &azurite.path("tls.pem").display().to_string()]
            .map(str::to_owned);
        let ran = Command::new("curl").args(tls).args(["-X", "PUT", url]).args(args).output().unwrap();
        assert!(ran.status.success(), "{url}: {}", String::from_utf8_lossy(&ran.stderr));
    };
    put(&format!("{container}?restype=container&{sas}"), &["-H", "content-length: 0"]);
    let upload = format!("@{}", azurite.path("upload").display());
    put(&format!("{container}/web/1.2/web.zip?{sas}"), &["-H", "x-ms-blob-type: BlockBlob", "--data-binary", &upload]);

    let metadata = Origin::start();
    let token = entra_token();
    let answer = json!({ "access_token": token, "expires_in": "3599", "token_type": "Bearer" });
    metadata.put("/metadata/identity/oauth2/token", answer.to_string());
    let feed = format!(
        "[[feed]]\nname = 'releases'\nkind = 'azure'\nurl = '{container}'\nmachine_role = true\nca_file = '{}'\n",
        azurite.path("tls.pem").display()
    );
    let mut mesh = Mesh::start_in(&feed, &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &metadata.url(""))]);
    mesh.join("osl", &["one", "two"]);
    let file = "name: web\nrelease: '1'\npackages:\n  web: { feed: releases, id: 'web/{version}/web.zip', version: '1.2' }\n\
                targets:\n  - { select: all, packages: [web] }\n";
    let summary = mesh.deploy(file, &["--watch", "-q", "-o", "json"]).json();
    assert_eq!((&summary["outcome"], &summary["nodes"]), (&json!("succeeded"), &json!(2)), "{summary}");
    tried(&mesh, &["releases", "web/{version}/web.zip", "1.2"], true);
    assert_eq!(metadata.asked("/metadata/"), 1, "the token and the key that it brings are kept");
    for secret in [token.as_str(), "sig="] {
        assert_eq!(files_with(&mesh.path(""), secret), [] as [PathBuf; 0], "{secret} is on a disk");
    }
}

#[test]
fn fake_gcs_server_serves_the_generation_that_was_resolved() {
    let Some(program) = installed("fake-gcs-server") else { return };
    let gcs = Server::start(&program, |_, port| {
        let options = format!(
            "-backend memory -scheme http -host 127.0.0.1 -port {port} -public-host 127.0.0.1:{port} -external-url http://127.0.0.1:{port}"
        );
        options.split(' ').map(str::to_owned).collect()
    });
    let post = |path: &str, kind: &str, body: &[u8]| {
        let posted = send("POST", &gcs.url(path), &[("Content-Type", kind)], body).unwrap();
        assert_eq!(posted.status, 200, "{}", String::from_utf8_lossy(&posted.body));
    };
    post("/storage/v1/b?project=acme", "application/json", br#"{"name":"releases","versioning":{"enabled":true}}"#);
    let [first, second] = [70, 71].map(|seed| package::zip(&package::files(seed, 30, 60_000)));
    let object = "/upload/storage/v1/b/releases/o?uploadType=media&name=web%2F1.2%2Fweb%2B1.zip";
    post(object, "application/zip", &first);
    let feed = format!(
        "[[feed]]\nname = 'releases'\nkind = 'gcs'\nurl = '{}'\nusername = 'GOOG1EXAMPLE'\npassword_file = 'key'\n",
        gcs.url("/releases")
    );
    let mut mesh = Mesh::start(&feed);
    mesh.set_node_args(&["--download-limit", "400 kB/s"]);
    change_under_way(&mut mesh, &first, || post(object, "application/zip", &second));
    assert!(!mesh.coordinator_log().contains("Signature"), "a signed URL is in the log");
    tried(&mesh, &["releases", "web/{version}/web+1.zip", "1.2"], true);
}
