//! The segments of the next image, and the rules that make it safe to move them.
//!
//! - *When:* while this kernel plans its successor, before the list is built and long before
//!   "Bye!".
//! - *Expects:* payloads loaded into frames; RAM, reservations and devices read from the device
//!   tree.
//! - *Leaves:* nothing. [`check`] only reads; segments that pass may go to
//!   [`list::build`](crate::list::build).
//! - *Refuses:* segments that break a rule of Linux's `sanity_check_segment_list`, or one of ours.
//!   The [`Error`] names the rule and carries the value.
//!
//! The central rule is Linux's: **a source page is its own destination, or no segment's
//! destination.** It ensures that no page is overwritten before it has been copied. The order of
//! the moves does not matter then, nor does any overlap between segments and the running kernel. We
//! check each move by itself: a page that stays in place may not also be copied elsewhere.

use core::fmt;
use core::ops::Range;

use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};

/// The largest number of segments: Linux's `KEXEC_SEGMENT_MAX`.
pub const MAX_SEGMENTS: usize = 16;

/// A part of the next image: its destination, and the frames that hold it until then.
#[derive(Clone, Debug)]
pub struct Segment<'a> {
    /// The name used in messages.
    pub name: &'a str,
    /// The destination: whole pages for the full size in memory, including the zeroed tail.
    pub destination: Range<PhysAddr>,
    /// The frames that hold the segment now, as runs in the order of the destination.
    ///
    /// Together they are exactly as long as the destination. A run may be its own destination (in
    /// place).
    pub source: &'a [Range<PhysAddr>],
}

/// Memory that no segment may overwrite.
#[derive(Clone, Debug)]
pub struct Reserved<'a> {
    /// The addresses; need not be whole pages.
    pub range: Range<PhysAddr>,
    /// The name used in messages.
    pub name: &'a str,
}

/// The memory map that segments are checked against.
#[derive(Clone, Debug)]
pub struct Memory<'a> {
    /// All RAM: ranges neither overlap nor touch (the caller has merged adjacent ones).
    pub ram: &'a [Range<PhysAddr>],
    /// RAM that must survive the kexec.
    pub reserved: &'a [Reserved<'a>],
    /// Device registers.
    pub devices: &'a [Range<PhysAddr>],
    /// The control pages: relocation code, vectors, breadcrumbs, list, page tables.
    pub control: Range<PhysAddr>,
}

