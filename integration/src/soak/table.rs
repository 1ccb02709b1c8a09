//! [`Table`]: the figures of one part of a soak.

use std::fmt;

/// A table of figures: one line for each measurement, the oldest first.
#[derive(Debug)]
pub struct Table {
    title: String,
    columns: &'static [&'static str],
    lines: Vec<Vec<u64>>,
}

impl Table {
    /// Makes a table without lines. Each line has one figure for each column.
    pub fn new(title: String, columns: &'static [&'static str]) -> Self {
        Self { title, columns, lines: vec![] }
    }

    /// Adds a line, and prints it to standard error, as a soak takes long.
    pub fn add(&mut self, line: Vec<u64>) {
        assert_eq!(line.len(), self.columns.len(), "{}", self.title);
        let words: Vec<_> = self.columns.iter().zip(&line).map(|(name, figure)| format!("{name} {figure}")).collect();
        eprintln!("{}: {}", self.title, words.join(", "));
        self.lines.push(line);
    }

    /// Returns the figures of a column.
    pub fn column(&self, name: &str) -> Vec<u64> {
        let at = self.columns.iter().position(|column| *column == name).expect("a column");
        self.lines.iter().map(|line| line[at]).collect()
    }

    /// Fails unless no later figure of the column exceeds the first one by more than `margin`.
    #[track_caller]
    pub fn assert_flat(&self, name: &str, margin: u64) {
        let figures = self.column(name);
        let first = figures.first().copied().unwrap_or_default();
        assert!(figures.iter().all(|figure| *figure <= first + margin), "{} grows: {figures:?}\n{self}", name);
    }
}

impl fmt::Display for Table {
    /// Writes the table in Markdown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n\n| {} |\n|{}", self.title, self.columns.join(" | "), "---|".repeat(self.columns.len()))?;
        for line in &self.lines {
            let words: Vec<_> = line.iter().map(u64::to_string).collect();
            writeln!(f, "| {} |", words.join(" | "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(figures: &[u64]) -> Table {
        let mut table = Table::new("t".into(), &["n", "memory"]);
        figures.iter().for_each(|figure| table.add(vec![1, *figure]));
        table
    }

    #[test]
    fn table_of_a_soak_is_markdown() {
        assert_eq!(memory(&[7, 8]).to_string(), "## t\n\n| n | memory |\n|---|---|\n| 1 | 7 |\n| 1 | 8 |\n");
        memory(&[7, 9, 8]).assert_flat("memory", 2);
    }

    #[test]
    #[should_panic(expected = "memory grows: [7, 8, 10]")]
    fn table_of_a_soak_fails_on_growth() {
        memory(&[7, 8, 10]).assert_flat("memory", 2);
    }
}
