//! Load: from the disk's table of contents to verified payloads in frames that nobody will overwrite.
//!
//! *When:* once a generation, with the disk open. *Leaves:* an [`Image`], each of its payloads in frames of its own destination or of nobody's, its tail
//! zeroed, its SHA-256 right, its CRC-32C taken. *Refuses:* what [`fit`], the Image header and memory say.

use crate::disk::Disk;
use crate::memory::Frames;
use crate::refused::Refused;
use crate::unpack;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use boot::image::{BASE_ALIGNMENT, HEADER_BYTES, Header};
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use core::ops::Range;
use kernel::fit::{self, Companions, Compression, Fit, Payload};
use relocate::checksum::Crc32c;

/// The disk's table of contents.
pub struct Contents {
    tree: Vec<u8>,
    /// The names of its configurations, the default first.
    pub configurations: Vec<String>,
}

impl Contents {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// No FIT, a damaged one, or a disk that fails.
    pub fn read(disk: &mut Disk) -> Result<Self, Refused> {
        const FIRST: usize = 512;
        let mut first = [0; FIRST];
        let bytes = disk.bytes();
        let readable = FIRST.min(bytes as usize);
        disk.read(0, &mut first[..readable])?;
        let mut tree = vec![0; fit::header_size(&first[..readable], bytes)? as usize];
        disk.read(0, &mut tree)?;
        let configurations = fit::configurations(&tree)?;
        Ok(Self { tree, configurations })
    }

    /// What the configuration of that name consists of, and its kernel's header.
    ///
    /// # Errors
    ///
    /// What the FIT or the header breaks, or more than `ram_bytes`.
    pub fn open(
        &self,
        disk: &mut Disk,
        configuration: &str,
        ram_bytes: u64,
    ) -> Result<(Fit, Header), Refused> {
        let fit = fit::parse(&self.tree, disk.bytes(), configuration)?;
        let bytes = fit.kernel.place.end - fit.kernel.place.start;
        let mut start = [0; HEADER_BYTES];
        let (readable, bytes) = match fit.kernel.compression {
            Compression::None => {
                let readable = HEADER_BYTES.min(bytes as usize);
                disk.read(fit.kernel.place.start, &mut start[..readable])?;
                (readable, bytes)
            }
            Compression::Gzip { unpacked } => {
                (unpack::start(disk, &fit.kernel, &mut start)?, unpacked.unwrap_or_default())
            }
        };
        let header = Header::parse(&start[..readable])?;
        header.check_file(bytes)?;
        header.check_fits(ram_bytes)?;
        Ok((fit, header))
    }

    /// What goes with a payload's kernel in the configuration of that name.
    ///
    /// # Errors
    ///
    /// What the FIT breaks.
    pub fn companions(&self, disk: &Disk, configuration: &str) -> Result<Companions, Refused> {
        Ok(fit::companions(&self.tree, disk.bytes(), configuration)?)
    }
}

/// One payload in memory.
pub struct Loaded {
    /// Its name on the disk.
    pub name: String,
    /// Where it goes: whole pages, its zeroed tail included.
    pub destination: Range<PhysAddr>,
    /// Where it lies until then.
    pub frames: Frames,
    /// What the destination must hold in the end.
    pub crc32c: u32,
}

impl Loaded {
    /// Each run with its place in the destination.
    fn placed(&self) -> impl Iterator<Item = (Range<PhysAddr>, &[u8])> {
        let mut at = self.destination.start;
        self.frames.slices().map(move |slice| {
            let start = at;
            at = PhysAddr(start.0 + slice.len() as u64);
            (start..at, slice)
        })
    }

    /// The stretches of the destination that are not in place yet.
    #[must_use]
    pub fn moved(&self) -> Vec<Range<PhysAddr>> {
        let mut moved: Vec<Range<PhysAddr>> = Vec::new();
        for ((place, _), run) in self.placed().zip(self.frames.runs()) {
            match moved.last_mut() {
                _ if place == *run => {}
                Some(last) if last.end == place.start => last.end = place.end,
                _ => moved.push(place),
            }
        }
        moved
    }

    /// What a stretch of the destination, of whole runs, must hold in the end.
    #[must_use]
    pub fn crc32c_of(&self, stretch: &Range<PhysAddr>) -> u32 {
        let runs = self.placed().filter(|(place, _)| stretch.covers(place));
        runs.fold(Crc32c::default(), |crc, (_, slice)| crc.update(slice)).value()
    }
}

