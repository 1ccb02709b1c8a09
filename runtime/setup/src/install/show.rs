//! The changes, for a reader.

use std::fmt::Write as _;

use super::{Change, engine::Engine};

/// The files and their lines; one line if there is nothing to do.
pub fn changes(engine: Engine, changes: &[Change]) -> String {
    if changes.is_empty() {
        return format!("{}: nothing to do\n", engine.name());
    }
    let mut text = String::new();
    for change in changes {
        let verb = match (&change.from, &change.to) {
            (None, _) => "make",
            (Some(_), None) => "remove",
            (Some(_), Some(_)) => "change",
        };
        let _ = writeln!(text, "{}: {verb} {}", engine.name(), change.path.display());
        let lines = |content: &Option<super::Content>| -> Vec<String> {
            content.iter().flat_map(|content| content.text.lines()).map(ToOwned::to_owned).collect()
        };
        let (from, to) = (lines(&change.from), lines(&change.to));
        let same = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
        let (from, to) = (from.get(same..).unwrap_or_default(), to.get(same..).unwrap_or_default());
        let end = from.iter().rev().zip(to.iter().rev()).take_while(|(a, b)| a == b).count();
        for (sign, lines) in [('-', from), ('+', to)] {
            for line in lines.get(..lines.len() - end).unwrap_or_default() {
                let _ = writeln!(text, "  {sign} {line}");
            }
        }
    }
    text
}
