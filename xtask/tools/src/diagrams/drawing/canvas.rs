//! Primitives of a drawing: boxes, lines and text, with a check of the text's position.
//!
//! The background is drawn too, so a page looks the same in a dark and a light theme. Text is
//! measured by the widest font that is likely to be installed, so text that fits here fits
//! elsewhere. [`Canvas::close`] refuses text that leaves the drawing or overlaps other text.

use std::fmt::Write;

use anyhow::{Result, ensure};

use harness::xml::escaped;

/// Width of a drawing: as wide as GitHub shows a page, so that it is not scaled down.
pub const WIDTH: f64 = 1000.0;

/// The command that generates the drawings.
const COMMAND: &str = "cargo xtask test diagrams/ --bless";

const STYLE: &str = "text{font-family:\
system-ui,-apple-system,'Segoe UI','DejaVu Sans',Helvetica,Arial,sans-serif}\
.m{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}\
.b{font-weight:600}";

/// Colour of text.
pub const INK: &str = "#1b1f24";
/// Colour of secondary text.
pub const SOFT: &str = "#59636e";
/// Colour of rules and frames.
pub const RULE: &str = "#d0d7de";
/// Colour of the background.
pub const PAPER: &str = "#ffffff";

/// Font of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Font {
    size: f64,
    class: &'static str,
    colour: &'static str,
    /// Average width of a character, as a fraction of the size.
    advance: f64,
}

impl Font {
    /// Makes the font for running text.
    pub const fn plain(size: f64) -> Self {
        Self { size, class: "", colour: INK, advance: 0.6 }
    }

    /// Makes the font for headings.
    pub const fn bold(size: f64) -> Self {
        Self { size, class: "b", colour: INK, advance: 0.68 }
    }

    /// Makes the font for symbols, registers and addresses.
    pub const fn mono(size: f64) -> Self {
        Self { size, class: "m", colour: INK, advance: 0.603 }
    }

    /// Returns the font in another colour.
    pub const fn coloured(self, colour: &'static str) -> Self {
        Self { colour, ..self }
    }

    /// Returns the distance between lines.
    pub fn line(self) -> f64 {
        self.size * 1.25
    }

    /// Returns the largest width that a text may have.
    pub fn width(self, text: &str) -> f64 {
        text.chars().count() as f64 * self.size * self.advance
    }

    /// Breaks a text into lines of at most `width`, after a word or after `_`.
    pub fn lines(self, text: &str, width: f64) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for part in text.split_inclusive([' ', '_']) {
            match lines.last_mut() {
                Some(line) if self.width((line.clone() + part).trim_end()) <= width => {
                    line.push_str(part)
                }
                _ => lines.push(part.to_owned()),
            }
        }
        lines.iter().map(|line| line.trim_end().to_owned()).collect()
    }
}

/// The position of a text relative to its point.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Anchor {
    /// The text begins at the point.
    Start,
    /// The text is centred on the point.
    Middle,
    /// The text ends at the point.
    End,
}

/// A box in a drawing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Area {
    /// Left edge.
    pub x: f64,
    /// Top edge.
    pub y: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

impl Area {
    /// Returns the horizontal middle.
    pub fn middle(self) -> f64 {
        self.x + self.width / 2.0
    }

    /// Returns the bottom edge.
    pub fn bottom(self) -> f64 {
        self.y + self.height
    }

    fn right(self) -> f64 {
        self.x + self.width
    }

    fn meets(self, other: Self) -> bool {
        self.x < other.right()
            && other.x < self.right()
            && self.y < other.bottom()
            && other.y < self.bottom()
    }
}

/// A drawing in progress.
#[derive(Debug, Default)]
pub struct Canvas {
    markup: String,
    texts: Vec<(Area, String)>,
}

