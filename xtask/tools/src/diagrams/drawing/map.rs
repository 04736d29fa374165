//! The lower half of a drawing: a bar of RAM to scale, and a box for each region.

use super::{
    super::{
        Recording,
        memory::{Kind, RAM, Region, address},
    },
    Anchor, Area, CONTROL, Canvas, DEVICE_TREE, EDGE, Font, IMAGE, LOADER, PAPER, RIGHT, RULE,
    SOFT,
};

/// Height of the bar, width of a mark in it (sizes depend on the build), width of the widest box,
/// number of divisions.
const BAR: f64 = 14.0;
const THING: f64 = 5.0;
const WIDEST: f64 = 240.0;
const PARTS: u64 = 4;

/// Draws the map from `top` on; returns its bottom.
pub fn draw(canvas: &mut Canvas, recording: &Recording, top: f64) -> f64 {
    let regions = &recording.regions;
    canvas.text(EDGE, top, Anchor::Start, Font::bold(13.0), "RAM at _start");
    let said = "addresses to scale, sizes not; all other RAM is free";
    canvas.text(RIGHT, top, Anchor::End, Font::plain(11.0).coloured(SOFT), said);
    let bar = Area { x: EDGE, y: top + 30.0, width: RIGHT - EDGE, height: BAR };
    let x = |at: u64| bar.x + (at - RAM.start) as f64 / (RAM.end - RAM.start) as f64 * bar.width;
    canvas.area(bar, PAPER, Some(RULE));
    for part in 0..=PARTS {
        let at = RAM.start + (RAM.end - RAM.start) / PARTS * part;
        let anchor = match part {
            0 => Anchor::Start,
            PARTS => Anchor::End,
            _ => Anchor::Middle,
        };
        canvas.text(x(at), bar.y - 5.0, anchor, Font::mono(10.5).coloured(SOFT), &address(at));
        canvas.line(&[(x(at), bar.y - 3.0), (x(at), bar.y)], SOFT, 1.0);
    }

    let texts = |region: &Region, width: f64| {
        let parts = [
            (Font::bold(12.0), &region.name),
            (Font::mono(11.0), &region.shown),
            (Font::plain(11.0).coloured(SOFT), &region.note),
        ];
        let lines = parts
            .map(|(font, text)| font.lines(text, width).into_iter().map(move |line| (font, line)));
        lines.into_iter().flatten().collect::<Vec<_>>()
    };
    let count = regions.len().max(1) as f64;
    let pitch = (bar.width / count).min(WIDEST);
    let inner = pitch - 16.0;
    let tall = regions
        .iter()
        .map(|region| texts(region, inner).iter().map(|(font, _)| font.line()).sum::<f64>());
    let height = tall.fold(0.0, f64::max) + 14.0;
    // Place the boxes below their marks, as far as there is room.
    let place = |region: &Region| x(region.start).min(RIGHT - THING);
    let middle = regions.iter().map(place).sum::<f64>() / count;
    let left = (middle - pitch * count / 2.0).clamp(EDGE, RIGHT - pitch * count);
    let y = bar.bottom() + 26.0;
    for (number, region) in regions.iter().enumerate() {
        let colour = match region.kind {
            Kind::Image => IMAGE,
            Kind::DeviceTree => DEVICE_TREE,
            Kind::Source | Kind::Control => CONTROL,
            Kind::Loader => LOADER,
        };
        let (at, area) = (
            place(region),
            Area { x: left + number as f64 * pitch + 3.0, y, width: pitch - 6.0, height },
        );
        canvas.line(&[(at + THING / 2.0, bar.bottom()), (area.middle(), y)], SOFT, 1.0);
        canvas.area(Area { x: at, width: THING, ..bar }, colour, Some(SOFT));
        canvas.area(area, colour, None);
        let mut base = y + 4.0;
        for (font, line) in texts(region, inner) {
            base += font.line();
            canvas.text(area.middle(), base, Anchor::Middle, font, &line);
        }
    }
    y + height
}