/// A rule that the segments break, and the value that breaks it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "a variant's line says what its fields hold; they are named for it"
)]
pub enum Error<'a> {
    /// There are more than [`MAX_SEGMENTS`] segments.
    #[error("{given} segments, and {MAX_SEGMENTS} are the most there may be: join some")]
    TooManySegments { given: usize },
    /// The destination does not consist of whole pages.
    #[error(
        "segment \"{segment}\": the destination {} does not consist of whole pages: align both \
         ends to {PAGE_SIZE:#x}",
        span(destination)
    )]
    DestinationMisaligned { segment: &'a str, destination: Range<PhysAddr> },
    /// The destination is empty.
    #[error(
        "segment \"{segment}\": the destination {} is empty: leave the segment out",
        span(destination)
    )]
    DestinationEmpty { segment: &'a str, destination: Range<PhysAddr> },
    /// The segment is larger than `limit`, half of RAM.
    #[error(
        "segment \"{segment}\": {bytes} bytes are more than half of RAM, {limit} bytes: make it \
         smaller or give the machine more memory"
    )]
    SegmentTooLarge { segment: &'a str, bytes: u64, limit: u64 },
    /// The segments together are larger than `limit`, half of RAM.
    #[error(
        "the segments' {bytes} bytes are together more than half of RAM, {limit} bytes: make them \
         smaller or give the machine more memory"
    )]
    TotalTooLarge { bytes: u64, limit: u64 },
    /// The destination overlaps a device's registers.
    #[error(
        "segment \"{segment}\": the destination {} overlaps the device at {}: choose a place in \
         RAM",
        span(destination),
        span(device)
    )]
    OverDevice { segment: &'a str, destination: Range<PhysAddr>, device: Range<PhysAddr> },
    /// The destination is not within one range of RAM.
    #[error(
        "segment \"{segment}\": the destination {} is not wholly in one range of RAM: choose a \
         place that is",
        span(destination)
    )]
    OutsideRam { segment: &'a str, destination: Range<PhysAddr> },
    /// The destination overlaps reserved memory.
    #[error(
        "segment \"{segment}\": the destination {} overlaps reserved memory, \"{reserved}\" at {}: \
         choose another place",
        span(destination),
        span(range)
    )]
    OverReserved {
        segment: &'a str,
        destination: Range<PhysAddr>,
        reserved: &'a str,
        range: Range<PhysAddr>,
    },
    /// The destination overlaps the control pages.
    #[error(
        "segment \"{segment}\": the destination {} overlaps the control pages at {}: move either",
        span(destination),
        span(control)
    )]
    OverControl { segment: &'a str, destination: Range<PhysAddr>, control: Range<PhysAddr> },
    /// Two destinations overlap, from `page` on.
    #[error("segments \"{first}\" and \"{second}\" overlap at {page}: move either")]
    Overlap { first: &'a str, second: &'a str, page: PhysAddr },
    /// A source run does not consist of whole pages.
    #[error(
        "segment \"{segment}\": the source run {} does not consist of whole pages: load it into \
         whole frames",
        span(run)
    )]
    SourceMisaligned { segment: &'a str, run: Range<PhysAddr> },
    /// A source run is not within one range of RAM.
    #[error(
        "segment \"{segment}\": the source run {} is not wholly in one range of RAM: load it into \
         frames that are",
        span(run)
    )]
    SourceOutsideRam { segment: &'a str, run: Range<PhysAddr> },
    /// Source and destination differ in length; both are in bytes.
    #[error(
        "segment \"{segment}\": the source's {bytes} bytes are {} than the destination's \
         {destination}: make them equal",
        if bytes < destination { "shorter" } else { "longer" }
    )]
    SourceLength { segment: &'a str, bytes: u64, destination: u64 },
    /// A source page is one of the control pages.
    #[error(
        "segment \"{segment}\": the source page {page} is one of the control pages at {}: load it \
         elsewhere",
        span(control)
    )]
    SourceInControl { segment: &'a str, page: PhysAddr, control: Range<PhysAddr> },
    /// A source page is in the destination of `target`, but is not moved in place.
    ///
    /// It might be overwritten before it is copied.
    #[error(
        "segment \"{segment}\": the source page {page} is in the destination of \"{target}\" and \
         could be overwritten before it is copied: load it into a frame that is in no destination"
    )]
    SourceIsDestination { segment: &'a str, page: PhysAddr, target: &'a str },
}

/// Formats a range for messages.
fn span(range: &Range<PhysAddr>) -> impl fmt::Display {
    let Range { start, end } = *range;
    fmt::from_fn(move |f| write!(f, "{start}..{end}"))
}

/// Checks `segments` against every rule.
///
/// The cost is proportional to the number of source runs times the number of segments.
///
/// # Errors
///
/// Returns the first broken rule, in this order: the number of segments; each destination by
/// itself; destinations against each other and in total; the sources.
pub fn check<'a>(segments: &[Segment<'a>], memory: &Memory<'a>) -> Result<(), Error<'a>> {
    if segments.len() > MAX_SEGMENTS {
        return Err(Error::TooManySegments { given: segments.len() });
    }
    let limit = memory.ram.iter().map(PhysRange::bytes).fold(0, u64::saturating_add) / 2;
    for segment in segments {
        check_destination(segment, memory, limit)?;
    }
    for (index, second) in segments.iter().enumerate() {
        if let Some(first) =
            segments[..index].iter().find(|first| first.destination.overlaps(&second.destination))
        {
            let page = first.destination.start.max(second.destination.start);
            return Err(Error::Overlap { first: first.name, second: second.name, page });
        }
    }
    // The sum cannot overflow: the destinations are disjoint.
    let bytes = segments.iter().map(|segment| segment.destination.bytes()).sum();
    if bytes > limit {
        return Err(Error::TotalTooLarge { bytes, limit });
    }
    segments.iter().try_for_each(|segment| check_source(segment, segments, memory))
}

/// Checks one destination by itself.
fn check_destination<'a>(
    segment: &Segment<'a>,
    memory: &Memory<'a>,
    limit: u64,
) -> Result<(), Error<'a>> {
    let (name, destination) = (segment.name, &segment.destination);
    let (segment, bytes) = (name, destination.bytes());
    if !is_whole_pages(destination) {
        return Err(Error::DestinationMisaligned { segment, destination: destination.clone() });
    }
    if destination.is_empty() {
        return Err(Error::DestinationEmpty { segment, destination: destination.clone() });
    }
    if bytes > limit {
        return Err(Error::SegmentTooLarge { segment, bytes, limit });
    }
    // Check devices before RAM: they are outside RAM too, but this error is more specific.
    if let Some(device) = memory.devices.iter().find(|device| device.overlaps(destination)) {
        return Err(Error::OverDevice {
            segment,
            destination: destination.clone(),
            device: device.clone(),
        });
    }
    if !memory.ram.iter().any(|ram| ram.covers(destination)) {
        return Err(Error::OutsideRam { segment, destination: destination.clone() });
    }
    if let Some(Reserved { range, name }) =
        memory.reserved.iter().find(|reserved| reserved.range.overlaps(destination))
    {
        let (reserved, range) = (*name, range.clone());
        return Err(Error::OverReserved {
            segment,
            destination: destination.clone(),
            reserved,
            range,
        });
    }
    if is_over_control(destination, memory) {
        let control = memory.control.clone();
        return Err(Error::OverControl { segment, destination: destination.clone(), control });
    }
    Ok(())
}

