//! The reasons why a FIT is refused, each with its message.
//!
//! A message names the rule, the value that broke it, and what to do about it.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use boot::phys::PhysAddr;

use super::{Algorithm, Digest, HEADER_BYTES, MAGIC, MAX_LOADABLES, MAX_TREE_BYTES, Medium};

/// The reason why a medium, its FIT or a payload was refused: the rule, and the value that broke
/// it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "a variant's line says what its fields hold; they are named for it"
)]
pub enum Error {
    /// A medium that is smaller than a tree's header.
    #[error(
        "{} has {} bytes, a FIT's header alone {HEADER_BYTES}: give one with a FIT at its start",
        medium.name,
        medium.bytes
    )]
    TooShort { medium: Medium },
    /// A medium that does not start with the magic.
    #[error(
        "{} does not start with a FIT: {magic:#010x} where the magic {MAGIC:#010x} belongs: make \
         one with `cargo xtask image` or `mkimage -E`",
        medium.name
    )]
    NotAFit { medium: Medium, magic: u32 },
    /// A tree larger than [`MAX_TREE_BYTES`].
    #[error(
        "the FIT's tree has {bytes} bytes, {MAX_TREE_BYTES} are the most that are read: keep the \
         data out of the tree (`mkimage -E`)"
    )]
    TreeTooLarge { bytes: u32 },
    /// A tree larger than the medium.
    #[error(
        "the FIT's tree has {bytes} bytes, {} {}: write the whole FIT to it",
        medium.name,
        medium.bytes
    )]
    TreePastEnd { bytes: u32, medium: Medium },
    /// A tree that is not a valid FDT.
    #[error("the FIT's tree is damaged: {error}: write it anew")]
    TreeDamaged { error: &'static str },
    /// A configuration whose name is not UTF-8, so that no parameter can select it.
    #[error("the FIT's {path} has a name that is not UTF-8: rename it")]
    OddName { path: String },
    /// A node that lacks a child or a property.
    #[error("the FIT's {node} has no \"{what}\": add it")]
    Missing { node: String, what: String },
    /// Two children or properties where there may be only one.
    #[error("the FIT has {path} twice: leave one out")]
    Twice { path: String },
    /// A property of `bytes` bytes that does not hold what `wanted` says.
    #[error("the FIT's {path} ({bytes} bytes) is not {wanted}: make it so")]
    OddValue { path: String, bytes: usize, wanted: &'static str },
    /// A configuration with more than one kernel.
    #[error(
        "the FIT's {node} names {given} kernels, and one can be entered: give each a \
         configuration"
    )]
    ManyKernels { node: String, given: usize },
    /// More loadables than [`MAX_LOADABLES`].
    #[error(
        "the FIT's configuration has {given} loadables, {MAX_LOADABLES} are the most: join some"
    )]
    TooManyLoadables { given: usize },
    /// A configuration's `kernel` whose type is neither `kernel` nor `kernel_noload`.
    #[error(
        "the FIT's {node} is named as the kernel and is of type \"{kind}\": make it \
         \"kernel_noload\" or \"kernel\""
    )]
    NotAKernel { node: String, kind: String },
    /// An image for another architecture than arm64.
    #[error("the FIT's {node} is for \"{arch}\": give one for \"arm64\"")]
    WrongArch { node: String, arch: String },
    /// Compressed data that we cannot unpack.
    #[error(
        "the FIT's {node} is compressed with \"{compression}\": give it as \"gzip\" or \"none\""
    )]
    Compressed { node: String, compression: String },
    /// A kernel whose `entry` is not its first byte, as it must be for an arm64 Image.
    #[error(
        "the FIT's {node} is loaded at {load} and entered at {entry}: an arm64 Image is entered at \
         its first byte: make them equal"
    )]
    EntryElsewhere { node: String, load: PhysAddr, entry: PhysAddr },
    /// An image without a digest.
    #[error(
        "the FIT's {node} has no digest (a \"hash-1\" with \"algo\" and \"value\"), so it could \
         not be verified: add one, or order \"unverified\" on the command line"
    )]
    NoDigest { node: String },
    /// An image with digests, none of which we can compute.
    #[error(
        "the FIT's {node} is a digest by \"{algorithm}\", which is not known: add one by \
         \"sha256\", or order \"unverified\" on the command line"
    )]
    UnknownHash { node: String, algorithm: String },
    /// A digest of another size than its algorithm makes.
    #[error(
        "the FIT's {node} has a digest of {given} bytes, and {algorithm} makes {bytes}: correct it"
    )]
    DigestSize { node: String, algorithm: Algorithm, bytes: usize, given: usize },
    /// A hash node whose digest is not the one in an earlier node of the same algorithm.
    #[error(
        "the FIT's {node} is another {algorithm} digest than the one before: correct one of them"
    )]
    TwoDigests { node: String, algorithm: Algorithm },
    /// An image with a cipher node.
    #[error("the FIT's {node} is encrypted, which has no use here: give it as it is")]
    Encrypted { node: String },
    /// A configuration whose `fdt` names more than a device tree.
    #[error(
        "the FIT's {node} has \"{overlay}\" as an overlay of its device tree, and overlays are not \
         applied: give one device tree, with the overlay in it"
    )]
    Overlay { node: String, overlay: String },
    /// An image without any data.
    #[error("the FIT's {node} has data of 0 bytes: leave it out")]
    Empty { node: String },
    /// Data that reach past the end of the medium.
    #[error(
        "the FIT's {node} has {bytes} bytes of data from byte {start} on, and {} ends at byte {}: \
         write the whole FIT to it",
        medium.name,
        medium.bytes
    )]
    PastEnd { node: String, start: u64, bytes: u64, medium: Medium },
    /// External data that overlap the tree.
    #[error(
        "the FIT's {node} has its data at bytes {}..{} of the FIT, and the tree takes the first \
         {tree}: place them after it",
        place.start, place.end
    )]
    OverTree { node: String, place: Range<u64>, tree: u64 },
    /// Bytes whose digest is not the one in the tree.
    #[error(
        "\"{name}\" is not what the FIT says: {} {}, and it should be {}: write the FIT anew",
        expected.algorithm,
        Hex(found),
        Hex(&expected.value)
    )]
    DigestDiffers { name: String, expected: Digest, found: Vec<u8> },
}

/// Prints the first bytes of a digest, which are enough to distinguish it from another.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        self.0.iter().take(SHOWN).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(if self.0.len() > SHOWN { "…" } else { "" })
    }
}
