//! The selector language: which nodes a target means.
//!
//! ```text
//! or      = and { "or" and }
//! and     = not { "and" not }
//! not     = "not" not | "(" or ")" | "all" | "*" | key test
//! test    = ( "=" | "!=" ) value | [ "not" ] "in" "(" value { "," value } ")"
//! ```
//!
//! A key is `name`, `site` or a label; a value is a word with `*` (any letters) and `?` (one letter), or any text in
//! quotes, taken as it is. A label may have several values: `=` holds if one of them fits, `!=` if none does, so that
//! `role!=web` holds for a node without a role. Capitals matter. Lengths and nesting are bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use thiserror::Error;

use crate::limits::{SELECTOR_BYTES_MAX, SELECTOR_DEPTH_MAX};

/// Why a text is no selector. Positions count letters from 1.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SelectError {
    /// Something else stands there.
    #[error("column {column}: {wanted} is expected, not {found}")]
    Expected {
        /// Where.
        column: usize,
        /// What could stand there.
        wanted: &'static str,
        /// What does.
        found: String,
    },
    /// A quote without its end.
    #[error("column {column}: the quote is never closed")]
    OpenQuote {
        /// Where it begins.
        column: usize,
    },
    /// Too many parentheses or `not`s inside each other.
    #[error("column {column}: more than {SELECTOR_DEPTH_MAX} parentheses or `not`s inside each other")]
    TooDeep {
        /// Where.
        column: usize,
    },
    /// Too much text.
    #[error("a selector of {0} bytes, but at most {SELECTOR_BYTES_MAX} are allowed: use a label")]
    TooLong(usize),
}

/// What a selector looks at.
#[derive(Clone, Copy, Debug)]
pub struct Traits<'a> {
    /// The node's name.
    pub name: &'a str,
    /// Its site.
    pub site: &'a str,
    /// Its labels, each with its values.
    pub labels: &'a BTreeMap<String, BTreeSet<String>>,
}

/// A parsed selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Expr);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Expr {
    All,
    /// One of the values fits one of the patterns.
    Fits(String, Vec<Pattern>),
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exact(String),
    Glob(Vec<char>),
}

impl Selector {
    /// Whether a node is meant.
    pub fn matches(&self, node: Traits<'_>) -> bool {
        self.0.matches(node)
    }
}

impl FromStr for Selector {
    type Err = SelectError;

    fn from_str(text: &str) -> Result<Self, SelectError> {
        if text.len() > SELECTOR_BYTES_MAX {
            return Err(SelectError::TooLong(text.len()));
        }
        let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
        let expr = parser.or()?;
        match parser.peek() {
            Token::End => Ok(Self(expr)),
            _ => Err(parser.expected("`and`, `or` or the end")),
        }
    }
}

impl Expr {
    fn matches(&self, node: Traits<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Not(inner) => !inner.matches(node),
            Self::And(all) => all.iter().all(|expr| expr.matches(node)),
            Self::Or(any) => any.iter().any(|expr| expr.matches(node)),
            Self::Fits(key, patterns) => {
                let fits = |value: &str| patterns.iter().any(|pattern| pattern.fits(value));
                match key.as_str() {
                    "name" => fits(node.name),
                    "site" => fits(node.site),
                    label => node.labels.get(label).is_some_and(|values| values.iter().any(|value| fits(value))),
                }
            }
        }
    }
}

impl Pattern {
    fn fits(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => text == value,
            Self::Glob(pattern) => glob(pattern, &value.chars().collect::<Vec<_>>()),
        }
    }
}

/// Linear in practice: only the last `*` is ever tried again.
fn glob(pattern: &[char], value: &[char]) -> bool {
    let (mut p, mut v, mut star) = (0, 0, None);
    while v < value.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, v));
                p += 1;
            }
            Some(&letter) if letter == '?' || letter == value[v] => (p, v) = (p + 1, v + 1),
            _ => {
                let Some((after, from)) = star else { return false };
                (p, v, star) = (after, from + 1, Some((after, from + 1)));
            }
        }
    }
    pattern[p..].iter().all(|letter| *letter == '*')
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    /// `=`, `!=`, `(`, `)` or `,`.
    Sign(&'static str),
    /// A letter that begins none of these.
    Stray(char),
    End,
}

/// The tokens with the columns where they begin; the last is [`Token::End`].
fn tokens(text: &str) -> Result<Vec<(usize, Token)>, SelectError> {
    let letters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < letters.len() {
        let column = at + 1;
        let (token, len) = match letters[at] {
            letter if letter.is_whitespace() => {
                at += 1;
                continue;
            }
            '!' if letters.get(at + 1) == Some(&'=') => (Token::Sign("!="), 2),
            '=' if letters.get(at + 1) == Some(&'=') => (Token::Sign("="), 2),
            '=' => (Token::Sign("="), 1),
            '(' => (Token::Sign("("), 1),
            ')' => (Token::Sign(")"), 1),
            ',' => (Token::Sign(","), 1),
            quote @ ('"' | '\'') => {
                let inner: String = letters[at + 1..].iter().take_while(|letter| **letter != quote).collect();
                let len = inner.chars().count() + 2;
                if at + len > letters.len() {
                    return Err(SelectError::OpenQuote { column });
                }
                (Token::Quoted(inner), len)
            }
            letter if is_word(letter) => {
                let word: String = letters[at..].iter().take_while(|letter| is_word(**letter)).collect();
                let len = word.chars().count();
                (Token::Word(word), len)
            }
            letter => (Token::Stray(letter), 1),
        };
        tokens.push((column, token));
        at += len;
    }
    tokens.push((letters.len() + 1, Token::End));
    Ok(tokens)
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '-' | '_' | '.' | '/' | ':' | '*' | '?')
}