/// Checks one segment's source; all destinations have passed.
fn check_source<'a>(
    segment: &Segment<'a>,
    segments: &[Segment<'a>],
    memory: &Memory<'_>,
) -> Result<(), Error<'a>> {
    let name = segment.name;
    for run in segment.source {
        if !is_whole_pages(run) {
            return Err(Error::SourceMisaligned { segment: name, run: run.clone() });
        }
        if !memory.ram.iter().any(|ram| ram.covers(run)) {
            return Err(Error::SourceOutsideRam { segment: name, run: run.clone() });
        }
        if memory.control.overlaps(run) {
            let (page, control) =
                (run.start.max(memory.control.start.align_down(PAGE_SIZE)), memory.control.clone());
            return Err(Error::SourceInControl { segment: name, page, control });
        }
    }
    let source = segment.source.iter().map(PhysRange::bytes).fold(0, u64::saturating_add);
    let destination = segment.destination.bytes();
    if source != destination {
        return Err(Error::SourceLength { segment: name, bytes: source, destination });
    }
    let mut to = segment.destination.start;
    for run in segment.source {
        // The lengths are equal, so a run in place is within its own destination, which overlaps no
        // other.
        let in_place = run.start == to;
        if !in_place && let Some(target) = overwritten_by(run, segments) {
            let page = run.start.max(target.destination.start);
            return Err(Error::SourceIsDestination { segment: name, page, target: target.name });
        }
        to = to + run.bytes();
    }
    Ok(())
}

/// Returns the segment whose destination overlaps `run`.
#[inline(never)]
fn overwritten_by<'s, 'a>(
    run: &Range<PhysAddr>,
    segments: &'s [Segment<'a>],
) -> Option<&'s Segment<'a>> {
    segments.iter().find(|target| target.destination.overlaps(run))
}

#[inline(never)]
fn is_over_control(destination: &Range<PhysAddr>, memory: &Memory<'_>) -> bool {
    memory.control.overlaps(destination)
}

