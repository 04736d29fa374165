//! The rows of the tables: who starts, what of ours follows, and where that ends.
//!
//! *When:* read by `protocols` from top to bottom; each row is a run on every machine.

use crate::{loader::Loader, orders::Base};

/// How a payload lies on the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// As an Image, for the machine's device tree.
    Image,
    /// As the gzip file of one.
    Gzip,
    /// Beside a device tree of its own, which is QEMU's with [`MARK`] in it.
    OwnTree,
}

/// A property of the root of a payload's own device tree, and its value.
pub const MARK: [&str; 2] = ["ouroboros,mark", "a tree of its own"];

/// A row of a table: who starts, what of ours follows, and whether Linux comes after it.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub name: &'static str,
    pub loader: Loader,
    /// How many generations; none: the loader's kernel is Linux.
    pub generations: u32,
    /// Linux is where they end.
    pub payload: bool,
    pub base: Base,
    /// The machine has an entropy device.
    pub has_entropy: bool,
    /// How Linux lies on the disk.
    pub form: Form,
    /// It is in the short form too.
    pub short: bool,
}

const PLAIN: Way = Way {
    name: "",
    loader: Loader::Qemu,
    generations: 1,
    payload: true,
    base: Base::Same,
    has_entropy: true,
    form: Form::Image,
    short: false,
};

/// What each Linux is held against.
pub const REFERENCE: Way = Way { name: "QEMU -kernel", generations: 0, short: true, ..PLAIN };

pub const PAYLOADS: [Way; 5] = [
    Way { name: "one generation", short: true, ..PLAIN },
    Way { name: "ten generations, placed at random", generations: 10, base: Base::Random, ..PLAIN },
    Way { name: "kernel in a gzip file", form: Form::Gzip, ..PLAIN },
    Way { name: "device tree of its own", form: Form::OwnTree, ..PLAIN },
    Way { name: "no entropy device", has_entropy: false, ..PLAIN },
];

pub const ROUND_TRIPS: [Way; 2] = [
    Way {
        name: "Linux's kexec, three generations",
        loader: Loader::LinuxKexec,
        generations: 3,
        short: true,
        ..PLAIN
    },
    Way {
        name: "U-Boot's booti, three generations",
        loader: Loader::UBootBooti,
        generations: 3,
        ..PLAIN
    },
];

/// Three generations of ours and nothing after them.
pub fn from_loader(loader: Loader) -> Way {
    Way { name: loader.name(), loader, generations: 3, payload: false, short: true, ..PLAIN }
}
