//! "Did you mean …?": the known word that is nearest to a mistyped one.

/// The word of `known` that is nearest to `word`, if one is near enough to be meant: a third of its letters may differ,
/// and at least one. Counted by optimal string alignment (insert, delete, replace, swap of neighbours), capitals and
/// `-` for `_` aside. The first of equally near ones.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = plain(word);
    let distances = known.iter().map(|candidate| (distance(&word, &plain(candidate)), *candidate));
    let (least, candidate) = distances.min_by_key(|(distance, _)| *distance)?;
    let letters_max = word.len().max(candidate.chars().count());
    (least <= (letters_max / 3).max(1) && least < letters_max).then_some(candidate)
}

/// At most this many letters are compared: no key is longer, and the cost grows with the square.
const LETTERS_MAX: usize = 64;

fn plain(word: &str) -> Vec<char> {
    let letters = word.chars().take(LETTERS_MAX);
    letters.map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Optimal string alignment distance: three rows of the usual table.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = last;
        last = row;
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_keys_find_the_one_that_was_meant() {
        const KEYS: &[&str] = &["name", "on", "run", "unpack", "to", "timeout", "retries", "on_failure", "idempotent"];
        let table = [
            ("tiemout", Some("timeout")),
            ("time_out", Some("timeout")),
            ("Timeout", Some("timeout")),
            ("retrys", Some("retries")),
            ("on-failure", Some("on_failure")),
            ("onfailure", Some("on_failure")),
            ("rnu", Some("run")),
            ("nmae", Some("name")),
            ("window", None),
            ("x", None),
            ("", None),
        ];
        for (word, meant) in table {
            assert_eq!(nearest(word, KEYS), meant, "{word}");
        }
        assert_eq!(nearest("name", &[]), None);
    }

    #[test]
    fn distance_is_that_of_the_textbook() {
        let table =
            [("kitten", "sitting", 3), ("abcd", "acbd", 1), ("ca", "abc", 3), ("", "abc", 3), ("same", "same", 0)];
        for (a, b, wanted) in table {
            assert_eq!(distance(&plain(a), &plain(b)), wanted, "{a} {b}");
            assert_eq!(distance(&plain(b), &plain(a)), wanted, "{b} {a}");
        }
    }

    #[test]
    fn a_very_long_word_is_cheap() {
        assert_eq!(nearest(&"x".repeat(1 << 20), &["name"]), None);
    }
}
