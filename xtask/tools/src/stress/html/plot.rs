//! The plots of the HTML report, as SVG.
//!
//! A plot is 400 units wide, so that its text is readable on a phone.

use std::{collections::BTreeMap, fmt::Write};

use boot::breadcrumb::NAMES;

use harness::xml::escaped;

use super::super::histogram::Histogram;

const WIDTH: f64 = 400.0;

/// Draws a square for each colour and name.
pub fn squares(squares: &[(&str, String)]) -> String {
    const ROW: usize = 24;
    const SIZE: f64 = WIDTH / ROW as f64;
    let mut text = svg(squares.len().div_ceil(ROW) as f64 * SIZE, "cells");
    for (number, (colour, name)) in squares.iter().enumerate() {
        let (x, y, side) = ((number % ROW) as f64 * SIZE, (number / ROW) as f64 * SIZE, SIZE - 2.0);
        let _ = write!(
            text,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{side:.1}\" height=\"{side:.1}\" \
             rx=\"2\" fill=\"{colour}\"><title>{}</title></rect>",
            escaped(name)
        );
    }
    text + "</svg>"
}

/// Draws a histogram of times for each phase, in the order of the phases.
pub fn phases(phases: &BTreeMap<String, Histogram>) -> String {
    const LANE: f64 = 46.0;
    const BARS: f64 = 26.0;
    let order = |name: &str| {
        let way_in = ["first instruction", "EL2 set up", "MMU on", "main"];
        NAMES.iter().chain(&way_in).position(|known| *known == name).unwrap_or(usize::MAX)
    };
    let mut lanes: Vec<_> = phases.iter().filter(|(_, times)| times.count() > 0).collect();
    lanes.sort_by_key(|(name, _)| order(name));
    let Some(scale) =
        Scale::of(lanes.iter().flat_map(|(_, times)| times.steps()).map(|(value, _)| value))
    else {
        return String::new();
    };
    let height = lanes.len() as f64 * LANE;
    let mut text = svg(height + 18.0, "times from breadcrumb to breadcrumb");
    scale.grid(&mut text, height);
    for (number, (name, times)) in lanes.iter().enumerate() {
        let top = number as f64 * LANE;
        let (median, late) =
            (times.quantile(0.5).unwrap_or_default(), times.quantile(0.99).unwrap_or_default());
        let _ = write!(
            text,
            "<text x=\"0\" y=\"{:.1}\">{}: median {}, p99 {}</text>",
            top + 13.0,
            escaped(name),
            time(median),
            time(late)
        );
        let most = times.steps().map(|(_, count)| count).max().unwrap_or(1) as f64;
        let floor = top + 18.0 + BARS;
        for (value, count) in times.steps() {
            let high = (BARS * count as f64 / most).max(1.0);
            let _ = write!(
                text,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{high:.1}\" \
                 fill=\"var(--mark)\" opacity=\".7\"/>",
                scale.x(value) - scale.step() / 2.0,
                floor - high,
                scale.step().max(1.0)
            );
        }
        let x = scale.x(median);
        let _ = write!(
            text,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{floor:.1}\" \
             stroke=\"var(--ink)\"/>",
            floor - BARS
        );
    }
    text + "</svg>"
}

