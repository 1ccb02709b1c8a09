//! Plots as SVG, from the results alone: bars beside each other, and lines against a growing size.
//!
//! Colours and sizes are few and fixed. The picture has a title, the units and the figure of every bar, so that it can
//! be read without the table.

use super::{Contestant, Measure, Results, table::amount};

/// The width of a picture and of its parts (SVG's user units).
const WIDTH: u64 = 760;
const LEFT: u64 = 80;
const RIGHT: u64 = 120;
const BAR: u64 = 16;
const GAP: u64 = 14;
const TOP: u64 = 48;

/// Draws a group of bars per measure and a bar per contestant. Each group has a scale of its own.
pub fn bars(title: &str, measures: &[&Measure], results: &Results) -> String {
    let mut body = String::new();
    let mut y = TOP;
    for measure in measures {
        let values: Vec<(Contestant, u64)> =
            Contestant::ALL.into_iter().filter_map(|who| Some((who, results.median(measure, who)?))).collect();
        let most = values.iter().map(|(_, value)| *value).max().unwrap_or(1).max(1);
        body += &text(16, y + BAR - 4, "start", measure.title.trim());
        y += BAR + 2;
        for (who, value) in values {
            let length = (WIDTH - LEFT - RIGHT) * value / most;
            let (base, colour) = (y + BAR - 4, colour(who));
            body += &text(LEFT - 8, base, "end", who.name());
            body += &format!(
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{}\" height=\"{}\" fill=\"{colour}\"/>\n",
                length.max(1),
                BAR - 2
            );
            body += &text(LEFT + length + 6, base, "start", &amount(measure.unit, value));
            y += BAR;
        }
        y += GAP;
    }
    picture(title, y, &body)
}

/// Draws a line per contestant: the value (linear from zero) against the size (logarithmic).
pub fn lines(title: &str, across: &str, measure: &Measure, results: &Results) -> String {
    const HEIGHT: u64 = 220;
    let lines: Vec<(Contestant, Vec<(u64, u64)>)> = Contestant::ALL
        .into_iter()
        .map(|who| (who, results.growth(measure, who).filter_map(|(at, s)| Some((at, s.median()?))).collect()))
        .filter(|(_, points): &(_, Vec<_>)| !points.is_empty())
        .collect();
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let most = points().map(|(_, value)| value).max().unwrap_or(1).max(1);
    let widest = points().map(|(at, _)| at).max().unwrap_or(1);
    let narrowest = points().map(|(at, _)| at).min().unwrap_or(1);
    let (left, right, bottom) = (90, WIDTH - RIGHT, TOP + HEIGHT);
    let x = |at: u64| {
        let (span, here) = (thousandths_of_log(widest, narrowest), thousandths_of_log(at, narrowest));
        left + (right - left) * here / span.max(1)
    };
    let y = |value: u64| bottom - HEIGHT * value / most;
    let mut body = format!("<path d=\"M{left} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#888\"/>\n");
    for part in 0..=4 {
        let value = most * part / 4;
        body += &text(left - 6, y(value) + 4, "end", &amount(measure.unit, value));
    }
    let mut sizes: Vec<u64> = points().map(|(at, _)| at).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for at in sizes {
        body += &text(x(at), bottom + 16, "middle", &at.to_string());
    }
    body += &text((left + right) / 2, bottom + 34, "middle", across);
    for (who, points) in &lines {
        let colour = colour(*who);
        let path: Vec<String> = points.iter().map(|(at, value)| format!("{} {}", x(*at), y(*value))).collect();
        body += &format!("<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n", path.join("L"));
        for (at, value) in points {
            body += &format!("<circle cx=\"{}\" cy=\"{}\" r=\"3\" fill=\"{colour}\"/>\n", x(*at), y(*value));
        }
        if let Some((at, value)) = points.last() {
            body +=
                &text(x(*at) + 8, y(*value) + 4, "start", &format!("{} {}", who.name(), amount(measure.unit, *value)));
        }
    }
    picture(title, bottom + 44, &body)
}

