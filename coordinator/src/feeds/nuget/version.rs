//! NuGet's versions: how they are written, normalised and ordered, and which of them a floating one means.
//!
//! Rules: <https://learn.microsoft.com/nuget/concepts/package-versioning>. They are SemVer 2 with a fourth number, without
//! regard to case, and tolerant of missing numbers and leading zeros.

use std::cmp::Ordering;
use std::fmt;

/// A version. `Display` is its normalised form in lower case, as the flat container spells it; two that are equal are one
/// version to NuGet, whatever their build metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    numbers: [u32; 4],
    labels: Vec<String>,
}

/// Which versions are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// That one.
    Exactly(Version),
    /// Those whose first numbers are these, such as `4.2.*`; also those before a release whose labels begin so: `4.2.*-rc*`, or
    /// any with `-*`.
    Below { numbers: Vec<u32>, prefix: Option<String> },
    /// A release and what came before it, of the labels that begin so: `4.2.1-beta*`.
    Leading { numbers: [u32; 4], prefix: String },
    /// Those between two bounds: `[4.2,5.0)`.
    Between { low: Option<Bound>, high: Option<Bound> },
}

/// An end of an interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    version: Version,
    included: bool,
}

impl Version {
    /// Reads a version: one to four numbers, then perhaps labels and build metadata, which says nothing here.
    ///
    /// # Errors
    /// What to write instead.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no NuGet version: write for instance `4.2.1`, `4.2.1-beta.2` or `4.2.*`");
        let plain = text.trim().split('+').next().unwrap_or_default();
        let (numbers, labels) = plain.split_once('-').map_or((plain, None), |(numbers, rest)| (numbers, Some(rest)));
        let numbers = numbers_of(numbers).ok_or_else(wrong)?;
        let mut all = [0; 4];
        all[..numbers.len()].copy_from_slice(&numbers);
        let labels = labels.map_or_else(Vec::new, |labels| labels.split('.').map(str::to_ascii_lowercase).collect());
        if labels.iter().any(|label| label.is_empty() || !is_label(label)) {
            return Err(wrong());
        }
        Ok(Self { numbers: all, labels })
    }

    /// Whether it comes before a release.
    pub(super) fn is_prerelease(&self) -> bool {
        !self.labels.is_empty()
    }
}

/// One to four numbers. Their bound is that of NuGet's, a 32-bit integer with a sign.
fn numbers_of(text: &str) -> Option<Vec<u32>> {
    let digits = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let number = |part: &str| Some(part).filter(digits)?.parse().ok().filter(|number| *number <= i32::MAX as u32);
    let numbers: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    (numbers.len() <= 4).then_some(numbers)
}

fn is_label(label: &str) -> bool {
    label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch, revision] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if revision > 0 {
            write!(f, ".{revision}")?;
        }
        if self.labels.is_empty() { Ok(()) } else { write!(f, "-{}", self.labels.join(".")) }
    }
}

