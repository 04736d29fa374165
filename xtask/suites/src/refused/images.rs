//! Refusals of kernels that are no valid Image for this machine, or have the wrong digest.

use anyhow::{Context, Result};
use boot::image::{
    FLAG_BIG_ENDIAN, FLAGS_AT, IMAGE_SIZE_AT, MAGIC_AT, PAGE_SIZE_MASK, PAGES_16K, PAGES_64K,
    TEXT_OFFSET_AT,
};

use harness::{
    cmdline::Base,
    disk::{LOAD, payload},
    fit_edit::position,
    kernel_build::Built,
    patch::{Patched, UNDEFINED},
    request::Disk,
};
use protocol::fit::writer as fit;

use super::{
    super::case::{Case, Trial, case},
    PLAIN, Refusal, failed,
};

#[rustfmt::skip]
pub(super) const REFUSALS: &[Refusal] = &[
    Refusal { name: "bad-magic", disk: |kernel| with(kernel, |image| image[MAGIC_AT] ^= 1),
              says: &["not an arm64 Image: 0x644d5240 at byte 56"], ..PLAIN },
    Refusal { name: "big-endian",
              disk: |kernel| with(kernel, |image| flags(image, 0, FLAG_BIG_ENDIAN)),
              says: &["the Image is big-endian (flags 0xb, bit 0)"], ..PLAIN },
    Refusal { name: "pages-16k",
              disk: |kernel| with(kernel, |image| flags(image, PAGE_SIZE_MASK, PAGES_16K)),
              says: &["built for 16 KiB pages (flags 0xc"], ..PLAIN },
    Refusal { name: "pages-64k",
              disk: |kernel| with(kernel, |image| flags(image, PAGE_SIZE_MASK, PAGES_64K)),
              says: &["built for 64 KiB pages (flags 0xe"], ..PLAIN },
    Refusal { name: "image-size-0",
              disk: |kernel| with(kernel, |image| put(image, IMAGE_SIZE_AT, 0)),
              says: &["image_size is 0"], ..PLAIN },
    Refusal { name: "image-size-below-file",
              disk: |kernel| with(kernel, |image| put(image, IMAGE_SIZE_AT, 4096)),
              says: &["image_size is 4096 bytes, the file has"], ..PLAIN },
    Refusal { name: "larger-than-ram",
              disk: |kernel| with(kernel, |image| put(image, IMAGE_SIZE_AT, (512 << 20) + 4096)),
              says: &["needs 536875008 bytes (image_size)", "RAM has 536870912"], ..PLAIN },
    Refusal { name: "text-offset-misaligned",
              disk: |kernel| with(kernel, |image| put(image, TEXT_OFFSET_AT, 0x800)),
              says: &["text_offset 0x800 is no multiple of 0x1000"], ..PLAIN },
    Refusal { name: "too-short-for-an-image",
              disk: |kernel| with(kernel, |image| image.truncate(60)),
              says: &["the Image has 60 bytes, its header alone 64"], ..PLAIN },
    // Its destination is outside RAM, so that frames remain to load it into. The size check comes
    // first.
    Refusal { name: "half-of-ram", base: Base::Load, disk: too_large,
              alter: |request| { request.memory = Some("64M".to_owned()); Ok(()) },
              says: &["segment \"first\": 33558528 bytes are more than half of RAM, 33554432 \
                       bytes"], ..PLAIN },
    Refusal { name: "not-enough-memory",
              disk: |kernel| with(kernel, |image| put(image, IMAGE_SIZE_AT, 60 << 20)),
              alter: |request| { request.memory = Some("64M".to_owned()); Ok(()) },
              says: &["not enough memory: ", "more bytes of frames cannot be had"], ..PLAIN },
    // All of RAM but a page: it always overlaps some control page.
    Refusal { name: "no-slot", base: Base::Random,
              disk: |kernel| with(kernel, |image| put(image, IMAGE_SIZE_AT, (64 << 20) - 4096)),
              alter: |request| { request.memory = Some("64M".to_owned()); Ok(()) },
              says: &["not enough memory: no 2 MiB slot of RAM has 67104768 bytes"], ..PLAIN },
    Refusal { name: "wrong-sha256", disk: wrong_digest,
              says: &["\"first\" is not what the FIT says: sha256 ", "and it should be "],
              ..PLAIN },
];

/// Returns the cases that do not fit the table.
pub(super) fn cases() -> Vec<Case> {
    vec![case("refused/memory-that-runs-out", runs_out), case("refused/no-crc32", no_crc32)]
}

/// Boots a kernel that finds no FEAT_CRC32, and whose checksum routine faults as it would there.
fn no_crc32(trial: &mut Trial<'_>) -> Result<()> {
    let patched = Patched::new(trial.kernel()).answer("relocate::checksum::is_available", 0)?.at(
        "relocate_crc32c",
        0,
        UNDEFINED,
    )?;
    let mut request = trial.request("nvhe", &trial.cmdline())?;
    request.image = Some(patched.image);
    failed(trial, &request, &["this CPU has no FEAT_CRC32: the copy could not be verified"])
}

/// Makes memory run out at different moments, including while the kernel allocates its own lists:
/// each size leaves another number of frames.
fn runs_out(trial: &mut Trial<'_>) -> Result<()> {
    // The largest size is less than RAM; the header check would refuse more.
    const SIZES: u64 = 13;
    // Half of RAM and more, so that the frames never suffice. Steps of 397 pages vary the
    // remainder.
    for size in (0..SIZES).map(|step| (20 << 20) + step * 397 * 4096) {
        let mut image = trial.kernel().image.clone();
        put(&mut image, IMAGE_SIZE_AT, size);
        let mut request = trial.request("nvhe", &trial.cmdline())?;
        request.memory = Some("40M".to_owned());
        request.disk = Disk::Bytes(fit::write(&[payload("first", image, None)]).into());
        failed(trial, &request, &["not enough memory: ", "more bytes of frames cannot be had"])
            .with_context(|| format!("with an image_size of {size} bytes"))?;
    }
    Ok(())
}

/// Returns a disk with a changed kernel, and the good one as the second configuration.
fn with(kernel: &Built, change: fn(&mut Vec<u8>)) -> Result<Vec<u8>> {
    let mut image = kernel.image.clone();
    change(&mut image);
    Ok(fit::write(&[payload("first", image, None), payload("second", kernel.image.clone(), None)]))
}

/// Returns a disk whose first kernel needs half of 64 MiB plus one page.
fn too_large(kernel: &Built) -> Result<Vec<u8>> {
    let mut image = kernel.image.clone();
    put(&mut image, IMAGE_SIZE_AT, (32 << 20) + 4096);
    let good = payload("second", kernel.image.clone(), Some(LOAD));
    Ok(fit::write(&[payload("first", image, Some(0x1_0000_0000)), good]))
}

fn flags(image: &mut [u8], clear: u64, set: u64) {
    let flags = u64::from_le_bytes(image[FLAGS_AT..FLAGS_AT + 8].try_into().expect("eight bytes"));
    put(image, FLAGS_AT, flags & !clear | set);
}

fn put(image: &mut [u8], at: usize, value: u64) {
    image[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Returns a disk with a bit of the first kernel flipped and its digest unchanged.
fn wrong_digest(kernel: &Built) -> Result<Vec<u8>> {
    let mut disk = with(kernel, |_| ())?;
    let at = position(&disk, "first")? + kernel.image.len() - 1;
    disk[at] ^= 0x10;
    Ok(disk)
}
