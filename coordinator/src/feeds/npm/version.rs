//! Versions and ranges of npm, as its own command line reads them: `^1.2`, `~1.2.3`, `1.x`, `>=1 <2`, `1.2 - 1.4`, `1 || 2`.
//!
//! Grammar: <https://github.com/npm/node-semver#range-grammar>. The crate `semver` reads Cargo's ranges, in which `1.2` and
//! blanks mean something else. `nodejs-semver` 7.0, which reads npm's, takes `1.2.3.4` and `01.2.3` for 1.2.3 and `1.2.3-a..b`
//! for `1.2.3-a`, and `node-semver` brings two parsers: what is deployed is not guessed.

use std::cmp::Ordering;

/// Numbers are below 2^53 there.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// A version. Ordered as Semantic Versioning 2.0.0 has it (11); what stands behind a `+` is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    numbers: [u64; 3],
    /// The identifiers of a version before its release.
    pre: Vec<Identifier>,
}

/// Numbers are before texts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Text(String),
}

/// Any of several sets, of which all comparators hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range(Vec<Vec<Comparator>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Comparator {
    operator: Operator,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A version of which the last numbers may be left open.
struct Partial {
    numbers: Vec<u64>,
    pre: Vec<Identifier>,
}

impl Version {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Partial::parse(text).filter(|partial| partial.numbers.len() == 3).map(|partial| partial.least())
    }

    fn of(numbers: [u64; 3]) -> Self {
        Self { numbers, pre: Vec::new() }
    }

    /// Before every version with these numbers.
    fn before(numbers: [u64; 3]) -> Self {
        Self { numbers, pre: vec![Identifier::Number(0)] }
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let released = self.pre.is_empty().cmp(&other.pre.is_empty());
        self.numbers.cmp(&other.numbers).then(released).then_with(|| self.pre.cmp(&other.pre))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Partial {
    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix(['v', '=']).unwrap_or(text);
        let text = text.split_once('+').map_or(text, |(version, _)| version);
        let (numbers, pre) = text.split_once('-').map_or((text, None), |(numbers, pre)| (numbers, Some(pre)));
        let parts: Vec<&str> = numbers.split('.').collect();
        let open = parts.iter().position(|part| matches!(*part, "x" | "X" | "*" | "")).unwrap_or(parts.len());
        let numbers = parts[..open].iter().map(|part| number(part)).collect::<Option<Vec<_>>>()?;
        let rest_is_open = parts[open..].iter().all(|part| matches!(*part, "x" | "X" | "*" | "")) && parts.len() <= 3;
        let pre = match pre {
            Some(_) if numbers.len() < 3 => return None,
            Some(pre) => pre.split('.').map(Identifier::parse).collect::<Option<_>>()?,
            None => Vec::new(),
        };
        rest_is_open.then_some(Self { numbers, pre })
    }

    fn numbers(&self) -> [u64; 3] {
        [0, 1, 2].map(|index| self.numbers.get(index).copied().unwrap_or(0))
    }

    /// The first version that it means.
    fn least(self) -> Version {
        Version { numbers: self.numbers(), pre: self.pre }
    }

    /// Before what first the numbers up to the one at `index`, and no more, are no longer the same.
    fn end(&self, index: usize) -> Version {
        let mut numbers = [0; 3];
        numbers[..=index].copy_from_slice(&self.numbers()[..=index]);
        numbers[index] += 1;
        Version::before(numbers)
    }

    /// From the first to the last version that it means.
    fn span(self) -> Vec<Comparator> {
        match self.numbers.len().checked_sub(1) {
            None => at_least(Version::of([0; 3])),
            Some(2) => {
                let version = self.least();
                vec![
                    Comparator { operator: Operator::GreaterOrEqual, version: version.clone() },
                    Comparator { operator: Operator::LessOrEqual, version },
                ]
            }
            Some(last) => {
                let end = self.end(last);
                between(self.least(), end)
            }
        }
    }

    /// `~`: the last number may grow that is beside the first two.
    fn tilde(self) -> Vec<Comparator> {
        match self.numbers.len() {
            0 => at_least(Version::of([0; 3])),
            len => {
                let end = self.end((len - 1).min(1));
                between(self.least(), end)
            }
        }
    }

    /// `^`: all may grow behind the first number that is not 0.
    fn caret(self) -> Vec<Comparator> {
        if self.numbers.is_empty() {
            return at_least(Version::of([0; 3]));
        }
        let first = self.numbers.iter().position(|number| *number > 0).unwrap_or(self.numbers.len() - 1);
        let end = self.end(first);
        between(self.least(), end)
    }
}

