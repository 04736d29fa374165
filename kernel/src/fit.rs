//! The disk's table of contents: a FIT image with external data.
//!
//! *When:* once a generation has its disk, before it reads any payload. *On entry:* the first bytes of the disk ([`header_size`]),
//! then the whole tree ([`configurations`], [`parse`]), at last each payload's bytes ([`verify`]).
//! *Leaves behind:* a [`Fit`]: what to read from which bytes of the disk, where it belongs, what it must hash to.
//! *Refuses:* what is no FIT, is damaged, lacks something, or names data that the disk does not hold: each by a [`Refused`] that
//! carries the value. Nothing here reads the disk or panics on what lies on it.
//!
//! A FIT (U-Boot's `doc/usage/fit/source_file_format.rst`) is itself a small flattened device tree:
//!
//! ```text
//! /images/<name>          type, arch, compression, load, entry, data-size, and one of data-position, data-offset, data
//!                         of a kernel also compression = "gzip", and uncomp-size, where it is to be held to one
//!         <name>/hash-1   algo = "sha256", value: of the bytes as they lie there
//! /configurations         default = <the configuration to take>
//!                <name>   kernel = <image>, loadables = <image>, <image>, …
//! ```
//!
//! `data-position` counts from the start of the disk; `data-offset` from the end of the tree, rounded up to 4; `data` lies within the
//! tree. As in U-Boot, the first that is there counts. Two payloads may share their data. A ramdisk is handed on as it is, as U-Boot does:
//! whatever its `compression` says, its kernel unpacks it.

mod refused;

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::ops::Range;

use boot::flat::{HEADER_BYTES, MAGIC};
use boot::phys::PhysAddr;
use dtoolkit::fdt::{Fdt as Tree, FdtNode};
use dtoolkit::{Node, Property};
use relocate::segment::MAX_SEGMENTS;
use sha2::{Digest, Sha256};

pub use self::refused::Refused;

/// The largest tree that is read: ours has about 1 KiB, and one with its data inside is for small payloads only.
pub const MAX_TREE_BYTES: u32 = 1 << 20;

/// How many loadables a configuration may have: each is a segment, and so is the kernel; the device tree, one more, is counted
/// when the segments are checked.
pub const MAX_LOADABLES: usize = MAX_SEGMENTS - 1;

/// One configuration of a FIT: what makes up the next generation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fit {
    /// What the whole FIT says of itself; empty where it says nothing.
    pub description: String,
    /// An arm64 Image, entered at its first byte.
    pub kernel: Payload,
    /// What is put into memory beside it; each has a [`Payload::load`].
    pub loadables: Vec<Payload>,
}

/// What a payload gets beside its kernel. None of it is for a generation of ours, which is not even looked for it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Companions {
    /// Its ramdisk; [`Payload::load`] says where, if it matters.
    pub ramdisk: Option<Payload>,
    /// Its own device tree, in place of ours.
    pub fdt: Option<Payload>,
    /// Its orders, in place of ours: `bootargs`, a property of the configuration that no other loader knows.
    pub bootargs: Option<String>,
}

/// Something on the disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Payload {
    /// Its node's name.
    pub name: String,
    /// Where it lies: bytes of the disk, from any byte on; not empty.
    pub place: Range<u64>,
    /// What its bytes hash to.
    pub sha256: [u8; 32],
    /// What they are.
    pub compression: Compression,
    /// Where it wants to be put; `None` for a kernel that may lie anywhere.
    pub load: Option<PhysAddr>,
}

/// How a payload lies on the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Compression {
    /// As it will lie in memory.
    None,
    /// A kernel in a gzip file.
    Gzip {
        /// How many bytes it unpacks to, where the FIT says so.
        unpacked: Option<u64>,
    },
}

