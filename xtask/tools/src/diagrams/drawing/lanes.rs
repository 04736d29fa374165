//! The upper half of a drawing: one column per station, one lane per fact.
//!
//! Equal neighbours in a lane share one box. A box never crosses the Image's entry, nor the gap
//! after a loader's reset, which the recording does not cover.

use super::{
    super::{
        Owner, Recording, Stop,
        state::{State, Value},
    },
    Anchor, Area, Canvas, DARK, Font, LEFT, MARK, ON, PAPER, RIGHT, RULE, SOFT, fill,
};

/// Gaps between neighbouring boxes, and between lanes.
const GAP: f64 = 3.0;
const BELOW: f64 = 6.0;

/// Width of the gap between reset and the next station.
const UNSEEN: f64 = 30.0;

/// Height of a lane with one line of text, and with two.
const ONE: f64 = 18.0;
const TWO: f64 = 32.0;

const WORDS: Font = Font::plain(11.0);
const NAMES: Font = Font::mono(11.0);

/// One box of a lane.
#[derive(Clone, Debug, PartialEq)]
struct Cell {
    text: String,
    fill: &'static str,
    frame: Option<&'static str>,
    font: Font,
}

/// The lanes in progress, drawn from top to bottom.
struct Lanes<'a> {
    canvas: &'a mut Canvas,
    recording: &'a Recording,
    states: Vec<&'a State>,
    /// Column of the Image's first instruction.
    entry: usize,
    /// Set if the first column is the loader's reset.
    from_reset: bool,
    /// Top of the next lane.
    y: f64,
}

/// Draws the lanes from `top` on; returns their bottom.
pub fn draw(canvas: &mut Canvas, recording: &Recording, top: f64) -> f64 {
    let states = recording.seen.iter().map(|(_, state)| state).collect();
    let entry = recording.seen.iter().position(|(stop, _)| stop.is_entry()).unwrap_or(0);
    let from_reset = recording.way.own.is_none();
    let mut lanes = Lanes { canvas, recording, states, entry, from_reset, y: top };
    lanes.names();
    let from = lanes.y;
    lanes.runs();
    lanes.level();
    for (number, name) in ["MMU", "D-cache", "I-cache"].into_iter().enumerate() {
        lanes.lane(name, ONE, |state| switch(state.on[number]));
    }
    let daif = |state: &State| ["D", "A", "I", "F"].into_iter().zip(state.daif).collect();
    lanes.bits("DAIF", 16.0, MARK, daif);
    for (number, name) in ["VBAR_EL1", "VBAR_EL2"].into_iter().enumerate() {
        if lanes.states.iter().all(|state| state.vectors.len() > number) {
            lanes.lane(name, TWO, |state| {
                let (owner, name) = &state.vectors[number];
                Cell { text: name.clone(), fill: fill(owner), frame: Some(RULE), font: NAMES }
            });
        }
    }
    if lanes.states.iter().all(|state| state.host.is_some()) {
        let host = |state: &State| {
            ["E2H", "TGE"].into_iter().zip(state.host.unwrap_or_default()).collect()
        };
        lanes.bits("HCR_EL2", 30.0, RULE, host);
    }
    lanes.arguments();

    let (x, bottom) = (lanes.x(entry), lanes.y);
    canvas.line(&[(x, from - 4.0), (x, bottom)], MARK, 2.0);
    canvas.text(x, bottom + 13.0, Anchor::Middle, Font::plain(11.0).coloured(MARK), "entry");
    bottom + 16.0
}

