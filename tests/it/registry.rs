//! An OCI registry that lends tokens, which it may take back at any time.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shoal_tests::{Behaviour, Mesh, Origin, package, until};

const WITHIN: Duration = Duration::from_secs(90);

const SIZE: usize = 4_000_000;

fn digest(bytes: &[u8]) -> String {
    let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

fn manifest(layers: &[Value]) -> String {
    json!({ "schemaVersion": 2, "layers": layers }).to_string()
}

/// A registry with the image `acme/web` for two platforms, each a layer, and behind tokens.
fn registry(layers: [&[u8]; 2]) -> Origin {
    let origin = Origin::start();
    let repository = "/v2/acme/web";
    let variants = [("amd64", layers[0]), ("arm64", layers[1])].map(|(architecture, layer)| {
        origin.put(&format!("{repository}/blobs/{}", digest(layer)), layer);
        let media_type = "application/vnd.oci.image.layer.v1.tar";
        let layer = json!({ "mediaType": media_type, "digest": digest(layer), "size": layer.len() });
        let manifest = manifest(&[layer]);
        origin.put(&format!("{repository}/manifests/{}", digest(manifest.as_bytes())), manifest.clone());
        json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(manifest.as_bytes()),
                "size": manifest.len(), "platform": { "os": "linux", "architecture": architecture } })
    });
    let [amd64, arm64] = variants;
    let attestation = json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(b""), "size": 0,
                              "platform": { "os": "unknown", "architecture": "unknown" } });
    let index = json!({ "schemaVersion": 2, "manifests": [amd64, arm64, attestation] });
    let index = index.to_string();
    origin.put(&format!("{repository}/manifests/{}", digest(index.as_bytes())), index.clone());
    origin.put(&format!("{repository}/manifests/1.2"), index);
    origin.behave("/v2/", Behaviour { bearer: true, ..Behaviour::default() });
    origin
}

fn mesh(origin: &Origin) -> Mesh {
    let mut mesh = Mesh::start(&format!("[[feed]]\nname = 'images'\nkind = 'oci'\nurl = '{}'\n", origin.url("")));
    mesh.join("osl", &["one", "two"]);
    mesh
}

fn file(rest: &str) -> String {
    format!(
        "name: web\nrelease: '1'\npackages:\n  web: {{ feed: images, id: acme/web, {rest} }}\ntargets:\n  \
         - {{ select: all, packages: [web] }}\nsteps: [{{ name: size, run: 'test $(wc -c < \"$SHOAL_PACKAGE_WEB\") = {SIZE}' }}]\n"
    )
}

#[test]
fn tokens_that_end_in_the_middle_of_a_layer_are_renewed() {
    let (amd64, arm64) = (package::bytes(1, 1000), package::bytes(2, SIZE));
    let origin = registry([&amd64, &arm64]);
    let rate = Some(SIZE as u64 / 4);
    origin.behave("/v2/acme/web/blobs/", Behaviour { bearer: true, rate, ..Behaviour::default() });
    let mesh = mesh(&origin);
    let id = thread::scope(|scope| {
        // Also while the coordinator reads it for its recipe.
        scope.spawn(|| {
            let half = || (origin.sent("/v2/acme/web/blobs/") > SIZE as u64 / 2).then_some(());
            until("the coordinator reads", WITHIN, half);
            origin.end_tokens();
        });
        mesh.begin(&file("version: '1.2', platform: linux/arm64"))
    });
    let read = |status: &Value| status["sites"][0]["wan_bytes"].as_u64().unwrap_or(0);
    let read_before = origin.sent("/v2/acme/web/blobs/");
    assert!(read_before < SIZE as u64 * 3 / 2, "the coordinator read {read_before} bytes of {SIZE}");
    for part in [1, 2] {
        let much = |sent: u64| (sent >= read_before + part * SIZE as u64 / 4).then_some(());
        until("the site reads on", WITHIN, || much(origin.sent("/v2/acme/web/blobs/")));
        origin.end_tokens();
    }
    let status = mesh.await_state(&id, "succeeded", WITHIN);
    assert!(read(&status) <= SIZE as u64 * 101 / 100 + 64 * 1024, "{} bytes for {SIZE}", read(&status));
    // One token for the coordinator, and one each time after they ended; a lease that was under way may have cost one more.
    let lent = origin.asked("/token");
    assert!((3..=8).contains(&lent), "{lent} tokens were lent");
    assert!(origin.refused("/v2/acme/web/blobs/") >= 2, "somebody came with a token that had ended");
}

#[test]
fn a_platform_a_tag_and_a_digest_choose_what_is_meant() {
    let (amd64, arm64) = (package::bytes(1, SIZE), package::bytes(2, SIZE));
    let origin = registry([&amd64, &arm64]);
    let mesh = mesh(&origin);
    let refused = |rest: &str| {
        let ran = mesh.deploy(&file(rest), &["-q"]);
        assert_ne!(ran.code, 0, "{ran:?}");
        ran.stderr
    };
    let table = [
        ("version: '1.2'", "`platform` has to name one of its variants: `linux/amd64`, `linux/arm64`"),
        ("version: '1.2', platform: linux/s390x", "`platform` has to name one of its variants"),
        ("version: '1.2', platform: linux/amd64, file: web.zip", "`file` has to name one of its layers"),
        ("version: '1.3'", "has no version 1.3 of acme/web: its tags cannot be listed"),
        ("platform: linux/amd64", "a tag or digest is needed as `version`"),
    ];
    for (rest, wanted) in table {
        let said = refused(rest);
        assert!(said.contains(wanted), "{said}\nis not\n{wanted}");
    }
    let pinned = mesh.deploy(&file("version: '1.2', platform: linux/amd64"), &["--watch", "-q", "-o", "json"]);
    assert_eq!(pinned.json()["outcome"], "succeeded");
    let log = mesh.coordinator_log();
    let tag = log.split("images acme/web 1.2@").nth(1).expect("the digest that the tag had is told");
    let version = tag.split_whitespace().next().unwrap();
    let exact = file(&format!("version: '{version}', platform: linux/amd64, file: '0'"));
    assert_eq!(mesh.deploy(&exact, &["--watch", "-q", "-o", "json"]).json()["outcome"], "succeeded");

    // A layer whose bytes are not those of its digest is refused when it is read for its recipe.
    let mut lie = arm64.clone();
    lie[SIZE / 2] ^= 1;
    origin.put(&format!("/v2/acme/web/blobs/{}", digest(&arm64)), lie);
    let said = refused("version: '1.2', platform: linux/arm64");
    assert!(said.contains(&format!("{} is wanted", digest(&arm64))), "{said}");
}
