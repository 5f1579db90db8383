//! Variables in what a step names: `${SHOAL_NODE}` in the folder of an `unpack`, or in what a `check` asks.
//!
//! The variables are those of Shoal that scripts see, with the same values. Only `${NAME}` is one: any other `$` stands for
//! itself. What comes out is checked like what was written by hand, so that no value leads out of where it may.

use std::collections::BTreeMap;
use std::ffi::OsString;

use shoal_proto::manifest::Probe;

/// Why a text cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExpandError {
    #[error("`{text}` has a `${{` without its `}}`")]
    Open { text: String },
    #[error("`{text}` has the variable `{name}`, which there is not: {known} are here")]
    Unknown { text: String, name: String, known: String },
    #[error("`{text}`: the value of `{name}` is no UTF-8")]
    NoText { text: String, name: String },
}

/// `text` with the values of `variables` in place of their names.
pub(super) fn expand(text: &str, variables: &BTreeMap<String, OsString>) -> Result<String, ExpandError> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or_else(|| ExpandError::Open { text: text.to_owned() })?;
        let value = variables.get(name).ok_or_else(|| ExpandError::Unknown {
            text: text.to_owned(),
            name: name.to_owned(),
            known: variables.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        })?;
        let no_text = || ExpandError::NoText { text: text.to_owned(), name: name.to_owned() };
        expanded.push_str(before);
        expanded.push_str(value.to_str().ok_or_else(no_text)?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// `probe` with the values of `variables`.
pub(super) fn expand_probe(probe: &Probe, variables: &BTreeMap<String, OsString>) -> Result<Probe, ExpandError> {
    Ok(match probe {
        Probe::Http { url, expect } => Probe::Http { url: expand(url, variables)?, expect: *expect },
        Probe::Tcp { address } => Probe::Tcp { address: expand(address, variables)? },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_variables_in_braces_are_replaced() {
        let variables: BTreeMap<String, OsString> =
            [("SHOAL_NODE".into(), "web-1".into()), ("SHOAL_SITE".into(), "${SHOAL_NODE}".into())].into();
        let table = [
            ("/srv/web", Ok("/srv/web")),
            ("/srv/${SHOAL_NODE}/x", Ok("/srv/web-1/x")),
            ("${SHOAL_NODE}${SHOAL_NODE}", Ok("web-1web-1")),
            ("/srv/$SHOAL_NODE/$x/}{", Ok("/srv/$SHOAL_NODE/$x/}{")),
            // A value is not looked into again.
            ("${SHOAL_SITE}", Ok("${SHOAL_NODE}")),
            ("/srv/${SHOAL_NODE", Err("`/srv/${SHOAL_NODE` has a `${` without its `}`")),
            ("${HOME}", Err("`${HOME}` has the variable `HOME`, which there is not: SHOAL_NODE, SHOAL_SITE are here")),
            ("${}", Err("`${}` has the variable ``, which there is not: SHOAL_NODE, SHOAL_SITE are here")),
        ];
        for (text, wanted) in table {
            let got = expand(text, &variables).map_err(|error| error.to_string());
            assert_eq!(got.as_deref().map_err(String::as_str), wanted, "{text}");
        }
    }
}
