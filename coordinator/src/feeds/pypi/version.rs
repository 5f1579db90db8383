//! Versions and version specifiers of Python packages (PEP 440): `~=1.4`, `>=1,<2`, `==1.4.*`, `!=1.5`.
//!
//! <https://packaging.python.org/specifications/version-specifiers/>.

use std::cmp::Ordering;

/// A version in its normal form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    epoch: u64,
    /// Without zeros at its end.
    release: Vec<u64>,
    phase: Phase,
    local: Vec<Local>,
}

/// What comes before and after a release, in order: `.dev1`, `a1`, `b1`, `rc1`, nothing, `.post1`, each perhaps with `.dev` of
/// its own, which is before it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Phase {
    pre: Pre,
    /// None is before every number.
    post: Option<u64>,
    dev: Dev,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pre {
    /// Only a `.dev` of the release itself: before all that are numbered.
    OnlyDev,
    Alpha(u64),
    Beta(u64),
    Candidate(u64),
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Dev {
    Number(u64),
    None,
}

/// A part of what stands behind a `+`: texts are before numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Local {
    Text(String),
    Number(u64),
}

/// Specifiers that all have to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Specifiers(Vec<Specifier>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Specifier {
    operator: Operator,
    version: Version,
    /// As many numbers as were written, for `~=` and `.*`.
    written: Vec<u64>,
    /// It ends with `.*`.
    any: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Compatible,
    LessOrEqual,
    GreaterOrEqual,
    Less,
    Greater,
}

/// Longest first, since some begin like others.
const OPERATORS: [(&str, Operator); 8] = [
    ("===", Operator::Equal),
    ("~=", Operator::Compatible),
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl Version {
    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::read(text).map(|(version, _)| version)
    }

    /// A version, and the numbers of its release as they were written.
    fn read(text: &str) -> Option<(Self, Vec<u64>)> {
        let lower = text.trim().to_ascii_lowercase();
        let text = lower.strip_prefix('v').unwrap_or(&lower);
        let (public, local) = text.split_once('+').map_or((text, None), |(public, local)| (public, Some(local)));
        let local = match local {
            Some(local) => local.split(['.', '-', '_']).map(Local::parse).collect::<Option<_>>()?,
            None => Vec::new(),
        };
        let (epoch, rest) = match public.split_once('!') {
            Some((epoch, rest)) => (number(epoch)?, rest),
            None => (0, public),
        };
        let mut rest = Rest(rest);
        let mut written = vec![rest.number()?];
        while let Some(next) = rest.after(&["."]).and_then(|mut next| Some((next.number()?, next))) {
            written.push(next.0);
            rest = next.1;
        }
        let pre = rest.marked(&["alpha", "a", "beta", "b", "preview", "pre", "rc", "c"]);
        let post = rest.marked(&["post", "rev", "r"]).map(|(_, number)| number).or_else(|| rest.implicit_post());
        let dev = rest.marked(&["dev"]).map(|(_, number)| number);
        if !rest.0.is_empty() {
            return None;
        }
        let pre = match pre {
            Some(("alpha" | "a", number)) => Pre::Alpha(number),
            Some(("beta" | "b", number)) => Pre::Beta(number),
            Some((_, number)) => Pre::Candidate(number),
            None if post.is_none() && dev.is_some() => Pre::OnlyDev,
            None => Pre::Released,
        };
        let last = written.iter().rposition(|number| *number > 0).map_or(1, |last| last + 1);
        let phase = Phase { pre, post, dev: dev.map_or(Dev::None, Dev::Number) };
        Some((Self { epoch, release: written[..last].to_vec(), phase, local }, written))
    }

    /// Whether it comes before a release, so that it is taken only if somebody asks for such.
    pub(super) fn is_pre(&self) -> bool {
        self.phase.pre != Pre::Released || self.phase.dev != Dev::None
    }

    fn public(&self) -> Self {
        Self { local: Vec::new(), ..self.clone() }
    }

    /// Whether its release begins with these numbers.
    fn begins(&self, epoch: u64, numbers: &[u64]) -> bool {
        let of = |index: usize| self.release.get(index).copied().unwrap_or(0);
        self.epoch == epoch && numbers.iter().enumerate().all(|(index, number)| of(index) == *number)
    }

    fn is_same_release(&self, other: &Self) -> bool {
        (self.epoch, &self.release) == (other.epoch, &other.release)
    }
}

