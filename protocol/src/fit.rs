//! The FIT parser: finds kernels and their companions on the boot medium.
//!
//! - Takes the first bytes of the medium ([`header_size`]), then the FIT's whole device tree
//!   ([`configurations`], [`parse`], [`companions`]), then each payload's bytes ([`verify`]).
//! - Returns a [`Fit`]: each payload's place on the medium, load address and digests.
//! - Refuses a medium without a FIT, a damaged or incomplete one, and data past the medium's end.
//! - Never reads the medium itself, and never panics, whatever the bytes are.
//!
//! A FIT (U-Boot's `doc/usage/fit/source_file_format.rst`) is itself a small FDT:
//!
//! ```text
//! /images/<name>          type, arch, compression, load, entry, data-size,
//!                         and one of data-position, data-offset, data
//!                         perhaps compression = "gzip", and then optionally uncomp-size
//!         <name>/hash-1   algo = "sha256" or another, value: of the bytes on the disk
//! /configurations         default = <the configuration to use>
//!                <name>   kernel = <image>, loadables = <image>, <image>, …
//!                         for a payload also fdt, ramdisk, bootargs
//! ```
//!
//! - `data-position` counts from the start of the medium, `data-offset` from the end of the tree
//!   rounded up to 4, and `data` is within the tree. As in U-Boot, the first one present counts.
//! - Two payloads may share their data.
//! - An initrd is passed on as it is, whatever its `compression` says: its kernel unpacks it.
//!   U-Boot does the same.

mod digest;
mod error;
#[cfg(any(test, feature = "write"))]
pub mod writer;

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ops::Range;

use boot::phys::PhysAddr;
use fdt::blob::{Blob, HEADER_BYTES, MAGIC};
use fdt::node::Node;
use relocate::segment::MAX_SEGMENTS;

use self::digest::State;
pub use self::digest::{Algorithm, Digest};
pub use self::error::Error;

/// The largest FIT tree that is read.
///
/// Our own FIT has about 1 KiB. A FIT with its data inside the tree must be small.
pub const MAX_TREE_BYTES: u32 = 1 << 20;

/// The largest number of loadables in a configuration. Each is a segment, and so is the kernel.
///
/// The FDT is a segment as well. The check of all segments counts it.
pub const MAX_LOADABLES: usize = MAX_SEGMENTS - 1;

/// A configuration of a FIT: the payloads of one kexec.
#[derive(Clone, Debug, Eq, PartialEq)]
#[doc(alias = "itb")]
#[doc(alias = "uImage")]
pub struct Fit {
    /// The FIT's own description, or an empty string if it is none in UTF-8.
    pub description: String,
    /// The kernel: an arm64 Image, entered at its first byte.
    pub kernel: Payload,
    /// Other payloads to put into memory. Each has a [`Payload::load`].
    pub loadables: Vec<Payload>,
}

/// The companions of a payload's kernel. They are not looked up for a generation of ours.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Companions {
    /// The initrd. [`Payload::load`] is its address, if the FIT requires one.
    pub initrd: Option<Payload>,
    /// The FDT to pass to the kernel, instead of this machine's.
    pub fdt: Option<Payload>,
    /// The command line, instead of ours: the configuration's `bootargs`, our extension of FIT.
    pub bootargs: Option<String>,
}

/// A payload on the disk: a kernel, loadable, initrd or FDT.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Payload {
    /// The name of its node.
    pub name: String,
    /// Its bytes on the disk. The range is not empty, and its start need not be aligned.
    pub place: Range<u64>,
    /// The digests of these bytes that are checked, at most one of each algorithm. None only if
    /// [`Digests::Optional`].
    pub digests: Vec<Digest>,
    /// The compression of these bytes.
    pub compression: Compression,
    /// Its address in memory, or `None` for a kernel or an initrd that may be placed anywhere.
    pub load: Option<PhysAddr>,
}

/// The compression of a payload on the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Compression {
    /// Not compressed.
    None,
    /// A gzip file.
    Gzip {
        /// The size of the unpacked file, if the FIT states it.
        unpacked: Option<u64>,
    },
}

