//! Image loading: reads the next image from the boot medium into frames, and verifies it.
//!
//! - Runs once for each configuration that is tried, with the medium open.
//! - Leaves an [`Image`]. Each payload is in frames that are its own destination or in no
//!   destination; its tail is zeroed, its digests verified and its CRC-32C computed.
//! - Refuses a FIT or an Image header that breaks a rule, and an image that does not fit in memory.

use crate::clock;
use crate::error::Error;
use crate::medium::Medium;
use crate::memory::{self, Frames};
use crate::state::Kernel;
use crate::unpack;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use boot::image::{BASE_ALIGNMENT, HEADER_BYTES, Header};
use boot::phys::{PAGE_SIZE, PhysAddr, PhysRange};
use core::ops::Range;
use log::{info, warn};
use protocol::fit::{self, Algorithm, Companions, Compression, Digest, Digests, Fit, Payload};
use relocate::checksum::Crc32c;

/// The FIT's device tree, as read from the medium.
pub struct Contents {
    tree: Vec<u8>,
    /// The names of the FIT's configurations, the default one first.
    configurations: Vec<String>,
    /// Whether a payload may lack a digest.
    digests: Digests,
}

impl Contents {
    /// Reads the FIT's device tree from the start of the medium.
    ///
    /// # Errors
    ///
    /// No FIT, a damaged one, or a read error.
    pub fn read(medium: &mut Medium, digests: Digests) -> Result<Self, Error> {
        const FIRST: usize = 512;
        let mut first = [0; FIRST];
        let described = medium.described();
        let readable = FIRST.min(described.bytes as usize);
        medium.read(0, &mut first[..readable])?;
        let mut tree = Vec::new();
        let size = fit::header_size(&first[..readable], described)? as usize;
        tree.try_reserve_exact(size).map_err(|_| Error::Heap(size as u64))?;
        tree.resize(size, 0);
        medium.read(0, &mut tree)?;
        let configurations = fit::configurations(&tree)?;
        Ok(Self { tree, configurations, digests })
    }

    /// Returns the payloads of the configuration with that name, and its kernel's Image header.
    ///
    /// # Errors
    ///
    /// A broken rule of the FIT or of the header, or a kernel larger than `ram_bytes`.
    pub fn open(
        &self,
        medium: &mut Medium,
        configuration: &str,
        ram_bytes: u64,
    ) -> Result<(Fit, Header), Error> {
        let fit = fit::parse(&self.tree, medium.described(), self.digests, configuration)?;
        let bytes = fit.kernel.place.end - fit.kernel.place.start;
        let mut start = [0; HEADER_BYTES];
        let (readable, bytes) = match fit.kernel.compression {
            Compression::None => {
                let readable = HEADER_BYTES.min(bytes as usize);
                medium.read(fit.kernel.place.start, &mut start[..readable])?;
                (readable, bytes)
            }
            Compression::Gzip { unpacked } => {
                (unpack::start(medium, &fit.kernel, &mut start)?, unpacked.unwrap_or_default())
            }
        };
        let header = Header::parse(&start[..readable])?;
        header.check_file(bytes)?;
        header.check_fits(ram_bytes)?;
        Ok((fit, header))
    }

    /// Returns the initrd, FDT and bootargs in the configuration with that name.
    ///
    /// # Errors
    ///
    /// A broken rule of the FIT.
    pub fn companions(&self, medium: &Medium, configuration: &str) -> Result<Companions, Error> {
        Ok(fit::companions(&self.tree, medium.described(), self.digests, configuration)?)
    }
}

/// A configuration of the FIT, selected by its number, and the medium that holds it.
pub struct Selection {
    /// The medium. It stays open until the selected image is loaded.
    pub medium: Medium,
    /// The FIT's device tree.
    pub contents: Contents,
    /// The configuration's name.
    pub name: String,
    /// Free bytes before the medium was opened.
    pub free_before: u64,
}