const KEYWORDS: [&str; 5] = ["and", "or", "not", "in", "all"];

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn or(&mut self) -> Result<Expr, SelectError> {
        let mut any = vec![self.and()?];
        while self.take_word("or") {
            any.push(self.and()?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Expr::Or(any) })
    }

    fn and(&mut self) -> Result<Expr, SelectError> {
        let mut all = vec![self.not()?];
        while self.take_word("and") {
            all.push(self.not()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expr::And(all) })
    }

    fn not(&mut self) -> Result<Expr, SelectError> {
        if self.depth >= SELECTOR_DEPTH_MAX {
            return Err(SelectError::TooDeep { column: self.column() });
        }
        self.depth += 1;
        let expr = self.one();
        self.depth -= 1;
        expr
    }

    fn one(&mut self) -> Result<Expr, SelectError> {
        if self.take_word("not") {
            return Ok(Expr::Not(Box::new(self.not()?)));
        }
        if self.take_sign("(") {
            let inner = self.or()?;
            return if self.take_sign(")") { Ok(inner) } else { Err(self.expected("`and`, `or` or `)`")) };
        }
        if self.take_word("all") || self.take_word("*") {
            return Ok(Expr::All);
        }
        self.test()
    }

    fn test(&mut self) -> Result<Expr, SelectError> {
        const KEY: &str = "`name`, `site` or a label, `not`, `all` or `(`";
        let key = match self.peek() {
            Token::Word(word) if !is_keyword(word) && !word.contains(['*', '?']) => word.clone(),
            Token::Quoted(text) => text.clone(),
            _ => return Err(self.expected(KEY)),
        };
        self.at += 1;
        if self.take_sign("=") {
            return Ok(Expr::Fits(key, vec![self.value()?]));
        }
        if self.take_sign("!=") {
            return Ok(negated(Expr::Fits(key, vec![self.value()?])));
        }
        if self.take_word("in") {
            return Ok(Expr::Fits(key, self.list()?));
        }
        if self.take_word("not") {
            if self.take_word("in") {
                return Ok(negated(Expr::Fits(key, self.list()?)));
            }
            return Err(self.expected("`in`"));
        }
        Err(self.expected("`=`, `!=`, `in` or `not in`"))
    }

    fn list(&mut self) -> Result<Vec<Pattern>, SelectError> {
        if !self.take_sign("(") {
            return Err(self.expected("`(`"));
        }
        let mut patterns = vec![self.value()?];
        while self.take_sign(",") {
            patterns.push(self.value()?);
        }
        if self.take_sign(")") { Ok(patterns) } else { Err(self.expected("`,` or `)`")) }
    }

    fn value(&mut self) -> Result<Pattern, SelectError> {
        let pattern = match self.peek() {
            Token::Quoted(text) => Pattern::Exact(text.clone()),
            Token::Word(word) if is_keyword(word) => {
                return Err(self.expected("a value (in quotes if it is a word of the language)"));
            }
            Token::Word(word) if word.contains(['*', '?']) => Pattern::Glob(word.chars().collect()),
            Token::Word(word) => Pattern::Exact(word.clone()),
            _ => return Err(self.expected("a value")),
        };
        self.at += 1;
        Ok(pattern)
    }

    /// The last token is the end, and is never taken.
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(_, token)| token)
    }

    fn column(&self) -> usize {
        self.tokens.get(self.at).map_or(1, |(column, _)| *column)
    }

    fn take_word(&mut self, wanted: &str) -> bool {
        let taken = matches!(self.peek(), Token::Word(word) if word == wanted);
        self.at += usize::from(taken);
        taken
    }

    fn take_sign(&mut self, wanted: &str) -> bool {
        let taken = matches!(self.peek(), Token::Sign(sign) if *sign == wanted);
        self.at += usize::from(taken);
        taken
    }

    fn expected(&self, wanted: &'static str) -> SelectError {
        let found = match self.peek() {
            Token::Word(word) => format!("`{word}`"),
            Token::Quoted(text) => format!("`\"{text}\"`"),
            Token::Sign(sign) => format!("`{sign}`"),
            Token::Stray(letter) => format!("`{letter}`"),
            Token::End => "the end".to_owned(),
        };
        SelectError::Expected { column: self.column(), wanted, found }
    }
}

fn is_keyword(word: &str) -> bool {
    KEYWORDS.contains(&word)
}

