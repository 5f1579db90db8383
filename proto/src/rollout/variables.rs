//! Variables of a deployment file: which value each target node, and the coordinator, sees.
//!
//! The nearest scope wins: what the operator gives with the command, then a node's own entry, then that of a selector, then
//! that of its site, then the one for all. Two selectors that give a node different values are an error, since their order
//! would be a trap. A variable that has a secret value anywhere is secret everywhere; secrets are kept apart from all
//! else, so that what goes into the journal and to other nodes does not have them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::nearest::nearest;
use super::plan::{NodeFacts, PlanError, traits};
use super::select::Selector;
use super::spec::VariableSpec;
use crate::codec;
use crate::id::NodeId;
use crate::limits::{SECRET_BYTES_MIN, VARIABLE_BYTES_MAX, VARIABLES_BYTES_MAX, VARIABLES_MAX};

/// The value of a variable where it is known, or where it is found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Value {
    /// As it is.
    Plain(String),
    /// The secret at this place of [`Settled::secrets`].
    Secret(u16),
}

/// Variables by name, as one machine sees them.
pub type Set = BTreeMap<String, Value>;

/// What every machine sees, without the secrets' own text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variables {
    /// Distinct sets.
    pub sets: Vec<Set>,
    /// Which set each target node sees.
    pub set_of: BTreeMap<NodeId, u16>,
    /// What steps on the coordinator see: what is for all, and what the operator gave.
    pub own: Set,
    /// What stands for each secret in a plan's hash: made by who knows them, useless to who does not.
    pub prints: Vec<[u8; 32]>,
}

/// Variables, settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// What every machine sees.
    pub variables: Variables,
    /// The secrets.
    pub secrets: Vec<String>,
}

/// What one machine is told of a deployment's variables.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Those that anybody may see.
    pub plain: BTreeMap<String, String>,
    /// The others; their values are masked in all that is written.
    pub secret: BTreeMap<String, String>,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let secret: Vec<&String> = self.secret.keys().collect();
        f.debug_struct("Told").field("plain", &self.plain).field("secret", &secret).finish()
    }
}

impl Variables {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.own.is_empty() && self.sets.iter().all(Set::is_empty)
    }

    /// What `node` sees; the coordinator's own set for no node.
    pub fn set(&self, node: Option<NodeId>) -> Option<&Set> {
        let Some(node) = node else { return Some(&self.own) };
        self.sets.get(usize::from(*self.set_of.get(&node)?))
    }

    /// Lets one node more see what all see, where all see the same.
    pub fn admit(&mut self, node: NodeId) {
        if self.sets.len() == 1 {
            self.set_of.entry(node).or_default();
        }
    }

    /// What a machine is told; nothing where a secret is missing.
    pub fn told(&self, node: Option<NodeId>, secrets: &[String]) -> Option<Told> {
        let mut told = Told::default();
        for (name, value) in self.set(node)? {
            match value {
                Value::Plain(text) => told.plain.insert(name.clone(), text.clone()),
                Value::Secret(index) => told.secret.insert(name.clone(), secrets.get(usize::from(*index))?.clone()),
            };
        }
        Some(told)
    }
}

/// The text of one entry, whichever way it was given.
fn text<'a>(spec: &'a VariableSpec, files: &'a BTreeMap<String, String>) -> Option<&'a String> {
    spec.value.as_ref().or_else(|| files.get(spec.value_file.as_ref()?))
}

/// What the file's entries and the operator's own values come to on `nodes`, the target nodes; `files` are the texts of
/// the files that entries name.
///
/// # Errors
/// [`PlanError::File`] and [`PlanError::Variable`].
pub fn settle(
    specs: &[VariableSpec],
    given: &BTreeMap<String, String>,
    files: &BTreeMap<String, String>,
    nodes: &[&NodeFacts],
) -> Result<Settled, PlanError> {
    check(specs, given, files)?;
    let entries = specs.iter().map(Entry::of).collect::<Result<Vec<_>, _>>()?;
    let secret: BTreeSet<&str> = specs.iter().filter(|spec| spec.is_secret()).map(|spec| spec.name.as_str()).collect();
    let names: BTreeSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let mut keeper = Keeper { secret, settled: Settled::default() };
    let mut known = BTreeMap::<Set, u16>::new();
    for node in nodes {
        let mut set = Set::new();
        for name in &names {
            if let Some(text) =
                given.get(*name).map_or_else(|| of_node(&entries, name, files, node), |text| Ok(Some(text)))?
            {
                set.insert((*name).to_owned(), keeper.keep(name, text));
            }
        }
        let number =
            u16::try_from(known.len()).map_err(|_| PlanError::File("too many distinct variables".to_owned()))?;
        let number = *known.entry(set).or_insert(number);
        keeper.settled.variables.set_of.insert(node.id, number);
    }
    for name in &names {
        let for_all = specs.iter().find(|spec| spec.name == **name && spec.scope() == Scope::All);
        if let Some(text) = given.get(*name).or_else(|| text(for_all?, files)) {
            let value = keeper.keep(name, text);
            keeper.settled.variables.own.insert((*name).to_owned(), value);
        }
    }
    let mut sets: Vec<_> = known.into_iter().collect();
    sets.sort_by_key(|(_, number)| *number);
    keeper.settled.variables.sets = sets.into_iter().map(|(set, _)| set).collect();
    let size = codec::encode(&keeper.settled.variables, VARIABLES_BYTES_MAX);
    size.map_err(|error| PlanError::File(format!("the distinct values of variables are too many: {error}")))?;
    Ok(keeper.settled)
}

struct Keeper<'a> {
    secret: BTreeSet<&'a str>,
    settled: Settled,
}

