//! Deployment files, planned.

use super::*;
use crate::manifest::{Offline, Probe, Quorum, Stragglers};
use crate::rollout::plan::{NodeFacts, resolve, sites};
use crate::rollout::spec::DeploymentSpec;

fn facts(number: u8, name_of_it: &str, site: &str, role: &str) -> NodeFacts {
    let labels = [("role".to_owned(), [role.to_owned()].into())].into();
    NodeFacts { id: node(number), name: name(name_of_it), site: name(site), labels }
}

fn mesh() -> Vec<NodeFacts> {
    vec![facts(1, "w1", "syd", "web"), facts(2, "w2", "osl", "web"), facts(3, "m1", "syd", "ml")]
}

/// A file with these parts; JSON is the subset of YAML that needs no YAML reader.
fn file(targets: &str, acquire: &str, before: &str, steps: &str) -> Result<Manifest, String> {
    let text = format!(
        r#"{{"name": "shop", "release": "1", "packages": {{"web": {{"feed": "f", "id": "Web"}}, "model": {{"url": "http://x/m"}}}},
            "targets": [{targets}], "acquire": {{{acquire}}}, "before_acquire": [{before}], "steps": [{steps}]}}"#
    );
    let spec: DeploymentSpec = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let packages = [package("web"), package("model")];
    resolve(&spec, DeploymentId(4), node(0), &mesh(), &packages).map_err(|error| error.to_string())
}

const TARGETS: &str = r#"{"select": "all", "packages": ["web", "model"]}"#;

fn with_step(step: &str) -> Result<Manifest, String> {
    file(TARGETS, "", "", step)
}

#[test]
fn a_file_becomes_a_manifest() {
    let targets = r#"{"select": "role=web", "packages": ["web"]}, {"select": "site=syd", "packages": ["model"]}"#;
    let acquire =
        r#""source": "coordinator", "quorum": "95%", "stragglers": "exclude", "after": "10m", "gate": "manual""#;
    let before = r#"{"name": "vpn", "on": "site", "run": "up", "always_after": "down", "timeout": "60s"}"#;
    let steps = r#"{"name": "go", "run": "x", "retries": 2, "on_failure": "fail", "idempotent": true},
        {"name": "up", "check": {"http": "http://127.0.0.1:80/", "expect": 204, "within": "20m"}},
        {"name": "port", "check": {"tcp": "127.0.0.1:80"}}"#;
    let manifest = file(targets, acquire, before, steps).unwrap();
    let order: Vec<_> = manifest.packages.iter().map(|package| package.name.to_string()).collect();
    assert_eq!(order, ["model", "web"], "sorted by name");
    let mut groups = manifest.groups.clone();
    groups.sort_by_key(|group| group.nodes.clone());
    let (model, web) = (PackageIndex(0), PackageIndex(1));
    let wanted = [(1, vec![model, web]), (2, vec![web]), (3, vec![model])];
    assert_eq!(groups, wanted.map(|(number, packages)| Group { nodes: vec![node(number)], packages }));
    let after = Duration::from_secs(600);
    let gate = Gate { quorum: Quorum::Percent(95), stragglers: Stragglers::ExcludeAfter(after), manual: true };
    assert_eq!(manifest.gate, gate);
    assert_eq!(manifest.acquire, Acquire { source: Source::Coordinator, swarm: true });
    let vpn = &manifest.before_acquire[0];
    assert_eq!((vpn.on, vpn.timeout, vpn.always_after.as_deref()), (On::Site, Duration::from_secs(60), Some("down")));
    let go = &manifest.steps[0];
    assert_eq!((go.retries, go.on_failure, go.idempotent), (2, OnFailure::Fail, true));
    let probe = Probe::Http { url: "http://127.0.0.1:80/".to_owned(), expect: 204 };
    assert_eq!(manifest.steps[1].action, Action::Check { probe, within: Duration::from_secs(1200) });
    assert!(manifest.steps[1].timeout > Duration::from_secs(1200), "the check gives up first");
    assert_eq!(sites(&manifest, &mesh())[&node(2)], name("osl"));
    assert_eq!(Options::for_targets(&manifest, &mesh(), false).names[&node(3)], name("m1"));
}

