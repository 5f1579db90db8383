//! How many files processes may have open: the agent and the coordinator as many as the system allows, their scripts as many
//! as before.

use std::fs;
use std::time::Duration;

use shoal_tests::{Mesh, Origin, package, until};

const SOON: Duration = Duration::from_secs(30);

/// What is logged where the limit is too low.
const TOO_FEW: &str = "too few files may be open";

fn mesh(origin: &Origin, limits: &str) -> Mesh {
    let mut mesh = Mesh::start(&origin.feed(&["osl"]));
    mesh.set_ulimit(limits);
    mesh.kill_coordinator();
    mesh.start_coordinator();
    mesh.join("osl", &["one", "two"]);
    mesh
}

/// Deploys with steps on a node and on the coordinator; for each, its own soft limit and its parent's soft and hard ones.
fn seen(mesh: &Mesh, origin: &Origin) -> Vec<[u64; 3]> {
    origin.put("web.bin", package::bytes(1, 100_000));
    let look = |on: &str| {
        let file = mesh.path(&format!("limits-{on}"));
        // A child of the shell tells what programs get that the script starts.
        let own = "sh -c 'ulimit -S -n'";
        let parents = "awk '/^Max open files/ { print $4, $5 }' /proc/$PPID/limits";
        (format!("  - {{ name: {on}, on: {on}, run: \"{{ {own}; {parents}; }} > {}\" }}\n", file.display()), file)
    };
    let looks = ["node", "coordinator"].map(look);
    let steps: String = looks.iter().map(|(step, _)| step.as_str()).collect();
    let ran = mesh.deploy(
        &format!(
            "name: web\nrelease: '1'\npackages:\n  web: {{ feed: files, id: web.bin }}\n\
             targets: [{{ select: all, packages: [web] }}]\nsteps:\n{steps}"
        ),
        &["--watch", "-q"],
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    let numbers = |text: String| {
        let numbers: Vec<u64> = text.split_whitespace().map(|word| word.parse().expect("a number")).collect();
        numbers.try_into().expect("three numbers")
    };
    looks.iter().map(|(_, file)| numbers(fs::read_to_string(file).unwrap())).collect()
}

#[test]
fn programs_may_open_as_many_files_as_the_system_allows_and_scripts_as_many_as_before() {
    let origin = Origin::start();
    let mesh = mesh(&origin, "-S -n 321");
    for [script, soft, hard] in seen(&mesh, &origin) {
        assert_eq!((script, soft), (321, hard));
        assert!(hard > 321, "this machine's own hard limit of {hard} shows nothing");
    }
    assert!(!mesh.coordinator_log().contains(TOO_FEW), "{}", mesh.coordinator_log());
}

#[test]
fn a_limit_that_is_too_low_for_the_nodes_is_said_once() {
    let origin = Origin::start();
    let mut mesh = mesh(&origin, "-n 260");
    for [script, soft, hard] in seen(&mesh, &origin) {
        assert_eq!([script, soft, hard], [260; 3]);
    }
    let said = |log: &str| log.lines().filter(|line| line.contains(TOO_FEW)).count();
    mesh.kill_node("two");
    mesh.await_offline("two");
    mesh.start_node("two");
    mesh.await_online("two");
    // One node needs no more; with the second it is too few, also when that is back.
    assert_eq!(said(&mesh.coordinator_log()), 1, "{}", mesh.coordinator_log());
    assert!(mesh.coordinator_log().contains("nodes=2"), "{}", mesh.coordinator_log());
    // A node has the coordinator and its neighbour to keep a connection with.
    let of_one = || fs::read_to_string(mesh.path("one.log")).unwrap();
    until("the node says so as well", SOON, || (said(&of_one()) > 0).then_some(()));
    assert_eq!(said(&of_one()), 1, "{}", of_one());
}
