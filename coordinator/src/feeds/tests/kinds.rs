//! What the kinds of feeds make of their servers' documents, and who is told which secret.

use shoal_proto::id::Name;

use super::super::machine::Machine;
use super::*;

const PACKAGE: &[u8] = b"the package";

fn sha256() -> Digest {
    Digest::of_bytes(Algorithm::Sha256, PACKAGE)
}

#[tokio::test]
async fn an_index_of_python_is_read_as_its_content_type_says() {
    let server = Server::start().await;
    server.put("/files/acme_web-1.2-py3-none-any.whl", PACKAGE);
    let hash = sha256().hex();
    let html = format!(
        "<!DOCTYPE html><html><body><a href=\"../../files/acme_web-1.1-py3-none-any.whl\" data-yanked>acme_web-1.1-py3-none-any.whl</a>\
         <A HREF='../../files/acme_web-1.2-py3-none-any.whl#sha256={hash}' data-requires-python=\">=3.9\">acme_web-1.2-py3-none-any.whl</A>"
    );
    let json = serde_json::json!({ "meta": { "api-version": "1.1" }, "name": "acme-web", "files": [
        { "filename": "acme_web-1.2-py3-none-any.whl", "url": "../../files/acme_web-1.2-py3-none-any.whl",
          "hashes": { "sha256": hash }, "requires-python": ">=3.9", "yanked": false }] });
    let feeds =
        feeds(&format!("[[feed]]\nname = 'python'\nkind = 'pypi'\nurl = '{}'", server.url("/simple/")), Path::new("/"));
    for (content_type, body) in [
        ("text/html; charset=utf-8", html.clone()),
        ("application/vnd.pypi.simple.v1+html", html),
        ("application/vnd.pypi.simple.v1+json", json.to_string()),
    ] {
        server.put_as("/simple/acme-web/", content_type, body);
        let found = feeds.resolve(&reference("python", "Acme.Web", Some(">=1"))).await.unwrap();
        assert_eq!(found.description, "python Acme.Web 1.2 (for >=1)", "{content_type}");
        assert_eq!((found.digests.clone(), found.size()), (vec![sha256()], 11), "{content_type}");
        assert_eq!(found.places(None)[0].url, server.url("/files/acme_web-1.2-py3-none-any.whl"));
    }
}

#[tokio::test]
async fn a_feed_of_nuget_v2_tells_its_hash_and_its_versions_on_several_pages() {
    let server = Server::start().await;
    let hash = STANDARD.encode(<sha2::Sha512 as sha2::Digest>::digest(PACKAGE));
    let entry = |version: &str, rest: &str| {
        let url = server.url(&format!("/v2/package/Acme.Web/{version}"));
        format!(
            "<entry><content type='application/zip' src='{url}'/><m:properties><d:Version>{version}</d:Version>{rest}</m:properties></entry>"
        )
    };
    let page =
        |rest: &str| format!("<feed xmlns='http://www.w3.org/2005/Atom' xmlns:d='urn:d' xmlns:m='urn:m'>{rest}</feed>");
    let next = format!("<link rel='next' href='{}'/>", server.url("/v2/more"));
    let hashed =
        format!("<d:PackageHash>{hash}</d:PackageHash><d:PackageHashAlgorithm>SHA512</d:PackageHashAlgorithm>");
    server.put(
        "/v2/FindPackagesById()?id=%27Acme.Web%27&semVerLevel=2.0.0",
        page(&(entry("1.1", "<d:PackageHash/>") + &next)),
    );
    server.put("/v2/more", page(&(entry("1.2", &hashed) + &entry("1.3", "<d:Listed>false</d:Listed>"))));
    for version in ["1.1", "1.2", "1.3"] {
        server.put(&format!("/v2/package/Acme.Web/{version}"), PACKAGE);
    }
    let feeds =
        feeds(&format!("[[feed]]\nname = 'choco'\nkind = 'nuget'\nurl = '{}'", server.url("/v2")), Path::new("/"));
    let table = [("*", "1.2.0", true), ("[1.1]", "1.1.0", false), ("1.3", "1.3.0", false)];
    for (wanted, version, told) in table {
        let found = feeds.resolve(&reference("choco", "Acme.Web", Some(wanted))).await.unwrap();
        assert!(found.description.starts_with(&format!("choco Acme.Web {version}")), "{}", found.description);
        let digests = if told { vec![Digest::of_bytes(Algorithm::Sha512, PACKAGE)] } else { Vec::new() };
        assert_eq!(found.digests, digests, "{wanted}: an empty hash is none");
    }
}