fn negated(expr: Expr) -> Expr {
    Expr::Not(Box::new(expr))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, BTreeSet<String>> {
        let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (key, value) in pairs {
            labels.entry((*key).to_owned()).or_default().insert((*value).to_owned());
        }
        labels
    }

    /// The names of the nodes that `selector` means.
    fn selected(selector: &str) -> String {
        let nodes = [
            ("a", "syd-1", labels(&[("role", "web"), ("role", "cache"), ("zone", "1")])),
            ("b", "syd-2", labels(&[("role", "web")])),
            ("c", "lab", labels(&[("role", "ml")])),
            ("d", "osl", labels(&[])),
        ];
        let selector: Selector = selector.parse().unwrap();
        let matches = |(name, site, labels): &(&str, &str, BTreeMap<_, _>)| {
            selector.matches(Traits { name, site, labels }).then(|| (*name).to_owned())
        };
        nodes.iter().filter_map(matches).collect()
    }

    #[test]
    fn selectors_mean_what_they_say() {
        let table = [
            ("all", "abcd"),
            ("*", "abcd"),
            ("role=web", "ab"),
            ("role = web", "ab"),
            ("role==web", "ab"),
            ("role=cache", "a"),
            ("role!=web", "cd"),
            ("role!=ml", "abd"),
            ("role=web and site!=syd-1", "b"),
            ("role=web and site!=lab", "ab"),
            ("role=ml or site=osl", "cd"),
            ("role=ml or role=web and zone=1", "ac"),
            ("(role=ml or role=web) and zone=1", "a"),
            ("not role=web", "cd"),
            ("not not role=web", "ab"),
            ("not (role=web or role=ml)", "d"),
            ("not role=web and site=lab", "c"),
            ("site in (lab, osl)", "cd"),
            ("site not in (lab, osl)", "ab"),
            ("site=syd*", "ab"),
            ("site=s?d-?", "ab"),
            ("site=*", "abcd"),
            ("role=*", "abc"),
            ("role!=*", "d"),
            ("site in (l*, os?)", "cd"),
            ("name=a", "a"),
            ("name in (a,b)", "ab"),
            ("site=\"syd-1\"", "a"),
            ("site='syd*'", ""),
            ("ROLE=web", ""),
            ("nothing=here", ""),
        ];
        for (selector, wanted) in table {
            assert_eq!(selected(selector), wanted, "{selector}");
        }
    }

    #[test]
    fn errors_name_the_place_and_what_is_wanted() {
        let error = |text: &str| text.parse::<Selector>().unwrap_err().to_string();
        const KEY: &str = "`name`, `site` or a label, `not`, `all` or `(`";
        assert_eq!(error(""), format!("column 1: {KEY} is expected, not the end"));
        assert_eq!(error("role"), "column 5: `=`, `!=`, `in` or `not in` is expected, not the end");
        assert_eq!(error("role=web site=lab"), "column 10: `and`, `or` or the end is expected, not `site`");
        assert_eq!(error("role=web and"), format!("column 13: {KEY} is expected, not the end"));
        assert_eq!(
            error("role=and"),
            "column 6: a value (in quotes if it is a word of the language) is expected, not `and`"
        );
        assert_eq!(error("(role=web"), "column 10: `and`, `or` or `)` is expected, not the end");
        assert_eq!(error("role=web)"), "column 9: `and`, `or` or the end is expected, not `)`");
        assert_eq!(error("site in lab"), "column 9: `(` is expected, not `lab`");
        assert_eq!(error("site in (lab"), "column 13: `,` or `)` is expected, not the end");
        assert_eq!(error("site in ()"), "column 10: a value is expected, not `)`");
        assert_eq!(error("role=web & site=lab"), "column 10: `and`, `or` or the end is expected, not `&`");
        assert_eq!(error("ö=a and role=\"we"), "column 14: the quote is never closed");
        assert!(error(&format!("{}all", "not ".repeat(40))).contains("inside each other"));
        assert!(error(&format!("{}all", "(".repeat(40))).contains("inside each other"));
        assert!(error(&"x".repeat(5000)).contains("5000 bytes"));
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails_without_panic(text in "[a-c=!()*?, \"'ö&]{0,40}|( ?(role|site|=|!=|and|or|not|in|\\(|\\)|a\\*)){0,20}") {
            if let Ok(selector) = text.parse::<Selector>() {
                let _ = selector.matches(Traits { name: "a", site: "b", labels: &labels(&[("role", "a")]) });
            }
        }

        #[test]
        fn globs_fit_as_the_simple_definition_says(pattern in "[ab*?]{0,8}", value in "[ab]{0,8}") {
            fn fits(pattern: &[char], value: &[char]) -> bool {
                match (pattern.split_first(), value.split_first()) {
                    (None, None) => true,
                    (Some(('*', rest)), _) if fits(rest, value) => true,
                    (Some(('*', _)), Some((_, shorter))) => fits(pattern, shorter),
                    (Some((p, rest)), Some((v, shorter))) if p == v || *p == '?' => fits(rest, shorter),
                    _ => false,
                }
            }
            let (pattern, value): (Vec<char>, Vec<char>) = (pattern.chars().collect(), value.chars().collect());
            prop_assert_eq!(glob(&pattern, &value), fits(&pattern, &value));
        }
    }
}