/// The medium that holds a FIT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Medium {
    /// The name that messages use: "the disk" or "the initrd".
    pub name: &'static str,
    /// The size in bytes.
    pub bytes: u64,
}

impl Medium {
    /// Returns a disk of `bytes` bytes.
    #[must_use]
    pub const fn disk(bytes: u64) -> Self {
        Self { name: "the disk", bytes }
    }

    /// Returns an initrd of `bytes` bytes.
    #[must_use]
    pub const fn initrd(bytes: u64) -> Self {
        Self { name: "the initrd", bytes }
    }
}

/// Whether a payload may lack a digest that can be checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Digests {
    /// A payload without one is refused.
    Required,
    /// A payload without one is accepted. Each digest that there is must match nevertheless.
    Optional,
}

/// Returns the size of the FIT's tree, from the first bytes of its medium.
///
/// # Errors
///
/// If the medium does not start with a FIT, or if its tree is too large.
pub fn header_size(first_block: &[u8], medium: Medium) -> Result<u32, Error> {
    let word = |at: usize| {
        first_block.get(at..).and_then(<[u8]>::first_chunk).copied().map(u32::from_be_bytes)
    };
    let (Some(magic), Some(bytes), true) = (word(0), word(4), first_block.len() >= HEADER_BYTES)
    else {
        return Err(Error::TooShort { medium });
    };
    if magic != MAGIC {
        return Err(Error::NotAFit { medium, magic });
    }
    if bytes > MAX_TREE_BYTES {
        return Err(Error::TreeTooLarge { bytes });
    }
    if u64::from(bytes) > medium.bytes {
        return Err(Error::TreePastEnd { bytes, medium });
    }
    Ok(bytes)
}