/// Returns whether both ends are page-aligned.
fn is_whole_pages(range: &Range<PhysAddr>) -> bool {
    range.start.is_aligned(PAGE_SIZE) && range.end.is_aligned(PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> Range<PhysAddr> {
        PhysAddr::new(start)..PhysAddr::new(end)
    }

    /// 16 MiB of RAM in two ranges, with a reservation, a UART and control pages.
    const RAM: &[Range<PhysAddr>] = &[
        PhysAddr::new(0x4000_0000)..PhysAddr::new(0x4080_0000),
        PhysAddr::new(0x8000_0000)..PhysAddr::new(0x8080_0000),
    ];
    const RESERVED: &[Reserved<'_>] = &[Reserved {
        range: PhysAddr::new(0x4030_0800)..PhysAddr::new(0x4030_0900),
        name: "breadcrumbs",
    }];
    const DEVICES: &[Range<PhysAddr>] = &[PhysAddr::new(0x0900_0000)..PhysAddr::new(0x0900_1000)];
    const MEMORY: Memory<'_> = Memory {
        ram: RAM,
        reserved: RESERVED,
        devices: DEVICES,
        control: PhysAddr::new(0x4040_0000)..PhysAddr::new(0x4041_0000),
    };

    /// Checks one segment called "kernel"; returns the error message, or an empty string.
    fn judge(destination: Range<PhysAddr>, source: &[Range<PhysAddr>]) -> String {
        judge_all(&[Segment { name: "kernel", destination, source }])
    }

    fn judge_all(segments: &[Segment<'_>]) -> String {
        check(segments, &MEMORY).map_or_else(|error| error.to_string(), |()| String::new())
    }

    /// A segment that is already at its destination.
    fn in_place<'a>(name: &'a str, run: &'a [Range<PhysAddr>; 1]) -> Segment<'a> {
        Segment { name, destination: run[0].clone(), source: run }
    }

    #[test]
    fn what_keeps_the_rules_passes() {
        assert_eq!(judge_all(&[]), "");
        // Scattered frames, the last one in place; each destination borders on a forbidden range.
        let source = [
            range(0x8000_0000, 0x8000_1000),
            range(0x8070_0000, 0x8070_1000),
            range(0x402f_f000, 0x4030_0000),
        ];
        assert_eq!(judge(range(0x402f_d000, 0x4030_0000), &source), "");
        assert_eq!(judge(range(0x4030_1000, 0x4040_0000), &[range(0x8000_0000, 0x800f_f000)]), "");
        assert_eq!(judge(range(0x4041_0000, 0x4042_0000), &[range(0x8000_0000, 0x8001_0000)]), "");
        // Two pages may share one source page, because no move writes to it.
        let twice = [range(0x8000_0000, 0x8000_1000), range(0x8000_0000, 0x8000_1000)];
        assert_eq!(judge(range(0x4000_0000, 0x4000_2000), &twice), "");
        // Exactly half of RAM.
        assert_eq!(judge(range(0x8000_0000, 0x8080_0000), &[range(0x8000_0000, 0x8080_0000)]), "");
    }

    #[test]
    fn more_than_sixteen_segments_are_refused() {
        let runs: Vec<[Range<PhysAddr>; 1]> = (0..17)
            .map(|page| [range(0x4000_0000 + page * PAGE_SIZE, 0x4000_1000 + page * PAGE_SIZE)])
            .collect();
        let segments: Vec<Segment<'_>> = runs.iter().map(|run| in_place("page", run)).collect();
        assert_eq!(judge_all(&segments[..16]), "");
        assert_eq!(
            judge_all(&segments),
            "17 segments, and 16 are the most there may be: join some"
        );
    }

    #[test]
    fn a_misaligned_destination_is_refused() {
        assert_eq!(
            judge(range(0x4000_0800, 0x4000_2000), &[]),
            "segment \"kernel\": the destination 0x40000800..0x40002000 does not consist of whole \
             pages: align both ends to 0x1000"
        );
        assert!(
            judge(range(0x4000_0000, 0x4000_1fff), &[])
                .contains("0x40000000..0x40001fff does not consist of whole")
        );
    }

    #[test]
    fn an_empty_destination_is_refused() {
        assert_eq!(
            judge(range(0x4000_0000, 0x4000_0000), &[]),
            "segment \"kernel\": the destination 0x40000000..0x40000000 is empty: leave the \
             segment out"
        );
        assert!(
            judge(range(0x4000_1000, 0x4000_0000), &[]).contains("0x40001000..0x40000000 is empty")
        );
    }

    #[test]
    fn a_segment_above_half_of_ram_is_refused() {
        assert_eq!(
            judge(range(0x8000_0000, 0x8080_1000), &[]),
            "segment \"kernel\": 8392704 bytes are more than half of RAM, 8388608 bytes: make it \
             smaller or give the machine more memory"
        );
    }

    #[test]
    fn segments_together_above_half_of_ram_are_refused() {
        let (first, second) =
            ([range(0x8000_0000, 0x8080_0000)], [range(0x4000_0000, 0x4000_1000)]);
        assert_eq!(
            judge_all(&[in_place("kernel", &first), in_place("dtb", &second)]),
            "the segments' 8392704 bytes are together more than half of RAM, 8388608 bytes: make \
             them smaller or give the machine more memory"
        );
    }

    #[test]
    fn a_destination_over_a_device_is_refused() {
        assert_eq!(
            judge(range(0x0900_0000, 0x0900_2000), &[]),
            "segment \"kernel\": the destination 0x9000000..0x9002000 overlaps the device at \
             0x9000000..0x9001000: choose a place in RAM"
        );
    }

    #[test]
    fn a_destination_outside_ram_is_refused() {
        for (start, end) in
            [(0x1000, 0x2000), (0x3fff_f000, 0x4000_1000), (0x407f_f000, 0x4080_1000)]
        {
            assert_eq!(
                judge(range(start, end), &[]),
                format!(
                    "segment \"kernel\": the destination {start:#x}..{end:#x} is not wholly in one \
                     range of RAM: choose a place that is"
                )
            );
        }
    }

    #[test]
    fn a_destination_over_reserved_memory_is_refused() {
        assert_eq!(
            judge(range(0x4030_0000, 0x4030_1000), &[]),
            "segment \"kernel\": the destination 0x40300000..0x40301000 overlaps reserved memory, \
             \"breadcrumbs\" at 0x40300800..0x40300900: choose another place"
        );
    }

    #[test]
    fn a_destination_over_the_control_pages_is_refused() {
        for (start, end) in
            [(0x403f_0000, 0x4040_1000), (0x4040_1000, 0x4040_2000), (0x4040_f000, 0x4041_1000)]
        {
            assert_eq!(
                judge(range(start, end), &[]),
                format!(
                    "segment \"kernel\": the destination {start:#x}..{end:#x} overlaps the \
                     control pages at 0x40400000..0x40410000: move either"
                )
            );
        }
    }

    #[test]
    fn two_destinations_that_overlap_are_refused() {
        let (first, second) =
            ([range(0x4000_0000, 0x4000_3000)], [range(0x4000_2000, 0x4000_4000)]);
        let segments = [in_place("kernel", &first), in_place("dtb", &second)];
        assert_eq!(
            judge_all(&segments),
            "segments \"kernel\" and \"dtb\" overlap at 0x40002000: move either"
        );
    }

    #[test]
    fn a_misaligned_source_is_refused() {
        assert_eq!(
            judge(range(0x4000_0000, 0x4000_1000), &[range(0x8000_0010, 0x8000_1010)]),
            "segment \"kernel\": the source run 0x80000010..0x80001010 does not consist of whole \
             pages: load it into whole frames"
        );
    }

    #[test]
    fn a_source_outside_ram_is_refused() {
        assert_eq!(
            judge(range(0x4000_0000, 0x4000_1000), &[range(0x9000_0000, 0x9000_1000)]),
            "segment \"kernel\": the source run 0x90000000..0x90001000 is not wholly in one range \
             of RAM: load it into frames that are"
        );
    }

    #[test]
    fn a_source_of_another_length_is_refused() {
        let source = [range(0x8000_0000, 0x8000_1000), range(0x8001_0000, 0x8001_2000)];
        assert_eq!(
            judge(range(0x4000_0000, 0x4000_4000), &source),
            "segment \"kernel\": the source's 12288 bytes are shorter than the destination's \
             16384: make them equal"
        );
        assert_eq!(
            judge(range(0x4000_0000, 0x4000_2000), &source),
            "segment \"kernel\": the source's 12288 bytes are longer than the destination's 8192: \
             make them equal"
        );
    }

    #[test]
    fn a_source_in_the_control_pages_is_refused() {
        assert_eq!(
            judge(range(0x4000_0000, 0x4000_2000), &[range(0x403f_f000, 0x4040_1000)]),
            "segment \"kernel\": the source page 0x40400000 is one of the control pages at \
             0x40400000..0x40410000: load it elsewhere"
        );
    }

    #[test]
    fn a_source_that_is_another_segments_destination_is_refused() {
        let kernel = [range(0x8000_0000, 0x8000_4000)];
        let dtb = [range(0x4000_0000, 0x4000_1000)];
        let segments = [
            Segment { name: "dtb", destination: range(0x4010_0000, 0x4010_1000), source: &dtb },
            Segment {
                name: "kernel",
                destination: range(0x4000_0000, 0x4000_4000),
                source: &kernel,
            },
        ];
        let sentence = "segment \"dtb\": the source page 0x40000000 is in the destination of \
                        \"kernel\" and could be overwritten before it is copied: load it into a \
                        frame that is in no destination";
        assert_eq!(judge_all(&segments), sentence);
        // The second segment is in place and overwrites nothing, but `check` still refuses the
        // move.
        let segments = [segments[0].clone(), in_place("kernel", &dtb)];
        assert_eq!(judge_all(&segments), sentence);
    }

    #[test]
    fn a_source_shifted_within_its_own_destination_is_refused() {
        let down = judge(range(0x4000_0000, 0x4000_4000), &[range(0x4000_1000, 0x4000_5000)]);
        assert!(
            down.contains("the source page 0x40001000 is in the destination of \"kernel\""),
            "{down}"
        );
        let up = judge(range(0x4000_2000, 0x4000_6000), &[range(0x4000_0000, 0x4000_4000)]);
        assert!(
            up.contains("the source page 0x40002000 is in the destination of \"kernel\""),
            "{up}"
        );
    }

    #[test]
    fn the_in_place_part_of_a_source_does_not_excuse_the_rest() {
        // Pages 0 and 1 are in place; page 2 is filled from page 1.
        let source = [range(0x4000_0000, 0x4000_2000), range(0x4000_1000, 0x4000_2000)];
        assert!(
            judge(range(0x4000_0000, 0x4000_3000), &source)
                .contains("the source page 0x40001000 is in")
        );
    }
}
