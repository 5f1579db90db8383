//! Templates: `{{ port }}` in scripts and files, filled in with a deployment's variables and with what earlier steps wrote.
//!
//! What is not defined is an error, never an empty text. In a script, a value is inserted as it is only if a shell reads it
//! as one plain word: others are written `{{ motd | quote }}`, since a value may come from another machine. A secret is
//! not inserted into a script at all, because everybody on the machine can see the arguments of processes; scripts have it
//! in their environment. A comment begins with `{//`, since `{#` stands in every other shell script.

use std::collections::{BTreeMap, HashSet};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Object, Value};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use shoal_proto::id::Name;
use shoal_proto::outputs::Named;

/// Steps of the template engine for one text, so that a loop comes to an end: enough for a hundred thousand values.
const FUEL: u64 = 1_000_000;

/// What a template is filled in with.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// Variables that anybody may see.
    pub plain: &'a BTreeMap<String, String>,
    /// The others.
    pub secret: &'a BTreeMap<String, String>,
    /// What earlier steps wrote, as `outputs.step.key`.
    pub outputs: Outputs<'a>,
}

/// What earlier steps wrote, or are going to write. A step's name may be written with `_` where it has something else than
/// letters and digits, which would be read as arithmetic: `outputs.db_migrate.version`, or `outputs["db-migrate"].version`.
#[derive(Clone, Copy, Debug)]
pub enum Outputs<'a> {
    /// What they wrote.
    Written(&'a Named),
    /// The names of the steps that come before, when none ran yet: whatever key is named counts as there.
    Of(&'a [&'a Name]),
}

/// What a text is rendered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A shell reads it.
    Script,
    /// It is written to a file.
    File,
}

/// Why a text cannot be rendered: the line, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(String);

/// `text` with values in place of their names.
///
/// # Errors
/// [`TemplateError`].
pub fn render(text: &str, values: Values<'_>, purpose: Purpose) -> Result<String, TemplateError> {
    // What has no place for a value is what it is, whatever else stands in it.
    if !text.contains("{{") && !text.contains("{%") {
        return Ok(text.to_owned());
    }
    let engine = engine(purpose).map_err(|error| told(&error))?;
    let template = engine.template_from_str(text).map_err(|error| told(&error))?;
    let named = template.undeclared_variables(false);
    if let Some(name) = named.iter().find(|name| purpose == Purpose::Script && values.secret.contains_key(*name)) {
        let variable = format!("$SHOAL_VAR_{}", name.to_ascii_uppercase());
        return Err(TemplateError(format!(
            "`{name}` is a secret, and others can see a script's text while it runs: write `\"{variable}\"`"
        )));
    }
    if let Outputs::Of(steps) = values.outputs {
        check_steps(&template.undeclared_variables(true), steps)?;
    }
    template.render(context(values)).map_err(|error| told(&error))
}

/// Names the step whose outputs are asked for and that is not there or too late.
fn check_steps(named: &HashSet<String>, steps: &[&Name]) -> Result<(), TemplateError> {
    let asked = named.iter().filter_map(|name| name.strip_prefix("outputs."));
    let asked = asked.map(|path| path.split_once('.').map_or(path, |(step, _)| step));
    let known = |step: &str| steps.iter().any(|name| name.as_str() == step || plain(name) == step);
    // Of several, the first by name, whatever order they are found in.
    match asked.filter(|step| !known(step)).min() {
        None => Ok(()),
        Some(step) => {
            let steps: Vec<_> = steps.iter().map(|name| format!("`{name}`")).collect();
            let steps = if steps.is_empty() { "none does".to_owned() } else { format!("{} do", steps.join(", ")) };
            Err(TemplateError(format!(
                "`outputs.{step}`: no step `{step}` comes before this one and writes where it is seen here: {steps}; what \
                 one wrote is `outputs.STEP.KEY`"
            )))
        }
    }
}

/// A step's name as a template may write it.
fn plain(name: &Name) -> String {
    name.as_str().chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect()
}

fn engine(purpose: Purpose) -> Result<Environment<'static>, Error> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_keep_trailing_newline(true);
    engine.set_fuel(Some(FUEL));
    engine.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    engine.set_syntax(SyntaxConfig::builder().comment_delimiters("{//", "//}").build()?);
    engine.add_filter("quote", |text: String| Value::from_safe_string(quoted(&text)));
    engine.set_formatter(move |out, _, value| {
        let text = value.to_string();
        if purpose == Purpose::Script && !value.is_safe() && !is_word(&text) {
            let cause =
                "the value is no plain word for a shell: write `{{ … | quote }}`, or `| safe` to insert it as it is";
            return Err(Error::new(ErrorKind::InvalidOperation, cause));
        }
        out.write_str(&text).map_err(Error::from)
    });
    Ok(engine)
}

fn context(values: Values<'_>) -> Value {
    let variables = values.plain.iter().chain(values.secret);
    let variables = variables.map(|(name, text)| (name.clone(), Value::from(text.as_str())));
    variables.chain([("outputs".to_owned(), outputs(values.outputs))]).collect()
}

fn outputs(outputs: Outputs<'_>) -> Value {
    let steps: Vec<(&Name, Value)> = match outputs {
        Outputs::Written(written) => {
            written.iter().map(|(step, outputs)| (step, Value::from_serialize(outputs))).collect()
        }
        Outputs::Of(steps) => steps.iter().map(|step| (*step, Value::from_object(AnyOutput))).collect(),
    };
    let plain = steps.iter().map(|(step, value)| (plain(step), value.clone()));
    let exact = steps.iter().map(|(step, value)| (step.to_string(), value.clone()));
    plain.chain(exact).collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// Whether a shell reads a text as one word and nothing else.
fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c))
}