/// Returns the names of the configurations: the default one, if there is one, then the others in
/// tree order.
///
/// Linux's `make image.fit` writes no default. One is needed only if no configuration is requested
/// by its name: [`default`] says what is missing.
///
/// # Errors
///
/// If the tree is damaged.
pub fn configurations(tree: &[u8]) -> Result<Vec<String>, Error> {
    let configurations = Place::root(tree)?.child("configurations")?;
    let default = configurations.text("default")?;
    let mut names: Vec<String> = default.map(ToOwned::to_owned).into_iter().collect();
    for node in configurations.node.children() {
        let name = str::from_utf8(node.name()).map_err(|_| configurations.names_no_text(&node))?;
        if Some(name) != default {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Checks that the FIT names a default configuration, which [`configurations`] returns first.
///
/// # Errors
///
/// If the tree is damaged or names no default.
pub fn default(tree: &[u8]) -> Result<(), Error> {
    let configurations = Place::root(tree)?.child("configurations")?;
    configurations.text("default")?.map(drop).ok_or_else(|| configurations.lacks("default"))
}

/// Returns the payloads of the configuration with that name, on this medium.
///
/// # Errors
///
/// The first rule that is broken.
pub fn parse(
    tree: &[u8],
    medium: Medium,
    digests: Digests,
    configuration: &str,
) -> Result<Fit, Error> {
    let reader = Reader { tree, medium, digests };
    let root = Place::root(tree)?;
    let images = root.child("images")?;
    let configuration = root.child("configurations")?.child(configuration)?;
    let kernel = match configuration.texts("kernel")?[..] {
        [] => return Err(configuration.lacks("kernel")),
        [kernel] => kernel,
        ref kernels => {
            return Err(Error::ManyKernels { node: configuration.path, given: kernels.len() });
        }
    };
    let loadables = configuration.texts("loadables")?;
    if loadables.len() > MAX_LOADABLES {
        return Err(Error::TooManyLoadables { given: loadables.len() });
    }
    Ok(Fit {
        // Nothing depends on it, so it may be in any encoding.
        description: root.text("description").ok().flatten().unwrap_or_default().to_owned(),
        kernel: images.child(kernel)?.kernel(reader)?,
        loadables: loadables
            .into_iter()
            .map(|name| images.child(name)?.loadable(reader))
            .collect::<Result<_, _>>()?,
    })
}

/// Returns the companions of the kernel in the configuration with that name.
///
/// # Errors
///
/// The first rule that is broken.
pub fn companions(
    tree: &[u8],
    medium: Medium,
    digests: Digests,
    configuration: &str,
) -> Result<Companions, Error> {
    let reader = Reader { tree, medium, digests };
    let root = Place::root(tree)?;
    let images = root.child("images")?;
    let configuration = root.child("configurations")?.child(configuration)?;
    let image = |property| configuration.text(property)?.map(|name| images.child(name)).transpose();
    let fdt = match configuration.texts("fdt")?[..] {
        [] => None,
        [name] => Some(images.child(name)?.maybe_gzip(reader)?),
        [_, overlay, ..] => {
            return Err(Error::Overlay { node: configuration.path, overlay: overlay.to_owned() });
        }
    };
    let initrd = image("ramdisk")?.map(|initrd| initrd.payload(reader)).transpose()?;
    // A load address of 0 is customary and means none, as it does for `kernel_noload`.
    let anywhere =
        |initrd: Payload| Payload { load: initrd.load.filter(|load| load.get() != 0), ..initrd };
    let bootargs = configuration.text("bootargs")?.map(ToOwned::to_owned);
    Ok(Companions { initrd: initrd.map(anywhere), fdt, bootargs })
}

/// Checks a payload's bytes, given as `runs` in order, against its digests.
///
/// # Errors
///
/// [`Error::DigestDiffers`].
pub fn verify<'a>(
    payload: &Payload,
    runs: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(), Error> {
    let mut hash = Hash::new(payload);
    runs.into_iter().for_each(|run| hash.update(run));
    hash.verify()
}

/// The digests of a payload that are computed piece by piece.
pub struct Hash<'p> {
    payload: &'p Payload,
    states: Vec<State>,
}

impl<'p> Hash<'p> {
    /// Starts every digest that the FIT states for this payload.
    #[must_use]
    pub fn new(payload: &'p Payload) -> Self {
        let states = payload.digests.iter().map(|digest| State::new(digest.algorithm)).collect();
        Self { payload, states }
    }

    /// Adds the payload's next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.states.iter_mut().for_each(|state| state.update(piece));
    }

    /// Checks the bytes that were added against each digest.
    ///
    /// # Errors
    ///
    /// [`Error::DigestDiffers`], for the first one that differs.
    pub fn verify(self) -> Result<(), Error> {
        self.states.into_iter().zip(&self.payload.digests).try_for_each(|(state, expected)| {
            let found = state.finish();
            if is_same(&found, &expected.value) {
                return Ok(());
            }
            let (name, expected) = (self.payload.name.clone(), expected.clone());
            Err(Error::DigestDiffers { name, expected, found })
        })
    }
}

/// Returns whether two digests are equal. Not inlined: a test patches it.
#[inline(never)]
fn is_same(found: &[u8], expected: &[u8]) -> bool {
    found == expected
}

/// The arguments of all readers of an image's node.
#[derive(Clone, Copy)]
struct Reader<'a> {
    tree: &'a [u8],
    medium: Medium,
    digests: Digests,
}

/// A node, and the path that names it in messages.
///
/// It refuses a child or property that exists twice: readers would disagree about which one counts.
struct Place<'a> {
    path: String,
    node: Node<'a>,
}

impl<'a> Place<'a> {
    /// Checks the whole tree and returns its root.
    fn root(tree: &'a [u8]) -> Result<Self, Error> {
        let tree = Blob::new(tree).map_err(|error| Error::TreeDamaged { error })?;
        let node = Node::root(&tree).ok_or(Error::TreeDamaged { error: "no node" })?;
        Ok(Self { path: String::new(), node })
    }

    /// Returns the child with exactly this name. [`Node::child`] takes `kernel@1` for `kernel`.
    fn child(&self, name: &str) -> Result<Self, Error> {
        let mut found = self.node.children().filter(|child| child.name() == name.as_bytes());
        let node = found.next().ok_or_else(|| self.lacks(name))?;
        let path = format!("{}/{name}", self.path);
        if found.next().is_some() { Err(Error::Twice { path }) } else { Ok(Self { path, node }) }
    }

