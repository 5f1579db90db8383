//! Releases reach every node, each package crossing each WAN once, and steps run: nothing goes wrong here.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_tests::{Behaviour, Mesh, Origin, package};

/// Range requests, HTTP probes and the recipe: what a site may read beside the package, of packages this small.
const BESIDE_BYTES: u64 = 64 * 1024;

/// Long: a debug build on a loaded machine.
const WITHIN: Duration = Duration::from_secs(90);

fn once(bytes: usize) -> u64 {
    bytes as u64 * 101 / 100 + BESIDE_BYTES
}

fn storefront(mesh: &Mesh, origin: &Origin, release: u32) -> String {
    let folder = mesh.path("").display().to_string();
    let tcp = origin.address();
    format!(
        r#"
name: storefront
release: "{release}"
packages:
  web: {{ feed: files, id: web-{release}.zip }}
targets:
  - {{ select: "role=web", packages: [web] }}
before_acquire:
  - {{ name: vpn, on: site, run: "echo $SHOAL_SITE up >> {folder}/vpn", always_after: "echo $SHOAL_SITE down >> {folder}/vpn" }}
steps:
  - {{ name: unpack, unpack: web, to: "{folder}/srv" }}
  - name: prove
    run: |
      cmp "$SHOAL_PACKAGE_WEB" {folder}/wanted.zip && echo "$SHOAL_NODE has $SHOAL_RELEASE"
      echo "size=$(wc -c < "$SHOAL_PACKAGE_WEB" | tr -d ' ')" >> "$SHOAL_OUTPUT"
  - {{ name: later, run: "echo $SHOAL_VALUE_SIZE" }}
  - {{ name: port, check: {{ tcp: "{tcp}", within: 10s }} }}
"#
    )
}

fn release(mesh: &Mesh, origin: &Origin, number: u32, files: &package::Files) -> Value {
    let zip = package::zip(files);
    fs::write(mesh.path("wanted.zip"), &zip).unwrap();
    origin.put(&format!("web-{number}.zip"), zip);
    let ran = mesh.deploy(&storefront(mesh, origin, number), &["--watch", "-q", "-o", "json"]);
    let summary = ran.json();
    assert_eq!(package::read(&mesh.path("srv/current")), *files, "what was unpacked");
    assert_eq!(summary["schema"], "shoal.summary/v1");
    assert_eq!((&summary["outcome"], &summary["nodes"]), (&json!("succeeded"), &json!(4)));
    summary
}

