//! A NuGet v3 feed behind a password: what its packages are called, who reads them and how often, and what goes wrong.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_tests::{Behaviour, Credentials, Mesh, Origin, package};

const CI: Credentials = Credentials { user: "ci", password: "correct horse" };

const WITHIN: Duration = Duration::from_secs(90);

/// Documents of the feed, probes and the recipe: what is read beside the package.
const BESIDE_BYTES: u64 = 64 * 1024;

const CONFIG: &str = "[[feed]]
name = 'nuget-main'
kind = 'nuget'
url = 'ORIGIN/main/v3/index.json'
username = 'ci'
password_file = 'nuget.password'
mirrors = [{ sites = ['osl'], url = 'ORIGIN/osl/v3/index.json' }]
";

/// The feed proper below `/main/` and a mirror below `/osl/`, both behind the password; a read takes about a second.
fn feed(package: &[u8]) -> Origin {
    let origin = Origin::start();
    for place in ["/main", "/osl"] {
        let base = origin.url(&format!("{place}/flat/"));
        let index = json!({ "version": "3.0.0", "resources": [
            { "@id": origin.url("/search"), "@type": ["SearchQueryService", "SearchQueryService/3.5.0"] },
            { "@id": base, "@type": "PackageBaseAddress/3.0.0" },
        ] });
        origin.put(&format!("{place}/v3/index.json"), index.to_string());
        origin.put(
            &format!("{place}/flat/acme.web/index.json"),
            json!({ "versions": ["4.1.0", "4.2.1", "4.3.0-rc.1"] }).to_string(),
        );
        origin.put(&format!("{place}/flat/acme.web/4.2.1/acme.web.4.2.1.nupkg"), package);
        let rate = Some(package.len() as u64);
        origin.behave(&format!("{place}/"), Behaviour { wants: Some(CI), rate, ..Behaviour::default() });
    }
    origin
}

fn mesh(origin: &Origin) -> Mesh {
    let mut mesh = Mesh::start(&CONFIG.replace("ORIGIN", &origin.url("")));
    fs::write(mesh.path("nuget.password"), format!("{}\n", CI.password)).unwrap();
    mesh.join("osl", &["one", "two"]);
    mesh
}

fn deployment(mesh: &Mesh, id: &str, version: &str) -> String {
    let folder = mesh.path("");
    let folder = folder.display();
    format!(
        "name: web
release: '{version}'
packages:
  web: {{ feed: nuget-main, id: {id}, version: '{version}' }}
targets:
  - {{ select: all, packages: [web] }}
steps:
  - {{ name: same, run: 'cmp \"$SHOAL_PACKAGE_WEB\" {folder}/wanted.nupkg' }}
  - {{ name: unpack, unpack: web, to: '{folder}/srv/${{SHOAL_NODE}}' }}
"
    )
}

#[test]
fn a_package_of_a_nuget_feed_crosses_the_wan_once_with_credentials() {
    let files = package::files(20, 50, 60_000);
    let package = package::zip(&files);
    let origin = feed(&package);
    let mesh = mesh(&origin);
    fs::write(mesh.path("wanted.nupkg"), &package).unwrap();

    // The feed knows it as acme.web 4.2.1.
    let ran = mesh.deploy(&deployment(&mesh, "Acme.Web", "4.02.1.0"), &["--watch", "-q", "-o", "json"]);
    let summary = ran.json();
    assert_eq!((&summary["outcome"], &summary["nodes"]), (&json!("succeeded"), &json!(2)));
    for node in ["one", "two"] {
        assert_eq!(package::read(&mesh.path(&format!("srv/{node}/current"))), files, "what {node} unpacked");
    }
    let size = package.len() as u64;
    for (reader, start) in [("the site", "/osl/"), ("the coordinator", "/main/")] {
        let sent = origin.sent(start);
        // What stands between a zip's files comes with the recipe.
        assert!(sent >= 3_000_000 && sent <= size * 101 / 100 + BESIDE_BYTES, "{reader} read {sent} of {size}");
        assert_eq!(origin.refused(start), 0, "{reader} asked without the credentials");
    }
}

#[test]
fn what_a_nuget_feed_does_not_give_is_told_with_the_next_step() {
    let origin = feed(&package::zip(&package::files(21, 2, 1000)));
    let mesh = mesh(&origin);
    let assert_refused = |id: &str, version: &str, code: i32, wanted: &str| {
        let ran = mesh.deploy(&deployment(&mesh, id, version), &["-q"]);
        assert!(ran.stderr.contains(wanted), "{}\nis not\n{wanted}", ran.stderr);
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{}", ran.stderr);
        assert!(!ran.stderr.contains(CI.password), "{}", ran.stderr);
    };
    assert_refused("Acme.Wbe", "4.2.1", 2, "feed `nuget-main` has no Acme.Wbe 4.2.1: check its id");
    assert_refused(
        "Acme.Web",
        "4.2.2",
        2,
        "feed `nuget-main` has no version 4.2.2 of Acme.Web: did you mean 4.2.1? its last versions are 4.1.0, 4.2.1, \
         4.3.0-rc.1",
    );
    assert_refused(
        "Acme.Web",
        "latest",
        2,
        "feed `nuget-main` cannot have Acme.Web latest: `latest` is no NuGet version",
    );
    assert_eq!(origin.refused("/"), 0);

    fs::write(mesh.path("nuget.password"), "wrong\n").unwrap();
    let refused = "feed `nuget-main` answered 401 for Acme.Web 4.2.1: check `username` and `password_file`";
    assert_refused("Acme.Web", "4.2.1", 1, refused);
    assert!(origin.refused("/main/") > 0, "the feed was asked");

    fs::remove_file(mesh.path("nuget.password")).unwrap();
    assert_refused("Acme.Web", "4.2.1", 1, "cannot read the password of feed `nuget-main` from ");
    let list = mesh.shoal(&["status", "--list", "-o", "json"]).json();
    assert_eq!(list["deployments"].as_array().map(Vec::len), Some(0), "nothing began");
}

#[test]
fn a_password_that_ends_under_way_is_told() {
    let package = package::zip(&package::files(22, 60, 100_000));
    let origin = feed(&package);
    let mesh = mesh(&origin);
    origin.behave("/osl/", Behaviour { wants: Some(CI), rate: Some(1_000_000), ..Behaviour::default() });
    let id = mesh.begin(&deployment(&mesh, "Acme.Web", "4.2.1"));
    mesh.await_status(&id, "it has begun", WITHIN, |status| status["sites"][0]["wan_bytes"].as_u64() > Some(0));
    let fresh = Credentials { user: "ci", password: "changed" };
    for place in ["/osl/", "/main/"] {
        origin.behave(place, Behaviour { wants: Some(fresh.clone()), ..Behaviour::default() });
    }
    let told = |status: &Value| {
        let waiting = status["waiting"].as_array().unwrap().iter().filter_map(Value::as_str);
        let words = ["cannot read web for osl: http://", "acme.web.4.2.1.nupkg answered 401: check ", "password file"];
        waiting.filter(|line| words.iter().all(|word| line.contains(word))).count() == 1
    };
    let status = mesh.await_status(&id, "it says who was refused", WITHIN, told);
    assert_eq!((&status["state"], &status["stage"]), (&json!("running"), &json!("acquire")));
}