/// A text that a shell reads as one word.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Stands for a step's outputs that are not known yet: each is there.
#[derive(Debug)]
struct AnyOutput;

impl Object for AnyOutput {
    fn get_value(self: &std::sync::Arc<Self>, _: &Value) -> Option<Value> {
        Some(Value::from("0"))
    }
}

fn told(error: &Error) -> TemplateError {
    let line = error.line().map_or_else(String::new, |line| format!("line {line}: "));
    let cause = match (error.kind(), error.detail()) {
        (ErrorKind::UndefinedError, None) => "it names a variable or an output that there is not".to_owned(),
        (ErrorKind::OutOfFuel, _) => "it does not come to an end".to_owned(),
        (ErrorKind::SyntaxError, Some(detail)) => {
            format!("{detail}; what is not meant for templates stands between `{{% raw %}}` and `{{% endraw %}}`")
        }
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    };
    TemplateError(line + &cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn rendered_with(text: &str, purpose: Purpose, outputs: Outputs<'_>) -> Result<String, String> {
        let (plain, secret) = (map(&[("port", "8080"), ("motd", "it's $HOME")]), map(&[("password", "hunter2")]));
        render(text, Values { plain: &plain, secret: &secret, outputs }, purpose).map_err(|error| error.to_string())
    }

    fn rendered(text: &str, purpose: Purpose) -> Result<String, String> {
        let outputs = vec![(name("db-size"), map(&[("size", "12"), ("hostile", "$(reboot)")]))];
        rendered_with(text, purpose, Outputs::Written(&outputs))
    }

    #[test]
    fn values_stand_in_the_place_of_their_names() {
        let table = [
            ("no place for a value ${#x} {# \n", "no place for a value ${#x} {# \n"),
            ("run --port {{ port }}\n", "run --port 8080\n"),
            ("echo ${#PATH} {{ port }} {// gone //}#}", "echo ${#PATH} 8080 #}"),
            ("{% if port == '8080' %}a{% else %}b{% endif %}", "a"),
            ("echo {{ motd | quote }}", r"echo 'it'\''s $HOME'"),
            ("echo \"{{ motd | safe }}\"", "echo \"it's $HOME\""),
            ("docker ps --format '{% raw %}{{.Names}}{% endraw %}'", "docker ps --format '{{.Names}}'"),
            ("echo {{ outputs.db_size.size }} {{ port | default('1') }}", "echo 12 8080"),
            ("echo {{ outputs['db-size'].size }}", "echo 12"),
        ];
        for (text, wanted) in table {
            assert_eq!(rendered(text, Purpose::Script).as_deref(), Ok(wanted), "{text}");
        }
        let file = rendered("motd = {{ motd }}\npassword = {{ password }}\n", Purpose::File);
        assert_eq!(file.as_deref(), Ok("motd = it's $HOME\npassword = hunter2\n"));
    }

    #[test]
    fn what_cannot_be_filled_in_is_an_error_with_its_line() {
        let table = [
            ("a\n{{ prot }}", "line 2: it names a variable or an output that there is not"),
            ("{{ outputs.db_size.sice }}", "line 1: it names a variable or an output that there is not"),
            ("{{ outputs.size }}", "line 1: it names a variable or an output that there is not"),
            ("{{ motd }}", "line 1: the value is no plain word for a shell"),
            ("{{ password }}", "`password` is a secret"),
            ("{{ password | quote }}", "`password` is a secret"),
            (
                "{{ 'x' ~ password }}",
                "`password` is a secret, and others can see a script's text while it runs: write `\"$SHOAL_VAR_PASSWORD\"`",
            ),
            ("{{.Names}}", "what is not meant for templates stands between `{% raw %}` and `{% endraw %}`"),
            (
                "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}",
                "it does not come to an end",
            ),
        ];
        for (text, wanted) in table {
            let error = rendered(text, Purpose::Script).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        let hostile = rendered("echo {{ outputs.db_size.hostile }}", Purpose::Script);
        assert!(hostile.unwrap_err().contains("no plain word"), "what another machine wrote is not run");
    }

    #[test]
    fn before_any_step_what_steps_may_write_counts_as_there_and_all_else_is_checked() {
        let (migrate, size) = (name("migrate"), name("db-size"));
        let rendered = |text: &str| rendered_with(text, Purpose::Script, Outputs::Of(&[&migrate, &size]));
        for text in
            ["{{ outputs.migrate.any }} {{ port }}", "{{ outputs.db_size.any }}", "{{ outputs['db-size'].any }}"]
        {
            assert_eq!(rendered(text).map(drop), Ok(()), "{text}");
        }
        assert!(rendered("{{ outputs.migrate.any }} {{ prot }}").is_err());
        let unknown = "`outputs.migrat`: no step `migrat` comes before this one and writes where it is seen here: \
                       `migrate`, `db-size` do; what one wrote is `outputs.STEP.KEY`";
        assert_eq!(rendered("{{ outputs.migrat.any }}"), Err(unknown.to_owned()));
        assert!(rendered("{{ outputs['migrat'].any }}").is_err(), "also where the name is a text");
        assert!(rendered("{{ outputs.size }}").unwrap_err().contains("outputs.STEP.KEY"));
        let none = rendered_with("{{ outputs.migrate.any }}", Purpose::Script, Outputs::Of(&[]));
        assert!(none.unwrap_err().contains("seen here: none does"));
    }
}
