//! A bar chart of processor time for one request, as SVG.

use std::fmt::Write as _;

use crate::bench::line::float;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const MARGIN: f64 = 48.0;
const COLOURS: [&str; 6] = [
    "#888888", "#2980b9", "#27ae60", "#8e44ad", "#c0392b", "#333333",
];

/// Groups of bars: a label, and a name and a value for each bar.
pub(super) type Groups = Vec<(String, Vec<(String, f64)>)>;

/// Draws the groups side by side.
pub(super) fn svg(title: &str, unit: &str, groups: &Groups) -> String {
    let largest = groups
        .iter()
        .flat_map(|(_, bars)| bars)
        .map(|(_, value)| *value);
    // Five steps of a whole number.
    let top = (largest.fold(1.0, f64::max) / 5.0).ceil() * 5.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    axis(&mut text, unit, top);
    let group_width = (WIDTH - 2.0 * MARGIN) / float(groups.len()).max(1.0);
    for (index, (label, bars)) in groups.iter().enumerate() {
        let left = MARGIN + group_width * float(index);
        let width = group_width * 0.8 / float(bars.len()).max(1.0);
        for (place, (_, value)) in bars.iter().enumerate() {
            let (x, y) = (
                left + group_width * 0.1 + width * float(place),
                height(*value, top),
            );
            let bar = HEIGHT - MARGIN - y;
            let colour = colour(place);
            add(
                &mut text,
                &format!(
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{bar:.1}\" fill=\"{colour}\"/>"
                ),
            );
        }
        let (x, y) = (left + group_width / 2.0, HEIGHT - MARGIN + 16.0);
        add(
            &mut text,
            &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{label}</text>"),
        );
    }
    let names = groups.first().map_or(&[][..], |(_, bars)| bars.as_slice());
    for (place, (name, _)) in names.iter().enumerate() {
        let x = MARGIN + (WIDTH - 2.0 * MARGIN) / float(names.len()) * float(place);
        let (y, colour) = (HEIGHT - 10.0, colour(place));
        add(
            &mut text,
            &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\">{name}</text>"),
        );
    }
    text.push_str("</svg>\n");
    text
}

fn axis(text: &mut String, unit: &str, top: f64) {
    for part in 0..=5_u32 {
        let value = top * f64::from(part) / 5.0;
        let y = height(value, top);
        let (left, right) = (MARGIN, WIDTH - MARGIN);
        add(
            text,
            &format!(
                "<line x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.0} {unit}</text>",
                left - 4.0,
                y + 4.0
            ),
        );
    }
}

fn height(value: f64, top: f64) -> f64 {
    HEIGHT - MARGIN - (HEIGHT - 2.0 * MARGIN) * value / top
}

fn colour(place: usize) -> &'static str {
    COLOURS
        .get(place % COLOURS.len())
        .copied()
        .unwrap_or("black")
}

fn add(text: &mut String, element: &str) {
    // Writing to a String cannot fail.
    writeln!(text, "{element}").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_high_as_its_value() {
        let bars = vec![("one".to_owned(), 5.0), ("two".to_owned(), 10.0)];
        let text = svg("t", "µs", &vec![("c1".to_owned(), bars)]);
        // 224 points stand for the largest value.
        assert!(text.contains("height=\"112.0\""), "{text}");
        assert!(text.contains("height=\"224.0\""), "{text}");
        assert!(text.contains(">two</text>"), "{text}");
    }
}
