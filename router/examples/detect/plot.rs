//! Time to detect by cell, on a logarithmic scale, as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 56.0;
/// Powers of ten of a second.
const LOWEST: f64 = -2.0;
const HIGHEST: f64 = 3.0;
const GREY: &str = "#888888";

/// One cell with so many routers.
pub(crate) struct Mark {
    /// Its name.
    pub(crate) cell: String,
    pub(crate) series: Series,
    /// What no test can beat on average.
    pub(crate) wald: f64,
    pub(crate) median: f64,
    /// The 99th percentile.
    pub(crate) late: f64,
}

/// What a mark is of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Series {
    /// One router, a canary that is bad from the start.
    One,
    /// The same with three.
    Three,
    /// Three, and a canary that was good for so many minutes.
    Turned(u64),
}

/// Draws them; marks of one cell stand side by side.
pub(crate) fn svg(marks: &[Mark]) -> String {
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"20\" font-size=\"14\">Until a bad canary is out, median to 99th percentile</text>\n"
    );
    axis(&mut text);
    let mut cells: Vec<&str> = marks.iter().map(|mark| mark.cell.as_str()).collect();
    cells.dedup();
    let wide = (WIDTH - 2.0 * MARGIN) / cells.len() as f64;
    for (place, cell) in cells.iter().enumerate() {
        let left = MARGIN + wide * place as f64;
        let of_cell: Vec<&Mark> = marks.iter().filter(|mark| mark.cell == *cell).collect();
        for (nth, mark) in of_cell.iter().enumerate() {
            let x = left + wide * (nth as f64 + 1.0) / (of_cell.len() as f64 + 1.0);
            draw(&mut text, x, mark);
        }
        if let Some(mark) = of_cell.first() {
            let (x, y) = (left + wide * 0.1, height(mark.wald));
            let end = x + wide * 0.8;
            add(
                &mut text,
                &format!(
                    "<line x1=\"{x:.1}\" x2=\"{end:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{GREY}\" stroke-width=\"2\"/>"
                ),
            );
        }
        let (x, y) = (left + wide / 2.0, HEIGHT - MARGIN + 16.0);
        add(
            &mut text,
            &format!(
                "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"10\" text-anchor=\"middle\">{cell}</text>"
            ),
        );
    }
    legend(&mut text);
    text.push_str("</svg>\n");
    text
}

fn draw(text: &mut String, x: f64, mark: &Mark) {
    let (low, high, colour) = (height(mark.median), height(mark.late), colour(mark.series));
    add(
        text,
        &format!(
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{low:.1}\" y2=\"{high:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <circle cx=\"{x:.1}\" cy=\"{low:.1}\" r=\"4\" fill=\"{colour}\"/>"
        ),
    );
}

fn legend(text: &mut String) {
    let names = [
        ("Wald: the best on average", GREY),
        ("one router", colour(Series::One)),
        ("three routers", colour(Series::Three)),
        ("… good for 1 min before", colour(Series::Turned(1))),
        ("… for 10 min", colour(Series::Turned(10))),
    ];
    for ((name, colour), x) in names.iter().zip([56.0, 215.0, 290.0, 385.0, 535.0]) {
        let y = HEIGHT - 10.0;
        add(
            text,
            &format!("<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{name}</text>"),
        );
    }
    let (x, y) = (WIDTH / 2.0, HEIGHT - 26.0);
    add(
        text,
        &format!(
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">weight, errors of the canary</text>"
        ),
    );
}

fn colour(series: Series) -> &'static str {
    match series {
        Series::One => "#c0392b",
        Series::Three => "#2980b9",
        Series::Turned(1) => "#27ae60",
        Series::Turned(_) => "#8e44ad",
    }
}

fn axis(text: &mut String) {
    let (left, right) = (MARGIN, WIDTH - MARGIN);
    for (power, label) in (-2..).zip(["10 ms", "100 ms", "1 s", "10 s", "100 s", "1000 s"]) {
        let y = height(10_f64.powi(power));
        let (x, base) = (left - 6.0, y + 4.0);
        add(
            text,
            &format!(
                "<line x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\
                 <text x=\"{x:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{label}</text>"
            ),
        );
    }
}

fn height(seconds: f64) -> f64 {
    let part = (seconds.log10() - LOWEST) / (HIGHEST - LOWEST);
    HEIGHT - MARGIN - (HEIGHT - 2.0 * MARGIN) * part.clamp(0.0, 1.0)
}

fn add(text: &mut String, element: &str) {
    // Writing to a String cannot fail.
    writeln!(text, "{element}").unwrap_or_default();
}