#[test]
fn a_package_is_unpacked_where_all_targets_get_it() {
    let manifest = with_step(r#"{"name": "u", "unpack": "web", "to": "/srv/web"}"#).unwrap();
    let unpack = Action::Unpack { package: PackageIndex(1), to: "/srv/web".to_owned(), keep: 3 };
    assert_eq!(manifest.steps[0].action, unpack);
    let some = r#"{"select": "role=web", "packages": ["web"]}, {"select": "role=ml", "packages": ["model"]}"#;
    let error = file(some, "", "", r#"{"name": "u", "unpack": "web", "to": "/srv/web"}"#).unwrap_err();
    assert_eq!(error, "step `u`: 1 of the target nodes do not get package `web`: name it in their target");
}

#[test]
fn wrong_targets_and_gates_are_named() {
    let table = [
        (
            r#"{"select": "role=db", "packages": ["web", "model"]}"#,
            "",
            "target 1: `select: role=db` means none of the 3 nodes",
        ),
        (
            r#"{"select": "role=", "packages": ["web", "model"]}"#,
            "",
            "target 1: `select: role=`: column 6: a value is expected, not the end",
        ),
        ("", "", "`targets` is empty"),
        (r#"{"select": "all", "packages": ["web"]}"#, "", "package `model` goes to no target"),
        (
            r#"{"select": "all", "packages": ["web", "model", "modle"]}"#,
            "",
            "target 1: there is no package `modle` (is `model` meant?)",
        ),
        (TARGETS, r#""after": "1m""#, "acquire: `after` is for `stragglers: exclude`"),
        (TARGETS, r#""stragglers": "exclude""#, "acquire: `stragglers: exclude` needs to know when: add `after`"),
        (TARGETS, r#""stragglers": "exclude", "after": "1m""#, "acquire: with `quorum: 100%` there is no straggler"),
    ];
    for (targets, acquire, wanted) in table {
        let error = file(targets, acquire, "", "").unwrap_err();
        assert!(error.contains(wanted), "{error}\n{wanted}");
    }
}

#[test]
fn wrong_steps_are_named() {
    let table = [
        (r#""retries": 1"#, "it does nothing: add `run`, `unpack`, `template` or `check`"),
        (r#""run": "x", "unpack": "web", "to": "/a""#, "more than one of `run`, `unpack`, `template` and `check`"),
        (r#""run": " ""#, "its script is empty"),
        (r#""run": "x", "to": "/a""#, "`to` and `keep` are for `unpack`"),
        (r#""run": "x", "retries": 100"#, "`retries: 100`: at most 99 are allowed"),
        (r#""run": "x", "timeout": "0s""#, "`timeout` must be more than 0"),
        (r#""run": "x", "timeout": "8d""#, "`timeout` must be more than 0 and at most 7d"),
        (r#""run": "x", "always_after": "y""#, "`always_after` is for steps of `before_acquire`"),
        (r#""unpack": "web""#, "`unpack` needs a folder: add `to`"),
        (r#""unpack": "wbe", "to": "/a""#, "there is no package `wbe` (is `web` meant?)"),
        (r#""unpack": "web", "to": "srv""#, "`to: srv` is no absolute path"),
        (r#""unpack": "web", "to": "/srv/../etc""#, "`to: /srv/../etc` is no absolute path"),
        (r#""unpack": "web", "to": "/""#, "`to: /` is no absolute path"),
        (r#""unpack": "web", "to": "/a", "keep": 0"#, "`keep: 0`: 1 to 100 releases can stay"),
        (r#""unpack": "web", "to": "/a", "on": "coordinator""#, "not to the coordinator"),
        (r#""run": "x", "window": 0"#, "`window` of no node"),
        (r#""run": "x", "window": "25%", "sync": "barrier""#, "`window` has nodes start one after another"),
        (r#""run": "x", "window": 1, "on": "site""#, "`window` and `sync` are for steps on every node"),
        (r#""run": "x", "window": 1, "on": "always""#, "`window` and `sync` are for steps on every node"),
        (r#""run": "x", "retries": 1, "on": "always""#, "a step `on: always` is tried once"),
        (r#""run": "x", "backoff": "8d""#, "`backoff` is at most 7d"),
        (r#""check": {}"#, "`check` needs exactly one of `http` and `tcp`"),
        (r#""check": {"http": "http://a", "tcp": "a:1"}"#, "`check` needs exactly one of `http` and `tcp`"),
        (r#""check": {"http": "localhost"}"#, "`http: localhost` is no URL"),
        (r#""check": {"http": "http:///x"}"#, "`http: http:///x` is no URL"),
        (r#""check": {"http": "http://a", "expect": 20}"#, "`expect: 20` is no HTTP status"),
        (r#""check": {"tcp": "a"}"#, "`tcp: a` is no `host:port`"),
        (r#""check": {"tcp": "a:0"}"#, "`tcp: a:0` is no `host:port`"),
        (r#""check": {"tcp": "a:1", "expect": 200}"#, "`expect` is for `http`"),
        (r#""check": {"tcp": "a:1", "within": "2m"}, "timeout": "1m""#, "shorter than the check's `within`"),
    ];
    for (step, wanted) in table {
        let error = with_step(&format!(r#"{{"name": "it", {step}}}"#)).unwrap_err();
        assert!(error.starts_with("step `it`: ") && error.contains(wanted), "{error}\n{wanted}");
    }
    let unpack = r#"{"name": "it", "unpack": "web", "to": "/a"}"#;
    let error = file(TARGETS, "", unpack, "").unwrap_err();
    assert!(error.contains("no package is there before `acquire`"), "{error}");
    let twice = r#"{"name": "it", "run": "x"}"#;
    let error = file(TARGETS, "", twice, twice).unwrap_err();
    assert!(error.contains("step `it`: there are two steps of this name"), "{error}");
}

#[test]
fn what_becomes_of_nodes_that_are_away_is_read() {
    let offline = |text: &str| {
        let file = format!(r#"{{"name": "shop", "release": "1", "targets": [{{"select": "all"}}], {text}}}"#);
        let spec: DeploymentSpec = serde_json::from_str(&file).unwrap();
        let manifest = resolve(&spec, DeploymentId(4), node(0), &mesh(), &[]);
        manifest.map(|manifest| manifest.offline).map_err(|error| error.to_string())
    };
    let (after, until) = (Duration::from_secs(600), Duration::from_secs(24 * 3600));
    assert_eq!(offline(r#""offline": "wait""#), Ok(Offline::Wait));
    assert_eq!(offline(r#""offline": "skip", "offline_after": "10m""#), Ok(Offline::SkipAfter(after)));
    assert_eq!(offline(r#""offline": "fail", "offline_after": "10m""#), Ok(Offline::FailAfter(after)));
    assert_eq!(offline(r#""offline": "catch_up", "offline_after": "10m""#), Ok(Offline::CatchUp { after, until }));
    let table = [
        (r#""offline": "skip""#, "add `offline_after`"),
        (r#""offline_after": "10m""#, "`offline: wait` is for ever"),
        (r#""offline": "skip", "offline_after": "10m", "offline_until": "1h""#, "is for `offline: catch_up`"),
        (r#""offline": "catch_up", "offline_after": "10m", "offline_until": "1m""#, "is before `offline_after`"),
    ];
    for (text, wanted) in table {
        let error = offline(text).unwrap_err();
        assert!(error.contains(wanted), "{error}\n{wanted}");
    }
}

#[test]
fn sizes_are_bounded() {
    let long = format!(r#"{{"name": "it", "run": "{}"}}"#, "x".repeat(70_000));
    assert!(with_step(&long).unwrap_err().contains("put it into a package"));
    let scripts = |count: usize| {
        let steps = (0..count).map(|i| format!(r#"{{"name": "s{i}", "run": "{}"}}"#, "x".repeat(60_000)));
        with_step(&steps.collect::<Vec<_>>().join(","))
    };
    assert!(scripts(30).is_ok());
    assert!(scripts(40).unwrap_err().contains("the deployment is too large"));
    let many: Vec<_> = (0..257).map(|i| format!(r#"{{"name": "s{i}", "run": "x"}}"#)).collect();
    assert!(with_step(&many.join(",")).unwrap_err().contains("257 steps, but at most 256 are allowed"));
}

#[test]
fn packages_that_steps_could_not_tell_apart_are_refused() {
    let text = r#"{"name": "shop", "release": "1", "packages": {"a-b": {"url": "x"}, "a.b": {"url": "x"}},
        "targets": [{"select": "all", "packages": ["a-b", "a.b"]}]}"#;
    let spec: DeploymentSpec = serde_json::from_str(text).unwrap();
    let plan = |packages: &[Package]| resolve(&spec, DeploymentId(4), node(0), &mesh(), packages);
    let error = plan(&[package("a-b"), package("a.b")]).unwrap_err().to_string();
    assert_eq!(error, "packages `a-b` and `a.b` are both `SHOAL_PACKAGE_A_B` for steps: rename one");
    let error = plan(&[package("a-b")]).unwrap_err().to_string();
    assert_eq!(error, "package `a.b` is not resolved: look it up first");
}

/// The waves of a file for four nodes, by the numbers of their nodes, lane by lane.
type Named = (String, Vec<Vec<u16>>);

fn waves(text: &str) -> Result<Vec<Named>, String> {
    let file = format!(
        r#"{{"name": "shop", "release": "1", "targets": [{{"select": "role=web"}}], "waves": [{text}],
            "steps": [{{"name": "go", "run": "x"}}]}}"#
    );
    let spec: DeploymentSpec = serde_json::from_str(&file).map_err(|error| error.to_string())?;
    let nodes = [
        facts(1, "d", "syd", "web"),
        facts(2, "c", "osl", "web"),
        facts(3, "b", "syd", "web"),
        facts(4, "a", "osl", "web"),
        facts(5, "x", "lab", "ml"),
    ];
    let manifest = resolve(&spec, DeploymentId(4), node(0), &nodes, &[]).map_err(|error| error.to_string())?;
    let lane = |lane: &Vec<crate::id::TargetIndex>| lane.iter().map(|place| place.0 + 1).collect();
    let wave = |wave: &crate::manifest::Wave| (wave.name.to_string(), wave.lanes.iter().map(lane).collect());
    Ok(manifest.waves.iter().map(wave).collect())
}

#[test]
fn waves_take_nodes_by_name_each_from_what_is_left() {
    let wave = |name: &str, lanes: &[&[u16]]| (name.to_owned(), lanes.iter().map(|lane| lane.to_vec()).collect());
    let table = [
        (
            r#"{"name": "canary", "select": "site=syd", "count": 1, "bake": "10m"}, {"name": "rest"}"#,
            vec![wave("canary", &[&[3]]), wave("rest", &[&[1, 2, 4]])],
        ),
        (
            r#"{"name": "tenth", "count": "10%"}, {"name": "half", "count": "50%"}, {"name": "rest"}"#,
            vec![wave("tenth", &[&[4]]), wave("half", &[&[2, 3]]), wave("rest", &[&[1]])],
        ),
        (r#"{"name": "sites", "per": "site", "max_parallel": 1}"#, vec![wave("sites", &[&[2, 4], &[1, 3]])]),
        (
            r#"{"name": "one-each", "per": "site", "count": 1}, {"name": "rest"}"#,
            vec![wave("one-each", &[&[4], &[3]]), wave("rest", &[&[1, 2]])],
        ),
        (r#"{"name": "all"}, {"name": "nobody"}"#, vec![wave("all", &[&[1, 2, 3, 4]])]),
        ("", vec![]),
    ];
    for (text, wanted) in table {
        assert_eq!(waves(text).unwrap(), wanted, "{text}");
    }
}

#[test]
fn wrong_waves_are_named() {
    let table = [
        (r#"{"name": "w", "select": "site=syd"}"#, "2 target nodes are in no wave: add a last one for the rest"),
        (r#"{"name": "w", "select": "role=ml"}"#, "wave `w`: `select: role=ml` means none of the 4 target nodes"),
        (r#"{"name": "w", "select": "site="}"#, "wave `w`: `select: site=`: column 6: a value is expected"),
        (r#"{"name": "w", "count": 0}, {"name": "x"}"#, "wave `w`: `count` of no node"),
        (r#"{"name": "w", "count": "0%"}, {"name": "x"}"#, "wave `w`: `count` of no node"),
        (r#"{"name": "w", "max_parallel": 2}"#, "wave `w`: `max_parallel` is for `per: site`"),
        (r#"{"name": "w", "per": "site", "max_parallel": 0}"#, "wave `w`: `max_parallel: 0` would never begin"),
        (r#"{"name": "w", "bake": "10m"}"#, "wave `w`: `bake` comes before the next wave, and this is the last"),
        (r#"{"name": "w", "bake": "8d"}, {"name": "x"}"#, "wave `w`: `bake` is at most 7d"),
        (r#"{"name": "w", "count": 1}, {"name": "w"}"#, "wave `w`: there are two waves of this name"),
        (r#"{"name": "w", "max_failures": "2.5%"}"#, "`2.5%` is no number of nodes"),
    ];
    for (text, wanted) in table {
        let error = waves(text).unwrap_err();
        assert!(error.contains(wanted), "{error}\n{wanted}");
    }
}
