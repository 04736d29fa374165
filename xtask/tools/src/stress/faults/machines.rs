//! Faults of the machine: almost no memory, or a damaged device tree.
//!
//! They are in place before the first instruction: reservations in QEMU's own tree, or flipped bits
//! in the tree that QEMU passes.

use std::ops::Range;

use anyhow::{Result, bail, ensure};
use boot::{image::Header, marker};

use harness::{
    debugger::debugged,
    run::{self, Outcome},
    tree_edit::{edit_tree, reserve},
    verdict::Verdict,
};

use super::{Cases, End, Run, Way};

/// The start of `virt`'s RAM.
const RAM: u64 = 0x4000_0000;

/// The address of QEMU's device tree on a machine with 256 MiB or more.
const TREE: u64 = 0x4800_0000;

const PAGE: u64 = 4096;

/// Reserves all of RAM but the running kernel's slot with a few pages after it, and a few pages
/// around the device tree. The rest is about as much as a kexec needs.
pub fn little_memory(run: &Run<'_>) -> Result<Cases> {
    const NAME: &str = "little memory";
    const SLOT: Range<u64> = 0x4020_0000..0x4040_0000;
    const END: u64 = RAM + (512 << 20);
    let mut random = run.job.random(run.setting.seed);
    let mut request = run.request()?;
    request.memory = Some("512M".to_owned());
    // The pages that the kernel needs to run at all: the image, the control pages at their
    // alignment, and the stacks of the other CPUs.
    let image = Header::parse(&run.setting.kernel.image)?.image_size.div_ceil(PAGE);
    let gen_log = image + 5 * 16 + u64::from(run.job.cell.cpus) * 16;
    let behind = SLOT.start + (gen_log + random.below(0x140)) * PAGE;
    let around = TREE + random.below(0x100) * PAGE;
    edit_tree(&mut request, |tree| {
        for (name, range) in
            [("below", RAM..SLOT.start), ("behind", behind..TREE), ("beyond", around..END)]
        {
            reserve(tree, name, range.start, range.end - range.start, false)?;
        }
        Ok(())
    })?;
    run.judged(&request, |way| match way {
        Way::Gone(refused) if refused.iter().all(Vec::is_empty) => Ok(vec![(NAME, End::Gone)]),
        Way::Gone(refused) => {
            bail!("there is only one configuration, but a generation continued after {refused:?}")
        }
        Way::Refused(refused) => {
            let right =
                ["not enough memory: ", "overlaps reserved memory, ", "no configuration after "];
            for words in &refused {
                ensure!(
                    right.iter().any(|right| words.contains(right)),
                    "it was refused with \"{words}\""
                );
            }
            Ok(vec![(NAME, End::Refused)])
        }
        Way::Stopped(words) => bail!("the relocation code stopped: {words}"),
    })
}

/// Flips one to four bits of the device tree after QEMU has written it to memory.
pub fn damaged_tree(run: &Run<'_>) -> Result<Cases> {
    const NAME: &str = "damaged device tree";
    let mut random = run.job.random(run.setting.seed);
    let mut request = run.request()?;
    request.memory = Some("512M".to_owned());
    // These runs have no slow part, so a kernel that hangs on a bad value is found early.
    request.silence = Some(std::time::Duration::from_secs(5));
    let (mut meddled, mut reads) = (Ok(()), false);
    let outcome: Outcome = debugged(request, run::run, |mut gdb| {
        meddled = (|| {
            let header = gdb.memory(TREE, 40)?;
            let word = |at: usize| {
                u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
            };
            // QEMU pads the blob; bytes after the strings and the structure have no meaning.
            let used = (word(12) + word(32)).max(word(8) + word(36));
            ensure!(
                word(0) == fdt::blob::MAGIC && used <= 1 << 20,
                "there is no device tree at {TREE:#x}"
            );
            let mut blob = gdb.memory(TREE, used as usize)?;
            for _ in 0..=random.below(4) {
                let at = random.below(used.into()) as usize;
                blob[at] ^= 1 << random.below(8);
                gdb.write(TREE + at as u64, &blob[at..=at])?;
            }
            reads = reads_as_a_tree(&blob);
            gdb.detach()
        })();
        Ok(())
    })?;
    if let Err(error) = meddled {
        return Ok(Cases {
            ends: Vec::new(),
            outcome,
            wrong: Some(format!("the fault could not be injected: {error:#}")),
        });
    }
    let panic =
        outcome.console.lines().find(|line| line.starts_with(marker::PANIC)).unwrap_or_default();
    let ended = matches!(outcome.verdict, Verdict::Failed(_) | Verdict::Stopped);
    let named = panic.contains("device tree")
        || outcome.console.lines().any(|line| line.starts_with("device tree"));
    if ended && !panic.is_empty() && named && !outcome.console.contains(marker::BYE) {
        return Ok(Cases { ends: vec![(NAME, End::Reported)], outcome, wrong: None });
    }
    let mut cases = run.judge(outcome, |way| match way {
        Way::Gone(_) => Ok(vec![(NAME, End::Gone)]),
        Way::Refused(_) => Ok(vec![(NAME, End::Refused)]),
        Way::Stopped(words) => bail!("the relocation code stopped: {words}"),
    })?;
    if cases.wrong.is_some() && reads {
        cases = Cases { ends: vec![(NAME, End::Undecided)], wrong: None, ..cases };
    }
    Ok(cases)
}