impl Canvas {
    /// Draws a filled box, with a frame if `frame` is a colour.
    pub fn area(&mut self, area: Area, fill: &str, frame: Option<&str>) {
        let Area { x, y, width, height } = area;
        let frame = frame.map_or(String::new(), |colour| format!(" stroke=\"{colour}\""));
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.markup,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"3\" \
             fill=\"{fill}\"{frame}/>"
        );
    }

    /// Draws a line through points.
    pub fn line(&mut self, points: &[(f64, f64)], colour: &str, width: f64) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.markup,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
            points.join(" ")
        );
    }

    /// Draws a line of text with its baseline at `y`.
    pub fn text(&mut self, x: f64, y: f64, anchor: Anchor, font: Font, text: &str) {
        let width = font.width(text);
        let (word, left) = match anchor {
            Anchor::Start => ("start", x),
            Anchor::Middle => ("middle", x - width / 2.0),
            Anchor::End => ("end", x - width),
        };
        let Font { size, class, colour, .. } = font;
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        let _ = writeln!(
            self.markup,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{colour}\" \
             text-anchor=\"{word}\"{class}>{}</text>",
            escaped(text)
        );
        self.texts
            .push((Area { x: left, y: y - size * 0.8, width, height: size }, text.to_owned()));
    }

    /// Draws text centred in an area, in as many lines as it needs to stay off the edges.
    pub fn centred(&mut self, area: Area, font: Font, text: &str) {
        const EDGES: f64 = 5.0;
        let lines = font.lines(text, area.width - EDGES);
        let top = area.y + (area.height - lines.len() as f64 * font.line()) / 2.0;
        for (number, line) in lines.iter().enumerate() {
            let y = top + (number as f64 + 0.5) * font.line() + font.size * 0.35;
            self.text(area.middle(), y, Anchor::Middle, font, line);
        }
    }

    /// Returns the SVG file with that height; `title` is its accessible title.
    pub fn close(self, height: f64, title: &str) -> Result<String> {
        let paper = Area { x: 0.0, y: 0.0, width: WIDTH, height };
        for (number, (area, text)) in self.texts.iter().enumerate() {
            let inside = area.x >= paper.x
                && area.right() <= paper.right()
                && area.y >= paper.y
                && area.bottom() <= height;
            ensure!(inside, "{text:?} leaves the paper: {area:?}");
            if let Some((_, other)) =
                self.texts[..number].iter().find(|(other, _)| other.meets(*area))
            {
                anyhow::bail!("{text:?} overlaps {other:?}: {area:?}");
            }
        }
        Ok(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" \
             width=\"{WIDTH:.0}\" height=\"{height:.0}\" role=\"img\">\n\
             <title>{}</title>\n\
             <desc>Generated by {COMMAND}; do not edit</desc>\n<style>{STYLE}</style>\n\
             <rect x=\".5\" y=\".5\" width=\"{:.0}\" height=\"{:.0}\" rx=\"6\" fill=\"{PAPER}\" \
             stroke=\"{RULE}\"/>\n{}</svg>\n",
            escaped(title),
            WIDTH - 1.0,
            height - 1.0,
            self.markup
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_breaks_behind_words_and_underscores() {
        let font = Font::mono(10.0);
        assert_eq!(font.lines("private_el2_vectors", 75.0), ["private_el2_", "vectors"]);
        assert_eq!(font.lines("a b", 75.0), ["a b"]);
        assert_eq!(font.lines("stub_finalise: eret", 60.0), ["stub_", "finalise:", "eret"]);
    }

    #[test]
    fn text_on_text_and_text_off_the_paper_are_refused() {
        let closed = |texts: &[(f64, f64)]| {
            let mut canvas = Canvas::default();
            texts
                .iter()
                .for_each(|&(x, y)| canvas.text(x, y, Anchor::Start, Font::plain(12.0), "words"));
            canvas.close(100.0, "").map_err(|error| error.to_string())
        };
        closed(&[(10.0, 20.0), (10.0, 40.0)]).unwrap();
        assert!(closed(&[(10.0, 20.0), (20.0, 25.0)]).unwrap_err().contains("overlaps"));
        assert!(closed(&[(980.0, 20.0)]).unwrap_err().contains("leaves the paper"));
        assert!(closed(&[(10.0, 105.0)]).is_err());
    }
}