impl Ord for Version {
    /// By numbers, then by labels as SemVer 2 has it (11.4): a release is above all of its labels.
    fn cmp(&self, other: &Self) -> Ordering {
        let labels = || match (self.labels.is_empty(), other.labels.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let pairs = self.labels.iter().zip(&other.labels);
                let different = pairs.map(|(one, another)| compare_labels(one, another)).find(|order| order.is_ne());
                different.unwrap_or_else(|| self.labels.len().cmp(&other.labels.len()))
            }
        };
        self.numbers.cmp(&other.numbers).then_with(labels)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn compare_labels(one: &str, another: &str) -> Ordering {
    let number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit()).then(|| label.parse::<u64>().ok())?;
    match (number(one), number(another)) {
        // `01` and `1` are two labels of one number.
        (Some(first), Some(second)) => first.cmp(&second).then_with(|| one.cmp(another)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => one.cmp(another),
    }
}

impl Range {
    /// Reads what a deployment file says as a `version`.
    ///
    /// # Errors
    /// What to write instead.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.starts_with(['[', '(']) {
            return Self::interval(text);
        }
        let Some(star) = text.find('*') else { return Version::parse(text).map(Self::Exactly) };
        let wrong =
            || format!("`{text}` is no floating version: write for instance `4.2.*`, `4.2.*-*` or `4.2.1-beta*`");
        let is_prefix = |prefix: &str| prefix.split('.').all(is_label);
        let (numbers, prefix) = match text[star + 1..].strip_prefix('-').and_then(|rest| rest.strip_suffix('*')) {
            Some(prefix) => (&text[..star], Some(prefix.to_ascii_lowercase())),
            None if star + 1 == text.len() => (&text[..star], None),
            None => return Err(wrong()),
        };
        if prefix.as_deref().is_some_and(|prefix| !is_prefix(prefix)) {
            return Err(wrong());
        }
        if let Some((numbers, own)) = numbers.split_once('-') {
            let exact = Version::parse(numbers).map_err(|_| wrong())?;
            let good = prefix.is_none() && is_prefix(own);
            let leading = Self::Leading { numbers: exact.numbers, prefix: own.to_ascii_lowercase() };
            return good.then_some(leading).ok_or_else(wrong);
        }
        let numbers = match numbers.strip_suffix('.') {
            Some(numbers) => numbers_of(numbers).filter(|numbers| numbers.len() < 4).ok_or_else(wrong)?,
            None if numbers.is_empty() => Vec::new(),
            None => return Err(wrong()),
        };
        Ok(Self::Below { numbers, prefix })
    }

    fn interval(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no range of versions: write for instance `[4.2,5.0)` or `[4.2,)`");
        let inner = text.get(1..text.len() - 1).filter(|_| text.ends_with([']', ')'])).ok_or_else(wrong)?;
        let (low_included, high_included) = (text.starts_with('['), text.ends_with(']'));
        let Some((low, high)) = inner.split_once(',') else {
            let only = Version::parse(inner).map_err(|_| wrong())?;
            return (low_included && high_included).then_some(Self::Exactly(only)).ok_or_else(wrong);
        };
        let bound = |text: &str, included| match text.trim() {
            "" if included => Err(wrong()),
            "" => Ok(None),
            text => Version::parse(text).map(|version| Some(Bound { version, included })).map_err(|_| wrong()),
        };
        let (low, high) = (bound(low, low_included)?, bound(high, high_included)?);
        match (&low, &high) {
            (None, None) => Err(wrong()),
            (Some(low), Some(high)) if low.version > high.version => Err(wrong()),
            _ => Ok(Self::Between { low, high }),
        }
    }

    /// Whether `version` is meant.
    pub(super) fn contains(&self, version: &Version) -> bool {
        match self {
            Self::Exactly(one) => one == version,
            Self::Below { numbers, prefix } => {
                let begins = prefix.as_ref().is_some_and(|prefix| version.labels.join(".").starts_with(prefix));
                version.numbers.starts_with(numbers) && (begins || !version.is_prerelease())
            }
            Self::Leading { numbers, prefix } => {
                let begins = version.labels.join(".").starts_with(prefix);
                version.numbers == *numbers && (begins || !version.is_prerelease())
            }
            Self::Between { low, high } => {
                let bounds = [low, high].into_iter().flatten();
                // A bound that is a version before a release asks for such versions.
                let stable = !bounds.into_iter().any(|bound| bound.version.is_prerelease());
                let above = low.as_ref().is_none_or(|low| match version.cmp(&low.version) {
                    Ordering::Equal => low.included,
                    order => order.is_gt(),
                });
                let below = high.as_ref().is_none_or(|high| match version.cmp(&high.version) {
                    Ordering::Equal => high.included,
                    order => order.is_lt(),
                });
                above && below && !(stable && version.is_prerelease())
            }
        }
    }

    /// The highest of `known` that is meant.
    pub(super) fn best<'a>(&self, known: impl IntoIterator<Item = &'a Version>) -> Option<&'a Version> {
        known.into_iter().filter(|version| self.contains(version)).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn versions_are_normalised_as_nuget_does() {
        let table = [
            ("4.2.1", "4.2.1"),
            ("4.2", "4.2.0"),
            ("4", "4.0.0"),
            ("4.2.1.0", "4.2.1"),
            ("4.2.1.5", "4.2.1.5"),
            ("0.0.0.1", "0.0.0.1"),
            ("04.002.1", "4.2.1"),
            ("1.00.01.00", "1.0.1"),
            (" 1.0 ", "1.0.0"),
            ("1.0.0-Beta.2", "1.0.0-beta.2"),
            ("1.0.0-RC1-x+sha.5114f85", "1.0.0-rc1-x"),
            ("1.0.0-alpha.01", "1.0.0-alpha.01"),
            ("1.0.0--", "1.0.0--"),
            ("1.0+build-7.A", "1.0.0"),
            ("1.0.0.0-a", "1.0.0-a"),
            ("2147483647.0", "2147483647.0.0"),
        ];
        for (text, wanted) in table {
            assert_eq!(version(text).to_string(), wanted, "{text}");
        }
        let bad = [
            "",
            "v1",
            "1.",
            ".1",
            "1..2",
            "1.2.3.4.5",
            "1.0-",
            "1.0-a..b",
            "1.0-a/b",
            "../1",
            "+1",
            "-1",
            "1.0-é",
            "1.٣",
            "2147483648",
            "99999999999",
            "1.0 .0",
            "1.*",
        ];
        for bad in bad {
            assert!(Version::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_are_ordered_as_nuget_does() {
        let ascending = [
            "0.9",
            "1.0.0-1",
            "1.0.0-2",
            "1.0.0-10",
            "1.0.0-alpha",
            "1.0.0-ALPHA.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0",
            "1.0.0.1-a",
            "1.0.0.1",
            "1.0.1",
            "1.10",
            "2",
        ];
        for pair in ascending.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        for (one, other) in [("1.0", "01.0.0.0+x"), ("1.0-BETA", "1.0.0-beta+7"), ("1.0.0", "1.0.0+a")] {
            assert_eq!(version(one), version(other));
        }
    }

    #[test]
    fn floating_versions_mean_the_highest_that_fits() {
        let known = [
            "3.9",
            "4.2.0",
            "4.2.1",
            "4.2.2-beta.1",
            "4.2.2-rc.1",
            "4.2.2-rc.2",
            "4.3.0-rc.1",
            "4.10.0",
            "5.0.0-a",
            "5.0.0",
            "5.1.0-dev",
        ];
        let known = known.map(version);
        let table = [
            ("4.2.1", Some("4.2.1")),
            ("[4.2.1]", Some("4.2.1")),
            ("4.2.9", None),
            ("*", Some("5.0.0")),
            ("*-*", Some("5.1.0-dev")),
            ("4.*", Some("4.10.0")),
            ("4.2.*", Some("4.2.1")),
            ("04.02.*", Some("4.2.1")),
            ("4.2.*-*", Some("4.2.2-rc.2")),
            ("4.2.*-beta*", Some("4.2.2-beta.1")),
            ("4.*-RC.*", Some("4.10.0")),
            ("*-dev*", Some("5.1.0-dev")),
            ("*-rc*", Some("5.0.0")),
            ("4.2.2-*", Some("4.2.2-rc.2")),
            ("4.2.2-beta*", Some("4.2.2-beta.1")),
            ("4.2.2-RC.*", Some("4.2.2-rc.2")),
            ("4.2.1-beta*", Some("4.2.1")),
            ("4.4.*", None),
            ("[4.2,5.0)", Some("4.10.0")),
            ("[4.2,5.0]", Some("5.0.0")),
            ("(4.10,5.0)", None),
            ("[4.10,5.0)", Some("4.10.0")),
            ("(,4.2.1)", Some("4.2.0")),
            ("(5.0,)", None),
            ("[5.0.0-0, )", Some("5.1.0-dev")),
            ("[5.0.0-0,5.0)", Some("5.0.0-a")),
        ];
        for (text, wanted) in table {
            let range = Range::parse(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(range.best(&known), wanted.map(version).as_ref(), "{text}");
        }
    }

    #[test]
    fn what_is_no_floating_version_is_refused() {
        let bad = [
            "latest",
            "4.2*",
            "**",
            "4.*.*",
            "*.1",
            "*-",
            "4.2.1.0.*",
            "4.2.1-β*",
            "4.2.1-*-*",
            "[]",
            "[",
            "[]]",
            "[4.2",
            "4.2]",
            "(4.2)",
            "[5,4]",
            "[,]",
            "(,)",
            "[,5)",
            "[a,b]",
            "[1,2,3]",
            "-*",
            "4.2.x-*",
            "4.*-a*b",
            "4.*-β*",
        ];
        for bad in bad {
            assert!(Range::parse(bad).is_err(), "{bad}: {:?}", Range::parse(bad));
        }
    }
}