impl Identifier {
    fn parse(text: &str) -> Option<Self> {
        let good = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        match number(text) {
            Some(number) => Some(Self::Number(number)),
            None => good.then(|| Self::Text(text.to_owned())),
        }
    }
}

impl Range {
    /// A range; none if `text` is no range, but perhaps a tag.
    pub(super) fn parse(text: &str) -> Option<Self> {
        text.split("||").map(|set| set_of(set.trim())).collect::<Option<_>>().map(Self)
    }

    /// Whether it has `version`. One before its release counts only where the range names one of the same release.
    pub(super) fn has(&self, version: &Version) -> bool {
        let named = |comparator: &Comparator| {
            comparator.version.numbers == version.numbers && !comparator.version.pre.is_empty()
        };
        self.0.iter().any(|set| {
            set.iter().all(|comparator| comparator.holds(version))
                && (version.pre.is_empty() || set.iter().filter(|one| !one.is_end()).any(named))
        })
    }
}

impl Comparator {
    fn holds(&self, version: &Version) -> bool {
        let order = version.cmp(&self.version);
        match self.operator {
            Operator::Less => order.is_lt(),
            Operator::LessOrEqual => order.is_le(),
            Operator::Greater => order.is_gt(),
            Operator::GreaterOrEqual => order.is_ge(),
        }
    }

    /// Whether it is the end that a shorter form was given, which nobody wrote.
    fn is_end(&self) -> bool {
        self.operator == Operator::Less && self.version.pre == [Identifier::Number(0)]
    }
}

fn at_least(version: Version) -> Vec<Comparator> {
    vec![Comparator { operator: Operator::GreaterOrEqual, version }]
}

fn between(version: Version, end: Version) -> Vec<Comparator> {
    [at_least(version), vec![Comparator { operator: Operator::Less, version: end }]].concat()
}

/// Comparators that all have to hold: `1.2 - 1.4`, or several with blanks between.
fn set_of(text: &str) -> Option<Vec<Comparator>> {
    if let Some((from, to)) = text.split_once(" - ") {
        let (from, to) = (Partial::parse(from.trim())?, Partial::parse(to.trim())?);
        let last = to.span().pop()?;
        // `1 - *` has no end.
        let end = if last.operator == Operator::GreaterOrEqual { Vec::new() } else { vec![last] };
        return Some([at_least(from.least()), end].concat());
    }
    // A blank may stand between an operator and its version.
    let mut joined = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !joined.is_empty() && !joined.ends_with(['<', '>', '=', '~', '^']) {
            joined.push(' ');
        }
        joined.push_str(word);
    }
    let words = joined.split(' ').map(comparators_of);
    words.collect::<Option<Vec<_>>>().map(|all| all.concat())
}

fn comparators_of(word: &str) -> Option<Vec<Comparator>> {
    let of = |prefix: &str| word.strip_prefix(prefix).map(Partial::parse);
    if let Some(partial) = of("^") {
        return Some(partial?.caret());
    }
    if let Some(partial) = of("~>").or_else(|| of("~")) {
        return Some(partial?.tilde());
    }
    let operators = [
        (">=", Operator::GreaterOrEqual),
        ("<=", Operator::LessOrEqual),
        (">", Operator::Greater),
        ("<", Operator::Less),
    ];
    for (prefix, operator) in operators {
        if let Some(partial) = of(prefix) {
            return Some(compared(operator, partial?));
        }
    }
    Some(Partial::parse(word)?.span())
}

/// A comparison with a version of which numbers may be open: `>1.2` is what comes after all of 1.2.
fn compared(operator: Operator, partial: Partial) -> Vec<Comparator> {
    let open = partial.numbers.len() < 3;
    match (operator, partial.numbers.len().checked_sub(1)) {
        (Operator::GreaterOrEqual | Operator::LessOrEqual, None) => at_least(Version::of([0; 3])),
        // Nothing is below or above everything.
        (_, None) => vec![Comparator { operator: Operator::Less, version: Version::before([0; 3]) }],
        (Operator::Greater, Some(last)) if open => {
            let end = Version { pre: Vec::new(), ..partial.end(last) };
            at_least(end)
        }
        (Operator::LessOrEqual, Some(last)) if open => {
            vec![Comparator { operator: Operator::Less, version: partial.end(last) }]
        }
        (Operator::Less, Some(_)) if open => {
            vec![Comparator { operator, version: Version::before(partial.numbers()) }]
        }
        _ => vec![Comparator { operator, version: partial.least() }],
    }
}

