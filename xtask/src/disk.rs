//! The disk: what the kernel restarts from.
//!
//! *When:* made for each run and by `image`. A FIT image at block 0, whose kernel is the very Image that is booted.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use crate::{
    fit::{self, Kind, Payload},
    kernel_build::Built,
};

/// Where `base=load` sends each generation: 48 MiB into `virt`'s RAM, below everything that QEMU puts there, the dtb
/// included, for any RAM of 128 MiB and more.
pub const LOAD: u64 = 0x4300_0000;

/// The disk with the kernel alone; with `load` it also says where that belongs.
pub fn of(kernel: &Built, load: bool) -> Vec<u8> {
    fit::write(&[own(kernel, load.then_some(LOAD))])
}

/// The configuration of what comes [`with`] the kernel.
pub const FOREIGN: &str = "conf-2";

/// A kernel that is not ours, and what goes with it.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// An arm64 Image, or the gzip file of one.
    pub image: Vec<u8>,
    /// Its ramdisk.
    pub ramdisk: Option<Vec<u8>>,
    /// Its own device tree.
    pub fdt: Option<Vec<u8>>,
    /// Its orders.
    pub bootargs: Option<String>,
}

/// The disk with the kernel and, as a configuration of its own, another one; with `load` it also says where either belongs.
pub fn with(kernel: &Built, load: bool, foreign: Foreign) -> Vec<u8> {
    fit::write(&both(kernel, load, foreign))
}

/// The same before it is written.
pub fn both(kernel: &Built, load: bool, foreign: Foreign) -> Vec<Payload> {
    let load = load.then_some(LOAD);
    let beside = |name: &str, data, kind| {
        let description = format!("the payload's {name}");
        Payload { description, kind, ..payload(name, data, None) }
    };
    let Foreign { image, ramdisk, fdt, bootargs } = foreign;
    let mut payloads =
        vec![own(kernel, load), Payload { bootargs, ..payload("payload", image, load) }];
    payloads.extend(fdt.map(|data| beside("fdt", data, Kind::Fdt)));
    payloads.extend(ramdisk.map(|data| beside("ramdisk", data, Kind::Ramdisk { load: None })));
    payloads
}

/// The kernel itself for a disk.
pub fn own(kernel: &Built, load: Option<u64>) -> Payload {
    let description = format!("Ouroboros, build id {}", kernel.build_id);
    Payload { description, ..payload("kernel", kernel.image.clone(), load) }
}

/// A kernel of that name for a disk.
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

/// The gzip file of an Image.
pub fn packed(image: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(image).and_then(|()| packer.finish()).expect("a Vec takes everything")
}