impl Lanes<'_> {
    fn width(&self) -> f64 {
        let unseen = if self.from_reset { UNSEEN } else { 0.0 };
        (RIGHT - LEFT - unseen) / self.states.len() as f64
    }

    fn x(&self, column: usize) -> f64 {
        let unseen = if self.from_reset && column > 0 { UNSEEN } else { 0.0 };
        LEFT + unseen + column as f64 * self.width()
    }

    /// Groups equal columns that no cut separates; returns each group's first column and length.
    fn runs_of<T: PartialEq>(&self, cells: &[T]) -> Vec<(usize, usize)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (column, cell) in cells.iter().enumerate() {
            let is_cut = column == self.entry || (column == 1 && self.from_reset);
            match runs.last_mut() {
                Some((first, count)) if !is_cut && cells[*first] == *cell => *count += 1,
                _ => runs.push((column, 1)),
            }
        }
        runs
    }

    /// Returns the area of a box over `count` columns from `first` on.
    fn area(&self, first: usize, count: usize, height: f64) -> Area {
        Area {
            x: self.x(first) + GAP / 2.0,
            y: self.y,
            width: count as f64 * self.width() - GAP,
            height,
        }
    }

    fn label(&mut self, height: f64, name: &str) {
        let y = self.y + height / 2.0 + 4.0;
        self.canvas.text(LEFT - 12.0, y, Anchor::End, Font::plain(12.0).coloured(SOFT), name);
    }

    /// Draws the stations' names above their columns.
    fn names(&mut self) {
        let font = Font::mono(12.0);
        let width = self.width() - 10.0;
        let names: Vec<_> =
            self.recording.seen.iter().map(|(stop, _)| font.lines(stop.name, width)).collect();
        self.y += names.iter().map(Vec::len).max().unwrap_or(0) as f64 * font.line() + 8.0;
        for (column, lines) in names.iter().enumerate() {
            let middle = self.area(column, 1, 0.0).middle();
            for (above, line) in lines.iter().rev().enumerate() {
                self.canvas.text(
                    middle,
                    self.y - 8.0 - above as f64 * font.line(),
                    Anchor::Middle,
                    font,
                    line,
                );
            }
        }
    }

    /// Draws a lane of boxes.
    fn lane(&mut self, name: &str, height: f64, cell: impl Fn(&State) -> Cell) {
        let cells: Vec<_> = self.states.iter().map(|state| cell(state)).collect();
        self.boxes(name, height, &cells);
    }

    fn boxes(&mut self, name: &str, height: f64, cells: &[Cell]) {
        self.label(height, name);
        for (first, count) in self.runs_of(cells) {
            let area = self.area(first, count, height);
            self.canvas.area(area, cells[first].fill, cells[first].frame);
            self.canvas.centred(area, cells[first].font, &cells[first].text);
        }
        self.y += height + BELOW;
    }

    /// Draws the lane that names the running program.
    fn runs(&mut self) {
        let is_ours = self.recording.way.own.is_some();
        let cell = |(column, (stop, state)): (usize, &(Stop, State))| {
            let text = match state.who {
                Owner::Nobody | Owner::Loader => stop.runs().unwrap_or(self.recording.way.before),
                Owner::Stub => "EFI stub",
                Owner::Control => "control pages",
                Owner::Image if !is_ours => "the Image",
                Owner::Image if column < self.entry => "generation 0",
                Owner::Image => "generation 1",
            };
            Cell { text: text.to_owned(), fill: fill(&state.who), frame: None, font: WORDS }
        };
        let cells: Vec<_> = self.recording.seen.iter().enumerate().map(cell).collect();
        if self.from_reset {
            let unseen = self.x(0) + self.width() + UNSEEN / 2.0;
            self.canvas.text(
                unseen,
                self.y + 16.0,
                Anchor::Middle,
                Font::bold(14.0).coloured(SOFT),
                "…",
            );
        }
        self.boxes("runs", 26.0, &cells);
    }

    /// Draws the lane of exception levels: one rail per level, with the box on the current one.
    fn level(&mut self) {
        let rails: &[u64] =
            if self.states.iter().any(|state| state.level == 2) { &[2, 1] } else { &[1] };
        for &rail in rails {
            self.label(ONE, &format!("EL{rail}"));
            let middle = self.y + ONE / 2.0;
            self.canvas.line(&[(LEFT, middle), (RIGHT, middle)], RULE, 1.0);
            let levels: Vec<_> =
                self.states.iter().map(|state| (state.level, state.own_stack_pointer)).collect();
            for (first, count) in self.runs_of(&levels) {
                let (level, own) = levels[first];
                if level == rail {
                    let area = self.area(first, count, ONE);
                    self.canvas.area(area, DARK, None);
                    let name = format!("EL{level}{}", if own { 'h' } else { 't' });
                    self.canvas.centred(area, NAMES.coloured(PAPER), &name);
                }
            }
            self.y += ONE + 1.0;
        }
        self.y += BELOW - 1.0;
    }

    /// Draws a lane of bits: a small box per bit, dark if set, framed in `clear` if not.
    fn bits(
        &mut self,
        name: &str,
        width: f64,
        clear: &'static str,
        bits: impl Fn(&State) -> Vec<(&'static str, bool)>,
    ) {
        const HEIGHT: f64 = 16.0;
        self.label(HEIGHT, name);
        for column in 0..self.states.len() {
            let bits = bits(self.states[column]);
            let left =
                self.area(column, 1, HEIGHT).middle() - bits.len() as f64 * (width + 2.0) / 2.0;
            for (number, (name, set)) in bits.into_iter().enumerate() {
                let area = Area {
                    x: left + number as f64 * (width + 2.0) + 1.0,
                    y: self.y,
                    width,
                    height: HEIGHT,
                };
                self.canvas.area(area, if set { DARK } else { PAPER }, (!set).then_some(clear));
                self.canvas.centred(
                    area,
                    if set { NAMES.coloured(PAPER) } else { NAMES.coloured(SOFT) },
                    name,
                );
            }
        }
        self.y += HEIGHT + BELOW;
    }

    /// Draws the registers that have a meaning, one below the other.
    fn arguments(&mut self) {
        let most = self.states.iter().map(|state| state.arguments.len()).max().unwrap_or(0);
        let height = most as f64 * NAMES.line() + 8.0;
        self.label(height, "x0 to x3");
        for column in 0..self.states.len() {
            let values = &self.states[column].arguments;
            if values.is_empty() {
                continue;
            }
            let area = self.area(column, 1, height);
            self.canvas.area(area, PAPER, Some(RULE));
            for (number, value) in values.iter().enumerate() {
                let line = area.y + 8.0 + (number as f64 + 0.5) * NAMES.line();
                self.canvas.text(
                    area.x + 6.0,
                    line,
                    Anchor::Start,
                    NAMES.coloured(SOFT),
                    &format!("x{number}"),
                );
                self.canvas.text(area.x + 26.0, line, Anchor::Start, NAMES, &words(value));
            }
        }
        self.y += height + BELOW;
    }
}

fn switch(on: bool) -> Cell {
    if on {
        Cell { text: "on".to_owned(), fill: ON, frame: None, font: WORDS.coloured(PAPER) }
    } else {
        Cell { text: "off".to_owned(), fill: PAPER, frame: Some(RULE), font: WORDS.coloured(SOFT) }
    }
}

fn words(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Code(name) => name.clone(),
        Value::DeviceTree => "dtb".to_owned(),
        Value::End => "its end".to_owned(),
        Value::SystemTable => "table".to_owned(),
        Value::Other => "other".to_owned(),
    }
}