impl Keeper<'_> {
    fn keep(&mut self, name: &str, text: &str) -> Value {
        if !self.secret.contains(name) {
            return Value::Plain(text.to_owned());
        }
        let secrets = &mut self.settled.secrets;
        let index = secrets.iter().position(|known| known == text).unwrap_or_else(|| {
            secrets.push(text.to_owned());
            secrets.len() - 1
        });
        Value::Secret(u16::try_from(index).expect("there are fewer values than that"))
    }
}

/// For which machines an entry is, the nearest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    All,
    Site,
    Select,
    Node,
}

impl VariableSpec {
    fn scope(&self) -> Scope {
        match (&self.node, &self.select, &self.site) {
            (Some(_), ..) => Scope::Node,
            (None, Some(_), _) => Scope::Select,
            (None, None, Some(_)) => Scope::Site,
            (None, None, None) => Scope::All,
        }
    }

    fn is_secret(&self) -> bool {
        self.secret || self.value_file.is_some()
    }
}

/// An entry of the file with its selector, if it has one.
struct Entry<'a> {
    spec: &'a VariableSpec,
    selector: Option<Selector>,
}

impl<'a> Entry<'a> {
    fn of(spec: &'a VariableSpec) -> Result<Self, PlanError> {
        let parsed = |text: &String| text.parse().map_err(|error| variable(spec, format!("`select: {text}`: {error}")));
        Ok(Self { spec, selector: spec.select.as_ref().map(parsed).transpose()? })
    }

    fn means(&self, node: &NodeFacts) -> bool {
        match self.spec.scope() {
            Scope::All => true,
            Scope::Site => self.spec.site.as_ref() == Some(&node.site),
            Scope::Node => self.spec.node.as_ref() == Some(&node.name),
            Scope::Select => self.selector.as_ref().is_some_and(|selector| selector.matches(traits(node))),
        }
    }
}

/// The value that the file gives a variable on a node, if any.
fn of_node<'a>(
    entries: &[Entry<'a>],
    name: &str,
    files: &'a BTreeMap<String, String>,
    node: &NodeFacts,
) -> Result<Option<&'a String>, PlanError> {
    let mut best: Option<(Scope, &VariableSpec, &String)> = None;
    for entry in entries.iter().filter(|entry| entry.spec.name == name && entry.means(node)) {
        let spec = entry.spec;
        let Some(text) = text(spec, files) else { continue };
        match best {
            Some((scope, other, known)) if scope == spec.scope() && known != text => {
                let (one, two) = (other.select.as_deref().unwrap_or("all"), spec.select.as_deref().unwrap_or("all"));
                let cause = format!("`{one}` and `{two}` give node `{}` different values: make them apart", node.name);
                return Err(variable(spec, cause));
            }
            Some((scope, ..)) if scope >= spec.scope() => {}
            _ => best = Some((spec.scope(), spec, text)),
        }
    }
    Ok(best.map(|(_, _, text)| text))
}

fn variable(spec: &VariableSpec, cause: String) -> PlanError {
    PlanError::Variable { name: spec.name.clone(), cause }
}

fn check(
    specs: &[VariableSpec],
    given: &BTreeMap<String, String>,
    files: &BTreeMap<String, String>,
) -> Result<(), PlanError> {
    if specs.len() > VARIABLES_MAX {
        let cause = format!("{} variables, but at most {VARIABLES_MAX} are allowed", specs.len());
        return Err(PlanError::File(cause));
    }
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    if let Some(name) = given.keys().find(|name| !names.contains(&name.as_str())) {
        let meant = nearest(name, &names).map_or_else(String::new, |name| format!(" (is `{name}` meant?)"));
        let cause = format!("the file does not have it: add `- {{ name: {name} }}` to `variables`{meant}");
        return Err(PlanError::Variable { name: name.clone(), cause });
    }
    for spec in specs {
        check_form(spec, files)?;
        if spec.value.is_none() && spec.value_file.is_none() && !given.contains_key(&spec.name) {
            return Err(variable(spec, format!("it has no value: give it with `-V {}=…`", spec.name)));
        }
        let secret = specs.iter().any(|other| other.name == spec.name && other.is_secret());
        let texts = given.get(&spec.name).into_iter().chain(text(spec, files));
        for text in texts {
            if text.len() > VARIABLE_BYTES_MAX || text.contains('\0') {
                let cause = format!("its value has over {VARIABLE_BYTES_MAX} bytes, or a NUL: put it into a package");
                return Err(variable(spec, cause));
            }
            if secret && text.len() < SECRET_BYTES_MIN {
                let cause =
                    format!("a secret of fewer than {SECRET_BYTES_MIN} letters cannot be masked: it is in every text");
                return Err(variable(spec, cause));
            }
        }
    }
    Ok(())
}

fn check_form(spec: &VariableSpec, files: &BTreeMap<String, String>) -> Result<(), PlanError> {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let named_well = spec.name.starts_with(|c: char| c.is_ascii_lowercase()) && spec.name.chars().all(letters);
    if !named_well || spec.name == "outputs" {
        return Err(variable(spec, "its name is small letters, digits and `_`, and not `outputs`".to_owned()));
    }
    if spec.value.is_some() && spec.value_file.is_some() {
        return Err(variable(spec, "it has both `value` and `value_file`: remove one".to_owned()));
    }
    if let Some(path) = spec.value_file.as_ref().filter(|path| !files.contains_key(*path)) {
        return Err(variable(spec, format!("`value_file: {path}` was not read")));
    }
    let scopes = [spec.site.is_some(), spec.select.is_some(), spec.node.is_some()];
    if scopes.iter().filter(|scope| **scope).count() > 1 {
        return Err(variable(
            spec,
            "it has more than one of `site`, `select` and `node`: make an entry of each".to_owned(),
        ));
    }
    Ok(())
}
