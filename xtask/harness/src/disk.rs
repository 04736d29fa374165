//! The disk that the kernel restarts from: a FIT image at block 0.
//!
//! Made for each run and by `image`. By default its kernel is the Image that is booted.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use crate::kernel_build::Built;
use protocol::fit::writer::{self as fit, Kind, Payload};

/// The address to which `base=load` sends each generation: 48 MiB into `virt`'s RAM. With 128 MiB
/// of RAM or more this is below everything that QEMU loads, the dtb included.
pub const LOAD: u64 = 0x4300_0000;

/// The disk with our kernel alone; with `load` it also has a load address.
pub fn of(kernel: &Built, load: bool) -> Vec<u8> {
    fit::write(&[own(kernel, load.then_some(LOAD))])
}

/// The name of the configuration that [`with`] adds next to our kernel's.
pub const FOREIGN: &str = "conf-2";

/// A foreign kernel and the files that go with it.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// An arm64 Image, or a gzip file of one.
    pub image: Vec<u8>,
    /// The initrd.
    pub initrd: Option<Vec<u8>>,
    /// The device tree.
    pub fdt: Option<Vec<u8>>,
    /// The kernel's bootargs.
    pub bootargs: Option<String>,
}

/// The disk with our kernel and, in its own configuration, a foreign one. With `load` both have a
/// load address.
pub fn with(kernel: &Built, load: bool, foreign: Foreign) -> Vec<u8> {
    fit::write(&both(kernel, load, foreign))
}

/// The payloads of that disk, not yet written as a FIT.
pub fn both(kernel: &Built, load: bool, foreign: Foreign) -> Vec<Payload> {
    let load = load.then_some(LOAD);
    let beside = |name: &str, data, kind| {
        let description = format!("the payload's {name}");
        Payload { description, kind, ..payload(name, data, None) }
    };
    let Foreign { image, initrd, fdt, bootargs } = foreign;
    let mut payloads =
        vec![own(kernel, load), Payload { bootargs, ..payload("payload", image, load) }];
    payloads.extend(fdt.map(|data| beside("fdt", data, Kind::Fdt)));
    payloads.extend(initrd.map(|data| beside("ramdisk", data, Kind::Initrd { load: None })));
    payloads
}

/// Our kernel as a payload.
pub fn own(kernel: &Built, load: Option<u64>) -> Payload {
    let description = format!("Ouroboros, build id {}", kernel.build_id);
    Payload { description, ..payload("kernel", kernel.image.clone(), load) }
}

/// A kernel of this name as a payload.
pub fn payload(name: &str, image: Vec<u8>, load: Option<u64>) -> Payload {
    let kind = Kind::KernelNoload { load };
    Payload {
        name: name.to_owned(),
        description: "a kernel".to_owned(),
        data: image,
        kind,
        bootargs: None,
    }
}

/// Compresses an Image as a gzip file.
pub fn packed(image: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(image).and_then(|()| packer.finish()).expect("a Vec takes everything")
}