#[tokio::test]
async fn resources_of_one_type_stand_in_for_each_other_and_a_catalog_tells_the_hash() {
    let server = Server::start().await;
    let hash = STANDARD.encode(<sha2::Sha512 as sha2::Digest>::digest(PACKAGE));
    let (flat, registrations) = (server.url("/flat/"), server.url("/registrations/"));
    server.put(
        "/index.json",
        format!(
            r#"{{"version": "3.0.0", "resources": [
                {{"@id": "http://127.0.0.1:1/flat/", "@type": "PackageBaseAddress/3.0.0"}},
                {{"@id": "{flat}", "@type": "PackageBaseAddress/3.0.0"}},
                {{"@id": "http://127.0.0.1:1/old/", "@type": "RegistrationsBaseUrl"}},
                {{"@id": "http://127.0.0.1:1/registrations/", "@type": "RegistrationsBaseUrl/3.6.0"}},
                {{"@id": "{registrations}", "@type": "RegistrationsBaseUrl/3.6.0"}}]}}"#
        ),
    );
    server.put("/flat/acme.web/index.json", r#"{"versions": ["1.1.0", "1.2.0"]}"#);
    server.put("/flat/acme.web/1.2.0/acme.web.1.2.0.nupkg", PACKAGE);
    let catalog = server.url("/catalog/acme.web.1.2.0.json");
    // 1.3.0 is listed and not yet where packages are.
    server.put(
        "/registrations/acme.web/index.json",
        r#"{"items": [{"items": [{"catalogEntry": {"version": "1.2.0"}}, {"catalogEntry": {"version": "1.3.0", "listed": true}}]}]}"#,
    );
    server.put("/registrations/acme.web/1.2.0.json", format!(r#"{{"catalogEntry": "{catalog}", "listed": true}}"#));
    server.put(
        "/catalog/acme.web.1.2.0.json",
        format!(r#"{{"packageHash": "{hash}", "packageHashAlgorithm": "SHA512", "packageSize": 11}}"#),
    );
    let feeds = feeds(
        &format!("[[feed]]\nname = 'main'\nkind = 'nuget'\nurl = '{}'", server.url("/index.json")),
        Path::new("/"),
    );
    for version in ["1.2", "*"] {
        let found = feeds.resolve(&reference("main", "Acme.Web", Some(version))).await.unwrap();
        assert_eq!(found.digests, [Digest::of_bytes(Algorithm::Sha512, PACKAGE)], "{version}");
        let path = "acme.web/1.2.0/acme.web.1.2.0.nupkg";
        let places: Vec<_> = found.places(None).iter().map(|place| place.url.clone()).collect();
        assert_eq!(places, [format!("{flat}{path}"), format!("http://127.0.0.1:1/flat/{path}")], "nodes have both");
    }
}

#[tokio::test]
async fn each_place_is_told_its_own_secret_and_no_other() {
    let (main, mirror, folder) = (Server::start().await, Server::start().await, tempfile::tempdir().unwrap());
    for server in [&main, &mirror] {
        server.put("/a/web.zip", PACKAGE);
        server.put("/b/web.zip", PACKAGE);
    }
    fs::write(folder.path().join("main"), "s3cret").unwrap();
    fs::write(folder.path().join("token"), "t0ken").unwrap();
    let mirrors = format!(
        "[{{ sites = ['own'], url = '{}', token_file = 'token' }}, {{ sites = ['same'], url = '{}' }}, \
         {{ sites = ['broken'], url = '{}', token_file = 'gone' }}]",
        mirror.url("/a/"),
        mirror.url("/b/"),
        main.url("/b/"),
    );
    let text = format!(
        "[[feed]]\nname = 'files'\nkind = 'http'\nurl = '{}'\nusername = 'ci'\npassword_file = 'main'\nmirrors = {mirrors}",
        main.url("/a/")
    );
    let feeds = feeds(&text, folder.path());
    let found = feeds.resolve(&reference("files", "web.zip", None)).await.unwrap();
    let (basic, bearer) = (format!("Basic {}", STANDARD.encode("ci:s3cret")), "Bearer t0ken".to_owned());
    for (name, wanted) in [("own", &bearer), ("same", &basic), ("other", &basic), ("broken", &basic)] {
        let given = origin(&feeds, &found, Some(&site(name))).await;
        assert_eq!(given.headers, [("authorization".to_owned(), wanted.clone())], "{name}");
    }
    let first = |name: &str| found.places(Some(&site(name)))[0].url.clone();
    assert_eq!((first("own"), first("same")), (mirror.url("/a/web.zip"), mirror.url("/b/web.zip")));
    assert_eq!(first("broken"), main.url("/a/web.zip"), "a mirror whose secret cannot be read is left out");
    let told = |server: &Server, path: &str| {
        let seen = server.shared.seen.lock().unwrap();
        seen.iter().filter(|(seen, _)| seen == path).map(|(_, told)| told.clone().unwrap()).collect::<BTreeSet<_>>()
    };
    assert_eq!(told(&mirror, "/a/web.zip"), BTreeSet::from([bearer]));
    assert_eq!(told(&mirror, "/b/web.zip"), BTreeSet::from([basic.clone()]));
    assert_eq!((told(&main, "/a/web.zip"), told(&main, "/b/web.zip")), (BTreeSet::from([basic]), BTreeSet::new()));
}

#[tokio::test]
async fn a_mirror_of_a_bucket_is_signed_for_with_a_key_and_a_region_of_its_own() {
    let (server, folder) = (Server::start().await, tempfile::tempdir().unwrap());
    server.put("/releases/web.zip", PACKAGE);
    fs::write(folder.path().join("key"), "s3cret").unwrap();
    let (url, mirror) = (server.url("/releases"), server.url("/releases-eu"));
    let text = format!(
        "[[feed]]\nname = 'store'\nkind = 's3'\nurl = '{url}'\nusername = 'MAIN'\npassword_file = 'key'\nregion = 'us-west-2'\n\
         mirrors = [{{ sites = ['osl'], url = '{mirror}', username = 'MIRROR', password_file = 'key', region = 'eu-north-1' }}]"
    );
    let feeds = feeds(&text, folder.path());
    let found = feeds.resolve(&reference("store", "web.zip", None)).await.unwrap();
    for (name, id, region) in [("osl", "MIRROR", "eu-north-1"), ("syd", "MAIN", "us-west-2")] {
        let given = origin(&feeds, &found, Some(&site(name))).await.url;
        let credential = given.split("X-Amz-Credential=").nth(1).unwrap_or_default();
        assert!(
            credential.starts_with(&format!("{id}%2F")) && credential.contains(&format!("%2F{region}%2Fs3")),
            "{given}"
        );
    }
    // What signs is sent nowhere, also when only the door is knocked at.
    let trial = feeds.trial(&Name::new("store").unwrap(), None).await.unwrap();
    assert_eq!((trial.auth, trial.places.len()), ("signed URL", 2));
    assert!(server.shared.seen.lock().unwrap().iter().all(|(_, authorization)| authorization.is_none()));
}

#[tokio::test]
async fn a_machines_role_signs_with_what_was_lent() {
    let server = Server::start().await;
    server.put("/releases/web.zip", PACKAGE);
    let text = |kind: &str| {
        format!("[[feed]]\nname = 'store'\nkind = '{kind}'\nurl = '{}'\nmachine_role = true", server.url("/releases"))
    };
    let with = |kind: &str, variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let feeds = feeds(&text(kind), Path::new("/"));
        Feeds { machine: Machine::with(variables), ..feeds }
    };
    let package = reference("store", "web.zip", None);
    let lent =
        [("AWS_ACCESS_KEY_ID", "ASIA1"), ("AWS_SECRET_ACCESS_KEY", "s3cret"), ("AWS_SESSION_TOKEN", "s3ssion+/")];
    let amazon = with("s3", &lent);
    let found = amazon.resolve(&package).await.unwrap();
    let given = origin(&amazon, &found, None).await.url;
    assert!(
        given.contains("X-Amz-Credential=ASIA1%2F") && given.contains("&X-Amz-Security-Token=s3ssion%2B%2F&"),
        "{given}"
    );
    assert!(
        given.find("X-Amz-Security-Token") < given.find("X-Amz-SignedHeaders"),
        "what is signed is sorted: {given}"
    );
    assert!(!serde_json::to_string(&found).unwrap().contains("s3ssion"), "a secret is recorded");
    let trial = amazon.trial(&Name::new("store").unwrap(), None).await.unwrap();
    assert_eq!(trial.auth, "signed URL, by the machine's role");

    let nowhere = [
        (
            "s3",
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1"),
            "has this machine a role (an instance profile)?",
        ),
        ("gcs", ("GCE_METADATA_HOST", "127.0.0.1:1"), "has this machine a service account?"),
        ("azure", ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1"), "has this machine a managed identity?"),
    ];
    for (kind, variable, wanted) in nowhere {
        let said = error(&with(kind, &[variable]), &package).await;
        assert!(said.starts_with("cannot sign URLs of feed `store`: ") && said.ends_with(wanted), "{said}");
    }
}
