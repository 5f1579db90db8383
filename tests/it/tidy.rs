//! The rules of structure, as tests: who may depend on whom, how long files and functions may grow, which words stay out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 70;

/// What `shoal-proto` and `shoal-simulations` must not contain, at any depth of their dependencies.
const IMPURE: [&str; 8] = ["tokio", "libp2p", "sled", "mio", "reqwest", "hyper", "socket2", "async-std"];

/// Words that say that something is not done, or is told as history.
const BANNED_WORDS: [&str; 6] = ["TODO", "FIXME", "XXX", "HACK", "todo!(", "unimplemented!("];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests' folder is in the workspace").to_path_buf()
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["proto", "node", "coordinator", "simulations", "tests"].iter().map(|name| root().join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 10, "the sources were not found");
    found
}

/// Names of every normal dependency of `package`, at any depth.
fn closure(package: &str) -> BTreeSet<String> {
    let run = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(run.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&run.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let names: BTreeMap<String, String> =
        metadata["packages"].as_array().unwrap().iter().map(|p| (text(&p["id"]), text(&p["name"]))).collect();
    let mut edges = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        let normal =
            |dep: &&serde_json::Value| dep["dep_kinds"].as_array().unwrap().iter().any(|k| k["kind"].is_null());
        let deps = node["deps"].as_array().unwrap().iter().filter(normal).map(|dep| text(&dep["pkg"]));
        edges.insert(text(&node["id"]), deps.collect::<Vec<_>>());
    }
    let start = names.iter().find(|(_, name)| *name == package).map(|(id, _)| id.clone()).unwrap();
    let mut seen = BTreeSet::from([start.clone()]);
    let mut next = vec![start];
    while let Some(id) = next.pop() {
        next.extend(edges[&id].iter().filter(|dep| seen.insert((*dep).clone())).cloned());
    }
    seen.iter().map(|id| names[id].clone()).collect()
}

#[test]
fn decisions_do_not_depend_on_the_world() {
    for package in ["shoal-proto", "shoal-simulations"] {
        let found: Vec<_> = closure(package).into_iter().filter(|name| IMPURE.contains(&name.as_str())).collect();
        assert!(found.is_empty(), "{package} depends on {found:?}");
    }
}

#[test]
fn dependencies_point_one_way() {
    let allowed: [(&str, &[&str]); 4] = [
        ("shoal-proto", &[]),
        ("shoal-node", &["shoal-proto"]),
        ("shoal-simulations", &["shoal-proto"]),
        ("shoal-coordinator", &["shoal-proto", "shoal-node", "shoal-simulations"]),
    ];
    for (package, may) in allowed {
        let own: Vec<_> = closure(package).into_iter().filter(|n| n.starts_with("shoal-") && n != package).collect();
        assert!(own.iter().all(|name| may.contains(&name.as_str())), "{package} depends on {own:?}");
    }
}

#[test]
fn third_party_risks_stay_in_their_files() {
    let homes: [(&str, &[&str]); 4] = [
        ("bincode", &["proto/src/codec.rs"]),
        ("sled", &["coordinator/src/journal.rs", "node/src/store/index.rs"]),
        ("libp2p_tls", &["node/src/net/tls.rs"]),
        ("libp2p", &["node/src/net/"]),
    ];
    for (path, text) in sources() {
        let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        for (risk, homes) in homes {
            let used = text.contains(&format!("{risk}::"));
            let at_home = homes.iter().any(|home| path.starts_with(home));
            assert!(!used || at_home || path.ends_with("tidy.rs"), "{path} uses {risk}, which belongs in {homes:?}");
        }
    }
}

#[test]
fn files_and_functions_stay_short() {
    let mut long = Vec::new();
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > FILE_LINES_MAX {
            long.push(format!("{}: {} lines", path.display(), lines.len()));
        }
        for (start, length) in functions(&lines) {
            if length > FUNCTION_LINES_MAX {
                long.push(format!("{}:{}: a function of {length} lines", path.display(), start + 1));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// Where functions start and how many lines they have; formatted code closes each at its own indentation.
fn functions(lines: &[&str]) -> Vec<(usize, usize)> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let opens = |line: &str| {
        let words = line.trim_start();
        [
            "fn ",
            "pub fn ",
            "async fn ",
            "pub async fn ",
            "pub(crate) fn ",
            "pub(super) fn ",
            "const fn ",
            "pub const fn ",
        ]
        .iter()
        .any(|start| words.starts_with(start))
    };
    let starts = lines.iter().enumerate().filter(|(_, line)| opens(line));
    let measure = |(start, line): (usize, &&str)| {
        let end = lines[start..].iter().position(|other| indent(other) == indent(line) && other.trim_start() == "}");
        (start, end.map_or(1, |length| length + 1))
    };
    starts.map(measure).collect()
}

#[test]
fn nothing_is_left_for_later() {
    for (path, text) in sources().into_iter().filter(|(path, _)| !path.ends_with("tidy.rs")) {
        for word in BANNED_WORDS {
            assert!(!text.contains(word), "{} says {word}", path.display());
        }
    }
}

#[test]
fn the_top_level_is_as_designed() {
    let tracked = Command::new("git").args(["ls-files"]).current_dir(root()).output();
    let Ok(tracked) = tracked.map(|run| String::from_utf8_lossy(&run.stdout).into_owned()) else {
        println!("not a git checkout: the top level is not checked");
        return;
    };
    let top: BTreeSet<&str> = tracked.lines().filter_map(|path| path.split('/').next()).collect();
    let designed =
        ["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "coordinator", "node", "proto", "simulations", "tests"];
    let other: Vec<_> = top.iter().filter(|name| !name.starts_with('.') && !designed.contains(name)).collect();
    assert!(other.is_empty(), "not in the design: {other:?}");
}

#[test]
fn functions_are_measured() {
    let text = "fn a() {\n    x();\n}\n\n    pub fn b() {\n        y();\n        z();\n    }\n";
    assert_eq!(functions(&text.lines().collect::<Vec<_>>()), [(0, 3), (4, 4)]);
}
