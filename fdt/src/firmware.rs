//! New device tree for the kernel: the firmware's, with RAM, initrd and bootargs replaced.
//!
//! - Written each time the loader has read the memory map, before it leaves boot services.
//! - The input is any bytes that claim to be a blob.
//! - The result is a blob without padding, in the buffer that the caller gives.
//! - [`write()`] refuses an invalid tree by [`Error`]; the buffer's contents are then worthless.
//!
//! Under UEFI the memory map counts, and the memory nodes do not (Devicetree specification 0.4,
//! 3.4). But our kernel learns of RAM from the device tree alone. So the loader replaces all memory
//! nodes by one, which lists the RAM that the map leaves to a kernel. Memory that the firmware
//! keeps is then not RAM at all, instead of reserved RAM; the kernel does not even map it.
//!
//! - A range's NUMA node is lost; this kernel has no use for it.
//! - Linux's `linux,uefi-*` properties are not written. They say that Linux's own stub started
//!   it, and make Linux look for the memory map and the runtime services.

use crate::blob::Blob;
use crate::chosen::{INITRD_END, INITRD_START};
use crate::copy::{self, Chosen, Edits, Error, Value};
use boot::phys::PhysAddr;
use core::fmt::{self, Write};
use core::ops::Range;

/// Writes `from` into `to`, with `ram` as its only memory, and returns the size.
///
/// `bootargs` and `initrd`, if any, replace those of `from`.
///
/// # Errors
///
/// Returns [`Error`] if `from` is not a valid tree or the result does not fit.
pub fn write(
    from: &[u8],
    ram: impl Iterator<Item = Range<PhysAddr>> + Clone,
    initrd: Option<Range<PhysAddr>>,
    bootargs: Option<impl Iterator<Item = char> + Clone>,
    to: &mut [u8],
) -> Result<usize, Error> {
    let bootargs = bootargs.map(|characters| {
        fmt::from_fn(move |f| characters.clone().try_for_each(|character| f.write_char(character)))
    });
    let initrd = initrd.map(|initrd| initrd.start.get()..initrd.end.get());
    let bounds = initrd.clone().unwrap_or_default();
    let empty = "";
    let text: &dyn fmt::Display = bootargs.as_ref().map_or(&empty, |text| text);
    let all = [
        (INITRD_START, Value::Number(bounds.start)),
        (INITRD_END, Value::Number(bounds.end)),
        ("bootargs", Value::Text(text)),
    ];
    let first = if initrd.is_some() { 0 } else { 2 };
    let new = &all[first..if bootargs.is_some() { 3 } else { 2 }];
    let edits = Edits {
        memory: Some(&|visit| ram.clone().for_each(visit)),
        chosen: (!new.is_empty()).then_some(Chosen { new, is_stale: |_| false }),
        reservations: None,
    };
    copy::write(&Blob::new(from).map_err(Error::Damaged)?, &edits, to)
}

#[cfg(test)]
mod tests;
