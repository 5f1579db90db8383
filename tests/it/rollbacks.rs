//! Rollbacks: the release before comes back from the nodes' own caches.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use shoal_tests::{Mesh, Origin, package, until};

/// Long: a debug build on a loaded machine.
const WITHIN: Duration = Duration::from_secs(90);

/// Packages that come meanwhile, at most.
const FILLERS: u32 = 6;

const SECRET: &str = "correct-horse-battery";

/// A release of 1 MB and its number in bytes more, which waits for its gate.
fn file(mesh: &Mesh, release: u32, on_failure: &str) -> String {
    let folder = mesh.path("").display().to_string();
    let ran = format!("{folder}/ran");
    format!(
        r#"
name: shop
release: "{release}"
packages: {{ web: {{ feed: files, id: shop{release}.bin }} }}
targets: [{{ select: all, packages: [web] }}]
acquire: {{ gate: manual }}
variables: [{{ name: password, value_file: "{folder}/password" }}]
steps:
  - {{ name: migrate, on: coordinator, rollback: skip, run: "echo migrate $SHOAL_RELEASE >> {ran}" }}
  - {{ name: undo, on: coordinator, rollback: only, run: "echo undo $SHOAL_ROLLBACK_FROM >> {ran}" }}
  - name: start
    on_failure: {on_failure}
    run: |
      test "$SHOAL_VAR_PASSWORD" = {SECRET} || exit 4
      echo start $SHOAL_RELEASE $SHOAL_NODE $(wc -c < $SHOAL_PACKAGE_WEB) >> {ran}
      test ! -e {folder}/broken$SHOAL_RELEASE && exit
      # The first that fails has the other killed, which may not have written yet.
      until test $(grep -c "^start $SHOAL_RELEASE " {ran}) = 2; do sleep 0.05; done
      exit 1
"#
    )
}

fn filler(number: u32) -> String {
    format!(
        "name: filler{number}\nrelease: '1'\npackages: {{ it: {{ feed: files, id: filler{number}.bin }} }}\n\
         targets: [{{ select: all, packages: [it] }}]\n"
    )
}

/// What steps wrote, sorted where they ran at the same time; then it is forgotten.
fn ran(mesh: &Mesh) -> Vec<String> {
    let text = fs::read_to_string(mesh.path("ran")).unwrap_or_default();
    let _ = fs::remove_file(mesh.path("ran"));
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_by_key(|line| line.starts_with("start").then(|| line.clone()));
    lines
}

fn mesh(origin: &Origin) -> Mesh {
    for number in 1_u32..4 {
        origin.put(&format!("shop{number}.bin"), package::bytes(number.into(), 1_000_000 + number as usize));
    }
    for number in 1..=FILLERS {
        origin.put(&format!("filler{number}.bin"), package::bytes(10 + u64::from(number), 1_000_000));
    }
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.set_node_args(&["--cache-max", "3.5 MB"]);
    mesh.join("osl", &["one", "two"]);
    fs::write(mesh.path("password"), SECRET).unwrap();
    mesh
}

fn release(mesh: &Mesh, number: u32, on_failure: &str) -> String {
    let id = mesh.begin(&file(mesh, number, on_failure));
    mesh.await_state(&id, "blocked", WITHIN);
    id
}

/// What a rollback to one release would do.
fn way_back(mesh: &Mesh, id: &str) -> Value {
    mesh.shoal(&["plan", "--rollback", id, "-o", "json"]).json()["ways"][0].clone()
}

fn go(mesh: &Mesh, id: &str, state: &str) -> Value {
    assert_eq!(mesh.shoal(&["release", id]).code, 0);
    mesh.await_state(id, state, WITHIN)
}