fn picture(title: &str, height: u64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"#222\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"15\" font-weight=\"bold\">{}</text>\n{body}</svg>\n",
        escaped(title)
    )
}

fn text(x: u64, y: u64, anchor: &str, words: &str) -> String {
    format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>\n", escaped(words))
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn colour(who: Contestant) -> &'static str {
    match who {
        Contestant::Berth => "#1f6feb",
        Contestant::Runc => "#d1652f",
        Contestant::Crun => "#c9a227",
        Contestant::Null => "#8a8f98",
        Contestant::Bare => "#b9bec6",
    }
}

/// Returns 1000 · log2(`value` ÷ `of`) in integers: exact at powers of two, linear between them.
fn thousandths_of_log(value: u64, of: u64) -> u64 {
    let ratio = value * 1024 / of.max(1);
    let doublings = u64::from(ratio.max(1024).ilog2());
    let base = 1_u64 << doublings;
    (doublings - 10) * 1000 + (ratio.max(base) - base) * 1000 / base
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Measure = Measure::time("run", "create & start <now>");

    /// Returns whether every element is closed in the order in which it was opened, and no `<` or `&` is unescaped.
    fn well_formed(svg: &str) -> bool {
        let mut open = Vec::new();
        let mut rest = svg;
        while let Some((before, after)) = rest.split_once('<') {
            if before
                .replace("&amp;", "")
                .replace("&lt;", "")
                .replace("&gt;", "")
                .replace("&quot;", "")
                .contains(['&', '>'])
            {
                return false;
            }
            let Some((tag, after)) = after.split_once('>') else { return false };
            rest = after;
            if tag.matches('"').count() % 2 != 0 {
                return false;
            }
            match tag.strip_prefix('/') {
                Some(name) if open.pop() != Some(name) => return false,
                None if !tag.ends_with('/') => open.push(tag.split(' ').next().unwrap()),
                _ => {}
            }
        }
        open.is_empty() && rest.trim().is_empty()
    }

    #[test]
    fn control_check_finds_malformed_xml() {
        assert!(well_formed("<a><b x=\"1\"/></a>"));
        for bad in ["<a>", "<a></b>", "<a>1 & 2</a>", "<a x=\"1></a>", "<a></a>b"] {
            assert!(!well_formed(bad), "{bad}");
        }
    }

    #[test]
    fn bars_are_well_formed_and_show_every_figure() {
        let mut results = Results::default();
        results.add(&RUN, Contestant::Berth, 10_000_000);
        results.add(&RUN, Contestant::Runc, 80_000_000);
        let svg = bars("one & two", &[&RUN], &results);
        assert!(well_formed(&svg), "{svg}");
        for word in ["10.0 ms", "80.0 ms", "berth", "runc", "one &amp; two", "&lt;now&gt;"] {
            assert!(svg.contains(word), "{word} in {svg}");
        }
        // The longest bar has the whole width, and the others their share of it.
        assert!(svg.contains("width=\"560\"") && svg.contains("width=\"70\""), "{svg}");
    }

    #[test]
    fn lines_are_well_formed_with_and_without_values() {
        let mut results = Results::default();
        for (at, ms) in [(1, 10), (20, 11), (200, 12), (500, 12)] {
            results.add_at(&RUN, Contestant::Berth, at, ms * 1_000_000);
        }
        let svg = lines("growth", "pods", &RUN, &results);
        assert!(well_formed(&svg) && svg.matches("<circle").count() == 4, "{svg}");
        assert!(well_formed(&lines("nothing", "pods", &RUN, &Results::default())));
    }

    #[test]
    fn logarithms_grow_evenly() {
        assert_eq!([1, 2, 4, 1024].map(|value| thousandths_of_log(value, 1)), [0, 1000, 2000, 10_000]);
        assert_eq!(thousandths_of_log(3, 2), 500);
    }
}
