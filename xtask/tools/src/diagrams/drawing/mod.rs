//! The drawing of a recording: the state at each station, and RAM when the Image is entered.
//!
//! The same recording always makes the same file.

mod canvas;
mod lanes;
mod map;

use anyhow::Result;

use self::canvas::{Anchor, Area, Canvas, Font, PAPER, RULE, SOFT, WIDTH};
use super::{Owner, Recording, memory::Kind};

/// Margin of the drawing, left edge of the lanes after their names, and right edge.
const EDGE: f64 = 20.0;
const LEFT: f64 = 124.0;
const RIGHT: f64 = WIDTH - EDGE;

/// Colours of the loader, the control pages, the Image and the device tree; of set bits, and of
/// marks.
const LOADER: &str = "#e9e0fa";
const CONTROL: &str = "#ffe3bf";
const IMAGE: &str = "#cfe4ff";
const DEVICE_TREE: &str = "#d3f0d8";
const ON: &str = "#1f6f5c";
const DARK: &str = "#424a53";
const MARK: &str = "#c9342b";

/// Returns the drawing; `recorded_on` describes the software of the recording.
pub fn drawing(recording: &Recording, recorded_on: &str) -> Result<String> {
    let mut canvas = Canvas::default();
    canvas.text(EDGE, 32.0, Anchor::Start, Font::bold(17.0), recording.way.title);
    let from_reset =
        if recording.way.own.is_none() { " The gap “…” was not recorded." } else { "" };
    let said = format!(
        "Each column is the state before an instruction; \
         “routine: instruction” is the state after it.{from_reset}"
    );
    canvas.text(EDGE, 51.0, Anchor::Start, Font::plain(12.0).coloured(SOFT), &said);
    let bottom = lanes::draw(&mut canvas, recording, 64.0);
    let bottom = map::draw(&mut canvas, recording, bottom + 28.0);
    let bottom = legend(&mut canvas, recording, bottom + 18.0);
    canvas.text(EDGE, bottom + 20.0, Anchor::Start, Font::plain(11.0).coloured(SOFT), recorded_on);
    canvas.close(
        bottom + 34.0,
        &format!("{}: the entry into the Image, and RAM at that moment", recording.way.title),
    )
}

fn fill(owner: &Owner) -> &'static str {
    match owner {
        Owner::Nobody => PAPER,
        Owner::Loader => LOADER,
        Owner::Control => CONTROL,
        Owner::Image | Owner::Stub => IMAGE,
    }
}

/// Draws the legend; returns its bottom.
fn legend(canvas: &mut Canvas, recording: &Recording, top: f64) -> f64 {
    const SWATCH: f64 = 12.0;
    canvas.line(&[(EDGE, top), (RIGHT, top)], RULE, 1.0);
    let font = Font::plain(11.0);
    let control = (CONTROL, None, "control pages, sources");
    let loader = (LOADER, None, recording.way.before);
    let has = |kind| recording.regions.iter().any(|region| region.kind == kind);
    let mut entries = vec![(IMAGE, None, "the Image"), (DEVICE_TREE, None, "device tree")];
    entries.extend(has(Kind::Loader).then_some(loader));
    entries.extend(has(Kind::Control).then_some(control));
    entries.extend([
        (ON, None, "on"),
        (DARK, None, "masked, set"),
        (PAPER, Some(MARK), "not masked"),
    ]);
    let mut x = EDGE;
    for (colour, frame, name) in entries {
        canvas.area(Area { x, y: top + 12.0, width: SWATCH, height: SWATCH }, colour, frame);
        canvas.text(x + SWATCH + 5.0, top + 22.0, Anchor::Start, font, name);
        x += SWATCH + 25.0 + font.width(name);
    }
    let said = "x in an address: chosen by an allocator";
    canvas.text(RIGHT, top + 22.0, Anchor::End, font.coloured(SOFT), said);
    top + 26.0
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            WAYS, Way,
            memory::{Kind, Region},
            state::{State, Value},
            stops,
        },
        *,
    };
    use harness::xml::well_formed;

    /// Makes a recording with the widest texts that can occur.
    fn recording(way: Way) -> Recording {
        let state = |number: usize, arguments: usize| State {
            who: [Owner::Loader, Owner::Control, Owner::Image, Owner::Stub][number % 4].clone(),
            level: if way.has_el2() { 1 + number as u64 % 2 } else { 1 },
            own_stack_pointer: true,
            daif: [true, number.is_multiple_of(2), true, true],
            on: [number.is_multiple_of(3); 3],
            host: way.has_el2().then_some([number.is_multiple_of(2); 2]),
            vectors: vec![
                (Owner::Control, "private_el2_vectors".to_owned());
                if way.has_el2() { 2 } else { 1 }
            ],
            arguments: vec![Value::End; arguments],
        };
        let stops = stops::of(way).into_iter().enumerate();
        let seen = stops.map(|(number, stop)| (stop, state(number, stop.arguments))).collect();
        let region = |at: u64| Region {
            start: 0x4000_0000 + (at << 24),
            kind: Kind::Loader,
            name: "QEMU’s boot code & <more>".to_owned(),
            shown: "0x5ffx_xxxx".to_owned(),
            note: "hidden from the Image".to_owned(),
        };
        Recording { way, seen, regions: (0..6).map(region).collect() }
    }

    #[test]
    fn every_way_is_drawn_and_no_word_overlaps_another() {
        for way in WAYS {
            let drawn = drawing(&recording(way), "Made with <that> & this").unwrap();
            well_formed(&drawn, &[]).unwrap();
            for word in ["http:", "https:", "href", "url(", "<script", "NaN", "inf"] {
                assert!(!drawn.replace("http://www.w3.org/2000/svg", "").contains(word), "{word}");
            }
        }
    }

    #[test]
    fn each_fact_is_in_the_drawing() {
        let of = |change: fn(&mut Recording)| {
            let mut recording = recording(WAYS[0]);
            change(&mut recording);
            drawing(&recording, "").unwrap()
        };
        let drawn = of(|_| {});
        let changes: [fn(&mut Recording); 10] = [
            |recording| recording.seen[1].1.who = Owner::Image,
            |recording| recording.seen[1].1.level = 1,
            |recording| recording.seen[1].1.own_stack_pointer = false,
            |recording| recording.seen[1].1.daif[3] = false,
            |recording| recording.seen[1].1.on[2] = true,
            |recording| recording.seen[1].1.host = Some([true, false]),
            |recording| recording.seen[1].1.vectors[1].0 = Owner::Image,
            |recording| recording.seen[1].1.vectors[0].1 = "fault_vectors".to_owned(),
            |recording| recording.seen[1].1.arguments[3] = Value::Number(1),
            |recording| recording.regions[2].start += 1 << 22,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert_ne!(of(change), drawn, "change {number}");
        }
    }
}
