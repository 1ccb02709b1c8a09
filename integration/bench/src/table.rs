//! The table: a row per measure and a column per contestant, in Markdown that a terminal shows well.

use super::{Contestant, Measure, Results, Series, Unit};

/// Returns the table of all measures of a run.
pub fn table(results: &Results) -> String {
    let columns: Vec<Contestant> = Contestant::ALL.into_iter().filter(|who| takes_part(results, *who)).collect();
    let mut head = vec!["median (middle half)".to_owned()];
    head.extend(columns.iter().map(|who| who.name().to_owned()));
    head.extend(["runc ÷ berth", "crun ÷ berth"].map(String::from));
    let mut rows = vec![head];
    for measure in results.measures() {
        for at in results.sizes(measure) {
            let series = |who: Contestant| results.series_at(measure, who, at);
            let mut row = vec![at.map_or(measure.title.to_owned(), |at| format!("{} [{at}]", measure.title))];
            row.extend(columns.iter().map(|who| series(*who).map_or(String::new(), |series| cell(measure, series))));
            let berth = series(Contestant::Berth).and_then(Series::median);
            for peer in [Contestant::Runc, Contestant::Crun] {
                let peer = series(peer).and_then(Series::median);
                row.push(berth.zip(peer).map_or(String::new(), |(berth, peer)| times(peer, berth)));
            }
            rows.push(row);
        }
    }
    aligned(&rows)
}

/// Formats rows of equal length as a Markdown table with padded columns. The first row is the head.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default().max(3)).collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        text.push('|');
        for (cell, width) in row.iter().zip(&widths) {
            let padding = " ".repeat(width - cell.chars().count());
            text.push_str(&format!(" {cell}{padding} |"));
        }
        text.push('\n');
        if index == 0 {
            let rule = |width: &usize| format!(" {} |", "-".repeat(*width));
            text.push_str(&format!("|{}\n", widths.iter().map(rule).collect::<String>()));
        }
    }
    text
}

/// Formats a value with its unit and three significant digits.
pub fn amount(unit: Unit, value: u64) -> String {
    let scaled = |one: u64, name: &str| format!("{} {name}", digits(value, one));
    match (unit, value) {
        (Unit::Nanoseconds, 0..1_000_000) => scaled(1_000, "µs"),
        (Unit::Nanoseconds, 1_000_000..1_000_000_000) => scaled(1_000_000, "ms"),
        (Unit::Nanoseconds, _) => scaled(1_000_000_000, "s"),
        (Unit::Bytes, 0..1_048_576) => scaled(1024, "kB"),
        (Unit::Bytes, _) => scaled(1_048_576, "MB"),
        (Unit::Count, _) => value.to_string(),
    }
}

/// Formats the ratio of `value` to `of`.
pub fn times(value: u64, of: u64) -> String {
    if of == 0 { "–".into() } else { format!("{} ×", digits(value, of)) }
}

/// Formats `value` in units of `one`, with three significant digits.
fn digits(value: u64, one: u64) -> String {
    let thousandths = u128::from(value) * 1000 / u128::from(one.max(1));
    let (places, step) = match thousandths {
        0..10_000 => (2, 10),
        10_000..100_000 => (1, 100),
        _ => (0, 1000),
    };
    let rounded = (thousandths + step / 2) / step;
    let base = 10_u128.pow(places);
    let (whole, rest) = (rounded / base, rounded % base);
    if places == 0 { whole.to_string() } else { format!("{whole}.{rest:0width$}", width = places as usize) }
}

fn cell(measure: &Measure, series: &Series) -> String {
    let amount = |value| amount(measure.unit, value);
    match (series.median(), series.quartiles()) {
        (Some(median), Some((low, high))) if low != high => {
            format!("{} ({}–{})", amount(median), number(&amount(low)), number(&amount(high)))
        }
        (Some(median), _) => amount(median),
        _ => String::new(),
    }
}

/// Formats a quartile without the blank before its unit.
fn number(text: &str) -> String {
    text.replace(' ', "")
}

fn takes_part(results: &Results, who: Contestant) -> bool {
    let has =
        |measure: &Measure| results.sizes(measure).into_iter().any(|at| results.series_at(measure, who, at).is_some());
    results.measures().iter().any(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_three_significant_digits() {
        let time = |ns| amount(Unit::Nanoseconds, ns);
        assert_eq!(time(850), "0.85 µs");
        assert_eq!(time(12_345), "12.3 µs");
        assert_eq!(time(999_499), "999 µs");
        assert_eq!(time(1_005_000), "1.01 ms");
        assert_eq!(time(78_460_000), "78.5 ms");
        assert_eq!(time(2_500_000_000), "2.50 s");
        assert_eq!(amount(Unit::Bytes, 135_168), "132 kB");
        assert_eq!(amount(Unit::Bytes, 1_782_579), "1.70 MB");
        assert_eq!(amount(Unit::Count, 1234), "1234");
    }

    #[test]
    fn ratio_to_zero_is_a_dash() {
        assert_eq!(times(78, 12), "6.50 ×");
        assert_eq!(times(5, 0), "–");
    }

    #[test]
    fn table_has_a_row_per_measure_and_size() {
        let mut results = Results::default();
        let (run, grown) = (Measure::time("run", "run"), Measure::time("grown", "exec at pods"));
        for (who, values) in [(Contestant::Berth, [9, 10, 11]), (Contestant::Runc, [70, 80, 90])] {
            values.into_iter().for_each(|ms| results.add(&run, who, ms * 1_000_000));
        }
        results.add_at(&grown, Contestant::Berth, 20, 1_000_000);
        let text = table(&results);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[0].contains("berth") && lines[0].contains("runc") && !lines[0].contains("| null"), "{text}");
        assert!(lines[2].contains("10.0 ms (9.00ms–11.0ms)") && lines[2].contains("8.00 ×"), "{text}");
        assert!(lines[3].starts_with("| exec at pods [20]"), "{text}");
        let widths: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
    }
}
