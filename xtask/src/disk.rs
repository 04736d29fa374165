//! The disk: what the kernel restarts from.
//!
//! *When:* made for each run and by `image`. A FIT image at block 0, whose kernel is the very Image that is booted.

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

/// The kernel itself for a disk.
pub fn own(kernel: &Built, load: Option<u64>) -> Payload {
    let description = format!("Ouroboros, build id {}", kernel.build_id);
    Payload { description, ..payload("kernel", kernel.image.clone(), load) }
}

/// A kernel of that name for a disk.
pub fn payload(name: &str, image: Vec<u8>, load: Option<u64>) -> Payload {
    let kind = Kind::KernelNoload { load };
    Payload { name: name.to_owned(), description: "a kernel".to_owned(), data: image, kind }
}
