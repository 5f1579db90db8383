//! Keeps secrets out of what steps write: each is replaced by `***` before a word of it leaves the machine.
//!
//! Output comes in pieces that are cut anywhere, so that the end of a piece is held back while it may be the beginning of a
//! secret. Masked is the text as it was given, and each of its lines; a secret that a script writes in another form, such
//! as base64, is not known.

use shoal_proto::limits::SECRET_BYTES_MIN;

/// What stands in the place of a secret.
const MASK: &str = "***";

/// Masks one stream of output.
#[derive(Clone, Debug, Default)]
pub struct Masker {
    /// The longest first, so that one within another does not leave the rest of that.
    secrets: Vec<String>,
    /// What may be the beginning of one.
    held: String,
}

impl Masker {
    /// For these secrets. Lines of fewer than [`SECRET_BYTES_MIN`] letters are not looked for: they are in every text.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a String>) -> Self {
        let lines = |secret: &'a String| secret.lines().map(str::trim).chain([secret.as_str()]);
        let mut secrets: Vec<String> = secrets
            .into_iter()
            .flat_map(lines)
            .filter(|text| text.len() >= SECRET_BYTES_MIN)
            .map(str::to_owned)
            .collect();
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        secrets.dedup();
        Self { secrets, held: String::new() }
    }

    /// What of the text so far, with `text` behind it, can be shown.
    pub fn push(&mut self, text: &str) -> String {
        if self.secrets.is_empty() {
            return text.to_owned();
        }
        let all = std::mem::take(&mut self.held) + text;
        let mut shown = String::with_capacity(all.len());
        let mut rest = all.as_str();
        while let Some(first) = rest.chars().next() {
            // A longer secret that may begin here is waited for, also where a shorter one stands.
            if self.secrets.iter().any(|secret| secret.len() > rest.len() && secret.starts_with(rest)) {
                self.held = rest.to_owned();
                return shown;
            }
            match self.secrets.iter().find(|secret| rest.starts_with(secret.as_str())) {
                Some(secret) => {
                    shown.push_str(MASK);
                    rest = &rest[secret.len()..];
                }
                None => {
                    shown.push(first);
                    rest = &rest[first.len_utf8()..];
                }
            }
        }
        shown
    }

    /// What was held back, at the end of the output.
    pub fn finish(&mut self) -> String {
        let held = std::mem::take(&mut self.held);
        self.whole(&held)
    }

    /// A text that is there as a whole.
    pub fn whole(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), MASK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(secrets: &[&str], pieces: &[&str]) -> String {
        let secrets: Vec<String> = secrets.iter().map(|secret| (*secret).to_owned()).collect();
        let mut masker = Masker::new(&secrets);
        let shown: String = pieces.iter().map(|piece| masker.push(piece)).collect();
        shown + &masker.finish()
    }

    #[test]
    fn secrets_are_masked_wherever_the_output_is_cut() {
        let text = "user=ci password=hunter2ß! hunter hunter2ß!hunter2ß! hunt";
        let wanted = "user=ci password=*** hunter ****** hunt";
        for cut in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
            assert_eq!(masked(&["hunter2ß!"], &[&text[..cut], &text[cut..]]), wanted, "cut at {cut}");
        }
        let letters: Vec<String> = text.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        assert_eq!(masked(&["hunter2ß!"], &letters), wanted, "letter by letter");
    }

    #[test]
    fn secrets_within_secrets_and_lines_of_secrets() {
        let table: [(&[&str], &[&str], &str); 5] = [
            (&["abcd", "abcdefgh"], &["abcdef", "gh abcd!"], "*** ***!"),
            (&["abcd", "abcdefgh"], &["abcdef"], "***ef"),
            (&["line one\nline two\n"], &["< line two >"], "< *** >"),
            (&["abc", ""], &["abc"], "abc"),
            (&[], &["plain"], "plain"),
        ];
        for (secrets, pieces, wanted) in table {
            assert_eq!(masked(secrets, pieces), wanted, "{secrets:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_secret_is_shown_at_once() {
        let mut masker = Masker::new(&["hunter2".to_owned()]);
        assert_eq!(masker.push("a line\nhun"), "a line\n");
        assert_eq!(masker.push("t for it\n"), "hunt for it\n");
    }
}