/// Returns whether the blob still parses as a device tree: header, tokens in order, names and
/// values within their blocks (Devicetree Specification 0.4, chapter 5). The values themselves are
/// not checked.
fn reads_as_a_tree(blob: &[u8]) -> bool {
    structure(blob).is_some()
}

fn structure(blob: &[u8]) -> Option<()> {
    let word = |at: usize| Some(u32::from_be_bytes(*blob.get(at..)?.first_chunk()?));
    let block = |offset: usize, size: usize| {
        let start = word(offset)? as usize;
        blob.get(start..start.checked_add(word(size)? as usize)?)
    };
    let (tree, strings) = (block(8, 36)?, block(12, 32)?);
    // Every writer uses version 17; version 16 has no size of the structure block.
    let header =
        word(0)? == fdt::blob::MAGIC && word(24)? <= 17 && word(20)? >= 17 && word(4)? >= 40;
    let (mut at, mut depth, mut nodes) = (0_usize, 0_usize, 0_usize);
    if !header {
        return None;
    }
    loop {
        let token = |at: usize| Some(u32::from_be_bytes(*tree.get(at..)?.first_chunk()?));
        let kind = token(at)?;
        at += 4;
        match kind {
            1 => {
                let name = tree.get(at..)?.iter().position(|byte| *byte == 0)?;
                std::str::from_utf8(&tree[at..at + name]).ok()?;
                at += (name + 1).next_multiple_of(4);
                (depth, nodes) = (depth + 1, nodes + 1);
            }
            2 => depth = depth.checked_sub(1)?,
            3 if depth > 0 => {
                let (bytes, name) = (token(at)? as usize, token(at + 4)? as usize);
                strings.get(name..)?.iter().position(|byte| *byte == 0)?;
                tree.get(at + 8..at.checked_add(8)?.checked_add(bytes)?)?;
                at += 8 + bytes.next_multiple_of(4);
            }
            4 => {}
            9 if depth == 0 && nodes > 0 => return Some(()),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harness::disk::payload;
    use protocol::fit::writer as fit;

    #[test]
    fn a_tree_reads_as_one_until_its_form_is_damaged() {
        let disk = fit::write(&[payload("kernel", vec![1; 64], None)]);
        let blob = &disk[..u32::from_be_bytes(disk[4..8].try_into().unwrap()) as usize];
        assert!(reads_as_a_tree(blob));
        let start = u32::from_be_bytes(blob[8..12].try_into().unwrap()) as usize;
        // The magic, the root's opening token, the offset of the strings, the size of the
        // structure.
        for at in [0, start + 3, 12, 36] {
            let mut damaged = blob.to_vec();
            damaged[at] ^= 0x40;
            assert!(!reads_as_a_tree(&damaged), "{at}");
        }
        // A value.
        let at = blob.windows(9).position(|bytes| bytes == b"Ouroboros").unwrap();
        let mut damaged = blob.to_vec();
        damaged[at] ^= 1;
        assert!(reads_as_a_tree(&damaged));
    }
}
