//! Lines over two logarithmic axes, as SVG.

use std::fmt::Write as _;
use std::fs;

use crate::workspace;

/// Where the pictures are.
const IMAGES: &str = "docs/img";
/// Size of the picture and of the margins around the axes, in pixels.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 110.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Colours of the lines, readable on light and dark grounds.
const COLOURS: [&str; 4] = ["#1f77b4", "#d62728", "#7f7f7f", "#2ca02c"];

/// A line: its name, and its points from left to right.
pub(super) struct Line {
    pub(super) name: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A picture of lines.
pub(super) struct Plot {
    pub(super) title: String,
    /// What grows to the right.
    pub(super) across: String,
    pub(super) lines: Vec<Line>,
}

/// A logarithmic axis over whole decades, from one pixel to another.
struct Axis {
    low: i32,
    high: i32,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let low = values
            .clone()
            .fold(f64::INFINITY, f64::min)
            .max(1.0)
            .log10();
        let high = values.fold(1.0, f64::max).log10();
        let low = low.floor() as i32;
        Self {
            low,
            high: (high.ceil() as i32).max(low + 1),
            from,
            to,
        }
    }

    fn pixel(&self, value: f64) -> f64 {
        let decades = f64::from(self.high - self.low);
        let share = (value.max(1.0).log10() - f64::from(self.low)) / decades;
        self.from + share * (self.to - self.from)
    }

    fn decades(&self) -> impl Iterator<Item = (f64, String)> {
        (self.low..=self.high).map(|exponent| {
            let value = 10f64.powi(exponent);
            let label = match exponent {
                ..3 => format!("{value:.0}"),
                3..6 => format!("{:.0} k", value / 1e3),
                6.. => format!("{:.0} M", value / 1e6),
            };
            (value, label)
        })
    }
}

impl Plot {
    /// Writes the picture to where the documents show it from.
    pub(super) fn write(&self, name: &str) -> Result<(), String> {
        let directory = workspace::root().join(IMAGES);
        fs::create_dir_all(&directory).map_err(|e| format!("{IMAGES}: {e}"))?;
        let written = fs::write(directory.join(name), self.to_svg());
        written.map_err(|e| format!("{IMAGES}/{name}: {e}"))
    }

    /// The picture.
    fn to_svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x = Axis::over(points().map(|p| p.0), LEFT, WIDTH - RIGHT);
        let y = Axis::over(points().map(|p| p.1), HEIGHT - BOTTOM, TOP);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             font-family=\"sans-serif\" font-size=\"13\" fill=\"#555\">\n"
        );
        text(&mut svg, (WIDTH / 2.0, TOP / 2.0), "middle", &self.title);
        text(
            &mut svg,
            (WIDTH / 2.0, HEIGHT - 10.0),
            "middle",
            &self.across,
        );
        for (value, label) in x.decades() {
            let at = x.pixel(value);
            stroke(&mut svg, "#ccc", &[(at, TOP), (at, HEIGHT - BOTTOM)]);
            text(&mut svg, (at, HEIGHT - BOTTOM + 18.0), "middle", &label);
        }
        for (value, label) in y.decades() {
            let at = y.pixel(value);
            stroke(&mut svg, "#ccc", &[(LEFT, at), (WIDTH - RIGHT, at)]);
            text(&mut svg, (LEFT - 8.0, at + 4.0), "end", &label);
        }
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let pixels = line.points.iter().map(|p| (x.pixel(p.0), y.pixel(p.1)));
            let pixels: Vec<_> = pixels.collect();
            stroke(&mut svg, colour, &pixels);
            if let Some((right, height)) = pixels.last() {
                text(&mut svg, (right + 8.0, height + 4.0), "start", line.name);
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, content: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{content}</text>"
    );
}

fn stroke(svg: &mut String, colour: &str, points: &[(f64, f64)]) {
    let points: Vec<_> = points
        .iter()
        .map(|(x, y)| format!("{x:.1},{y:.1}"))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
        points.join(" ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_span_whole_decades_and_points_lie_on_them() {
        let axis = Axis::over([3.0, 450.0].into_iter(), 0.0, 300.0);
        assert_eq!((axis.low, axis.high), (0, 3));
        assert_eq!(axis.pixel(1.0), 0.0);
        assert_eq!(axis.pixel(10.0), 100.0);
        assert_eq!(axis.pixel(1000.0), 300.0);
        let labels: Vec<_> = axis.decades().map(|(_, label)| label).collect();
        assert_eq!(labels, ["1", "10", "100", "1 k"]);
    }

    #[test]
    fn every_line_is_drawn_and_named() {
        let line = |name| Line {
            name,
            points: vec![(1.0, 10.0), (100.0, 1e5)],
        };
        let plot = Plot {
            title: "t".to_string(),
            across: "clients".to_string(),
            lines: vec![line("one"), line("two")],
        };
        let svg = plot.to_svg();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains(">one</text>") && svg.contains(">two</text>"));
    }
}