/// Plots the median and the middle eight tenths of times by number of generation.
pub fn ages(ages: &BTreeMap<u32, Histogram>) -> String {
    const HEIGHT: f64 = 150.0;
    const LEFT: f64 = 52.0;
    let points: Vec<_> = ages
        .iter()
        .filter_map(|(&age, times)| {
            Some((
                f64::from(age.max(1)),
                [times.quantile(0.1)?, times.quantile(0.5)?, times.quantile(0.9)?],
            ))
        })
        .collect();
    let Some(of) = Scale::of(points.iter().flat_map(|(_, times)| *times)) else {
        return String::new();
    };
    let Some(along) = Scale::of(points.iter().map(|&(age, _)| age)) else { return String::new() };
    let x = |age: f64| LEFT + along.x(age) * (WIDTH - LEFT - 4.0) / WIDTH;
    let y = |value: f64| 6.0 + (WIDTH - of.x(value)) * (HEIGHT - 12.0) / WIDTH;
    let place = |age: f64, value: f64| format!("{:.1},{:.1}", x(age), y(value));
    let mut text = svg(HEIGHT + 20.0, "time of a generation by its number");
    for value in of.decades() {
        let at = y(value);
        let _ = write!(
            text,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\" \
             stroke=\"var(--line)\"/><text x=\"0\" y=\"{:.1}\">{}</text>",
            at + 4.0,
            time(value)
        );
    }
    let low = points.iter().map(|(age, times)| place(*age, times[0]));
    let high = points.iter().rev().map(|(age, times)| place(*age, times[2]));
    let band = low.chain(high).collect::<Vec<_>>().join(" ");
    let median =
        points.iter().map(|(age, times)| place(*age, times[1])).collect::<Vec<_>>().join(" ");
    let _ = write!(text, "<polygon points=\"{band}\" fill=\"var(--mark)\" opacity=\".25\"/>");
    let _ = write!(
        text,
        "<polyline points=\"{median}\" fill=\"none\" stroke=\"var(--mark)\" stroke-width=\"2\"/>"
    );
    let ends = [("start", points.first()), ("end", points.last())];
    for (anchor, point) in ends.into_iter().take(points.len()) {
        let Some((age, _)) = point else { continue };
        let _ = write!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{age:.0}</text>",
            x(*age),
            HEIGHT + 14.0
        );
    }
    text + "</svg>"
}

/// A logarithmic scale over the width.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// The scale from the least of `values` to the greatest, with one tenth of room at both ends;
    /// `None` without values.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = values
            .fold((f64::MAX, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        (high > 0.0).then(|| Self { low: (low * 0.9).log10(), high: (high * 1.1).log10() })
    }

    fn x(&self, value: f64) -> f64 {
        (value.log10() - self.low) / (self.high - self.low) * WIDTH
    }

    /// The width of one of the histogram's bins, an eighth of a doubling.
    fn step(&self) -> f64 {
        2_f64.log10() / 8.0 / (self.high - self.low) * WIDTH
    }

    /// The powers of ten in the range; its ends if there are none.
    fn decades(&self) -> Vec<f64> {
        let decades: Vec<_> = (self.low.ceil() as i32..=self.high.floor() as i32)
            .map(|power| 10_f64.powi(power))
            .collect();
        if decades.is_empty() {
            vec![10_f64.powf(self.low), 10_f64.powf(self.high)]
        } else {
            decades
        }
    }

    fn grid(&self, text: &mut String, height: f64) {
        for value in self.decades() {
            let x = self.x(value);
            let anchor = if x > WIDTH - 40.0 { "end" } else { "middle" };
            let _ = write!(
                text,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{height:.1}\" \
                 stroke=\"var(--line)\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                height + 14.0,
                time(value)
            );
        }
    }
}

fn svg(height: f64, label: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH:.0} {height:.0}\" role=\"img\" aria-label=\"{label}\">")
}

/// Formats nanoseconds in a readable unit.
fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    if value < 10.0 && value.fract() != 0.0 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_their_unit() {
        assert_eq!(
            [1.0, 950.0, 1e3, 4_200.0, 13.7e6, 2e9].map(time),
            ["1 ns", "950 ns", "1 µs", "4.2 µs", "14 ms", "2 s"]
        );
    }

    #[test]
    fn a_scale_holds_its_values_even_where_there_is_one() {
        for values in [vec![5.0], vec![1.0, 1e9]] {
            let scale = Scale::of(values.iter().copied()).unwrap();
            assert!(values.iter().all(|&value| (0.0..=WIDTH).contains(&scale.x(value))));
            assert!(!scale.decades().is_empty());
        }
        assert!(Scale::of(std::iter::empty()).is_none());
    }
}