fn sorted_lines(path: &std::path::Path) -> Vec<String> {
    let mut lines: Vec<String> = fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn a_release_reaches_two_sites_and_the_next_moves_what_changed() {
    let origin = Origin::start();
    let mut mesh = Mesh::start(&origin.feed(&["osl", "syd"]));
    mesh.join("osl", &["osl-1", "osl-2"]);
    mesh.join("syd", &["syd-1", "syd-2"]);
    // With no limit, what a reader that hangs up leaves in the sockets would be counted.
    for site in ["/osl/", "/syd/"] {
        origin.behave(site, Behaviour { rate: Some(4_000_000), ..Behaviour::default() });
    }

    let first = package::files(1, 100, 80_000);
    let summary = release(&mesh, &origin, 1, &first);
    let size = package::zip(&first).len();
    for (site, figures) in ["osl", "syd"].iter().zip(summary["sites"].as_array().unwrap()) {
        let sent = origin.sent(&format!("/{site}/"));
        assert!(sent <= once(size), "{site} read {sent} of {size}: {figures}");
        assert_eq!((&figures["site"], &figures["nodes"]), (&json!(site), &json!(2)));
        assert_eq!(figures["package_bytes"], size as u64);
        let wan = figures["wan_bytes"].as_u64().unwrap();
        assert!(wan <= once(size) && wan >= 8_000_000, "{site}: {wan} of {size} over the WAN");
        assert!(figures["peer_bytes"].as_u64().unwrap() > 7_000_000, "{figures}");
    }
    assert_eq!(sorted_lines(&mesh.path("vpn")), ["osl down", "osl up", "syd down", "syd up"]);
    what_is_shown(&mesh, size);

    let (osl, syd) = (origin.sent("/osl/"), origin.sent("/syd/"));
    let summary = release(&mesh, &origin, 2, &package::tenth_changed(&first, 2));
    for (site, sent) in [("osl", origin.sent("/osl/") - osl), ("syd", origin.sent("/syd/") - syd)] {
        assert!(sent <= once(size / 10), "{site} read {sent} of {size}, of which a tenth changed");
    }
    for figures in summary["sites"].as_array().unwrap() {
        assert!(figures["copies"].as_f64().unwrap() <= 0.12, "{figures}");
        assert!(figures["local_bytes"].as_u64().unwrap() >= 2 * 7_000_000, "{figures}");
    }
    assert_eq!(mesh.stop_coordinator(), Some(0), "it ends when it is asked to");
}

/// After the first release.
fn what_is_shown(mesh: &Mesh, size: usize) {
    let newest = mesh.shoal(&["status", "-o", "json"]).json();
    assert_eq!(newest["schema"], "shoal.status/v1");
    assert_eq!((&newest["state"], &newest["stage"]), (&json!("succeeded"), &json!("done")));
    let nodes = newest["nodes"].as_array().unwrap();
    let names: Vec<&Value> = nodes.iter().map(|node| &node["name"]).collect();
    assert_eq!(names, ["osl-1", "osl-2", "syd-1", "syd-2"]);
    for node in nodes {
        assert_eq!((&node["acquired"], &node["state"]), (&json!(true), &json!("succeeded")), "{node}");
        assert_eq!((&node["have_bytes"], &node["package_bytes"]), (&json!(size), &json!(size)));
        let own = node["steps"].as_array().unwrap().iter().filter(|step| step["phase"] == "steps");
        let own: Vec<Value> = own.map(|step| json!([step["name"], step["state"], step["attempts"]])).collect();
        let wanted = ["unpack", "prove", "later", "port"].map(|name| json!([name, "succeeded", 1]));
        assert_eq!(own, wanted);
    }
    let id = newest["id"].as_str().unwrap();
    let logs = mesh.shoal(&["logs", id, "--node", "syd-2", "--step", "prove"]);
    assert_eq!((logs.code, logs.stdout.as_str()), (0, "syd-2 prove: syd-2 has 1\n"));
    let logs = mesh.shoal(&["logs", id, "--step", "later", "-o", "jsonl"]);
    let lines: Vec<Value> = logs.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert!(lines.iter().all(|line| line["text"] == *size.to_string() && line["stream"] == "stdout"), "{lines:?}");
    inventory(mesh);
}

fn inventory(mesh: &Mesh) {
    let nodes = mesh.shoal(&["nodes", "ls", "-o", "json"]).json();
    assert_eq!(nodes["schema"], "shoal.nodes/v1");
    for (node, (name, site)) in
        nodes["nodes"].as_array().unwrap().iter().zip([("osl-1", "osl"), ("osl-2", "osl"), ("syd-1", "syd")])
    {
        assert_eq!((&node["name"], &node["site"], &node["online"]), (&json!(name), &json!(site), &json!(true)));
        assert_eq!(node["labels"], json!({ "role": "web" }));
    }
    let sites = mesh.shoal(&["sites", "ls", "-o", "json"]).json();
    let sites: Vec<Value> = sites["sites"]
        .as_array()
        .unwrap()
        .iter()
        .map(|site| json!([site["name"], site["nodes"], site["online"]]))
        .collect();
    assert_eq!(sites, [json!(["osl", 2, 2]), json!(["syd", 2, 2])]);
    let table = mesh.shoal(&["sites", "ls"]).stdout;
    let table: Vec<String> = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        table,
        [
            "site nodes online WAN limit limited by WAN rate time zone steps start",
            "osl 2 2 none – 0 B/s – yes",
            "syd 2 2 none – 0 B/s – yes"
        ]
    );
    let list = mesh.shoal(&["status", "--list", "-o", "json"]).json();
    assert_eq!(list["deployments"].as_array().map(Vec::len), Some(1));
}