#[test]
fn a_failed_release_goes_back_from_the_caches_without_a_byte_over_the_wan() {
    let origin = Origin::start();
    let mut mesh = mesh(&origin);
    let first = release(&mesh, 1, "rollback");
    go(&mesh, &first, "succeeded");
    assert_eq!(ran(&mesh), ["migrate 1", "start 1 one 1000001", "start 1 two 1000001"]);

    // What is needed to go back stays, though the cache is too small for all that comes meanwhile.
    let second = release(&mesh, 2, "rollback");
    let dropped = mesh.path("one/packages").join(blake3::hash(&package::bytes(11, 1_000_000)).to_hex().as_str());
    // What its neighbour still has open is dropped the next time.
    for number in 1..=FILLERS {
        let ran = mesh.deploy(&filler(number), &["--watch", "-q"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        if number > 1 && !dropped.exists() {
            break;
        }
    }
    assert!(!dropped.exists(), "the cache makes room");
    fs::write(mesh.path("broken2"), "").unwrap();
    let (sent, asked) = (origin.sent("/"), origin.asked("/"));
    go(&mesh, &second, "failed");
    let taken = mesh.await_status(&second, "it is taken back", WITHIN, |status| !status["taken_back_by"].is_null());
    let back = mesh.await_state(taken["taken_back_by"][0].as_str().unwrap(), "succeeded", WITHIN);
    assert_eq!((&back["takes_back"], &back["release"]), (&json!("d2"), &json!("1")));
    assert_eq!(back["summary"]["sites"][0]["wan_bytes"], 0, "{back:#}");
    assert_eq!(back["coordinator_steps"].as_array().map(Vec::len), Some(1), "each is shown once: {back:#}");
    assert_eq!((origin.sent("/"), origin.asked("/")), (sent, asked), "the feed is not even asked");
    let wanted = ["migrate 2", "undo 2", "start 1 one 1000001", "start 1 two 1000001", "start 2 one 1000002"];
    assert_eq!(ran(&mesh), [&wanted[..], &["start 2 two 1000002"]].concat());

    // By hand, after it has succeeded, and with a restart between: the secret is still there for it.
    let third = release(&mesh, 3, "pause");
    go(&mesh, &third, "succeeded");
    ran(&mesh);
    mesh.kill_coordinator();
    mesh.start_coordinator();
    ["one", "two"].into_iter().for_each(|node| mesh.await_online(node));
    mesh.await_status(&third, "the nodes said what they hold", WITHIN, |_| {
        way_back(&mesh, &third)["nodes"].as_array().is_some_and(|nodes| nodes.iter().all(|node| node["holds"] == true))
    });
    let way = way_back(&mesh, &third);
    assert_eq!((&way["to"], &way["release"], &way["sites"][0]["wan_bytes"]), (&json!("d1"), &json!("1"), &json!(0)));
    let steps: Vec<&str> = way["steps"].as_array().unwrap().iter().filter_map(|step| step["name"].as_str()).collect();
    assert_eq!(steps, ["undo", "start"]);
    assert_eq!(mesh.shoal(&["plan", "--rollback", &third, "--out", "back.json"]).code, 0);
    let answer = mesh.shoal(&["rollback", &third, "--plan", "back.json"]);
    assert!(answer.code == 0 && answer.stdout.contains(&format!("takes {third} back to release 1")), "{answer:?}");
    let by = mesh.status(&third)["taken_back_by"][0].as_str().unwrap().to_owned();
    mesh.await_state(&by, "succeeded", WITHIN);
    assert_eq!(ran(&mesh), ["undo 3", "start 1 one 1000001", "start 1 two 1000001"]);
    let again = mesh.shoal(&["rollback", &third]);
    assert!(again.code != 0 && again.stderr.contains(&format!("went on with {by}")), "{again:?}");
}

#[test]
fn an_operator_rolls_back_what_is_under_way_and_is_told_where_nothing_was_before() {
    let origin = Origin::start();
    let mesh = mesh(&origin);
    let first = release(&mesh, 1, "pause");
    let refused = mesh.shoal(&["rollback", &first]);
    assert!(refused.code != 0 && refused.stderr.contains("nothing to take back"), "{refused:?}");
    go(&mesh, &first, "succeeded");
    fs::write(mesh.path("broken2"), "").unwrap();
    let second = release(&mesh, 2, "pause");
    assert_eq!(mesh.shoal(&["release", &second]).code, 0);
    mesh.await_state(&second, "paused", WITHIN);
    assert_eq!(mesh.shoal(&["rollback", &second, "--reason", "CHG-1"]).code, 0);
    mesh.await_state(&second, "failed", WITHIN);
    mesh.await_status(&second, "it is taken back", WITHIN, |status| status["taken_back_by"] == json!(["d3"]));
    mesh.await_state("d3", "succeeded", WITHIN);
    let acts = mesh.shoal(&["audit", "ls"]).stdout;
    assert!(acts.contains("rollback") && acts.contains("CHG-1"), "{acts}");
}

#[test]
fn whom_a_rollback_leaves_out_and_what_caches_have_dropped_is_said() {
    let origin = Origin::start();
    for number in [1_u32, 2] {
        origin.put(&format!("shop{number}.bin"), package::bytes(number.into(), 1_000_000 + number as usize));
    }
    origin.put("filler1.bin", package::bytes(11, 1_000_000));
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.set_node_args(&["--cache-max", "1.5 MB"]);
    mesh.join("osl", &["one"]);
    fs::write(mesh.path("password"), SECRET).unwrap();
    let first = release(&mesh, 1, "pause");
    go(&mesh, &first, "succeeded");
    mesh.join("osl", &["two"]);
    let second = release(&mesh, 2, "pause");
    go(&mesh, &second, "succeeded");
    // The cache has room for one; what is gone back to stays all the same, after another one that is not.
    let ran = mesh.deploy(&filler(1), &["--watch", "-q"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let way = way_back(&mesh, &second);
    assert_eq!((&way["nodes"][0]["holds"], &way["sites"][0]["wan_bytes"]), (&json!(true), &json!(0)), "{way:#}");
    let kept = mesh.path("one/packages").join(blake3::hash(&package::bytes(1, 1_000_001)).to_hex().as_str());
    assert!(kept.exists(), "{}", kept.display());
    assert_eq!(mesh.shoal(&["plan", "--rollback", &second, "--out", "back.json"]).code, 0);

    // Somebody removes it, and the index with it.
    mesh.kill_node("one");
    fs::remove_file(&kept).unwrap();
    fs::remove_dir_all(mesh.path("one/index")).unwrap();
    fs::create_dir(mesh.path("one/index")).unwrap();
    mesh.start_node("one");
    until("the node says that it is gone", WITHIN, || {
        (way_back(&mesh, &second)["nodes"][0]["holds"] == false).then_some(())
    });
    let plan = mesh.shoal(&["plan", "--rollback", &second]).stdout;
    assert!(
        plan.contains("to release 1 of d1: 1 node, 2 steps") && plan.contains("two had no release before"),
        "{plan}"
    );
    let of_first = mesh.shoal(&["rollback", &first, "--plan", "back.json"]);
    assert_eq!(of_first.code, 2, "{of_first:?}");
    let answer = mesh.shoal(&["rollback", &second, "--plan", "back.json"]);
    let dropped = "site osl: the caches of one have dropped packages of that release, up to 1.0 MB cross its WAN";
    let stays = "two had no release before and stays as it is";
    assert!(answer.code == 0 && answer.stdout.contains(dropped) && answer.stdout.contains(stays), "{answer:?}");
    let back = mesh.await_state("d4", "succeeded", WITHIN);
    assert_eq!(back["left_out"], json!([stays]));
    let moved = mesh.shoal(&["rollback", "d4", "--plan", "back.json"]);
    assert_eq!(moved.code, 2, "{moved:?}");
    assert!(mesh.shoal(&["status", "d4"]).stdout.contains(stays));
}

#[test]
fn a_rollback_that_is_not_the_one_that_was_planned_is_refused() {
    let origin = Origin::start();
    let mesh = mesh(&origin);
    let file = |release: u32| {
        format!(
            "name: shop\nrelease: '{release}'\npackages: {{ web: {{ feed: files, id: shop{release}.bin }} }}\n\
             targets: [{{ select: all, packages: [web] }}]\n\
             steps: [{{ name: start, window: 1, run: 'echo $SHOAL_RELEASE >> {}; test $SHOAL_RELEASE = 1' }}]\n",
            mesh.path("ran").display()
        )
    };
    let first = mesh.begin(&file(1));
    mesh.await_state(&first, "succeeded", WITHIN);
    let second = mesh.begin(&file(2));
    mesh.await_state(&second, "paused", WITHIN);
    // One node was changed by then; its failure is passed over, and the other one is changed too.
    assert_eq!(mesh.shoal(&["plan", "--rollback", &second, "--out", "back.json"]).code, 0);
    assert_eq!(way_back(&mesh, &second)["nodes"].as_array().map(Vec::len), Some(1));
    assert_eq!(mesh.shoal(&["ignore", &second]).code, 0);
    mesh.await_status(&second, "the other one has failed", WITHIN, |_| {
        way_back(&mesh, &second)["nodes"].as_array().map(Vec::len) == Some(2)
    });
    let moved = mesh.shoal(&["rollback", &second, "--plan", "back.json"]);
    assert_eq!((moved.code, moved.stderr.contains("does not hold any more")), (5, true), "{moved:?}");
    assert!(mesh.status(&second)["taken_back_by"].as_array().is_none_or(Vec::is_empty), "nothing was begun");
    assert_eq!(mesh.shoal(&["plan", "--rollback", &second, "--out", "back.json"]).code, 0);
    let answer = mesh.shoal(&["rollback", &second, "--plan", "back.json"]);
    assert_eq!(answer.code, 0, "{answer:?}");
    let taken = mesh.await_status(&second, "it is taken back", WITHIN, |status| !status["taken_back_by"].is_null());
    let back = mesh.await_state(taken["taken_back_by"][0].as_str().unwrap(), "succeeded", WITHIN);
    assert_eq!(back["nodes_total"], 2);
}

#[test]
fn a_node_that_joins_too_late_is_said_to_be_left_out() {
    let mut mesh = Mesh::start("");
    mesh.join("osl", &["one"]);
    let file = "name: shop\nrelease: '1'\ntargets: [{ select: all }]\nacquire: { gate: manual }\n\
                before_acquire: [{ name: vpn, run: 'true' }]\nsteps: [{ name: go, run: 'true' }]\n";
    let id = mesh.begin(file);
    mesh.await_state(&id, "blocked", WITHIN);
    mesh.join("osl", &["late"]);
    let why = "late joined, and is left out: it missed step `vpn`, which runs before packages are acquired";
    let status = mesh.status(&id);
    assert!(status["left_out"][0].as_str().is_some_and(|text| text.starts_with(why)), "{status:#}");
    assert!(mesh.shoal(&["status", &id]).stdout.contains(why));
    assert_eq!(go(&mesh, &id, "succeeded")["nodes_total"], 1);

    let file = "name: web\nrelease: '1'\ntargets: [{ select: all }]\nacquire: { gate: manual }\n\
                variables: [{ name: port, value: 80 }, { name: port, value: 81, site: osl }]\n\
                steps: [{ name: go, run: 'true' }]\n";
    let id = mesh.begin(file);
    mesh.await_state(&id, "blocked", WITHIN);
    mesh.join("osl", &["later"]);
    let why = "later joined, and is left out: variables of this deployment differ between nodes";
    let status = mesh.status(&id);
    assert!(status["left_out"][0].as_str().is_some_and(|text| text.starts_with(why)), "{status:#}");
}