/// The base of a kernel that is to lie where the FIT says, which is where its first byte lies: `text_offset` above a 2 MiB boundary.
///
/// # Errors
///
/// [`Refused::NoLoadAddress`], [`Refused::Misplaced`].
pub fn base_in(fit: &Fit, header: &Header) -> Result<PhysAddr, Refused> {
    let load = fit.kernel.load.ok_or(Refused::NoLoadAddress)?;
    let base =
        load.0.checked_sub(header.text_offset).filter(|base| base.is_multiple_of(BASE_ALIGNMENT));
    base.map(PhysAddr).ok_or(Refused::Misplaced(load, header.text_offset))
}

/// Takes frames for one of all destinations; an error is how many bytes could not be had.
pub type Take = fn(&Range<PhysAddr>, &[Range<PhysAddr>]) -> Result<Frames, u64>;

/// The next generation, loaded and verified.
pub struct Image {
    /// The kernel, then the loadables.
    pub payloads: Vec<Loaded>,
    /// The kernel's first instruction.
    pub entry: PhysAddr,
    /// Bytes that were hashed.
    pub hashed: u64,
}

impl Image {
    /// Loads what a configuration consists of, its kernel to `entry`, into what `take` gives.
    ///
    /// # Errors
    ///
    /// The first rule that is broken; all memory has been given back.
    pub fn load(
        disk: &mut Disk,
        fit: &Fit,
        header: &Header,
        entry: PhysAddr,
        take: Take,
    ) -> Result<Self, Refused> {
        let Fit { kernel, loadables, .. } = fit;
        // Destinations first: no frames are taken in another's.
        let mut destinations = vec![pages(kernel, entry, header.image_size)?];
        for payload in loadables {
            let load = payload.load.ok_or_else(|| fit_lacks_load(payload))?;
            destinations.push(pages(payload, load, payload.place.end - payload.place.start)?);
        }

        let mut image = Self { payloads: Vec::new(), entry, hashed: 0 };
        for (payload, destination) in core::iter::once(kernel).chain(loadables).zip(&destinations) {
            let frames = take(destination, &destinations).map_err(Refused::Memory)?;
            let loaded = image.read(disk, payload, header.image_size, destination, frames)?;
            image.payloads.push(loaded);
        }
        Ok(image)
    }

    fn read(
        &mut self,
        disk: &mut Disk,
        payload: &Payload,
        image_size: u64,
        destination: &Range<PhysAddr>,
        mut frames: Frames,
    ) -> Result<Loaded, Refused> {
        self.hashed += payload.place.end - payload.place.start;
        let bytes = match payload.compression {
            Compression::None => as_it_is(disk, payload, &mut frames)?,
            Compression::Gzip { unpacked } => {
                unpack::all(disk, payload, unpacked, image_size, &mut frames)?
            }
        };
        frames.zero_from(bytes as usize);
        let crc32c = frames.slices().fold(Crc32c::default(), Crc32c::update).value();
        Ok(Loaded { name: payload.name.clone(), destination: destination.clone(), frames, crc32c })
    }
}

/// Reads a payload that lies on the disk as it will in memory; gives its size.
fn as_it_is(disk: &mut Disk, payload: &Payload, frames: &mut Frames) -> Result<u64, Refused> {
    let mut at = payload.place.start;
    for slice in frames.slices_mut() {
        let bytes = (payload.place.end - at).min(slice.len() as u64);
        if bytes == 0 {
            break;
        }
        disk.read(at, &mut slice[..bytes as usize])?;
        at += bytes;
    }

    let bytes = payload.place.end - payload.place.start;
    let mut left = bytes as usize;
    let file = frames.slices().map(|slice| {
        let bytes = left.min(slice.len());
        left -= bytes;
        &slice[..bytes]
    });
    fit::verify(payload, file)?;
    Ok(bytes)
}

/// The pages from `start` on that hold `bytes` bytes of a payload.
fn pages(payload: &Payload, start: PhysAddr, bytes: u64) -> Result<Range<PhysAddr>, Refused> {
    start.range(bytes.next_multiple_of(PAGE_SIZE)).ok_or_else(|| {
        let name = &payload.name;
        Refused::Segments(alloc::format!(
            "segment \"{name}\": the destination {start}.. passes the end of memory: choose another place"
        ))
    })
}

fn fit_lacks_load(payload: &Payload) -> Refused {
    Refused::Segments(alloc::format!(
        "loadable \"{}\" has no load address: write one",
        payload.name
    ))
}
