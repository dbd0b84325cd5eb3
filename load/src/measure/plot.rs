//! Bar charts and lines as SVG. Pure.

use std::fmt::Write as _;

/// Bars that stand together.
#[derive(Debug)]
pub struct Group {
    /// What stands below them.
    pub label: String,
    /// The bars, from left to right.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug)]
pub struct Bar {
    /// What it is of; decides its colour.
    pub series: String,
    /// Its height.
    pub value: f64,
    /// What its height is the median of.
    pub dots: Vec<f64>,
}

const HEIGHT: f64 = 260.0;
const TOP: f64 = 64.0;
const LEFT: f64 = 56.0;
const BAR: f64 = 26.0;
/// How high and wide a line may go.
const LINE: f64 = 130.0;
const WIDTH: f64 = 640.0;
const SPACE: f64 = 22.0;
/// Colours that stay apart for colour-blind eyes (Okabe and Ito), on white and on black.
const COLOURS: [&str; 7] = ["#999999", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];

/// The least that is drawn.
const BOTTOM: f64 = 0.125;

/// Draws groups of bars, on a scale of powers of two: twice as much is as far from once as once is from half.
#[must_use]
pub fn bars(title: &str, groups: &[Group]) -> String {
    let mut series: Vec<&str> = Vec::new();
    for bar in groups.iter().flat_map(|group| &group.bars) {
        if !series.contains(&bar.series.as_str()) {
            series.push(&bar.series);
        }
    }
    let all = groups.iter().flat_map(|group| &group.bars);
    let top = nice(all.flat_map(|bar| bar.dots.iter().copied().chain([bar.value])).fold(1.0, f64::max));
    let (mut body, mut x) = (String::new(), LEFT + SPACE);
    for group in groups {
        let start = x;
        for bar in &group.bars {
            let place = series.iter().position(|known| *known == bar.series).unwrap_or(0);
            draw(&mut body, bar, COLOURS.get(place % COLOURS.len()).copied().unwrap_or("#999999"), x, top);
            x += BAR;
        }
        text(&mut body, f64::midpoint(start, x), TOP + HEIGHT + 18.0, "middle", &group.label);
        x += SPACE;
    }
    let width = x.max(LEFT + SPACE + 110.0 * real(series.len()));
    let mut value = BOTTOM;
    while value <= top {
        let y = TOP + HEIGHT - height(value, top);
        put(&mut body, format_args!(r##"<line x1="{LEFT}" x2="{width:.0}" y1="{y:.1}" y2="{y:.1}" stroke="#8884"/>"##));
        text(&mut body, LEFT - 8.0, y + 4.0, "end", &value.to_string());
        value *= 2.0;
    }
    for (place, name) in series.iter().enumerate() {
        let (x, colour) =
            (LEFT + 110.0 * real(place), COLOURS.get(place % COLOURS.len()).copied().unwrap_or("#999999"));
        put(&mut body, format_args!(r#"<rect x="{x}" y="34" width="12" height="12" fill="{colour}"/>"#));
        text(&mut body, x + 18.0, 45.0, "start", name);
    }
    text(&mut body, LEFT, 20.0, "start", title);
    svg(width, TOP + HEIGHT + 32.0, &body)
}

/// Draws lines, each above an axis of its own that begins with 0; what they share runs from left to right.
#[must_use]
pub fn lines(shared: &str, lines: &[(&str, Vec<(f64, f64)>)]) -> String {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let right = points().map(|point| point.0).fold(1.0, f64::max);
    let (mut body, mut bottom) = (String::new(), 0.0);
    for (place, (name, points)) in lines.iter().enumerate() {
        let most = points.iter().map(|point| point.1).fold(1.0, f64::max);
        bottom += LINE + 36.0;
        text(&mut body, LEFT, bottom - LINE - 12.0, "start", name);
        for value in [0.0, most / 2.0, most] {
            let y = bottom - LINE * value / most;
            let end = LEFT + WIDTH;
            put(&mut body, format_args!(r##"<line x1="{LEFT}" x2="{end}" y1="{y:.1}" y2="{y:.1}" stroke="#8884"/>"##));
            text(&mut body, LEFT - 8.0, y + 4.0, "end", &format!("{value:.0}"));
        }
        let at = |&(x, y): &(f64, f64)| format!("{:.1},{:.1}", LEFT + WIDTH * x / right, bottom - LINE * y / most);
        let path = points.iter().map(at).collect::<Vec<_>>().join(" ");
        let colour = COLOURS.iter().cycle().nth(place + 1).copied().unwrap_or("#999999");
        put(&mut body, format_args!(r#"<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>"#));
    }
    text(&mut body, LEFT, bottom + 18.0, "middle", "0");
    text(&mut body, LEFT + WIDTH, bottom + 18.0, "end", &format!("{right:.0} {shared}"));
    svg(LEFT + WIDTH + 16.0, bottom + 32.0, &body)
}

fn svg(width: f64, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         font-family=\"sans-serif\" font-size=\"13\" fill=\"#777\">\n{body}</svg>\n"
    )
}

fn draw(body: &mut String, bar: &Bar, colour: &str, x: f64, top: f64) {
    let tall = height(bar.value, top);
    let (y, width, middle) = (TOP + HEIGHT - tall, BAR - 4.0, x + BAR / 2.0 - 2.0);
    put(
        body,
        format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width}" height="{tall:.1}" fill="{colour}"><title>{}: {:.2}</title></rect>"#,
            escape(&bar.series),
            bar.value
        ),
    );
    for dot in &bar.dots {
        let y = TOP + HEIGHT - height(*dot, top);
        put(
            body,
            format_args!(
                r##"<circle cx="{middle:.1}" cy="{y:.1}" r="2" fill="#0006" stroke="#fff8" stroke-width="0.5"/>"##
            ),
        );
    }
}

/// How high a value stands above the axis.
fn height(value: f64, top: f64) -> f64 {
    HEIGHT * (value.max(BOTTOM) / BOTTOM).log2() / (top / BOTTOM).log2()
}

fn text(body: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    put(body, format_args!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escape(text)));
}

fn put(body: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    writeln!(body, "{line}").ok();
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The next of 1, 2, 4, 8 ….
fn nice(value: f64) -> f64 {
    let mut top = 1.0;
    while top < value {
        top *= 2.0;
    }
    top
}

fn real(count: usize) -> f64 {
    super::figures::real(count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_and_round_is_drawn() {
        let bar = |series: &str, value: f64| Bar { series: series.into(), value, dots: vec![value, value * 1.1] };
        let group = |label: &str| Group { label: label.into(), bars: vec![bar("a<b", 1.0), bar("c", 3.0)] };
        let drawn = bars("title & more", &[group("A"), group("B")]);
        assert_eq!((drawn.matches("<rect").count(), drawn.matches("<circle").count()), (4 + 2, 8));
        assert!(drawn.contains("a&lt;b") && drawn.contains("title &amp; more"));
        let once = HEIGHT * 3.0 / 5.0;
        assert!(
            drawn.contains(&format!("height=\"{once:.1}\"")),
            "from an eighth to 4 are five steps, and once is the third"
        );
    }

    #[test]
    fn lines_reach_their_highest_values() {
        let drawn = lines("minutes", &[("MiB", vec![(0.0, 0.0), (2.0, 40.0)]), ("files", vec![(2.0, 9.0)])]);
        assert_eq!(drawn.matches("<polyline").count(), 2);
        assert!(drawn.contains("points=\"56.0,166.0 696.0,36.0\"") && drawn.contains("2 minutes"), "{drawn}");
    }

    #[test]
    fn axes_end_at_powers_of_two() {
        assert!([(0.3, 1.0), (1.1, 2.0), (3.3, 4.0)].iter().all(|&(value, top)| (nice(value) - top).abs() < 1e-9));
    }
}
