//! Aligned columns and colours. Text from nodes is stripped of control characters before it reaches a terminal.

use std::fmt::Write;

/// How a cell or word stands out, where colours are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Not at all.
    #[default]
    Plain,
    /// Headings.
    Bold,
    /// What matters less.
    Dim,
    /// What is well.
    Good,
    /// What to look at.
    Warn,
    /// What is wrong.
    Bad,
}

/// Whether styles are painted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    /// Whether they are.
    pub on: bool,
}

impl Paint {
    /// `text` in `style`.
    pub fn paint(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Plain => return text.to_owned(),
            _ if !self.on => return text.to_owned(),
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "31",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// One cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell that stands out.
    pub fn new(text: impl Into<String>, style: Style) -> Self {
        Self { text: printable(&text.into()), style }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text, Style::Plain)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, Style::Plain)
    }
}

/// Rows under a heading; every column is as wide as its widest cell.
#[derive(Clone, Debug)]
pub struct Table {
    indent: usize,
    heading: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows, `indent` columns from the left.
    pub fn new(indent: usize, heading: &[&'static str]) -> Self {
        Self { indent, heading: heading.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; it has as many cells as the heading.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table's lines, without blanks at their ends.
    pub fn render(&self, paint: Paint) -> String {
        let heading: Vec<_> = self.heading.iter().map(|text| Cell::new(*text, Style::Dim)).collect();
        let rows = || std::iter::once(&heading).chain(&self.rows);
        let width =
            |column: usize| rows().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count()).max();
        let widths: Vec<_> = (0..self.heading.len()).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in rows() {
            let last = row.iter().rposition(|cell| !cell.text.is_empty());
            let _ = write!(text, "{:1$}", "", self.indent);
            for (index, (cell, width)) in row.iter().zip(&widths).enumerate().take(last.map_or(0, |last| last + 1)) {
                text.push_str(&paint.paint(cell.style, &cell.text));
                let gap = if Some(index) == last { 0 } else { width - cell.text.chars().count() + 2 };
                let _ = write!(text, "{:gap$}", "");
            }
            text.push('\n');
        }
        text
    }
}

/// `text` as one line without control characters, so that a node's output cannot steer the terminal: escape sequences
/// are dropped whole, tabs become blanks.
pub fn printable(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\t' => plain.push_str("  "),
            '\u{1b}' if letters.as_str().starts_with('[') => {
                letters.next();
                // Parameters and intermediates of a control sequence, up to its final letter.
                letters.by_ref().find(|letter| ('@'..='~').contains(letter));
            }
            letter if letter.is_control() => {}
            letter => plain.push(letter),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_also_where_colours_take_room() {
        let mut table = Table::new(2, &["node", "state", ""]);
        table.row([Cell::new("syd-1", Style::Bold), "ok".into(), "".into()]);
        table.row(["østfold-10".into(), Cell::new("failed", Style::Bad), "x".into()]);
        let plain = table.render(Paint { on: false });
        insta::assert_snapshot!(plain, @r"
          node        state
          syd-1       ok
          østfold-10  failed  x
        ");
        let stripped: Vec<_> = table.render(Paint { on: true }).lines().map(printable).collect();
        assert_eq!(stripped, plain.lines().collect::<Vec<_>>());
        assert!(plain.lines().all(|line| !line.ends_with(' ')));
    }

    #[test]
    fn output_of_steps_cannot_steer_the_terminal() {
        assert_eq!(printable("a\u{1b}[31;1mred\u{1b}[0m\tb\r\u{7}\u{9b}2Jc"), "ared  b2Jc");
        assert_eq!(printable("\u{1b}["), "");
        assert_eq!(printable("\u{1b}]0;title\u{7}x"), "]0;titlex");
    }
}
