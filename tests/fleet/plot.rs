//! Lines over time as SVG, for the pages in docs, and the tables in those.

// The fleet and the soak use their own part of this.
#![allow(dead_code)]

use std::fmt::Write;
use std::fs;
use std::path::Path;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 64.0;
const COLOURS: [&str; 4] = ["#1f6fb4", "#d9622b", "#2c8a4b", "#7a4fa3"];

pub struct Plot<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    /// Each with its name.
    pub lines: Vec<(&'a str, Vec<(f64, f64)>)>,
    /// Heights to compare with.
    pub levels: Vec<(String, f64)>,
}

/// A step of 1, 2 or 5 times a power of ten, of which `range` has ten at most.
fn tick(range: f64) -> f64 {
    let unit = 10f64.powf((range / 10.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|times| times * unit).into_iter().find(|step| range / step <= 10.0).unwrap_or(range)
}

/// With as many decimals as the steps between ticks have.
fn label(value: f64, step: f64) -> String {
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    format!("{value:.decimals$}")
}

impl Plot<'_> {
    pub fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let right = points().map(|point| point.0).fold(0.0, f64::max).max(1e-9);
        let left = points().map(|point| point.0).fold(f64::MAX, f64::min).min(right);
        let high = points().map(|point| point.1).chain(self.levels.iter().map(|level| level.1)).fold(0.0, f64::max);
        let high = if high > 0.0 { high * 1.05 } else { 1.0 };
        let x = |value: f64| LEFT + (value - left) / (right - left).max(1e-9) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - value / high * (HEIGHT - TOP - BOTTOM);

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"20\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
            self.title
        );
        let (bottom, end) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let step = tick(high);
        for index in 0..=(high / step) as u32 {
            let value = f64::from(index) * step;
            let at = y(value);
            let _ = writeln!(svg, "<path d=\"M{LEFT} {at:.1}H{end}\" stroke=\"#ddd\"/>");
            let (near, down) = (LEFT - 6.0, at + 4.0);
            let _ =
                writeln!(svg, "<text x=\"{near}\" y=\"{down:.1}\" text-anchor=\"end\">{}</text>", label(value, step));
        }
        let step = tick(right - left);
        for index in (left / step).ceil() as i64..=(right / step).floor() as i64 {
            let value = index as f64 * step;
            let (at, under) = (x(value), bottom + 5.0);
            let _ = writeln!(svg, "<path d=\"M{at:.1} {bottom}V{under}\" stroke=\"#222\"/>");
            let below = bottom + 19.0;
            let _ =
                writeln!(svg, "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{}</text>", label(value, step));
        }
        let _ = writeln!(svg, "<path d=\"M{LEFT} {TOP}V{bottom}H{end}\" fill=\"none\" stroke=\"#222\"/>");
        let (middle, under) = ((LEFT + end) / 2.0, bottom + 36.0);
        let _ = writeln!(svg, "<text x=\"{middle}\" y=\"{under}\" text-anchor=\"middle\">{}</text>", self.x);
        let centre = (TOP + bottom) / 2.0;
        let _ = writeln!(
            svg,
            "<text x=\"16\" y=\"{centre}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {centre})\">{}</text>",
            self.y
        );
        let mut key = LEFT;
        for ((name, points), colour) in self.lines.iter().zip(COLOURS) {
            let mut path = String::new();
            for (index, point) in points.iter().enumerate() {
                let command = if index == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{command}{:.1} {:.1}", x(point.0), y(point.1));
            }
            let _ = writeln!(svg, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.3\"/>");
            let (line, text, foot) = (HEIGHT - 12.0, key + 26.0, HEIGHT - 8.0);
            let _ = writeln!(svg, "<path d=\"M{key} {line}h20\" stroke=\"{colour}\" stroke-width=\"3\"/>");
            let _ = writeln!(svg, "<text x=\"{text}\" y=\"{foot}\">{name}</text>");
            key += 46.0 + 7.2 * name.len() as f64;
        }
        for (name, value) in &self.levels {
            let at = y(*value);
            let _ = writeln!(svg, "<path d=\"M{LEFT} {at:.1}H{end}\" stroke=\"#888\" stroke-dasharray=\"5 4\"/>");
            let (near, above) = (end - 4.0, at - 4.0);
            let _ = writeln!(
                svg,
                "<text x=\"{near}\" y=\"{above:.1}\" text-anchor=\"end\" fill=\"#555\" \
                 stroke=\"#fff\" stroke-width=\"4\" paint-order=\"stroke\">{name}</text>"
            );
        }
        svg + "</svg>\n"
    }
}

/// Puts `text` into a page, in the place of what is between the comments `<!-- mark -->` and `<!-- /mark -->`.
pub fn renew(page: &Path, mark: &str, text: &str) {
    let old = fs::read_to_string(page).unwrap_or_else(|error| panic!("cannot read {}: {error}", page.display()));
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
    let parts = old.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let (before, after) = parts.unwrap_or_else(|| panic!("{} has no place marked {mark}", page.display()));
    fs::write(page, format!("{before}{begin}{text}{end}{after}")).expect("the page can be written");
}

/// Puts `row` into a page, in the place of the line that has the comment `<!-- mark -->` in it.
pub fn renew_row(page: &Path, mark: &str, row: &str) {
    let old = fs::read_to_string(page).unwrap_or_else(|error| panic!("cannot read {}: {error}", page.display()));
    let comment = format!("<!-- {mark} -->");
    assert!(old.contains(&comment), "{} has no row marked {mark}", page.display());
    let lines = old.lines().map(|line| if line.contains(&comment) { row } else { line });
    fs::write(page, lines.collect::<Vec<_>>().join("\n") + "\n").expect("the page can be written");
}