/// How many bytes the tree has, going by the first bytes of a disk of `disk_bytes` bytes.
///
/// # Errors
///
/// Where no FIT starts there, or none that could be read.
pub fn header_size(first_block: &[u8], disk_bytes: u64) -> Result<u32, Refused> {
    let word = |at: usize| {
        first_block.get(at..).and_then(<[u8]>::first_chunk).copied().map(u32::from_be_bytes)
    };
    let (Some(magic), Some(bytes), true) = (word(0), word(4), first_block.len() >= HEADER_BYTES)
    else {
        return Err(Refused::DiskTooShort { bytes: disk_bytes });
    };
    if magic != MAGIC {
        return Err(Refused::NotAFit { magic });
    }
    if bytes > MAX_TREE_BYTES {
        return Err(Refused::TreeTooLarge { bytes });
    }
    if u64::from(bytes) > disk_bytes {
        return Err(Refused::TreePastEnd { bytes, disk: disk_bytes });
    }
    Ok(bytes)
}

/// The configurations' names: the default one, then the others in the order of the tree.
///
/// # Errors
///
/// Where the tree is damaged or names no default.
pub fn configurations(tree: &[u8]) -> Result<Vec<String>, Refused> {
    let configurations = Place::root(tree)?.child("configurations")?;
    let default = configurations.text("default")?.ok_or_else(|| configurations.lacks("default"))?;
    let others =
        configurations.node.children().map(|node| node.name()).filter(|name| *name != default);
    Ok(core::iter::once(default).chain(others).map(ToOwned::to_owned).collect())
}

/// What the configuration of that name consists of, on a disk of `disk_bytes` bytes.
///
/// # Errors
///
/// The first rule that is broken.
pub fn parse(tree: &[u8], disk_bytes: u64, configuration: &str) -> Result<Fit, Refused> {
    let root = Place::root(tree)?;
    let images = root.child("images")?;
    let configuration = root.child("configurations")?.child(configuration)?;
    let kernel = match configuration.texts("kernel")?[..] {
        [] => return Err(configuration.lacks("kernel")),
        [kernel] => kernel,
        ref kernels => {
            return Err(Refused::ManyKernels { node: configuration.path, given: kernels.len() });
        }
    };
    let loadables = configuration.texts("loadables")?;
    if loadables.len() > MAX_LOADABLES {
        return Err(Refused::TooManyLoadables { given: loadables.len() });
    }
    Ok(Fit {
        description: root.text("description")?.unwrap_or_default().to_owned(),
        kernel: images.child(kernel)?.kernel(tree, disk_bytes)?,
        loadables: loadables
            .into_iter()
            .map(|name| images.child(name)?.loadable(tree, disk_bytes))
            .collect::<Result<_, _>>()?,
    })
}

/// What the configuration of that name gives a payload beside its kernel, on a disk of `disk_bytes` bytes.
///
/// # Errors
///
/// The first rule that is broken.
pub fn companions(
    tree: &[u8],
    disk_bytes: u64,
    configuration: &str,
) -> Result<Companions, Refused> {
    let root = Place::root(tree)?;
    let images = root.child("images")?;
    let configuration = root.child("configurations")?.child(configuration)?;
    let image = |property| configuration.text(property)?.map(|name| images.child(name)).transpose();
    let fdt = image("fdt")?.map(|fdt| fdt.as_it_is(tree, disk_bytes)).transpose()?;
    let ramdisk = image("ramdisk")?.map(|ramdisk| ramdisk.payload(tree, disk_bytes)).transpose()?;
    // As for a kernel that may lie anywhere: 0 is what people write, and says nothing.
    let anywhere =
        |ramdisk: Payload| Payload { load: ramdisk.load.filter(|load| load.0 != 0), ..ramdisk };
    let bootargs = configuration.text("bootargs")?.map(ToOwned::to_owned);
    Ok(Companions { ramdisk: ramdisk.map(anywhere), fdt, bootargs })
}

/// Holds a payload's bytes, given in `runs` in their order, against its digest.
///
/// # Errors
///
/// [`Refused::DigestDiffers`].
pub fn verify<'a>(
    payload: &Payload,
    runs: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(), Refused> {
    let mut hash = Hash::default();
    runs.into_iter().for_each(|run| hash.update(run));
    hash.verify(payload)
}

/// The digest of bytes that are there piece by piece.
#[derive(Clone, Debug, Default)]
pub struct Hash(Sha256);

impl Hash {
    /// Takes in the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// Holds a payload's bytes, all of which were taken in, against its digest.
    ///
    /// # Errors
    ///
    /// [`Refused::DigestDiffers`].
    pub fn verify(self, payload: &Payload) -> Result<(), Refused> {
        let found: [u8; 32] = self.0.finalize().into();
        if !is_same(&found, &payload.sha256) {
            return Err(Refused::DigestDiffers {
                name: payload.name.clone(),
                expected: payload.sha256,
                found,
            });
        }
        Ok(())
    }
}

