//! Versions, and the requirements of advisories: `>= 1.2.3, < 1.3.0`, `^0.3.24`, `< 0.102.0-alpha.0`.

/// Major, minor, patch, and whether it is a release: a pre-release comes before it. Two pre-releases are taken for equal.
pub type Version = (u64, u64, u64, bool);

pub fn parse(text: &str) -> Version {
    let text = text.split('+').next().unwrap();
    let (numbers, is_release) = text.split_once('-').map_or((text, true), |(numbers, _)| (numbers, false));
    let mut numbers = numbers.split('.').map(|number| number.parse().expect("a number in a version"));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next(), is_release)
}

/// Returns true if a version fulfils all parts of a requirement, which has commas between them.
pub fn fulfils(version: Version, requirement: &str) -> bool {
    requirement.split(',').map(str::trim).all(|part| {
        let digits = part.find(|c: char| c.is_ascii_digit()).expect("a version in a requirement");
        let (operator, bound) = (part[..digits].trim(), parse(&part[digits..]));
        match operator {
            ">=" => version >= bound,
            ">" => version > bound,
            "<" => version < bound,
            "<=" => version <= bound,
            "=" => version == bound,
            "" | "^" => version >= bound && version < next_breaking(bound),
            "~" => version >= bound && version < (bound.0, bound.1 + 1, 0, false),
            other => panic!("operator {other:?} in {requirement:?}"),
        }
    })
}

fn next_breaking((major, minor, patch, _): Version) -> Version {
    match (major, minor) {
        (0, 0) => (0, 0, patch + 1, false),
        (0, minor) => (0, minor + 1, 0, false),
        (major, _) => (major + 1, 0, 0, false),
    }
}

#[test]
fn requirements_of_advisories_are_read() {
    for (version, requirement, expected) in [
        ("1.2.3", ">= 1.2.3", true),
        ("1.2.3", "> 1.2.3", false),
        ("1.2.3", ">= 1.2.4, < 1.3.0", false),
        ("1.2.9", ">= 1.2.4, < 1.3.0", true),
        ("0.3.25", "^0.3.24", true),
        ("0.4.0", "^0.3.24", false),
        ("0.102.0", "< 0.102.0-alpha.0", false),
        ("0.102.0-alpha.1", ">= 0.102.0", false),
        ("1.2.1+spec-1.1.0", ">= 1.2", true),
    ] {
        assert_eq!(fulfils(parse(version), requirement), expected, "{version} {requirement}");
    }
}