    /// Returns a property's value, if the property exists.
    fn value(&self, property: &str) -> Result<Option<&'a [u8]>, Error> {
        let is_it = |found: &fdt::node::Property<'_>| found.name == property.as_bytes();
        let mut found = self.node.properties().filter(is_it);
        let Some(first) = found.next() else { return Ok(None) };
        if found.next().is_some() {
            return Err(Error::Twice { path: format!("{}/{property}", self.path) });
        }
        Ok(Some(first.value))
    }

    /// Returns a property that holds one string.
    fn text(&self, property: &str) -> Result<Option<&'a str>, Error> {
        let Some(value) = self.value(property)? else { return Ok(None) };
        let text = CStr::from_bytes_with_nul(value).ok().and_then(|text| text.to_str().ok());
        text.map(Some).ok_or_else(|| self.odd(property, value.len(), "a string"))
    }

    /// Returns a property that holds strings, each with its NUL. A missing property holds none.
    fn texts(&self, property: &str) -> Result<Vec<&'a str>, Error> {
        let Some(value) = self.value(property)? else { return Ok(Vec::new()) };
        let texts = value.strip_suffix(&[0]).and_then(|texts| str::from_utf8(texts).ok());
        texts
            .map(|texts| texts.split('\0').collect())
            .ok_or_else(|| self.odd(property, value.len(), "a list of strings"))
    }

    /// Returns a property that holds a number of one or two cells.
    fn number(&self, property: &str) -> Result<Option<u64>, Error> {
        let Some(value) = self.value(property)? else { return Ok(None) };
        match (<[u8; 4]>::try_from(value), <[u8; 8]>::try_from(value)) {
            (Ok(cell), _) => Ok(Some(u32::from_be_bytes(cell).into())),
            (_, Ok(cells)) => Ok(Some(u64::from_be_bytes(cells))),
            _ => Err(self.odd(property, value.len(), "a number of 4 or 8 bytes")),
        }
    }

    /// Reads this image as the kernel: an arm64 Image, which is entered at its first byte.
    fn kernel(&self, reader: Reader<'_>) -> Result<Payload, Error> {
        self.text("arch")?.ok_or_else(|| self.lacks("arch"))?;
        let mut kernel = self.maybe_gzip(reader)?;
        match self.text("type")?.ok_or_else(|| self.lacks("type"))? {
            // U-Boot requires `load` and `entry` here as well, but ignores them, so 0 is customary.
            // We take 0 to mean none.
            "kernel_noload" => kernel.load = kernel.load.filter(|load| load.get() != 0),
            "kernel" => match (kernel.load, self.number("entry")?) {
                (Some(load), Some(entry)) if load.get() != entry => {
                    return Err(Error::EntryElsewhere {
                        node: self.path.clone(),
                        load,
                        entry: PhysAddr::new(entry),
                    });
                }
                _ => {}
            },
            other => {
                return Err(Error::NotAKernel { node: self.path.clone(), kind: other.to_owned() });
            }
        }
        Ok(kernel)
    }

    /// Reads this image as a loadable: it must have a load address, but may have any type, and no
    /// architecture.
    fn loadable(&self, reader: Reader<'_>) -> Result<Payload, Error> {
        let loadable = self.maybe_gzip(reader)?;
        loadable.load.ok_or_else(|| self.lacks("load"))?;
        Ok(loadable)
    }

    /// Reads this image, and refuses it if it is compressed, unless by gzip.
    fn maybe_gzip(&self, reader: Reader<'_>) -> Result<Payload, Error> {
        let compression = match self.text("compression")? {
            None | Some("none") => Compression::None,
            Some("gzip") => Compression::Gzip { unpacked: self.number("uncomp-size")? },
            Some(other) => {
                let (node, compression) = (self.path.clone(), other.to_owned());
                return Err(Error::Compressed { node, compression });
            }
        };
        Ok(Payload { compression, ..self.payload(reader)? })
    }

    /// Reads the properties that every image must have.
    fn payload(&self, reader: Reader<'_>) -> Result<Payload, Error> {
        if let Some(arch) = self.text("arch")?.filter(|arch| *arch != "arm64") {
            return Err(Error::WrongArch { node: self.path.clone(), arch: arch.to_owned() });
        }
        if self.node.children().any(|child| child.name().starts_with(b"cipher")) {
            return Err(Error::Encrypted { node: self.path.clone() });
        }
        Ok(Payload {
            name: self.node.to_string(),
            place: self.place(reader)?,
            digests: self.digests(reader.digests)?,
            compression: Compression::None,
            load: self.number("load")?.map(PhysAddr::new),
        })
    }

    /// Returns the range of this image's data on the disk.
    fn place(&self, reader: Reader<'_>) -> Result<Range<u64>, Error> {
        let Reader { tree, medium, .. } = reader;
        let node = || self.path.clone();
        let end_of_tree = tree.len() as u64;
        let external = match (self.number("data-position")?, self.number("data-offset")?) {
            (Some(position), _) => Some(position),
            (None, Some(offset)) => Some(offset.saturating_add(end_of_tree.next_multiple_of(4))),
            (None, None) => None,
        };
        let (start, bytes) = if let Some(start) = external {
            (start, self.number("data-size")?.ok_or_else(|| self.lacks("data-size"))?)
        } else {
            // The value is part of the tree, which is at the start of the disk.
            let data = self.value("data")?.ok_or_else(|| self.lacks("data"))?;
            ((data.as_ptr().addr() - tree.as_ptr().addr()) as u64, data.len() as u64)
        };
        match start.checked_add(bytes).filter(|end| *end <= medium.bytes) {
            None => Err(Error::PastEnd { node: node(), start, bytes, medium }),
            Some(_) if bytes == 0 => Err(Error::Empty { node: node() }),
            Some(end) if external.is_some() && start < end_of_tree => {
                Err(Error::OverTree { node: node(), place: start..end, tree: end_of_tree })
            }
            Some(end) => Ok(start..end),
        }
    }

    /// Returns the digests in this image's hash nodes. As in U-Boot, every node whose name starts
    /// with `hash` is one.
    ///
    /// An algorithm that we do not know is passed over beside one that we know. Several nodes of
    /// one algorithm must hold the same digest.
    fn digests(&self, digests: Digests) -> Result<Vec<Digest>, Error> {
        let mut found: Vec<Digest> = Vec::new();
        let mut unknown = None;
        for node in self.node.children().filter(|node| node.name().starts_with(b"hash")) {
            let hash = Self { path: format!("{}/{node}", self.path), node };
            let name = hash.text("algo")?.ok_or_else(|| hash.lacks("algo"))?;
            let Some((algorithm, bytes)) = Algorithm::of(name) else {
                unknown = Some(Error::UnknownHash { node: hash.path, algorithm: name.to_owned() });
                continue;
            };
            let value = hash.value("value")?.ok_or_else(|| hash.lacks("value"))?;
            if value.len() != bytes {
                let (node, given) = (hash.path, value.len());
                return Err(Error::DigestSize { node, algorithm, bytes, given });
            }
            match found.iter().find(|other| other.algorithm == algorithm) {
                None => found.push(Digest { algorithm, value: value.to_vec() }),
                Some(other) if other.value == value => {}
                Some(_) => return Err(Error::TwoDigests { node: hash.path, algorithm }),
            }
        }
        if found.is_empty() && digests == Digests::Required {
            return Err(unknown.unwrap_or_else(|| Error::NoDigest { node: self.path.clone() }));
        }
        Ok(found)
    }

    fn names_no_text(&self, child: &Node<'_>) -> Error {
        Error::OddName { path: format!("{}/{child}", self.path) }
    }

    fn lacks(&self, what: &str) -> Error {
        let node = if self.path.is_empty() { "/" } else { &self.path };
        Error::Missing { node: node.to_owned(), what: what.to_owned() }
    }

    fn odd(&self, property: &str, bytes: usize, wanted: &'static str) -> Error {
        Error::OddValue { path: format!("{}/{property}", self.path), bytes, wanted }
    }
}

#[cfg(test)]
mod tests;
