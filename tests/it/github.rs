//! GitHub's API as it gives assets of releases: behind a token, by a redirect to another host, with a digest or without.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shoal_tests::{Behaviour, Fault, Mesh, Origin, package};

const SIZE: usize = 3_000_000;

const TOKEN: &str = "ghp_example";

fn digest(bytes: &[u8]) -> String {
    let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

/// The API with the release `v1.2` of `acme/web`, whose assets have these names, bytes and digests.
fn api(assets: &[(&str, &[u8], Value)]) -> (Origin, Origin, Mesh) {
    let (api, store) = (Origin::start(), Origin::start());
    let shown = assets.iter().enumerate().map(|(number, (name, bytes, digest))| {
        let path = format!("/repos/acme/web/releases/assets/{number}");
        let asset = json!({ "name": name, "url": api.url(&path), "size": bytes.len(), "digest": digest });
        // What is sent to whom does not ask for the bytes.
        api.put(&path, asset.to_string());
        store.put(&number.to_string(), *bytes);
        asset
    });
    let release = json!({ "tag_name": "v1.2", "assets": shown.collect::<Vec<_>>() });
    api.put("/repos/acme/web/releases/tags/v1.2", release.to_string());
    let bearer = Behaviour { token: Some(TOKEN), ..Behaviour::default() };
    api.behave("/repos/", bearer.clone());
    let fault = Some(Fault::RedirectBytes(store.url("/signed/")));
    api.behave("/repos/acme/web/releases/assets/", Behaviour { fault, ..bearer });
    let feed = format!("[[feed]]\nname = 'hub'\nkind = 'github'\nurl = '{}'\ntoken_env = 'TOKEN'\n", api.url(""));
    let mut mesh = Mesh::start_in(&feed, &[("TOKEN", TOKEN)]);
    mesh.join("osl", &["one", "two"]);
    (api, store, mesh)
}

fn file(reference: &str) -> String {
    format!(
        "name: web\nrelease: '1'\npackages:\n  web: {{ feed: hub, {reference} }}\ntargets:\n  \
         - {{ select: all, packages: [web] }}\nsteps: [{{ name: size, run: 'test $(wc -c < \"$SHOAL_PACKAGE_WEB\") = {SIZE}' }}]\n"
    )
}

#[test]
fn an_asset_is_read_by_its_api_and_its_digest_is_checked() {
    let (web, old, lie) = (package::bytes(1, SIZE), package::bytes(2, SIZE), package::bytes(3, SIZE));
    let assets = [
        ("web.zip", &*web, json!(digest(&web))),
        ("old.zip", &*old, Value::Null),
        ("lie.zip", &*lie, json!(digest(b"x"))),
    ];
    let (api, store, mesh) = api(&assets);
    for name in ["web.zip", "old.zip"] {
        let file = file(&format!("id: acme/web, version: v1.2, file: {name}"));
        let summary = mesh.deploy(&file, &["--watch", "-q", "-o", "json"]).json();
        assert_eq!(summary["outcome"], "succeeded", "{name}: {summary}");
        assert!(summary["sites"][0]["copies"].as_f64().unwrap() <= 1.05, "{name}: {summary}");
    }
    assert!(
        api.authorized("/repos/acme/web/releases/assets/") > 0 && api.refused("/") == 0,
        "the token is sent to the API"
    );
    assert!(store.sent("/signed/") >= SIZE as u64 * 4, "coordinator and site read where it leads to");
    assert_eq!(store.authorized("/"), 0, "the token is not sent there");
    let log = mesh.coordinator_log();
    assert!(log.contains("hub acme/web v1.2 web.zip") && !log.contains(TOKEN), "{log}");

    let refused = |reference: &str| mesh.deploy(&file(reference), &["-q"]).stderr;
    let table = [
        ("id: acme/web, version: v1.2, file: lie.zip", format!("{} is wanted", digest(b"x"))),
        (
            "id: acme/web, version: v1.2",
            "`file` has to name one of the release's assets: `web.zip`, `old.zip`".to_owned(),
        ),
        ("id: acme/web, version: v1.3, file: web.zip", "feed `hub` has no acme/web v1.3 web.zip".to_owned()),
        ("id: acme/web, file: web.zip", "the release's tag is needed as `version`".to_owned()),
        ("id: acme, version: v1.2, file: web.zip", "`acme` is no repository".to_owned()),
    ];
    for (reference, wanted) in table {
        let said = refused(reference);
        assert!(said.contains(&wanted), "{said}\nis not\n{wanted}");
    }
}

#[test]
fn the_only_asset_needs_no_name_and_a_wrong_token_is_named() {
    let web = package::bytes(1, SIZE);
    let (api, _store, mesh) = api(&[("web.zip", &web, json!(digest(&web)))]);
    let only = file("id: acme/web, version: v1.2");
    assert_eq!(mesh.deploy(&only, &["--watch", "-q", "-o", "json"]).json()["outcome"], "succeeded");
    api.behave("/repos/", Behaviour { token: Some("ghp_another"), ..Behaviour::default() });
    let ran = mesh.deploy(&only, &["-q"]);
    assert!(ran.code == 1 && ran.stderr.contains("answered 401 for acme/web v1.2: check `token_file`"), "{ran:?}");
}