impl Local {
    fn parse(text: &str) -> Option<Self> {
        let good = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        number(text).map(Self::Number).or_else(|| good.then(|| Self::Text(text.to_owned())))
    }
}

/// What is left to read of a version.
#[derive(Clone, Copy)]
struct Rest<'t>(&'t str);

impl<'t> Rest<'t> {
    fn number(&mut self) -> Option<u64> {
        let len = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = self.0.split_at(len);
        self.0 = rest;
        number(digits)
    }

    fn after(self, starts: &[&str]) -> Option<Self> {
        starts.iter().find_map(|start| self.0.strip_prefix(start)).map(Self)
    }

    /// A word such as `rc` with its number, 0 if there is none; separators may stand before and between.
    fn marked(&mut self, words: &[&'static str]) -> Option<(&'static str, u64)> {
        const SEPARATORS: [&str; 3] = [".", "-", "_"];
        let bare = self.after(&SEPARATORS).unwrap_or(*self);
        let (word, rest) = words.iter().find_map(|word| Some((*word, bare.after(&[word])?)))?;
        let mut numbered = rest.after(&SEPARATORS).unwrap_or(rest);
        let (number, rest) = match numbered.number() {
            Some(number) => (number, numbered),
            None => (0, rest),
        };
        *self = rest;
        Some((word, number))
    }

    /// `1.0-1` is `1.0.post1`.
    fn implicit_post(&mut self) -> Option<u64> {
        let mut rest = self.after(&["-"])?;
        let number = rest.number()?;
        *self = rest;
        Some(number)
    }
}

impl Specifiers {
    /// Specifiers; none if `text` begins with no operator or cannot be read.
    pub(super) fn parse(text: &str) -> Option<Self> {
        text.split(',').map(|one| Specifier::parse(one.trim())).collect::<Option<Vec<_>>>().map(Self)
    }

    /// Whether all hold for `version`.
    pub(super) fn have(&self, version: &Version) -> bool {
        self.0.iter().all(|specifier| specifier.has(version))
    }

    /// Whether they name one version: `==1.4`.
    pub(super) fn name_one(&self) -> bool {
        matches!(&self.0[..], [Specifier { operator: Operator::Equal, any: false, .. }])
    }

    /// Whether they ask for versions before a release, by naming one.
    pub(super) fn allow_pre(&self) -> bool {
        self.0.iter().any(|one| one.version.is_pre() && one.operator != Operator::NotEqual)
    }
}

impl Specifier {
    fn parse(text: &str) -> Option<Self> {
        let (operator, rest) =
            OPERATORS.iter().find_map(|(sign, operator)| Some((*operator, text.strip_prefix(sign)?)))?;
        let rest = rest.trim();
        let (rest, any) = rest.strip_suffix(".*").map_or((rest, false), |rest| (rest, true));
        let (version, written) = Version::read(rest)?;
        let good = match operator {
            Operator::Compatible => written.len() > 1 && !any,
            Operator::Equal | Operator::NotEqual => true,
            _ => !any,
        };
        good.then_some(Self { operator, version, written, any })
    }

    fn has(&self, version: &Version) -> bool {
        let public = version.public();
        let order = public.cmp(&self.version);
        match self.operator {
            Operator::Equal => self.equals(version),
            Operator::NotEqual => !self.equals(version),
            Operator::Compatible => {
                order != Ordering::Less && version.begins(self.version.epoch, &self.written[..self.written.len() - 1])
            }
            Operator::LessOrEqual => order != Ordering::Greater,
            Operator::GreaterOrEqual => order != Ordering::Less,
            // What is before or after the release that is named is not meant by it, unless such is named.
            Operator::Less => {
                let before_it = version.is_pre() && !self.version.is_pre() && version.is_same_release(&self.version);
                order == Ordering::Less && !before_it
            }
            Operator::Greater => {
                let same = version.is_same_release(&self.version);
                let after_it = version.phase.post.is_some() && self.version.phase.post.is_none() && same;
                order == Ordering::Greater && !after_it
            }
        }
    }