/// A number without zeros before it.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|number| plain && *number <= NUMBER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_semantic_versioning_has_it() {
        // Its own example (11), and numbers that are no texts.
        let order = [
            "0.9.9",
            "1.0.0-0",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.2.0",
            "1.10.0",
        ];
        let versions = order.map(|text| Version::parse(text).unwrap());
        assert!(versions.is_sorted_by(|one, next| one < next));
        assert_eq!(Version::parse("v1.2.3+build.5"), Version::parse("=1.2.3"));
        for bad in
            ["1", "1.2", "1.2.x", "01.2.3", "1.2.3-", "1.2.3-a..b", "1.2.3.4", "a.b.c", "", "1.2.99999999999999999"]
        {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
    }

    /// Cases of npm's own documentation of ranges.
    #[test]
    fn ranges_mean_what_npm_documents() {
        let table: [(&str, &[&str], &[&str]); 26] = [
            (">=1.2.7 <1.3.0", &["1.2.7", "1.2.8", "1.2.99"], &["1.2.6", "1.3.0", "1.1.0"]),
            ("1.2.7 || >=1.2.9 <2.0.0", &["1.2.7", "1.2.9", "1.4.6"], &["1.2.8", "2.0.0"]),
            (">1.2.3-alpha.3", &["1.2.3-alpha.7", "3.4.5"], &["3.4.5-alpha.9", "1.2.3-alpha.3"]),
            ("1.2.3 - 2.3.4", &["1.2.3", "2.3.4"], &["1.2.2", "2.3.5"]),
            ("1.2 - 2.3.4", &["1.2.0"], &["1.1.9"]),
            ("1.2.3 - 2.3", &["2.3.9"], &["2.4.0", "2.4.0-0"]),
            ("1.2.3 - 2", &["2.9.9"], &["3.0.0"]),
            ("*", &["0.0.0", "9.9.9"], &["1.0.0-rc.1"]),
            ("", &["1.0.0"], &[]),
            ("1.x", &["1.0.0", "1.9.0"], &["2.0.0", "2.0.0-0", "1.0.0-rc.1"]),
            ("1.2.*", &["1.2.9"], &["1.3.0"]),
            ("1", &["1.9.9"], &["2.0.0"]),
            ("~1.2.3", &["1.2.3", "1.2.9"], &["1.3.0", "1.2.2"]),
            ("~1.2", &["1.2.0"], &["1.3.0"]),
            ("~1", &["1.9.0"], &["2.0.0"]),
            ("~0.2.3", &["0.2.4"], &["0.3.0"]),
            ("~1.2.3-beta.2", &["1.2.3-beta.4", "1.2.4"], &["1.2.4-beta.2"]),
            ("^1.2.3", &["1.2.3", "1.9.0"], &["2.0.0", "2.0.0-alpha"]),
            ("^0.2.3", &["0.2.9"], &["0.3.0"]),
            ("^0.0.3", &["0.0.3"], &["0.0.4"]),
            ("^0.0.3-beta", &["0.0.3-pr.2", "0.0.3"], &["0.0.4"]),
            ("^1.2.x", &["1.2.0", "1.9.9"], &["2.0.0"]),
            ("^0.0", &["0.0.9"], &["0.1.0"]),
            ("^0.x", &["0.9.9"], &["1.0.0"]),
            ("> 1.2", &["1.3.0"], &["1.2.9", "1.3.0-rc.1"]),
            ("<=1.2 >= 1", &["1.2.9", "1.0.0"], &["1.3.0", "0.9.9"]),
        ];
        for (text, within, without) in table {
            let range = Range::parse(text).unwrap_or_else(|| panic!("{text}"));
            for version in within {
                assert!(range.has(&Version::parse(version).unwrap()), "{version} is in {text}");
            }
            for version in without {
                assert!(!range.has(&Version::parse(version).unwrap()), "{version} is not in {text}");
            }
        }
        for tag in ["latest", "next-1", "1.2.3.4", ">=a", "^", "1.2-beta"] {
            let found = Range::parse(tag);
            assert!(found.is_none() || tag == "^", "{tag}: {found:?}");
        }
    }
}
