//! Which nodes that join later a deployment means, and where they go in.

use super::*;
use crate::id::TargetIndex;
use crate::rollout::join::Joins;
use crate::rollout::plan::NodeFacts;

fn facts(number: u8, site: &str, role: &str) -> NodeFacts {
    let labels = [("role".to_owned(), [role.to_owned()].into())].into();
    NodeFacts { id: node(number), name: name(&format!("n{number}")), site: name(site), labels }
}

fn joins() -> Joins {
    Joins {
        targets: vec![
            ("role=web".to_owned(), vec![PackageIndex(0)]),
            ("site=b and role=web".to_owned(), vec![PackageIndex(1)]),
        ],
        waves: vec![(name("canary"), None), (name("b"), Some("site=b".to_owned())), (name("rest"), None)],
        variables_differ: false,
    }
}

/// Nodes 2 and 6 at site `a`, 4 at `b`; each in a wave of its own.
fn running() -> (Manifest, BTreeMap<NodeId, Name>) {
    let lane = |place| vec![vec![TargetIndex(place)]];
    let wave = |text: &str, lanes| crate::manifest::Wave { lanes, ..waves::wave(text, &[]) };
    let manifest = Manifest {
        packages: vec![package("web"), package("more")],
        groups: vec![Group { nodes: vec![node(2), node(4), node(6)], packages: vec![PackageIndex(0)] }],
        waves: vec![wave("canary", lane(0)), wave("b", lane(1)), wave("rest", lane(2))],
        ..manifest(0, vec![], vec![script("one")])
    };
    (manifest, [(node(2), name("a")), (node(4), name("b")), (node(6), name("a"))].into())
}

/// The nodes of each wave, by lane.
fn lanes(manifest: &Manifest) -> Vec<Vec<Vec<u8>>> {
    let targets: Vec<NodeId> = manifest.targets().into_iter().collect();
    let lane = |lane: &Vec<TargetIndex>| lane.iter().map(|place| targets[place.index()].0[0]).collect();
    manifest.waves.iter().map(|wave| wave.lanes.iter().map(lane).collect()).collect()
}

#[test]
fn a_node_gets_what_its_selectors_say_and_goes_with_the_last_wave_that_means_it() {
    let (running, sites) = running();
    let joined = joins().manifest(&running, &facts(3, "a", "web"), &sites).unwrap();
    assert_eq!(joined.packages_of(node(3)).map(|(index, _)| index.0).collect::<Vec<_>>(), [0]);
    assert_eq!(
        lanes(&joined),
        [[[2].as_slice()], [[4].as_slice()], [[3, 6].as_slice()]].map(|w| w.map(<[u8]>::to_vec))
    );
    let joined = joins().manifest(&joined, &facts(1, "b", "web"), &sites).unwrap();
    assert_eq!(joined.packages_of(node(1)).map(|(index, _)| index.0).collect::<Vec<_>>(), [0, 1], "a group of its own");
    assert_eq!(lanes(&joined)[2], [[1, 3, 6]], "those before it have other numbers by now, and the same waves");
    assert_eq!(lanes(&joined)[..2], [[[2].to_vec()], [[4].to_vec()]]);
    for (node, why) in [(facts(7, "a", "db"), "another role"), (facts(6, "a", "web"), "it is a target")] {
        assert_eq!(joins().manifest(&joined, &node, &sites), None, "{why}");
    }
    let differ = Joins { variables_differ: true, ..joins() };
    assert_eq!(differ.manifest(&running, &facts(3, "a", "web"), &sites), None, "its variables are not known");
    assert!(differ.means(&facts(3, "a", "web")), "and it is said to be left out");
}

#[test]
fn with_lanes_by_site_a_node_goes_into_that_of_its_site() {
    let (mut running, sites) = running();
    let places = |lanes: &[&[u16]]| lanes.iter().map(|lane| lane.iter().copied().map(TargetIndex).collect()).collect();
    let wave = waves::wave("rest", &[]);
    running.waves = vec![crate::manifest::Wave { lanes: places(&[&[0, 2], &[1]]), ..wave }];
    let of = |site: &str| lanes(&joins().manifest(&running, &facts(5, site, "web"), &sites).unwrap());
    assert_eq!(of("a"), [[[2, 5, 6].to_vec(), [4].to_vec()]]);
    assert_eq!(of("b"), [[[2, 6].to_vec(), [4, 5].to_vec()]]);
    assert_eq!(of("c"), [[[2, 6].to_vec(), [4, 5].to_vec()]], "a site of its own goes with the last");
}
