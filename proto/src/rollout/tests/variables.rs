//! Which value a variable has where.

use super::*;
use crate::rollout::plan::NodeFacts;
use crate::rollout::spec::VariableSpec;
use crate::rollout::variables::{Settled, settle};

/// What stands behind `-V`.
type Given = &'static [(&'static str, &'static str)];

fn facts(number: u8, name_of_it: &str, site: &str, labels: &[(&str, &str)]) -> NodeFacts {
    let label = |(key, value): &(&str, &str)| ((*key).to_owned(), [(*value).to_owned()].into());
    NodeFacts { id: node(number), name: name(name_of_it), site: name(site), labels: labels.iter().map(label).collect() }
}

fn mesh() -> [NodeFacts; 3] {
    [
        facts(1, "w1", "syd", &[("role", "web"), ("gpu", "yes")]),
        facts(2, "w2", "osl", &[("role", "web")]),
        facts(3, "m1", "syd", &[("role", "ml")]),
    ]
}

/// `entries` are those of `variables` in JSON, `given` what stands behind `-V`.
fn settled(entries: &str, given: &[(&str, &str)]) -> Result<Settled, String> {
    let specs: Vec<VariableSpec> = serde_json::from_str(&format!("[{entries}]")).map_err(|error| error.to_string())?;
    let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let files = [("/run/db".to_owned(), "hunter2".to_owned())].into();
    let mesh = mesh();
    settle(&specs, &given, &files, &mesh.iter().collect::<Vec<_>>()).map_err(|error| error.to_string())
}

/// What the three nodes and the coordinator see of `port`; `-` for nothing, secrets in brackets.
fn seen(entries: &str, given: &[(&str, &str)]) -> Result<String, String> {
    let Settled { variables, secrets } = settled(entries, given)?;
    let machines = [Some(node(1)), Some(node(2)), Some(node(3)), None];
    let of = |machine| {
        let told = variables.told(machine, &secrets)?;
        let secret = told.secret.get("port").map(|text| format!("[{text}]"));
        secret.or_else(|| told.plain.get("port").cloned())
    };
    Ok(machines.map(|machine| of(machine).unwrap_or_else(|| "-".to_owned())).join(" "))
}

#[test]
fn the_nearest_scope_wins_in_any_order() {
    let (all, site) = (r#"{"name": "port", "value": "80"}"#, r#"{"name": "port", "value": "81", "site": "syd"}"#);
    let select = r#"{"name": "port", "value": "82", "select": "role=web"}"#;
    let node = r#"{"name": "port", "value": "83", "node": "w1"}"#;
    let table: [(&[&str], Given, &str); 8] = [
        (&[all], &[], "80 80 80 80"),
        (&[site], &[], "81 - 81 -"),
        (&[all, site], &[], "81 80 81 80"),
        (&[site, all], &[], "81 80 81 80"),
        (&[select, all, site], &[], "82 82 81 80"),
        (&[node, select, site, all], &[], "83 82 81 80"),
        (&[all, site, select, node], &[("port", "90")], "90 90 90 90"),
        (&[r#"{"name": "port"}"#], &[("port", "90")], "90 90 90 90"),
    ];
    for (entries, given, wanted) in table {
        assert_eq!(seen(&entries.join(", "), given).as_deref(), Ok(wanted), "{entries:?} {given:?}");
    }
}

#[test]
fn a_variable_that_is_secret_anywhere_is_secret_everywhere_and_kept_apart() {
    let file = r#"{"name": "port", "value_file": "/run/db"}"#;
    assert_eq!(seen(file, &[]).as_deref(), Ok("[hunter2] [hunter2] [hunter2] [hunter2]"));
    let one =
        r#"{"name": "port", "value": "hunter3", "secret": true, "node": "w1"}, {"name": "port", "value": "port-80"}"#;
    assert_eq!(seen(one, &[]).as_deref(), Ok("[hunter3] [port-80] [port-80] [port-80]"));
    assert_eq!(seen(file, &[("port", "hunter4")]).as_deref(), Ok("[hunter4] [hunter4] [hunter4] [hunter4]"));
    let Settled { variables, secrets } = settled(one, &[]).unwrap();
    assert_eq!(secrets, ["hunter3", "port-80"]);
    let kept = format!("{variables:?}");
    assert!(!kept.contains("hunter3") && !kept.contains("port-80"), "{kept}");
    assert_eq!(variables.told(Some(node(1)), &[]), None, "a secret that is lost is not an empty one");
    let told = format!("{:?}", variables.told(Some(node(1)), &secrets).unwrap());
    assert!(told.contains("port") && !told.contains("hunter3"), "{told}");
}

#[test]
fn machines_that_see_the_same_share_a_set() {
    let entries = r#"{"name": "port", "value": "80"}, {"name": "port", "value": "81", "site": "osl"}"#;
    let variables = settled(entries, &[]).unwrap().variables;
    assert_eq!(variables.sets.len(), 2);
    assert_eq!(variables.set(Some(node(1))), variables.set(Some(node(3))));
    assert_eq!(variables.set(Some(node(9))), None, "only target nodes see any");
}

#[test]
fn mistakes_name_the_variable_and_the_next_step() {
    let web = r#"{"name": "port", "value": "80", "select": "role=web"}"#;
    let gpu = r#"{"name": "port", "value": "81", "select": "gpu=yes"}"#;
    let table: [(&str, Given, &str); 9] = [
        (
            web,
            &[("prot", "1")],
            "variable `prot`: the file does not have it: add `- { name: prot }` to `variables` (is `port` meant?)",
        ),
        (r#"{"name": "port"}"#, &[], "variable `port`: it has no value: give it with `-V port=…`"),
        (r#"{"name": "Port", "value": "1"}"#, &[], "its name is small letters"),
        (r#"{"name": "outputs", "value": "1"}"#, &[], "its name is small letters"),
        (r#"{"name": "port", "value": "1", "value_file": "/run/db"}"#, &[], "both `value` and `value_file`"),
        (
            r#"{"name": "port", "value": "1", "site": "syd", "node": "w1"}"#,
            &[],
            "more than one of `site`, `select` and `node`",
        ),
        (r#"{"name": "port", "value": "1", "select": "role="}"#, &[], "variable `port`: `select: role=`: "),
        (r#"{"name": "port", "value": "abc", "secret": true}"#, &[], "cannot be masked"),
        (r#"{"name": "port", "value": "1", "wher": "syd"}"#, &[], "unknown field `wher`"),
    ];
    for (entries, given, wanted) in table {
        let error = settled(entries, given).unwrap_err();
        assert!(error.contains(wanted), "{error}\nis not\n{wanted}");
    }
    let both = settled(&format!("{web}, {gpu}"), &[]).unwrap_err();
    assert!(both.contains("`role=web` and `gpu=yes` give node `w1` different values"), "{both}");
    let same = settled(&format!("{web}, {}", gpu.replace("81", "80")), &[]);
    assert!(same.is_ok(), "{same:?}");
}
