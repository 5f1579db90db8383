//! What a plan stands on.

use super::*;
use crate::id::{FileHash, PlanHash, ValuesHash};
use crate::rollout::back::Back;
use crate::rollout::basis::{Basis, Target, moved, plan_hash};
use crate::rollout::variables::{Value, Variables};

fn options(stage_only: bool) -> Options {
    Options { names: [(node(1), name("n1")), (node(2), name("n2"))].into(), stage_only, ..Options::default() }
}

fn sites() -> BTreeMap<NodeId, Name> {
    [(node(1), name("a")), (node(2), name("b"))].into()
}

#[test]
fn a_plan_is_the_same_exactly_where_the_same_would_be_done() {
    let plan = || manifest(2, vec![script("vpn")], vec![script("restart")]);
    let hash_of =
        |manifest: &Manifest| plan_hash(manifest, &options(false), &sites(), &Variables::default(), &Back::default());
    let first = hash_of(&plan());
    assert_eq!(hash_of(&Manifest { deployment: DeploymentId(77), ..plan() }), first, "its number is no part of it");
    let mut other_bytes = plan();
    other_bytes.packages[0].id = PackageId([8; 32]);
    let mut other_script = plan();
    other_script.steps[0].action = Action::Script { run: "false".to_owned() };
    let renamed = Options { names: [(node(1), name("n1")), (node(2), name("n3"))].into(), ..options(false) };
    let moved = [(node(1), name("a")), (node(2), name("a"))].into();
    let port = Variables { own: [("port".to_owned(), Value::Plain("80".to_owned()))].into(), ..Variables::default() };
    let secret = Variables { prints: vec![[5; 32]], ..Variables::default() };
    let others: [(&str, PlanHash); 10] = [
        ("a variable", plan_hash(&plan(), &options(false), &sites(), &port, &Back::default())),
        ("a secret", plan_hash(&plan(), &options(false), &sites(), &secret, &Back::default())),
        (
            "a rollback to it",
            plan_hash(&plan(), &options(false), &sites(), &Variables::default(), &Back::same(&plan())),
        ),
        ("bytes", hash_of(&other_bytes)),
        ("script", hash_of(&other_script)),
        ("release", hash_of(&Manifest { release: name("2"), ..plan() })),
        ("one node more", hash_of(&manifest(3, vec![script("vpn")], vec![script("restart")]))),
        ("stage only", plan_hash(&plan(), &options(true), &sites(), &Variables::default(), &Back::default())),
        ("a node's name", plan_hash(&plan(), &renamed, &sites(), &Variables::default(), &Back::default())),
        ("a node's site", plan_hash(&plan(), &options(false), &moved, &Variables::default(), &Back::default())),
    ];
    let distinct: BTreeSet<PlanHash> = others.iter().map(|(_, hash)| *hash).chain([first]).collect();
    assert_eq!(distinct.len(), others.len() + 1, "{others:?}");
}

fn basis() -> Basis {
    let target = |number, site| Target { node: node(number), site: name(site), packages: [name("web")].into() };
    Basis {
        file: FileHash::of("a file"),
        variables: ValuesHash([4; 32]),
        packages: [(name("web"), PackageId([1; 32]))].into(),
        nodes: [(name("n1"), target(1, "a")), (name("n2"), target(2, "b"))].into(),
    }
}

#[test]
fn what_moved_is_named() {
    type Change = fn(&mut Basis);
    let table: [(Change, &str); 9] = [
        (
            |now| now.variables = ValuesHash([5; 32]),
            "a variable has another value, given with `-V` or read from a file",
        ),
        (|_| {}, ""),
        (|now| now.file = FileHash::of("another file"), "the deployment file was changed"),
        (
            |now| now.packages.values_mut().for_each(|package| *package = PackageId([2; 32])),
            "package `web` resolves to 02020202 and no longer to 01010101",
        ),
        (|now| drop(now.nodes.remove(&name("n1"))), "node `n1` is not meant any more"),
        (
            |now| drop(now.nodes.insert(name("n3"), now.nodes[&name("n1")].clone())),
            "node `n3` of site `a` is meant as well",
        ),
        (|now| now.nodes.get_mut(&name("n2")).unwrap().node = node(9), "another machine is node `n2`"),
        (
            |now| now.nodes.get_mut(&name("n2")).unwrap().site = name("c"),
            "node `n2` is in site `c` and no longer in `b`",
        ),
        (|now| now.nodes.get_mut(&name("n2")).unwrap().packages.clear(), "node `n2` gets other packages"),
    ];
    for (change, wanted) in table {
        let mut now = basis();
        change(&mut now);
        let said: Vec<String> = moved(&basis(), &now).iter().map(ToString::to_string).collect();
        assert_eq!(said.join("; "), wanted);
    }
}
