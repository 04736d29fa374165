//! The target `chosen`: any blob and properties as a payload's device tree.
//!
//! It checks that:
//!
//! - the result is a device tree, no larger than the boot protocol allows;
//! - `/chosen` has each requested property once, and none that was meant for another kernel;
//! - every other line is unchanged;
//! - the reservations are the old ones, without those of the replaced initrd, and with the new
//!   initrd's;
//! - writing it a second time changes nothing.

use boot::phys::{PhysAddr, PhysRange};
use boot::record::DTB_MAX_SIZE;
use fdt::chosen::{self, Chosen, SEED_BYTES};

use crate::choices::Choices;
use crate::lines::{Line, lines, reservations};

/// The text that bootargs are cut from; a byte chooses the length.
const WORDS: &str = "console=ttyAMA0 root=/dev/vda rw";

/// The page size: a reservation for the old initrd may fill whole pages.
const PAGE: u64 = 4096;

/// Checks an input: five bytes that choose the properties, then a blob; also with `totalsize`
/// corrected.
pub fn hold(data: &[u8]) {
    let Some((choices, blob)) = data.split_first_chunk::<5>() else { return };
    given(&mut Choices(choices), blob);
    if let (Ok(size), true) = (u32::try_from(blob.len()), blob.len() >= 8) {
        let mut sized = blob.to_vec();
        sized[4..8].copy_from_slice(&size.to_be_bytes());
        given(&mut Choices(choices), &sized);
    }
}

fn given(choices: &mut Choices<'_>, blob: &[u8]) {
    let bootargs =
        choices.one_in(2).then(|| &WORDS[..choices.below(WORDS.len() as u64 + 1) as usize]);
    let initrd = choices.one_in(2).then(|| PhysAddr::new(0x4800_0000 + choices.below(256)));
    let initrd = initrd.map(|start| start..start + 0x1234);
    let seeds = choices.one_in(2).then_some([0x5a; SEED_BYTES]);
    let properties = Chosen { memory: None, bootargs, initrd, seeds };
    let written = match chosen::write(blob, &properties) {
        Ok(written) => written,
        Err(error) => return assert!(error.to_string().contains("device tree"), "{error}"),
    };
    assert!(written.len() as u64 <= DTB_MAX_SIZE);
    assert_eq!(written[4..8], (written.len() as u32).to_be_bytes());

    let mut expected = said(&properties);
    let (mut was, mut is) = (lines(blob), lines(&written));
    let old = ramdisk_of(&was);
    let first = is.iter().position(|line| line.path == "/chosen").expect("there is one");
    let ours =
        is.drain(first + 1..=first + expected.len()).map(|line| line.property.expect("a property"));
    assert_eq!(Vec::from_iter(ours), std::mem::take(&mut expected));
    was.retain(|line| !is_stale(line, properties.bootargs.is_some()));
    if !was.iter().any(|line| line.path == "/chosen") {
        is.remove(first);
    }
    assert_eq!(is, was);

    let mut held = reservations(blob);
    held.retain(|&(start, size)| start < old.start || start.saturating_add(size) > old.end);
    held.extend(properties.initrd.as_ref().map(|initrd| (initrd.start.get(), initrd.bytes())));
    assert_eq!(reservations(&written), held);

    let again = chosen::write(&written, &properties).expect("what was written is a tree");
    assert_eq!(lines(&again), lines(&written));
}

/// Returns the properties that must come first in `/chosen`.
fn said(properties: &Chosen<'_>) -> Vec<(String, Vec<u8>)> {
    let mut said = Vec::new();
    let mut say = |name: &str, value: &[u8]| said.push((name.to_owned(), value.to_vec()));
    if let Some(bootargs) = properties.bootargs {
        say("bootargs", &[bootargs.as_bytes(), &[0]].concat());
    }
    if let Some(initrd) = &properties.initrd {
        say("linux,initrd-start", &initrd.start.get().to_be_bytes());
        say("linux,initrd-end", &initrd.end.get().to_be_bytes());
    }
    if let Some(seeds) = properties.seeds {
        say("kaslr-seed", &seeds[..8]);
        say("rng-seed", &seeds[8..]);
    }
    said
}

/// The properties in `/chosen` that are meant for one kernel and are stale for the next.
pub const STALE: [&str; 9] = [
    "kaslr-seed",
    "linux,elfcorehdr",
    "linux,ima-kexec-buffer",
    "linux,initrd-end",
    "linux,initrd-start",
    "linux,kho-fdt",
    "linux,kho-scratch",
    "linux,tpm-kexec-buffer",
    "rng-seed",
];

/// Returns whether a line was meant for another kernel.
fn is_stale(line: &Line, bootargs: bool) -> bool {
    line.path == "/chosen"
        && line.property.as_ref().is_some_and(|(name, _)| {
            STALE.contains(&name.as_str())
                || name.starts_with("ouroboros,")
                || name.starts_with("linux,uefi-")
                || bootargs && name == "bootargs"
        })
}

/// Returns the whole pages of the initrd that the blob names; the last value counts if there are
/// two.
fn ramdisk_of(lines: &[Line]) -> std::ops::Range<u64> {
    let number = |wanted: &str| {
        let mut values = lines
            .iter()
            .filter(|line| line.path == "/chosen")
            .filter_map(|line| line.property.as_ref());
        let value = values.rfind(|(name, _)| name == wanted).map(|(_, value)| value.as_slice());
        value.unwrap_or_default().iter().fold(0_u64, |number, &byte| number << 8 | u64::from(byte))
    };
    let end = number("linux,initrd-end");
    number("linux,initrd-start") / PAGE * PAGE
        ..end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX)
}
