//! The name that was perhaps meant by a misspelt command or flag.

/// Returns the name that is nearest to `word`, if a third of its letters or fewer are wrong, and at most two.
pub fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let most = (word.len() / 3).min(2);
    let near = names.map(|name| (distance(word, name), name)).filter(|(distance, _)| *distance <= most);
    near.min().map(|(_, name)| name)
}

/// The words `; did you mean NAME?`, or none.
pub fn suggestion(word: &str, dashes: &str, names: impl Iterator<Item = &'static str>) -> String {
    nearest(word, names).map_or_else(String::new, |name| format!("; did you mean {dashes}{name}?"))
}

/// The number of letters to insert, remove or replace (Levenshtein's distance).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, above) in b.bytes().zip(row.into_iter().skip(1)) {
            let replaced = diagonal + usize::from(x != y);
            diagonal = above;
            left = replaced.min(left + 1).min(above + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_names_have_a_nearest_one() {
        let names = || ["create", "delete", "exec", "ps", "state", "start"].into_iter();
        for (word, near) in [
            ("crate", Some("create")),
            ("delet", Some("delete")),
            ("exce", None),
            ("exe", Some("exec")),
            ("statr", Some("state")),
            ("frobnicate", None),
            ("p", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, names()), near, "{word}");
        }
        assert_eq!((distance("kitten", "sitting"), distance("", "ab"), distance("a", "a")), (3, 2, 0));
    }
}