impl Selection {
    /// Opens the medium and selects configuration number `nth`, counted from the one named `first`,
    /// or from the FIT's default one.
    ///
    /// # Errors
    ///
    /// No medium, no FIT, [`Error::NoPayload`] or [`Error::NoConfiguration`]. Then there is no
    /// point in trying the next number.
    pub fn open(kernel: &Kernel, first: Option<&str>, nth: usize) -> Result<Self, Error> {
        let free_before = memory::free();
        let mut medium = Medium::open(&kernel.devices, &kernel.initrd, kernel.cmdline.fit)?;
        let digests = if kernel.cmdline.unverified { Digests::Optional } else { Digests::Required };
        let contents = Contents::read(&mut medium, digests)?;
        let names = &contents.configurations;
        let first = match first {
            None => fit::default(&contents.tree).map(|()| 0)?,
            Some(first) => names
                .iter()
                .position(|name| name == first)
                .ok_or_else(|| Error::NoPayload(first.into()))?,
        };
        let name = names.get(first + nth).ok_or(Error::NoConfiguration(nth))?.clone();
        Ok(Self { medium, contents, name, free_before })
    }
}

/// A payload in memory.
pub struct Loaded {
    /// The name of its node in the FIT.
    pub name: String,
    /// The memory that it must be moved to: whole pages, including the zeroed tail.
    pub destination: Range<PhysAddr>,
    /// The frames that hold it until then.
    pub frames: Frames,
    /// The CRC-32C of what the destination must hold in the end.
    pub crc32c: u32,
}

impl Loaded {
    /// Returns each run with the part of the destination that it belongs to.
    fn placed(&self) -> impl Iterator<Item = (Range<PhysAddr>, &[u8])> {
        let mut at = self.destination.start;
        self.frames.slices().map(move |slice| {
            let start = at;
            at = start + slice.len() as u64;
            (start..at, slice)
        })
    }

    /// Returns the parts of the destination that still have to be copied.
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

    /// Returns the CRC-32C that a part of the destination, which consists of whole runs, must have.
    #[must_use]
    pub fn crc32c_of(&self, stretch: &Range<PhysAddr>) -> u32 {
        let runs = self.placed().filter(|(place, _)| stretch.covers(place));
        runs.fold(Crc32c::default(), |crc, (_, slice)| crc.update(slice)).value()
    }
}

/// Returns the base of a kernel that must be loaded at the FIT's `load` address.
///
/// The kernel's first byte goes to that address, `text_offset` bytes above its base. The base must
/// be a 2 MiB boundary.
///
/// # Errors
///
/// [`Error::NoLoadAddress`], [`Error::Misplaced`].
pub fn base_in(fit: &Fit, header: &Header) -> Result<PhysAddr, Error> {
    let load = fit.kernel.load.ok_or(Error::NoLoadAddress)?;
    let base = load
        .get()
        .checked_sub(header.text_offset)
        .filter(|base| base.is_multiple_of(BASE_ALIGNMENT));
    base.map(PhysAddr::new).ok_or(Error::Misplaced(load, header.text_offset))
}

/// A function that allocates frames for one destination, in place or outside of all destinations.
///
/// Its error is the number of bytes that are missing.
pub type Take = fn(&Range<PhysAddr>, &[Range<PhysAddr>]) -> Result<Frames, u64>;

/// The next image, loaded and verified.
pub struct Image {
    /// The kernel, then the loadables.
    pub payloads: Vec<Loaded>,
    /// The address of the kernel's first instruction.
    pub entry: PhysAddr,
    /// The number of bytes that were hashed.
    pub hashed: u64,
    /// The number of requests to the disk, none if the FIT is the initrd.
    pub disk_requests: u64,
    /// The nanoseconds spent waiting for the disk.
    pub disk_ns: u64,
}