fn plain_file(acquire: &str) -> String {
    format!(
        "name: model\nrelease: '1'\npackages:\n  model: {{ feed: files, id: model.bin }}\n\
         targets:\n  - {{ select: all, packages: [model] }}\nacquire: {{ {acquire} }}\n"
    )
}

#[test]
fn the_coordinator_can_be_the_origin() {
    let origin = Origin::start();
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.join("osl", &["one", "two"]);
    origin.put("model.bin", package::bytes(3, 6_000_000));
    let ran = mesh.deploy(&plain_file("source: coordinator"), &["--watch", "-q", "-o", "json"]);
    let site = &ran.json()["sites"][0];
    let wan = site["wan_bytes"].as_u64().unwrap();
    assert!((6_000_000..=once(6_000_000)).contains(&wan), "{site}");
    assert!(origin.sent("/osl/") < 1000, "the nodes do not ask the feed");
    assert!(origin.sent("/main/") <= once(6_000_000), "the coordinator reads it once");
}

#[test]
fn a_folder_is_a_feed_that_the_coordinator_serves() {
    let mut mesh = Mesh::start("[[feed]]\nname = 'files'\nkind = 'folder'\npath = 'packages'\n");
    mesh.join("osl", &["one", "two"]);
    let bytes = package::bytes(4, 5_000_000);
    fs::create_dir(mesh.path("packages")).unwrap();
    fs::write(mesh.path("packages/model.bin"), &bytes).unwrap();
    fs::write(mesh.path("wanted"), &bytes).unwrap();
    let prove =
        format!("steps: [{{ name: prove, run: 'cmp $SHOAL_PACKAGE_MODEL {}' }}]\n", mesh.path("wanted").display());
    let ran = mesh.deploy(&(plain_file("") + &prove), &["--watch", "-q", "-o", "json"]);
    let site = &ran.json()["sites"][0];
    assert!(site["wan_bytes"].as_u64().unwrap() <= once(bytes.len()), "{site}");
    let log = mesh.coordinator_log();
    assert!(
        !log.contains("a read over the WAN failed"),
        "no lease comes before its reader knows where to read:\n{log}"
    );
}

#[test]
fn without_swarm_every_node_reads_a_copy_and_it_is_counted() {
    let origin = Origin::start();
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.join("osl", &["one", "two", "three"]);
    origin.put("model.bin", package::bytes(5, 3_000_000));
    let ran = mesh.deploy(&plain_file("swarm: false"), &["--watch", "-q", "-o", "json"]);
    let site = &ran.json()["sites"][0];
    let sent = origin.sent("/osl/");
    assert!((9_000_000..=once(9_000_000)).contains(&sent), "{sent}");
    let copies = site["copies"].as_f64().unwrap();
    assert!((3.0..=3.05).contains(&copies), "{site}");
    assert_eq!(site["peer_bytes"], 0);
}

#[test]
fn a_staged_release_waits_at_a_manual_gate() {
    let origin = Origin::start();
    let mut mesh = Mesh::start(&origin.feed(&[]));
    mesh.join("osl", &["one"]);
    origin.put("model.bin", package::bytes(6, 1_000_000));
    let ran = mesh.path("ran").display().to_string();
    let file = plain_file("gate: manual") + &format!("steps: [{{ name: go, run: 'echo $SHOAL_NODE >> {ran}' }}]\n");
    let id = mesh.begin(&file);
    let status = mesh.await_state(&id, "blocked", WITHIN);
    assert_eq!((&status["stage"], &status["nodes"][0]["acquired"]), (&json!("release"), &json!(true)));
    assert!(!mesh.path("ran").exists(), "GATE");
    let watched = mesh.shoal(&["watch", &id, "-q", "--wait-max", "1s"]);
    assert_eq!(watched.code, 5, "{watched:?}");
    assert_eq!(mesh.shoal(&["release", &id]).code, 0);
    mesh.await_state(&id, "succeeded", WITHIN);
    assert_eq!(fs::read_to_string(&ran).unwrap(), "one\n");
}
