//! Who did what and why is kept with what followed from it, and shows when it was changed.

use std::fs;

use serde_json::{Value, json};
use shoal_tests::{Mesh, Origin, package};

const FILE: &str = "name: model
release: '1'
packages:
  model: { feed: files, id: model.bin }
targets:
  - { select: all, packages: [model] }
";

fn acts(listed: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let act = |entry: Value| json!([entry["who"], entry["command"], entry["what"], entry["reason"]]);
    listed.lines().map(|line| act(parse(line))).collect()
}

#[test]
fn what_operators_did_outlives_a_kill_and_shows_what_was_changed() {
    let origin = Origin::start();
    let mut mesh = Mesh::start(&origin.feed(&[]));
    mesh.join("osl", &["one"]);
    origin.put("model.bin", package::bytes(3, 100_000));
    let plan = mesh.deploy(FILE, &["--watch", "-q", "--operator", "ola", "--reason", "CHG-1: the model of May"]);
    assert_eq!(plan.code, 0, "{plan:?}");
    let refused = mesh.shoal(&["release", "d1", "--operator", "kari"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    let listed = mesh.shoal(&["audit", "ls", "-o", "jsonl"]);
    let wanted = [
        json!(["ola", "deploy", "model 1 from deploy.yaml", "CHG-1: the model of May"]),
        json!(["kari", "release", "d1", null]),
    ];
    assert_eq!(acts(&listed.stdout)[1..], wanted, "after the join string");
    let last: Value = serde_json::from_str(listed.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["refused"], "d1: the deployment is over");
    assert!(listed.stdout.lines().nth(1).unwrap().contains(r#""deployment":"d1","plan":""#), "{}", listed.stdout);

    mesh.kill_coordinator();
    let data_dir = mesh.path("coordinator").display().to_string();
    let offline = mesh.shoal(&["audit", "ls", "--data-dir", &data_dir, "-o", "jsonl"]);
    assert_eq!(acts(&offline.stdout), acts(&listed.stdout));
    let verdict = mesh.shoal(&["audit", "verify", "--data-dir", &data_dir, "-o", "json"]).json();
    let head = verdict["head"].as_str().unwrap().to_owned();
    mesh.start_coordinator();
    assert_eq!(mesh.shoal(&["audit", "verify", "--head", &head]).code, 0);
    let again = mesh.shoal(&["audit", "ls", "-o", "jsonl"]);
    assert_eq!(acts(&again.stdout), acts(&listed.stdout), "it is there after a restart");

    // The log is changed under the running coordinator: a byte of the reason, then the end is cut off.
    let log = mesh.path("coordinator/audit.log");
    let good = fs::read(&log).unwrap();
    let at = good.windows(5).position(|part| part == b"CHG-1").unwrap();
    let mut bytes = good.clone();
    bytes[at + 4] = b'2';
    fs::write(&log, &bytes).unwrap();
    let entry: Value = serde_json::from_str(listed.stdout.lines().nth(1).unwrap()).unwrap();
    let changed = mesh.shoal(&["audit", "verify"]);
    let said = format!("entry {} at byte ", entry["entry"]);
    assert_eq!((changed.code, changed.stdout.starts_with(&said)), (9, true), "{changed:?}");
    fs::write(&log, &good[..good.len() / 2]).unwrap();
    assert_eq!(mesh.shoal(&["audit", "verify"]).code, 9);
    fs::write(&log, &good).unwrap();
    assert_eq!(mesh.shoal(&["audit", "verify"]).code, 0);
}

/// Each command that changes something, most of them refused here, as all are that name a deployment that there is not.
#[test]
fn every_command_is_an_entry_also_where_it_is_refused() {
    let mesh = Mesh::start("");
    let commands = [
        ("pause d9", "pause", "d9"),
        ("resume d9", "resume", "d9"),
        ("release d9", "release", "d9"),
        ("release d9 --now", "release", "d9 now"),
        ("override-window d9", "override-window", "d9"),
        ("override-window d9 --end", "override-window", "d9 ends"),
        ("promote d9", "promote", "d9"),
        ("cancel d9", "cancel", "d9"),
        ("rollback d9", "rollback", "d9"),
        ("retry d9 --node one", "retry", "d9 on one"),
        ("ignore d9 --step go", "ignore", "d9 step go"),
        ("exclude d9 --node one --step go", "exclude", "d9 step go on one"),
        ("fail d9", "fail", "d9"),
        ("allow d9 --site osl --bytes 1MB", "allow", "d9: osl may read 1.0 MB more"),
        ("sites limit osl 2MB/s", "sites limit", "site osl"),
        ("token revoke none", "token revoke", "token none"),
        ("deploy -f broken.yaml", "deploy", "broken.yaml"),
        ("deploy -f broken.yaml --stage-only", "stage", "broken.yaml"),
        ("freeze --site osl", "freeze", "at osl: CHG-7"),
        ("thaw --site osl", "thaw", "at osl"),
    ];
    fs::write(mesh.path("broken.yaml"), "name: task\nrelaese: '1'\n").unwrap();
    let refused = commands.map(|(command, ..)| {
        let args: Vec<&str> = command.split(' ').chain(["-q", "--operator", "ola", "--reason", "CHG-7"]).collect();
        mesh.shoal(&args).code != 0
    });
    assert_eq!(refused, [true; 20]);
    let listed = mesh.shoal(&["audit", "ls", "-o", "jsonl"]).stdout;
    let wanted = commands.map(|(_, command, what)| json!(["ola", command, what, "CHG-7"]));
    assert_eq!(acts(&listed), wanted);
    let refused = |line: &str| serde_json::from_str::<Value>(line).unwrap()["refused"].is_string();
    assert!(listed.lines().all(refused), "{listed}");
}