#[inline(never)]
fn is_same(found: &[u8; 32], expected: &[u8; 32]) -> bool {
    found == expected
}

/// A node and the path that names it in messages. Of what it is asked for by name there may be only one: a device tree with two
/// of the same name can be read either way.
struct Place<'a> {
    path: String,
    node: FdtNode<'a>,
}

impl<'a> Place<'a> {
    /// The root of the tree, once all of the tree has been found sound: after that dtoolkit's readers do not panic.
    fn root(tree: &'a [u8]) -> Result<Self, Refused> {
        let tree = Tree::new(tree).map_err(|error| Refused::TreeDamaged { error })?;
        Ok(Self { path: String::new(), node: tree.root() })
    }

    /// The child of exactly this name. (dtoolkit's own search takes `kernel@1` for `kernel`.)
    fn child(&self, name: &str) -> Result<Self, Refused> {
        let mut found = self.node.children().filter(|child| child.name() == name);
        let node = found.next().ok_or_else(|| self.lacks(name))?;
        let path = format!("{}/{name}", self.path);
        if found.next().is_some() { Err(Refused::Twice { path }) } else { Ok(Self { path, node }) }
    }

    /// A property's value.
    fn value(&self, property: &str) -> Result<Option<&'a [u8]>, Refused> {
        let mut found = self.node.properties().filter(|candidate| candidate.name() == property);
        let Some(first) = found.next() else { return Ok(None) };
        if found.next().is_some() {
            return Err(Refused::Twice { path: format!("{}/{property}", self.path) });
        }
        first.value_as().map(Some).map_err(|_| self.odd(property, 0, "bytes"))
    }

    /// A property that holds one string.
    fn text(&self, property: &str) -> Result<Option<&'a str>, Refused> {
        let Some(value) = self.value(property)? else { return Ok(None) };
        let text = CStr::from_bytes_with_nul(value).ok().and_then(|text| text.to_str().ok());
        text.map(Some).ok_or_else(|| self.odd(property, value.len(), "a string"))
    }

    /// A property that holds strings, each with its NUL; none where it is missing.
    fn texts(&self, property: &str) -> Result<Vec<&'a str>, Refused> {
        let Some(value) = self.value(property)? else { return Ok(Vec::new()) };
        let texts = value.strip_suffix(&[0]).and_then(|texts| str::from_utf8(texts).ok());
        texts
            .map(|texts| texts.split('\0').collect())
            .ok_or_else(|| self.odd(property, value.len(), "a list of strings"))
    }

    /// A property that holds a number of one or two cells.
    fn number(&self, property: &str) -> Result<Option<u64>, Refused> {
        let Some(value) = self.value(property)? else { return Ok(None) };
        match (<[u8; 4]>::try_from(value), <[u8; 8]>::try_from(value)) {
            (Ok(cell), _) => Ok(Some(u32::from_be_bytes(cell).into())),
            (_, Ok(cells)) => Ok(Some(u64::from_be_bytes(cells))),
            _ => Err(self.odd(property, value.len(), "a number of 4 or 8 bytes")),
        }
    }

    /// This image as the kernel: an arm64 Image, which is entered at its first byte.
    fn kernel(&self, tree: &[u8], disk: u64) -> Result<Payload, Refused> {
        self.text("arch")?.ok_or_else(|| self.lacks("arch"))?;
        let mut kernel = match self.compression()? {
            Some("gzip") => {
                let compression = Compression::Gzip { unpacked: self.number("uncomp-size")? };
                Payload { compression, ..self.payload(tree, disk)? }
            }
            _ => self.as_it_is(tree, disk)?,
        };
        match self.text("type")?.ok_or_else(|| self.lacks("type"))? {
            // U-Boot insists on load and entry here, too, only to ignore them: 0 is what people write, and says nothing.
            "kernel_noload" => kernel.load = kernel.load.filter(|load| load.0 != 0),
            "kernel" => match (kernel.load, self.number("entry")?) {
                (Some(load), Some(entry)) if load.0 != entry => {
                    return Err(Refused::EntryElsewhere {
                        node: self.path.clone(),
                        load,
                        entry: PhysAddr(entry),
                    });
                }
                _ => {}
            },
            other => {
                return Err(Refused::NotAKernel {
                    node: self.path.clone(),
                    kind: other.to_owned(),
                });
            }
        }
        Ok(kernel)
    }

    /// This image as a loadable: of any type, at a given place; an architecture it need not have.
    fn loadable(&self, tree: &[u8], disk: u64) -> Result<Payload, Refused> {
        let loadable = self.as_it_is(tree, disk)?;
        loadable.load.ok_or_else(|| self.lacks("load"))?;
        Ok(loadable)
    }

    /// The name of how this image is compressed, where it is.
    fn compression(&self) -> Result<Option<&'a str>, Refused> {
        Ok(self.text("compression")?.filter(|compression| *compression != "none"))
    }

    /// This image as one that nobody unpacks.
    fn as_it_is(&self, tree: &[u8], disk: u64) -> Result<Payload, Refused> {
        if let Some(compression) = self.compression()? {
            return Err(Refused::Compressed {
                node: self.path.clone(),
                compression: compression.to_owned(),
            });
        }
        self.payload(tree, disk)
    }

    /// What is asked of all.
    fn payload(&self, tree: &[u8], disk: u64) -> Result<Payload, Refused> {
        if let Some(arch) = self.text("arch")?.filter(|arch| *arch != "arm64") {
            return Err(Refused::WrongArch { node: self.path.clone(), arch: arch.to_owned() });
        }
        Ok(Payload {
            name: self.node.name().to_owned(),
            place: self.place(tree, disk)?,
            sha256: self.sha256()?,
            compression: Compression::None,
            load: self.number("load")?.map(PhysAddr),
        })
    }

    /// Where this image's data lie on the disk.
    fn place(&self, tree: &[u8], disk: u64) -> Result<Range<u64>, Refused> {
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
            // The value is a part of the tree, and the tree lies at the start of the disk.
            let data = self.value("data")?.ok_or_else(|| self.lacks("data"))?;
            ((data.as_ptr().addr() - tree.as_ptr().addr()) as u64, data.len() as u64)
        };
        match start.checked_add(bytes).filter(|end| *end <= disk) {
            None => Err(Refused::PastEnd { node: node(), start, bytes, disk }),
            Some(_) if bytes == 0 => Err(Refused::Empty { node: node() }),
            Some(end) if external.is_some() && start < end_of_tree => {
                Err(Refused::OverTree { node: node(), place: start..end, tree: end_of_tree })
            }
            Some(end) => Ok(start..end),
        }
    }

    /// The digest in this image's only SHA-256 node; U-Boot knows hash nodes by the start of their name.
    fn sha256(&self) -> Result<[u8; 32], Refused> {
        let mut found = None;
        let mut other = None;
        for node in self.node.children().filter(|node| node.name().starts_with("hash")) {
            let hash = Self { path: format!("{}/{}", self.path, node.name()), node };
            let algorithm = hash.text("algo")?.ok_or_else(|| hash.lacks("algo"))?;
            if algorithm != "sha256" {
                other =
                    Some(Refused::UnknownHash { node: hash.path, algorithm: algorithm.to_owned() });
                continue;
            }
            let value = hash.value("value")?.ok_or_else(|| hash.lacks("value"))?;
            let digest = value
                .try_into()
                .map_err(|_| hash.odd("value", value.len(), "the 32 bytes of a SHA-256 digest"))?;
            if found.replace(digest).is_some() {
                return Err(Refused::Twice { path: hash.path });
            }
        }
        found.ok_or_else(|| other.unwrap_or_else(|| self.lacks("hash-1")))
    }

    fn lacks(&self, what: &str) -> Refused {
        let node = if self.path.is_empty() { "/" } else { &self.path };
        Refused::Missing { node: node.to_owned(), what: what.to_owned() }
    }

    fn odd(&self, property: &str, bytes: usize, wanted: &'static str) -> Refused {
        Refused::OddValue { path: format!("{}/{property}", self.path), bytes, wanted }
    }
}

#[cfg(test)]
mod tests;
