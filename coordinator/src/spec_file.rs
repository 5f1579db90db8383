//! Deployment files: YAML as people write it, read into [`DeploymentSpec`].
//!
//! Only the file's form is looked at, and told with its line: keys, types, units. What it refers to is checked when the
//! deployment is planned.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::{Error, Location, Spanned};
use shoal_proto::rollout::spec::{DeploymentSpec, known_keys};

use crate::input_file::{FileError, Problem, problem_of, read_text};

/// Reads the deployment file at `path`.
///
/// # Errors
/// Every [`FileError`].
pub fn load(path: &Path) -> Result<DeploymentSpec, FileError> {
    parse(&read_text(path)?, path)
}

/// Reads `text`, which came from the file at `path`.
///
/// # Errors
/// [`FileError::Line`].
pub fn parse(text: &str, path: &Path) -> Result<DeploymentSpec, FileError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let error = error.without_snippet();
        let place = error.location().filter(|place| place.line() > 0);
        FileError::Line { path: path.to_owned(), line: place.map(|place| place.line()), problem: problem(error, text) }
    })
}

fn problem(error: &Error, text: &str) -> Problem {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let item = || error.location().and_then(|place| item_at(text, place)).unwrap_or_default();
    match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            Problem::UnknownKey { key: field.clone(), part: part(expected, item()), known: owned(expected) }
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            Problem::UnknownValue { value: variant.clone(), part: item(), known: owned(expected) }
        }
        Error::SerdeMissingField { field, .. } => Problem::MissingKey { key: (*field).to_owned(), part: item() },
        other => problem_of(&bare_message(other), &item()),
    }
}

/// The message without the place, which is told before it.
fn bare_message(error: &Error) -> String {
    let message = error.to_string();
    let first = message.lines().next().unwrap_or_default();
    let place = error.location().map(|place| format!(" at line {}, column {}", place.line(), place.column()));
    place.and_then(|place| first.strip_suffix(place.as_str())).unwrap_or(first).to_owned()
}

/// What a key that is none of `expected` stands in: the item, or a part of it or of the file that has a name of its own.
fn part(expected: &[&str], item: String) -> String {
    match ["acquire", "check", "deployment"].into_iter().find(|part| known_keys(part) == Some(expected)) {
        Some("deployment") => String::new(),
        Some("check") if !item.is_empty() => format!("`check` of {item}"),
        Some(part) => format!("`{part}`"),
        None => item,
    }
}

/// The file as far as it has items with names; whatever else is wrong with it.
#[derive(Deserialize)]
struct Items {
    #[serde(default)]
    packages: BTreeMap<String, Spanned<IgnoredAny>>,
    #[serde(default)]
    targets: Vec<Spanned<IgnoredAny>>,
    #[serde(default)]
    variables: Vec<Spanned<Named>>,
    acquire: Option<Spanned<IgnoredAny>>,
    #[serde(default)]
    before_acquire: Vec<Spanned<Named>>,
    #[serde(default)]
    steps: Vec<Spanned<Named>>,
    #[serde(default)]
    waves: Vec<Spanned<Named>>,
}

#[derive(Deserialize)]
struct Named {
    name: Option<String>,
}

/// The step, wave, package or target that `place` is in: the last that starts before it. None if the file's outline cannot be
/// read either.
fn item_at(text: &str, place: Location) -> Option<String> {
    let items: Items = serde_saphyr::from_str(text).ok()?;
    let position = |place: Location| (place.line(), place.column());
    let named = |what: &'static str| {
        move |item: &Spanned<Named>| {
            let name = item.value.name.as_ref();
            let name = name.map_or_else(|| format!("a {what} without a name"), |name| format!("{what} `{name}`"));
            (position(item.referenced), name)
        }
    };
    let steps = items.before_acquire.iter().chain(&items.steps).map(named("step"));
    let steps = steps.chain(items.waves.iter().map(named("wave")));
    let packages = items.packages.iter().map(|(name, item)| (position(item.referenced), format!("package `{name}`")));
    let targets = items.targets.iter().map(|item| (position(item.referenced), "a target".to_owned()));
    let acquire = items.acquire.iter().map(|item| (position(item.referenced), "`acquire`".to_owned()));
    let variables = items.variables.iter().map(|item| {
        let name = item.value.name.as_deref().map_or("a variable".to_owned(), |name| format!("variable `{name}`"));
        (position(item.referenced), name)
    });
    let before = steps
        .chain(packages)
        .chain(variables)
        .chain(targets)
        .chain(acquire)
        .filter(|(start, _)| *start <= position(place));
    before.max_by_key(|(start, _)| *start).map(|(_, item)| item)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_proto::manifest::{On, Share};

    use super::*;

    const FULL: &str = r#"name: storefront
release: 2026.11.3
packages:
  web:   { feed: nuget-main, id: Acme.Web, version: 4.2.1 }
  model: { url: "https://dl.example.com/model-8.bin" }
targets:
  - { select: "role=web", packages: [web] }
  - { select: "role=ml and site!=lab", packages: [web, model] }
