//! Templates: `{{ port }}` in scripts and files, filled in with a deployment's variables and with what earlier steps wrote.
//!
//! What is not defined is an error, never an empty text. In a script, a value is inserted as it is only if a shell reads it
//! as one plain word: others are written `{{ motd | quote }}`, since a value may come from another machine. A secret is
//! not inserted into a script at all, because everybody on the machine can see the arguments of processes; scripts have it
//! in their environment. A comment begins with `{//`, since `{#` stands in every other shell script.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Object, Value};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};

/// Steps of the template engine for one text, so that a loop comes to an end: enough for a hundred thousand values.
const FUEL: u64 = 1_000_000;

/// What a template is filled in with.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// Variables that anybody may see.
    pub plain: &'a BTreeMap<String, String>,
    /// The others.
    pub secret: &'a BTreeMap<String, String>,
    /// What earlier steps wrote, as `outputs.key`; `None` before any ran, where each key counts as there.
    pub outputs: Option<&'a BTreeMap<String, String>>,
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
    template.render(context(values)).map_err(|error| told(&error))
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
    let outputs = match values.outputs {
        Some(outputs) => Value::from_serialize(outputs),
        None => Value::from_object(AnyOutput),
    };
    variables.chain([("outputs".to_owned(), outputs)]).collect()
}

/// Whether a shell reads a text as one word and nothing else.
fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c))
}

/// A text that a shell reads as one word.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Stands for outputs that are not known yet: each is there.
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

    fn rendered(text: &str, purpose: Purpose, outputs: Option<&[(&str, &str)]>) -> Result<String, String> {
        let (plain, secret) = (map(&[("port", "8080"), ("motd", "it's $HOME")]), map(&[("password", "hunter2")]));
        let outputs = outputs.map(map);
        let values = Values { plain: &plain, secret: &secret, outputs: outputs.as_ref() };
        render(text, values, purpose).map_err(|error| error.to_string())
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
            ("echo {{ outputs.size }} {{ port | default('1') }}", "echo 12 8080"),
        ];
        for (text, wanted) in table {
            assert_eq!(rendered(text, Purpose::Script, Some(&[("size", "12")])).as_deref(), Ok(wanted), "{text}");
        }
        let file = rendered("motd = {{ motd }}\npassword = {{ password }}\n", Purpose::File, Some(&[]));
        assert_eq!(file.as_deref(), Ok("motd = it's $HOME\npassword = hunter2\n"));
    }

    #[test]
    fn what_cannot_be_filled_in_is_an_error_with_its_line() {
        let table = [
            ("a\n{{ prot }}", "line 2: it names a variable or an output that there is not"),
            ("{{ outputs.sice }}", "line 1: it names a variable or an output that there is not"),
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
            let error = rendered(text, Purpose::Script, Some(&[("size", "12")])).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        let hostile = rendered("echo {{ outputs.size }}", Purpose::Script, Some(&[("size", "$(reboot)")]));
        assert!(hostile.unwrap_err().contains("no plain word"), "what another machine wrote is not run");
    }

    #[test]
    fn before_any_step_every_output_counts_as_there_and_variables_are_checked() {
        assert!(rendered("{{ outputs.any }} {{ port }}", Purpose::Script, None).is_ok());
        assert!(rendered("{{ outputs.any }} {{ prot }}", Purpose::Script, None).is_err());
    }
}
