//! What a drawing is made of: boxes, lines, text; and where each text lies.
//!
//! *When:* a drawing is written. Pure. The paper is drawn too, so that a page in the dark shows the same as one in the light. Text is measured by the widest font that is likely to
//! be there, so what fits here fits elsewhere. *Refuses,* in [`Canvas::close`], text that leaves the paper or lies on other text.

use std::fmt::Write;

use anyhow::{Result, ensure};

use crate::xml::escaped;

/// A drawing's width; as wide as a page on GitHub shows it, so that nothing is scaled down.
pub const WIDTH: f64 = 1000.0;

const STYLE: &str = "text{font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',Helvetica,Arial,sans-serif}\
.m{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}.b{font-weight:600}";

/// Ink, softer ink, rules, paper.
pub const INK: &str = "#1b1f24";
/// For what is said beside.
pub const SOFT: &str = "#59636e";
/// For rules and frames.
pub const RULE: &str = "#d0d7de";
/// The ground.
pub const PAPER: &str = "#ffffff";

/// How a text looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Font {
    size: f64,
    class: &'static str,
    colour: &'static str,
    /// An average character's width, in sizes.
    advance: f64,
}

impl Font {
    /// For running text.
    pub const fn plain(size: f64) -> Self {
        Self { size, class: "", colour: INK, advance: 0.6 }
    }

    /// For heads.
    pub const fn bold(size: f64) -> Self {
        Self { size, class: "b", colour: INK, advance: 0.68 }
    }

    /// For names and numbers of the machine.
    pub const fn mono(size: f64) -> Self {
        Self { size, class: "m", colour: INK, advance: 0.603 }
    }

    /// The same in another colour.
    pub const fn coloured(self, colour: &'static str) -> Self {
        Self { colour, ..self }
    }

    /// From one line to the next.
    pub fn line(self) -> f64 {
        self.size * 1.25
    }

    /// How wide a text is, at most.
    pub fn width(self, text: &str) -> f64 {
        text.chars().count() as f64 * self.size * self.advance
    }

    /// The text in lines that are no wider, broken where a word ends or behind `_`.
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

/// Where a text stands to its point.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// A box in a drawing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Area {
    /// Left.
    pub x: f64,
    /// Top.
    pub y: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

impl Area {
    /// Its middle, across.
    pub fn middle(self) -> f64 {
        self.x + self.width / 2.0
    }

    /// Its bottom.
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

/// A drawing while it is made.
#[derive(Debug, Default)]
pub struct Canvas {
    markup: String,
    texts: Vec<(Area, String)>,
}

impl Canvas {
    /// A box, filled, and framed where `frame` is a colour.
    pub fn area(&mut self, area: Area, fill: &str, frame: Option<&str>) {
        let Area { x, y, width, height } = area;
        let frame = frame.map_or(String::new(), |colour| format!(" stroke=\"{colour}\""));
        // Writing to a String cannot fail.
        let _ = writeln!(
            self.markup,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"3\" fill=\"{fill}\"{frame}/>"
        );
    }

    /// A line through points.
    pub fn line(&mut self, points: &[(f64, f64)], colour: &str, width: f64) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            self.markup,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>",
            points.join(" ")
        );
    }

    /// A line of text on the base line `y`.
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
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{colour}\" text-anchor=\"{word}\"{class}>{}</text>",
            escaped(text)
        );
        self.texts
            .push((Area { x: left, y: y - size * 0.8, width, height: size }, text.to_owned()));
    }

    /// Text in the middle of an area, in as many lines as it takes to keep off the edges.
    pub fn centred(&mut self, area: Area, font: Font, text: &str) {
        const EDGES: f64 = 5.0;
        let lines = font.lines(text, area.width - EDGES);
        let top = area.y + (area.height - lines.len() as f64 * font.line()) / 2.0;
        for (number, line) in lines.iter().enumerate() {
            let y = top + (number as f64 + 0.5) * font.line() + font.size * 0.35;
            self.text(area.middle(), y, Anchor::Middle, font, line);
        }
    }

    /// The file, of that height; `title` is what a reader is told who does not see it.
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
                anyhow::bail!("{text:?} lies on {other:?}: {area:?}");
            }
        }
        Ok(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" width=\"{WIDTH:.0}\" height=\"{height:.0}\" role=\"img\">\n\
             <title>{}</title>\n<style>{STYLE}</style>\n\
             <rect x=\".5\" y=\".5\" width=\"{:.0}\" height=\"{:.0}\" rx=\"6\" fill=\"{PAPER}\" stroke=\"{RULE}\"/>\n{}</svg>\n",
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
        assert!(closed(&[(10.0, 20.0), (20.0, 25.0)]).unwrap_err().contains("lies on"));
        assert!(closed(&[(980.0, 20.0)]).unwrap_err().contains("leaves the paper"));
        assert!(closed(&[(10.0, 105.0)]).is_err());
    }
}
