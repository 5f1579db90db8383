//! One node fetches a large package from all of its neighbours: how much memory that takes.
//!
//! The first node gets the package from the feed. Then it is stopped, and the others but the last get its store: by hard
//! links, which is sound since no agent writes to a sealed package, and means that the disk has to hold the package three
//! times whatever the number of nodes. The last node lacks it, and is measured.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use shoal_tests::until_seen;

use crate::lab::{Lab, NodePlace, SOON};
use crate::measure::{cpu_seconds, peak_rss_mib};
use crate::network::Shape;

/// How long a deployment may take: as long as a slow disk takes for tens of GiB.
const LONG: Duration = Duration::from_secs(1800);

/// Most memory of a node in MiB, whatever the package's size and the number of neighbours.
const PEAK_MIB_MAX: f64 = 64.0;

/// Runs it with `neighbours` and a package of `mib`, and prints what it came to; whether memory was as it is wanted.
///
/// # Panics
/// If anything but the measured figures is not as it should be.
pub(crate) fn run(neighbours: u32, mib: u64) -> bool {
    let shape = Shape { sites: 1, nodes: neighbours + 1, wan: None, lan: None, crowded: false };
    let mut lab = Lab::start(shape, mib << 20);
    let (first, last) = ((1, 1), (1, neighbours + 1));
    lab.start_node(first);
    lab.await_online(1, SOON);
    deploy(&lab, 1, &[first]);
    lab.stop_node(first);
    let holders: Vec<NodePlace> = (1..=neighbours).map(|number| (1, number)).collect();
    for place in &holders[1..] {
        share(&lab.data_dir(first), &lab.data_dir(*place));
    }
    holders.iter().for_each(|place| lab.start_node(*place));
    lab.await_online(holders.len(), SOON);
    deploy(&lab, 2, &holders);
    lab.start_node(last);
    lab.await_online(holders.len() + 1, SOON);

    let wan_before = lab.wan_bytes();
    let started = Instant::now();
    let peer_bytes = deploy(&lab, 3, &lab.places());
    let seconds = started.elapsed().as_secs_f64();
    let wan_bytes = lab.wan_bytes() - wan_before;
    // The recipe comes from them as well.
    assert!((mib << 20..(mib << 20) / 100 * 101).contains(&peer_bytes), "{peer_bytes} bytes are from its neighbours");
    assert!(wan_bytes < (mib << 20) / 100, "{wan_bytes} bytes crossed the WAN");
    lab.compare(&[last]);
    let peak = |place: &NodePlace| peak_rss_mib(lab.nodes[place].id());
    let peak_mib = peak(&last);
    let holders_mib = holders.iter().map(peak).fold(0.0, f64::max);
    let cpu = cpu_seconds(lab.nodes[&last].id()) * 1024.0 / mib as f64;
    println!("{mib} MiB from {neighbours} neighbours in {seconds:.1} s, {:.0} MB/s", mib as f64 * 1.048_576 / seconds);
    println!("peak RSS of the node that fetches: {peak_mib:.1} MiB (at most {PEAK_MIB_MAX}), {cpu:.2} CPU-s per GiB");
    println!("peak RSS of those that serve: {holders_mib:.1} MiB at most");
    peak_mib <= PEAK_MIB_MAX && holders_mib <= PEAK_MIB_MAX
}

/// Deploys the package to all that are online, and waits until `wanted` have run the step; bytes that came from neighbours.
fn deploy(lab: &Lab, release: u32, wanted: &[NodePlace]) -> u64 {
    for place in wanted {
        // That of the release before, if there is one.
        let _ = fs::remove_file(lab.stamp(*place));
    }
    let id = lab.deploy(&format!(
        "name: lab\nrelease: {release}\npackages:\n  data: {{ feed: lab, id: package.bin }}\n\
         targets: [{{ select: all, packages: [data] }}]\nsteps:\n- {}\n",
        lab.stamp_step()
    ));
    let status = until_seen("the deployment is over", LONG, || {
        let status = lab.json(&["status", &id]);
        if status["stage"] == "done" { Ok(status) } else { Err(format!("{status:#}")) }
    });
    assert_eq!(status["state"], "succeeded", "{status:#}");
    assert!(wanted.iter().all(|place| lab.stamp(*place).exists()), "the step has run everywhere");
    status["sites"][0]["peer_bytes"].as_u64().expect("a site says what its nodes had from each other")
}

/// Gives a node that was never started the packages of one that is stopped.
fn share(from: &Path, to: &Path) {
    let link = |from: &Path, to: &Path| fs::hard_link(from, to).expect("both are on one disk");
    // An index is written to.
    let copy = |from: &Path, to: &Path| _ = fs::copy(from, to).expect("an index is small");
    each_file(&from.join("packages"), &to.join("packages"), &link);
    each_file(&from.join("recipes"), &to.join("recipes"), &link);
    each_file(&from.join("index"), &to.join("index"), &copy);
}

/// Makes the folders of `from` in `to`, and has each file put there.
fn each_file(from: &Path, to: &Path, put: &dyn Fn(&Path, &Path)) {
    fs::create_dir_all(to).expect("there is room for a folder");
    for entry in fs::read_dir(from).expect("a node has a store") {
        let entry = entry.expect("a folder can be listed");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("an entry has a type").is_dir() {
            true => each_file(&entry.path(), &target, put),
            false => put(&entry.path(), &target),
        }
    }
}
