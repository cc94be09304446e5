//! A plot of measured delays against a floor, as SVG.

use std::fmt::Write as _;

use crate::bench::line::float;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 48.0;

/// The share of trials that took at most so long, and the same of the floor. Both sorted or not.
pub(crate) fn svg(title: &str, measured: &[f64], floor: &[f64]) -> String {
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values
    };
    let (measured, floor) = (sorted(measured), sorted(floor));
    let longest = measured.iter().chain(&floor).copied().fold(1.0, f64::max);
    let end = longest.ceil();
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\" font-size=\"14\">{title}</text>\n"
    );
    axes(&mut text, end);
    curve(&mut text, &floor, end, "#888888");
    curve(&mut text, &measured, end, "#c0392b");
    for (index, (name, colour)) in [("floor", "#888888"), ("measured", "#c0392b")]
        .iter()
        .enumerate()
    {
        let y = HEIGHT - MARGIN - 12.0 - 16.0 * float(index);
        let x = WIDTH - MARGIN;
        add(
            &mut text,
            &format!(
                "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\" fill=\"{colour}\">{name}</text>"
            ),
        );
    }
    text.push_str("</svg>\n");
    text
}

fn axes(text: &mut String, end: f64) {
    let (left, right, bottom) = (MARGIN, WIDTH - MARGIN, HEIGHT - MARGIN);
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (y, label) = (at(0.0, share, end).1, share * 100.0);
        add(
            text,
            &format!(
                "<line x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label} %</text>",
                left - 6.0,
                y + 4.0
            ),
        );
    }
    let mut second = 0.0;
    while second <= end {
        let x = at(second, 0.0, end).0;
        add(
            text,
            &format!(
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{:.1}\" stroke=\"black\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{second} s</text>",
                bottom + 4.0,
                bottom + 18.0
            ),
        );
        second += 1.0;
    }
}

/// The distribution as steps.
fn curve(text: &mut String, sorted: &[f64], end: f64, colour: &str) {
    let all = float(sorted.len());
    let mut points = Vec::new();
    let mut share = 0.0;
    for (index, value) in sorted.iter().enumerate() {
        points.push(at(*value, share, end));
        share = float(index + 1) / all;
        points.push(at(*value, share, end));
    }
    // A floor has many values: neighbours that fall on one spot are one point.
    points.dedup_by(|a, b| (a.0 - b.0).abs() < 0.2 && (a.1 - b.1).abs() < 0.2);
    let points: Vec<String> = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let points = points.join(" ");
    add(
        text,
        &format!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{points}\"/>"
        ),
    );
}

fn at(seconds: f64, share: f64, end: f64) -> (f64, f64) {
    let (wide, high) = (WIDTH - 2.0 * MARGIN, HEIGHT - 2.0 * MARGIN);
    (
        MARGIN + wide * seconds / end,
        HEIGHT - MARGIN - high * share,
    )
}

fn add(text: &mut String, element: &str) {
    // Writing to a String cannot fail.
    writeln!(text, "{element}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_curves_reach_from_none_to_all() {
        let text = svg("t", &[2.0, 1.0], &[0.5, 1.5]);
        let curves: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("<polyline"))
            .collect();
        assert_eq!(curves.len(), 2, "{text}");
        for curve in curves {
            assert!(
                curve.contains(",272.0") && curve.contains(",48.0"),
                "{curve}"
            );
        }
    }
}
