//! The rows of the tables of `interop`: loader, our generations, and what follows them.

use harness::{cmdline::Base, loader::Loader};

/// Form of a payload on the disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// An Image, for the machine's device tree.
    Image,
    /// A gzip file of an Image.
    Gzip,
    /// An Image with its own device tree: QEMU's, with [`MARK`] in it.
    OwnTree,
}

/// The property in the root of a payload's own device tree, and its value.
pub const MARK: [&str; 2] = ["ouroboros,mark", "a tree of its own"];

/// One row of a table; each row is a run on every machine.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub name: &'static str,
    pub loader: Loader,
    /// Number of our generations; 0 if the loader starts Linux.
    pub generations: u32,
    /// Set if Linux follows them.
    pub payload: bool,
    pub base: Base,
    /// Set if the machine has an entropy device.
    pub has_entropy: bool,
    /// The form of Linux on the disk.
    pub form: Form,
    /// Set if the short form includes the row.
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

/// The run that each other Linux is compared with.
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

/// Returns the row of three generations of ours, and nothing after them.
pub fn from_loader(loader: Loader) -> Way {
    Way { name: loader.name(), loader, generations: 3, payload: false, short: true, ..PLAIN }
}