    fn equals(&self, version: &Version) -> bool {
        if self.any {
            return version.begins(self.version.epoch, &self.written);
        }
        // A local part counts only where one is named.
        if self.version.local.is_empty() { version.public() == self.version } else { *version == self.version }
    }
}

fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn versions_are_ordered_as_pep_440_has_it() {
        // Its own examples of an order.
        let order = [
            "1.0.dev456",
            "1.0a1",
            "1.0a2.dev456",
            "1.0a12.dev456",
            "1.0a12",
            "1.0b1.dev456",
            "1.0b2",
            "1.0b2.post345.dev456",
            "1.0b2.post345",
            "1.0rc1.dev456",
            "1.0rc1",
            "1.0",
            "1.0+abc.5",
            "1.0+abc.7",
            "1.0+5",
            "1.0.post456.dev34",
            "1.0.post456",
            "1.0.15",
            "1.1.dev1",
            "1.10",
            "2013.10",
            "1!1.0",
        ];
        let versions = order.map(version);
        for pair in versions.windows(2) {
            assert!(pair[0] < pair[1], "{pair:?}");
        }
        for (one, other) in [
            ("1.0", "1"),
            ("1.1RC1", "1.1-rc.1"),
            ("1.0-alpha", "1.0a0"),
            ("1.0-1", "1.0.post1"),
            ("v1.0rev4", "1.0.post4"),
            ("1.0.0+Ubuntu_1", "1.0+ubuntu.1"),
            ("1.0c3", "1.0rc3"),
            ("1.00.dev", "1.0dev0"),
        ] {
            assert_eq!(version(one), version(other), "{one} {other}");
        }
        for bad in ["", "a", "1.", "1..2", "1.0rc1x", "1.0+", "1.0-", "1!", "latest", "1.0.*"] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn specifiers_mean_what_pep_440_documents() {
        let table: [(&str, &[&str], &[&str]); 12] = [
            ("~=2.2", &["2.2", "2.9.1", "2.2.post3"], &["3.0", "2.1", "2.2rc1"]),
            ("~=1.4.5", &["1.4.5", "1.4.9"], &["1.5", "1.4.4"]),
            ("~=2.2.post3", &["2.2.post3", "2.3"], &["2.2", "3"]),
            ("==1.1", &["1.1", "1.1.0", "1.1+local"], &["1.1.post1", "1.1a1", "1.1.1"]),
            ("==1.1.*", &["1.1", "1.1.post1", "1.1a1", "1.1.9"], &["1.2", "1"]),
            ("==1.1+one", &["1.1+one"], &["1.1", "1.1+two"]),
            ("!=1.1.*", &["1.2"], &["1.1.5"]),
            (">=1, <2", &["1", "1.9.9"], &["2", "0.9", "2.0rc1", "1!1.5"]),
            (">1.7", &["1.7.1", "1.8"], &["1.7", "1.7.0.post1", "1.7+x"]),
            (">1.7.post2", &["1.7.1", "1.7.post3"], &["1.7", "1.7.post2"]),
            ("<=1.7,!=1.5", &["1.7", "1.4", "1.7+x"], &["1.5", "1.7.1"]),
            ("===1.0", &["1.0"], &["1.1"]),
        ];
        for (text, within, without) in table {
            let specifiers = Specifiers::parse(text).unwrap_or_else(|| panic!("{text}"));
            for one in within {
                assert!(specifiers.have(&version(one)), "{one} is in {text}");
            }
            for one in without {
                assert!(!specifiers.have(&version(one)), "{one} is not in {text}");
            }
        }
        for bad in ["1.0", "~=1", ">=1.*", "latest", "", "==", ">=1,", "~=1.*"] {
            assert_eq!(Specifiers::parse(bad), None, "{bad}");
        }
        assert!(Specifiers::parse(">=1.0rc1").unwrap().allow_pre() && !Specifiers::parse(">=1").unwrap().allow_pre());
    }
}