acquire:
  source: feed
  quorum: 95%
  gate: auto
before_acquire:
  - { name: vpn, on: site, run: "wg-quick up branch", always_after: "wg-quick down branch", timeout: 60s }
steps:
  - { name: unpack, unpack: web, to: /srv/web, keep: 3 }
  - name: restart
    run: systemctl restart acme-web
    retries: 2
    timeout: 2m
    on_failure: pause
  - { name: health, check: { http: "http://127.0.0.1:8080/health", expect: 200, within: 60s } }
waves:
  - { name: canary, select: "site=syd", count: 1, bake: 10m }
  - { name: rest, max_failures: "2%" }
"#;

    fn read(text: &str) -> Result<DeploymentSpec, FileError> {
        parse(text, Path::new("deploy.yaml"))
    }

    fn error(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn a_full_file_is_read() {
        let spec = read(FULL).unwrap();
        assert_eq!(spec.release.as_str(), "2026.11.3");
        assert_eq!(spec.packages.len(), 2);
        assert_eq!(spec.before_acquire[0].on, On::Site);
        assert_eq!(spec.steps[1].timeout, Some(Duration::from_secs(120)));
        assert_eq!((spec.waves[0].count, spec.waves[1].max_failures), (Some(Share::Count(1)), Some(Share::Percent(2))));
        assert_eq!(spec.steps[2].check.as_ref().unwrap().expect, Some(200));
    }

    #[test]
    fn versions_that_look_like_numbers_stay_as_they_are_written() {
        let text = FULL.replace("version: 4.2.1", "version: 1.10").replace("2026.11.3", "2026.10");
        let spec = read(&text).unwrap();
        assert_eq!(spec.release.as_str(), "2026.10");
        assert_eq!(spec.packages.values().find_map(|package| package.version.as_deref()), Some("1.10"));
    }

    #[test]
    fn unknown_keys_name_line_place_and_nearest() {
        let table = [
            (
                FULL.replace("timeout: 2m", "tiemout: 2m"),
                "deploy.yaml:20: unknown key `tiemout` in step `restart`: did you mean `timeout`?",
            ),
            (
                FULL.replace("always_after", "alwaysafter"),
                "deploy.yaml:14: unknown key `alwaysafter` in step `vpn`: did you mean `always_after`?",
            ),
            (
                FULL.replace("within: 60s", "witin: 60s"),
                "deploy.yaml:22: unknown key `witin` in `check` of step `health`: did you mean `within`?",
            ),
            (
                FULL.replace("version:", "versoin:"),
                "deploy.yaml:4: unknown key `versoin` in package `web`: did you mean `version`?",
            ),
            (
                FULL.replace("  quorum", "  quorom"),
                "deploy.yaml:11: unknown key `quorom` in `acquire`: did you mean `quorum`?",
            ),
            (
                FULL.replace("  - { select: \"role=web\"", "  - { selct: \"role=web\""),
                "deploy.yaml:7: unknown key `selct` in a target: did you mean `select`?",
            ),
            (
                FULL.replace("max_failures", "max_failure"),
                "deploy.yaml:25: unknown key `max_failure` in wave `rest`: did you mean `max_failures`?",
            ),
            (
                FULL.replace("before_acquire:", "before_aquire:"),
                "deploy.yaml:13: unknown key `before_aquire`: did you mean `before_acquire`?",
            ),
            (
                FULL.replace("acquire:\n  source", "variables: [{ name: port, valeu: 80 }]\nacquire:\n  source"),
                "deploy.yaml:9: unknown key `valeu` in variable `port`: did you mean `value`?",
            ),
            (
                FULL.replace("on_failure: pause", "on_failure: pasue"),
                "deploy.yaml:21: unknown value `pasue` in step `restart`: did you mean `pause`?",
            ),
        ];
        for (text, wanted) in table {
            assert_eq!(error(&text), wanted);
        }
    }

    #[test]
    fn other_mistakes_name_their_line_and_cause() {
        let table = [
            (FULL.replace("timeout: 2m", "timeout: 2"), ":20: ", "`2` has no unit: write for instance `2s`"),
            (FULL.replace("name: storefront", "name: my shop"), ":1: ", "`my shop` is not a name"),
            (FULL.replace("quorum: 95%", "quorum: most"), ":11: ", "`most` is no quorum"),
            (FULL.replace("targets:\n", "targets\n"), ":", ""),
            (FULL.replace("release: 2026.11.3\n", ""), ":", "missing key `release`"),
            (FULL.replace("- { name: unpack,", "- {"), ":16: ", "missing key `name` in a step without a name"),
            (FULL.replace("retries: 2", "retries: 2\n    retries: 3"), ":20: ", "retries"),
            (String::new(), "", ""),
        ];
        for (text, line, wanted) in table {
            let error = error(&text);
            assert!(error.starts_with(&format!("deploy.yaml{line}")), "{error}");
            assert!(error.contains(wanted), "{error}\nis not\n{wanted}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