impl Image {
    /// Loads the payloads of a configuration into frames from `take`. Its kernel is for `entry`.
    ///
    /// # Errors
    ///
    /// [`Error::NoCrc32`], or the first rule that is broken. All memory is freed.
    pub fn load(
        medium: &mut Medium,
        fit: &Fit,
        header: &Header,
        entry: PhysAddr,
        take: Take,
    ) -> Result<Self, Error> {
        // Each payload's checksum is computed as soon as it is loaded.
        if !relocate::checksum::is_available() {
            return Err(Error::NoCrc32);
        }
        let Fit { kernel, loadables, .. } = fit;
        // Compute all destinations first: no payload's frames may be in another's destination. [I7]
        let mut destinations = vec![pages(kernel, entry, header.image_size)?];
        for payload in loadables {
            let load = payload.load.ok_or_else(|| fit_lacks_load(payload))?;
            let bytes = match payload.compression {
                Compression::None => payload.place.end - payload.place.start,
                Compression::Gzip { unpacked: Some(unpacked) } => unpacked,
                Compression::Gzip { unpacked: None } => unpack::size(medium, payload)?,
            };
            destinations.push(pages(payload, load, bytes.max(1))?);
        }

        let mut image =
            Self { payloads: Vec::new(), entry, hashed: 0, disk_requests: 0, disk_ns: 0 };
        for (payload, destination) in core::iter::once(kernel).chain(loadables).zip(&destinations) {
            let frames = take(destination, &destinations).map_err(Error::Memory)?;
            let loaded = image.read(medium, payload, destination, frames)?;
            image.payloads.push(loaded);
        }
        image.disk_requests = medium.requests();
        image.disk_ns = clock::nanoseconds(medium.waited());
        Ok(image)
    }

    fn read(
        &mut self,
        medium: &mut Medium,
        payload: &Payload,
        destination: &Range<PhysAddr>,
        mut frames: Frames,
    ) -> Result<Loaded, Error> {
        log_digest(payload);
        self.hashed += payload.place.end - payload.place.start;
        let bytes = match payload.compression {
            Compression::None => as_it_is(medium, payload, &mut frames)?,
            Compression::Gzip { unpacked } => {
                unpack::all(medium, payload, unpacked, destination.bytes(), &mut frames)?
            }
        };
        frames.zero_from(bytes as usize);
        let crc32c = frames.slices().fold(Crc32c::default(), Crc32c::update).value();
        Ok(Loaded { name: payload.name.clone(), destination: destination.clone(), frames, crc32c })
    }
}

/// Logs what verifies a payload, unless that is SHA-256. The parser accepts a payload without a
/// digest only with `unverified`.
pub fn log_digest(Payload { name, digests, .. }: &Payload) {
    if digests.iter().any(|digest| digest.algorithm == Algorithm::Sha256) {
        return;
    }
    match digests.first() {
        Some(Digest { algorithm, .. }) => info!("\"{name}\" is verified by {algorithm}"),
        None => warn!("unverified: \"{name}\" has no digest, and may be damaged"),
    }
}

/// Reads and verifies a payload that is not compressed. Returns its size.
fn as_it_is(medium: &mut Medium, payload: &Payload, frames: &mut Frames) -> Result<u64, Error> {
    let mut at = payload.place.start;
    for slice in frames.slices_mut() {
        let bytes = (payload.place.end - at).min(slice.len() as u64);
        if bytes == 0 {
            break;
        }
        medium.read_frames(at, &mut slice[..bytes as usize])?;
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

/// Returns the pages that hold `bytes` bytes of a payload, starting at `start`.
fn pages(payload: &Payload, start: PhysAddr, bytes: u64) -> Result<Range<PhysAddr>, Error> {
    start.range(bytes.next_multiple_of(PAGE_SIZE)).ok_or_else(|| {
        let name = &payload.name;
        Error::Segments(alloc::format!(
            "segment \"{name}\": the destination {start}.. passes the end of memory: \
             choose another place"
        ))
    })
}

fn fit_lacks_load(payload: &Payload) -> Error {
    Error::Segments(alloc::format!("loadable \"{}\" has no load address: write one", payload.name))
}
